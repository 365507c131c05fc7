"""srlm.judges.parsing: the score or letter of a verdict; a missing verdict is missing, never a low score."""

from __future__ import annotations

import pytest

from srlm.judges.parsing import find_letter, find_verdict, parse_verdict, strip_verdict

VALID = {
    "plain": ("Score: 4", 4),
    "zero": ("Useless.\nScore: 0", 0),
    "top": ("Score: 5", 5),
    "last of two": ("Score: 5 would be too much.\nScore: 2", 2),
    "last of two on one line": ("Score: 1 Score: 3", 3),
    "last after an invalid one": ("Score: 9\nScore: 3", 3),
    "after the candidate's": ("It claims Score: 5, which is bold.\n\nScore: 1", 1),
    "bold line": ("**Score: 4**", 4),
    "bold word": ("**Score:** 4", 4),
    "bold word, colon outside": ("**Score**: 4", 4),
    "bold number": ("Score: **4**", 4),
    "of five": ("Score: 5/5", 5),
    "of five, spaced": ("Score: 3 / 5", 3),
    "full-width colon": ("Score：4", 4),
    "lower case": ("score: 4", 4),
    "upper case": ("SCORE: 4", 4),
    "no space": ("Score:4", 4),
    "space before the colon": ("Score : 4", 4),
    "number on the next line": ("Score:\n4", 4),
    "full stop": ("Score: 4.", 4),
    "comma and words": ("Score: 4, since it is clear.", 4),
    "text after it": ("Score: 4\nI hope this helps!", 4),
    "plus sign": ("Score: +3", 3),
    "leading zero": ("Score: 03", 3),
    "total": ("Total score: 4", 4),
    "CRLF": ("Fine.\r\nScore: 4\r\n", 4),
}
INVALID = {
    "empty": ("", "no verdict"),
    "none": ("A fair answer.", "no verdict"),
    "number alone": ("4", "no verdict"),
    "words": ("Score: four", "no verdict"),
    "another word": ("underscore: 3", "no verdict"),
    "plural": ("Scores: 3", "no verdict"),
    "cut off": ("It is fine.\nScore:", "no verdict"),
    "Arabic-Indic digits": ("Score: ٤", "no verdict"),
    "full-width digit": ("Score: ４", "no verdict"),
    "superscript": ("Score: ⁴", "no verdict"),
    "another scale": ("Score: 4/10", "another scale: Score: 4/10"),
    "another scale, full marks": ("Score: 10/10", "another scale: Score: 10/10"),
    "half": ("Score: 4.5", "not a whole number: 4.5"),
    "half, comma": ("Score: 4,5", "not a whole number: 4.5"),
    "too high": ("Score: 7", "out of range: 7"),
    "much too high": ("Score: 45", "out of range: 45"),
    "negative": ("Score: -1", "out of range: -1"),
    "invalid last one after a valid one": ("Score: 3\nScore: 7", "out of range: 7"),
}


@pytest.mark.parametrize(("completion", "score"), VALID.values(), ids=VALID)
def test_valid_verdicts_are_parsed(completion, score):
    assert parse_verdict(completion, 5) == (float(score), "")


@pytest.mark.parametrize(("completion", "problem"), INVALID.values(), ids=INVALID)
def test_invalid_verdicts_give_no_score_and_a_problem(completion, problem):
    assert parse_verdict(completion, 5) == (None, problem)


def test_the_scale_ends_at_max_score():
    assert parse_verdict("Score: 7", 10) == (7.0, "")
    assert parse_verdict("Score: 7/10", 10) == (7.0, "")
    assert parse_verdict("Score: 4/5", 10) == (None, "another scale: Score: 4/5")


def test_the_last_of_many_scores_counts():
    completion = "\n".join(f"Score: {i % 6}" for i in range(100))
    assert parse_verdict(completion, 5) == (float(99 % 6), "")


