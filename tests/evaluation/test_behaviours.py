"""srlm.evaluation.behaviours: rates where asked for and where not, by hand, and what the sentences claim."""

from __future__ import annotations

from typing import Any

import pytest

from srlm.data.checkers import IFEVAL
from srlm.evaluation.behaviours import WORDS, behaviour_sentence, behaviours_part
from srlm.evaluation.measures import Measure
from srlm.evaluation.record import Evaluation, Instructions, Measures
from srlm.metrics import find
from srlm.types import Answer, Constraint, SeedExample

NO_COMMA = Constraint("punctuation:no_comma")
COMMA, END, MANY, FEW = (
    "punctuation:no_comma",
    "startend:end_checker",
    "length_constraints:number_words at least",
    "length_constraints:number_words less than",
)


def ends(phrase: str) -> Constraint:
    return Constraint("startend:end_checker", {"end_phrase": phrase})


def words(relation: str, count: int) -> Constraint:
    return Constraint("length_constraints:number_words", {"relation": relation, "num_words": count})


def prompts(**constraints: tuple[Constraint, ...]) -> list[SeedExample]:
    return [SeedExample(id, f"{id}?", "", constraints=asked) for id, asked in constraints.items()]


def answers(**texts: str) -> list[Answer]:
    return [Answer(id, f"{id}?", text, 1, False) for id, text in texts.items()]


def part(
    asked: list[SeedExample], now: list[Answer], before: list[Answer] | None = None
) -> dict[str, tuple[float | None, int]]:
    """Return "BEHAVIOUR MEASURE" -> value and n."""
    found = behaviours_part(asked, now, before, 100, "seed")
    return {f"{name} {key}": (one.value, one.n) for name, of in found.items() for key, one in of.items()}


def test_rates_are_over_prompts_that_ask_and_over_the_others() -> None:
    asked = prompts(a=(NO_COMMA,), b=(NO_COMMA,), c=(), d=(ends("Bye."),), e=())
    found = part(asked, answers(a="so", b="so, so", c="so", d="so, so. Bye.", e="so, so"))
    assert found == {
        f"{COMMA} asked": (0.5, 2),
        f"{COMMA} not_asked": (pytest.approx(1 / 3), 3),
        f"{COMMA} obedience": (pytest.approx(1 / 6), 2),
        f"{END} asked": (1.0, 1),
        f"{END} not_asked": (0.0, 4),
        f"{END} obedience": (1.0, 1),
    }


def test_other_prompts_are_checked_with_all_distinct_arguments() -> None:
    """Two distinct phrases: c ends with one of them, d with none. Equal arguments of two prompts count once."""
    asked = prompts(a=(ends("Bye."),), b=(ends("The end."),), f=(ends("Bye."),), c=(), d=())
    found = part(asked, answers(a="so. Bye.", b="so. Bye.", f="so", c="so. Bye.", d="so"))
    assert found[f"{END} asked"] == (pytest.approx(1 / 3), 3)  # b has the phrase of another prompt
    assert found[f"{END} not_asked"] == (0.25, 2)


def test_ten_of_many_arguments_are_used() -> None:
    """Of 30 phrases in order, those with 0, 3, ..., 27."""
    asked = prompts(**{f"a{n:02}": (ends(f"End {n:02}."),) for n in range(30)}, c=(), d=())
    found = part(asked, answers(c="so. End 03.", d="so. End 04."))
    assert found[f"{END} not_asked"] == (pytest.approx(0.1 / 2), 2)


def test_relations_of_one_instruction_are_two_behaviours() -> None:
    """Prompt b, which asks for few words, counts neither as asking for many words nor as not asking."""
    asked = prompts(a=(words("at least", 3),), b=(words("less than", 3),), c=())
    found = part(asked, answers(a="one", b="one two three", c="one two three"))
    assert found[f"{MANY} asked"] == (0.0, 1)
    assert found[f"{MANY} not_asked"] == (1.0, 1)
    assert found[f"{FEW} asked"] == (0.0, 1)
    assert found[f"{FEW} not_asked"] == (0.0, 1)


def test_several_constraints_of_a_prompt_are_averaged() -> None:
    keywords = [Constraint("keywords:existence", {"keywords": [word]}) for word in ("rain", "snow")]
    found = part(prompts(a=tuple(keywords), c=()), answers(a="rain", c="snow and rain"))
    assert found["keywords:existence asked"] == (0.5, 1)
    assert found["keywords:existence not_asked"] == (1.0, 1)


def test_arguments_come_from_all_prompts_and_rates_from_the_answered_ones() -> None:
    asked = prompts(a=(ends("Bye."),), b=(ends("The end."),), c=())
    found = part(asked, answers(a="so. Bye.", c="so. The end."))  # b has no answer
    assert found[f"{END} asked"] == (1.0, 1)
    assert found[f"{END} not_asked"] == (0.5, 1)


def test_final_answers_and_repeated_prompts_are_no_behaviours() -> None:
    own = (
        Constraint("final_answer:number", {"number": 7}),
        Constraint("combination:repeat_prompt", {"prompt_to_repeat": "a"}),
    )
    assert part(prompts(a=own, b=()), answers(a="a 7", b="7")) == {}
    assert part(prompts(a=()), answers(a="so")) == {}
    assert WORDS.keys() == set(IFEVAL) - {"combination:repeat_prompt"}


