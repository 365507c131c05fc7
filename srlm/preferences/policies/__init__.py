"""The pair policies by name. Each is one file of this folder (`srlm.preferences.policy`)."""

from __future__ import annotations

from srlm.io.components import component
from srlm.preferences.policies.above_mean import AboveMean
from srlm.preferences.policies.highest_lowest import HighestLowest
from srlm.preferences.policy import PairPolicy

POLICIES: dict[str, type[PairPolicy]] = {
    "highest_lowest": HighestLowest,
    "above_mean": AboveMean,
}


def policy_named(name: str) -> type[PairPolicy]:
    """Return a policy of `POLICIES`, or one from outside the package; raises ConfigError if there is none."""
    return component("pairs.policy", name, POLICIES, PairPolicy)  # type: ignore[type-abstract]
