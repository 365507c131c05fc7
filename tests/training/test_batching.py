"""srlm.training.batching: the weighted mean under gradient accumulation, packing, and the order of examples."""

from __future__ import annotations

import random
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from scipy.stats import pearsonr as correlation

from srlm.errors import ConfigError
from srlm.training import batching as batches
from srlm.training.encoding import encode
from srlm.training.methods.sft import SFTConfig, TrainOn
from tests.helpers import tiny_llama, tiny_tokenizer, user

RATE = 0.5
CHATS = [
    [*user("Hi?"), {"role": "assistant", "content": "Hello."}],
    [*user("Why is the sky blue?"), {"role": "assistant", "content": "Because it is."}],
    [*user("Name a river of the north."), {"role": "assistant", "content": "No"}],
    [*user("a"), {"role": "assistant", "content": "The Elbe, and then the Rhine."}],
]


def columns_of(train_on: TrainOn, prompt_weight: float = 0.3) -> dict[str, list[list[Any]]]:
    encoded = encode(tiny_tokenizer(), {"ift": CHATS}, SFTConfig(train_on=train_on, prompt_weight=prompt_weight))
    return {"input_ids": encoded.input_ids, "labels": encoded.labels, "weights": encoded.weights}


def model(attention: str = "sdpa") -> Any:
    made = tiny_llama(len(tiny_tokenizer()), seed=0)
    made.set_attn_implementation(attention)
    return made


def step(
    columns: dict[str, list[list[Any]]],
    folder: Path,
    micro: int = 4,
    rows: int = 4,
    weighted: bool = True,
    attention: str = "sdpa",
) -> tuple[float, dict[str, torch.Tensor]]:
    """Run one step of gradient descent with the real trainer; return the logged loss and the gradients."""
    row, gradients = logged_step(columns, folder, micro, rows, weighted, attention)
    return row["loss"], gradients


def logged_step(
    columns: dict[str, list[list[Any]]], folder: Path, micro: int, rows: int, weighted: bool, attention: str = "sdpa"
) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    """Return the log of one step, with each loss if there is a column "sources", and the gradients."""
    from datasets import Dataset
    from trl import SFTConfig as Arguments
    from trl import SFTTrainer

    tokenizer, policy = tiny_tokenizer(), model(attention)
    before = {name: weight.detach().clone() for name, weight in policy.named_parameters()}
    kind, mixed = batches.weighted_trainer() if weighted else SFTTrainer, "sources" in columns
    extra = weighted or mixed
    trainer = (batches.by_source(kind) if mixed else kind)(
        model=policy,
        args=Arguments(
            output_dir=str(folder), use_cpu=True, bf16=False, report_to="none", save_strategy="no", disable_tqdm=True,
            optim="sgd", learning_rate=RATE, lr_scheduler_type="constant", max_grad_norm=0.0, max_steps=1,
            per_device_train_batch_size=micro, gradient_accumulation_steps=rows // micro, gradient_checkpointing=False,
            train_sampling_strategy="sequential", max_length=None, logging_steps=1, remove_unused_columns=not extra,
        ),
        train_dataset=Dataset.from_dict(columns),
        processing_class=tokenizer,
    )  # fmt: skip
    if weighted:
        trainer.data_collator = partial(batches.collate, pad_token_id=tokenizer.pad_token_id)
    if mixed:
        trainer.data_collator = batches.with_sources(trainer.data_collator)
    trainer.train()
    after = dict(policy.named_parameters())
    gradients = {name: (before[name] - after[name].detach()) / RATE for name in before}
    return trainer.state.log_history[0], gradients


def by_hand(columns: dict[str, list[list[Any]]]) -> tuple[float, dict[str, torch.Tensor]]:
    """Return the sum of w * -log p over the sum of w, with each example run by itself, and its gradients."""
    policy = model()
    total, weights = torch.tensor(0.0), 0.0
    for ids, of_tokens in zip(columns["input_ids"], columns["weights"], strict=True):
        log_probs = policy(torch.tensor([ids])).logits[0].log_softmax(-1)
        for place in range(1, len(ids)):
            total = total - of_tokens[place] * log_probs[place - 1, ids[place]]
            weights += of_tokens[place]
    (total / weights).backward()
    return float(total.detach() / weights), {name: weight.grad for name, weight in policy.named_parameters()}