def test_gains_are_differences_on_common_prompts() -> None:
    asked = prompts(a=(NO_COMMA,), b=(NO_COMMA,), c=(), d=())
    now = answers(a="so", b="so", c="so", d="so, so")
    found = part(asked, now, answers(a="so, so", b="so", c="so, so"))
    assert found[f"{COMMA} asked_gain"] == (0.5, 2)
    assert found[f"{COMMA} not_asked_gain"] == (1.0, 1)  # c; M_t-1 has no answer to d
    assert found[f"{COMMA} obedience_gain"] == (-0.5, 2)
    assert f"{COMMA} asked_gain" not in part(asked, now)


def many(asked: tuple[int, int], other: tuple[int, int]) -> tuple[Measures, Measures]:
    """Return the measures of no commas of two models, each on 30 prompts that ask and 30 others.

    `asked` and `other` are the numbers of answers without commas, of both models.
    """
    rows = prompts(**{f"a{n}": (NO_COMMA,) for n in range(30)}, **{f"o{n}": () for n in range(30)})

    def of_model(place: int) -> list[Answer]:
        counts = {"a": asked[place], "o": other[place]}
        texts = {f"{group}{n}": "so" if n < counts[group] else "so, so" for group in "ao" for n in range(30)}
        return answers(**texts)

    before, now = of_model(0), of_model(1)
    return tuple(behaviours_part(rows, one, then, 100, "seed")[COMMA] for one, then in ((before, None), (now, before)))  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("asked", "other", "expected"),
    [
        ((10, 28), (10, 28), "rose from 33 % to 93 % where not asked for: a habit, not obedience."),
        ((10, 10), (10, 28), "rose from 33 % to 93 % where not asked for: a habit, not obedience."),
        ((0, 30), (10, 22), "rose from 33 % to 73 % where not asked for: a habit, besides obedience."),
        ((10, 28), (10, 10), "rose from 33 % to 93 % where asked for: obedience."),
        ((28, 10), (10, 10), "fell from 93 % to 33 % where asked for: less obedience."),
        ((10, 10), (28, 10), "fell from 93 % to 33 % where not asked for: less of a habit."),
        ((10, 10), (10, 10), ""),
        ((10, 12), (10, 12), ""),  # within the intervals
    ],
)
def test_sentence_tells_habit_from_obedience(asked: tuple[int, int], other: tuple[int, int], expected: str) -> None:
    sentence = behaviour_sentence(COMMA, *many(asked, other))
    assert sentence == (f"answers without commas {expected}" if expected else "")


def given(asking: int, /, **gains: tuple[float, float, float]) -> Any:
    """Return measures with these gains, and that number of prompts that ask."""
    share = {"asked": Measure(0.5, 0.4, 0.6, asking), "not_asked": Measure(0.9, 0.8, 0.95, 40)}
    none = dict.fromkeys(("asked_gain", "not_asked_gain", "obedience_gain"), Measure(0.0, None, None, 1))
    return share | none | {f"{name}_gain": Measure(*values, 30) for name, values in gains.items()}


BEFORE: Any = {"asked": Measure(0.4, 0.3, 0.5, 9), "not_asked": Measure(0.3, 0.2, 0.4, 40)}


@pytest.mark.parametrize(("low", "said"), [(0.0, False), (0.001, True), (-0.001, False)])
def test_change_is_only_said_beyond_its_interval(low: float, said: bool) -> None:
    assert bool(behaviour_sentence(COMMA, BEFORE, given(9, not_asked=(0.6, low, 0.7)))) is said
    assert bool(behaviour_sentence(COMMA, BEFORE, given(9, asked=(0.6, low, 0.7)))) is said


def test_obedience_is_not_denied_without_enough_prompts_that_ask() -> None:
    rose = {"not_asked": (0.6, 0.5, 0.7)}
    few = behaviour_sentence(COMMA, BEFORE, given(4, **rose, obedience=(0.5, 0.4, 0.6)))
    assert few == "answers without commas rose from 30 % to 90 % where not asked for: a habit."
    undefined = behaviour_sentence(COMMA, BEFORE, given(9, **rose))
    assert undefined.endswith(": a habit.")
    known = behaviour_sentence(COMMA, BEFORE, given(5, **rose, obedience=(0.0, -0.1, 0.1)))
    assert known.endswith(": a habit, not obedience.")
    assert behaviour_sentence(COMMA, BEFORE, given(4, asked=(0.1, 0.05, 0.2))) == ""


def test_relation_and_small_changes_are_written_out() -> None:
    small: Any = BEFORE | {"not_asked": Measure(0.897, 0.8, 0.9, 40)}
    sentence = behaviour_sentence(FEW, small, given(9, not_asked=(0.003, 0.001, 0.005)))
    assert sentence.startswith("the given number of words (less than) rose from 89.7 % to 90.0 % where not asked for")


def test_measures_are_stored_and_described() -> None:
    before, now = many((10, 28), (10, 28))
    evaluation = Evaluation(1, instructions=Instructions(behaviours={COMMA: now, FEW: before}))
    assert Evaluation.from_dict(evaluation.to_dict()) == evaluation
    keys = [key for key, _ in evaluation.measures()]
    assert "instructions/behaviours_punctuation_no_comma_obedience_gain" in keys
    metrics = {key: find(key) for key in keys}
    assert all(metrics.values())
    gain = metrics["instructions/behaviours_punctuation_no_comma_not_asked_gain"]
    assert gain
    assert gain.heading == "punctuation no comma, not asked, change from the model before, pp"
    with pytest.raises(ValueError, match="expected"):
        Evaluation.from_dict({"iteration": 1, "instructions": {"behaviours": [1]}})
    old = {"iteration": 1, "instructions": {"groups": {}}}  # of a version without behaviours
    assert Evaluation.from_dict(old).instructions == Instructions()
    assert "behaviours" not in Evaluation.from_dict(old).to_dict().get("instructions", {})