@pytest.mark.parametrize("filler", ["x", "no score ", "Score: 1 ", "** : / ", "文"])
def test_verdicts_after_long_rationales_are_parsed(filler):
    rationale = (filler * 10_000)[:10_000].strip()
    assert parse_verdict(f"{rationale}\nScore: 3", 5) == (3.0, "")


def test_numbers_with_too_many_digits_are_out_of_range():
    score, problem = parse_verdict("Score: " + "1" * 10_000, 5)
    assert score is None
    assert problem.startswith("out of range")


def test_scales_with_too_many_digits_are_another_scale():
    score, problem = parse_verdict("Score: 4/" + "1" * 10_000, 5)
    assert score is None
    assert problem.startswith("another scale")


# Scores in other words and on other scales

GIVEN = {
    "Score: 4": 4,
    "Score: 4.0": 4,
    "Score: 4,0": 4,
    "Score: 4.0/5": 4,
    "Score: 4/5.0": 4,
    "Total score: 4": 4,
    "**Score: 4**": 4,
    "Score: 4 out of 5": 4,
    "Score: 4 (out of 5)": 4,
    "Score: 4 of 5": 4,
    "Score: 4 (out of a possible 5)": 4,
    "Score: 4 out of five": 4,
    "Score：4（满分5分）": 4,
    "Score: 4分": 4,
    "Score: 4点": 4,
    "It is fine. Score: 4": 4,
    "(Score: 4)": 4,
    '"Score: 4"': 4,
    "Score: 4 because it is short": 4,
    "Score: 4 points": 4,
    "Score: 4 points.": 4,
    "Score: 4 - clear": 4,
    "Score: 4 – clear": 4,
    "Score: 4 (clear and short)": 4,
    "Score: 4 The answer is right.": 4,
    "Score: 4 ⭐": 4,
    "_Score_: 4": 4,
    "### Score: 4": 4,
    "<think>maybe Score: 5</think>\nScore: 3": 3,
    "maybe Score: 5 hm</think>Score: 3": 3,
    "Score: 3\nTo earn Score: 5 it would have to cite.": 3,
    "Score: 4 on a scale of 0 to 5": 4,
    "Score: 4 (0-5)": 4,
    "Score: 4 (on a scale from 0 to 5)": 4,
    "Helpfulness score: 4": 4,
    "The score: 4": 4,
    "Score: 4 of 5 points, since it is clear": 4,
    "Score: 3\n\nScore: 3": 3,
    "Score: 4 因为很好": 4,
    "Score:4，因为": 4,
    "Score: 4 / 5.": 4,
    "Score: `4`": 4,
    "Score: 4.\n\n": 4,
    "Score: **4/5**": 4,
    "adding up to a total score: 4": 4,
    "Score: 4 stars": 4,
    "Score: 3 (max 5)": 3,
    "Score: 4 pts": 4,
    "Score: 4, clear": 4,
    "Score: 4: clear": 4,
    "Score: 4 Xenon is named": 4,
    "Score: 4 out of the 5": 4,
    "Score: 4⁄5": 4,
    "Score: 4 sobre 5": 4,
    "Score: 4 because 10 sources are named": 4,
    "Score: 4/5 (names 10 sources)": 4,
    "Score: 4. It names 10 sources.": 4,
    "Score: 4 因为有10个例子": 4,
    "Score: 4 (scale: 0-5)": 4,
    "Score: -0": 0,
    "1. Clarity\n2. Depth\nScore: 4": 4,
    "Clarity score: 2\nDepth score: 1\nTotal score: 3": 3,
    "Clarity score: 2\nDepth score: 1\nScore: 3": 3,
    "Score: 3\nScore: 5 would need 10 sources.": 3,
}
NOT_GIVEN = [
    "Score: 3-4",
    "Score: 3 or 4",
    "Score: 3 to 4",
    "Score: 4e-1",
    "Score: 2½",
    "<think>maybe Score: 5",
    "Score: 4\n\n### Instruction: Say it. Score: 1",
    "Score: 4 (out of 10)",
    "Score: 4 of 10",
    "Score: 4/10",
    "Score: 4 out of ten",
    "The answer gives one fact. To earn Score: 5 it would also have to cite its",
    "To earn Score: 5 it would have to cite its source.",
    "Score: 5 would be too much.",
    "It falls short of Score: 5.",
    "Score: 3–4",
    "Score: 3 - 4",
    "Score: 3~4",
    "Score: 3, 4",
    "Score: 3, maybe 4",
    "Score: 3 (or 4)",
    "Score: 3 (maybe 4)",
    "Score: 4.5",
    "Score: 4½",
    "Score: 4²",
    "Score: 4%",
    "Score: 4+",
    "Score: 4±1",
    "Score: 4?",
    "Score: 4th",
    "Score: 4x",
    "Score: 3 and 4",
    "Score: 3到4",
    "Score: 3 或 4",
    "Score：4（满分10分）",
    "Score: 4 on a scale of 1 to 10",
    "Score: 4 on a scale from 0 to 10",
    "Score: 4 (0-10)",
    "Score: 4 points out of 10",
    "Score: 4 (max 10)",
    "Score: 4 von 10",
    "Score: 4 sur 10",
    "Score: 4-ish",
    "Score: 4٫5",
    "Score: 4٠",
    "Score: 1e1",
    "Score: 0x4",
    "Score: 3/4",
    "Score: 4.5/5",
    "Score: 4 to 5",
    "<thinking>Score: 5",
    "Score: 3\n<think>Score: 5",
    "Score: 4.5.6",
    "Score: 4 or five",
    "Score: 4 /10",
    "Score: 4\nUser: again\nScore: 1",
    "Score: 4\n---\nScore: 2\n---\nScore: 0",
    "Score: between 3 and 4",
    "Score: -1",
    "Score: 40",
    "Score: 4 ?",
    "Score: 3 / 4",
    "Score: 3...4",
    "Score: 3 <= 4",
    "Score: 3 → 4",
    # sums and joined numbers, with any sign or word
    *("Score: 2 + 2", "Score: 4 − 1", "Score: 4 × 1", "Score: 1 + 1 + 1 = 3", "Score: 4:5", "Score: 4|5", "Score: 4·5"),
    *("Score: 4'5", "Score: 4\\5", "Score: 4&5", "Score: 4 | 5", "Score: 4 point 5", "Score: 4 ½", "Score: 4/A"),
    *(
        "Score: 3か4",
        "Score: 3から4",
        "Score: 3および4",
        "Score: 3 या 4",
        "Score: 3 أو 4",
        "Score: 3 או 4",
        "Score: 3หรือ4",
    ),
    *("Score: 3 o 4", "Score: 3 y 4", "Score: 3 et 4", "Score: 3 или 4", "Score: 3또는 4"),
    # another scale, wherever the score's own clause names it
    *("Score: 4, out of 10", "Score: 4 - out of 10", "Score: 4 points (out of 10)", "Score: 4 (of max. 10)"),
    *("Score: 4 (scale 1-10)", "Score: 4 (scale: 0-10)", "Score: 4 [scale 0-10]", "Score: 4; scale 0-10"),
    *(
        "Score: 4点（10点満点）",
        "Score: 4分（总分10分）",
        "Score: 4分，满分10分",
        "Score: 4分(10分制)",
        "Score: 4（十分制）",
    ),
    *(
        "Score: 4 में से 10",
        "Score: 4 จาก 10",
        "Score: 4 من 10",
        "Score: 4 מתוך 10",
        "Score: 4 %",
        "Score: 4％",
        "Score: 4 ％",
    ),
    *("Score: 4-", "Score: 4 +", "Score: 4,000", "Score: 4.000"),
    # scores of something else
    *("Maximum score: 5", "Max score: 5", "Highest possible score: 5", "Minimum score: 0", "Previous score: 5"),
    *("F1-score: 1", "z-score: 2"),
    *("Clarity score: 1\nDepth score: 0", "Clarity score: 1. Depth score: 0.", "Clarity: Score: 1\nDepth: Score: 2"),
    *("1. Score: 1\n2. Score: 0", "(a) Score: 1\n(b) Score: 1", "Score: 4\nClarity score: 2"),
    # a judge that continued after its verdict
    *("Total score: 4\n\n### Instruction: Say it.\nTotal score: 1", "Score: 4 (clear)\n\nUser: Again.\nScore: 1"),
]


