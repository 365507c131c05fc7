"""srlm.training.methods.kto: labelled answers as token ids, weights, mismatched answers, and a hand-computed loss."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from srlm.cli.check import check
from srlm.config import Config
from srlm.errors import ConfigError, NoPairsError, TrainingError
from srlm.models.chat import encode_turn
from srlm.training.methods.kto import (
    KTO,
    KTOConfig,
    answers_of,
    encode_answers,
    mismatched_answers,
    shuffled,
    weights_of,
)
from srlm.training.worker import train
from srlm.types import LabelledAnswer, PreferencePair
from tests.helpers import options, tiny_tokenizer, user

END = "<|im_end|>"
PAIR = PreferencePair("p0", "Hi?", "Good day.", "No.", "p0/c0", "p0/c1", 5.0, 1.0, rejected_truncated=True)


def answer(prompt: str, completion: str, label: bool) -> LabelledAnswer:
    return LabelledAnswer(f"{prompt}/{completion}", prompt, completion, label, 5.0 if label else 1.0)


ROWS = [
    *(answer("Name a river.", text, label) for text, label in (("The Nile.", True), ("No.", False), ("Sure!", False))),
    *(answer("Why is the sky blue?", text, label) for text, label in (("It scatters.", True), ("Paint.", False))),
    answer("Add 1 and 2.", "3", True),
]


def test_answers_end_with_the_end_of_turn_unless_truncated() -> None:
    tokenizer = tiny_tokenizer()
    columns, too_long = encode_answers(tokenizer, answers_of(PAIR), 1000)
    assert [tokenizer.decode(ids) for ids in columns["completion_ids"]] == [f"Good day.{END}", "No."]
    assert columns["prompt_ids"] == [encode_turn(tokenizer, user("Hi?"), "")[0]] * 2
    assert (columns["label"], too_long) == ([True, False], 0)


def test_preference_pair_gives_a_desirable_and_an_undesirable_answer() -> None:
    assert answers_of(PAIR) == [
        LabelledAnswer("p0/c0", "Hi?", "Good day.", True, 5.0),
        LabelledAnswer("p0/c1", "Hi?", "No.", False, 1.0, truncated=True),
    ]


@pytest.mark.parametrize("row", [replace(PAIR, target=0.9), replace(PAIR, weight=2.0), replace(ROWS[0], weight=0.5)])
def test_weights_and_targets_are_refused(row: LabelledAnswer | PreferencePair) -> None:
    with pytest.raises(TrainingError, match=r"kto uses neither.*pairs\.policy"):
        answers_of(row)


def test_too_long_answers_are_excluded_and_both_labels_are_needed() -> None:
    tokenizer = tiny_tokenizer()
    rows = [*ROWS[:2], answer("Name a river.", "x" * 300, False)]
    found = KTO().encode(tokenizer, rows, KTOConfig(max_length=120), Config())
    assert (found.counts["answers"], found.counts["desirable"], found.counts["too_long"]) == (2, 1, 1)
    with pytest.raises(NoPairsError, match="there are 1 desirable and 0 undesirable ones"):
        KTO().encode(tokenizer, [ROWS[0], rows[2]], KTOConfig(max_length=120), Config())


@pytest.mark.parametrize(
    ("desirable", "undesirable", "weights"),
    [(10, 10, (1, 1)), (4, 3, (1, 1)), (10, 20, (2, 1)), (1, 9, (9, 1)), (20, 10, (1, 1.5)), (8, 1, (1, 6))],
)
def test_rarer_label_gets_the_smallest_balancing_weight(
    desirable: int, undesirable: int, weights: tuple[float, float]
) -> None:
    found = weights_of(desirable, undesirable, KTOConfig())
    assert found == pytest.approx(weights)
    assert 1 - 1e-9 <= found[0] * desirable / (found[1] * undesirable) <= 4 / 3 + 1e-9


def test_configured_weights_are_used() -> None:
    assert weights_of(1, 9, KTOConfig(desirable_weight=3.0)) == (3.0, 1.0)
    assert weights_of(1, 9, KTOConfig(undesirable_weight=0.5)) == (1.0, 0.5)


def test_mismatched_answer_is_the_next_to_another_prompt() -> None:
    columns = {"prompt_ids": [[1], [1], [2], [3], [3], [4]], "completion_ids": [[10], [11], [12], [13], [14], [15]]}
    assert mismatched_answers(columns, 3) == [[12], [12], [10], [15], [15], [13]]
    assert mismatched_answers(columns, 5)[5] == [10]  # alone in the last micro-batch
    same_prompt = {"prompt_ids": [[1], [1]], "completion_ids": [[10], [11]]}
    assert mismatched_answers(same_prompt, 2) == [[11], [10]]


def test_micro_batch_of_one_is_refused() -> None:
    config = Config()
    config.kto.micro_batch_size = 1
    with pytest.raises(ConfigError, match=r"kto\.micro_batch_size=1 .*2 or more"):
        check(config)


def log_prob(model: object, prompt: list[int], completion: list[int]) -> float:
    """Return the log-probability of an answer in nats, computed from the logits."""
    ids = torch.tensor([[*prompt, *completion]])
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0].double().numpy()  # type: ignore[operator]
    places = range(len(prompt) - 1, len(prompt) + len(completion) - 1)
    return sum(float(logits[p, t] - np.logaddexp.reduce(logits[p])) for p, t in zip(places, completion, strict=True))


@pytest.mark.e2e
def test_loss_of_the_first_step_equals_the_papers_formula(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """The reference is another model, so rewards and z0 are not 0; there are two micro-batches of three answers."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    reference = tmp_path / "reference"
    other = AutoModelForCausalLM.from_pretrained(tiny_checkpoint)
    torch.manual_seed(1)
    for weight in other.parameters():
        weight.data += 0.02 * torch.randn_like(weight)
    other.save_pretrained(reference)
    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)
    tokenizer.save_pretrained(reference)
    size = ("kto.batch_size=6", "kto.micro_batch_size=3", "kto.beta=0.3", "kto.dtype=float32", "kto.reference=base")
    config = options("experiment=smoke", "method=kto", *size, "kto.undesirable_weight=2", "kto.lora.enabled=true")
    counts = train(KTO(), ROWS, tiny_checkpoint, tmp_path / "model", config, seed=5, reference=reference)

    policy = AutoModelForCausalLM.from_pretrained(tiny_checkpoint).eval()
    pi_ref = AutoModelForCausalLM.from_pretrained(reference).eval()
    columns = shuffled(encode_answers(tokenizer, ROWS, 1024)[0], 5)
    wrong = mismatched_answers(columns, 3)

    def reward(prompt: list[int], completion: list[int]) -> float:
        return log_prob(policy, prompt, completion) - log_prob(pi_ref, prompt, completion)

    losses = []
    for start in (0, 3):
        rows = range(start, start + 3)
        prompts, completions, labels = ([values[i] for i in rows] for values in columns.values())
        z0 = max(0.0, float(np.mean([reward(p, wrong[i]) for i, p in zip(rows, prompts, strict=True)])))
        for prompt, completion, desirable in zip(prompts, completions, labels, strict=True):
            gain = 0.3 * (reward(prompt, completion) - z0) * (1 if desirable else -1)
            losses.append((1.0 if desirable else 2.0) * (1 - 1 / (1 + np.exp(-gain))))
    first = json.loads((tmp_path / "kto_log.jsonl").read_text().splitlines()[0])
    assert first["loss"] == pytest.approx(np.mean(losses), rel=1e-4)
    assert abs(np.mean(losses) - 0.75) > 1e-3  # 0.75 is the loss without any reward
    assert (counts["desirable_weight"], counts["undesirable_weight"]) == (1.0, 2.0)
    assert counts["reference_check_difference"] > 0


@pytest.mark.e2e
def test_lora_reference_is_the_start_model(tiny_checkpoint: Path, tmp_path: Path) -> None:
    config = options("experiment=smoke", "method=kto", "kto.dtype=float32", "kto.epochs=8", "kto.learning_rate=1e-3")
    counts = train(KTO(), ROWS, tiny_checkpoint, tmp_path / "model", config)
    log = [json.loads(line) for line in (tmp_path / "kto_log.jsonl").read_text().splitlines()]
    steps = [row for row in log if "loss" in row]
    assert counts["reference_check_difference"] < 1e-4
    assert steps[0]["loss"] == pytest.approx(0.5, abs=1e-4)  # all rewards are 0, and the weights are 1
    assert steps[0]["kl"] == pytest.approx(0, abs=1e-4)
    assert steps[-1]["rewards/margins"] > 0.01
    assert steps[-1]["loss"] < steps[0]["loss"]
    assert counts["saved_kept"] == pytest.approx(1, abs=1e-2)
    assert set(KTO.metrics) <= {name for row in steps for name in row}
