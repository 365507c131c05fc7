"""Judging as part of a stage: records are stored in the stage's files, and stored records are not generated again.

The first file has the judgements. A judge with evidence (comparisons, ratings) stores it in the second file, and the
judgements are computed from it at the end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from srlm.config import Config
from srlm.engines.missing import count_missing
from srlm.ids import judgement_id
from srlm.io.record_file import RecordFile
from srlm.judges import make_judge
from srlm.judges.evidence import EvidenceFile, OnProgress
from srlm.pipeline.stage import Stage
from srlm.types import Candidate, Conversation, Judgement


class Judging:
    """The judge of one stage. Call `prompt` for every prompt, then `finish` once.

    Parameters
    ----------
    engine : Engine or SequenceScorer
        As the judge's spec declares.
    stage : Stage
        Its outputs are the judgements, and the evidence if the judge has any.
    count : int
        k, judgements of each candidate, if the judge samples them.
    on_progress : callable
        Called with (number of new records, tokens generated for them). Over all prompts the records add up to the
        `pieces`, minus `saved`.
    early_stopping : bool
        As `judge.early_stopping`.
    """

    def __init__(
        self,
        engine: Any,
        config: Config,
        stage: Stage,
        count: int,
        on_progress: OnProgress,
        priority: int = 0,
        early_stopping: bool = False,
    ):
        self.engine, self.count = engine, count
        self.judge = make_judge(config, count, priority, early_stopping)
        spec = self.judge.spec
        path, record = (stage.outputs[1], spec.evidence) if spec.evidence else (stage.outputs[0], Judgement)
        self.evidence = EvidenceFile(stage, path, record, on_progress, generates=not spec.scores_sequences)
        self.judgements: RecordFile[Judgement] = self.evidence.file
        if spec.evidence:
            self.judgements = RecordFile(stage.outputs[0], Judgement)
            if not stage.path.exists():  # they will be recomputed from the evidence
                self.judgements.forget(lambda judgement: True)
        self._candidates: dict[str, list[Candidate]] = {}

    @property
    def saved(self) -> int:
        """Return the number of judgements that early stopping skipped."""
        return self.judge.saved

    @property
    def counted(self) -> dict[str, Any]:
        """Return the judge's additional counts for a manifest, after `finish`."""
        return self.judge.counted

    def pieces(self, candidates: int) -> int:
        """Return the number of records of a prompt with this many candidates."""
        return self.judge.pieces(candidates)

    async def prompt(self, prompt_id: str, prompt: Conversation, candidates: Sequence[Candidate]) -> None:
        """Judge the candidates of one prompt, except those whose thought was cut: they have no answer."""
        candidates = [candidate for candidate in candidates if not candidate.unanswered]
        for group in (prompt_id, *(candidate.id for candidate in candidates)):
            self.evidence.resume(group)
        if not candidates:
            return
        self._candidates[prompt_id] = candidates
        await self.judge.judge(prompt, candidates, self.engine, self.evidence.file.records, self.evidence.emit)

    def of(self, candidate_id: str) -> list[Judgement]:
        """Return the judgements of a candidate so far."""
        ids = (judgement_id(candidate_id, j) for j in range(self.count))
        return [self.judgements.records[i] for i in ids if i in self.judgements.records]

    def finish(self) -> list[Judgement]:
        """Compute the judgements, write the files in their final order, and return the judgements."""
        if self.judge.spec.evidence:
            self.evidence.file.finish()
        self.judgements.append(*self.judge.scores(self._candidates, self.evidence.file.records))
        return self.judgements.finish()

    def count_missing(self, what: str, sources: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Log requests without an answer, and return their counts for a manifest; `sources` as in `problems_of`."""
        return count_missing(what, list(self.evidence.file.records.values()), sources)