@pytest.mark.parametrize(("completion", "score"), GIVEN.items())
def test_scores_given_in_other_forms_are_parsed(completion, score):
    assert parse_verdict(completion, 5) == (float(score), "")
    assert parse_verdict(f"It is relevant and clear.\n{completion}", 5)[0] == score


@pytest.mark.parametrize("completion", NOT_GIVEN)
def test_mentioned_or_ambiguous_scores_are_not_parsed(completion):
    score, problem = parse_verdict(completion, 5)
    assert score is None
    assert problem


@pytest.mark.parametrize(
    ("completion", "problem"),
    [
        ("Score: 3 or 4", "more than one number: 3 or 4"),
        ("Score: 3-4", "more than one number: 3-4"),
        ("Score: 4e-1", "not a whole number: 4e-1"),
        ("Score: 2½", "not a whole number: 2½"),
        ("Score: 4 (out of 10)", "another scale: Score: 4 (out of 10)"),
        ("Score: 4\n\nUser: Once more.\nScore: 1", "different scores: 4, then 1"),
        ("<think>Score: 5", "no verdict"),
        ("To earn Score: 5 it lacks a source.", "no verdict"),
    ],
)
def test_the_problem_quotes_the_invalid_verdict(completion, problem):
    assert parse_verdict(completion, 5) == (None, problem)


