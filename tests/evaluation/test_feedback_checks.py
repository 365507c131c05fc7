"""srlm.evaluation.feedback_checks: the judge and the selected pairs against programs, computed by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from srlm.data.checkers import follows
from srlm.evaluation.feedback_checks import FeedbackChecks, checks_by_model, feedback_checks, feedback_terms
from srlm.types import Candidate, Constraint, LabelledAnswer, PreferencePair, Prompt
from tests.helpers import candidates_of, judgements_of

NO_COMMA, QUOTED = Constraint("punctuation:no_comma"), Constraint("startend:quotation")
SEVEN = Constraint("final_answer:number", {"number": 7})
PLAIN, COMMA, QUOTE, MIXED = "so it is", "so, it is", '"so it is"', '"so, it is"'  # follow 1, 0, 2 and 1
P, Q = (Prompt(f"t2/p0000{n}", text, constraints=(NO_COMMA, QUOTED)) for n, text in enumerate(("One?", "Two?")))
FREE = Prompt("t2/p00002", "Three?")


def checked(
    prompts: list[Prompt], texts: list[list[str]], scores: list[list[float | None]], feedback: Any = ()
) -> FeedbackChecks | None:
    """Return the checks of prompts whose candidates have these texts and scores."""
    candidates = [one for prompt, row in zip(prompts, texts, strict=True) for one in candidates_of(prompt.id, row)]
    judgements = [
        judgement
        for prompt, row in zip(prompts, scores, strict=True)
        for n, score in enumerate(row)
        for judgement in judgements_of(f"{prompt.id}/c{n}", [score])
    ]
    return feedback_checks(prompts, candidates, judgements, feedback, 100, "seed")


def found(*arguments: Any) -> FeedbackChecks:
    checks = checked(*arguments)
    assert checks
    return checks


def pair(prompt: Prompt, chosen: int, rejected: int, **more: Any) -> PreferencePair:
    ids = {"chosen_id": f"{prompt.id}/c{chosen}", "rejected_id": f"{prompt.id}/c{rejected}"} | more
    return PreferencePair(prompt.id, prompt.text, "", "", chosen_score=1, rejected_score=0, **ids)


def test_accuracy_is_over_the_pairs_that_programs_order() -> None:
    """P: QUOTE follows 2, PLAIN 1, MIXED 1: two ordered pairs, one right and one tied. Q: one ordered pair, wrong."""
    checks = found([P, Q], [[QUOTE, PLAIN, MIXED], [PLAIN, COMMA]], [[3.0, 3.0, 1.0], [2.0, 4.0]])
    accuracy = checks.judge_accuracy
    assert (accuracy.value, accuracy.n, accuracy.prompts) == (pytest.approx((0.5 + 1 + 0) / 3), 3, 2)
    assert accuracy.low is not None
    assert accuracy.high is not None
    assert 0 <= accuracy.low < 0.5 < accuracy.high <= 1


def test_terms_of_prompts_add_up_to_the_checks() -> None:
    """Each prompt's numerator and denominator, of which `srlm compare` makes differences paired by prompt."""
    texts, scores = [[QUOTE, PLAIN, MIXED], [PLAIN, COMMA]], [[3.0, 3.0, 1.0], [2.0, 4.0]]
    feedback = [pair(P, 0, 1), pair(Q, 1, 0)]
    checks = found([P, Q], texts, scores, feedback)
    candidates = [one for prompt, row in zip((P, Q), texts, strict=True) for one in candidates_of(prompt.id, row)]
    judgements = [
        judgement
        for prompt, row in zip((P, Q), scores, strict=True)
        for n, score in enumerate(row)
        for judgement in judgements_of(f"{prompt.id}/c{n}", [score])
    ]
    terms = feedback_terms([P, Q, FREE], candidates, judgements, feedback)
    assert list(terms["judge_accuracy"]) == [("One?", 1.5, 2), ("Two?", 0, 1)]
    assert list(terms["pairs_confirmed"]) == [("One?", 1, 1), ("Two?", 0, 1)]
    assert list(terms["pairs_contradicted"]) == [("One?", 0, 1), ("Two?", 1, 1)]
    for name, rows in terms.items():
        assert sum(top for _, top, _ in rows) / sum(bottom for _, _, bottom in rows) == getattr(checks, name).value
    assert feedback_terms([FREE], [], [], []) == {}


