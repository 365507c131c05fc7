"""The 25 instructions and final answers: texts that follow them or not, and comparison with lm-evaluation-harness."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest

from srlm.data.checkers import CHECKERS, IFEVAL, follows, follows_loosely, sentences, validate, words
from srlm.data.languages import script
from srlm.types import Constraint

AT_LEAST, LESS = "at least", "less than"
GERMAN = "Der Hund schläft heute lange, weil es draußen regnet und niemand mit ihm spazieren gehen möchte."
ENGLISH = "The dog sleeps late today because it is raining outside and nobody wants to go for a walk with him."
# Instruction, its arguments, texts that follow it, texts that violate it.
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
    (
        "length_constraints:number_words",
        {"num_words": 3, "relation": LESS},
        ["two words.", "हिन्दी बोलिए"],  # combining marks do not end a word
        ["now three words"],
    ),
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
    (
        "final_answer:choice",
        {"answer": "blue", "options": ["blue", "dark blue", "是", "不是", "चाय"]},
        ["Blue!", "**blue**"],
        ["dark blue", "blue or dark blue", "bluebell", "blue चाय"],
    ),
    ("final_answer:choice", {"answer": "不是", "options": ["是", "不是"]}, ["答案不是。"], ["答案是。", "是不是"]),
    ("final_answer:choice", {"answer": "चा", "options": ["चा", "चाय"]}, ["यह चा है"], ["यह चाय है"]),
    (
        "final_answer:label",
        {"answer": "B", "labels": ["A", "B", "C"]},
        [
            "B",
            "(B) A plant",
            "Answer: **B**",
            "A cat is no plant. The answer is B because C is not.",
            "A. no\nAnswer: B.",
        ],
        ["A", "b", "C, not B", "B. Answer: C", "Basil", "A plant"],
    ),
]


@pytest.mark.parametrize(("name", "kwargs", "good", "bad"), CASES)
def test_each_checker_accepts_and_rejects_texts(
    name: str, kwargs: dict[str, Any], good: list[str], bad: list[str]
) -> None:
    constraint = Constraint(name, kwargs)
    validate(constraint)
    assert [follows(constraint, text) for text in good] == [True] * len(good)
    assert [follows(constraint, text) for text in [*bad, "", " \n"]] == [False] * (len(bad) + 2)


def test_all_checkers_have_test_cases() -> None:
    assert {name for name, *_ in CASES} == set(CHECKERS)
    assert len(IFEVAL) == 25
    assert set(CHECKERS) - set(IFEVAL) == {"final_answer:number", "final_answer:choice", "final_answer:label"}


@pytest.mark.parametrize(
    "text",
    [
        "Sure, here it is:\nIt rains.\n***\nIt pours.",
        "It rains.\n***\nIt pours.\nHope that helps, bye!",
        "Sure, here:\nIt rains.\n***\nIt pours.\nAnything else, perhaps?",
    ],
)
def test_loose_checks_ignore_first_and_last_lines(text: str) -> None:
    constraint = Constraint("punctuation:no_comma", {})
    assert not follows(constraint, text)
    assert follows_loosely(constraint, text)


def test_loose_checks_ignore_asterisks() -> None:
    constraint = Constraint("startend:end_checker", {"end_phrase": "the end."})
    assert not follows(constraint, "It was **the end.**")
    assert follows_loosely(constraint, "It was **the end.**")
    assert not follows_loosely(constraint, "Is it?\nNo.\nNever.")
    assert not follows_loosely(Constraint("punctuation:no_comma", {}), "one, two")  # a single line is not removed
    assert not follows_loosely(Constraint("punctuation:no_comma", {}), "")


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        (
            "keywords:exists",
            {},
            r"unknown instruction 'keywords:exists'; use one of change_case:capital_word_frequency, ",
        ),
        ("punctuation:no_comma", {"n": 1}, r"punctuation:no_comma has the arguments none, but got n"),
        ("keywords:existence", {}, r"keywords:existence has the arguments keywords, but got none"),
        ("keywords:existence", {"keywords": []}, r"keywords is \[\], and must be a list of strings"),
        ("keywords:existence", {"keywords": "tea"}, r"keywords is 'tea', and must be a list of strings"),
        ("keywords:existence", {"keywords": [1]}, r"keywords is \[1\], and must be a list of strings"),
        ("detectable_format:number_bullet_lists", {"num_bullets": "3"}, r"num_bullets is '3', and must be an integer"),
        (
            "detectable_format:number_bullet_lists",
            {"num_bullets": True},
            r"num_bullets is True, and must be an integer",
        ),
        ("startend:end_checker", {"end_phrase": ""}, r"end_phrase is '', and must be a string"),
        (
            "length_constraints:number_words",
            {"relation": "exactly", "num_words": 3},
            r"relation is 'exactly', and must be 'at least' or 'less than'",
        ),
    ],
)
def test_invalid_instructions_are_refused(name: str, kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        validate(Constraint(name, kwargs))


# Comparison with other implementations


@pytest.fixture(scope="module")
def nltk_data(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Yield NLTK with Punkt's data: installed ones if present, otherwise those of the package punkt."""
    nltk, punkt = pytest.importorskip("nltk"), pytest.importorskip("punkt")
    from nltk.tokenize.punkt import PunktParameters, save_punkt_params

    model, parameters = punkt.load_model("english"), PunktParameters()
    parameters.abbrev_types, parameters.sent_starters = set(model.abbrev_types), set(model.sent_starters)
    parameters.collocations, parameters.ortho_context = set(model.collocations), dict(model.ortho_context)
    folder = tmp_path_factory.mktemp("nltk_data")
    nltk.data.path.append(str(folder))  # NLTK writes and reads only below these paths
    english = folder / "tokenizers" / "punkt_tab" / "english"
    english.mkdir(parents=True)
    save_punkt_params(parameters, english)
    yield nltk
    nltk.data.path.remove(str(folder))


