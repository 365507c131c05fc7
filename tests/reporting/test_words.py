"""srlm.reporting.words: every sentence of the verdict and its grounds, on both sides of its threshold."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from srlm.config import Config
from srlm.pipeline.workspace import Workspace
from srlm.reporting import phrases as words
from srlm.reporting.collect import RunNumbers, collect
from srlm.reporting.phrases import ENOUGH, Ground, grounds, verdict
from srlm.training.stages import Train
from tests.helpers import evaluations
from tests.reporting.made_run import evaluation, make_run, measure, write_measures

UP, SAME, DOWN = (0.7, 0.62, 0.78), (0.5, 0.45, 0.55), (0.3, 0.2, 0.4)
WON, EVEN, LOST = (0.3, 0.1, 0.5), (0.05, -0.2, 0.3), (-0.3, -0.5, -0.1)
ONE_RUN = Ground(
    "note", "Intervals cover the sampling of prompts, not of training runs: this is one run with one seed."
)


def numbers(
    *models: dict[str, Any], alarms: list[str] | None = None, reward_hacking_report: tuple[str, ...] = ()
) -> RunNumbers:
    """Return the numbers of a run with these models; `alarms` of one iteration, None = not checked."""
    statistics = {} if alarms is None else {2: {"parse_rate": 1.0}}
    rang = {} if alarms is None else {2: alarms}
    workspace, last = Workspace(Path("nowhere")), len(models) - 1
    return RunNumbers(
        workspace,
        Config(),
        last,
        evaluations(dict(enumerate(models))),
        statistics,
        rang,
        {},
        list(reward_hacking_report),
    )


def grounds_of_part(part: str, **measures: Any) -> list[Ground]:
    """Return the grounds of a model with only one measured part, without the ground that is always included."""
    found = grounds(numbers({part: measures, "head_to_head_judge": "M1"}))
    assert found[-1] == ONE_RUN
    return found[:-1]


def judged(t: int, accuracy: dict[str, Any] | None = None, gain: dict[str, Any] | None = None) -> dict[str, Any]:
    judge = {"pairwise_accuracy_imputed": accuracy, "pairwise_accuracy_imputed_gain": gain}
    return {"iteration": t, "judge": {name: found for name, found in judge.items() if found}}


# The verdict


@pytest.mark.parametrize(
    ("judge", "answers", "headline"),
    [
        (UP, WON, "better"),
        (UP, EVEN, "better"),
        (SAME, WON, "better"),
        (SAME, EVEN, "no difference shown"),
        (DOWN, EVEN, "worse"),
        (SAME, LOST, "worse"),
        (DOWN, LOST, "worse"),
        (UP, LOST, "mixed"),
        (DOWN, WON, "mixed"),
    ],
)
def test_headline_summarises_judge_and_answers(
    tmp_path: Path, judge: tuple[float, ...], answers: tuple[float, ...], headline: str
) -> None:
    root = make_run(tmp_path / "made")
    write_measures(root, [evaluation(2, judge, answers)], start=2)  # type: ignore[arg-type]
    assert verdict(collect(root)).headline == headline


def test_verdict_sentences_have_intervals_and_counts(tmp_path: Path) -> None:
    result = verdict(collect(make_run(tmp_path / "made")))
    assert result.judge == (
        "M2 orders 70 % [62, 78] of the held-out pairs like people (M1 68 % [60, 76], M0 50 % [50, 50]): "
        "a better judge than M1 (by +20 [+12, +28] points)."
    )
    assert result.answers == (
        "M2's answers win 30 % [0, 50] and lose 0 % [0, 50] against M1's (24 prompts, judged by M1): better answers."
    )


@pytest.mark.parametrize(
    ("gain", "words"),
    [
        ((0.1, 0.001, 0.2), "a better judge than M1 (by +10 [+0, +20] points)."),
        ((0.1, 0.0, 0.2), "no difference shown from M1 (by +10 [+0, +20] points)."),
        ((-0.1, -0.2, 0.0), "no difference shown from M1 (by −10 [−20, +0] points)."),
        ((0.6, 0.5, 0.7), "a better judge than M1 (by +60 [+50, +70] points)."),
        ((-0.1, -0.2, -0.01), "a worse judge than M1 (by −10 [−20, −1] points)."),
    ],
)
def test_judge_differs_only_beyond_the_interval_of_its_gain(gain: tuple[float, ...], words: str) -> None:
    run = numbers(judged(0), judged(1, measure(0.6, 0.5, 0.7)), judged(2, measure(0.7, 0.6, 0.8), measure(*gain)))
    result = verdict(run)
    reported = "M2 orders 70 % [60, 80] of the held-out pairs like people (M1 60 % [50, 70]): "
    assert result.judge == reported + words
    assert result.headline == {"a b": "better", "a w": "worse", "no ": "no difference shown"}[words[:3]]


@pytest.mark.parametrize(
    ("net", "words"),
    [
        ((0.1, 0.001, 0.2), "better answers"),
        ((0.1, 0.0, 0.2), "no difference shown"),
        ((-0.1, -0.2, 0.0), "no difference shown"),
        ((-0.1, -0.2, -0.01), "worse answers"),
    ],
)
def test_answers_differ_only_beyond_the_interval_of_net_wins(net: tuple[float, ...], words: str) -> None:
    match = {"net_win": measure(*net), "win": measure(0.3, 0.2, 0.4), "loss": measure(0.2, 0.1, 0.3)}
    result = verdict(numbers({}, {"head_to_head": match, "head_to_head_judge": "M0"}))
    reported = "M1's answers win 30 % [20, 40] and lose 20 % [10, 30] against M0's (24 prompts, judged by M0): "
    assert result.answers == f"{reported}{words}."
    assert result.headline == words.removesuffix(" answers")
    assert verdict(numbers({}, {"head_to_head": match})).answers.endswith(f"judged by the judge): {words}.")


def test_single_prompt_gives_values_and_no_verdict() -> None:
    match = {name: measure(1.0, n=1) for name in ("net_win", "win")} | {"loss": measure(0.0, n=1)}
    now = judged(1, measure(1.0), measure(0.5)) | {"head_to_head": match, "head_to_head_judge": "M0"}
    result = verdict(numbers(judged(0, measure(0.5)), now))
    assert result.headline == "no difference shown"
    assert result.judge == (
        "M1 orders 100 % [n/a] of the held-out pairs like people (M0 50 % [n/a]): too few prompts to compare with M0."
    )
    assert result.answers == (
        "M1's answers win 100 % [n/a] and lose 0 % [n/a] against M0's (1 prompt, judged by M0): too few prompts to "
        "compare."
    )


@pytest.mark.parametrize("gain", [None, measure(None)])
def test_judge_without_a_gain_is_reported_alone(gain: dict[str, Any] | None) -> None:
    result = verdict(numbers({}, judged(1, measure(0.7, 0.6, 0.8), gain)))
    assert result.judge == "M1 orders 70 % [60, 80] of the held-out pairs like people."
    assert result.headline == "no difference shown"


@pytest.mark.parametrize("model", [{"answers": {}}, {"judge": {"pairwise_accuracy_imputed": measure(None)}}])
def test_missing_measures_are_reported(model: dict[str, Any]) -> None:
    result = verdict(numbers({}, {}, model))
    assert result.headline == "no difference shown"
    assert result.judge == "The judge of M2 was not measured."
    assert result.answers == "M2's answers were not compared with M1's by a judge."


def test_match_without_a_verdict_is_reported() -> None:
    result = verdict(numbers({}, {"head_to_head": {"net_win": measure(None), "win": measure(None)}}))
    assert result.answers == "There is no verdict on M1's answers against M0's."


def test_run_with_only_m0_has_no_verdict() -> None:
    result = verdict(numbers(judged(0, measure(0.5, 0.4, 0.6))))
    assert result.headline == "begun"
    assert result.judge == "Only M0 was evaluated so far."
    assert result.answers == "There is no other model to compare it with."
    assert grounds(numbers({})) == [ONE_RUN]


# The grounds


def test_grounds_of_a_whole_run_are_ordered(tmp_path: Path) -> None:
    found = grounds(collect(make_run(tmp_path / "made")))
    assert [(ground.kind, ground.text.split(",")[0][:44]) for ground in found] == [
        ("against", "24 evaluation prompts: the net win has a marg"[:44]),
        ("note", "The judge of answers is M1"),
        ("against", "M1 has position bias: the answer shown first"[:44]),
        ("against", "Most comparisons by M1 are ties: 70 % [30"),
        ("for", "M2: its judge's accuracy on scored pairs is "),
        ("note", "M2 against M1: reward hacking was not checked"[:44]),
        ("against", found[-2].text[:44]),
        ("note", ONE_RUN.text.split(",")[0][:44]),
    ]
    assert found[-2].text in ("1 alarm was triggered.", "2 alarms were triggered.")


@pytest.mark.parametrize(
    ("n", "kind", "words"),
    [
        (1, "against", "1 evaluation prompt"),
        (ENOUGH - 1, "against", "99 evaluation prompts"),
        (ENOUGH, "for", "100 evaluation prompts"),
    ],
)
def test_few_evaluation_prompts_are_a_ground_against(n: int, kind: str, words: str) -> None:
    assert grounds_of_part("answers", mean_characters=measure(300.0, 200.0, 400.0, n)) == [
        Ground(kind, f"{words}: one answer of each model to each.")
    ]


@pytest.mark.parametrize(
    ("net", "known"),
    [
        (measure(0.1, -0.1, 0.3), "the net win has a margin of error of about 20 points"),
        (measure(0.1, -0.5, 0.7), "the net win has a margin of error of about 60 points"),
        (measure(1.0), "one answer of each model to each"),
        (measure(None), "one answer of each model to each"),
    ],
)
def test_margin_of_error_of_net_wins_is_reported(net: dict[str, Any], known: str) -> None:
    model = {"answers": {"mean_characters": measure(300.0, n=200)}, "head_to_head": {"net_win": net}}
    assert grounds(numbers(model))[0] == Ground("for", f"200 evaluation prompts: {known}.")


JUDGED_BY_MODEL = Ground("note", "The judge of answers is M1, a model. No person read these answers.")


@pytest.mark.parametrize(
    ("first", "biased"),
    [
        ((0.6, 0.51, 0.7), "60 % [51, 70]"),
        ((0.6, 0.5, 0.7), ""),
        ((0.4, 0.3, 0.5), ""),
        ((0.4, 0.3, 0.49), "40 % [30, 49]"),
        ((1.0, None, None), ""),
        ((None, None, None), ""),
    ],
)
def test_position_bias_needs_an_interval_without_one_half(first: tuple[Any, ...], biased: str) -> None:
    text = f"M1 has position bias: the answer shown first wins {biased} of its verdicts."
    expected = [JUDGED_BY_MODEL, Ground("against", text)] if biased else [JUDGED_BY_MODEL]
    assert grounds_of_part("head_to_head", first_position_win_rate=measure(*first)) == expected


@pytest.mark.parametrize(("ties", "reported"), [(0.51, True), (0.5, False), (0.1, False), (None, False)])
def test_many_ties_are_a_ground_against(ties: float | None, reported: bool) -> None:
    bounds = (0.4, 0.6) if ties is not None else (None, None)
    text = "Most comparisons by M1 are ties: 51 % [40, 60]."
    expected = [JUDGED_BY_MODEL, Ground("against", text)] if reported else [JUDGED_BY_MODEL]
    assert grounds_of_part("head_to_head", tie=measure(ties, *bounds)) == expected
    assert grounds_of_part("head_to_head", win=measure(0.5)) == [JUDGED_BY_MODEL]


@pytest.mark.parametrize(
    ("accuracy", "longer", "kind", "end"),
    [
        ((0.7, 0.62, 0.78), (0.5, 0.4, 0.61), "for", ""),
        ((0.7, 0.62, 0.78), (0.5, 0.4, 0.62), "against", ""),
        ((0.5, 0.4, 0.6), (0.49, 0.4, 0.6), "against", ""),
        ((0.5, 0.4, 0.6), (0.5, 0.4, 0.6), "against", ", so the judge is not better than length"),
        ((0.4, 0.3, 0.5), (0.5, 0.4, 0.6), "against", ", so the judge is not better than length"),
    ],
)
def test_judge_is_compared_with_the_length_baseline(
    accuracy: tuple[float, ...], longer: tuple[float, ...], kind: str, end: str
) -> None:
    own, others = ("{:.0f} % [{:.0f}, {:.0f}]".format(*(100 * x for x in each)) for each in (accuracy, longer))
    text = f"M0: its judge's accuracy on scored pairs is {own}, the length baseline's {others}{end}."
    found = grounds_of_part(
        "judge", pairwise_accuracy=measure(*accuracy), length_baseline_accuracy_scored=measure(*longer)
    )
    assert found == [Ground(kind, text)]


def test_judge_without_an_interval_is_not_compared_with_length() -> None:
    for accuracy, longer in ((measure(1.0), measure(0.5, 0.4, 0.6)), (measure(0.7, 0.6, 0.8), measure(1.0))):
        assert grounds_of_part("judge", pairwise_accuracy=accuracy, length_baseline_accuracy_scored=longer) == []
    assert grounds_of_part("judge", pairwise_accuracy=measure(0.7, 0.6, 0.8)) == []


@pytest.mark.parametrize(
    ("name", "values", "text"),
    [
        (
            "accuracy_shorter_preferred",
            (0.3, 0.2, 0.49),
            "On pairs whose shorter answer is ranked higher, M0's accuracy is only {}.",
        ),
        ("accuracy_shorter_preferred", (0.3, 0.2, 0.5), ""),
        ("accuracy_shorter_preferred", (0.0, None, None), ""),
        ("parse_rate", (0.5, 0.4, 0.6), "{} of M0's held-out judgements have a score; the others could not be parsed."),
        (
            "parse_rate",
            (0.94, 0.9, 0.97),
            "{} of M0's held-out judgements have a score; the others could not be parsed.",
        ),
        ("parse_rate", (0.95, 0.9, 0.97), ""),
        ("parse_rate", (None, None, None), ""),
        ("modal_score_fraction", (0.61, 0.5, 0.7), "{} of M0's scores are equal: the judge does not discriminate."),
        ("modal_score_fraction", (0.6, 0.5, 0.7), ""),
        ("modal_score_fraction", (1.0, None, None), "{} of M0's scores are equal: the judge does not discriminate."),
        ("modal_score_fraction", (None, None, None), ""),
    ],
)
def test_weaknesses_of_a_judge_have_thresholds(name: str, values: tuple[Any, ...], text: str) -> None:
    bounds = "[n/a]" if values[1] is None else f"[{100 * values[1]:.0f}, {100 * values[2]:.0f}]"
    expected = [Ground("against", text.format(f"{100 * values[0]:.0f} % {bounds}"))] if text else []
    assert grounds_of_part("judge", **{name: measure(*values)}) == expected


@pytest.mark.parametrize(
    ("judge", "warning"),
    [
        ({"parse_rate": measure(0.0, 0.0, 0.1)}, "none of the 24 judgements could be parsed, so there is no score"),
        ({"parse_rate": measure(11 / 24, 0.3, 0.6)}, "only 11 of 24 judgements could be parsed"),
        ({"parse_rate": measure(0.5, 0.4, 0.6), "ties": measure(1.0)}, "all scored pairs are ties"),
    ],
)
def test_judge_with_unparsed_judgements_is_reported(judge: dict[str, Any], warning: str) -> None:
    found = [
        ground
        for ground in grounds_of_part("judge", **judge)
        if "could be parsed" in ground.text or "ties" in ground.text
    ]
    assert [(ground.kind, ground.text.startswith(f"M0 as judge: {warning}")) for ground in found] == [("against", True)]
    assert len(grounds_of_part("judge", **judge)) == 1 + ("ties" in judge)  # the parse rate is reported once


def test_imputed_accuracies_are_marked() -> None:
    none = {"parse_rate": measure(0.0, 0.0, 0.1)}
    coin, some = measure(0.5, 0.5, 0.5), measure(0.7, 0.6, 0.8)
    before = {"judge": {"pairwise_accuracy_imputed": coin} | none}
    result = verdict(numbers(before, judged(1, some))).judge
    assert result == "M1 orders 70 % [60, 80] of the held-out pairs like people (M0 50 % [50, 50] (unparsed = 0.5))."
    result = verdict(numbers({}, before)).judge
    assert result == (
        "None of M1's 24 judgements could be parsed. M1 orders 50 % [50, 50] (unparsed = 0.5) of the held-out pairs "
        "like people."
    )


@pytest.mark.parametrize(
    ("reported", "kind"),
    [
        ("M2 against M1: a sign of reward hacking: ...", "against"),
        ("M2 against M1: possible reward hacking: ...", "against"),
        ("M2 against M1: no sign of reward hacking in ...", "note"),
    ],
)
def test_signs_of_reward_hacking_are_a_ground_against(reported: str, kind: str) -> None:
    assert grounds(numbers({}, reward_hacking_report=(reported,))) == [Ground(kind, reported), ONE_RUN]


@pytest.mark.parametrize(("count", "words"), [(1, "1 evaluation prompt was"), (2, "2 evaluation prompts were")])
def test_excluded_prompts_are_reported(count: int, words: str) -> None:
    text = f"{words} excluded: the models trained on the same text."
    assert grounds(numbers({"contamination": {"excluded": count}})) == [Ground("note", text), ONE_RUN]
    assert grounds(numbers({"contamination": {"excluded": 0}})) == [ONE_RUN]


def test_early_stopping_of_every_training_is_reported() -> None:
    run = replace(numbers({}), early_stopping=["Early stopping of M2: ...", "Early stopping of M3: ..."])
    assert grounds(run) == [*(Ground("note", line) for line in run.early_stopping), ONE_RUN]


def test_early_stopping_is_collected_before_its_model_is_measured(tmp_path: Path) -> None:
    root = make_run(tmp_path / "made")
    assert collect(root).early_stopping == []
    counts = {"chosen_step": 35, "last_step": 35, "steps": 35, "comparisons": []}
    for t in (2, 3):
        Train(Workspace(root), Workspace(root).config(), t).done({}, {"early_stopping": counts})
    assert [line.split(":")[0] for line in collect(root).early_stopping] == [
        "Early stopping of M2",
        "Early stopping of M3",
    ]


@pytest.mark.parametrize(
    ("alarms", "expected"),
    [
        ([], Ground("for", "No alarm was triggered.")),
        (["a"], Ground("against", "1 alarm was triggered.")),
        (["a", "b"], Ground("against", "2 alarms were triggered.")),
    ],
)
def test_alarms_are_counted(alarms: list[str], expected: Ground) -> None:
    assert grounds(numbers({}, alarms=alarms)) == [expected, ONE_RUN]
    assert grounds(numbers({}, alarms=None)) == [ONE_RUN]


def test_requests_without_an_answer_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "missing_lines", lambda root: [f"2 prompts of {root.name} were too long."])
    assert grounds(numbers({})) == [Ground("note", "2 prompts of nowhere were too long."), ONE_RUN]