def assert_same(one: tuple[float, dict[str, torch.Tensor]], other: tuple[float, dict[str, torch.Tensor]]) -> None:
    assert one[0] == pytest.approx(other[0], rel=1e-4)  # logged values are rounded
    for name, gradient in one[1].items():
        torch.testing.assert_close(gradient, other[1][name], rtol=1e-3, atol=2e-6)


@pytest.mark.parametrize("train_on", TrainOn, ids=lambda choice: choice.name)
@pytest.mark.parametrize("micro", [4, 1], ids=lambda micro: f"{micro} at once")
def test_loss_is_the_weighted_token_mean_for_any_micro_batch(train_on: TrainOn, micro: int, tmp_path: Path) -> None:
    """Examples differ in length and weight, so a mean of micro-batch means would differ."""
    columns = columns_of(train_on)
    assert_same(step(columns, tmp_path, micro), by_hand(columns))


@pytest.mark.parametrize("micro", [4, 1], ids=lambda micro: f"{micro} at once")
@pytest.mark.parametrize("train_on", [TrainOn.completion, TrainOn.weighted], ids=lambda choice: choice.name)
def test_the_losses_of_ift_and_eft_are_logged_apart_and_change_nothing(
    micro: int, train_on: TrainOn, tmp_path: Path
) -> None:
    columns, weighted = columns_of(train_on), train_on is TrainOn.weighted
    if not weighted:
        plain = {name: columns[name] for name in ("input_ids", "labels")}
    of_rows = [1, 0, 1, 1]
    sources = {"sources": [[source] * len(ids) for source, ids in zip(of_rows, columns["input_ids"], strict=True)]}
    row, gradients = logged_step((columns if weighted else plain) | sources, tmp_path, micro, 4, weighted)
    for source, name in enumerate(batches.SOURCES):
        some = {
            key: [one for one, of in zip(rows, of_rows, strict=True) if of == source] for key, rows in columns.items()
        }
        assert row[f"loss_{name}"] == pytest.approx(by_hand(some)[0], rel=1e-4)
    assert_same((row["loss"], gradients), by_hand(columns))


def test_mean_of_example_means_differs_from_the_token_mean() -> None:
    columns = columns_of(TrainOn.weighted)
    each = [by_hand({name: [rows[n]] for name, rows in columns.items()})[0] for n in range(len(CHATS))]
    assert sum(each) / len(each) != pytest.approx(by_hand(columns)[0], rel=1e-3)


@pytest.mark.parametrize(("weight", "same"), [(0.0, TrainOn.completion), (1.0, TrainOn.all)])
@pytest.mark.parametrize("micro", [4, 1], ids=lambda micro: f"{micro} at once")
def test_prompt_weights_of_0_and_1_equal_trls_loss(weight: float, same: TrainOn, micro: int, tmp_path: Path) -> None:
    weighted = step(columns_of(TrainOn.weighted, weight), tmp_path, micro)
    plain = {name: rows for name, rows in columns_of(same).items() if name != "weights"}
    loss, gradients = step(plain, tmp_path, micro, weighted=False)
    assert weighted[0] == loss
    for name, gradient in gradients.items():
        torch.testing.assert_close(weighted[1][name], gradient, rtol=0, atol=1e-6)


# Packing


def test_packed_rows_contain_every_example_once() -> None:
    columns = columns_of(TrainOn.weighted)
    lengths = [len(ids) for ids in columns["input_ids"]]
    packed = batches.pack(columns, max(lengths) + 30)
    assert len(packed["input_ids"]) < len(lengths)
    assert sorted(length for row in packed["seq_lengths"] for length in row) == sorted(lengths)
    found = []
    for n, ids in enumerate(packed["input_ids"]):
        assert len(ids) == sum(packed["seq_lengths"][n]) <= max(lengths) + 30
        start = 0
        for length in packed["seq_lengths"][n]:
            found.append(tuple(tuple(packed[name][n][start : start + length]) for name in columns))
            start += length
    assert sorted(found) == sorted(zip(*(map(tuple, rows) for rows in columns.values()), strict=True))


