"""srlm.training.shared_prompts: rows in which sequences have their common beginning once, also with cached layers."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from srlm.training.activation_cache import frozen_once
from srlm.training.shared_prompts import can_share, mask_of, merged
from tests.training.test_ranking import model

X = [3, 5, 7, 11, 13, 17]
Y = [3, 5, 7, 19, 23]


def row(ids: list[int], prompt: int) -> dict[str, list[int]]:
    return {"input_ids": ids, "labels": [-100] * prompt + ids[prompt:]}


def test_a_row_has_the_common_beginning_once() -> None:
    assert merged([row(X, 4), row(Y, 4)]) == {
        "input_ids": [3, 5, 7, 11, 13, 17, 19, 23],
        "labels": [-100, -100, -100, -100, 13, 17, -100, 23],
        "position_ids": [0, 1, 2, 3, 4, 5, 3, 4],
    }


def test_the_token_before_a_label_is_not_shared() -> None:
    """The label of a row's token is predicted by the token before it, which must be of the same sequence."""
    together = merged([row(X, 3), row(Y, 3)])
    assert together["input_ids"] == [3, 5, 7, 11, 13, 17, 7, 19, 23]
    assert together["position_ids"] == [0, 1, 2, 3, 4, 5, 2, 3, 4]


def test_one_sequence_stays_as_it_is() -> None:
    assert merged([row(X, 4)]) == {**row(X, 4), "position_ids": [0, 1, 2, 3, 4, 5]}


def test_mask() -> None:
    mask = mask_of(torch.tensor([[0, 1, 2, 1, 0], [0, 1, 2, 3, 0]]))
    assert mask.shape == (2, 1, 5, 5)
    assert mask[0, 0].int().tolist()[:4] == [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 0, 0, 1, 0]]
    assert mask[1, 0].int().tolist()[:4] == [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0]]
    assert bool(mask.any(-1).all())  # padding sees something, or its outputs would not be numbers


@pytest.mark.parametrize("frozen", [False, True], ids=["all layers", "frozen layers once"])
def test_outputs_are_those_of_separate_rows(frozen: bool) -> None:
    policy = model().eval()
    separate = [policy(torch.tensor([ids])).logits[0] for ids in (X, Y)]
    together = merged([row(X, 4), row(Y, 4)])
    ids = torch.tensor([together["input_ids"] + [0, 0], X + [0] * 4])
    positions = torch.tensor([together["position_ids"] + [0, 0], [*range(6)] + [0] * 4])
    inputs = {"input_ids": ids, "position_ids": positions, "attention_mask": mask_of(positions)}
    for weight in policy.model.layers[0].parameters():
        weight.requires_grad_(not frozen)
    for part in (policy.model.embed_tokens, policy.model.norm):
        part.requires_grad_(not frozen)
    with frozen_once(policy, 2) as below, torch.no_grad():
        assert below == int(frozen)
        for _ in range(2):
            found, alone = policy(**inputs).logits
            torch.testing.assert_close(found[:6], separate[0])
            torch.testing.assert_close(found[6:8], separate[1][3:])
            torch.testing.assert_close(alone[:6], separate[0])


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "qwen3"])
def test_known_architectures_use_the_mask_and_the_positions(kind: str) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 8}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.5}
    settings = AutoConfig.for_model(kind, **sizes)
    policy = AutoModelForCausalLM.from_config(settings, attn_implementation="sdpa").eval()
    assert can_share(policy) == (kind != "mistral")  # whose default has a sliding window
    together = merged([row(X, 4), row(Y, 4)])
    ids, positions = torch.tensor([together["input_ids"]]), torch.tensor([together["position_ids"]])
    with torch.no_grad():
        separate = policy(torch.tensor([Y])).logits[0]
        found = policy(input_ids=ids, position_ids=positions, attention_mask=mask_of(positions)).logits[0]
        causal = policy(input_ids=ids).logits[0]
    torch.testing.assert_close(found[6:8], separate[3:], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(causal[6:8], separate[3:], rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(
    "change",
    [{"model_type": "gemma2"}, {"_attn_implementation": "eager"}, {"sliding_window": 8}, {"layer_types": ["a", "b"]}],
)
def test_models_that_may_ignore_the_mask_do_not_share(change: dict[str, object]) -> None:
    settings = {"model_type": "llama", "_attn_implementation": "sdpa", "sliding_window": None, "layer_types": None}
    assert can_share(SimpleNamespace(config=SimpleNamespace(**settings)))
    assert not can_share(SimpleNamespace(config=SimpleNamespace(**settings | change)))
