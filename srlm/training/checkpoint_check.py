"""Comparison of a saved checkpoint with the trained policy in memory.

Training, the checkpoint's file and the engine may use different precisions, and every rounding can remove part of the
update. bfloat16 has 8 significant bits, so a weight of 0.1 changes in steps of 0.0005, which is more than a typical DPO
update. A few training examples are therefore scored with the policy in memory, with the saved checkpoint, and with the
checkpoint in the engine's precision.

The compared quantity is the change by training: a score minus the score of the model that training started from, in the
same precision. Rounding that both models share, such as that of frozen bfloat16 weights below LoRA, then cancels out,
and the loss of the update remains. All scores are computed in float32 without dropout, whatever the precision of the
weights (see `float32_arithmetic`). Only sharded policies are scored in their training precision.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from srlm.training.masking import IGNORED

EXAMPLES = 8  # number of scored training examples (DPO and reward model: pairs)
NEGLIGIBLE = 1e-4  # nats; for smaller changes, the remaining fraction is not meaningful
Scores = list[torch.Tensor]  # float32 on the CPU, one tensor per sequence: (scored tokens,), or (1,) for a reward


class Kind(Enum):
    """Type of the examples, with the quantity that training changes."""

    tokens = "log-probability"  # SFT: log-probabilities of the trained tokens
    pairs = "margin"  # DPO: log-probability of the chosen answer minus that of the rejected one
    rewards = "reward margin"  # reward model: reward of the chosen answer minus that of the rejected one


@dataclass(frozen=True)
class Probe:
    """Training examples to score.

    Parameters
    ----------
    kind : Kind
        With `pairs` and `rewards`, sequences alternate: chosen, rejected, chosen, ...
    ids : sequence of sequence of int
        Token ids of each sequence.
    labels : sequence of sequence of int
        Same shapes as `ids`: the token's id if it is scored, otherwise IGNORED. Rewards need no labels.
    """

    kind: Kind
    ids: Sequence[Sequence[int]]
    labels: Sequence[Sequence[int]]


@dataclass(frozen=True)
class Agreement:
    """Comparison of the change in a copy of a policy with the policy's change."""

    difference: float  # mean absolute difference of the change: nats per token (rewards: log-odds per answer)
    kept: float | None  # fraction of the policy's `effect` in the copy; None if the effect is negligible


def evenly_spaced(count: int, limit: int = EXAMPLES) -> list[int]:
    """Return up to `limit` different indices below `count`, from the first to the last."""
    if count <= limit:
        return list(range(count))
    return [round(i * (count - 1) / (limit - 1)) for i in range(limit)]


def probe_of_answers(ids: Sequence[Sequence[int]], labels: Sequence[Sequence[int]]) -> Probe:
    """Return a probe of some SFT examples."""
    indices = evenly_spaced(len(ids))
    return Probe(Kind.tokens, [ids[i] for i in indices], [labels[i] for i in indices])


def probe_of_pairs(
    prompts: Sequence[Sequence[int]], chosen: Sequence[Sequence[int]], rejected: Sequence[Sequence[int]]
) -> Probe:
    """Return a probe of some preference pairs; only their answers are scored."""
    sequences: list[tuple[list[int], list[int]]] = []
    for i in evenly_spaced(len(prompts)):
        for answer in (chosen[i], rejected[i]):
            sequences.append(([*prompts[i], *answer], [*[IGNORED] * len(prompts[i]), *answer]))
    return Probe(Kind.pairs, [ids for ids, _ in sequences], [labels for _, labels in sequences])


def probe_of_rewards(chosen: Sequence[Sequence[int]], rejected: Sequence[Sequence[int]]) -> Probe:
    """Return a probe of some pairs of a reward model."""
    ids = [side[i] for i in evenly_spaced(len(chosen)) for side in (chosen, rejected)]
    return Probe(Kind.rewards, ids, [[] for _ in ids])


@contextmanager
def float32_arithmetic(model: torch.nn.Module, rounding: torch.dtype | None = None) -> Iterator[None]:
    """Compute every module of `model` with float32 weights inside this context.

    Weights keep their precision in memory. A module's weights are converted while it runs and restored afterwards, so
    the additional memory is that of the largest module.

    Parameters
    ----------
    rounding : torch.dtype, optional
        Precision that weights are rounded to first, as in an engine with that precision.
    """
    stored: dict[torch.nn.Module, dict[str, torch.nn.Parameter]] = {}

    def widen(module: torch.nn.Module, *_: Any) -> None:
        for name, weight in module._parameters.items():
            if weight is not None and weight.is_floating_point() and (rounding or weight.dtype != torch.float32):
                stored.setdefault(module, {})[name] = weight
                values = weight.detach()
                module._parameters[name] = (values.to(rounding) if rounding else values).float()  # type: ignore[assignment]

    def restore(module: torch.nn.Module, *_: Any) -> None:
        module._parameters.update(stored.pop(module, {}))

    hooks = [module.register_forward_pre_hook(widen) for module in model.modules()]
    hooks += [module.register_forward_hook(restore, always_call=True) for module in model.modules()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for module in list(stored):
            restore(module)


@torch.no_grad()
def score(model: Any, probe: Probe) -> Scores:
    """Score each sequence of `probe` separately, without padding and without dropout.

    Returns
    -------
    list of torch.Tensor
        Log-probabilities of the scored tokens in nats, or the reward.
    """
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    scores = []
    for ids, labels in zip(probe.ids, probe.labels, strict=True):
        row = torch.tensor([list(ids)], device=device)
        logits = model(input_ids=row, attention_mask=torch.ones_like(row), use_cache=False).logits[0]
        if probe.kind is Kind.rewards:
            scores.append(logits.float().reshape(1).cpu())
            continue
        scored = torch.tensor([i for i, label in enumerate(labels) if i and label != IGNORED], device=device)
        scores.append(-cross_entropy(logits[scored - 1].float(), row[0, scored], reduction="none").cpu())
    model.train(training)
    return scores


def change(after: Scores, before: Scores) -> Scores:
    """Return the change of each score by training, `after` minus `before`."""
    return [a - b for a, b in zip(after, before, strict=True)]


def effect(changes: Scores, kind: Kind) -> float:
    """Return the mean change of the objective: nats per token for `tokens`, otherwise nats (log-odds) per pair.

    For pairs this is DPO's margin without beta: the change of log p(chosen) minus that of log p(rejected).
    """
    if kind is Kind.tokens:
        return float(torch.cat(changes).mean())
    sums = torch.stack([sequence.sum() for sequence in changes]).view(-1, 2)
    return float((sums[:, 0] - sums[:, 1]).mean())


def agreement(policy: Scores, copy: Scores, kind: Kind) -> Agreement:
    """Compare the change in a copy of a policy with the policy's change.

    Parameters
    ----------
    policy, copy : Scores
        Changes, of the same shapes.
    """
    difference = float((torch.cat(copy) - torch.cat(policy)).abs().mean())
    of_policy = effect(policy, kind)
    return Agreement(difference, effect(copy, kind) / of_policy if abs(of_policy) > NEGLIGIBLE else None)
