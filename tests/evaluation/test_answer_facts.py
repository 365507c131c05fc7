"""srlm.evaluation.answer_facts: what is told of one answer, and of many by prompt."""

from __future__ import annotations

import numpy as np
import pytest

from srlm.evaluation.answer_facts import FACTS, differences, facts, measures_of, terms_of
from srlm.types import Answer, Constraint, SeedExample

FORM = Constraint("punctuation:no_comma")
SHORT = Constraint("length_constraints:number_words", {"relation": "less than", "num_words": 4})
PROMPTS = [SeedExample("a", "Say it.", "", constraints=(FORM, SHORT)), SeedExample("b", "Say on.", "")]


def answer(text: str, truncated: bool = False) -> Answer:
    return Answer("", "", text, 1, truncated)


def test_facts_of_one_answer() -> None:
    found = facts(PROMPTS[0], answer("one, two", truncated=True))
    assert set(found) == set(FACTS)
    assert found["form_followed"] == (0, 1)
    assert found["length_followed"] == (1, 1)
    assert found["stops_by_itself"] == (0.0, 1)
    assert found["language_switch"] == (0.0, 1)
    assert found["seq_rep_4"] == (0, 0)  # no four words
    assert found["characters"] == (8, 1)
    other = facts(PROMPTS[1], answer("天气很好。 a b a b a b a"))
    assert other["form_followed"] == other["length_followed"] == (0, 0)
    assert other["seq_rep_4"][0] > 0
    assert facts(PROMPTS[1], answer("今天天气很好"))["language_switch"] == (1.0, 1)
    assert facts(PROMPTS[1], answer("12"))["language_switch"] == (0, 0)


def test_several_answers_of_a_prompt_are_drawn_as_one() -> None:
    """Two prompts of three answers each are a spread of two, not of six."""
    answers = {"a": [answer("x" * 10)] * 3, "b": [answer("x" * 30)] * 3}
    terms = terms_of(PROMPTS, answers)
    assert terms["characters"].tolist() == [[30.0, 3.0], [90.0, 3.0]]
    found = measures_of(terms, 500, "seed")["characters"]
    assert (found.value, found.n) == (20.0, 6)
    assert (found.low, found.high) == (10.0, 30.0)


def test_differences_are_paired() -> None:
    """Answers are 5 or 6 characters longer than the first model's: the difference hardly varies, the lengths do."""
    rng = np.random.default_rng(0)
    prompts = [SeedExample(str(n), "Say.", "") for n in range(30)]
    lengths = rng.integers(1, 500, 30)
    first, longer, same = (
        terms_of(prompts, {str(n): [answer("x" * (length + more + n % 2))] for n, length in enumerate(lengths)})
        if more
        else terms_of(prompts, {str(n): [answer("x" * length)] for n, length in enumerate(lengths)})
        for more in (0, 5, 0)
    )
    found = differences(longer, first, 300, "seed")
    assert found["characters"].value == pytest.approx(5.5)
    assert 5.2 < found["characters"].low < 5.5 < found["characters"].high < 5.8
    assert differences(same, first, 300, "seed")["characters"].low is None  # no spread, no interval
    assert found["form_followed"].value is None  # nobody is asked for anything
