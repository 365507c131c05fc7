"""Ranking loss of SFT's EFT part (`sft.eft_loss=ranking`): the judge learns which of a prompt's answers is better.

People who rank answers state which one is better, not how good each is. The better of two poor answers gets the same
target score as the better of two good ones, so part of what a score's token teaches is chance. This loss has two parts
instead:

    loss = mean over tokens of -log p  +  w x mean over pairs of -log sigmoid(E[better] - E[worse] + offset)

- The first mean is SFT's, except at a score's token. There -log p is the cross entropy with the frequencies of the
  scores among the examples. That target is the same for all examples: the model learns the verdict's form and scale,
  but no example's score. (Without a scale, scores drifted to one end, where they no longer differ.)
- E is the expected score, the mean of 0 to `judge.max_score` weighted by the probabilities of their tokens, as
  `judge=logprob_weighted` and `judge=logprob` compute it. The pairs are answers to one prompt that people ranked
  differently, whatever their scores. This is a reward model's loss (Bradley-Terry; arXiv 2203.02155, equation 1),
  applied to a generative judge.
- w is `sft.eft_ranking_weight`.
- The offset is `sft.eft_length_control` x slope x log(length of the better / length of the worse). The slope is the
  one at which length alone explains people's choices best. With a control of 0 there is no offset. With 1, a pair that
  length explains has little effect and one that contradicts length has much. Length-controlled AlpacaEval removes
  length from win rates in the same way (arXiv 2404.04475, section 3). The trained judge itself has no offset.

Both means are taken over a step's micro-batches and processes. Pairs are formed within a micro-batch, where a prompt's
answers are kept together (`srlm.training.batching.Steps`), and are computed with their prompt once, where the model can
(`srlm.training.shared_prompts`).
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
from srlm.training.encoding import Samples
from srlm.training.shared_prompts import mask_of, merged
from srlm.types import JudgeExample

STEEPEST = 20.0  # limit of the slope, reached where length alone explains every pair


@dataclass(frozen=True)
class Verdict:
    """The position of an example's score, and the values by which examples are compared."""

    place: int  # index of the score's token in the example; -1 = none
    group: int  # index of the ranked prompt; answers of one prompt have the same group
    score: float  # human score
    log_length: float  # log(1 + characters) of the judged answer
    rank: int = -1  # human rank, 0 is the best; -1 = unknown: the score decides which answer is better


NO_VERDICT = Verdict(-1, -1, 0.0, 0.0)
FIELDS = tuple(field.name for field in fields(Verdict))


@dataclass(frozen=True)
class RankingLoss:
    """The ranking loss of one training.

    Parameters
    ----------
    verdicts : list of Verdict
        One per row of the dataset.
    tokens : list of int
        The tokens of the scores 0 to judge.max_score.
    shares : list of float
        The frequency of each score; the sum is 1.
    pairs : int
        Pairs among the verdicts.
    slope : float
        Log-odds per unit of log-length that the better answer gets for its length.
    """

    verdicts: list[Verdict]
    tokens: list[int]
    shares: list[float]
    pairs: int
    slope: float

    @classmethod
    def of(
        cls,
        tokenizer: Any,
        template: JudgeTemplate,
        samples: Samples,
        judged: Sequence[JudgeExample],
        max_score: int,
        length_control: float,
    ) -> RankingLoss:
        """Return the loss for SFT's samples, whose EFT part is made of `judged` in the same order.

        Raises
        ------
        EngineError
            If scores differ in more than one token.
        TrainingError
            If there is no pair.
        """
        tokens = score_tokens(tokenizer, template, max_score)
        verdicts = find_verdicts(samples.input_ids, samples.places, judged, tokens)
        pairs, slope = fit_length(verdicts, length_control)
        return cls(verdicts, tokens, score_shares(verdicts, len(tokens)), pairs, slope)

    def columns(self) -> dict[str, list[Any]]:
        """Return the columns that `collate_ranked` expects next to input_ids and labels."""
        return {name: [getattr(verdict, name) for verdict in self.verdicts] for name in FIELDS}

    def summary(self) -> str:
        """Return a line for the log."""
        text = f"EFT with ranking loss: {self.pairs} pairs"
        if self.slope:
            text += f"; length control: {self.slope:+.2f} log-odds per unit of log length are subtracted in the loss"
        return text


