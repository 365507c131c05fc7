"""Batching for SFT: order of examples, batches with token weights, and packing.

TRL's SFT loss of an optimiser step is the sum of -log p over all tokens with a label, divided by their number.
transformers counts the labels of all micro-batches of the step first (`Trainer._get_num_items_in_batch`), sums over
processes, and passes the number to `compute_loss`, which multiplies by the number of processes because gradients are
averaged. Gradient accumulation and data parallelism therefore do not change the loss. With weights w the loss is

    sum over tokens of w * -log p  /  sum over tokens of w,

where both sums are over all tokens of all examples of the step: a mean over weighted tokens, not over examples. If all
weights are 0 or 1, this is TRL's loss. Models without loss arguments are averaged per micro-batch in both cases.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

import torch

from srlm.errors import ConfigError
from srlm.training.masking import IGNORED

SOURCES = ("ift", "eft")  # kinds of examples whose losses are logged separately
Row = dict[str, list[Any]]  # input_ids, labels, weights; packed rows also have seq_lengths, their examples' lengths


class Steps(torch.utils.data.Sampler[int]):
    """Sampler that groups examples of similar length into steps, keeps groups together, and shuffles the steps.

    Similar lengths reduce padding. Trainer's `group_by_length` sorts long examples first, several times per epoch,
    which is harmful for judge examples. Longer answers mostly have better scores, so a step would contain nearly one
    score only, and the judge would mainly learn the latest one. Here the better and worse answers of a prompt are in
    the same step, and the order of the steps does not depend on length. Only groups that are longer than a step, and at
    the end of an epoch what no full step can be made of, are split.

    Parameters
    ----------
    groups : sequence of hashable
        The group of each example; examples of one group stay together.
    lengths : sequence of int
        The length of each example in tokens.
    size : int
        Examples per step, over all micro-batches and processes; >= 1.
    seed : int
        Together with the epoch (`set_epoch`), it determines the order.
    """

    MIXED = 16  # groups are sorted by length within blocks of this many steps

    def __init__(self, groups: Sequence[Hashable], lengths: Sequence[int], size: int, seed: int):
        by_group: dict[Hashable, list[int]] = {}
        for index, group in enumerate(groups):
            by_group.setdefault(group, []).append(index)
        self.groups, self.lengths, self.size, self.seed = list(by_group.values()), lengths, size, seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        rng = random.Random(f"{self.seed}/{self.epoch}")
        steps: list[list[int]] = []
        block: list[list[int]] = []
        for group in rng.sample(self.groups, len(self.groups)):
            block.append(group)
            if sum(map(len, block)) >= self.MIXED * self.size:
                full, block = self._filled(block)
                steps += full
        full, left = self._filled(block)
        order = [index for group in left for index in group]
        steps += full + [order[start : start + self.size] for start in range(0, len(order), self.size)]
        rest = steps.pop() if steps and len(steps[-1]) < self.size else []
        rng.shuffle(steps)
        for step in [*steps, rest]:
            yield from sorted(step, key=lambda index: self.lengths[index])

    def _filled(self, groups: list[list[int]]) -> tuple[list[list[int]], list[list[int]]]:
        """Return steps that are full and split no group, except one that is longer, and the groups that are left.

        Large groups come first, each in the first step with enough space, so that small ones fill the gaps.
        """
        full: list[list[int]] = []
        open_steps: list[list[list[int]]] = []
        parts = [group[start : start + self.size] for group in groups for start in range(0, len(group), self.size)]
        for part in sorted(parts, key=lambda part: (-len(part), max(self.lengths[index] for index in part))):
            step = next((one for one in open_steps if sum(map(len, one)) + len(part) <= self.size), None)
            if step is None:
                open_steps.append(step := [])
            step.append(part)
            if sum(map(len, step)) == self.size:
                open_steps.remove(step)
                full.append([index for one in step for index in one])
        return full, [part for step in open_steps for part in step]


def collate(rows: Sequence[Row], pad_token_id: int) -> dict[str, torch.Tensor]:
    """Return rows of tokens as one batch, padded on the right.

    Returns
    -------
    dict
        input_ids, labels and attention_mask (1 = token, 0 = padding) are integers of shape (rows, longest row). weights
        are floats of the same shape. Packed rows also have position_ids, which restart at 0 with every example. Every
        padding token has position 0, so that it is masked for all examples.
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
    """Pack complete examples into rows of at most `max_length` tokens (TRL's "bfd", best fit decreasing).

    Parameters
    ----------
    columns : dict
        input_ids, labels, weights: one list per example, of at most `max_length` tokens.

    Returns
    -------
    The same columns with one list per row, and seq_lengths, the lengths of the row's examples.
    """
    from datasets import Dataset
    from trl import pack_dataset

    packed = pack_dataset(Dataset.from_dict(columns), max_length, "bfd")
    return {name: list(packed[name]) for name in packed.column_names}


