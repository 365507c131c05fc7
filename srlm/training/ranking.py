"""EFT by order (`sft.eft_loss=ranking`): the judge learns which of a prompt's answers is better.

People who rank answers say which one is better, not how good each is: the better of two poor answers gets the same
target score as the better of two good ones. What a score's token teaches is in part that chance. Here the place of the
score is learnt in two parts instead:

    loss = mean over tokens of -log p  +  mean over pairs of -log sigmoid(E[better] - E[worse] + offset)

- The first mean is SFT's, but that at a score's token -log p is the cross entropy with how common each score is among
  the examples: the same for all of them, so that the verdict's form and its scale are learnt, and nobody's score. (With
  no scale to hold on to, scores were seen to drift to one end, where none differs from another any more.)
- E is the expected score, the mean of 0 to `judge.max_score` by the probabilities of their tokens, as
`judge=logprob_weighted`
  and `judge=logprob` read it; the pairs are those of a prompt's answers that people ranked differently, whatever
  scores they have. This is a reward model's
  loss (Bradley-Terry; arXiv 2203.02155, equation 1), of a judge that writes.
- The offset is `sft.eft_length_control` x slope x log(length of the better / length of the worse), with the slope at
  which length alone explains people's choices best. With 0 there is none; with 1 a pair that length explains teaches
  little, one that goes against it much, and what is learnt is the rest. Length-controlled AlpacaEval takes length out
  of win rates in the same way (arXiv 2404.04475, section 3); the offset is no part of the judge that comes of it.

Both means are over a step's micro-batches and processes; pairs are formed within a micro-batch, where a prompt's
answers are kept together (`batches.Steps`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch.nn.functional import softplus

from srlm.errors import ConfigError, TrainingError
from srlm.ids import parent
from srlm.judges.prompt import VERDICT, JudgeTemplate
from srlm.models.chat import encode_choices
from srlm.training.batching import collate
from srlm.types import JudgeExample

STEEPEST = 20.0  # of slopes: length alone would explain every pair


@dataclass(frozen=True)
class Verdict:
    """Where an example's score stands, and what it is compared by."""

    place: int  # of the score's token in the example; -1: it has none
    group: int  # the answers of one ranked prompt have the same number
    score: float  # people's
    log_length: float  # of the judged answer, log(1 + characters)
    rank: int = -1  # people's, 0 is the best; -1: unknown, then the score decides which answer is better


NO_VERDICT = Verdict(-1, -1, 0.0, 0.0)
FIELDS = tuple(field.name for field in fields(Verdict))


def score_tokens(tokenizer: Any, template: JudgeTemplate, max_score: int) -> list[int]:
    """The token of each score, 0 to `max_score`, after "Score:".

    Raises
    ------
    EngineError
        If scores differ in more than one token.
    """
    messages: Any = template.messages("a", "b")
    return encode_choices(tokenizer, messages, VERDICT, [f" {score}" for score in range(max_score + 1)])[1]


def find_verdicts(
    ids: Sequence[Sequence[int]],
    places: Sequence[tuple[str, int]],
    examples: Sequence[JudgeExample],
    tokens: Sequence[int],
) -> list[Verdict]:
    """The verdict that each encoded example ends on; `NO_VERDICT` for IFT.

    Parameters
    ----------
    ids, places
        `Encoded.input_ids` and `Encoded.places`, of `srlm.training.sft`.
    examples : sequence of JudgeExample
        The EFT chats, in their order.
    tokens : sequence of int
        Of `score_tokens`.
    """
    groups: dict[str, int] = {}
    verdicts = []
    for of_example, (kind, number) in zip(ids, places, strict=True):
        if kind != "eft":
            verdicts.append(NO_VERDICT)
            continue
        example = examples[number]
        place = max(place for place, token in enumerate(of_example) if token == tokens[round(example.score)])
        group = groups.setdefault(parent(example.id), len(groups))  # two rows' scores do not compare
        rank = -1 if example.rank is None else example.rank
        verdicts.append(Verdict(place, group, example.score, math.log1p(len(example.response)), rank))
    return verdicts


def score_shares(verdicts: Sequence[Verdict], count: int) -> list[float]:
    """How common each of `count` scores is among the verdicts; they add up to 1."""
    scores = [round(verdict.score) for verdict in verdicts if verdict.place >= 0]
    return [scores.count(score) / len(scores) for score in range(count)]