@pytest.fixture(scope="module")
def harness(nltk_data: Any) -> Any:
    """Yield lm-evaluation-harness's checkers, unchanged except for langdetect's seed."""
    patch = pytest.MonkeyPatch()
    patch.setattr(pytest.importorskip("langdetect").DetectorFactory, "seed", 0)
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
    *("..", "....", "…", "‘", "’", "«", "»", "–", "—", "`", "``", "''", "_", "~", "^", "|", "\\", "+", "=", "@", "&"),
    *("'TIS", "D'YE", "MORE'N", "GOTTA", "LEMME", "WANNA", "WANNA ", "I'LL", "O'CLOCK", "ROCK'N'ROLL", "N'T", "'S"),
    *("NO.1", "A.B", "X.", "Y.)", 'Z."', "P.S.?", "WOW!!!", "WHAT?!", "2,000", "A,B", "A;B", "A@B.COM", "AT&T", "C++"),
    *("\u2028", "\x0b", "\x85", "\xa0", "\u3000", "\r\n", "\t", "\u200b", "👍", "ПРИВЕТ", "한국어", "Ǆ", "ⅷ", "Ⓐ"),
    *("आपकी चाय", "שָׁלוֹם", "กินข้าว", "e\u0301"),
]


def unusual_texts(count: int, seed: int) -> list[str]:
    """Return random texts of up to 24 `PIECES`, joined with and without blanks."""
    rng = random.Random(seed)
    return [rng.choice(["", "", " "]).join(rng.choices(PIECES, k=rng.randint(0, 24))) for _ in range(count)]


