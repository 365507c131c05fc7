"""Which examples make up a step, batches whose tokens have weights, and rows that hold several examples.

What is averaged. TRL's SFT loss is, for each optimiser step, the sum of -log p over all tokens with a label, divided by
their number: transformers counts the labels of all the step's micro-batches before the first of them
(`Trainer._get_num_items_in_batch`), adds up over processes, and passes the number to `compute_loss`, which multiplies
by the number of processes, since their gradients are averaged. So neither gradient accumulation nor data parallelism
changes the loss. With weights w it is

    sum over tokens of w * -log p  /  sum over tokens of w,

both sums over all tokens of all examples of the step: a mean over weighted tokens, not over examples. With weights of
0 and 1 alone this is TRL's own loss. A model that takes no loss arguments is counted by micro-batch in both.
"""

from __future__ import annotations

import random
from collections.abc import Hashable, Iterator, Sequence
from typing import Any

import torch

from srlm.errors import ConfigError
from srlm.training.masking import IGNORED

Row = dict[str, list[Any]]  # input_ids, labels, weights; of a packed row seq_lengths, the lengths of its examples


class Steps(torch.utils.data.Sampler[int]):
    """The order of examples: steps of like length, in random order, each example of a group with the others of it.

    Less padding is what like length is for, and Trainer's own way there, from the longest examples down to the
    shortest, several times a pass, must not be taken for judge examples: a longer answer mostly has the better score,
    so that steps would hold nearly one score alone, first the best and later the worst, and a judge would learn little
    but which came last. Here a prompt's answers, the better and the worse, share a step (but where its end falls among
    them), and the lengths of steps follow no order.

    Parameters
    ----------
    groups : sequence of hashable
        Of each example: those that have the same belong together.
    lengths : sequence of int
        Of each example, tokens.
    size : int
        Examples a step, over all micro-batches and processes; >= 1.
    seed : int
        With it and the pass (`set_epoch`) the order is drawn.
    """

    MIXED = 16  # steps among whose groups those of like length are put together

    def __init__(self, groups: Sequence[Hashable], lengths: Sequence[int], size: int, seed: int):
        found: dict[Hashable, list[int]] = {}
        for place, group in enumerate(groups):
            found.setdefault(group, []).append(place)
        self.groups, self.lengths, self.size, self.seed = list(found.values()), lengths, size, seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        number = random.Random(f"{self.seed}/{self.epoch}")
        order: list[int] = []
        mixed: list[list[int]] = []
        for group in number.sample(self.groups, len(self.groups)):
            mixed.append(group)
            if sum(map(len, mixed)) >= self.MIXED * self.size:
                order += self._by_length(mixed)
                mixed = []
        order += self._by_length(mixed)
        steps = [order[start : start + self.size] for start in range(0, len(order), self.size)]
        rest = steps.pop() if len(order) % self.size else []
        number.shuffle(steps)
        for step in [*steps, rest]:
            yield from sorted(step, key=lambda place: self.lengths[place])

    def _by_length(self, groups: list[list[int]]) -> list[int]:
        longest = sorted(groups, key=lambda group: max(self.lengths[place] for place in group))
        return [place for group in longest for place in group]


def collate(rows: Sequence[Row], pad_token_id: int) -> dict[str, torch.Tensor]:
    """Rows of tokens as one batch, padded on the right.

    Returns
    -------
    dict
        input_ids, labels, attention_mask (1 = a token, 0 = padding): integers, (rows, longest row); weights: floats, of
        the same shape; where rows are packed, position_ids, which begin anew with every example (and at every token of
        the padding, so that no example sees it).
    """

    def padded(name: str, filler: float, dtype: torch.dtype) -> torch.Tensor:
        values = [torch.tensor(row[name], dtype=dtype) for row in rows]
        return torch.nn.utils.rnn.pad_sequence(values, batch_first=True, padding_value=filler)

    batch = {
        "input_ids": padded("input_ids", pad_token_id, torch.long),
        "labels": padded("labels", IGNORED, torch.long),
        "weights": padded("weights", 0.0, torch.float32),
    }
    lengths = torch.tensor([len(row["input_ids"]) for row in rows])
    batch["attention_mask"] = (torch.arange(int(lengths.max())) < lengths[:, None]).long()
    if "seq_lengths" in rows[0]:
        positions = [torch.cat([torch.arange(length) for length in row["seq_lengths"]]) for row in rows]
        batch["position_ids"] = torch.nn.utils.rnn.pad_sequence(positions, batch_first=True, padding_value=0)
    return batch


def pack(columns: dict[str, list[list[Any]]], max_length: int) -> dict[str, list[list[Any]]]:
    """Whole examples put together in rows of at most `max_length` tokens, best fit first (TRL's "bfd").

    Parameters
    ----------
    columns : dict
        input_ids, labels, weights: one list an example, none longer than `max_length`.

    Returns
    -------
    The same columns, one list a row, and seq_lengths: the lengths of the row's examples.
    """
    from datasets import Dataset
    from trl import pack_dataset

    packed = pack_dataset(Dataset.from_dict(columns), max_length, "bfd")
    return {name: list(packed[name]) for name in packed.column_names}


