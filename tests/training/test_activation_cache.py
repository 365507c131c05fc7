"""srlm.training.activation_cache: layers below LoRA run once per sequence; loss and gradients are unchanged."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from peft import get_peft_model

from srlm.training import activation_cache as frozen
from srlm.training import loading
from srlm.training.config import LoraConfig
from tests.helpers import tiny_llama

BATCHES = [
    ([3, 9, 4, 7], [5, 6]),
    ([5, 6], [8, 8, 2]),
    ([3, 9, 4, 7], [8, 8, 2]),
]  # the third contains only known sequences


def adapted(last_n_layers: int = 1) -> Any:
    base = tiny_llama(64, seed=0)
    torch.manual_seed(1)
    model = get_peft_model(base, loading.peft_config(LoraConfig(r=4, dropout=0.0, last_n_layers=last_n_layers), base))
    for name, weight in model.named_parameters():
        if "lora_B" in name:  # zero at initialisation: the gradients of A would be zero
            torch.nn.init.normal_(weight, std=0.1)
    return model.train()


def padded(rows: tuple[list[int], ...]) -> dict[str, torch.Tensor]:
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    return {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)}


def learn(model: Any) -> list[Any]:
    """Return loss and gradients of each batch."""
    found = []
    for rows in BATCHES:
        model.zero_grad()
        loss = model(**padded(rows)).loss
        loss.backward()
        found.append((loss.detach(), {n: w.grad.clone() for n, w in model.named_parameters() if w.grad is not None}))
    return found


def calls_of(layer: torch.nn.Module) -> Counter[str]:
    counted: Counter[str] = Counter()
    layer.register_forward_hook(lambda *_: counted.update(["run"]))
    return counted


def test_losses_and_gradients_equal_those_without_the_cache() -> None:
    model = adapted()
    whole = learn(model)
    runs = calls_of(model.get_base_model().model.layers[0])
    with frozen.frozen_once(model, epochs=2) as below:
        assert below == 1
        once = learn(model)
    assert runs["run"] == 2  # the third batch is cached
    for (loss, gradients), (loss_once, gradients_once) in zip(whole, once, strict=True):
        torch.testing.assert_close(loss_once, loss)
        assert gradients_once.keys() == gradients.keys()
        assert any(gradient.abs().max() > 1e-4 for gradient in gradients.values())
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradients_once[name], gradient, rtol=1e-4, atol=1e-6)


def test_model_and_weight_names_are_restored_after_an_error() -> None:
    model = adapted()
    before = list(model.get_base_model().model.layers)
    names = set(model.state_dict())

    def fail() -> None:
        with frozen.frozen_once(model, epochs=3):
            adapters = {name for name in model.state_dict() if "lora" in name}
            assert adapters == {name for name in names if "lora" in name}
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert list(model.get_base_model().model.layers) == before
    assert set(model.state_dict()) == names
    runs = calls_of(before[0])
    learn(model)
    assert runs["run"] == len(BATCHES)


def test_left_padded_or_unmasked_sequences_are_not_cached() -> None:
    model = adapted()
    runs = calls_of(model.get_base_model().model.layers[0])
    batch = padded(BATCHES[0])
    left = {name: value.flip(1) for name, value in batch.items()}
    with frozen.frozen_once(model, epochs=2):
        for inputs in (left, left, {"input_ids": batch["input_ids"]}, {"input_ids": batch["input_ids"]}):
            model(**inputs)
    assert runs["run"] == 4


def test_sequences_beyond_the_memory_limit_are_not_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frozen, "LIMIT", 4 * 32 * 4)  # space for one sequence of four tokens with 32 numbers each
    model = adapted()
    whole = learn(model)
    runs = calls_of(model.get_base_model().model.layers[0])
    with frozen.frozen_once(model, epochs=2):
        once = learn(model)
    assert runs["run"] == 3
    for (loss, _), (loss_once, _) in zip(whole, once, strict=True):
        torch.testing.assert_close(loss_once, loss)


def test_cache_is_used_only_for_supported_models_and_several_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    def below(model: Any, epochs: float = 2) -> int:
        with frozen.frozen_once(model, epochs) as count:
            return count

    assert below(adapted(), epochs=1) == 0
    assert below(adapted(last_n_layers=0)) == 0  # all layers are trained
    assert below(tiny_llama(64, seed=0)) == 0  # full fine-tuning
    changes = {"attention_dropout": 0.1, "model_type": "gemma2", "layer_types": ["full_attention", "sliding"]}
    for name, value in changes.items():
        model = adapted()
        assert below(model) == 1
        monkeypatch.setattr(model.get_base_model().model.config, name, value, raising=False)
        assert below(model) == 0, name
    model = adapted()
    model.get_base_model().model.embed_tokens.weight.requires_grad_(True)
    assert below(model) == 0
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert below(adapted()) == 0
