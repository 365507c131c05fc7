"""The 25 instructions and final answers: on texts that follow and that do not, and against lm-evaluation-harness."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from srlm.checkers import CHECKERS, IFEVAL, follows, follows_loosely, sentences, validate
from srlm.records import Constraint

AT_LEAST, LESS = "at least", "less than"
GERMAN = "Der Hund schläft heute lange, weil es draußen regnet und niemand mit ihm spazieren gehen möchte."
ENGLISH = "The dog sleeps late today because it is raining outside and nobody wants to go for a walk with him."
# Instruction, its arguments, texts that follow it, texts that do not.
CASES: list[tuple[str, dict[str, Any], list[str], list[str]]] = [
    ("keywords:existence", {"keywords": ["sea", "Moon"]}, ["The MOON moves the seas."], ["The moon.", "The s.a, moon"]),
    (
        "keywords:frequency",
        {"keyword": "tea", "frequency": 2, "relation": AT_LEAST},
        ["Tea for tea", "teatea"],
        ["One tea", "te a te a"],
    ),
    ("keywords:frequency", {"keyword": "a.c", "frequency": 1, "relation": LESS}, ["abc"], ["a.c"]),
    ("keywords:forbidden_words", {"forbidden_words": ["cat", "a+"]}, ["concatenate"], ["A cat!", "a fat CAT"]),
    (
        "keywords:letter_frequency",
        {"letter": "#", "let_frequency": 2, "let_relation": AT_LEAST},
        ["##", "#a#"],
        ["# a"],
    ),
    ("keywords:letter_frequency", {"letter": "Q", "let_frequency": 2, "let_relation": LESS}, ["quick"], ["Quick quiz"]),
    ("language:response_language", {"language": "de"}, [GERMAN, "1234"], [ENGLISH]),
    (
        "language:response_language",
        {"language": "zh"},
        ["今天下雨，所以我们都留在家里看书，喝了很多热茶，还给在国外工作的姐姐写了一封很长的信。"],
        [ENGLISH],
    ),
    (
        "length_constraints:number_sentences",
        {"num_sentences": 2, "relation": AT_LEAST},
        ["Dr. Smith left. He was tired.", "今天下雨。我在家。"],
        ["Dr. Smith left at 5 p.m. today.", "今天下雨，我在家。"],
    ),
    ("length_constraints:number_sentences", {"num_sentences": 2, "relation": LESS}, ["One!"], ["One! Two!"]),
    ("length_constraints:number_words", {"num_words": 3, "relation": AT_LEAST}, ["a-b c", "I'm it"], ["two words."]),
    ("length_constraints:number_words", {"num_words": 3, "relation": LESS}, ["two words."], ["now three words"]),
    (
        "length_constraints:number_paragraphs",
        {"num_paragraphs": 2},
        ["One.\n***\nTwo.", "***\nOne.\n***\nTwo.\n***"],
        ["One.\n\nTwo.", "One.\n***\n***\nTwo.", "One***two***three"],
    ),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "moon"},
        ["Sun.\n\nMoon, and more.", 'Sun.\n\n"Moon" is a word.'],
        ["Sun.\n\nMoons.", "Moon.\n\nSun.", "Sun.\nMoon.", "Sun.\n\nMoon.\n\nStars.", "Sun.\n\n\n\nMoon."],
    ),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, ["[name] [address]"], ["[name]", "[a\nb] [c]"]),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, ["Bye.\nP.S. milk", "p. s. x"], ["Bye.\nPS milk"]),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, ["P.P.S. milk", "P. P. S"], ["P.S. milk"]),
    ("detectable_content:postscript", {"postscript_marker": "NB:"}, ["So.\nnb: this"], ["So. nb this"]),
    (
        "detectable_format:number_bullet_lists",
        {"num_bullets": 2},
        ["* one\n* two", "- one\n  - two", "* **one**\n- two"],
        ["* one", "**one**\n**two**", "* a\n* b\n* c", "1. a\n2. b"],
    ),
    (
        "detectable_format:constrained_response",
        {},
        ["My answer is yes.", "Well. My answer is maybe."],
        ["Yes.", "my answer is no."],
    ),
    (
        "detectable_format:number_highlighted_sections",
        {"num_highlights": 2},
        ["*one* and **two**", "**one** **two**"],
        ["*one*", "** ** *  *", "*a\nb* *c\nd*"],
    ),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "SECTION", "num_sections": 2},
        ["SECTION 1\na\nSECTION 2\nb", "SECTION1 SECTION2"],
        ["SECTION 1", "Section 1\nSection 2", "SECTION A SECTION B"],
    ),
    (
        "detectable_format:json_format",
        {},
        ['{"a": 1}', "```json\n[1, 2]\n```", "```\n3\n```"],
        ["{'a': 1}", 'Here: {"a": 1}', "[" * 100_000],
    ),
    ("detectable_format:title", {}, ["<<Rain>>\nIt rains."], ["<Rain>", "<<>>", "<< >>", "<<a\nb>>"]),
    (
        "combination:two_responses",
        {},
        ["One.\n******\nTwo.", "******\nOne.\n******\nTwo.\n******"],
        ["One.", "One.\n******\nOne.", "One.\n******\n******\nTwo.", "a******b******c"],
    ),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Say hi. "}, ["say HI. Hi."], ["Hi.", "Sure. Say hi. Hi."]),
    ("startend:end_checker", {"end_phrase": "The End."}, ["So it was. the end. ", '"The end."'], ["The end. Or not?"]),
    ("startend:quotation", {}, ['"Hi."', ' "a" or "b" '], ["Hi.", '"Hi.', '"', "'Hi.'"]),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 2, "capital_relation": AT_LEAST},
        ["NASA and ESA.", "DON'T", "I am I"],
        ["NASA and Esa.", "WELL-KNOWN words", "NASA's"],
    ),
    ("change_case:capital_word_frequency", {"capital_frequency": 1, "capital_relation": LESS}, ["small 7"], ["BIG"]),
    ("change_case:english_capital", {}, [ENGLISH.upper()], [ENGLISH, GERMAN.replace("ß", "SS").upper()]),
    ("change_case:english_lowercase", {}, [ENGLISH.lower(), "it is."], [ENGLISH, GERMAN.lower()]),
    ("punctuation:no_comma", {}, ["No such thing; none.", "全角，也行"], ["Well, one."]),
    (
        "final_answer:number",
        {"number": 1200},
        [
            "1,200",
            "3 * 400 = 1200.",
            "Answer: 1200.0",
            "7 and 8. answer : 1200 km",
            "answer: 5\nAnswer: 1200",
            "$1,200.00",
        ],
        ["1200 or 1300", "Answer: twelve hundred", "1200. Answer: 7", "-1200", "12 00", "1200\nAnswer:"],
    ),
    ("final_answer:number", {"number": -3}, ["-3", "5 - 8 = -3"], ["3", "5 -8"]),
    (
        "final_answer:choice",
        {"answer": "red", "options": ["red", "green", "dark blue"]},
        ["Red.", "It is RED", "Not green. Answer: red", "**red**"],
        ["green", "red or green", "reddish", "Red. Answer: dark blue", "Answer: dark  red-green"],
    ),
    (
        "final_answer:choice",
        {"answer": "mice", "options": ["mice"]},
        ["The plural of mouse is mice."],
        ["mices", "mouse"],
    ),
]


@pytest.mark.parametrize(("name", "kwargs", "good", "bad"), CASES)
def test_each_instruction(name: str, kwargs: dict[str, Any], good: list[str], bad: list[str]) -> None:
    constraint = Constraint(name, kwargs)
    validate(constraint)
    assert [follows(constraint, text) for text in good] == [True] * len(good)
    assert [follows(constraint, text) for text in [*bad, "", " \n"]] == [False] * (len(bad) + 2)


def test_all_are_tried() -> None:
    assert {name for name, *_ in CASES} == set(CHECKERS)
    assert len(IFEVAL) == 25
    assert set(CHECKERS) - set(IFEVAL) == {"final_answer:number", "final_answer:choice"}


@pytest.mark.parametrize(
    "text",
    [
        "Sure, here it is:\nIt rains.\n***\nIt pours.",
        "It rains.\n***\nIt pours.\nHope that helps, bye!",
        "Sure, here:\nIt rains.\n***\nIt pours.\nAnything else, perhaps?",
    ],
)
def test_loosely_the_first_and_last_lines_may_be_chat(text: str) -> None:
    constraint = Constraint("punctuation:no_comma", {})
    assert not follows(constraint, text)
    assert follows_loosely(constraint, text)


def test_loosely_asterisks_do_not_count() -> None:
    constraint = Constraint("startend:end_checker", {"end_phrase": "the end."})
    assert not follows(constraint, "It was **the end.**")
    assert follows_loosely(constraint, "It was **the end.**")
    assert not follows_loosely(constraint, "Is it?\nNo.\nNever.")
    assert not follows_loosely(Constraint("punctuation:no_comma", {}), "one, two")  # a single line is not cut away
    assert not follows_loosely(Constraint("punctuation:no_comma", {}), "")


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        ("keywords:exists", {}, r"no instruction 'keywords:exists'; there are change_case:capital_word_frequency, "),
        ("punctuation:no_comma", {"n": 1}, r"punctuation:no_comma takes no arguments, and was given n"),
        ("keywords:existence", {}, r"keywords:existence takes keywords, and was given nothing"),
        ("keywords:existence", {"keywords": []}, r"keywords is \[\], and must be a list of texts"),
        ("keywords:existence", {"keywords": "tea"}, r"keywords is 'tea', and must be a list of texts"),
        ("keywords:existence", {"keywords": [1]}, r"keywords is \[1\], and must be a list of texts"),
        ("detectable_format:number_bullet_lists", {"num_bullets": "3"}, r"num_bullets is '3', and must be a whole"),
        ("detectable_format:number_bullet_lists", {"num_bullets": True}, r"num_bullets is True, and must be a whole"),
        ("startend:end_checker", {"end_phrase": ""}, r"end_phrase is '', and must be a text"),
        (
            "length_constraints:number_words",
            {"relation": "exactly", "num_words": 3},
            r"relation is 'exactly', and must be 'at least' or 'less than'",
        ),
    ],
)
def test_what_is_no_instruction_is_refused(name: str, kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        validate(Constraint(name, kwargs))


# Against another implementation


@pytest.fixture(scope="module")
def harness() -> Any:
    """lm-evaluation-harness's checkers by id; Punkt's data, which it would fetch, come from the package punkt."""
    nltk = pytest.importorskip("nltk")
    detector = pytest.importorskip("langdetect").DetectorFactory
    words = nltk.word_tokenize

    class Punkt:
        def tokenize(self, text: str) -> list[str]:
            return sentences(text)

    patch = pytest.MonkeyPatch()
    patch.setattr(nltk, "download", lambda *_: True)
    patch.setattr(nltk.data, "load", lambda *_: Punkt())
    patch.setattr(
        nltk, "word_tokenize", lambda text: [w for s in sentences(text) for w in words(s, preserve_line=True)]
    )
    patch.setattr(detector, "seed", 0)
    yield pytest.importorskip("lm_eval.tasks.ifeval.utils")
    patch.undo()


def assert_same(harness: Any, constraint: Constraint, text: str) -> None:
    row = harness.InputExample(1, [constraint.id], "", [constraint.kwargs])
    strict = harness.test_instruction_following_strict(row, text).follow_instruction_list
    loose = harness.test_instruction_following_loose(row, text).follow_instruction_list
    assert [follows(constraint, text)] == strict, (constraint, text)
    assert [follows_loosely(constraint, text)] == loose, (constraint, text)


PIECES = [
    *("\n", "\n\n", " ", " ", " ", ". ", ", ", "! ", "***", "******", "* ", "- ", "**", "*", '"', "'", "[", "]", "<<"),
    *(">>", "SECTION 1", "P.S.", "P. P. S", "{}", "```", "```json", "1", "the", "The end.", "My answer is yes.", "Q"),
    *("DON'T", "CANNOT", "WELL-KNOWN", "NASA's", "A/B", "I'M", "U.S.", "--", "...", "3:30", "X:Y", "%", "§", "É", "ß"),
    *("moon", "MOON", "Hello there my friend", "Ein Tag am Meer", "Mr. Fox", "#", "“", "”", "(A)", "gonna", "GIMME"),
]


def test_as_the_harness_on_random_texts(harness: Any) -> None:
    """Hundreds of short and odd texts under every instruction of `CASES`."""
    rng = random.Random(7)
    cases = [Constraint(name, kwargs) for name, kwargs, *_ in CASES if name in IFEVAL]
    cases = [one for one in cases if one.kwargs.get("letter") not in ("#", "Q")]  # it takes small letters alone
    cases = [one for one in cases if one.kwargs.get("language") != "zh"]  # langdetect says zh-cn
    cases = [one for one in cases if not any("." in str(v) or "+" in str(v) for v in _words(one))]  # expressions there
    cases = [one for one in cases if one.id != "change_case:capital_word_frequency"]  # below
    assert len(cases) > 24
    for _ in range(400):
        text = "".join(rng.choices(PIECES, k=rng.randint(0, 24)))
        for constraint in cases:
            if constraint.id != "language:response_language" or rng.random() < 0.1:
                assert_same(harness, constraint, text)


def test_words_in_capitals_are_counted_as_the_harness_does(harness: Any) -> None:
    """On random sentences: what it does with heaps of punctuation is nobody's idea of a word."""
    rng = random.Random(8)
    words = ["DON'T", "CANNOT", "WELL-KNOWN", "NASA's", "A/B", "I'M", "U.S.", "3:30", "É", "ß", "the", "moon", "MOON"]
    words += [
        "(A)",
        "gonna",
        "GIMME",
        '"BIG"',
        "“YES”",
        "NO,",
        "SO:",
        "[X]",
        "WON'T",
        "it's",
        "C3PO",
        "42",
        "<B>",
        "A&B",
    ]
    for _ in range(1000):
        text = " ".join(rng.choices(words, k=rng.randint(1, 6))) + rng.choice(".!?") + rng.choice([" ", "\n", " -- "])
        text += " ".join(rng.choices(words, k=rng.randint(1, 6)))
        for count in (1, 3, 5):
            kwargs = {"capital_frequency": count, "capital_relation": AT_LEAST}
            assert_same(harness, Constraint("change_case:capital_word_frequency", kwargs), text)


def _words(constraint: Constraint) -> list[Any]:
    return [constraint.kwargs.get(name) for name in ("keyword", "keywords", "forbidden_words")]


def test_as_the_harness_on_every_instruction_of_ifeval(harness: Any, shared_data: Path) -> None:
    """All 834, on texts that people wrote and on the prompts themselves."""
    lines = (shared_data / "eval_prompts_ifeval_541_native.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    written = (shared_data / "eval_prompts_self_instruct_252.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [row["reference"] if "reference" in row else json.dumps(row) for row in map(json.loads, written)]
    count = 0
    for number, row in enumerate(rows):
        for name, kwargs in zip(row["instruction_id_list"], row["kwargs"], strict=True):
            validate(Constraint(name, kwargs))
            if len(kwargs.get("letter", "a")) == 1 and not kwargs.get("letter", "a").isalpha():
                continue  # it refuses "#", which the file has
            for text in (row["prompt"], texts[number % len(texts)]):
                assert_same(harness, Constraint(name, kwargs), text)
                count += 1
    assert count > 1600
