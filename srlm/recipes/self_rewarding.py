"""Self-Rewarding Language Models (arXiv 2401.10020, section 2): M_t judges its own answers and learns from that by DPO.

M0 -> M1 by SFT on IFT and EFT; then M_t generates prompts, candidates and judgements, the highest and the lowest scored
candidates become preference pairs, and DPO on these makes M_t+1. Every model is evaluated.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from srlm.config import Config
from srlm.data.prepare import PrepareData, PrepareIFEval
from srlm.engines.session import Session, Single
from srlm.evaluation.evaluate import Evaluate
from srlm.generation.eft import BuildEFT, WriteRationales
from srlm.generation.own_feedback import OWN_EFT, take_feedback
from srlm.generation.pairs import CheckFeedback, SelectPairs
from srlm.generation.pool import take_prompts
from srlm.models.base_model import BaseModel
from srlm.pipeline.workspace import Workspace
from srlm.recipes.runner import Action, Recipe, Step
from srlm.recipes.turn import first_model, generate, own_eft
from srlm.reporting.model_card import write_card
from srlm.reporting.run_report import update_report
from srlm.training.stages import Train, TrainRewardModel, TrainSFTBaseline


class SelfRewarding(Recipe):
    """The paper's recipe."""

    own_data = frozenset({"prompts.path", "judgements.path", "pairs.path", "data.own_answers.labels"})

    def steps(self, workspace: Workspace, config: Config, last: int) -> Iterator[Step]:
        evaluated = config.evaluation.enabled
        own = config.judgements.path or config.pairs.path
        of_own_eft = config.pairs.path == OWN_EFT and config.data.own_answers.used
        yield PrepareData(workspace, config)
        if config.evaluation.ifeval:
            yield PrepareIFEval(workspace, config)
        if config.prompts.path:
            yield from take_prompts(workspace, config, last)
        if not of_own_eft:
            yield from take_feedback(workspace, config, last)
        yield BaseModel(workspace, config)
        if config.data.own_answers.used:  # before M0's evaluation, whose judge is measured on such answers
            yield from own_eft(workspace, config)
        if of_own_eft:
            yield from take_feedback(workspace, config, last)
        if evaluated:
            yield from generate(workspace, config, 0, feedback=False)
        yield TrainSFTBaseline(workspace, config, 1)
        rationales = WriteRationales(workspace, config, 1)
        yield Session("rationales", 1, rationales.generator(), ((Single(rationales),),), rationales.caption())
        yield BuildEFT(workspace, config, 1)
        yield first_model(workspace, config)
        yield TrainRewardModel(workspace, config, 1)
        for t in range(1, last + 1):
            if evaluated:
                yield from generate(workspace, config, t, feedback=t < last and not own)
                yield Evaluate(workspace, config, t - 1)
                yield Evaluate(workspace, config, t)
                yield Action(partial(write_card, workspace, config, t))
            if t < last:
                if not config.pairs.path:
                    yield SelectPairs(workspace, config, t + 1)
                yield Action(CheckFeedback(workspace, config, t + 1).run)
                yield Action(partial(update_report, workspace))
                yield Train(workspace, config, t + 1)
