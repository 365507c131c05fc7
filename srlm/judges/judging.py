"""Run a judge as a stage: its records go to the stage's files, and what is stored already is not judged again.

The first file holds the judgements. A judge with evidence (comparisons, ratings) stores it in the second one, and the
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
from srlm.types import Candidate, Judgement


class Judging:
    """The judge of one stage. Every prompt goes through `prompt`, then `finish` is called once.

    Parameters
    ----------
    engine : Engine or SequenceScorer
        As the judge's spec declares.
    stage : Stage
        Its outputs are the judgements, and the evidence if the judge has one.
    count : int
        k, judgements of each candidate, if the judge samples them.
    on_progress : callable
        Is called with (records that are done, tokens generated for them). Over all prompts the records add up to their
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
        path, kind = (stage.outputs[1], spec.evidence) if spec.evidence else (stage.outputs[0], Judgement)
        self.evidence = EvidenceFile(stage, path, kind, on_progress, generates=not spec.scores_sequences)
        self.judgements: RecordFile[Judgement] = self.evidence.file
        if spec.evidence:
            self.judgements = RecordFile(stage.outputs[0], Judgement)
            if not stage.path.exists():  # they are computed from the evidence again
                self.judgements.forget(lambda judgement: True)
        self._candidates: dict[str, list[Candidate]] = {}

    @property
    def saved(self) -> int:
        """Return how many judgements early stopping has skipped."""
        return self.judge.saved

    @property
    def counted(self) -> dict[str, Any]:
        """Return what a manifest counts in addition, after `finish`."""
        return self.judge.counted

    def pieces(self, candidates: int) -> int:
        """Return how many records a prompt with this many candidates takes."""
        return self.judge.pieces(candidates)

    async def prompt(self, prompt_id: str, prompt: str, candidates: Sequence[Candidate]) -> None:
        """Judge the candidates of one prompt."""
        self._candidates[prompt_id] = list(candidates)
        for group in (prompt_id, *(candidate.id for candidate in candidates)):
            self.evidence.resume(group)
        await self.judge.judge(prompt, candidates, self.engine, self.evidence.file.records, self.evidence.emit)

    def of(self, candidate_id: str) -> list[Judgement]:
        """Return the judgements of a candidate so far."""
        ids = (judgement_id(candidate_id, j) for j in range(self.count))
        return [self.judgements.records[i] for i in ids if i in self.judgements.records]

    def finish(self) -> list[Judgement]:
        """Compute the judgements, write the files in their final order, and return the judgements in it."""
        if self.judge.spec.evidence:
            self.evidence.file.finish()
        self.judgements.append(*self.judge.scores(self._candidates, self.evidence.file.records))
        return self.judgements.finish()

    def count_missing(self, what: str, sources: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Log what could not be judged, and return it for a manifest's counts; `sources` as in `problems_of`."""
        return count_missing(what, list(self.evidence.file.records.values()), sources)
