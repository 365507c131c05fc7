"""SPIN (arXiv 2401.01335, algorithm 1): M_t learns to prefer the human answer over its own answer to the same prompt.

No judge takes part. Of each IFT prompt, the human answer is chosen and a sample of M_t is rejected; from M_3 on, the
pairs of the previous iteration are trained on as well (section 6.1). The reference is M_t (`dpo.reference=previous`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from srlm.config import Config, options_of
from srlm.data.prepare import PrepareData
from srlm.evaluation.evaluate import Evaluate
from srlm.generation.candidates import SampleCandidates
from srlm.generation.chain import Chain
from srlm.generation.pairs import CheckFeedback
from srlm.ids import parent, prompt_id
from srlm.io.record_file import write_records
from srlm.models.base_model import BaseModel
from srlm.pipeline.artifacts import CANDIDATES, IFT, PAIRS, PROMPTS, UNPAIRED
from srlm.pipeline.stage import LocalStage, recorded
from srlm.pipeline.workspace import Workspace
from srlm.preferences.pairs import TRUNCATED, count_reasons, takes_part
from srlm.recipes.runner import Action, Recipe, Step
from srlm.recipes.turn import first_model, generate
from srlm.reporting.model_card import write_card
from srlm.reporting.run_report import update_report
from srlm.training.stages import Train
from srlm.types import Candidate, PreferencePair, Prompt, Unpaired


class CopyPrompts(LocalStage):
    """The IFT prompts as the prompts of an iteration."""

    name = "prompts"

    def writes(self) -> list[str]:
        return [PROMPTS.file]

    def depends_on(self) -> dict[str, Any]:
        return options_of(self.config, "recipe")

    def made_from(self) -> dict[str, str]:
        return recorded(self.workspace, IFT.path(self.workspace))

    def run(self) -> dict[str, Any]:
        rows = enumerate(IFT.read(self.workspace))
        prompts = [
            Prompt(prompt_id(self.t, number), row.prompt, shots=(row.id,), history=row.history) for number, row in rows
        ]
        write_records(self.outputs[0], prompts)
        return {"attempts": len(prompts), "accepted": len(prompts), "rejected": {}}


class SampleOpponents(SampleCandidates):
    """One answer of M_t-1 to each prompt."""

    def __init__(self, workspace: Workspace, config: Config, t: int):
        super().__init__(workspace, replace(config, candidates=replace(config.candidates, count=1)), t)


class PairWithHuman(LocalStage):
    """Pairs of the human answer (chosen) and M_t-1's own (rejected), of this iteration and the one before."""

    name = "pairs"

    def writes(self) -> list[str]:
        return [PAIRS.file, UNPAIRED.file]

    def depends_on(self) -> dict[str, Any]:
        return options_of(self.config, "recipe", "pairs.truncated")

    def made_from(self) -> dict[str, str]:
        workspace, t = self.workspace, self.t
        before = [PAIRS.path(workspace, t - 1)] if t > 2 else []
        files = [IFT.path(workspace), PROMPTS.path(workspace, t), CANDIDATES.path(workspace, t)]
        return recorded(workspace, *files, *before)

    def run(self) -> dict[str, Any]:
        workspace, t = self.workspace, self.t
        answers = {row.id: row.response for row in IFT.read(workspace)}
        prompts = {prompt.id: prompt for prompt in PROMPTS.read(workspace, t)}
        candidates = CANDIDATES.read(workspace, t)
        pairs: list[PreferencePair] = []
        unpaired: list[Unpaired] = []
        for candidate in candidates:
            prompt = prompts[candidate.prompt_id]
            chosen = answers[prompt.shots[0]]
            if reason := self._reason(chosen, candidate):
                unpaired.append(Unpaired(prompt.id, reason))
            else:
                pairs.append(_pair(prompt, chosen, candidate))
        new = len(pairs)
        pairs += [pair for pair in PAIRS.read(workspace, t - 1) if parent(pair.id) == f"t{t - 1}"] if t > 2 else []
        write_records(self.outputs[0], pairs)
        write_records(self.outputs[1], unpaired)
        return {
            "prompts": len(prompts),
            "pairs": len(pairs),
            "new_pairs": new,
            "dropped": count_reasons(unpaired),
            "length_penalty": 0.0,
            "truncated_candidates": sum(not takes_part(one, self.config.pairs) for one in candidates),
            "alarms": {},  # alarms are about a judge, and none takes part
        }

    def _reason(self, chosen: str, candidate: Candidate) -> str:
        if not takes_part(candidate, self.config.pairs):
            return TRUNCATED
        return "" if candidate.text.strip() not in ("", chosen.strip()) else "empty or identical text"


class SPIN(Recipe):
    """Self-play fine-tuning: SFT on IFT alone, then DPO of human answers against own answers."""

    needs_ift = True

    def steps(self, workspace: Workspace, config: Config, last: int) -> Iterator[Step]:
        yield PrepareData(workspace, config)
        yield BaseModel(workspace, config)
        yield from generate(workspace, config, 0, feedback=False)
        yield first_model(workspace, config)
        for t in range(1, last + 1):
            more = t < last
            if more:
                yield CopyPrompts(workspace, config, t + 1)
            opponents = [Chain((SampleOpponents(workspace, config, t + 1),))] if more else []
            yield from generate(workspace, config, t, feedback=False, further=opponents)
            yield Evaluate(workspace, config, t - 1)
            yield Evaluate(workspace, config, t)
            yield Action(partial(write_card, workspace, config, t))
            if more:
                yield PairWithHuman(workspace, config, t + 1)
                yield Action(CheckFeedback(workspace, config, t + 1).run)
                yield Action(partial(update_report, workspace))
                yield Train(workspace, config, t + 1)


def _pair(prompt: Prompt, chosen: str, candidate: Candidate) -> PreferencePair:
    return PreferencePair(
        id=prompt.id,
        prompt=prompt.text,
        chosen=chosen,
        rejected=candidate.full_text,
        chosen_id=prompt.shots[0],
        rejected_id=candidate.id,
        chosen_score=1.0,
        rejected_score=0.0,
        rejected_truncated=candidate.truncated,
        history=prompt.history,
    )
