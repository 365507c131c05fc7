"""What each stage's outputs were made from: M_t -> feedback -> pairs -> M_t+1, as paths in the run.

A manifest's inputs are the files, and the models of elsewhere, whose hashes a stage is bound to. A model of the run
that writes or judges is not among them, since the stages' order implies it, so it is added here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from srlm.config import Config, Reference, Scorer
from srlm.workspace import Manifest, Workspace

# The stages that M_t+1 comes from; the others measure.
CHAIN = (
    *("seeds", "base_model", "sft_baseline", "rationales", "eft", "sft", "reward_model"),
    *("prompts", "candidates", "judgements", "meta_judgements", "pairs", "preference"),
)


def model_path(t: int) -> str:
    """Where M_t stands in the run: of M0, which is not copied, what names it."""
    return f"iteration_{t}/model" if t else "iteration_0/model.json"


def made_from(manifest: Manifest, config: Config) -> list[str]:
    """The paths in the run that a stage used, models first."""
    place, _, name = manifest.stage.rpartition("/")
    t = int(place.removeprefix("iteration_")) if re.fullmatch(r"iteration_\d+", place) else 0
    judge = config.judge
    of = {"self": t - 1, "sft": 1, "base": 0}  # an endpoint or another fixed model is none of the run's
    models: list[int | None] = []
    if name in ("sft", "sft_baseline"):
        models = [0]
    elif name == "prompts":
        models = [of.get(config.prompts.writer)]
    elif name == "candidates":
        models = [t - 1]
    elif name in ("judgements", "meta_judgements") and judge.scorer is not Scorer.reward_model:
        models = [by := of.get(judge.by)]
        if judge.scorer is Scorer.implicit:
            models.append({"base": 0, "previous": None if by is None else by - 1}.get(judge.reference))
    elif name == "preference":
        models = [t - 1, {Reference.base: 0, Reference.sft: 1}.get(config.dpo.reference)]
    elif name == "reward_model":
        models = [1]
    baseline = ["iteration_1/sft_baseline"] if name == "rationales" else []
    used = [model_path(model) for model in models if model is not None]
    return list(dict.fromkeys([*baseline, *used, *manifest.inputs]))


def makers(workspace: Workspace) -> Mapping[str, Manifest]:
    """Each path in the run that a finished stage made, with that stage's manifest."""
    found: dict[str, Manifest] = {}
    for path in workspace.root.glob("**/manifests/*.json"):
        if not path.name.endswith(".begun.json"):
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