def weighted_trainer() -> type:
    """TRL's SFT trainer for the batches that `collate` makes, with the loss that this module's docstring states.

    Two methods differ: the count that the loss is divided by is the sum of the weights, and TRL's own `compute_loss` is
    given log-probabilities times weights. The rest (metrics, processes, mixtures of experts) is TRL's.
    """
    from trl import SFTTrainer

    class WeightedTrainer(SFTTrainer):
        def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
            if super()._get_num_items_in_batch(batch_samples, device) is None:
                return None  # no labels to count, or a model whose loss is counted by micro-batch
            total = torch.stack([batch["weights"][:, 1:].sum() for batch in batch_samples]).sum().to(device)
            if self.args.average_tokens_across_devices and self.args.world_size > 1:
                total = self.accelerator.gather(total).sum()
            return total / self.get_tp_size()

        def compute_loss(
            self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            weights = inputs.pop("weights")[:, 1:]  # log_probs[:, t] is of token t + 1

            def weighted(attention_mask: torch.Tensor | None = None, **given: Any) -> Any:
                # With a mask of its own, transformers would not look for examples in the positions.
                mask = None if "position_ids" in given else attention_mask
                outputs = model(attention_mask=mask, **given)
                outputs.log_probs = outputs.log_probs * weights
                return outputs

            total = weights.sum() if num_items_in_batch is None else num_items_in_batch
            return super().compute_loss(weighted, inputs, return_outputs, total)

    return WeightedTrainer


def check_whole(trainer: Any) -> None:
    """Refuse a set-up that cuts sequences into parts, each on a GPU: weights and places would not be cut with them.

    Raises
    ------
    ConfigError
    """
    found = trainer.accelerator.parallelism_config
    if found is not None and (found.cp_enabled or found.sp_enabled):
        raise ConfigError(
            "sft.accelerate_config cuts sequences into parts (context or sequence parallelism), which does not go with "
            "sft.train_on=weighted, sft.packing=true or sft.eft_loss=ranking. Remove it from the file, or revert these "
            "options."
        )


def check_apart(model: Any, rows: Sequence[Row], pad_token_id: int, tolerance: float | None = None) -> float:
    """Whether the model keeps apart the examples that share a row: each must read as it does alone.

    With `position_ids` that begin anew and no mask, transformers gives its eager, sdpa and flex attention a
    block-diagonal mask. Other attention, state-space layers and architectures with masks of their own may not: this
    asks the model itself.

    Parameters
    ----------
    model : torch.nn.Module
        With TRL's fused head (its trainers add it).
    rows : sequence of Row
        Packed rows; the first two that hold several examples are tried.
    tolerance : float, optional
        Nats; unset = 0.001 for weights in float32, 0.25 in lower precision.

    Returns
    -------
    The largest difference of a token's log-probability in a row and alone, in nats; 0 where no row holds several.

    Raises
    ------
    ConfigError
        If it is above `tolerance`.
    """
    tried = [row for row in rows if len(row["seq_lengths"]) > 1][:2]
    if not tried:
        return 0.0
    alone = [example for row in tried for example in _examples(row)]
    was_training = model.training
    model.eval()
    together = _log_probs(model, tried, pad_token_id)
    apart = [_log_probs(model, [example], pad_token_id)[0] for example in alone]
    model.train(was_training)
    difference, number = 0.0, 0
    for row, log_probs in zip(tried, together, strict=True):
        start = 0
        for length in row["seq_lengths"]:
            if length > 1:
                change = log_probs[start : start + length - 1] - apart[number]
                difference = max(difference, float(change.abs().max()))
            start, number = start + length, number + 1
    limit = tolerance or (1e-3 if next(model.parameters()).dtype == torch.float32 else 0.25)
    if not difference <= limit:
        attention = getattr(model.config, "_attn_implementation", "its own")
        raise ConfigError(
            f"sft.packing=true does not go with this model ({model.config.model_type}, attention {attention}): "
            "examples that share a row would see each other (a token's log-probability changes by "
            f"{difference:.4f} nats, more than {limit:g}). Set sft.packing=false."
        )
    return difference


def _examples(row: Row) -> list[Row]:
    """A packed row's examples, each as a row of its own."""
    found, start = [], 0
    for length in row["seq_lengths"]:
        part = {name: row[name][start : start + length] for name in ("input_ids", "labels", "weights")}
        found.append({**part, "seq_lengths": [length]})
        start += length
    return found


def _log_probs(model: Any, rows: Sequence[Row], pad_token_id: int) -> torch.Tensor:
    """Of every token but the first, in nats: (rows, longest row - 1); 0 at padding."""
    batch = {name: value.to(model.device) for name, value in collate(rows, pad_token_id).items()}
    ids = batch["input_ids"]
    labels = ids.masked_fill(batch["attention_mask"] == 0, IGNORED)
    with torch.no_grad():
        output = model(
            input_ids=ids, position_ids=batch["position_ids"], labels=labels, use_cache=False, fused_lm_head=True
        )
    log_probs: torch.Tensor = output.log_probs
    return log_probs