def test_collate_restarts_positions_for_each_example_and_masks_padding() -> None:
    rows = [
        {
            "input_ids": [5, 6, 7, 8, 9],
            "labels": [-100, 6, -100, 8, 9],
            "weights": [0, 1, 0, 0.5, 1],
            "seq_lengths": [2, 3],
        },
        {"input_ids": [4, 3], "labels": [-100, 3], "weights": [0, 1], "seq_lengths": [2]},
    ]
    batch = batches.collate(rows, pad_token_id=1)
    assert {name: value.tolist() for name, value in batch.items()} == {
        "input_ids": [[5, 6, 7, 8, 9], [4, 3, 1, 1, 1]],
        "labels": [[-100, 6, -100, 8, 9], [-100, 3, -100, -100, -100]],
        "weights": [[0.0, 1.0, 0.0, 0.5, 1.0], [0.0, 1.0, 0.0, 0.0, 0.0]],
        "attention_mask": [[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]],
        "position_ids": [[0, 1, 0, 1, 2], [0, 1, 0, 0, 0]],
    }


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("train_on", [TrainOn.completion, TrainOn.weighted], ids=lambda choice: choice.name)
def test_packing_keeps_loss_and_gradients(train_on: TrainOn, attention: str, tmp_path: Path) -> None:
    columns = columns_of(train_on)
    packed = batches.pack(columns, 120)
    rows = len(packed["input_ids"])
    assert rows == 2
    micro = 1 if attention == "eager" else 2
    assert_same(step(packed, tmp_path, micro, rows, attention=attention), by_hand(columns))


def with_head(policy: Any) -> Any:
    from trl.trainer.utils import add_fused_lm_head

    add_fused_lm_head(policy)
    return policy


def packed_rows() -> list[dict[str, list[Any]]]:
    packed = batches.pack(columns_of(TrainOn.all), 120)
    return [{name: values[n] for name, values in packed.items()} for n in range(len(packed["input_ids"]))]


def test_model_that_separates_packed_examples_is_accepted() -> None:
    policy = with_head(model().train())
    difference = batches.check_apart(policy, packed_rows(), tiny_tokenizer().pad_token_id)
    assert 0 < difference < 1e-4
    assert policy.training


def test_rows_of_single_examples_are_not_checked() -> None:
    [row] = [row for row in packed_rows() if len(row["seq_lengths"]) > 1][:1]
    assert batches.check_apart(None, batches._examples(row), 0) == 0.0


