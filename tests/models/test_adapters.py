"""srlm.models.adapters: an adapter that is given as a model is merged into its base model once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from srlm.config import Config
from srlm.errors import ModelError
from srlm.models.checkpoint import Checkpoint
from srlm.models.checkpoint_checks import problems_of
from srlm.models.config import ModelConfig
from srlm.models.model_check import NamedModel, report_of
from srlm.models.resolve import resolve


@pytest.fixture
def adapter(tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an adapter with random weights and a tokenizer of its own."""
    monkeypatch.setenv("SRLM_CACHE", str(tmp_path / "cache"))
    torch.manual_seed(1)
    base = AutoModelForCausalLM.from_pretrained(tiny_checkpoint)
    config = LoraConfig(r=4, lora_alpha=64, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    get_peft_model(base, config).save_pretrained(tmp_path / "adapter")
    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)
    tokenizer.chat_template += "{# the adapter's #}"
    tokenizer.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(torch.tensor([[5, 6, 7, 8]])).logits
    return found


def test_the_merged_model_computes_what_base_and_adapter_compute(adapter: Path, tiny_checkpoint: Path) -> None:
    folder = resolve(ModelConfig(name=str(adapter)))
    base = AutoModelForCausalLM.from_pretrained(tiny_checkpoint)
    plain = logits(base)
    expected = logits(PeftModel.from_pretrained(base, adapter))
    found = logits(AutoModelForCausalLM.from_pretrained(folder))
    assert torch.allclose(found, expected, atol=1e-4)
    assert not torch.allclose(found, plain, atol=1e-2)
    assert "the adapter's" in AutoTokenizer.from_pretrained(folder).chat_template
    assert problems_of(Checkpoint(folder, ModelConfig(), "train", 2048, "transformers")) == []


def test_an_adapter_is_merged_once(adapter: Path) -> None:
    folder = resolve(ModelConfig(name=str(adapter)))
    before = (folder / "model.safetensors").stat().st_mtime_ns
    assert resolve(ModelConfig(name=str(adapter))) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == before
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": 8}))
    assert resolve(ModelConfig(name=str(adapter))) != folder


def test_problems_of_the_base_model_are_reported(adapter: Path) -> None:
    model = NamedModel("judge.model", ModelConfig(name=str(adapter)), "generate")
    assert report_of(Config(), model).problems == []
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": "/no/such/base/model"}))
    [problem] = report_of(Config(), model).problems
    assert problem.startswith("The base model of the adapter, /no/such/base/model: no such folder")
    with pytest.raises(ModelError, match=rf"base model of the adapter in {adapter} cannot be used.*no such folder"):
        resolve(ModelConfig(name=str(adapter)))


def test_an_adapter_of_another_model_is_refused(adapter: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    from tests.helpers import tiny_llama

    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)
    tokenizer.save_pretrained(tmp_path / "other")
    tiny_llama(len(tokenizer), seed=0).save_pretrained(tmp_path / "other")
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": str(tmp_path / "other")}))
    with pytest.raises(ModelError, match=r"cannot be merged into .*base_model_name_or_path"):
        resolve(ModelConfig(name=str(adapter)))