def score_tokens(tokenizer: Any, template: JudgeTemplate, max_score: int) -> list[int]:
    """Return the token of each score, 0 to `max_score`, after "Score:".

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
    """Return the verdict at the end of each encoded example; `NO_VERDICT` for IFT.

    Parameters
    ----------
    ids, places
        `input_ids` and `places` of `srlm.training.encoding.Samples`.
    examples : sequence of JudgeExample
        The EFT examples, in their order.
    tokens : sequence of int
        From `score_tokens`.
    """
    groups: dict[str, int] = {}
    verdicts = []
    for of_example, (part, index) in zip(ids, places, strict=True):
        if part != "eft":
            verdicts.append(NO_VERDICT)
            continue
        example = examples[index]
        position = max(i for i, token in enumerate(of_example) if token == tokens[round(example.score)])
        group = groups.setdefault(parent(example.id), len(groups))  # scores of different prompts are not comparable
        rank = -1 if example.rank is None else example.rank
        verdicts.append(Verdict(position, group, example.score, math.log1p(len(example.response)), rank))
    return verdicts


def score_shares(verdicts: Sequence[Verdict], count: int) -> list[float]:
    """Return the frequency of each of `count` scores among the verdicts; the sum is 1."""
    scores = [round(verdict.score) for verdict in verdicts if verdict.place >= 0]
    return [scores.count(score) / len(scores) for score in range(count)]


def fit_length(verdicts: Sequence[Verdict], control: float) -> tuple[int, float]:
    """Return the number of pairs among the verdicts, and the share `control` of their `length_slope`.

    Raises
    ------
    TrainingError
        If there is no pair, so that nothing would be learnt.
    """
    merits = merits_of([verdict.score for verdict in verdicts], [verdict.rank for verdict in verdicts])
    pairs = ordered_pairs([verdict.group for verdict in verdicts], merits)
    if not pairs:
        raise TrainingError(
            "sft.eft_loss=ranking needs prompts with a better and a worse answer, but the remaining EFT examples have "
            "none. Raise sft.max_length or data.eft_limit, or set sft.eft_loss=score."
        )
    slope = length_slope([verdicts[better].log_length - verdicts[worse].log_length for better, worse in pairs])
    return len(pairs), control * slope


def merits_of(scores: Sequence[float], ranks: Sequence[int]) -> list[float]:
    """Return the values that order the answers of a group, higher is better: negated ranks, or scores if rank is -1.

    Ranks are preferred, because integer scores tie answers that people order, and a baseline's scores may order
    answers that people tie.
    """
    return [score if rank < 0 else -float(rank) for score, rank in zip(scores, ranks, strict=True)]


def ordered_pairs(groups: Sequence[int], merits: Sequence[float]) -> list[tuple[int, int]]:
    """Return the indices (better, worse) of all pairs within a group whose merits differ.

    Groups below 0 have no pairs. `merits` are those of `merits_of`.
    """
    members: dict[int, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    return [
        (better, worse)
        for group, indices in members.items()
        if group >= 0
        for better in indices
        for worse in indices
        if merits[better] > merits[worse]
    ]


def length_slope(differences: Sequence[float]) -> float:
    """Return the effect of length alone: the b that maximises the sum of log sigmoid(b d).

    This is logistic regression without an intercept (arXiv 2404.04475, section 3).

    Parameters
    ----------
    differences : sequence of float
        d of each pair: log length of the better answer minus that of the worse.

    Returns
    -------
    float
        Log-odds per unit of log-length, -STEEPEST to STEEPEST; 0 without pairs.
    """
    d = np.asarray(differences, dtype=np.float64)
    low, high = -STEEPEST, STEEPEST
    while d.any() and high - low > 1e-9:
        middle = (low + high) / 2
        rising = float(np.sum(d / (1 + np.exp(np.clip(middle * d, -500, 500))))) > 0  # the derivative's sign
        low, high = (middle, high) if rising else (low, middle)
    return round((low + high) / 2, 6)


def ranking_losses(better: torch.Tensor, worse: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
    """Return -log sigmoid(better - worse + offset) of each pair (arXiv 2203.02155, equation 1, with an offset).

    All have the shape (pairs,). `better` and `worse` are expected scores in points.
    """
    return softplus(-(better - worse + offset))


def with_shared_prompts(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return rows in which the answers of a ranked prompt are one row (`srlm.training.shared_prompts`).

    The values of `FIELDS` are then lists, with a value per answer.
    """
    groups: dict[Any, list[dict[str, Any]]] = {}
    for number, row in enumerate(rows):
        groups.setdefault(row["group"] if row["group"] >= 0 else f"row {number}", []).append(row)
    found = []
    for group in groups.values():
        tokens = [{name: values for name, values in row.items() if name not in FIELDS} for row in group]
        together = merged(tokens)
        for name in FIELDS:
            together[name] = [row[name] for row in group]
        shifts = [len(row["input_ids"]) for row in group]
        shared = (sum(shifts) - len(together["input_ids"])) // max(1, len(group) - 1)
        for number, place in enumerate(together["place"]):
            before = sum(shifts[:number]) - number * shared
            together["place"][number] = place + before if place >= 0 else place
        found.append(together)
    return found


