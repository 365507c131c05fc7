"""Storage of the records that a judge emits, with progress reports."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from srlm.engines.missing import is_missing
from srlm.io.record_file import RecordFile
from srlm.pipeline.stage import Stage

OnProgress = Callable[[int, int], None]  # (number of new records, tokens generated for them)


class EvidenceFile:
    """The comparisons, ratings or judgements that a judge emits in a stage.

    If the stage is not complete, records without an answer are requested again, because the context may be longer now,
    or a server may work again.

    Parameters
    ----------
    record_type : type
        The records' dataclass, with `id`, `problem` and `tokens`.
    generates : bool
        Whether the records' `tokens` were generated and count as progress.
    """

    def __init__(
        self, stage: Stage, path: Path, record_type: type[Any], on_progress: OnProgress, generates: bool = True
    ):
        self.file: RecordFile[Any] = RecordFile(path, record_type)
        if not stage.path.exists():
            self.file.forget(lambda record: is_missing(record.problem))
        self._on_progress, self._generates = on_progress, generates
        self._stored = Counter(_group(record) for record in self.file.records.values())

    def resume(self, group: str) -> None:
        """Report the stored records of a group (a prompt or a candidate) as done."""
        if stored := self._stored[group]:
            self._on_progress(stored, 0)

    def emit(self, *records: Any) -> None:
        """Store records and report them as progress; records whose id is already stored are ignored."""
        new = [record for record in records if record.id not in self.file.records]
        self.file.append(*new)
        self._on_progress(len(new), sum(record.tokens for record in records) if self._generates else 0)


def _group(record: Any) -> str:
    return str(record.prompt_id if hasattr(record, "prompt_id") else record.candidate_id)
