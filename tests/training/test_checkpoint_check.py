"""srlm.training.checkpoint_check: float32 scores of weights in any precision, and the kept share of the update."""

from __future__ import annotations

import copy

import pytest
import torch

from srlm.training.checkpoint_check import (
    EXAMPLES,
    Kind,
    Probe,
    agreement,
    change,
    effect,
    evenly_spaced,
    float32_arithmetic,
    probe_of_answers,
    probe_of_pairs,
    probe_of_rewards,
    score,
)
from srlm.training.masking import IGNORED
from tests.helpers import tiny_llama

IDS = [[3, 9, 27, 41, 5], [3, 9, 60, 2]]
LABELS = [[IGNORED, IGNORED, 27, 41, 5], [IGNORED, IGNORED, 60, 2]]
ANSWERS = Probe(Kind.tokens, IDS, LABELS)


def test_scores_are_log_probabilities_of_the_labelled_tokens() -> None:
    model = tiny_llama(64, seed=0).requires_grad_(False)
    expected = []
    for ids in IDS:
        probabilities = torch.softmax(model(torch.tensor([ids])).logits[0].double(), dim=-1)
        expected.append([float(probabilities[i - 1, ids[i]].log()) for i in range(2, len(ids))])
    found = score(model, ANSWERS)
    assert [one.tolist() for one in found] == [pytest.approx(row, abs=1e-5) for row in expected]


def test_dropout_is_disabled_only_while_scoring() -> None:
    model = tiny_llama(64, seed=0)
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.5
    expected = score(model.eval(), ANSWERS)
    found = score(model.train(), ANSWERS)
    assert model.training
    torch.testing.assert_close(found, expected)


def test_first_token_is_not_scored() -> None:
    every = Probe(Kind.tokens, IDS, IDS)
    assert [len(one) for one in score(tiny_llama(64, seed=0), every)] == [4, 3]


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_weights_compute_in_float32(dtype: torch.dtype, tied: bool) -> None:
    low = tiny_llama(64, seed=0).to(dtype)
    if tied:
        low.lm_head.weight = low.model.embed_tokens.weight
    expected = score(copy.deepcopy(low).float(), ANSWERS)
    weights = dict(low.named_parameters())
    with float32_arithmetic(low):
        found = score(low, ANSWERS)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert all(weight is weights[name] and weight.dtype == dtype for name, weight in low.named_parameters())
    assert any(
        not torch.equal(a, b) for a, b in zip(score(low, ANSWERS), expected, strict=True)
    )  # otherwise the test would be trivial


def test_rounding_equals_that_of_an_engine_in_the_same_precision() -> None:
    exact = tiny_llama(64, seed=0)
    with float32_arithmetic(exact, torch.bfloat16):
        found = score(exact, ANSWERS)
    rounded = copy.deepcopy(exact)
    for weight in rounded.parameters():
        weight.data = weight.data.bfloat16().float()
    torch.testing.assert_close(found, score(rounded, ANSWERS), rtol=0, atol=0)
    assert any(not torch.equal(a, b) for a, b in zip(found, score(exact, ANSWERS), strict=True))


def test_weights_are_restored_after_an_error() -> None:
    model = tiny_llama(64, seed=0).bfloat16()
    too_large = Probe(Kind.tokens, [[3, 64]], [[IGNORED, 64]])  # token 64 does not exist
    with pytest.raises(IndexError), float32_arithmetic(model):
        score(model, too_large)
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}


def test_effect_of_tokens_is_a_mean_over_all_tokens() -> None:
    changes = [torch.tensor([1.0, 2.0, 3.0]), torch.tensor([6.0])]
    assert effect(changes, Kind.tokens) == pytest.approx(3.0)


@pytest.mark.parametrize("kind", [Kind.pairs, Kind.rewards])
def test_effect_of_pairs_is_the_mean_margin(kind: Kind) -> None:
    changes = [torch.tensor([1.0, 2.0]), torch.tensor([0.5]), torch.tensor([0.0]), torch.tensor([1.0, -0.5])]
    assert effect(changes, kind) == pytest.approx(((3.0 - 0.5) + (0.0 - 0.5)) / 2)


def test_agreement_matches_hand_computed_values() -> None:
    policy = [torch.tensor([1.0, 1.0]), torch.tensor([-1.0])]
    half = [torch.tensor([0.5, 0.5]), torch.tensor([-0.5])]
    found = agreement(policy, half, Kind.pairs)
    assert found.difference == pytest.approx(0.5)
    assert found.kept == pytest.approx(0.5)
    reversed_sign = agreement(policy, [-one for one in policy], Kind.pairs)
    assert reversed_sign.kept == pytest.approx(-1.0)


def test_kept_share_of_no_change_is_undefined() -> None:
    nothing = [torch.zeros(3), torch.zeros(2)]
    assert agreement(nothing, nothing, Kind.pairs).kept is None


def test_change_is_the_difference_of_both_models_scores() -> None:
    before, after = [torch.tensor([-1.0, -2.0])], [torch.tensor([-0.5, -2.5])]
    assert [one.tolist() for one in change(after, before)] == [[0.5, -0.5]]


def test_probe_of_pairs_alternates_answers_and_masks_prompts() -> None:
    probe = probe_of_pairs([[1, 2]], [[3, 4]], [[5]])
    assert probe.ids == [[1, 2, 3, 4], [1, 2, 5]]
    assert probe.labels == [[IGNORED, IGNORED, 3, 4], [IGNORED, IGNORED, 5]]
    assert probe_of_rewards([[1]], [[2]]).ids == [[1], [2]]


@pytest.mark.parametrize(("count", "places"), [(0, []), (3, [0, 1, 2]), (8, list(range(8)))])
def test_few_examples_are_all_scored(count: int, places: list[int]) -> None:
    assert evenly_spaced(count) == places


@pytest.mark.parametrize("count", [9, 17, 1000])
def test_many_examples_are_sampled_evenly(count: int) -> None:
    places = evenly_spaced(count)
    assert len(set(places)) == EXAMPLES
    assert (places[0], places[-1]) == (0, count - 1)
    examples = [[number] for number in range(count)]
    assert len(probe_of_answers(examples, examples).ids) == EXAMPLES
    assert len(probe_of_pairs(examples, examples, examples).ids) == 2 * EXAMPLES
