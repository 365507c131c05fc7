"""srlm.evaluation.contamination: prompts that count as seen in training, and the message about them."""

from __future__ import annotations

import random

import pytest

from srlm.evaluation.contamination import GRAM, Contamination, contamination
from srlm.evaluation.record import Contaminated
from srlm.types import SeedExample

WORDS = [f"w{n}" for n in range(200)]


def found(evaluation: dict[str, str], *training: str) -> Contamination:
    return contamination([SeedExample(id, text, "") for id, text in evaluation.items()], training)


def text(start: int, count: int) -> str:
    return " ".join(WORDS[start : start + count])


@pytest.mark.parametrize(
    ("prompt", "training"),
    [
        ("Why is the sky blue?", "why is  the sky BLUE"),  # case, spaces and punctuation do not matter
        ("Why is the sky blue?", "Ｗｈｙ is the sky blue"),  # the width of letters does not matter
        ("天空为什么是蓝色的？", "天空为什么 是蓝色的"),
        ("?!", "?!"),
        ("اِشْرَحْ كَيْفَ تُعَدُّ القَهْوَةُ", "اشرح كيف تعد القهوة"),  # vowel signs do not matter
        ("चाय कैसे बनाते हैं?", "चाय कैसे बनाते हैं।"),
        ("กินน้ำ", "กิน น้ำ"),
    ],
)
def test_equal_normalised_prompts_are_exact_matches(prompt, training):
    assert found({"v0": prompt, "v1": "Name a river."}, "Something else.", training).exact == ("v0",)


@pytest.mark.parametrize(
    ("prompt", "training"),
    [
        ("Why is the sky blue?", "Why is the sky blue at noon?"),  # short: only a full match counts
        ("Name a river.", ""),
        ("", ""),
        ("  ", "  "),
        (text(0, GRAM - 1) + " end", text(0, GRAM - 1) + " stop"),  # a 12-gram
        ("天空为什么是蓝色的", "天空为什么是蓝色的呢"),
        ("मेरा बेटा रोता है, क्या करूँ?", "मेरी बेटी रोती है, क्या करूँ?"),  # a son and a daughter
        ("เขากิน", "เขากัน"),
    ],
)
def test_shorter_overlaps_are_no_contamination(prompt, training):
    assert found({"v0": prompt}, training).excluded == ()


@pytest.mark.parametrize(
    ("prompt", "training"),
    [
        ("Sum up: " + text(0, GRAM), text(50, 20) + " " + text(0, GRAM) + " " + text(90, 5)),
        (text(0, 40), text(27, GRAM).upper()),
        ("请用一句话总结这段话床前明月光疑是地上霜举头望", "翻译床前明月光疑是地上霜举头望"),  # thirteen characters
        ("อ่านแล้วสรุปกินข้าวกับไข่เจียวทุกเช้า", "กินข้าวกับไข่เจียวเย็น"),  # กิ น ข้ า ว กั บ ไ ข่ เ จี ย ว
    ],
)
def test_shared_13_grams_are_contamination(prompt, training):
    result = found({"v0": prompt, "v1": "Name a river."}, training)
    assert (result.exact, result.thirteen_gram) == ((), ("v0",))


def test_each_evaluation_prompt_counts_once():
    result = found({"v0": text(0, 20), "v1": text(0, 20), "v2": text(3, 17), "v3": "x"}, text(0, 20), text(2, 20))
    assert result.part() == Contaminated(prompts=4, excluded=3, exact=2, thirteen_gram=1, ids=("v0", "v1", "v2"))


def test_hashing_matches_exhaustive_comparison():
    draw = random.Random(0)
    words = [f"x{n:04}" for n in range(3000)]

    def part(longest: int) -> str:
        start, count = draw.randrange(3000), draw.randrange(10, longest)
        return " ".join(words[start : start + count])

    evaluation = {f"v{n}": part(22) for n in range(60)}
    training = [part(60) for _ in range(60)] + [evaluation["v7"]]
    shared = {
        id
        for id, prompt in evaluation.items()
        for i in range(0, len(prompt) - 6 * GRAM + 2, 6)
        if any(prompt[i : i + 6 * GRAM - 1] in row for row in training)
    }
    same = {id for id, prompt in evaluation.items() if prompt in training}
    result = found(evaluation, *training)
    assert set(result.excluded) == shared | same
    assert 5 < len(shared) < 55
    assert "v7" in result.exact


def test_training_prompts_may_be_an_iterator():
    assert contamination([], iter(["a"])) == Contamination(0, (), ())
    assert contamination([SeedExample("v0", "a b", "")], (t for t in ["a", "a b"])).exact == ("v0",)


def test_message_names_counts_and_prompt_ids():
    assert Contamination(4, (), ()).message("M1") == ""
    some = Contamination(9, ("v3",), ("v1", "v2", "v4", "v5", "v6")).message("M2")
    assert some.startswith(
        "M2: 6 of 9 evaluation prompts are in its training prompts (1 exact, 5 with a shared 13-gram) "
    )
    assert some.endswith(": v1, v2, v3, v4, v5, ...")
    assert "data.evaluation" in Contamination(1, ("v0",), ()).message("M1")


# Wording that many prompts share

WORDING = "Your entire response should be in English, and in all lowercase letters. No capital letters are allowed."
TOPICS = [
    f"Describe {name} to a child in two sentences."
    for name in ["rain", "iron", "tea", "snow", "salt", "gold", "milk", "moss", "clay", "wind"]
]


def asked(topics: list[str], wording: str = WORDING) -> dict[str, str]:
    return {f"v{n}": f"{topic} {wording} Say why it matters {n} times." for n, topic in enumerate(topics)}


def test_wording_of_many_evaluation_prompts_is_no_contamination() -> None:
    """Five of ten evaluation prompts have the wording between other texts; four of them are not enough."""
    evaluation = asked(TOPICS[:5]) | {f"w{n}": topic for n, topic in enumerate(TOPICS[5:])}
    training = f"Tell a joke about a goat. {WORDING} Keep it clean."
    assert found(evaluation, training).excluded == ()
    del evaluation["v4"]
    assert found(evaluation, training).excluded == ("v0", "v1", "v2", "v3")


def test_wording_of_two_evaluation_prompts_and_many_of_training_is_no_contamination() -> None:
    training = [
        f"Tell a joke about a {name}. {WORDING} Keep it clean." for name in ("goat", "cow", "pig", "hen", "fox")
    ]
    assert found(asked(TOPICS[:2]), *training).excluded == ()
    assert found(asked(TOPICS[:2]), *training[:4]).excluded == ("v0", "v1")
    assert found(asked(TOPICS[:1]), *training).excluded == ("v0",)  # it may be the prompt itself that leaked
    assert found(asked(TOPICS[:2]), *[training[0]] * 5).excluded == ("v0", "v1")  # one prompt, five times


def test_own_words_next_to_shared_wording_are_contamination() -> None:
    """A 13-gram counts with 7 words of the prompt's own and 6 of the wording, and not with 6 and 7."""
    own = text(0, 20)
    evaluation = asked(TOPICS[:5]) | {"own": f"{own} {WORDING}"}
    assert found(evaluation, f"{own} {WORDING}").exact == ("own",)
    wording = WORDING.split()
    for count, excluded in ((7, ("own",)), (6, ())):
        training = " ".join(["Translate:", *own.split()[-count:], *wording[: GRAM - count], "now"])
        assert found(evaluation, training).excluded == excluded
