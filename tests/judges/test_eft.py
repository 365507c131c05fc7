"""srlm.judges.eft: the selection of EFT examples and their balancing."""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from dataclasses import replace

import pytest
from scipy.stats import pearsonr as correlation

from srlm.data.balance import cap_modal_score
from srlm.data.config import DataConfig, RationaleSource
from srlm.errors import SeedError
from srlm.judges.config import PairwiseJudgeConfig, SampledJudgeConfig, options_type
from srlm.judges.eft import build_examples, needs_baseline, report
from srlm.types import JudgeExample, Judgement, RankedAnswer, RankedPrompt
from tests.helpers import judgement_from, ranked

DISAGREES = "dropped: the baseline ranks the answers differently than people"
UNSCORED = "dropped: unparsed judgement by the baseline"
NONE_OWN = "dropped: no human rationale and score"


def seeds(source: str = "auto", share: float = 1.0, limit: int = 0) -> DataConfig:
    return DataConfig(rationales=RationaleSource[source], eft_max_score_fraction=share, eft_limit=limit)


def build(rows, judgements=(), config=None, max_score=5, seed=0):
    examples, counts = build_examples(
        rows, list(judgements), config or seeds(), SampledJudgeConfig(max_score=max_score), seed
    )
    return {example.id: example for example in examples}, counts


def explained(id: str, scores=(5.0, 2.0)):
    return ranked(id, range(len(scores)), scores, [f"{id} why {n}" for n in range(len(scores))])


def baseline(id: str, verdicts):
    """Return the baseline's judgements of a prompt's answers; None means no verdict."""
    texts = ["I cannot say." if v is None else f"{id} because {n}.\n\n**Score: {v}**" for n, v in enumerate(verdicts)]
    return [judgement_from(f"{id}/a{n}", text) for n, text in enumerate(texts)]


# The seed's own rationales


def test_own_rationales_and_scores_become_examples():
    examples, counts = build([explained("e0"), explained("e1", (4.0, 3.0, 0.0))])
    assert set(examples) == {"e0/a0", "e0/a1", "e1/a0", "e1/a1", "e1/a2"}
    assert examples["e1/a2"] == JudgeExample("e1/a2", "e1 question", "e1 answer 2", "e1 why 2", 0.0, "seed", rank=2)
    assert counts["prompts"] == 2
    assert counts["examples"] == 5


def test_answers_without_a_rationale_or_score_are_dropped():
    rows = [
        ranked("e0", (0, 1, 2), (5.0, None, 1.0), ("why", "why", None)),
        ranked("e1", (0, 1), (5.0, 1.0), ("", None)),
        ranked("e2", (0, 1)),
    ]
    examples, counts = build(rows)
    assert set(examples) == {"e0/a0"}
    assert counts[NONE_OWN] == 2


def test_a_score_of_zero_is_valid():
    examples, _ = build([ranked("e0", (0, 1), (0.0, 0.0), ("bad", "bad"))])
    assert [example.score for example in examples.values()] == [0.0, 0.0]


@pytest.mark.parametrize(("score", "shown"), [(4.5, "4.5"), (6.0, "6"), (-1.0, "-1")])
def test_own_scores_off_the_scale_are_refused(score, shown):
    rows = [explained("e0"), explained("e1", (5.0, score))]
    with pytest.raises(SeedError, match=rf"e1: the score {shown} of answer 2 .*judge\.max_score=5"):
        build(rows)


def test_the_scale_ends_at_max_score():
    examples, _ = build([explained("e0", (9.0, 2.0))], max_score=10)
    assert examples["e0/a0"].score == 9.0


# Rationales of the SFT baseline


