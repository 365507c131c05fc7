"""Resolve the options that name a model: a role in the run, a server, or the name of an external model.

Roles are the same in every option (judge.model, judge.reference, prompts.model, evaluation.judge, dpo.reference,
dpo.early_stopping.judge): "self" is the stage's own model, "previous" the model before it, "sft" M1, "base"
M0, and "endpoint" the server of the option group `endpoint`. Any other value is the name of an external model.
judge.model has two further roles, which are programs (`CONTROLS`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from srlm.config import Config


@dataclass(frozen=True)
class ModelRef:
    """One model: M_iteration of this run, its reward model, the server, or an external model by name.

    A judge that is a program has the kind "program": there is no model. The name is that of a control, or "".
    """

    kind: Literal["iteration", "sft_baseline", "reward_model", "endpoint", "external", "program"]
    iteration: int = 0
    name: str = ""

    @property
    def of_run(self) -> int | None:
        """Return t if this is M_t of the run, otherwise None."""
        return self.iteration if self.kind == "iteration" else None

    @property
    def local(self) -> bool:
        """Return whether the model is loaded on this machine, so that its files have hashes."""
        return self.kind not in ("endpoint", "program")

    def __str__(self) -> str:
        """Return the model's name in messages and reports."""
        names = {"iteration": f"M{self.iteration}", "sft_baseline": "the SFT baseline", "endpoint": "endpoint"}
        names |= {"reward_model": "the reward model", "program": CONTROLS.get(self.name, "a program")}
        return names.get(self.kind, self.name)


# Roles of judge.model that are programs, which judge the candidates of a control arm (`srlm.judges.controls`): names
CONTROLS = {"random": "a random judge", "program": "the constraint checker"}
ENDPOINT = ModelRef("endpoint")
SFT_BASELINE = ModelRef("sft_baseline")
PROGRAM = ModelRef("program")


def iteration(t: int) -> ModelRef:
    """Return the reference to M_t."""
    return ModelRef("iteration", t)


def by_name(name: str) -> ModelRef:
    """Return the server ("endpoint") or an external model, for commands without a run, which have no roles."""
    return ENDPOINT if name == "endpoint" else ModelRef("external", name=name)


def resolve_role(value: str, t: int) -> ModelRef:
    """Return the model that an option's value names; "self" is M_t, and "previous" M_t-1 (of M0, M0 itself)."""
    of_run = {"self": t, "previous": max(t - 1, 0), "sft": 1, "base": 0}
    if value in CONTROLS:
        return ModelRef("program", name=value)
    return iteration(of_run[value]) if value in of_run else by_name(value)


def match_judge(config: Config) -> ModelRef:
    """Return the fixed judge of head to heads (evaluation.judge)."""
    return resolve_role(config.evaluation.judge, 0)


def training_reference(config: Config, t: int) -> ModelRef:
    """Return the reference model of the training that makes M_t (dpo.reference)."""
    return resolve_role(config.training.reference.name, t)
