"""What a judgement depends on: options, models and files, as manifests record them."""

from __future__ import annotations

from typing import Any

from srlm.config import Config, Scorer, options_of
from srlm.engines.dependencies import model_input
from srlm.engines.session import Generator
from srlm.judges.prompt import JudgeTemplate
from srlm.pipeline.artifacts import EVIDENCE, Artifact
from srlm.pipeline.roles import ModelRef, reference_of_judge
from srlm.pipeline.workspace import Workspace
from srlm.types import Judgement


def judge_options(config: Config) -> dict[str, Any]:
    """Return the options that one judgement depends on, apart from model and engine; only those its scorer uses."""
    scorer = config.judge.scorer
    names = ["scorer", "max_score"]
    if not config.judge.evidence:
        names += ["temperature", "top_p", "max_new_tokens"]
    names += {Scorer.pairwise: ["max_comparisons"], Scorer.implicit: ["reference", "length_penalty"]}.get(scorer, [])
    names += ["length_penalty"] if scorer is Scorer.reward_model else []
    options = options_of(config, *(f"judge.{name}" for name in names))
    if scorer is Scorer.implicit:
        options |= options_of(config, "dpo.beta")
    if config.judge.rates:
        return options
    return options | {"judge.template": JudgeTemplate.load(config.judge).template.digest}


def judge_input(workspace: Workspace, config: Config, judge: ModelRef) -> dict[str, str]:
    """Return the fingerprints of a judge, and of the model that its likelihoods are compared with."""
    found = model_input(workspace, judge)
    if config.judge.scorer is Scorer.implicit:
        found |= model_input(workspace, reference_of_judge(config, judge))
    return found


def judge_generator(config: Config, judge: ModelRef) -> Generator:
    """Return what a judge runs on: an engine, or a sequence scorer with the model that it is compared with."""
    if not config.judge.rates:
        return Generator(judge)
    reference = reference_of_judge(config, judge) if config.judge.scorer is Scorer.implicit else None
    return Generator(judge, scores=True, reference=reference)


def judged_files(config: Config, judgements: Artifact[Judgement]) -> list[str]:
    """Return the files of a stage that judges: the judgements, and the evidence that they are computed from."""
    evidence = EVIDENCE.get((judgements.file, config.judge.evidence))
    return [judgements.file, *([evidence.file] if evidence else [])]
