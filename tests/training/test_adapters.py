"""LoRA through the worker: quantised weights, kept adapters, 8-bit optimizers, and models with Conv1D layers."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from srlm.cli.check import check
from srlm.config import Config
from srlm.errors import ConfigError, TrainingError
from srlm.models.checkpoint import Checkpoint
from srlm.models.checkpoint_checks import problems_of
from srlm.models.config import ModelConfig
from srlm.training import loading
from srlm.training.config import LoraConfig
from srlm.training.methods.dpo import DPO
from srlm.training.methods.sft import SFT
from srlm.training.saving import adapter_folder
from srlm.training.worker import train
from srlm.types import PreferencePair, SeedExample
from tests.helpers import options, tiny_llama, tiny_tokenizer

needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed"
)
ROWS = [SeedExample(f"i{n}", f"Name the river number {n}.", f"River {n} is long.") for n in range(8)]
PAIRS = [
    PreferencePair(f"p{n}", f"Name river {n}.", "A long one.", "No idea.", f"c{n}", f"d{n}", 4.0, 1.0) for n in range(4)
]
SMALL = ("sft.lora.last_n_layers=0", "sft.epochs=2", "sft.learning_rate=1e-2", "dpo.learning_rate=1e-2")


def gpt2(vocabulary: int) -> Any:
    """Return a GPT-2 with three layers of random weights, whose linear layers are Conv1D."""
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=vocabulary, n_embd=32, n_layer=3, n_head=4, n_positions=128)).eval()


def checkpoint(folder: Path, make: Any = lambda size: tiny_llama(size, seed=0)) -> Path:
    tokenizer = tiny_tokenizer()
    make(len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def trained(start: Path, target: Path, *overrides: str, method: Any = SFT) -> dict[str, Any]:
    config = options("engine.dtype=float32", *SMALL, *overrides)
    return train(method(), ROWS if method is SFT else PAIRS, start, target, config)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(torch.arange(5, 25)[None]).logits


def load(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder)


def changed(start: Path, end: Path) -> set[str]:
    before, after = (load_file(folder / "model.safetensors") for folder in (start, end))
    return {name for name, weight in after.items() if not torch.equal(weight, before[name])}


@pytest.mark.parametrize("given", [
    ("sft.lora.quantize=5bit",), ("sft.lora.quantize=4bit", "sft.lora.enabled=false"), ("sft.optimizer=adam",),
    ("sft.optimizer=adafactor", "++sft.extra.optim=sgd"),
    ("dpo.lora.keep_adapter=true", "dpo.early_stopping.enabled=true"),
])  # fmt: skip
def test_invalid_options_are_refused(given: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match=r"is invalid: it must be"):
        options(*given)


def test_missing_bitsandbytes_is_reported_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("srlm.training.method._has_bitsandbytes", lambda: False)
    for group in ("sft", "dpo"):
        config = Config()
        getattr(config, group).lora.quantize = "4bit"
        with pytest.raises(ConfigError, match=rf"{group}\.lora\.quantize='4bit' .*pip install bitsandbytes"):
            check(config)
    config = Config()
    config.sft.optimizer = "adamw_8bit"
    with pytest.raises(ConfigError, match=r"sft\.optimizer='adamw_8bit' .*pip install bitsandbytes"):
        check(config)


def test_bitsandbytes_that_cannot_be_loaded_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "bitsandbytes", None)
    config = Config()
    config.sft.lora.quantize, config.sft.dtype = "4bit", "float32"
    with pytest.raises(TrainingError, match=r"needs bitsandbytes, which cannot be used here"):
        loading.quantization(config.sft)
    assert loading.quantization(config.sft, torch.float32) == {}, "the base that an adapter is merged into"


def test_kept_adapter_gives_the_merged_models_logits(tmp_path: Path) -> None:
    start, target = checkpoint(tmp_path / "M0"), tmp_path / "model"
    counts = trained(start, target, "sft.lora.keep_adapter=true")
    assert counts["saved_kept"] == pytest.approx(1, abs=1e-3)
    adapter = adapter_folder(target)
    assert sorted(path.name for path in adapter.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    assert json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"] == str(start)
    of_adapter, of_model = logits(PeftModel.from_pretrained(load(start), adapter)), logits(load(target))
    torch.testing.assert_close(of_adapter, of_model, rtol=0, atol=1e-4)
    assert (of_model - logits(load(start))).abs().max() > 0.01
    trained(start, target, "sft.epochs=1")
    assert not adapter.exists(), "it belonged to the model that was replaced"


@pytest.mark.parametrize("method", [SFT, DPO])
def test_lora_trains_and_merges_conv1d_layers(method: Any, tmp_path: Path) -> None:
    start, target = checkpoint(tmp_path / "M0", gpt2), tmp_path / "model"
    counts = trained(start, target, "sft.lora.last_n_layers=1", "dpo.lora.last_n_layers=1", method=method)
    assert counts["saved_kept"] == pytest.approx(1, abs=1e-2)
    last = {f"transformer.h.2.{name}.weight" for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")}
    assert changed(start, target) == last
    assert problems_of(Checkpoint(target, ModelConfig(), "train")) == []


def test_targets_restrict_the_adapted_layers(tmp_path: Path) -> None:
    found = loading.peft_config(LoraConfig(last_n_layers=2, targets=["c_attn"]), gpt2(64))
    assert found is not None
    assert found.target_modules == {"transformer.h.1.attn.c_attn", "transformer.h.2.attn.c_attn"}
    everywhere = loading.peft_config(LoraConfig(last_n_layers=0, targets=["q_proj", "mlp.up_proj"]), tiny_llama(64, 0))
    assert everywhere is not None
    assert everywhere.target_modules == {"q_proj", "mlp.up_proj"}
    with pytest.raises(ConfigError, match=r"no linear layer q_proj\. It has c_attn, c_fc, c_proj, lm_head"):
        loading.peft_config(LoraConfig(targets=["q_proj"]), gpt2(64))


@needs_bitsandbytes
@pytest.mark.parametrize(("bits", "method"), [("4bit", SFT), ("8bit", SFT), ("4bit", DPO)])
def test_adapter_over_quantised_weights_is_merged_into_the_full_ones(bits: str, method: Any, tmp_path: Path) -> None:
    start, target = checkpoint(tmp_path / "M0"), tmp_path / "model"
    group = method.name
    counts = trained(start, target, f"{group}.lora.quantize={bits}", f"{group}.lora.keep_adapter=true", method=method)
    assert counts["saved_dtype"] == "float32"
    assert counts["saved_kept"] > 0.5
    assert "quantization_config" not in json.loads((target / "config.json").read_text())
    adapted = PeftModel.from_pretrained(load(start), adapter_folder(target))
    assert all(weight.dtype == torch.float32 for name, weight in adapted.named_parameters() if "lora_" in name)
    torch.testing.assert_close(logits(adapted), logits(load(target)), rtol=0, atol=1e-4)
    assert len(changed(start, target)) == 14


@needs_bitsandbytes
def test_8bit_optimizer_trains(tmp_path: Path) -> None:
    start, target = checkpoint(tmp_path / "M0"), tmp_path / "model"
    assert trained(start, target, "sft.optimizer=adamw_8bit", "sft.lora.enabled=false")["saved_kept"] == pytest.approx(
        1
    )
    assert changed(start, target)
