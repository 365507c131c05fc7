"""Dependencies of judgements for manifests: options, models and files."""

from __future__ import annotations

from typing import Any

from srlm.config import Config
from srlm.engines.dependencies import model_input
from srlm.engines.session import Generator
from srlm.judges import judge_of_config, spec_of
from srlm.judges.roles import reference_of_judge
from srlm.pipeline.artifacts import Artifact
from srlm.pipeline.roles import ModelRef
from srlm.pipeline.workspace import Workspace
from srlm.types import Judgement


def judge_options(config: Config) -> dict[str, Any]:
    """Return the options that one judgement depends on, except those of model and engine."""
    return judge_of_config(config.judge).depends_on(config)


def judge_input(workspace: Workspace, config: Config, judge: ModelRef) -> dict[str, str]:
    """Return the fingerprints of a judge, and of the model that it is compared with."""
    inputs, reference = model_input(workspace, judge), reference_of_judge(config, judge)
    return inputs | model_input(workspace, reference) if reference else inputs


def judge_generator(config: Config, judge: ModelRef) -> Generator:
    """Return what a judge runs on: an engine, or a sequence scorer with the model that it is compared with."""
    scores = spec_of(config.judge).scores_sequences
    return Generator(judge, scores=scores, reference=reference_of_judge(config, judge))


def judged_files(config: Config, judgements: Artifact[Judgement]) -> list[str]:
    """Return the files of a stage that judges: the judgements, and the evidence that they are computed from."""
    evidence = spec_of(config.judge).evidence_name
    return [judgements.file, *([judgements.file.replace("judgements", evidence)] if evidence else [])]