def collate_ranked(rows: Sequence[dict[str, Any]], pad_token_id: int) -> dict[str, torch.Tensor]:
    """Return a batch as `batching.collate` does, without weights, and with each of `FIELDS`, of shape (verdicts,).

    "row" is the row of each verdict. Rows of `with_shared_prompts` have several; others one, or `NO_VERDICT`. The batch
    then has position_ids, too.
    """
    batch = collate([{**row, "weights": [1.0] * len(row["input_ids"])} for row in rows], pad_token_id)
    del batch["weights"]
    if "position_ids" in rows[0]:
        positions = [torch.tensor(row["position_ids"]) for row in rows]
        batch["position_ids"] = torch.nn.utils.rnn.pad_sequence(positions, batch_first=True, padding_value=0)
        rows = [
            {name: row[name][n] for name in FIELDS} | {"row": i}
            for i, row in enumerate(rows)
            for n in range(len(row["place"]))
        ]
    else:
        rows = [{**row, "row": i} for i, row in enumerate(rows)]
    return batch | {name: torch.tensor([row[name] for row in rows]) for name in (*FIELDS, "row")}


def ranking_trainer(loss: RankingLoss, weight: float = 1.0) -> type:
    """Return TRL's SFT trainer with the loss that this module's docstring states, for batches of `collate_ranked`.

    Parameters
    ----------
    weight : float
        Of the mean over pairs; > 0.
    """
    from trl import SFTTrainer

    tokens, shares, slope = loss.tokens, loss.shares, loss.slope

    class RankingTrainer(SFTTrainer):
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
            place, log_length, row = inputs.pop("place"), inputs.pop("log_length"), inputs.pop("row")
            del inputs["group"], inputs["score"], inputs["rank"]
            expected = torch.zeros(len(place), device=place.device)

            def with_shared_scores(**given: Any) -> Any:
                """Run the model, note the expected scores, and replace each score's log-probability."""
                nonlocal expected
                if "position_ids" in given:
                    given["attention_mask"] = mask_of(given["position_ids"])
                outputs, hidden = _with_hidden_states(self.accelerator.unwrap_model(model), model, given)
                verdicts = torch.nonzero(place >= 0).flatten()
                if len(verdicts):
                    rows, places = row[verdicts], place[verdicts]
                    at = (rows, places - 1)  # the position before a token predicts it
                    log_probs = _head(self.accelerator.unwrap_model(model))(hidden[at]).float().log_softmax(-1)
                    own = log_probs.gather(1, given["labels"][rows, places][:, None])[:, 0]
                    # The trainer's forward pass returns float32 in low precision, too, so the options decide.
                    low_precision = self.args.bf16 or self.args.fp16
                    _check_head(own.detach(), outputs.log_probs[at].detach(), low_precision)
                    of_scores = log_probs[:, list(tokens)]
                    likelihood = of_scores @ torch.tensor(shares, device=place.device)
                    outputs.log_probs = outputs.log_probs.index_put(at, likelihood.to(outputs.log_probs.dtype))
                    scale = torch.arange(len(tokens), dtype=torch.float32, device=place.device)
                    expected = expected.index_put((verdicts,), of_scores.softmax(-1) @ scale)
                return outputs

            loss = super().compute_loss(with_shared_scores, inputs, return_outputs, num_items_in_batch)
            if not pairs:
                return loss
            better, worse = torch.tensor(pairs, device=place.device).T
            offset = slope * (log_length[better] - log_length[worse])
            losses = ranking_losses(expected[better], expected[worse], offset)
            mode = "train" if self.model.training else "eval"
            self._metrics[mode]["ranking_loss"].append(losses.mean().item())
            self._metrics[mode]["ranking_accuracy"].append((expected[better] > expected[worse]).float().mean().item())
            if num_items_in_batch is None:
                return (
                    loss + weight * losses.mean()
                )  # of a model that is counted by micro-batch; Trainer takes their mean
            # Gradients of processes are averaged, and the pairs are counted over all of them.
            return loss + weight * losses.sum() / self._pairs_in_step * self.accelerator.num_processes

    return RankingTrainer


