"""Options of data: sources, IFT and EFT examples."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Annotated

from srlm.ranges import SHARE, Range, at_least


class IFTAnswers(Enum):
    best = "best"
    all = "all"
    worst = "worst"


class RationaleSource(Enum):
    auto = "auto"
    seed = "seed"
    baseline = "baseline"
    none = "none"


@dataclass
class SourceConfig:
    """Where rows come from."""

    path: str = "builtin"  # builtin, a file (plain or .gz), or hub:OWNER/NAME for a dataset of the Hugging Face Hub
    format: str = "auto"  # auto, one of srlm.data.readers.FORMATS, or module:function
    split: str = "train"  # Hub only
    columns: dict[str, str] = field(default_factory=dict)  # our field -> the source's column
    languages: list[str] = field(default_factory=list)  # keep only these (ISO 639-1); empty = all
    limit: Annotated[int, at_least(0)] = 0  # rows to keep, drawn at random with the run's seed; 0 = all


@dataclass
class DataConfig:
    """Seed data: IFT and EFT examples, and evaluation prompts."""

    ift: SourceConfig = field(default_factory=SourceConfig)
    eft: SourceConfig = field(default_factory=SourceConfig)
    evaluation: SourceConfig = field(default_factory=SourceConfig)
    ift_answers: IFTAnswers = IFTAnswers.best  # of ranked answers: an example of the best, of each, or of the worst
    builtin_languages: list[str] = field(default_factory=lambda: ["en"])  # of the built-in set (en, zh); empty = all
    # share of the EFT prompts that is held out, to measure judges
    eft_held_out: Annotated[float, Range(lambda value: 0 < value < 1, "between 0 and 1")] = 0.25
    near_duplicate: Annotated[float, SHARE] = 0.7  # ROUGE-L F1 from which two prompts count as the same
    rationales: RationaleSource = RationaleSource.auto  # auto = the seed's own where it has them, else the SFT baseline
    eft_max_score_fraction: Annotated[float, SHARE] = 0.3  # no score may make up more than this share of EFT examples
    # the baseline judges a prompt's answers until it orders them as people did
    rationale_attempts: Annotated[int, at_least(1)] = 1
    # the baseline sees a better answer next to a worse one, and names what the worse one lacks
    rationale_reference: bool = False
    # EFT examples in which length says nothing about the score; then the share above is not used
    eft_length_balance: bool = False
    # EFT examples to train on, of whole prompts (pairs: one per prompt in turn); 0 = all
    eft_limit: Annotated[int, at_least(0)] = 0