def test_needs_baseline_when_rationales_or_scores_are_missing():
    bare, full = [ranked("e0"), ranked("e1")], [ranked("e0"), explained("e1")]
    assert needs_baseline(bare, RationaleSource.auto)
    assert not needs_baseline(full, RationaleSource.auto)
    assert needs_baseline(full, RationaleSource.baseline)
    assert not needs_baseline(bare, RationaleSource.seed)
    assert not needs_baseline(bare, RationaleSource.none)
    # A score without a rationale, or the reverse, gives no example.
    halves = [ranked("e0", (0, 1), (5.0, 1.0)), ranked("e1", (0, 1), None, ("a", "b"))]
    assert needs_baseline(halves, RationaleSource.auto)


@pytest.mark.parametrize(
    ("ranks", "verdicts", "kept"),
    [
        ((0, 1), (5, 2), True),
        ((1, 0), (2, 5), True),
        ((0, 1), (2, 5), False),
        ((0, 1), (3, 3), False),  # a tie where the ranks differ
        ((0, 0), (3, 3), True),
        ((0, 0), (2, 5), True),  # tied ranks: either order agrees
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
def test_prompts_are_kept_when_the_baseline_agrees_with_ranks(ranks, verdicts, kept):
    other = ranked("other")
    rows = [ranked("e0", ranks), other]
    examples, counts = build(rows, baseline("e0", verdicts) + baseline("other", (4, 1)))
    assert {id for id in examples if id.startswith("e0/")} == (
        {f"e0/a{n}" for n in range(len(ranks))} if kept else set()
    )
    assert {"other/a0", "other/a1"} <= set(examples)
    expected = {} if kept else {UNSCORED if None in verdicts else DISAGREES: 1}
    assert {name: count for name, count in counts.items() if name in (UNSCORED, DISAGREES)} == expected


def test_the_baselines_rationale_excludes_its_verdict():
    examples, _ = build([ranked("e0")], baseline("e0", (5, 2)))
    assert examples["e0/a1"] == JudgeExample(
        "e0/a1", "e0 question", "e0 answer 1", "e0 because 1.", 2.0, "sft_baseline", rank=1
    )


def test_a_missing_judgement_drops_the_whole_prompt():
    rows = [ranked("e0"), ranked("e1")]
    examples, counts = build(rows, baseline("e0", (5, 2)) + baseline("e1", (5, 2))[:1])
    assert set(examples) == {"e0/a0", "e0/a1"}
    assert counts[UNSCORED] == 1


def test_baseline_option_overrides_own_rationales():
    examples, _ = build([explained("e0")], baseline("e0", (4, 1)), seeds("baseline"))
    assert {example.written_by for example in examples.values()} == {"sft_baseline"}
    assert examples["e0/a0"].score == 4.0


# Examples from ranks only


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
def test_ranks_map_to_evenly_spaced_scores(ranks, scores):
    examples, _ = build([ranked("e0", ranks)], config=seeds("none"))
    assert [examples[f"e0/a{n}"].score for n in range(len(ranks))] == scores
    assert {example.rationale for example in examples.values()} == {""}


def test_score_only_examples_use_own_scores():
    examples, _ = build([explained("e0", (4.0, 0.0))], config=seeds("none"))
    assert [(e.score, e.rationale) for _, e in sorted(examples.items())] == [(4.0, ""), (0.0, "")]


def test_score_only_examples_use_ranks_when_a_score_is_missing():
    rows = [ranked("e0", (0, 1, 2), (3.0, None, 2.0), ("why", "why", "why"))]
    examples, _ = build(rows, config=seeds("none"))
    assert [example.score for example in sorted(examples.values(), key=lambda e: e.id)] == [5.0, 3.0, 1.0]


def test_score_only_examples_round_scores_half_up():
    examples, _ = build([explained("e0", (4.25, 2.5))], config=seeds("none"))
    assert [example.score for _, example in sorted(examples.items())] == [4.0, 3.0]


@pytest.mark.parametrize("score", [6.0, -1.0])
def test_score_only_examples_need_scores_in_range(score):
    with pytest.raises(SeedError, match=r"whole number from 0 to judge\.max_score=5"):
        build([explained("e0", (score, 1.0))], config=seeds("none"))


@pytest.mark.parametrize("count", range(2, 13))
def test_scores_from_ranks_keep_order_and_range(count):
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
        ([4] * 8 + [1] * 2, 0.3, {4: 2, 1: 2}),  # 0.3 is impossible with two scores
        ([4] * 8 + [1] * 2, 0.8, {4: 8, 1: 2}),
        ([4] * 8, 0.3, {4: 8}),
        ([1, 2, 3, 4], 0.25, {1: 1, 2: 1, 3: 1, 4: 1}),
        ([], 0.3, {}),
    ],
)
def test_cap_modal_score_limits_the_modal_fraction(scores, share, left):
    assert Counter(example.score for example in cap_modal_score(with_scores(scores), share)) == left