def check_not_sharded(trainer: Any) -> None:
    """Check that the output layer is not sharded over GPUs.

    Raises
    ------
    ConfigError
        If FSDP or DeepSpeed is enabled.
    """
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        raise ConfigError(
            "sft.eft_loss=ranking needs the complete output layer on each GPU, but sft.accelerate_config shards it "
            "(FSDP, DeepSpeed). Remove the file, or set sft.eft_loss=score."
        )


def _pairs_of(batch: dict[str, Any]) -> list[tuple[int, int]]:
    return ordered_pairs(batch["group"].tolist(), merits_of(batch["score"].tolist(), batch["rank"].tolist()))


def _causal(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _head(model: Any) -> Any:
    return _causal(model).get_output_embeddings()


def _with_hidden_states(inside: Any, model: Any, given: dict[str, Any]) -> tuple[Any, torch.Tensor]:
    """Return the model's outputs, and its last hidden states: (rows, tokens, hidden size)."""
    caught: list[torch.Tensor] = []
    hook = _causal(inside).base_model.register_forward_hook(
        lambda _module, _inputs, output: caught.append(output.last_hidden_state)
    )
    try:
        outputs = model(**given)
    finally:
        hook.remove()
    return outputs, caught[-1]


def _check_head(own: torch.Tensor, by_trainer: torch.Tensor, low_precision: bool) -> None:
    """Check that the output layer alone gives the model's probabilities. (Gemma 2 also scales and caps logits.)

    Raises
    ------
    ConfigError
        If the probabilities differ.
    """
    difference = float((own - by_trainer).abs().max())
    exact = by_trainer.dtype == torch.float32 and not low_precision
    if not difference <= (0.01 if exact else 0.25):
        raise ConfigError(
            "sft.eft_loss=ranking does not work with this model: its logits are not the plain output of its last layer "
            f"(a score's log-probability differs by {difference:.3f} nats). Set sft.eft_loss=score."
        )