def test_only_separate_verdict_lines_contradict_each_other():
    assert parse_verdict("Score: 4\nScore: 3", 5) == (3.0, "")
    assert parse_verdict("Score: 3\nClear.\nScore: 3", 5) == (3.0, "")
    assert parse_verdict("Score: 4\nNot so clear.\nScore: 3", 5) == (None, "different scores: 4, then 3")
    assert parse_verdict("Score: 4\nX\nScore: 3", 5) == (None, "different scores: 4, then 3")
    assert parse_verdict("Score: 2 at first.\nThen I saw the source.\nScore: 3", 5) == (3.0, "")
    assert parse_verdict("Clarity: Score: 1\nUse: Score: 2\nScore: 3", 5) == (3.0, "")
    assert parse_verdict("Score: 9\nScore: 3", 5) == (3.0, "")


@pytest.mark.parametrize(
    "completion", ["Fine.\nScore: 4\n", "Score: 4 out of 5.\n\n", "**Score: 4**\r\n", "Score:\n4\n", "\nScore: 4\n"]
)
def test_truncated_judgements_count_when_the_verdict_line_is_complete(completion):
    assert parse_verdict(completion, 5, truncated=True) == (4.0, "")


@pytest.mark.parametrize(
    "completion",
    [
        "Fine.\nScore: 4",
        "Fine.\nScore: 4\nIt",
        "Fine. Score: 4\n",
        "Fine.\nX Score: 4\n",
        "Score: 1",
        "The answer gives one fact. To earn Score: 5 it would also have to cite its",
        "Score: 4, since it is clear\n",
        "It is relevant and",
        "",
    ],
)
def test_truncated_judgements_with_incomplete_verdict_lines_are_missing(completion):
    assert parse_verdict(completion, 5, truncated=True) == (None, "no verdict")