def test_each_kind_has_its_own_order() -> None:
    """No comma: QUOTE and PLAIN before MIXED, and PLAIN before COMMA. Quotation: QUOTE and MIXED before PLAIN."""
    kinds = found([P, Q], [[QUOTE, PLAIN, MIXED], [PLAIN, COMMA]], [[3.0, 3.0, 1.0], [2.0, 4.0]]).judge_accuracy_kinds
    comma, quoted = kinds["punctuation:no_comma"], kinds["startend:quotation"]
    assert (comma.value, comma.n, comma.prompts) == (pytest.approx((1 + 1 + 0) / 3), 3, 2)
    assert (quoted.value, quoted.n, quoted.prompts) == (pytest.approx((0.5 + 0) / 2), 2, 1)
    assert (quoted.low, quoted.high) == (None, None)  # one prompt
    assert comma.few  # of two prompts


def test_correct_final_answers_are_checked() -> None:
    prompt = replace(P, constraints=(SEVEN,))
    checks = found([prompt], [["Answer: 7", "Answer: 8"]], [[2.0, 1.0]], [pair(prompt, 0, 1)])
    assert checks.judge_accuracy.value == checks.pairs_confirmed.value == 1
    assert list(checks.judge_accuracy_kinds) == ["final_answer:number"]


def test_unscored_candidates_do_not_count() -> None:
    checks = found([P], [[QUOTE, COMMA, COMMA]], [[3.0, None, 1.0]])
    assert (checks.judge_accuracy.value, checks.judge_accuracy.n) == (1.0, 1)


def test_prompts_with_the_same_text_are_one_cluster() -> None:
    same = replace(Q, text=P.text)
    checks = found([P, same], [[PLAIN, COMMA], [PLAIN, COMMA]], [[1.0, 2.0], [2.0, 1.0]])
    assert (checks.judge_accuracy.value, checks.judge_accuracy.n, checks.judge_accuracy.prompts) == (0.5, 2, 1)


def test_prompts_without_constraints_give_no_checks() -> None:
    assert checked([FREE], [[PLAIN, COMMA]], [[1.0, 2.0]], [pair(FREE, 0, 1)]) is None
    assert checked([], [], []) is None
    checks = found([FREE, P], [[PLAIN, COMMA], [PLAIN, COMMA]], [[1.0, 2.0], [2.0, 1.0]], [pair(FREE, 0, 1)])
    assert (checks.judge_accuracy.value, checks.judge_accuracy.n) == (1.0, 1)
    assert (checks.pairs_confirmed.value, checks.pairs_confirmed.n) == (None, 0)


def test_equally_good_candidates_leave_the_accuracy_undefined() -> None:
    accuracy = found([P], [[PLAIN, PLAIN]], [[1.0, 2.0]]).judge_accuracy
    assert (accuracy.value, accuracy.n, accuracy.prompts) == (None, 0, 0)


def test_selected_pairs_are_confirmed_tied_or_contradicted() -> None:
    texts = [[QUOTE, PLAIN, MIXED], [PLAIN, COMMA]]
    pairs = [pair(P, 0, 1), replace(pair(P, 1, 2), id="t2/p00000/pair1"), pair(Q, 1, 0)]
    checks = found([P, Q], texts, [[3.0, 2.0, 1.0], [1.0, 2.0]], pairs)
    results = [checks.pairs_confirmed, checks.pairs_tied, checks.pairs_contradicted]
    assert [one.value for one in results] == pytest.approx([1 / 3] * 3)
    assert {one.n for one in results} == {3}