def test_model_with_attention_across_packed_examples_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The patch makes the attention mask ignore positions, as some architectures do."""
    from transformers import masking_utils

    monkeypatch.setattr(masking_utils, "find_packed_sequence_indices", lambda position_ids: None)
    with pytest.raises(ConfigError, match=r"sft\.packing=true does not work with this model \(llama, attention sdpa\)"):
        batches.check_apart(with_head(model()), packed_rows(), tiny_tokenizer().pad_token_id)


def test_packing_with_a_state_space_model_is_refused() -> None:
    """Mamba carries its state across the examples of a row and ignores positions."""
    from transformers import MambaConfig, MambaForCausalLM

    torch.manual_seed(0)
    config = MambaConfig(vocab_size=len(tiny_tokenizer()), hidden_size=32, num_hidden_layers=2, state_size=4)
    with pytest.raises(ConfigError, match=r"sft\.packing=true does not work with this model \(mamba"):
        batches.check_apart(with_head(MambaForCausalLM(config)), packed_rows(), tiny_tokenizer().pad_token_id)


@pytest.mark.parametrize("cut", ["cp_enabled", "sp_enabled"])
def test_sequence_parallelism_is_refused(cut: str) -> None:
    found = SimpleNamespace(**{"cp_enabled": False, "sp_enabled": False} | {cut: True})
    batches.check_whole(SimpleNamespace(accelerator=SimpleNamespace(parallelism_config=None)))
    with pytest.raises(ConfigError, match=r"sft\.accelerate_config splits sequences"):
        batches.check_whole(SimpleNamespace(accelerator=SimpleNamespace(parallelism_config=found)))


def judged(prompts: int, seed: int) -> tuple[list[str], list[int], list[int]]:
    """Return groups, lengths and scores of judge examples: two answers per prompt, the better one longer."""
    number = random.Random(seed)
    groups, lengths, scores = [], [], []
    for prompt in range(prompts):
        short = number.randint(50, 400)
        groups += [f"p{prompt}"] * 2
        lengths += [short, short + number.randint(1, 300)]
        scores += [1, 5]
    return groups, lengths, scores


def in_steps(order: list[int], size: int) -> list[list[int]]:
    return [order[start : start + size] for start in range(0, len(order), size)]


def test_step_contains_better_and_worse_answers_of_the_same_prompts():
    """Batching by length alone would give steps of a single score, in descending order within each pass."""
    groups, lengths, scores = judged(150, seed=0)
    steps = in_steps(list(batches.Steps(groups, lengths, 4, seed=1)), 4)
    assert all(sum(scores[place] for place in step) == 12 for step in steps)
    assert all(len({groups[place] for place in step}) == 2 for step in steps)
    means = [sum(lengths[place] for place in step) for step in steps]
    rises = sum(one < other for one, other in pairwise(means)) / (len(means) - 1)
    assert 0.4 < rises < 0.6  # steps are not ordered by length
    assert abs(correlation(means, range(len(means)))[0]) < 0.25


def test_each_epoch_has_every_example_once_in_a_new_order():
    groups, lengths, _ = judged(33, seed=1)
    groups, lengths = [*groups, "alone", "three", "three", "three"], [*lengths, 7, 900, 20, 300]
    sampler = batches.Steps(groups, lengths, 4, seed=2)
    passes = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        passes.append(list(sampler))
        assert sorted(passes[-1]) == list(range(70))
        assert len(sampler) == 70
        assert list(sampler) == passes[-1]
    assert passes[0] != passes[1] != passes[2]
    again = batches.Steps(groups, lengths, 4, seed=2)
    assert list(again) == passes[0]
    assert list(batches.Steps(groups, lengths, 4, seed=3)) != passes[0]
    assert list(batches.Steps([], [], 4, seed=0)) == []
    assert sorted(batches.Steps(["a"] * 9, [1] * 9, 4, seed=0)) == list(range(9))  # a group larger than a step


def test_groups_are_not_split_where_others_fill_the_step() -> None:
    """50 single IFT examples between prompts with two to four answers: each prompt's answers are in one step."""
    sizes = [4] * 30 + [3] * 20 + [2] * 9 + [1] * 50
    groups = [group for group, size in enumerate(sizes) for _ in range(size)]
    lengths = [(7 * index) % 31 for index in range(len(groups))]
    sampler = batches.Steps(groups, lengths, 4, seed=0)
    for epoch in range(3):
        sampler.set_epoch(epoch)
        order = list(sampler)
        assert sorted(order) == list(range(len(groups)))
        steps = in_steps(order, 4)
        split = [
            group for group, size in enumerate(sizes) if sum(group in {groups[i] for i in one} for one in steps) > 1
        ]
        assert len(split) <= 1, f"epoch {epoch}: {len(split)} groups are split"


def test_step_examples_have_similar_lengths():
    """Rows are padded to the longest of their step, so similar lengths save padding compared with random order."""
    groups, lengths, _ = judged(400, seed=2)
    order = random.Random(0).sample(range(800), 800)

    def padded(order: list[int]) -> int:
        return sum(len(step) * max(lengths[place] for place in step) for step in in_steps(order, 8))

    padding, at_random = padded(list(batches.Steps(groups, lengths, 8, 0))) - sum(lengths), padded(order) - sum(lengths)
    assert padding < 0.7 * at_random