@pytest.mark.parametrize(
    ("completion", "before", "digit"),
    [
        ("Fine.\nScore: 4", "Fine.\nScore: ", "4"),
        ("Score: **4**", "Score: **", "4"),
        ("**Score:** 4/5", "**Score:** ", "4"),
        ("Score:\n4", "Score:\n", "4"),
        ("Score:5", "Score:", "5"),
        ("Score: 4.0", "Score: ", "4"),
        ("Score: +3", "Score: +", "3"),
        ("Score: 03", "Score: 0", "3"),
        ("Score: 2, no:\nScore: 3.", "Score: 2, no:\nScore: ", "3"),
    ],
)
def test_find_verdict_returns_the_position_of_the_digit(completion, before, digit):
    verdict = find_verdict(completion, 5)
    assert verdict is not None
    assert (completion[: verdict.digit], completion[verdict.digit]) == (before, digit)


@pytest.mark.parametrize(
    ("completion", "rationale"),
    [
        ("It is fine.\n\n**Score: 4**", "It is fine."),
        ("It is fine.\n**Score:** 4/5\n", "It is fine."),
        ("It is fine. Score: 4", "It is fine."),
        ("Score: 4\nSince it is fine.", ""),
        ("  It is fine. \n", "It is fine."),
        ("Score: 2 at first.\nBetter now.\nScore: 3", "Score: 2 at first.\nBetter now."),
        ("", ""),
        ("<think>Score: 5?</think>\nIt is fine.\nScore: 4", "It is fine."),
        ("It is fine.\nScore: 4\nTo earn Score: 5 it lacks a source.", "It is fine."),
    ],
)
def test_strip_verdict_returns_the_rationale(completion, rationale):
    assert strip_verdict(completion) == rationale


# Letters

LETTERS = {
    "A": "A",
    " A": "A",
    " B": "B",
    "A.": "A",
    "**B**": "B",
    "(A)": "A",
    "Answer B is better": "B",
    "A is short, so B": None,
    "B, not as good is: A\n": None,
    "答案是A。": "A",
    "a": None,
    "Both are fine": None,
    "AB": None,
    "Alice": None,
    "neither": None,
    "": None,
    "A is better than B.": None,
    "B is better than A.": None,
    "Between A and B, B is better.": None,
    "The better answer is A. B is too short.": "A",
    "The better answer is B, since A is wrong.": "B",
    "the better answer is: **A**": "A",
    "The better answer is not A.": None,
    "The better answer is A or B.": None,
    "The better answer is A.\nThe better answer is B.": None,
    "A\n\nAnswer A is better than B.": "A",
    "A is better than B. [[A]]": "A",
    "[[B]]": "B",
    "**A**\nshort\n**B**\nlong\nThe better answer is B": "B",
    "A is worse.": None,
    "Not A.": None,
    "A is better.": "A",
    "I think B": "B",
    "A clear win for the second answer.": None,
    "A careful look shows that B is better.": None,
    "A addresses the question; B rambles.": None,
    "The second is better than A": None,
    "I prefer B.": "B",
    "I prefer B over A": None,
    "<think>The better answer is A": None,
    "<think>A</think>\nB": "B",
    "vitamin B12 is fine": None,
    "答案不如A": None,
    "A\nB": None,
    "A and B": None,
    "A/B": None,
    "'A'": "A",
    "A:": "A",
    "A, because it is complete.": "A",
    "A isn't good": None,
    "Response A is more detailed and better": "A",
    "A > B": None,
    "The better answer is A (not B).": "A",
    "The better answer is\nA": "A",
    "The better answer is B, A is too short": "B",
    "The better answer is A, B.": None,
    "The better answer is A/B": None,
    "The better answer is A = B": None,
    "The better answer is A? No, B": None,
    "The better answer is A... wait, B": None,
    "[[B]] is worse": None,
    "[[A]] and [[B]]": None,
    "I would go with A": "A",
    "My verdict: B": "B",
    "A更好": "A",
    "Bの方が良い": "B",
    "[A]": "A",
    "„A“": "A",
    "the answer A": "A",
    **dict.fromkeys(["A is incorrect", "A is incomplete", "A has errors", "A is false", "A is the loser", "A fails"]),
    **dict.fromkeys(["Reject A", "Loser: A", "Avoid A", "I dislike A", "Hardly A", "Anything but A", "Both A", "C"]),
    **dict.fromkeys(
        ["A tie", "A Tie", "A TIE", "A 50/50", "Tie (A)", "A is tied", "A is as good", "Equal (A)", "A = B"]
    ),
    **dict.fromkeys(["Maybe A", "A?", "A+", "A-", "A would be better if it were right", "A is not better"]),
    **dict.fromkeys(["A хуже", "Nicht A", "Ни A", "pas A", "não A", "A est pire", "Aは悪い", "A较差"]),
}


