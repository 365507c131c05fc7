"""srlm.seeds.eft: whose rationales and scores become EFT examples, and how they are balanced and spread."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from srlm.config import JudgeConfig, RationaleSource, SeedsConfig
from srlm.errors import SeedError
from srlm.records import JudgeExample
from srlm.seeds.balance import cap_commonest
from srlm.seeds.eft import build_examples, needs_baseline
from tests.helpers import judgement_from, ranked

DISAGREES = "dropped: the baseline orders the answers otherwise than people"
UNSCORED = "dropped: a judgement of the baseline without a verdict"
NONE_OWN = "dropped: no rationale and score of its own"


def seeds(source: str = "auto", share: float = 1.0, limit: int = 0) -> SeedsConfig:
    return SeedsConfig(rationales=RationaleSource[source], commonest_score_share=share, eft_limit=limit)


def build(rows, judgements=(), config=None, max_score=5, seed=0):
    examples, counts = build_examples(rows, list(judgements), config or seeds(), JudgeConfig(max_score=max_score), seed)
    return {example.id: example for example in examples}, counts


def own(id: str, scores=(5.0, 2.0)):
    return ranked(id, range(len(scores)), scores, [f"{id} why {n}" for n in range(len(scores))])


def baseline(id: str, verdicts):
    """The baseline's judgements of a prompt's answers; None = no verdict."""
    texts = ["I cannot say." if v is None else f"{id} because {n}.\n\n**Score: {v}**" for n, v in enumerate(verdicts)]
    return [judgement_from(f"{id}/a{n}", text) for n, text in enumerate(texts)]


# The seed's own rationales


def test_own_rationales_and_scores():
    examples, counts = build([own("e0"), own("e1", (4.0, 3.0, 0.0))])
    assert set(examples) == {"e0/a0", "e0/a1", "e1/a0", "e1/a1", "e1/a2"}
    assert examples["e1/a2"] == JudgeExample("e1/a2", "e1 question", "e1 answer 2", "e1 why 2", 0.0, "seed")
    assert counts["prompts"] == 2
    assert counts["examples"] == 5


def test_answers_without_a_rationale_or_score_are_left_out():
    rows = [
        ranked("e0", (0, 1, 2), (5.0, None, 1.0), ("why", "why", None)),
        ranked("e1", (0, 1), (5.0, 1.0), ("", None)),
        ranked("e2", (0, 1)),
    ]
    examples, counts = build(rows)
    assert set(examples) == {"e0/a0"}
    assert counts[NONE_OWN] == 2


def test_a_score_of_zero_is_a_score():
    examples, _ = build([ranked("e0", (0, 1), (0.0, 0.0), ("bad", "bad"))])
    assert [example.score for example in examples.values()] == [0.0, 0.0]


@pytest.mark.parametrize(("score", "shown"), [(4.5, "4.5"), (6.0, "6"), (-1.0, "-1")])
def test_own_scores_off_the_scale_are_refused(score, shown):
    rows = [own("e0"), own("e1", (5.0, score))]
    with pytest.raises(SeedError, match=rf"e1: the score {shown} of answer 2 .*judge\.max_score=5"):
        build(rows)


def test_the_scale_is_the_configured_one():
    examples, _ = build([own("e0", (9.0, 2.0))], max_score=10)
    assert examples["e0/a0"].score == 9.0


# The SFT baseline's


def test_who_needs_the_baseline():
    bare, full = [ranked("e0"), ranked("e1")], [ranked("e0"), own("e1")]
    assert needs_baseline(bare, RationaleSource.auto)
    assert not needs_baseline(full, RationaleSource.auto)
    assert needs_baseline(full, RationaleSource.baseline)
    assert not needs_baseline(bare, RationaleSource.seed)
    assert not needs_baseline(bare, RationaleSource.none)
    # A score without a rationale, or the reverse, is nothing to learn from.
    halves = [ranked("e0", (0, 1), (5.0, 1.0)), ranked("e1", (0, 1), None, ("a", "b"))]
    assert needs_baseline(halves, RationaleSource.auto)


@pytest.mark.parametrize(
    ("ranks", "verdicts", "kept"),
    [
        ((0, 1), (5, 2), True),
        ((1, 0), (2, 5), True),
        ((0, 1), (2, 5), False),
        ((0, 1), (3, 3), False),  # a tie where people see a difference
        ((0, 0), (3, 3), True),
        ((0, 0), (2, 5), True),  # people tie: either order
        ((0, 1, 2), (5, 3, 1), True),
        ((0, 1, 2), (5, 1, 3), False),
        ((0, 1, 2), (5, 3, 3), False),
        ((0, 4, 9), (3, 2, 1), True),  # gaps in the ranks
        ((0, 1, 1), (5, 3, 2), True),
        ((0, 1, 1), (3, 2, 3), False),
        ((0, 1), (5, None), False),
        ((0, 0), (None, None), False),
    ],
)
def test_baseline_agreement(ranks, verdicts, kept):
    other = ranked("other")
    rows = [ranked("e0", ranks), other]
    examples, counts = build(rows, baseline("e0", verdicts) + baseline("other", (4, 1)))
    assert {id for id in examples if id.startswith("e0/")} == (
        {f"e0/a{n}" for n in range(len(ranks))} if kept else set()
    )
    assert {"other/a0", "other/a1"} <= set(examples)
    expected = {} if kept else {UNSCORED if None in verdicts else DISAGREES: 1}
    assert {name: count for name, count in counts.items() if name in (UNSCORED, DISAGREES)} == expected


def test_the_baselines_rationale_comes_without_its_verdict():
    examples, _ = build([ranked("e0")], baseline("e0", (5, 2)))
    assert examples["e0/a1"] == JudgeExample(
        "e0/a1", "e0 question", "e0 answer 1", "e0 because 1.", 2.0, "sft_baseline"
    )


def test_a_missing_judgement_drops_the_whole_prompt():
    rows = [ranked("e0"), ranked("e1")]
    examples, counts = build(rows, baseline("e0", (5, 2)) + baseline("e1", (5, 2))[:1])
    assert set(examples) == {"e0/a0", "e0/a1"}
    assert counts[UNSCORED] == 1


def test_baseline_by_option_overrides_the_seeds_own():
    examples, _ = build([own("e0")], baseline("e0", (4, 1)), seeds("baseline"))
    assert {example.written_by for example in examples.values()} == {"sft_baseline"}
    assert examples["e0/a0"].score == 4.0


# Ranks alone


@pytest.mark.parametrize(
    ("ranks", "scores"),
    [
        ((0, 1), [5, 1]),
        ((0, 1, 2), [5, 3, 1]),
        ((2, 0, 1), [1, 5, 3]),
        ((0, 7, 9), [5, 3, 1]),
        ((0, 1, 1), [5, 1, 1]),
        ((0, 1, 2, 3, 4), [5, 4, 3, 2, 1]),
        ((0, 0), [5, 5]),
    ],
)
def test_ranks_only(ranks, scores):
    examples, _ = build([ranked("e0", ranks)], config=seeds("none"))
    assert [examples[f"e0/a{n}"].score for n in range(len(ranks))] == scores
    assert {example.rationale for example in examples.values()} == {""}


def test_score_alone_is_the_seeds_own():
    examples, _ = build([own("e0", (4.0, 0.0))], config=seeds("none"))
    assert [(example.score, example.rationale) for example in examples.values()] == [(4.0, ""), (0.0, "")]


def test_score_alone_goes_by_rank_where_one_is_missing():
    rows = [ranked("e0", (0, 1, 2), (3.0, None, 2.0), ("why", "why", "why"))]
    examples, _ = build(rows, config=seeds("none"))
    assert [example.score for example in sorted(examples.values(), key=lambda e: e.id)] == [5.0, 3.0, 1.0]


@pytest.mark.parametrize("score", [2.5, 6.0, -1.0])
def test_score_alone_must_be_whole_and_in_range(score):
    with pytest.raises(SeedError, match=r"whole number from 0 to judge\.max_score=5"):
        build([own("e0", (score, 1.0))], config=seeds("none"))


@pytest.mark.parametrize("count", range(2, 13))
def test_ranks_only_keep_the_order_and_the_range(count):
    examples, _ = build([ranked("e0", range(count))], config=seeds("none"))
    scores = [examples[f"e0/a{n}"].score for n in range(count)]
    assert scores == sorted(scores, reverse=True)
    assert (scores[0], scores[-1]) == (5.0, 1.0)
    assert all(score == int(score) for score in scores)


# Balance


def with_scores(scores) -> list[JudgeExample]:
    return [JudgeExample(f"e/a{n}", "p", "r", "why", float(score), "seed") for n, score in enumerate(scores)]


@pytest.mark.parametrize(
    ("scores", "share", "left"),
    [
        ([4] * 10 + [1, 2, 3, 5], 0.3, {4: 1, 1: 1, 2: 1, 3: 1, 5: 1}),
        ([4] * 8 + [1, 2] * 4, 0.4, {4: 5, 1: 4, 2: 4}),
        ([4] * 8 + [1] * 2, 0.5, {4: 2, 1: 2}),
        ([4] * 8 + [1] * 2, 0.3, {4: 2, 1: 2}),  # 0.3 cannot be had with two scores
        ([4] * 8 + [1] * 2, 0.8, {4: 8, 1: 2}),
        ([4] * 8, 0.3, {4: 8}),
        ([1, 2, 3, 4], 0.25, {1: 1, 2: 1, 3: 1, 4: 1}),
        ([], 0.3, {}),
    ],
)
def test_cap_commonest(scores, share, left):
    assert Counter(example.score for example in cap_commonest(with_scores(scores), share)) == left


def test_cap_commonest_drops_the_last_ones_and_keeps_the_order():
    kept = cap_commonest(with_scores([4, 1, 4, 4, 1, 4]), 0.5)
    assert [example.id for example in kept] == ["e/a0", "e/a1", "e/a2", "e/a4"]


def test_cap_commonest_on_random_data():
    number = random.Random(3)
    for _ in range(300):
        examples = with_scores(number.choices(range(6), weights=[1, 2, 4, 8, 16, 32], k=number.randint(1, 60)))
        share = number.choice([0.2, 0.3, 0.5, 0.9, 1.0])
        before = Counter(example.score for example in examples)
        kept = cap_commonest(examples, share)
        after = Counter(example.score for example in kept)
        places = [examples.index(example) for example in kept]
        assert places == sorted(places)
        assert set(after) == set(before)  # no score is lost
        allowed = max(share, 1 / len(before))
        assert max(after.values()) <= allowed * len(kept) + 1e-9
        for score, count in before.items():  # one more of any score that was cut would be too many, or make a tie
            if after[score] < count:
                assert after[score] + 1 > allowed * (len(kept) + 1) - 1e-9


def test_build_caps_and_counts():
    rows = [own(f"e{n}", (4.0, 1.0)) for n in range(4)] + [own(f"f{n}", (4.0, 4.0)) for n in range(4)]
    examples, counts = build(rows, config=seeds(share=0.5))
    assert Counter(example.score for example in examples.values()) == {4.0: 4, 1.0: 4}
    assert counts["examples before balancing"] == 16
    assert counts["dropped: commonest score"] == 8
    assert counts["examples"] == 8


# Limit and order


def test_limit_spreads_over_prompts():
    rows = [own(f"e{n}", (5.0, 4.0, 3.0, 2.0)) for n in range(5)]
    for limit, largest in ((3, 1), (5, 1), (7, 2), (12, 3), (20, 4), (99, 4)):
        examples, counts = build(rows, config=seeds(limit=limit))
        of_prompt = Counter(id.split("/")[0] for id in examples)
        assert len(examples) == counts["examples"] == min(limit, 20)
        assert max(of_prompt.values()) == largest
        assert max(of_prompt.values()) - min(of_prompt.values()) <= 1
        assert len(of_prompt) == min(limit, 5)


def test_no_limit_takes_all():
    assert len(build([own(f"e{n}") for n in range(5)], config=seeds(limit=0))[0]) == 10


def test_order_is_random_by_the_seed():
    rows = [own(f"e{n}") for n in range(10)]
    first, again, other = (list(build(rows, seed=seed)[0]) for seed in (0, 0, 1))
    assert first == again
    assert first != other
    assert sorted(first) == sorted(other)
    assert first != sorted(first)


def test_order_mixes_what_the_spread_took_in_turn():
    rows = [own(f"e{n}") for n in range(10)]
    firsts = [{id.split("/")[0] for id in list(build(rows, seed=seed)[0])[:10]} for seed in range(5)]
    assert any(len(prompts) < 10 for prompts in firsts)


# Nothing left


@pytest.mark.parametrize(
    ("rows", "verdicts", "config", "said"),
    [
        ([], [], seeds(), r"of 0 ranked prompts \(no EFT data\)"),
        ([ranked("e0")], [], seeds("seed"), ".*no rationale and score of its own: 1"),
        ([ranked("e0")], [], seeds("baseline"), ".*a judgement of the baseline without a verdict: 1"),
        ([ranked("e0")], [1, 5], seeds(), ".*the baseline orders the answers otherwise than people: 1"),
    ],
    ids=["no rows", "no own", "no judgements", "no agreement"],
)
def test_no_example_left_names_the_reasons_and_ways_on(rows, verdicts, config, said):
    with pytest.raises(SeedError, match=rf"No EFT example is left {said}.*seeds\.eft\.path=builtin"):
        build(rows, baseline("e0", verdicts), config)