def test_cap_modal_score_drops_the_last_and_keeps_order():
    kept = cap_modal_score(with_scores([4, 1, 4, 4, 1, 4]), 0.5)
    assert [example.id for example in kept] == ["e/a0", "e/a1", "e/a2", "e/a4"]


def test_cap_modal_score_is_minimal_on_random_data():
    number = random.Random(3)
    for _ in range(300):
        examples = with_scores(number.choices(range(6), weights=[1, 2, 4, 8, 16, 32], k=number.randint(1, 60)))
        share = number.choice([0.2, 0.3, 0.5, 0.9, 1.0])
        before = Counter(example.score for example in examples)
        kept = cap_modal_score(examples, share)
        after = Counter(example.score for example in kept)
        places = [examples.index(example) for example in kept]
        assert places == sorted(places)
        assert set(after) == set(before)  # no score is lost
        allowed = max(share, 1 / len(before))
        assert max(after.values()) <= allowed * len(kept) + 1e-9
        for score, count in before.items():  # one more example of a capped score would exceed the cap or make a tie
            if after[score] < count:
                assert after[score] + 1 > allowed * (len(kept) + 1) - 1e-9


def test_build_caps_the_modal_score_and_counts_drops():
    rows = [explained(f"e{n}", (4.0, 1.0)) for n in range(4)] + [explained(f"f{n}", (4.0, 4.0)) for n in range(4)]
    examples, counts = build(rows, config=seeds(share=0.5))
    assert Counter(example.score for example in examples.values()) == {4.0: 4, 1.0: 4}
    assert counts["examples before balancing"] == 16
    assert counts["dropped: modal score"] == 8
    assert counts["examples"] == 8


# Limit and order


def test_limit_takes_whole_prompts():
    """An answer without the others of its prompt mostly teaches how frequent a score is."""
    rows = [explained(f"e{n}", (5.0, 4.0, 3.0, 2.0)) for n in range(5)]
    for limit, sizes in ((3, [3]), (5, [4, 1]), (8, [4, 4]), (12, [4, 4, 4]), (20, [4] * 5), (99, [4] * 5)):
        examples, counts = build(rows, config=seeds(limit=limit))
        of_prompt = Counter(id.split("/")[0] for id in examples)
        assert len(examples) == counts["examples"] == min(limit, 20)
        assert sorted(of_prompt.values(), reverse=True) == sizes


def test_limit_0_takes_all_examples():
    assert len(build([explained(f"e{n}") for n in range(5)], config=seeds(limit=0))[0]) == 10


def test_the_seed_determines_the_order():
    rows = [explained(f"e{n}") for n in range(10)]
    first, again, other = (list(build(rows, seed=seed)[0]) for seed in (0, 0, 1))
    assert first == again
    assert first != other
    assert sorted(first) == sorted(other)
    assert first != sorted(first)


def test_examples_of_different_prompts_are_shuffled_together():
    rows = [explained(f"e{n}") for n in range(10)]
    firsts = [{id.split("/")[0] for id in list(build(rows, seed=seed)[0])[:10]} for seed in range(5)]
    assert any(len(prompts) < 10 for prompts in firsts)


# No example left


