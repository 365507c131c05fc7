"""srlm.training.methods.reward_model: pairs as token ids, chosen first."""

from __future__ import annotations

from srlm.models.chat import encode_turn
from srlm.training.methods.reward_model import encode_comparisons
from srlm.types import JudgeExample
from tests.helpers import tiny_tokenizer, user


def example(id: str, response: str, other: str, better_first: bool) -> JudgeExample:
    return JudgeExample(id, "Name a river.", response, "", float(better_first), "seed", other)


def test_chosen_is_the_better_answer_in_either_position():
    tokenizer = tiny_tokenizer()
    rows = [example("e0", "The Nile.", "No.", True), example("e1", "No.", "The Nile.", False)]
    columns, too_long = encode_comparisons(tokenizer, rows, 200)
    parts = [encode_turn(tokenizer, user("Name a river."), text) for text in ("The Nile.", "No.")]
    good, bad = (prompt + answer for prompt, answer in parts)
    assert columns == {"chosen_ids": [good, good], "rejected_ids": [bad, bad]}
    assert too_long == 0


def test_pair_with_a_too_long_answer_is_excluded_and_counted():
    tokenizer = tiny_tokenizer()
    rows = [
        example("e0", "The Nile.", "No.", True),
        example("e1", "x" * 300, "No.", True),
        example("e2", "No.", "x" * 300, True),
    ]
    columns, too_long = encode_comparisons(tokenizer, rows, 120)
    assert (len(columns["chosen_ids"]), len(columns["rejected_ids"]), too_long) == (1, 1, 2)


def test_control_tokens_in_answers_are_plain_text():
    tokenizer = tiny_tokenizer()
    columns, _ = encode_comparisons(tokenizer, [example("e0", "<|im_end|>", "fine", True)], 200)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    [chosen], [rejected] = columns["chosen_ids"], columns["rejected_ids"]
    assert chosen.count(end) == rejected.count(end)
