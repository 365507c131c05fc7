"""srlm.evaluation.judge_card: by hand where a figure can be worked out, by made judges where it must come out."""

from __future__ import annotations

import random

import pytest

from srlm.config import JudgeConfig, Scorer
from srlm.evaluation.judge_card import judge_card
from srlm.records import Judgement, RankedAnswer, RankedPrompt

JUDGE = JudgeConfig()


def asked(id: str, *answers: tuple[int, int], type: str = "", prompt: str = "") -> RankedPrompt:
    """Answers as (people's rank, characters)."""
    texts = [RankedAnswer("x" * length, rank) for rank, length in answers]
    return RankedPrompt(id, prompt or f"Prompt {id}", tuple(texts), type)


def said(id: str, *answers: list[float | None] | float | None) -> list[Judgement]:
    """Each answer's scores."""
    return [
        Judgement(f"{id}/a{place}/j{n}", f"{id}/a{place}", "", score)
        for place, scores in enumerate(answers)
        for n, score in enumerate(scores if isinstance(scores, list) else [scores])
    ]


def card(rows, judgements, judge=JUDGE, resamples=200):
    return judge_card(rows, judgements, judge, resamples, "seed")


def value(found, name):
    return found["measures"][name]["value"], found["measures"][name]["n"]


def test_where_the_better_answer_is_the_shorter_one():
    rows = [asked("p", (0, 10), (1, 30)), asked("q", (0, 50), (1, 20)), asked("r", (0, 10), (1, 20), (2, 10))]
    judgements = said("p", 5.0, 1.0) + said("q", 2.0, 3.0) + said("r", 2.0, 2.0, None)
    found = card(rows, judgements)
    # Shorter is better: p right, r's first pair tied. Longer: q wrong, r's second against third not scored. r's first
    # and third are as long as each other and count for neither.
    assert value(found, "shorter_is_better") == ((1 + 0.5) / 2, 2)
    assert value(found, "longer_is_better") == ((0 + 0.5) / 2, 2)
    assert value(found, "length_bias") == (0.25 - 0.75, 4)
    assert value(found, "ties") == (1 / 3, 3)  # p, q and r's first pair are scored
    assert found["pairs"] == 5


def test_a_judge_of_length_alone_has_the_whole_bias():
    draw = random.Random(0)
    rows = [asked(f"p{n}", (0, draw.randint(1, 99)), (1, draw.randint(100, 199))) for n in range(30)]
    rows += [asked(f"q{n}", (0, draw.randint(100, 199)), (1, draw.randint(1, 99))) for n in range(20)]
    judgements = [j for row in rows for j in said(row.id, *(len(answer.text) / 40 for answer in row.answers))]
    found = card(rows, judgements)
    assert value(found, "length_bias") == (1.0, 50)
    assert (found["measures"]["length_bias"]["low"], found["measures"]["length_bias"]["high"]) == (1.0, 1.0)
    assert value(found, "pairwise_accuracy_all") == value(found, "longer_wins") == (20 / 50, 50)


def test_a_judge_that_knows_nothing_has_no_bias_beyond_its_interval():
    draw = random.Random(1)
    rows = [asked(f"p{n}", (0, draw.randint(1, 99)), (1, draw.randint(1, 99))) for n in range(300)]
    judgements = [j for row in rows for j in said(row.id, draw.random() * 5, draw.random() * 5)]
    bias = card(rows, judgements)["measures"]["length_bias"]
    assert bias["low"] < 0 < bias["high"]


def test_ties_of_people():
    rows = [asked("p", (0, 1), (0, 2)), asked("q", (0, 1), (0, 2)), asked("r", (0, 1), (1, 2))]
    found = card(rows, said("p", 3.0, 3.0) + said("q", 3.0, 4.0) + said("r", 3.0, 3.0))
    assert value(found, "ties_where_people_tie") == (1 / 2, 2)
    assert value(found, "ties") == (1.0, 1)
    assert value(found, "pairwise_accuracy_all") == (0.5, 1)


def test_histogram_entropy_and_calibration():
    rows = [asked("p", (0, 1), (1, 2)), asked("q", (0, 1), (2, 2))]
    found = card(rows, said("p", 5.0, 1.0) + said("q", 3.0, None))
    assert found["scores"]["histogram"] == {"0": 0, "1": 1, "2": 0, "3": 1, "4": 0, "5": 1}
    assert found["scores"]["entropy_bits"] == pytest.approx(1.58496, abs=1e-5)  # log2 of 3
    assert {rank: m["value"] for rank, m in found["by_rank"].items()} == {"0": 4.0, "1": 1.0, "2": None}
    assert card(rows, said("p", 5.0, 5.0) + said("q", 5.0, 5.0))["scores"]["entropy_bits"] == 0


def test_noise_over_judgements_of_one_answer():
    rows = [asked("p", (0, 1), (1, 2))]
    found = card(rows, said("p", [5.0, 5.0, 3.0], [2.0, None, 2.0]))
    assert value(found, "self_consistency") == (pytest.approx((1 / 3 + 1) / 2), 2)
    assert value(found, "score_noise") == (pytest.approx((4 / 3) ** 0.5 / 2), 2)  # standard deviations 2 / sqrt(3), 0
    alone = card(rows, said("p", 5.0, 2.0))
    assert value(alone, "self_consistency") == (None, 0)


def test_rows_of_one_prompt_are_drawn_together():
    """Ten pairs of one prompt are not ten prompts: the interval of two prompts is wide."""
    same = [asked(f"{name}{n}", (0, 2), (1, 1), prompt=name) for name in "pq" for n in range(10)]
    judgements = [j for row in same for j in said(row.id, *((4.0, 1.0) if row.prompt == "p" else (1.0, 4.0)))]
    clustered = card(same, judgements)
    assert clustered["prompts"] == 2
    accuracy = clustered["measures"]["pairwise_accuracy_all"]
    assert (accuracy["value"], accuracy["low"], accuracy["high"], accuracy["n"]) == (0.5, 0.0, 1.0, 20)
    apart = [asked(row.id, (0, 2), (1, 1)) for row in same]
    accuracy = card(apart, judgements)["measures"]["pairwise_accuracy_all"]
    assert accuracy["low"] > 0.2
    assert accuracy["high"] < 0.8


def test_subsets():
    rows = [asked("p", (0, 2), (1, 1), type="Natural"), asked("q", (0, 2), (1, 1), type="Adversarial/Neighbor")]
    found = card(rows, said("p", 4.0, 1.0) + said("q", 1.0, 4.0))
    assert {name: part["pairwise_accuracy_all"]["value"] for name, part in found["subsets"].items()} == {
        "Natural": 1.0,
        "Adversarial/Neighbor": 0.0,
    }
    assert card(rows[:1], said("p", 4.0, 1.0))["subsets"] == {}


def test_scores_by_probability():
    judge = JudgeConfig(scorer=Scorer.expected, count=1, min_valid=1)
    found = card([asked("p", (0, 2), (1, 1))], said("p", 4.6, 4.4), judge)
    assert found["scores"]["histogram"]["5"] == found["scores"]["histogram"]["4"] == 1
    assert value(found, "five_best") == (1.0, 1)
    assert value(found, "pairwise_accuracy_all") == (1.0, 1)