@pytest.mark.parametrize(
    ("rows", "verdicts", "config", "message"),
    [
        ([], [], seeds(), r"of 0 ranked prompts \(no EFT data\)"),
        ([ranked("e0")], [], seeds("seed"), ".*no human rationale and score: 1"),
        ([ranked("e0")], [], seeds("baseline"), ".*unparsed judgement by the baseline: 1"),
        ([ranked("e0")], [1, 5], seeds(), ".*the baseline ranks the answers differently than people: 1"),
    ],
    ids=["no rows", "no own", "no judgements", "no agreement"],
)
def test_no_examples_left_raises_with_reasons_and_fixes(rows, verdicts, config, message):
    with pytest.raises(SeedError, match=rf"No EFT example is left {message}.*data\.eft\.path=builtin"):
        build(rows, baseline("e0", verdicts), config)


# Pairs of answers, for judges that learn from pairs


PAIRWISE = PairwiseJudgeConfig()


def sized(id: str, *lengths: int) -> RankedPrompt:
    """Return a prompt whose answers, from best to worst, have these lengths in characters."""
    answers = tuple(RankedAnswer("x" * length, rank) for rank, length in enumerate(lengths))
    return RankedPrompt(id, f"{id} question", answers)


def pairs_of(rows, limit=0, balance=False, seed=0):
    config = DataConfig(rationales=RationaleSource.none, eft_limit=limit, eft_length_balance=balance)
    return build_examples(rows, [], config, PAIRWISE, seed)


def test_pairs_are_all_answers_of_different_rank():
    rows = [ranked("e0", (0, 1, 1, 2)), ranked("e1", (0, 0))]
    examples, counts = pairs_of(rows)
    assert {example.id for example in examples} == {
        f"e0/{pair}" for pair in ("a0-a1", "a0-a2", "a0-a3", "a1-a3", "a2-a3")
    }
    for example in examples:
        first, second = (int(text[-1]) for text in (example.response, example.other))
        assert (first < second) == (example.score == 1.0)  # a0 is the best
    assert counts["dropped: all answers tied"] == 1


def test_the_better_answer_is_shown_first_half_the_time():
    for seed in range(5):
        examples, counts = pairs_of([ranked(f"e{n}") for n in range(20)], seed=seed)
        assert counts["scores"] == {"0": 10, "1": 10}
        assert len(pairs_of([ranked(f"e{n}") for n in range(20)], limit=7, seed=seed)[0]) == 7
        turned = [example for example in examples if example.score == 0.0]
        assert all(example.other.endswith("answer 0") for example in turned)


def test_pairs_need_no_baseline():
    """Ranks are enough. For other judges, rationales=auto uses the baseline when seeds have no rationales."""
    config = DataConfig(rationales=RationaleSource.auto)
    examples, _ = build_examples([ranked("e0")], [], config, PAIRWISE, 0)
    assert len(examples) == 1


# Length


def log_ratio(better: JudgeExample, worse: JudgeExample) -> float:
    return math.log(len(better.response) / len(worse.response))


def open_assistant_like(number: random.Random, count: int) -> list[RankedPrompt]:
    """Return prompts whose better answer is the longer one three times out of four."""
    rows = []
    for n in range(count):
        lengths = sorted(number.randint(50, 2000) for _ in range(number.choice([2, 2, 2, 3, 5])))
        if number.random() < 0.75:
            lengths.reverse()
        rows.append(sized(f"e{n}", *lengths))
    return rows


