"""srlm.preferences.alarms: each statistic computed by hand, and alarms triggered beyond their thresholds."""

from __future__ import annotations

import dataclasses

import pytest

from srlm.evaluation.agreement import judges_agree
from srlm.metrics import metric
from srlm.preferences.alarms import REMEDIES, feedback_statistics, triggered
from srlm.preferences.config import Alarm, AlarmAction, AlarmsConfig
from srlm.types import Judgement, PreferencePair
from tests.helpers import candidates_of, judgements_of, ranked


def pair(chosen: str, rejected: str, gap: float) -> PreferencePair:
    return PreferencePair("p", "Q?", chosen, rejected, "p/c0", "p/c1", gap + 1.5, 1.5)


def found_in(scores: dict[str, list[list[float | None]]], pairs=(), agreement=None, higher=None, accuracy=None):
    """Return the statistics of prompts whose candidates have these scores."""
    candidates = [c for id, rows in scores.items() for c in candidates_of(id, ["text"] * len(rows))]
    judgements = [
        j for id, rows in scores.items() for n, row in enumerate(rows) for j in judgements_of(f"{id}/c{n}", row)
    ]
    return feedback_statistics(candidates, judgements, list(pairs), 5, agreement, higher, accuracy)


def rang(statistics, alarms, **counts):
    return triggered({"alarms": statistics} | counts, alarms)


def test_statistics_match_hand_computed_values():
    scores = {"p": [[5.0, 5.0], [3.0, None], [3.0, 3.0]], "q": [[None, None], [1.0, 1.0], [0.0, 3.0]]}
    found = found_in(scores, [pair("x" * 30, "x" * 10, 2.0), pair("x" * 10, "x" * 10, 1.0)], 0.25, 0.9, 0.7)
    assert found == {
        "parse_rate": pytest.approx(9 / 12),
        "top_score_share": pytest.approx(2 / 9, abs=1e-6),
        "entropy_bits": pytest.approx(1.8366, abs=1e-3),  # 5 5, 3 3 3 3, 1 1, 0
        "tie_share": pytest.approx(1 / 4),  # p: 5 3 3; q: 1 1.5
        "mean_gap": 1.5,
        "length_ratio": 2.0,
        "score_deviation": pytest.approx(1.4, abs=1e-4),  # of 5 3 3 1 1.5
        "judge_noise": pytest.approx(3 / 2**0.5 / 4, abs=1e-4),  # of 5 5, 3 3, 1 1 and 0 3
        "meta_higher_share": 0.9,
        "agreement": 0.25,
        "judge_accuracy": 0.7,
    }
    assert set(found) == {field.name for field in dataclasses.fields(AlarmsConfig)}


@pytest.mark.parametrize(
    ("scores", "ties"), [((3.0, 3.0), 1.0), ((3.0, 3.2), 0.0), ((3.0, 3.0 + 1e-10), 1.0), ((3.0, 3.0 + 2e-9), 0.0)]
)
def test_scores_equal_to_nine_decimals_tie(scores, ties):
    assert found_in({"p": [[score] for score in scores]})["tie_share"] == ties


def test_statistics_are_rounded_to_six_decimals():
    assert found_in({"p": [[5.0], [None], [None]]})["parse_rate"] == 0.333333


def test_undefined_statistics_are_omitted():
    assert found_in({"p": [[None], [None]]}) == {"parse_rate": 0.0}
    assert found_in({}) == {}


def test_judge_without_problems_triggers_no_alarm():
    healthy = {"p": [[5.0], [3.0], [1.0]], "q": [[4.0], [2.0], [0.0]]}
    assert rang(found_in(healthy, [pair("xx", "xx", 3.0)], 0.5, None, 0.6), AlarmsConfig()) == []


SIDES = {
    **dict.fromkeys(("parse_rate", "entropy_bits", "mean_gap", "score_deviation", "agreement"), "below"),
    "judge_accuracy": "below",
    **dict.fromkeys(("top_score_share", "tie_share", "length_ratio", "judge_noise", "meta_higher_share"), "above"),
}


def test_every_alarm_has_a_threshold_direction():
    assert SIDES.keys() == REMEDIES.keys()


@pytest.mark.parametrize(("name", "side"), SIDES.items())
def test_alarm_triggers_only_beyond_its_threshold(name, side):
    alarms = AlarmsConfig()
    limit = getattr(alarms, name).threshold
    step = 0.01 if side == "above" else -0.01
    assert rang({name: limit}, alarms) == []
    assert rang({name: limit - step}, alarms) == []
    [(action, message)] = rang({name: limit + step}, alarms)
    assert action is AlarmAction.warn
    assert message.startswith(
        f"{metric(f'alarms/{name}').label}: {limit + step:.3g}, {side} alarms.{name}.threshold={limit:g}. "
    )
    assert message.endswith(f"{REMEDIES[name]}.")
    setattr(alarms, name, Alarm(limit, AlarmAction.stop))
    assert rang({name: limit + step}, alarms)[0][0] is AlarmAction.stop
    setattr(alarms, name, Alarm(limit, AlarmAction.off))
    assert rang({name: limit + step}, alarms) == []


def test_judge_accuracy_is_shown_with_its_interval():
    share = {"value": 0.53, "low": 0.47, "high": 0.59, "n": 120, "prompts": 40}
    [(action, message)] = rang({"judge_accuracy": 0.53}, AlarmsConfig(), judge_accuracy=share)
    assert action is AlarmAction.warn
    assert message.startswith(
        "accuracy on own candidates: 53 % [47, 59], below alarms.judge_accuracy.threshold=0.6. Training on these pairs "
        "would be training on noise. "
    )
    assert triggered({"pairs": 3}, AlarmsConfig()) == []  # counts without statistics


def test_saturated_judge_triggers_an_alarm():
    saturated = {f"p{n}": [[5.0, 5.0], [5.0, 5.0], [5.0, 4.0]] for n in range(5)}
    messages = [message for _, message in rang(found_in(saturated), AlarmsConfig())]
    assert any("alarms.top_score_share" in message for message in messages)


def test_agreement_of_two_judges_is_a_rank_correlation():
    rows = [ranked("e0", (0, 1, 2)), ranked("e1", (0, 1))]

    def judgements_with(*scores: list[float | None]) -> list[Judgement]:
        return [
            j
            for row, of_row in zip(rows, scores, strict=True)
            for n, score in enumerate(of_row)
            for j in judgements_of(f"{row.id}/a{n}", [score])
        ]

    first = judgements_with([5.0, 3.0, 1.0], [2.0, 4.0])
    assert judges_agree(rows, first, first) == 1.0
    assert judges_agree(rows, judgements_with([1.0, 3.0, 5.0], [4.0, 2.0]), first) == -1.0
    assert judges_agree(rows, judgements_with([5.0, 3.0, None], [2.0, 4.0]), first) == 1.0  # only e1 counts
    assert judges_agree(rows, judgements_with([3.0, 3.0, 3.0], [2.0, None]), first) is None