def test_unusual_texts_give_the_results_of_the_harness(harness: Any) -> None:
    """Hundreds of short texts with unusual punctuation under every instruction of `CASES`."""
    rng = random.Random(7)
    cases = [Constraint(name, kwargs) for name, kwargs, *_ in CASES if name in IFEVAL]
    cases = [one for one in cases if one.kwargs.get("letter") != "#"]  # the harness accepts only letters
    cases = [one for one in cases if one.kwargs.get("language") != "zh"]  # langdetect returns zh-cn
    cases = [one for one in cases if not any("." in str(v) or "+" in str(v) for v in _keywords(one))]  # regexes there
    assert len(cases) > 24
    for text in unusual_texts(400, seed=7):
        if script(text) == "han":
            continue
        for constraint in cases:
            if constraint.id != "language:response_language" or rng.random() < 0.1:
                assert_same(harness, constraint, text)


def test_arguments_with_surrounding_blanks_match_the_harness(harness: Any) -> None:
    constraints = [
        Constraint("keywords:frequency", {"keyword": " tea ", "frequency": 2, "relation": AT_LEAST}),
        Constraint("detectable_content:postscript", {"postscript_marker": " P.S. "}),
        Constraint("detectable_format:multiple_sections", {"section_spliter": " Section ", "num_sections": 2}),
        Constraint("startend:end_checker", {"end_phrase": " Bye. "}),
    ]
    texts = [
        "teatea",
        "tea",
        "So.\nP.S. x",
        "So. P. S. x",
        "Section 1 Section 2",
        "Section1\nSection2",
        "a bye.",
        "bye",
    ]
    for constraint in constraints:
        for text in texts:
            assert_same(harness, constraint, text)
        assert len({follows(constraint, text) for text in texts}) == 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("*NOTE*this", 1),  # NLTK splits at an asterisk
        ("AND..SO", 2),  # and at two full stops
        ("WAIT....GO", 2),
        ("A.B", 1),
        ("BLACK–WHITE", 2),  # an en dash, but not a hyphen
        ("BLACK-WHITE", 1),
        ("‘YES’", 1),
        ("DON'T. WON'T.", 4),
        ("IT'S O'CLOCK", 3),
        ("'TWAS 'TIS", 2),
        ("D'YE GIMME", 4),
        ("1 2 3 % * ..", 0),
        ("NASA's", 1),
        ("MOTTO:GO,NOW;YES", 4),
        ("3:30PM", 1),
        ("C++", 1),
        ("iPHONE", 0),
    ],
)
def test_capitalised_words_are_split_as_in_nltk(nltk_data: Any, text: str, expected: int) -> None:
    assert sum(word.isupper() for word in nltk_data.word_tokenize(text)) == expected
    for count, holds in ((expected, True), (expected + 1, False)):
        kwargs = {"capital_frequency": count, "capital_relation": AT_LEAST}
        assert follows(Constraint("change_case:capital_word_frequency", kwargs), text) is holds


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Does it end with P.S.?", ["Does it end with P.S.", "?"]),
        ("So loud!! Stop.", ["So loud!!", "Stop."]),
        ("A pause.\n.\n.\nThen more.", ["A pause.", ".", ".", "Then more."]),
        ("Dr. Smith left at 5 p.m. today.", ["Dr. Smith left at 5 p.m. today."]),
    ],
)
def test_sentences_are_split_as_in_nltk(nltk_data: Any, text: str, expected: list[str]) -> None:
    assert sentences(text) == nltk_data.sent_tokenize(text) == expected


def test_unusual_texts_give_the_tokens_of_nltk(nltk_data: Any) -> None:
    for text in unusual_texts(3000, seed=8):
        assert words(text) == nltk_data.word_tokenize(text)
        if script(text) != "han":
            assert sentences(text) == nltk_data.sent_tokenize(text)


def test_human_texts_give_the_tokens_of_nltk(nltk_data: Any, shared_data: Path) -> None:
    """IFEval's 541 prompts and 80 of MT-Bench, unchanged and with unusual punctuation between their words."""
    rng = random.Random(9)
    texts = []
    for name in ("eval_prompts_ifeval_541_native.jsonl", "eval_prompts_mt_bench_80.jsonl"):
        rows = map(json.loads, (shared_data / name).read_text(encoding="utf-8").splitlines())
        texts += [value for row in rows for value in row.values() if isinstance(value, str)]
    for text in texts:
        parts = [part + (rng.choice(PIECES) if rng.random() < 0.2 else "") for part in re.split(r"(?<= )", text)]
        for one in (text, text.upper(), "".join(parts), "".join(parts).upper()):
            assert words(one) == nltk_data.word_tokenize(one)
            if script(one) != "han":
                assert sentences(one) == nltk_data.sent_tokenize(one)