@pytest.mark.parametrize("seed", range(5))
def test_balancing_removes_the_length_difference_between_scores(seed):
    rows = open_assistant_like(random.Random(seed), 300)
    config = DataConfig(rationales=RationaleSource.none, eft_length_balance=True, eft_max_score_fraction=0.3)
    examples, counts = build_examples(rows, [], config, SampledJudgeConfig(), seed)
    by_prompt: dict[str, list[JudgeExample]] = defaultdict(list)
    for example in examples:
        by_prompt[example.id.rsplit("/", 1)[0]].append(example)
    pairs = [sorted(two, key=lambda example: -example.score) for two in by_prompt.values()]
    assert {len(two) for two in pairs} == {2}  # one pair per prompt
    ratios = [log_ratio(better, worse) for better, worse in pairs]
    assert sum(ratio > 0 for ratio in ratios) == sum(ratio < 0 for ratio in ratios) == len(ratios) / 2
    assert abs(sum(ratios) / len(ratios)) < 0.15
    before = [log_ratio(*two) for row in rows for two in [sorted(_scored(row), key=lambda e: -e.score)[:2]]]
    assert sum(before) / len(before) > 0.2
    assert counts["examples"] == len(examples) > 0.3 * len(rows)
    assert counts["dropped: not in a length-balanced set"] == counts["examples before balancing"] - len(examples)


@pytest.mark.parametrize("seed", range(3))
def test_balancing_removes_the_correlation_of_length_and_score(seed):
    """Prompts whose longer answer is better have longer answers overall, which the length ratio alone does not show."""
    number = random.Random(seed)
    rows = []
    for n in range(400):
        accuracy_shorter_preferred = n % 4 == 0
        lengths = sorted(number.sample(range(100, 900) if accuracy_shorter_preferred else range(200, 2000), 2))
        rows.append(sized(f"e{n}", *(lengths if accuracy_shorter_preferred else lengths[::-1])))
    config = DataConfig(rationales=RationaleSource.none, eft_length_balance=True)
    examples, _ = build_examples(rows, [], config, SampledJudgeConfig(), seed)
    assert len(examples) > 200
    logs, scores = [math.log(len(e.response)) for e in examples], [e.score for e in examples]
    assert abs(correlation(logs, scores)[0]) < 0.1  # hard to match: the two kinds' lengths hardly overlap
    everything = [example for row in rows for example in _scored(row)]
    logs, scores = [math.log(len(e.response)) for e in everything], [e.score for e in everything]
    assert correlation(logs, scores)[0] > 0.2


def test_partners_in_a_balanced_set_have_equal_scores():
    """Otherwise the longer answers would have other scores than the shorter ones."""
    rows = [sized("s", 100, 400), sized("l", 410, 200, 110)]  # 5 and 1; 5, 3 and 1
    config = DataConfig(rationales=RationaleSource.none, eft_length_balance=True)
    examples, _ = build_examples(rows, [], config, SampledJudgeConfig(), 0)
    assert sorted(example.id for example in examples) == ["l/a0", "l/a2", "s/a0", "s/a1"]


def test_pairs_without_a_partner_of_similar_lengths_are_dropped():
    config = DataConfig(rationales=RationaleSource.none, eft_length_balance=True)
    for lengths, sets in (((400, 100), 1), ((480, 120), 1), ((900, 100), 0), ((4000, 1000), 0)):
        rows = [sized("s", 100, 400), sized("l", *lengths), sized("s2", 100, 400), sized("l2", 405, 100)]
        assert len(build_examples(rows, [], config, SampledJudgeConfig(), 0)[0]) == 4 * (sets + 1)


def _scored(row: RankedPrompt) -> list[JudgeExample]:
    return [JudgeExample(row.id, "", answer.text, "", float(-answer.rank), "seed") for answer in row.answers]


def test_prompts_with_both_kinds_of_pair_give_the_rarer():
    rows = [sized("both", 100, 50, 200), *(sized(f"long{n}", 200, 100) for n in range(3))]
    config = DataConfig(rationales=RationaleSource.none, eft_length_balance=True)
    examples, _ = build_examples(rows, [], config, SampledJudgeConfig(), 0)
    assert len(examples) == 4
    both = sorted((e for e in examples if e.id.startswith("both")), key=lambda e: -e.score)
    assert len(both[0].response) < len(both[1].response)