def weighted_trainer() -> type:
    """Return TRL's SFT trainer for batches of `collate`, with the loss in this module's docstring.

    Two methods are overridden. The loss is divided by the sum of the weights, and TRL's `compute_loss` gets
    log-probabilities multiplied by the weights. Everything else (metrics, processes, mixtures of experts) is TRL's.
    """
    from trl import SFTTrainer

    class WeightedTrainer(SFTTrainer):
        def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
            if super()._get_num_items_in_batch(batch_samples, device) is None:
                return None  # no labels, or a model whose loss is averaged per micro-batch
            total = torch.stack([batch["weights"][:, 1:].sum() for batch in batch_samples]).sum().to(device)
            if self.args.average_tokens_across_devices and self.args.world_size > 1:
                total = self.accelerator.gather(total).sum()
            return total / self.get_tp_size()

        def compute_loss(
            self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            weights = inputs.pop("weights")[:, 1:]  # log_probs[:, t] is of token t + 1

            def weighted(attention_mask: torch.Tensor | None = None, **arguments: Any) -> Any:
                # With an explicit mask, transformers would not derive the examples from the positions.
                mask = None if "position_ids" in arguments else attention_mask
                outputs = model(attention_mask=mask, **arguments)
                outputs.log_probs = outputs.log_probs * weights
                return outputs

            total = weights.sum() if num_items_in_batch is None else num_items_in_batch
            return super().compute_loss(weighted, inputs, return_outputs, total)

    return WeightedTrainer


def with_sources(collate: Callable[[list[Row]], dict[str, torch.Tensor]]) -> Callable[[list[Row]], Any]:
    """Return a collator that also pads the column `sources`, the index in SOURCES of each token's example.

    A batch in another layout than one line per row, such as TRL's without padding, has no sources.
    """

    def collate_sources(rows: list[Row]) -> dict[str, torch.Tensor]:
        batch = collate([{name: value for name, value in row.items() if name != "sources"} for row in rows])
        if len(batch["labels"]) == len(rows):
            sources = torch.full_like(batch["labels"], -1)
            for line, row in zip(sources, rows, strict=True):
                line[: len(row["sources"])] = torch.tensor(row["sources"])
            batch["sources"] = sources
        return batch

    return collate_sources


def by_source(trainer: type) -> type:
    """Return a subclass of an SFT trainer that logs loss_ift and loss_eft at each step, for batches of `with_sources`.

    Each is the mean of -log p over the step's trained tokens of that source, weighted as in training, over all
    micro-batches and processes. The loss itself mixes both, and their shares differ from step to step.
    """

    class BySourceTrainer(trainer):  # type: ignore[misc]
        _totals: torch.Tensor | None = None  # shape (2, sources): sums of w * -log p, and of w

        def compute_loss(self, model: Any, inputs: dict[str, Any], *others: Any, **named: Any) -> Any:
            sources, labels, weights = inputs.pop("sources", None), inputs["labels"], inputs.get("weights")
            caught: list[torch.Tensor] = []
            hook = model.register_forward_hook(lambda _model, _inputs, output: caught.append(output.log_probs.detach()))
            try:
                result = super().compute_loss(model, inputs, *others, **named)
            finally:
                hook.remove()
            if sources is not None and caught[-1].shape == labels[:, 1:].shape:  # not split over GPUs
                trained = (labels[:, 1:] != IGNORED).float()
                w = trained if weights is None else trained * weights[:, 1:]
                of_source = w[..., None] * (sources[:, 1:, None] == torch.arange(len(SOURCES), device=w.device))
                totals = torch.stack([-(caught[-1][..., None] * of_source).sum((0, 1)), of_source.sum((0, 1))])
                totals = self.accelerator.gather(totals[None]).sum(0)
                self._totals = totals if self._totals is None else self._totals + totals
            return result

        def log(self, logs: dict[str, float], *others: Any) -> None:
            if self._totals is not None:
                losses, counts = self._totals.tolist()
                means = zip(SOURCES, losses, counts, strict=True)
                logs.update({f"loss_{name}": total / count for name, total, count in means if count})
                self._totals = None
            super().log(logs, *others)

    return BySourceTrainer


def check_whole(trainer: Any) -> None:
    """Check that sequences are not split over GPUs, because weights and positions would not be split with them.

    Raises
    ------
    ConfigError
        If context or sequence parallelism is enabled.
    """
    parallelism = trainer.accelerator.parallelism_config
    if parallelism is not None and (parallelism.cp_enabled or parallelism.sp_enabled):
        raise ConfigError(
            "sft.accelerate_config splits sequences (context or sequence parallelism), which is not supported with "
            "sft.train_on=weighted, sft.packing=true or sft.eft_loss=ranking. Remove it from the file, or revert these "
            "options."
        )


def check_apart(model: Any, rows: Sequence[Row], pad_token_id: int, tolerance: float | None = None) -> float:
    """Check that the examples of a packed row do not attend to each other.

    With `position_ids` that restart and without a mask, transformers gives its eager, sdpa and flex attention a
    block-diagonal mask. Other attention, state-space layers and architectures with custom masks may not do this, so the
    check compares the model's outputs in a packed row with those of separate rows.

    Parameters
    ----------
    model : torch.nn.Module
        A model with TRL's fused head (its trainers add it).
    rows : sequence of Row
        Packed rows; the first two with several examples are used.
    tolerance : float, optional
        In nats; None = 0.001 for weights in float32, 0.25 in lower precision.

    Returns
    -------
    float
        The largest difference of a token's log-probability between a packed and a separate row, in nats; 0 if no row
        has several examples.

    Raises
    ------
    ConfigError
        If the difference is above `tolerance`.
    """
    packed = [row for row in rows if len(row["seq_lengths"]) > 1][:2]
    if not packed:
        return 0.0
    examples = [example for row in packed for example in _examples(row)]
    was_training = model.training
    model.eval()
    in_rows = _log_probs(model, packed, pad_token_id)
    separate = [_log_probs(model, [example], pad_token_id)[0] for example in examples]
    model.train(was_training)
    difference, index = 0.0, 0
    for row, log_probs in zip(packed, in_rows, strict=True):
        start = 0
        for length in row["seq_lengths"]:
            if length > 1:
                change = log_probs[start : start + length - 1] - separate[index]
                difference = max(difference, float(change.abs().max()))
            start, index = start + length, index + 1
    limit = tolerance or (1e-3 if next(model.parameters()).dtype == torch.float32 else 0.25)
    if not difference <= limit:
        attention = getattr(model.config, "_attn_implementation", "its own")
        raise ConfigError(
            f"sft.packing=true does not work with this model ({model.config.model_type}, attention {attention}): "
            "examples of one row attend to each other (a token's log-probability changes by "
            f"{difference:.4f} nats, more than {limit:g}). Set sft.packing=false."
        )
    return difference


def _examples(row: Row) -> list[Row]:
    """Return the examples of a packed row as separate rows."""
    examples, start = [], 0
    for length in row["seq_lengths"]:
        part = {name: row[name][start : start + length] for name in ("input_ids", "labels", "weights")}
        examples.append({**part, "seq_lengths": [length]})
        start += length
    return examples


def _log_probs(model: Any, rows: Sequence[Row], pad_token_id: int) -> torch.Tensor:
    """Return the log-probability of every token except the first, in nats: (rows, longest row - 1); 0 at padding."""
    batch = {name: value.to(model.device) for name, value in collate(rows, pad_token_id).items()}
    ids = batch["input_ids"]
    labels = ids.masked_fill(batch["attention_mask"] == 0, IGNORED)
    with torch.no_grad():
        output = model(
            input_ids=ids, position_ids=batch["position_ids"], labels=labels, use_cache=False, fused_lm_head=True
        )
    log_probs: torch.Tensor = output.log_probs
    return log_probs
