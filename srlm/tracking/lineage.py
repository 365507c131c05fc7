"""What each stage's outputs were made from: M_t -> feedback -> pairs -> M_t+1, as paths in the run.

A manifest's inputs are the files, and the models of elsewhere, whose hashes a stage is bound to. A model of the run
that writes or judges is not among them, since the stages' order implies it, so it is added here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from srlm.config import Config
from srlm.judges.roles import judge_of, reference_of_judge
from srlm.pipeline.artifacts import BASE_MODEL, MODEL
from srlm.pipeline.manifest import Manifest, finished_manifests
from srlm.pipeline.roles import dpo_reference, resolve_role
from srlm.pipeline.workspace import Workspace

# The stages that M_t+1 comes from; the others measure.
CHAIN = (
    *("data", "base_model", "sft_baseline", "rationales", "eft", "sft", "reward_model"),
    *("prompts", "candidates", "judgements", "meta_judgements", "pairs", "dpo"),
)


def model_path(t: int) -> str:
    """Where M_t stands in the run: of M0, which is not copied, what names it."""
    return f"iteration_{t}/{MODEL}" if t else f"iteration_0/{BASE_MODEL}"


def made_from(manifest: Manifest, config: Config) -> list[str]:
    """The paths in the run that a stage used, models first."""
    place, _, name = manifest.stage.rpartition("/")
    t = int(place.removeprefix("iteration_")) if re.fullmatch(r"iteration_\d+", place) else 0
    models: list[int | None] = []  # None: a server or an external model, which is none of the run's
    if name in ("sft", "sft_baseline"):
        models = [0]
    elif name == "prompts":
        models = [resolve_role(config.prompts.model, t - 1).of_run]
    elif name == "candidates":
        models = [t - 1]
    elif name in ("judgements", "meta_judgements"):
        judge = judge_of(config, t - 1)
        models = [judge.of_run]
        if reference := reference_of_judge(config, judge):
            models.append(reference.of_run)
    elif name == "dpo":
        models = [t - 1, dpo_reference(config, t).of_run]
    elif name == "reward_model":
        models = [1]
    baseline = ["iteration_1/sft_baseline"] if name == "rationales" else []
    used = [model_path(model) for model in models if model is not None]
    return list(dict.fromkeys([*baseline, *used, *manifest.inputs]))


def makers(workspace: Workspace) -> Mapping[str, Manifest]:
    """Each path in the run that a finished stage made, with that stage's manifest."""
    found: dict[str, Manifest] = {}
    for path in finished_manifests(workspace.root):
        manifest = Manifest.load(path)
        found |= {output: manifest for output in manifest.outputs}
    return found


def without_secrets(value: Any, home: str) -> Any:
    """Plain data without what is nobody's business: the home folder's path becomes ~, a URL loses its user:password."""
    if isinstance(value, Mapping):
        return {without_secrets(key, home): without_secrets(inner, home) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_secrets(inner, home) for inner in value]
    if not isinstance(value, str):
        return value
    value = re.sub(rf"{re.escape(home)}(?![^/\s\"'])", "~", value) if len(home) > 1 else value
    return re.sub(r"(?<=://)[^/@\s]+@", "", value)