def test_chosen_texts_that_are_no_candidates_are_checked_too() -> None:
    """A candidate's text is checked without its thought; another text as it is in the pair."""
    [candidate] = candidates_of(P.id, [COMMA])
    chosen = replace(pair(P, 9, 0, chosen_id="ift-1"), chosen=QUOTE, rejected="<think>so</think>so it is")
    checks = feedback_checks([P], [replace(candidate, thought="<think>so</think>")], [], [chosen], 100, "seed")
    assert checks
    assert checks.pairs_confirmed.value == 1


def test_labelled_answers_are_compared_within_their_prompt() -> None:
    def answer(prompt: Prompt, n: int, text: str, label: bool) -> LabelledAnswer:
        return LabelledAnswer(f"{prompt.id}/c{n}", prompt.text, text, label, 1.0)

    texts = [[QUOTE, PLAIN, MIXED], [PLAIN, COMMA]]
    answers = [
        answer(P, 0, QUOTE, True),
        answer(P, 1, PLAIN, True),
        answer(P, 2, MIXED, False),
        answer(Q, 0, PLAIN, True),
    ]
    checks = found([P, Q], texts, [[3.0, 2.0, 1.0], [1.0, 2.0]], answers)
    results = [checks.pairs_confirmed, checks.pairs_tied, checks.pairs_contradicted]
    assert [(one.value, one.n) for one in results] == [(0.5, 2), (0.5, 2), (0.0, 2)]


def test_alarm_needs_five_prompts() -> None:
    prompts = [Prompt(f"t2/p{n:05}", f"{n}?", constraints=(NO_COMMA,)) for n in range(5)]
    texts, scores = [[PLAIN, COMMA]] * 5, [[1.0, 2.0]] * 4 + [[2.0, 1.0]]
    assert found(prompts, texts, scores).alarm == pytest.approx(0.2)
    assert found(prompts[:4], texts[:4], scores[:4]).alarm is None
    assert found(prompts, [[PLAIN, PLAIN], *texts[1:]], scores).alarm is None


def test_checks_are_stored_among_counts() -> None:
    checks = found([P, Q], [[QUOTE, PLAIN], [PLAIN, COMMA]], [[3.0, 1.0], [2.0, 4.0]], [pair(P, 0, 1)])
    counts = {"pairs": 1} | checks.to_counts()
    assert FeedbackChecks.from_counts(counts) == checks
    assert checks_by_model({2: counts, 3: {"pairs": 4}}) == {1: checks}
    assert [key for key, _ in checks.measures()] == [
        "feedback/judge_accuracy",
        "feedback/judge_accuracy_kinds_punctuation_no_comma",
        "feedback/judge_accuracy_kinds_startend_quotation",
        "feedback/pairs_confirmed",
        "feedback/pairs_tied",
        "feedback/pairs_contradicted",
    ]
    with pytest.raises(ValueError, match="prompts"):
        FeedbackChecks.from_counts(counts | {"judge_accuracy": {"value": 1.0, "low": None, "high": None, "n": 1}})


def test_empty_answer_follows_nothing() -> None:
    candidates = [Candidate(f"{P.id}/c{n}", P.id, text, 1, False) for n, text in enumerate(("", COMMA, PLAIN))]
    judgements = [one for n in range(3) for one in judgements_of(f"{P.id}/c{n}", [float(n)])]
    checks = feedback_checks([P], candidates, judgements, [], 100, "seed")
    assert checks
    assert (checks.judge_accuracy.value, checks.judge_accuracy.n) == (1.0, 2)  # "" and COMMA follow no constraint


def test_language_of_short_candidates_is_detected_as_in_the_report() -> None:
    """IFEval's own detector takes this English sentence for another language."""
    lowercase = Constraint("change_case:english_lowercase")
    text = "good morning"
    assert not follows(lowercase, text)
    checks = found([replace(P, constraints=(lowercase,))], [[text, text.upper()]], [[2.0, 1.0]])
    assert (checks.judge_accuracy.value, checks.judge_accuracy.n) == (1.0, 1)