def counted(verdicts: Sequence[Verdict], offset: float) -> dict[str, float]:
    """For the manifest: "pairs" among the examples; "length_slope" of the loss, the share `offset` of `length_slope`.

    Raises
    ------
    TrainingError
        If there is no pair: nothing would be learnt.
    """
    merits = merits_of([verdict.score for verdict in verdicts], [verdict.rank for verdict in verdicts])
    pairs = ordered_pairs([verdict.group for verdict in verdicts], merits)
    if not pairs:
        raise TrainingError(
            "sft.eft_loss=ranking needs prompts with a better and a worse answer, and no two of the EFT examples that "
            "are left are such. Raise sft.max_length or data.eft_limit, or set sft.eft_loss=score."
        )
    slope = length_slope([verdicts[one].log_length - verdicts[other].log_length for one, other in pairs])
    return {"pairs": len(pairs), "length_slope": offset * slope}


def merits_of(scores: Sequence[float], ranks: Sequence[int]) -> list[float]:
    """What orders the answers of a group, higher is better: their ranks, or their scores where ranks are unknown (-1).

    Whole scores tie answers that people order, and a baseline's scores may order answers that people tie.
    """
    return [score if rank < 0 else -float(rank) for score, rank in zip(scores, ranks, strict=True)]


def ordered_pairs(groups: Sequence[int], scores: Sequence[float]) -> list[tuple[int, int]]:
    """Places of (better, worse) of each pair of one group with different scores; groups below 0 have none.

    `scores` are those of `merits_of`.
    """
    found: dict[int, list[int]] = {}
    for place, group in enumerate(groups):
        found.setdefault(group, []).append(place)
    return [
        (one, other)
        for group, places in found.items()
        if group >= 0
        for one in places
        for other in places
        if scores[one] > scores[other]
    ]


def length_slope(differences: Sequence[float]) -> float:
    """How much length alone tells: the b that maximises the sum of log sigmoid(b d), logistic regression without
    intercept.

    Parameters
    ----------
    differences : sequence of float
        Of each pair, log-length of the better answer less that of the worse.

    Returns
    -------
    Log-odds a unit of log-length, -STEEPEST to STEEPEST; 0 without pairs.
    """
    d = np.asarray(differences, dtype=np.float64)
    low, high = -STEEPEST, STEEPEST
    while d.any() and high - low > 1e-9:
        middle = (low + high) / 2
        rising = float(np.sum(d / (1 + np.exp(np.clip(middle * d, -500, 500))))) > 0  # the sum's derivative there
        low, high = (middle, high) if rising else (low, middle)
    return round((low + high) / 2, 6)


