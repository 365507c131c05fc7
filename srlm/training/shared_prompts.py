"""Rows in which sequences with a common beginning have it once, used by the ranking loss.

The judge reads each answer to a prompt after the same instructions and the same prompt, which are more than half of the
tokens. A merged row is that beginning, then the rest of each sequence:

    tokens      b0 b1 b2 | x3 x4 x5 | y3 y4
    positions    0  1  2    3  4  5    3  4

A token sees the beginning and the earlier tokens of its own sequence, so the outputs are those of separate rows. A
position that does not rise starts the next sequence, so positions alone determine the mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from srlm.training.masking import IGNORED

_KNOWN = ("llama", "mistral", "qwen2", "qwen3")  # architectures that use a given mask and given positions as they are


def can_share(model: Any) -> bool:
    """Return whether a model computes merged rows correctly: known architectures, with full attention by sdpa."""
    settings = model.config
    return (
        getattr(settings, "model_type", "") in _KNOWN
        and getattr(settings, "_attn_implementation", "") == "sdpa"
        and len(set(getattr(settings, "layer_types", None) or ["one"])) == 1
        and not getattr(settings, "sliding_window", None)
    )


def merged(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return one row for several; its `position_ids` are as in this module's docstring.

    Parameters
    ----------
    rows : sequence of dict
        Lists with a value per token: input_ids, labels and any others. No token of the beginning has a label, nor does
        the first token after it, because the token before it predicts it.
    """
    first_label = min(next(n for n, label in enumerate(row["labels"]) if label != IGNORED) for row in rows)
    shared = 0
    while shared < first_label - 1 and len({row["input_ids"][shared] for row in rows}) == 1:
        shared += 1
    together: dict[str, Any] = {name: list(values[:shared]) for name, values in rows[0].items()}
    together["position_ids"] = list(range(shared))
    for row in rows:
        for name, values in row.items():
            together[name] += values[shared:]
        together["position_ids"] += range(shared, len(row["input_ids"]))
    return together


def mask_of(position_ids: torch.Tensor) -> torch.Tensor:
    """Return which tokens each token sees: bool of shape (rows, 1, tokens, tokens).

    Parameters
    ----------
    position_ids : tensor of shape (rows, tokens)
        Padding, at the end, has position 0.
    """
    rows, tokens = position_ids.shape
    begins = torch.zeros_like(position_ids, dtype=torch.bool)
    begins[:, 1:] = position_ids[:, 1:] <= position_ids[:, :-1]
    sequence = begins.long().cumsum(1)  # 0: the beginning and the first sequence
    none = torch.full((rows, 1), tokens, device=position_ids.device)
    # The length of the beginning: the position at which the second sequence starts; without one, everything.
    second = torch.where(begins.any(1, keepdim=True), begins.long().argmax(1, keepdim=True), 0)
    shared = torch.where(begins.any(1, keepdim=True), position_ids.gather(1, second), none)
    in_beginning = torch.arange(tokens, device=position_ids.device) < shared
    same = sequence[:, :, None] == sequence[:, None, :]
    causal = torch.ones(tokens, tokens, dtype=torch.bool, device=position_ids.device).tril()
    return ((same | in_beginning[:, None, :]) & causal)[:, None]
