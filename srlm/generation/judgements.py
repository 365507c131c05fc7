"""Stages that judge candidates, and that compare judgements with the meta-judge."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

from srlm.config import Config, options_of
from srlm.engines.base import Engine, SequenceScorer
from srlm.engines.dependencies import chat_template, generation_options
from srlm.engines.missing import count_missing, refuse_without_any
from srlm.engines.session import Generator
from srlm.generation.chain import Feedback, ItemStage
from srlm.io.progress import Bars
from srlm.judges import judge_of_config, spec_of
from srlm.judges.dependencies import judge_generator, judge_input, judge_options, judged_files
from srlm.judges.judging import Judging
from srlm.judges.meta import MetaJudging
from srlm.judges.meta import load_template as load_meta_template
from srlm.judges.roles import feedback_config, judge_of
from srlm.pipeline.artifacts import CANDIDATES, JUDGEMENTS, META_COMPARISONS
from srlm.pipeline.stage import recorded
from srlm.pipeline.workspace import Workspace
from srlm.types import Candidate, Judgement


class JudgeCandidates(ItemStage):
    """Judge M_t-1's candidates with M_t-1, or with the model or program that `judge.model` names."""

    name = "judgements"

    def __init__(self, workspace: Workspace, config: Config, t: int):
        super().__init__(workspace, feedback_config(config), t)

    @property
    def unit(self) -> str:  # type: ignore[override]
        return spec_of(self.config.judge).evidence_name or "judgements"

    def writes(self) -> list[str]:
        return judged_files(self.config, JUDGEMENTS)

    def depends_on(self) -> dict[str, Any]:
        config = self.config
        options = options_of(config, "judge.model", "seed", *judge_of_config(config.judge).depends_on_in_run(config))
        return options | generation_options(config, self.generator().model) | judge_options(config)

    def made_from(self) -> dict[str, str]:
        judge = self.generator().model
        inputs = recorded(self.workspace, CANDIDATES.path(self.workspace, self.t))
        return inputs | judge_input(self.workspace, self.config, judge) | chat_template(self.config, judge)

    def generator(self) -> Generator:
        return judge_generator(self.config, judge_of(self.config, self.t - 1))

    def caption(self) -> str:
        return f"{self.generator().model} judges M{self.t - 1}'s candidates"

    def open(self, engine: Engine | SequenceScorer, bars: Bars) -> None:
        self._bars, self._done, self._tokens = bars, 0, 0
        self._engine, self._before = engine, replace(engine.usage)
        self._stored: dict[str, list[Candidate]] = defaultdict(list)  # candidates that another session sampled
        for candidate in CANDIDATES.peek(self.workspace, self.t):
            self._stored[candidate.prompt_id].append(candidate)
        if not self.complete():
            self.begin()
        judge = self.config.judge
        self._judge = Judging(
            engine, self.config, self, judge.count, self._on_progress, early_stopping=judge.early_stopping
        )

    def planned(self, items: int) -> int:
        return items * self._judge.pieces(self.config.candidates.count) - self._judge.saved

    async def process(self, item: Feedback) -> bool:
        item.candidates = item.candidates or self._stored[item.prompt.id]
        if not item.candidates:
            return False
        self._judge.judge.prompts[item.prompt.id] = item.prompt
        await self._judge.prompt(item.prompt.id, item.prompt.conversation, item.candidates)
        item.judgements = [judgement for candidate in item.candidates for judgement in self._judge.of(candidate.id)]
        return True

    def close(self) -> None:
        judgements = self._judge.finish()
        problems = Counter(row.problem.split(":")[0] for row in judgements if row.score is None)
        rows = CANDIDATES.read(self.workspace, self.t)
        candidates, unanswered = len(rows), sum(candidate.unanswered for candidate in rows)
        counts: dict[str, Any] = {
            "judgements": len(judgements),
            "saved": (candidates - unanswered) * self.config.judge.count - len(judgements),
            "valid": len(judgements) - problems.total(),
            "candidates_judged_validly": valid_candidates(judgements, self.config.judge.min_valid),
            "candidates": candidates,
            "problems": dict(problems.most_common()),
        }
        if unanswered:  # their thoughts were cut by the token limit
            counts["unanswered"] = unanswered
        missing = self._judge.count_missing("Candidates to judge")
        refuse_without_any("candidate could be judged", counts["valid"], missing)
        read = self._engine.usage.since(self._before)
        self.done({}, counts | self._judge.counted | missing, self._tokens, read)

    def _on_progress(self, new: int, tokens: int) -> None:
        self._done, self._tokens = self._done + new, self._tokens + tokens
        self._bars.update(self.unit, done=self._done, tokens=tokens)


class MetaJudge(ItemStage):
    """Compare the judgements of each prompt's candidate with the most varied scores (arXiv 2407.19594, section 2.2)."""

    name, unit = "meta_judgements", "meta-judgements"

    def writes(self) -> list[str]:
        return [META_COMPARISONS.file]

    def depends_on(self) -> dict[str, Any]:
        options = options_of(self.config, "judge.max_comparisons", "judge.model", "seed")
        options |= generation_options(self.config, self.generator().model)
        return options | {"judge.meta_template": load_meta_template(self.config.judge).digest}

    def made_from(self) -> dict[str, str]:
        judge, workspace = self.generator().model, self.workspace
        inputs = recorded(workspace, *(artifact.path(workspace, self.t) for artifact in (CANDIDATES, JUDGEMENTS)))
        return inputs | judge_input(workspace, self.config, judge) | chat_template(self.config, judge)

    def generator(self) -> Generator:
        return judge_generator(self.config, judge_of(self.config, self.t - 1))

    def open(self, engine: Engine | SequenceScorer, bars: Bars) -> None:
        self._bars, self._done, self._tokens = bars, 0, 0
        if not self.complete():
            self.begin()
        self._meta = MetaJudging(cast(Engine, engine), self.config, self, self._on_progress)

    def planned(self, items: int) -> int:
        return self._meta.planned

    async def process(self, item: Feedback) -> bool:
        await self._meta.prompt(item.prompt.conversation, item.candidates, item.judgements)
        return True

    def close(self) -> None:
        rows = self._meta.store.finish()
        counts = {"comparisons": len(rows), "unparsable": sum(row.winner is None for row in rows)}
        self.done({}, counts | count_missing("Meta-judge", rows), self._tokens)

    def _on_progress(self, new: int, tokens: int) -> None:
        self._done, self._tokens = self._done + new, self._tokens + tokens
        self._bars.update(self.unit, done=self._done, tokens=tokens, total=self._meta.planned)


def valid_candidates(judgements: Sequence[Judgement], min_valid: int) -> int:
    """Return the number of candidates with at least `min_valid` valid judgements."""
    valid = Counter(judgement.candidate_id for judgement in judgements if judgement.score is not None)
    return sum(count >= min_valid for count in valid.values())