def order_losses(better: torch.Tensor, worse: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
    """-log sigmoid(better - worse + offset), of each pair; all (pairs,), expected scores in points."""
    return softplus(-(better - worse + offset))


def collate_ranked(rows: Sequence[dict[str, Any]], pad_token_id: int) -> dict[str, torch.Tensor]:
    """As `batches.collate`, without weights; and `place`, `group`, `score`, `log_length` of the verdicts: (rows,)."""
    batch = collate([{**row, "weights": [1.0] * len(row["input_ids"])} for row in rows], pad_token_id)
    del batch["weights"]
    return batch | {name: torch.tensor([row[name] for row in rows]) for name in FIELDS}


def ranking_trainer(tokens: Sequence[int], shares: Sequence[float], slope: float) -> type:
    """TRL's SFT trainer for the batches of `collate_ranked`, with the loss that this module's docstring states.

    Parameters
    ----------
    tokens : sequence of int
        Of `score_tokens`.
    shares : sequence of float
        Of `score_shares`.
    slope : float
        Log-odds a unit of log-length that the better answer is given for its length, as `counted` tells it.
    """
    from trl import SFTTrainer

    class OrderingTrainer(SFTTrainer):
        def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
            counts = [len(_pairs_of(batch)) for batch in batch_samples]
            pairs = torch.tensor(float(sum(counts)), device=device)
            if self.args.world_size > 1:
                pairs = self.accelerator.gather(pairs).sum()
            self._pairs_in_step = pairs.clamp(min=1)
            return super()._get_num_items_in_batch(batch_samples, device)

        def compute_loss(
            self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            pairs = _pairs_of(inputs)
            place, log_length = inputs.pop("place"), inputs.pop("log_length")
            del inputs["group"], inputs["score"], inputs["rank"]
            expected = torch.zeros(len(place), device=place.device)

            def ordered(**given: Any) -> Any:
                nonlocal expected
                outputs, hidden = _with_hidden_states(self.accelerator.unwrap_model(model), model, given)
                rows = torch.nonzero(place >= 0).flatten()
                if len(rows):
                    at = (rows, place[rows] - 1)  # what stands before a token tells its probability
                    log_probs = _head(self.accelerator.unwrap_model(model))(hidden[at]).float().log_softmax(-1)
                    own = log_probs.gather(1, given["labels"][rows, place[rows]][:, None])[:, 0]
                    # The forward pass of a trainer in low precision returns float32: it must be asked for itself.
                    low_precision = self.args.bf16 or self.args.fp16
                    _check_head(own.detach(), outputs.log_probs[at].detach(), low_precision)
                    of_scores = log_probs[:, list(tokens)]
                    likelihood = of_scores @ torch.tensor(shares, device=place.device)
                    outputs.log_probs = outputs.log_probs.index_put(at, likelihood.to(outputs.log_probs.dtype))
                    scale = torch.arange(len(tokens), dtype=torch.float32, device=place.device)
                    expected = expected.index_put((rows,), of_scores.softmax(-1) @ scale)
                return outputs

            loss = super().compute_loss(ordered, inputs, return_outputs, num_items_in_batch)
            if not pairs:
                return loss
            better, worse = torch.tensor(pairs, device=place.device).T
            offset = slope * (log_length[better] - log_length[worse])
            losses = order_losses(expected[better], expected[worse], offset)
            mode = "train" if self.model.training else "eval"
            self._metrics[mode]["ranking_loss"].append(losses.mean().item())
            self._metrics[mode]["ranking_accuracy"].append((expected[better] > expected[worse]).float().mean().item())
            if num_items_in_batch is None:
                return loss + losses.mean()  # of a model that is counted by micro-batch; Trainer takes their mean
            # Gradients of processes are averaged, and the pairs are counted over all of them.
            return loss + losses.sum() / self._pairs_in_step * self.accelerator.num_processes

    return OrderingTrainer


def check_not_sharded(trainer: Any) -> None:
    """Refuse a set-up that keeps a part of the output layer on each GPU.

    Raises
    ------
    ConfigError
    """
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        raise ConfigError(
            "sft.eft_loss=ranking needs the whole output layer on each GPU, and sft.accelerate_config shards it (FSDP, "
            "DeepSpeed). Leave the file out, or set sft.eft_loss=score."
        )


def _pairs_of(batch: dict[str, Any]) -> list[tuple[int, int]]:
    return ordered_pairs(batch["group"].tolist(), merits_of(batch["score"].tolist(), batch["rank"].tolist()))


def _causal(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _head(model: Any) -> Any:
    return _causal(model).get_output_embeddings()


def _with_hidden_states(inside: Any, model: Any, given: dict[str, Any]) -> tuple[Any, torch.Tensor]:
    """The model's outputs, and its last hidden states: (rows, tokens, hidden size)."""
    seen: list[torch.Tensor] = []
    hook = _causal(inside).base_model.register_forward_hook(
        lambda _module, _inputs, output: seen.append(output.last_hidden_state)
    )
    try:
        outputs = model(**given)
    finally:
        hook.remove()
    return outputs, seen[-1]


def _check_head(own: torch.Tensor, by_trainer: torch.Tensor, low_precision: bool) -> None:
    """Whether the output layer alone makes the probabilities that the model itself tells (Gemma 2 scales and caps).

    Raises
    ------
    ConfigError
    """
    apart = float((own - by_trainer).abs().max())
    exact = by_trainer.dtype == torch.float32 and not low_precision
    if not apart <= (0.01 if exact else 0.25):
        raise ConfigError(
            "sft.eft_loss=ranking does not go with this model: its output layer does more than multiply (a score's "
            f"log-probability differs by {apart:.3f} nats). Set sft.eft_loss=score."
        )
