"""The training methods by name. Each is one file of this folder, with its options (`srlm.training.method`)."""

from __future__ import annotations

from typing import Any

from srlm.training.method import Method
from srlm.training.methods.dpo import DPO
from srlm.training.methods.reward_model import RewardModel
from srlm.training.methods.sft import SFT

METHODS: dict[str, type[Method[Any, Any]]] = {
    "sft": SFT,
    "dpo": DPO,
    "reward_model": RewardModel,
}
