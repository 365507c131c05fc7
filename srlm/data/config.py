"""Options of data sources."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class SourceConfig:
    """Where rows come from."""

    path: str = "builtin"  # builtin, a file (plain or .gz), or hub:OWNER/NAME for a dataset of the Hugging Face Hub
    format: str = "auto"  # auto, or one of srlm.data.readers.FORMATS
    split: str = "train"  # hub only
    columns: dict[str, str] = field(default_factory=dict)  # our field -> the source's column
    languages: list[str] = field(default_factory=list)  # keep only these (ISO 639-1); empty = all
    limit: int = 0  # rows to keep, drawn at random with the run's seed; 0 = all