def test_partners_have_similar_length_ratios():
    rows = [sized("s", 100, 400), sized("l1", 110, 100), sized("l4", 390, 100), sized("l9", 900, 100)]
    config = DataConfig(rationales=RationaleSource.none, eft_length_balance=True)
    examples, _ = build_examples(rows, [], config, SampledJudgeConfig(), 0)
    assert {example.id.split("/")[0] for example in examples} == {"s", "l4"}


def test_a_limit_keeps_whole_balanced_sets():
    rows = open_assistant_like(random.Random(0), 100)
    config = DataConfig(rationales=RationaleSource.none, eft_length_balance=True, eft_limit=30)
    assert len(build_examples(rows, [], config, SampledJudgeConfig(), 0)[0]) == 28
    assert len(pairs_of(rows, limit=31, balance=True)[0]) == 30
    assert len(pairs_of(rows, limit=1, balance=True)[0]) == 2  # at least one set, and not all of them


def test_pairs_are_balanced_in_length_and_position():
    examples, _ = pairs_of(open_assistant_like(random.Random(1), 200), balance=True)
    kinds = Counter(
        (example.score == 1.0, (len(example.response) > len(example.other)) == (example.score == 1.0))
        for example in examples
    )  # (better shown first, better is the longer)
    assert len(kinds) == 4
    assert max(kinds.values()) - min(kinds.values()) <= 1


def test_no_balanced_set_raises_with_the_reasons():
    rows = [sized(f"e{n}", 200, 100) for n in range(3)]  # no shorter answer is ever better
    config = DataConfig(rationales=RationaleSource.none, eft_length_balance=True)
    with pytest.raises(SeedError, match=r"not in a length-balanced set: 6"):
        build_examples(rows, [], config, SampledJudgeConfig(), 0)


# Ranks and scores that differ


def ordered_pairs(rows, scorer: str = "pairwise", balance: bool = False) -> set[tuple[str, str]]:
    """Return (better, worse) for every training pair of these ranked prompts."""
    config = DataConfig(rationales=RationaleSource.none, eft_length_balance=balance)
    examples, _ = build_examples(rows, [], config, options_type(scorer)(), 0)
    return {(e.response, e.other) if e.score == 1.0 else (e.other, e.response) for e in examples}


@pytest.mark.parametrize("scorer", ["pairwise", "reward_model"])
@pytest.mark.parametrize(
    ("ranks", "scores"),
    [
        (range(12), None),  # more ranks than whole scores
        ((0, 1, 2), (5.0, 5.0, 1.0)),  # different ranks, equal scores
        ((0, 1, 2), (1.0, 3.0, 5.0)),  # scores that contradict the ranks
        ((0, 1), (4.5, 4.4)),  # no whole scores
        ((0, 1), (90.0, 80.0)),  # another scale
        ((0, 1, 1), (5.0, 4.0, 1.0)),  # a tie in rank, not in score
        ((0, 0, 3, 3, 7), None),
        ((1, 0), (5.0, None)),
    ],
)
def test_pairs_follow_the_human_ranks(scorer, ranks, scores):
    found = ordered_pairs([ranked("e", ranks, scores)], scorer)
    places = range(len(ranks))
    assert found == {(f"e answer {i}", f"e answer {j}") for i in places for j in places if ranks[i] < ranks[j]}


def test_tied_ranks_give_no_pair():
    rows = [ranked("tied", (0, 0), (5.0, 1.0)), ranked("e", (0, 1))]
    _, counts = build_examples(rows, [], DataConfig(), PairwiseJudgeConfig(), 0)
    assert counts["dropped: all answers tied"] == 1


