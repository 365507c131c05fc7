"""The file that receives what a judge emits, and the progress that follows from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from srlm.engines.missing import is_missing
from srlm.io.record_file import RecordFile
from srlm.pipeline.stage import Stage

OnProgress = Callable[[int, int], None]  # (records that are done, tokens generated for them)


class EvidenceFile:
    """Records of one kind that a judge emits in a stage: comparisons, ratings or judgements.

    Unless the stage is complete, records without an answer are made again, because the context may have been raised, or
    a server may work again.

    Parameters
    ----------
    kind : type
        The records' dataclass, with `id`, `problem` and `tokens`.
    generates : bool
        Whether the records' `tokens` were generated, so that they count as progress.
    """

    def __init__(self, stage: Stage, path: Path, kind: type[Any], on_progress: OnProgress, generates: bool = True):
        self.file: RecordFile[Any] = RecordFile(path, kind)
        if not stage.path.exists():
            self.file.forget(lambda record: is_missing(record.problem))
        self._on_progress, self._generates = on_progress, generates
        self._stored = Counter(_group(record) for record in self.file.records.values())

    def resume(self, group: str) -> None:
        """Count the stored records of a group (a prompt's, or a candidate's) as done."""
        if stored := self._stored[group]:
            self._on_progress(stored, 0)

    def emit(self, *records: Any) -> None:
        """Store new records and report them as progress; a record that is stored already stays as it is."""
        new = [record for record in records if record.id not in self.file.records]
        self.file.append(*new)
        self._on_progress(len(new), sum(record.tokens for record in records) if self._generates else 0)


def _group(record: Any) -> str:
    return str(record.prompt_id if hasattr(record, "prompt_id") else record.candidate_id)