def _keywords(constraint: Constraint) -> list[Any]:
    return [constraint.kwargs.get(name) for name in ("keyword", "keywords", "forbidden_words")]


def test_ifeval_instructions_give_the_results_of_the_harness(harness: Any, shared_data: Path) -> None:
    """All 834 instructions are checked on texts written by humans and on their prompts."""
    lines = (shared_data / "eval_prompts_ifeval_541_native.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    written = (shared_data / "eval_prompts_self_instruct_252.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [row["reference"] if "reference" in row else json.dumps(row) for row in map(json.loads, written)]
    count = 0
    for number, row in enumerate(rows):
        for name, kwargs in zip(row["instruction_id_list"], row["kwargs"], strict=True):
            validate(Constraint(name, kwargs))
            if len(kwargs.get("letter", "a")) == 1 and not kwargs.get("letter", "a").isalpha():
                continue  # the harness refuses "#", which occurs in the file
            for text in (row["prompt"], texts[number % len(texts)]):
                assert_same(harness, Constraint(name, kwargs), text)
                count += 1
    assert count > 1600


# Languages of short texts

SHORT_ENGLISH = (  # langdetect takes each for another language
    "grey and drizzly all day.",
    "number,square,cube\n2,4,8\n3,9,27",
    "- DRINK PLENTY OF WATER\n- EAT MORE GREEN VEGETABLES\n- WALK FOR AN HOUR",
)
SHORT_OTHERS = {
    "de": "Der Fluss fließt durch die Stadt und mündet ins Meer.",
    "fr": "La rivière traverse la ville avant de rejoindre la mer.",
    "es": "El río atraviesa la ciudad y llega hasta el mar.",
    "it": "Il fiume attraversa la città e arriva fino al mare.",
    "zh": "这条河穿过城市，流入大海。",
    "ru": "Река течёт через город и впадает в море.",
}


def in_language(code: str) -> Constraint:
    return Constraint("language:response_language", {"language": code})


def test_languages_of_short_texts_are_detected_if_ifevals_detector_is_not_asked_for() -> None:
    english = in_language("en")
    assert not any(follows(english, text) for text in SHORT_ENGLISH)  # IFEval's published behaviour, the default
    assert all(follows(english, text, published=False) for text in SHORT_ENGLISH)
    for code, text in SHORT_OTHERS.items():
        assert follows(in_language(code), text, published=False), code
        assert not follows(english, text, published=False), code
        assert not follows(in_language("pt" if code != "zh" else "ja"), text, published=False), code


def test_short_texts_keep_the_rest_of_their_constraint() -> None:
    lowercase, capitals = Constraint("change_case:english_lowercase"), Constraint("change_case:english_capital")
    day, _, water = SHORT_ENGLISH
    assert not follows(lowercase, day)
    assert follows(lowercase, day, published=False)
    assert not follows(lowercase, day.capitalize(), published=False)
    assert not follows(lowercase, SHORT_OTHERS["de"].lower(), published=False)
    assert not follows(capitals, water)
    assert follows(capitals, water, published=False)
    assert not follows(capitals, day, published=False)
    assert follows(in_language("en"), "1234", published=False)  # no letters: undetected, as for IFEval
    assert not follows(in_language("en"), " ", published=False)


def test_longer_texts_are_checked_as_published(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("srlm.data.checkers.in_languages", lambda *_: pytest.fail("the text is long"))
    for text in (ENGLISH, f"{GERMAN} {GERMAN}"):
        assert len(text.split()) >= 20
        assert (
            follows(in_language("en"), text, published=False) == follows(in_language("en"), text) == (text == ENGLISH)
        )
