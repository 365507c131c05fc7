"""srlm.training.activation_cache: layers below LoRA run once per sequence; loss and gradients are unchanged."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model
from transformers import LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from srlm.training import activation_cache as frozen
from srlm.training import loading
from srlm.training.config import LoraConfig
from srlm.training.methods.dpo import DPO
from srlm.training.worker import train
from srlm.types import PreferencePair
from tests.helpers import options, tiny_llama

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
    with frozen.frozen_once(model, passes=2) as below:
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
        with frozen.frozen_once(model, passes=3):
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
    with frozen.frozen_once(model, passes=2):
        for inputs in (left, left, {"input_ids": batch["input_ids"]}, {"input_ids": batch["input_ids"]}):
            model(**inputs)
    assert runs["run"] == 4


def test_sequences_beyond_the_memory_limit_are_not_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frozen, "LIMIT", 4 * 32 * 4)  # space for one sequence of four tokens with 32 numbers each
    model = adapted()
    whole = learn(model)
    runs = calls_of(model.get_base_model().model.layers[0])
    with frozen.frozen_once(model, passes=2):
        once = learn(model)
    assert runs["run"] == 3
    for (loss, _), (loss_once, _) in zip(whole, once, strict=True):
        torch.testing.assert_close(loss_once, loss)


def test_cache_is_used_only_for_supported_models_and_several_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    def below(model: Any, passes: float = 2) -> int:
        with frozen.frozen_once(model, passes) as count:
            return count

    assert below(adapted(), passes=1) == 0
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


# DPO, with TRL's trainer

PAIRS = [
    PreferencePair(f"p{n}", f"Name river {n}.", "A long one, I think.", "No idea.", f"c{n}", f"d{n}", 4.0, 1.0)
    for n in range(4)
]


def trained(start: Path, target: Path, *overrides: str) -> list[dict[str, float]]:
    """Train two layers by DPO, of which only the second has an adapter, and return the rows of the step log."""
    small = ("engine.dtype=float32", "dpo.dtype=float32", "dpo.learning_rate=1e-2", "dpo.micro_batch_size=2")
    config = options(*small, "dpo.batch_size=2", "dpo.max_length=128", "dpo.lora.last_n_layers=1", *overrides)
    train(DPO(), PAIRS, start, target, config)
    return [json.loads(line) for line in (target.parent / "dpo_log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("epochs", [1, 2])
def test_dpo_computes_frozen_layers_once_and_has_the_same_losses(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epochs: int
) -> None:
    """The reference's pass has 2 batches of pairs, and each epoch 2; the check of the reference has one more."""
    calls: Counter[str] = Counter()
    rows = {}
    forward = LlamaDecoderLayer.forward

    def counted(layer: Any, *arguments: Any, **others: Any) -> Any:
        calls[f"{name} {layer.self_attn.layer_idx}"] += 1
        return forward(layer, *arguments, **others)

    monkeypatch.setattr(LlamaDecoderLayer, "forward", counted)
    monkeypatch.setattr("srlm.training.worker.save", lambda trainer, saving, folder: folder.mkdir() or {})
    for name, limit in (("cached", frozen.LIMIT), ("whole", 0)):
        monkeypatch.setattr(frozen, "LIMIT", limit)
        rows[name] = trained(tiny_checkpoint, tmp_path / name, f"dpo.epochs={epochs}")
    passes = 2 + 1 + 2 * epochs
    assert {one: calls[one] for one in ("whole 0", "whole 1", "cached 1")} == dict.fromkeys(
        ("whole 0", "whole 1", "cached 1"), passes
    )
    assert calls["cached 0"] == 2 + 1  # the pass of the reference, and its check
    losses = {name: [row["loss"] for row in of_run if "loss" in row] for name, of_run in rows.items()}
    assert len(losses["whole"]) == 2 * epochs
    assert len(set(losses["whole"])) == 2 * epochs
    assert losses["cached"] == pytest.approx(losses["whole"], rel=1e-5)


def test_dpo_caches_nothing_of_another_reference(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The activations of the reference's pass would be those of another model."""
    other = tmp_path / "other"
    shutil.copytree(tiny_checkpoint, other)
    changed = LlamaForCausalLM.from_pretrained(other)
    with torch.no_grad():
        changed.model.layers[0].mlp.down_proj.weight.mul_(2)
    changed.save_pretrained(other)
    found: list[float] = []
    frozen_once = frozen.frozen_once

    @contextmanager
    def recorded(model: Any, passes: float, made: Any = None) -> Any:
        with frozen_once(model, passes, made) as below:
            found.append(below)
            yield below

    monkeypatch.setattr(frozen, "frozen_once", recorded)
    monkeypatch.setattr("srlm.training.worker.frozen_once", recorded)
    small = ("engine.dtype=float32", "dpo.dtype=float32", "dpo.lora.last_n_layers=1", "dpo.epochs=1")
    train(DPO(), PAIRS, tiny_checkpoint, tmp_path / "model", options(*small), reference=other)
    assert found == [0, 0]
