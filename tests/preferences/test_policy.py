"""srlm.preferences.policy: policies by name, several pairs of one prompt, and pairs that DPO cannot train on."""

from __future__ import annotations

from dataclasses import replace

import pytest

from srlm.cli.check import check
from srlm.config import Config
from srlm.errors import ConfigError, TrainingError
from srlm.judges.config import SampledJudgeConfig
from srlm.preferences.config import PairsConfig
from srlm.preferences.pairs import length_penalty, select_pairs
from srlm.preferences.policies import POLICIES, policy_named
from srlm.preferences.policies.highest_lowest import HighestLowest
from srlm.preferences.policy import PairPolicy, Selection, preference_pair
from srlm.training.methods.dpo import DPO, DPOConfig
from srlm.types import Unpaired
from tests.helpers import candidates_of, judgements_of, prompt

HERE = "tests.preferences.test_policy"


class BestAgainstEach(PairPolicy):
    """Pair the best candidate with each worse one; the weight is the gap divided by the largest gap."""

    def select(self, prompt, scored):
        if len({score for score, _ in scored}) < 2:
            return Selection(reason="nothing to compare")
        best = max(scored, key=lambda one: one[0])
        worse = sorted((one for one in scored if one[0] < best[0]), key=lambda one: one[0])
        gaps = [best[0] - score for score, _ in worse]
        return Selection(
            tuple(
                preference_pair(prompt, best, one, n, gap / gaps[0])
                for n, (one, gap) in enumerate(zip(worse, gaps, strict=True))
            )
        )


def data(*rows: list[float]):
    prompts = [prompt(f"t2/p{n:05d}") for n in range(len(rows))]
    candidates = [
        c
        for p, row in zip(prompts, rows, strict=True)
        for c in candidates_of(p.id, [f"text {n}" for n in range(len(row))])
    ]
    scores = [score for row in rows for score in row]
    judgements = [j for c, score in zip(candidates, scores, strict=True) for j in judgements_of(c.id, [score])]
    return prompts, candidates, judgements


def test_registered_policies_are_found_by_name():
    assert POLICIES["highest_lowest"] is HighestLowest is policy_named(PairsConfig().policy)
    assert all(policy_named(name) is policy for name, policy in POLICIES.items())


def test_external_policy_can_return_several_weighted_pairs():
    config = PairsConfig(policy=f"{HERE}:BestAgainstEach")
    pairs, unpaired = select_pairs(*data([4.0, 2.0, 3.0], [1.0, 1.0]), config, 1)
    assert [(pair.id, pair.chosen_id, pair.rejected_id, pair.weight, pair.target) for pair in pairs] == [
        ("t2/p00000", "t2/p00000/c0", "t2/p00000/c1", 1.0, 1.0),
        ("t2/p00000/pair1", "t2/p00000/c0", "t2/p00000/c2", 0.5, 1.0),
    ]
    assert unpaired == [Unpaired("t2/p00001", "nothing to compare")]


def test_matching_length_penalty_includes_all_pairs_of_the_policy():
    prompts, candidates, judgements = data([3.0, 2.0, 1.0])
    texts = {"c0": "x" * 300, "c1": "y" * 100, "c2": "z" * 100}
    candidates = [replace(c, text=texts[c.id[-2:]]) for c in candidates]
    config = PairsConfig(policy=f"{HERE}:BestAgainstEach", length_penalty=None)
    penalty = length_penalty(prompts, candidates, judgements, config, 1)
    pairs, _ = select_pairs(prompts, candidates, judgements, config, 1, penalty)
    assert penalty > 0.5  # below 0.5 the long c0 is chosen in both pairs
    assert [(pair.chosen_id[-2:], pair.rejected_id[-2:]) for pair in pairs] == [("c1", "c0"), ("c1", "c2")]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lowest", "pairs.policy=lowest does not exist. Use one of highest_lowest, "),
        (f"{HERE}:Missing", "has no attribute 'Missing'"),
        ("no_such_module:Policy", "No module named 'no_such_module'"),
        (f"{HERE}:prompt", "does not exist"),
    ],
)
def test_unknown_policy_is_refused(name, message):
    with pytest.raises(ConfigError, match=r"pairs\.policy=") as refused:
        check(Config(pairs=PairsConfig(policy=name)))
    assert message in str(refused.value)


def test_early_stopping_needs_a_policy_that_compares_the_extremes():
    judge = SampledJudgeConfig(count=5, early_stopping=True)
    check(Config(judge=judge))
    with pytest.raises(ConfigError, match=r"judge\.early_stopping=True .* false with pairs\.policy=.*BestAgainstEach"):
        check(Config(judge=judge, pairs=PairsConfig(policy=f"{HERE}:BestAgainstEach")))


@pytest.mark.parametrize("selection", [{}, {"pairs": (1,), "reason": "both"}])
def test_selection_has_either_pairs_or_a_reason(selection):
    with pytest.raises(ValueError, match="or a reason, not both"):
        Selection(**selection)


@pytest.mark.parametrize(("weight", "target"), [(0.5, 1.0), (1.0, 0.9), (2.0, 0.0)])
def test_dpo_refuses_pairs_with_a_weight_or_a_target(weight, target):
    pairs, _ = select_pairs(*data([4.0, 2.0], [3.0, 1.0]), PairsConfig(), 1)
    rows = [pairs[0], replace(pairs[1], weight=weight, target=target)]
    with pytest.raises(TrainingError, match=f"t2/p00001 has weight={weight:g} and target={target:g}.*pairs.policy"):
        DPO().encode(None, rows, DPOConfig(), Config())
