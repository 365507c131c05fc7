"""srlm.preferences.pairs: highest against lowest mean; each prompt gives a pair or a reason for none."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from fractions import Fraction

import pytest

from srlm.preferences.config import PairsConfig, Truncated
from srlm.preferences.pairs import TRUNCATED, count_reasons, length_penalty, select_pairs
from srlm.types import Candidate, Prompt, Unpaired
from tests.helpers import candidates_of, judgements_of, prompt

FEW = "fewer than two candidates with enough valid judgements"


def select(scores: list[list[list[float | None]]], texts=None, min_gap=0.0, min_valid=2, keep_share=1.0):
    """Select pairs from prompts p0, p1, ... whose candidates have these scores."""
    prompts = [Prompt(f"p{i}", f"question {i}", ()) for i in range(len(scores))]
    texts = texts or [[f"answer {i} {j}" for j in range(len(row))] for i, row in enumerate(scores)]
    candidates = [c for p, row in zip(prompts, texts, strict=True) for c in candidates_of(p.id, row)]
    judgements = [
        j for i, row in enumerate(scores) for place, s in enumerate(row) for j in judgements_of(f"p{i}/c{place}", s)
    ]
    config = PairsConfig(min_gap=min_gap, keep_share=keep_share)
    return counted(select_pairs(prompts, candidates, judgements, config, min_valid))


def counted(selected):
    """Return the pairs and a count of prompts without a pair by reason."""
    pairs, unpaired = selected
    return pairs, count_reasons(unpaired)


def test_pair_has_highest_and_lowest_mean():
    [pair], dropped = select([[[3.0, 4.0, 3.0], [5.0, 4.0, 4.0], [1.0, 2.0, 1.0], [2.0, 2.0, 2.0]]])
    assert (pair.id, pair.prompt) == ("p0", "question 0")
    assert (pair.chosen_id, pair.chosen, pair.chosen_score) == ("p0/c1", "answer 0 1", 13 / 3)
    assert (pair.rejected_id, pair.rejected, pair.rejected_score) == ("p0/c2", "answer 0 2", 4 / 3)
    assert dropped == {}


def test_means_are_not_rounded():
    [pair], _ = select([[[4.0, 4.0, 5.0], [4.0, 5.0, 5.0]]])
    assert pair.chosen_id == "p0/c1"
    assert pair.chosen_score - pair.rejected_score == pytest.approx(1 / 3)


def test_ties_give_no_pair_and_later_prompts_are_processed():
    tie = [[3.0, 3.0], [3.0, 3.0], [2.0, 4.0]]
    pairs, dropped = select([tie, [[5.0, 5.0], [1.0, 1.0]], tie, [[1.0, 1.0], [5.0, 5.0]]])
    assert [pair.id for pair in pairs] == ["p1", "p3"]
    assert dropped == {"all scores equal": 2}


def test_equal_means_of_different_counts_are_a_tie():
    pairs, dropped = select([[[4.0, 5.0, 4.0, None, None, None], [4.0, 5.0, 4.0, 4.0, 5.0, 4.0]]])
    assert pairs == []
    assert dropped == {"all scores equal": 1}


def test_first_candidate_by_id_wins_ties():
    [pair], _ = select([[[3.0, 3.0], [5.0, 5.0], [1.0, 1.0], [5.0, 5.0], [1.0, 1.0]]])
    assert (pair.chosen_id, pair.rejected_id) == ("p0/c1", "p0/c2")


def test_missing_judgements_do_not_count_as_low_scores():
    [pair], _ = select([[[None, None, None], [3.0, 3.0, 3.0], [None, 5.0, 5.0], [None, None, 0.0]]])
    assert (pair.chosen_id, pair.rejected_id) == ("p0/c2", "p0/c1")
    assert pair.chosen_score == 5.0


@pytest.mark.parametrize("missing", [[None, None, None], [None, None, 5.0], [None, None, 0.0]])
def test_one_scored_candidate_gives_no_pair(missing):
    pairs, dropped = select([[[3.0, 3.0, 3.0], missing]])
    assert pairs == []
    assert dropped == {FEW: 1}


def test_candidates_below_min_valid_are_excluded():
    scores = [[[5.0, None, None], [3.0, 3.0, None], [2.0, 2.0, 2.0]]]
    assert [(p.chosen_id, p.rejected_id) for p in select(scores, min_valid=1)[0]] == [("p0/c0", "p0/c2")]
    assert [(p.chosen_id, p.rejected_id) for p in select(scores, min_valid=2)[0]] == [("p0/c1", "p0/c2")]
    assert select(scores, min_valid=3) == ([], {FEW: 1})


@pytest.mark.parametrize("text", ["same", " same\n"])
def test_identical_texts_are_dropped(text):
    pairs, dropped = select([[[5.0, 5.0], [1.0, 1.0]], [[5.0, 5.0], [1.0, 1.0]]], [["same", text], ["one", "other"]])
    assert [pair.id for pair in pairs] == ["p1"]
    assert dropped == {"identical texts": 1}


@pytest.mark.parametrize("texts", [["", "other"], ["other", " \n"], ["", ""]])
def test_empty_texts_are_dropped(texts):
    assert select([[[5.0, 5.0], [1.0, 1.0]]], [texts]) == ([], {"empty text": 1})


def test_gap_must_exceed_min_gap():
    scores = [[[4.0, 4.0], [3.0, 3.0]]]
    assert select(scores, min_gap=1.0) == ([], {"gap too small": 1})
    assert len(select(scores, min_gap=0.99)[0]) == 1


@pytest.mark.parametrize("low", range(4))
def test_gap_equal_to_min_gap_is_too_small(low):
    """7/3 - 4/3 is more than 1 in floats."""
    scores = [[[low + 1.0, low + 1.0, low + 2.0], [low + 0.0, low + 0.0, low + 1.0]]]
    assert select(scores, min_gap=1.0) == ([], {"gap too small": 1})


@pytest.mark.parametrize(
    ("share", "kept"), [(1.0, "p0 p1 p2 p3"), (0.75, "p0 p1 p2"), (0.5, "p0 p1"), (0.51, "p0 p1 p2"), (0.01, "p1")]
)
def test_pairs_with_the_largest_gaps_are_kept(share, kept):
    """Of the equal gaps of p0 and p2, the first is kept; a share is rounded up."""
    scores = [[[4.0] * 2, [1.0] * 2], [[5.0] * 2, [1.0] * 2], [[3.0] * 2, [0.0] * 2], [[2.0] * 2, [1.0] * 2]]
    pairs, dropped = select(scores, keep_share=share)
    assert [pair.id for pair in pairs] == kept.split()
    assert dropped == ({"gap not among the largest": 4 - len(pairs)} if len(pairs) < 4 else {})


def test_prompt_without_candidates_is_counted():
    assert select_pairs([prompt()], [], [], PairsConfig(), 2) == ([], [Unpaired(prompt().id, FEW)])


def test_pairs_are_in_prompt_order():
    number = random.Random(0)
    prompts = [Prompt(f"p{i}", f"question {i}", ()) for i in (3, 0, 2, 1)]
    candidates = [c for p in prompts for c in candidates_of(p.id, [f"{p.id} a", f"{p.id} b", f"{p.id} c"])]
    judgements = [j for n, c in enumerate(candidates) for j in judgements_of(c.id, [n % 3 + 1.0, n % 2 + 1.0])]
    expected = select_pairs(prompts, candidates, judgements, PairsConfig(), 2)
    assert [pair.id for pair in expected[0]] == ["p3", "p0", "p2", "p1"]
    for _ in range(5):
        number.shuffle(candidates)
        number.shuffle(judgements)
        assert select_pairs(prompts, candidates, judgements, PairsConfig(), 2) == expected


def oracle(scores: list[list[float | None]], texts: list[str], min_gap: float, min_valid: int):
    """Return the (chosen, rejected) places of one prompt or the reason for none, by brute force in exact fractions."""
    means = {}
    for place, row in enumerate(scores):
        valid = [Fraction(score) for score in row if score is not None]
        if len(valid) >= min_valid:
            means[place] = sum(valid) / len(valid)
    if len(means) < 2:
        return FEW
    best = next(i for i in means if not any(means[j] > means[i] for j in means))
    worst = next(i for i in means if not any(means[j] < means[i] for j in means))
    if means[best] == means[worst]:
        return "all scores equal"
    if means[best] - means[worst] <= Fraction(min_gap):
        return "gap too small"
    if not texts[best].strip() or not texts[worst].strip():
        return "empty text"
    if texts[best].strip() == texts[worst].strip():
        return "identical texts"
    return best, worst


def test_pairs_match_brute_force_on_random_data():
    number = random.Random(7)
    reasons: Counter[str] = Counter()
    for _ in range(300):
        min_gap, min_valid = number.choice([0.0, 0.4, 1.5]), number.choice([1, 2, 3])
        n, k = number.randint(1, 4), number.randint(1, 3)
        scores = [
            [[number.choice([None, 0.0, 3.0, 4.0, 4.0, 5.0]) for _ in range(k)] for _ in range(n)]
            for _ in range(number.randint(0, 6))
        ]
        texts = [[number.choice(["", " ", "one", "two", "three", "four"]) for _ in range(n)] for _ in scores]
        pairs, dropped = select(scores, texts, min_gap, min_valid)
        expected = [oracle(*row, min_gap, min_valid) for row in zip(scores, texts, strict=True)]
        assert [(p.id, p.chosen_id, p.rejected_id) for p in pairs] == [
            (f"p{i}", f"p{i}/c{found[0]}", f"p{i}/c{found[1]}")
            for i, found in enumerate(expected)
            if isinstance(found, tuple)
        ]
        assert dropped == Counter(found for found in expected if isinstance(found, str))
        assert len(pairs) + sum(dropped.values()) == len(scores)
        assert all(p.chosen_score > p.rejected_score for p in pairs)
        reasons.update(dropped)
        reasons["pairs"] += len(pairs)
    assert min(reasons[name] for name in ("pairs", FEW, "all scores equal", "gap too small", "empty text")) > 10
    assert reasons["identical texts"] > 10


# Truncated candidates


def with_truncated(truncated: str, scores: list[float], cut: list[int], min_valid: int = 1):
    """Select from one prompt whose candidates have these scores; those with an index in `cut` are truncated."""
    candidates = [replace(c, truncated=n in cut) for n, c in enumerate(candidates_of("p", ["w", "x", "y", "z"]))]
    judgements = [j for c, score in zip(candidates, scores, strict=True) for j in judgements_of(c.id, [score])]
    config = PairsConfig(truncated=Truncated[truncated])
    return counted(select_pairs([prompt("p")], candidates, judgements, config, min_valid))


def test_truncated_candidates_are_excluded_by_default():
    assert PairsConfig().truncated is Truncated.exclude
    [pair], dropped = with_truncated("exclude", [5.0, 4.0, 2.0, 1.0], cut=[0, 3])
    assert (pair.chosen_id, pair.rejected_id, dropped) == ("p/c1", "p/c2", {})
    assert (pair.chosen_truncated, pair.rejected_truncated) == (False, False)


@pytest.mark.parametrize("cut", [[0, 1, 2], [0, 1, 2, 3], [1, 2, 3]])
def test_fewer_than_two_complete_candidates_give_no_pair(cut):
    assert with_truncated("exclude", [5.0, 4.0, 2.0, 1.0], cut) == ([], {TRUNCATED: 1})


@pytest.mark.parametrize(("cut", "reason"), [([0, 1], TRUNCATED), ([0], TRUNCATED), ([2], FEW), ([], FEW)])
def test_truncation_is_the_reason_for_judged_and_unjudged_candidates(cut, reason):
    """Early stopping of the judge skips truncated candidates. An unscored complete candidate is another reason."""
    texts = ["w", "x", "y"] if 2 in cut else ["w", "x"]
    candidates = [replace(c, truncated=n in cut) for n, c in enumerate(candidates_of("p", texts))]
    for of_truncated in ([5.0], [None], []):
        judgements = judgements_of("p/c0", [5.0] if 0 not in cut else of_truncated) + judgements_of("p/c1", [None])
        assert select_pairs([prompt("p")], candidates, judgements, PairsConfig(), 1) == ([], [Unpaired("p", reason)])


@pytest.mark.parametrize(("cut", "chosen", "rejected"), [([0], True, False), ([3], False, True), ([0, 3], True, True)])
def test_kept_truncated_candidates_are_marked_in_the_pair(cut, chosen, rejected):
    [pair], _ = with_truncated("keep", [5.0, 4.0, 2.0, 1.0], cut)
    assert (pair.chosen_id, pair.rejected_id) == ("p/c0", "p/c3")
    assert (pair.chosen_truncated, pair.rejected_truncated) == (chosen, rejected)


# Length


def of_lengths(rows: list[list[tuple[float, int]]]):
    """Return prompts whose candidates have these scores and lengths in characters."""
    prompts = [Prompt(f"p{i:03d}", "q", ()) for i in range(len(rows))]
    pairs = list(zip(prompts, rows, strict=True))
    candidates = [c for p, row in pairs for c in candidates_of(p.id, [f"{n:04d}".ljust(n, "x") for _, n in row])]
    judgements = [
        j for p, row in pairs for place, (s, _) in enumerate(row) for j in judgements_of(f"{p.id}/c{place}", [s])
    ]
    return prompts, candidates, judgements


def test_length_penalty_is_subtracted_per_hundred_characters():
    data = of_lengths([[(4.0, 300), (3.5, 100), (1.0, 50)]])
    [pair], _ = select_pairs(*data, PairsConfig(), 1, 0.5)
    assert (pair.chosen_id, pair.chosen_score) == ("p000/c1", 3.0)  # 4.0 - 1.5 = 2.5 is less
    assert (pair.rejected_id, pair.rejected_score) == ("p000/c2", 0.75)
    [plain], _ = select_pairs(*data, PairsConfig(), 1)
    assert (plain.chosen_id, plain.chosen_score) == ("p000/c0", 4.0)


def test_matching_penalty_equalises_mean_lengths():
    number = random.Random(0)
    rows = []
    for _ in range(150):
        lengths = [number.randint(50, 900) for _ in range(4)]
        rows.append([(2 + length / 300 + number.gauss(0, 0.7), length) for length in lengths])  # prefers long answers
    data = of_lengths(rows)
    found = length_penalty(*data, PairsConfig(length_penalty=None), 1)
    assert 0.2 < found < 0.5  # the true slope is 1/3 point per 100 characters
    assert length_penalty(*data, PairsConfig(length_penalty=0.7), 1) == 0.7

    def gap(penalty: float) -> float:
        pairs, _ = select_pairs(*data, PairsConfig(), 1, penalty)
        return sum(len(pair.chosen) - len(pair.rejected) for pair in pairs) / len(pairs)

    assert gap(0.0) > 200
    assert abs(gap(found)) < 3


def test_matching_penalty_is_zero_if_the_judge_prefers_short_answers():
    data = of_lengths([[(5.0, 50), (1.0, 500)]] * 3)
    assert length_penalty(*data, PairsConfig(length_penalty=None), 1) == 0.0
    assert length_penalty([], [], [], PairsConfig(length_penalty=None), 1) == 0.0


def random_prompts(number: random.Random, min_gap: float):
    """Return scores that favour long answers; some candidates are truncated, empty, identical or unscored."""
    prompts, candidates, judgements = [], [], []
    for i in range(number.randint(1, 12)):
        prompts.append(Prompt(f"p{i:02d}", "q", ()))
        for c in range(number.randint(1, 4)):
            length = number.choice([0, *range(20, 400, 20)])
            score = round(min(5.0, max(0.0, length / 100 + number.gauss(0.5, 1))) * 3) / 3
            name = f"{prompts[-1].id}/c{c}"
            candidates.append(Candidate(name, prompts[-1].id, "x" * length, length, number.random() < 0.2))
            judgements += judgements_of(name, [score if number.random() < 0.9 else None])
    return prompts, candidates, judgements, PairsConfig(min_gap=min_gap, length_penalty=None)


def test_matching_penalty_matches_brute_force():
    """No penalty on a fine grid gives a smaller length difference of the kept pairs."""
    number = random.Random(3)
    kept = dropped_by_gap = changed = 0
    for _ in range(60):
        *data, config = random_prompts(number, number.choice([0.0, 0.5, 1.0]))

        def difference(penalty: float, data=data, config=config) -> tuple[float, int]:
            pairs, _ = select_pairs(*data, config, 1, penalty)
            total = sum(len(pair.chosen) - len(pair.rejected) for pair in pairs)
            return (abs(total / len(pairs)) if pairs else float("inf")), -len(pairs)

        found = length_penalty(*data, config, 1)
        grid = [0.0, *(k / 400 + 1e-5 for k in range(1200)), 5.0, 20.0, 100.0]
        best = min(difference(penalty) for penalty in grid)
        assert found >= 0
        assert difference(found)[0] <= best[0] + 1e-9, (data, found)
        if difference(found)[0] == pytest.approx(best[0]):
            assert difference(found)[1] <= best[1], (data, found)  # as many pairs
        kept += -difference(found)[1]
        changed += difference(found)[1] != difference(0.0)[1]
        dropped_by_gap += "gap too small" in counted(select_pairs(*data, config, 1, found))[1]
    assert min(kept, changed, dropped_by_gap) > 15


def test_matching_penalty_depends_only_on_kept_pairs():
    """The pairs that min_gap drops prefer long answers; the lengths of the two kept pairs match without a penalty."""
    rows = [[(3.0, 800), (2.99 - n / 100, 100)] for n in range(9)] + [
        [(5.0, 300), (1.0, 340)],
        [(5.0, 340), (1.0, 300)],
    ]
    data = of_lengths(rows)
    assert length_penalty(*data, PairsConfig(min_gap=0.5, length_penalty=None), 1) == 0.0
    assert length_penalty(*data, PairsConfig(length_penalty=None), 1) > 0.0


def test_matching_penalty_ignores_excluded_truncated_candidates():
    prompts, candidates, judgements = of_lengths([[(5.0, 900), (4.0, 210), (3.0, 200)]] * 3)
    candidates = [replace(c, truncated=c.id.endswith("c0")) for c in candidates]
    for truncated, positive in ((Truncated.exclude, False), (Truncated.keep, True)):
        config = PairsConfig(length_penalty=None, truncated=truncated)
        assert (length_penalty(prompts, candidates, judgements, config, 1) > 0) is positive