def test_length_balanced_pairs_follow_ranks():
    """Close ranks share a whole score, and scores contradict the ranks."""
    texts = ["a" * (100 + 3 * n) for n in range(9)]
    short = RankedPrompt("s", "q", tuple(RankedAnswer(t, n, float(n % 6)) for n, t in enumerate(texts)))
    long = RankedPrompt("l", "q", tuple(RankedAnswer(t, n, float(n % 6)) for n, t in enumerate(reversed(texts))))
    found = ordered_pairs([short, long], balance=True)
    assert len(found) == 2
    for better, worse in found:
        assert abs(len(better) - len(worse)) == 3 * 8  # the best and the last answer, one pair of each kind
    assert len({len(better) > len(worse) for better, worse in found}) == 2


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ((5.0, 3.0, 1.0), [5.0, 3.0, 1.0]),
        ((4.0, 4.0, 2.0), [4.0, 4.0, 2.0]),  # equal scores contradict nothing
        ((2.0, 4.0, 1.0), [5.0, 3.0, 1.0]),  # the ranks win
        ((5.0, 1.0, 2.0), [5.0, 3.0, 1.0]),
    ],
)
def test_scores_that_contradict_ranks_are_replaced_by_ranks(scores, expected):
    examples, _ = build([ranked("e0", (0, 1, 2), scores)], config=seeds("none"))
    assert [examples[f"e0/a{n}"].score for n in range(3)] == expected


def test_prompts_whose_rationale_scores_contradict_ranks_are_dropped():
    examples, counts = build([explained("e0", (2.0, 5.0)), explained("e1", (4.0, 4.0)), explained("e2", (5.0, 1.0))])
    assert set(examples) == {"e1/a0", "e1/a1", "e2/a0", "e2/a1"}
    assert counts["dropped: its scores contradict its ranks"] == 1


def test_examples_store_the_human_rank():
    examples, _ = build([ranked("e0", (0, 3, 3))], config=seeds("none"))
    assert [examples[f"e0/a{n}"].rank for n in range(3)] == [0, 3, 3]


# Attempts


def test_the_first_attempt_that_agrees_is_kept():
    rows = [ranked("e0"), ranked("e1"), ranked("e2")]
    judgements = [
        *judgements_of_attempts("e0", (2, 5), (4, 1), (5, 0)),  # the second agrees
        *judgements_of_attempts("e1", (2, 5), (None, 1), (3, 3)),  # none agrees
        *judgements_of_attempts("e2", (5, 1)),
    ]
    config = replace(seeds(), rationale_attempts=3)
    examples, counts = build_examples(rows, judgements, config, SampledJudgeConfig(), 0)
    scores = {example.id: example.score for example in examples}
    assert scores == {"e0/a0": 4, "e0/a1": 1, "e2/a0": 5, "e2/a1": 1}
    assert counts[DISAGREES] == 1
    once, _ = build_examples(rows, judgements, seeds(), SampledJudgeConfig(), 0)
    assert {example.id for example in once} == {"e2/a0", "e2/a1"}


def judgements_of_attempts(id: str, *tries) -> list[Judgement]:
    rows = []
    for attempt, verdicts in enumerate(tries):
        for judgement in baseline(id, verdicts):
            rows.append(replace(judgement, id=f"{judgement.candidate_id}/j{attempt}"))
    return rows


def test_report_counts_kept_and_dropped_examples():
    rows = [explained(f"e{n}", (4.0, 1.0)) for n in range(4)] + [ranked("bare")]
    examples, counts = build_examples(rows, [], seeds("seed", share=0.5), SampledJudgeConfig(), 0)
    agreed = {"value": 0.75, "low": 0.5, "high": 1.0, "n": 4}
    lines = report(counts | {"agreement with people": agreed})
    assert lines == [
        "EFT: 8 examples of 5 prompts; left out: 1 (no human rationale and score)",
        "EFT scores (score: examples): 1: 4 4: 4; after balancing: 1: 4 4: 4",
        "EFT scores order 75 [50,100] % of 4 pairs as people do",
    ]
    assert len(report(counts | {"agreement with people": agreed | {"value": None}})) == 2
    single = agreed | {"low": None, "high": None}
    assert report(counts | {"agreement with people": single})[2].startswith("EFT scores order 75 [n/a] % of ")
    assert len(examples) == 8