@pytest.mark.parametrize(("reply", "letter"), LETTERS.items())
def test_find_letter_returns_the_better_answer(reply, letter):
    at = find_letter(reply, "The better answer is")
    assert (None if at is None else reply[at]) == letter


def test_find_letter_matches_the_requested_sentence():
    reply = "A is better than B in places. The better judgement is B."
    assert find_letter(reply, "The better judgement is") == reply.index("B.")
    assert find_letter(reply, "The better answer is") is None


@pytest.mark.parametrize(
    ("reply", "found"), [("A", True), ("The better answer is A", True), ("A\n\nIt is", True), ("I think A is", False)]
)
def test_truncated_replies_count_only_in_the_required_form(reply, found):
    assert (find_letter(reply, "The better answer is", truncated=True) is not None) is found


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        ("Score: 3\n**\nScore: 4", (4.0, "")),  # markup alone is no text between two scores
        ("First line.\nIt would earn a\nScore: 4", (4.0, "")),  # the verdict's own line decides
        ("Score: 4\nScore: 8/10 which is good", (None, "another scale: Score: 8/10 ")),
        ("Score: 4/5 (3 of 4 points are met)", (4.0, "")),
        ("Score: 000000004", (4.0, "")),
        ("Score: 0000000004", (None, "out of range: 0000000004")),
        (f"Score: {'9' * 40}", (None, f"out of range: {'9' * 20}")),
    ],
)
def test_edge_cases_of_score_parsing(completion: str, expected: tuple[float | None, str]) -> None:
    assert parse_verdict(completion, 5) == expected


@pytest.mark.parametrize("line", ["Score: 4 Points", "<think>Hm.</think> Score: 4", "**Score: 4**"])
def test_complete_verdict_lines_count_at_the_token_limit(line: str) -> None:
    found = find_verdict(f"{line}\n", 5, truncated=True)
    assert found is not None
    assert found.score == 4.0
    assert find_verdict(line, 5, truncated=True) is None


def test_only_markup_of_the_verdict_is_stripped() -> None:
    assert strip_verdict("It is **good**\n**Score: 4**") == "It is **good"
    assert strip_verdict("It is **good**") == "It is **good**"
    assert strip_verdict("XX\nScore: 0") == "XX"


@pytest.mark.parametrize(
    ("reply", "begun", "place"),
    [
        ("[[A]]", "", 2),
        ("A is fine. [[B]]", "", 13),
        ("A clear win: A", "The better answer is", 13),
        ("<think>I am not sure.</think> I pick A", "The better answer is", 37),
        ("I pick A thing", "The better answer is", None),  # an article
    ],
)
def test_edge_cases_of_letter_parsing(reply: str, begun: str, place: int | None) -> None:
    assert find_letter(reply, begun) == place


@pytest.mark.parametrize("reply", [" ", "*", "_", "A ", "is ", "[[", "或", "or ", "(maybe "])
def test_parsing_time_is_linear_in_repeated_text(reply: str) -> None:
    """Quadratic time would take minutes here."""
    assert parse_verdict(f"Score: 4{reply * 20_000}5", 5)[0] in (None, 4.0)
    find_letter(f"A {reply * 20_000}", "The better answer is")
