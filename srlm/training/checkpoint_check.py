"""Compare a saved checkpoint with the policy that training left in memory.

Training, the checkpoint's file and the engine may each keep the weights in another precision, and every rounding can
remove part of what training changed: bfloat16 has 8 significant bits, so a weight of 0.1 moves in steps of 0.0005, and
a typical DPO update is smaller than that. A few training examples are therefore scored by the policy in memory, by the
checkpoint as it was written, and by the checkpoint as the engine will load it.

The compared quantity is the change that training made: a score minus the score of the model that training started
from, held in the same precision. Rounding that both models share, such as that of frozen bfloat16 weights below LoRA,
then cancels, and the loss of the update remains. All scores are computed in float32 without dropout, whatever
precision the weights have (see `float32_arithmetic`); only sharded policies are scored as they were trained.
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

EXAMPLES = 8  # training examples (DPO and reward model: pairs) that are scored
NEGLIGIBLE = 1e-4  # nats; the share of a smaller change that is left says nothing
Scores = list[torch.Tensor]  # float32 on the CPU, one tensor a sequence: (scored tokens,), or (1,) for a reward


class Kind(Enum):
    """What the examples are, and what training changes about them."""

    tokens = "log-probability"  # SFT: log-probabilities of the learnt tokens
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
        Of the same shapes: the token's id where it is scored, else IGNORED. Rewards need none.
    """

    kind: Kind
    ids: Sequence[Sequence[int]]
    labels: Sequence[Sequence[int]]


@dataclass(frozen=True)
class Agreement:
    """How much of a policy's change another copy of it shows."""

    difference: float  # mean absolute difference of the change: nats a token (rewards: log-odds an answer)
    kept: float | None  # share of the policy's `effect` that is left; None where that is negligible


def evenly_spaced(count: int, wanted: int = EXAMPLES) -> list[int]:
    """Return up to `wanted` different places among `count`, from the first to the last."""
    if count <= wanted:
        return list(range(count))
    return [round(i * (count - 1) / (wanted - 1)) for i in range(wanted)]


def probe_of_answers(ids: Sequence[Sequence[int]], labels: Sequence[Sequence[int]]) -> Probe:
    """Return a probe of some SFT examples."""
    places = evenly_spaced(len(ids))
    return Probe(Kind.tokens, [ids[i] for i in places], [labels[i] for i in places])


def probe_of_pairs(
    prompts: Sequence[Sequence[int]], chosen: Sequence[Sequence[int]], rejected: Sequence[Sequence[int]]
) -> Probe:
    """Return a probe of some preference pairs, whose answers alone are scored."""
    found: list[tuple[list[int], list[int]]] = []
    for i in evenly_spaced(len(prompts)):
        for answer in (chosen[i], rejected[i]):
            found.append(([*prompts[i], *answer], [*[IGNORED] * len(prompts[i]), *answer]))
    return Probe(Kind.pairs, [ids for ids, _ in found], [labels for _, labels in found])


def probe_of_rewards(chosen: Sequence[Sequence[int]], rejected: Sequence[Sequence[int]]) -> Probe:
    """Return a probe of some pairs of a reward model."""
    ids = [side[i] for i in evenly_spaced(len(chosen)) for side in (chosen, rejected)]
    return Probe(Kind.rewards, ids, [[] for _ in ids])


@contextmanager
def float32_arithmetic(model: torch.nn.Module, rounding: torch.dtype | None = None) -> Iterator[None]:
    """While open, every module of `model` computes with its weights as float32.

    Weights keep their precision in memory: each is widened when its module runs, and put back after it, so that a
    model in bfloat16 takes no more memory than its largest module does.

    Parameters
    ----------
    rounding : torch.dtype, optional
        Weights are first rounded to this precision: the model as an engine with that precision loads it.
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
    """Score each sequence of `probe` on its own, without padding and without dropout.

    Returns
    -------
    list of torch.Tensor
        Log-probabilities of the scored tokens in nats, or the reward.
    """
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    found = []
    for ids, labels in zip(probe.ids, probe.labels, strict=True):
        row = torch.tensor([list(ids)], device=device)
        logits = model(input_ids=row, attention_mask=torch.ones_like(row), use_cache=False).logits[0]
        if probe.kind is Kind.rewards:
            found.append(logits.float().reshape(1).cpu())
            continue
        places = torch.tensor([i for i, label in enumerate(labels) if i and label != IGNORED], device=device)
        found.append(-cross_entropy(logits[places - 1].float(), row[0, places], reduction="none").cpu())
    model.train(training)
    return found


def change(after: Scores, before: Scores) -> Scores:
    """Return what training changed: score by score, `after` minus `before`."""
    return [a - b for a, b in zip(after, before, strict=True)]


def effect(changes: Scores, kind: Kind) -> float:
    """Return what training aims at, as a mean: nats a token for `tokens`, nats (log-odds) a pair for the others.

    For pairs that is DPO's margin before beta: the change of log p(chosen) minus that of log p(rejected).
    """
    if kind is Kind.tokens:
        return float(torch.cat(changes).mean())
    sums = torch.stack([one.sum() for one in changes]).view(-1, 2)
    return float((sums[:, 0] - sums[:, 1]).mean())


def agreement(policy: Scores, copy: Scores, kind: Kind) -> Agreement:
    """Compare the change that a copy of a policy shows with the policy's own.

    Parameters
    ----------
    policy, copy : Scores
        Changes, of the same shapes.
    """
    difference = float((torch.cat(copy) - torch.cat(policy)).abs().mean())
    made = effect(policy, kind)
    return Agreement(difference, effect(copy, kind) / made if abs(made) > NEGLIGIBLE else None)
