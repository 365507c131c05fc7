"""srlm.training.loading: which layers LoRA adapts, and the precision of training."""

from __future__ import annotations

import json

import pytest
import torch
from peft import get_peft_model
from transformers import AutoModelForCausalLM, GenerationConfig, MixtralConfig

from srlm.config import Config
from srlm.errors import ConfigError
from srlm.training import loading
from srlm.training.config import LoraConfig, TrainConfig
from tests.helpers import tiny_llama


@pytest.mark.parametrize(("last_n_layers", "adapted"), [(0, {0, 1}), (1, {1}), (2, {0, 1})])
def test_adapters_are_only_in_the_last_n_layers(last_n_layers: int, adapted: set[int]) -> None:
    base = tiny_llama(64, seed=0)
    model = get_peft_model(base, loading.peft_config(LoraConfig(r=2, last_n_layers=last_n_layers), base))
    trained = [name for name, weight in model.named_parameters() if weight.requires_grad]
    assert {int(name.split("layers.")[1].split(".")[0]) for name in trained} == adapted
    of_a_layer = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    assert len(trained) == len(adapted) * len(of_a_layer) * 2
    assert all(any(part in name for part in of_a_layer) for name in trained)


def test_stacked_experts_are_not_adapted() -> None:
    """peft would add the update to the experts' bfloat16 weights, which loses it, and refuses dropout for experts."""
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 8}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 4}
    config = MixtralConfig(vocab_size=64, **sizes, **heads)
    base = AutoModelForCausalLM.from_config(config)
    model = get_peft_model(base, loading.peft_config(LoraConfig(r=2, dropout=0.1), base))
    trained = {name.split(".")[-4] for name, weight in model.named_parameters() if weight.requires_grad}
    assert trained == {"q_proj", "k_proj", "v_proj", "o_proj"}


def test_more_layers_than_the_model_has_are_refused() -> None:
    with pytest.raises(ConfigError, match="last_n_layers=3, but the model has 2 layers"):
        loading.peft_config(LoraConfig(last_n_layers=3), tiny_llama(64, seed=0))


def test_full_fine_tuning_has_no_adapter() -> None:
    assert loading.peft_config(LoraConfig(enabled=False), tiny_llama(64, seed=0)) is None


@pytest.mark.parametrize(
    ("options", "saved"),
    [
        ({"eos_token_id": [2, 0], "temperature": 0.6, "do_sample": True}, {"temperature": 0.6, "do_sample": True}),
        (
            {"eos_token_id": [2, 0], "temperature": 0.6, "top_p": 0.9},
            {"temperature": 0.6, "do_sample": True},
        ),  # Llama 2
        ({"eos_token_id": [2, 0], "pad_token_id": -1}, {"pad_token_id": None}),
        ({"eos_token_id": [2, 0], "pad_token_id": 0, "num_beams": 1, "length_penalty": 2.0}, {"pad_token_id": 0}),
        ({"eos_token_id": [2, 0], "output_scores": True}, {}),
        ({"eos_token_id": None}, {"eos_token_id": None}),
    ],
)
def test_generation_config_of_the_base_model_is_saved(options, saved, tmp_path):
    """transformers refuses to save some published generation configs, so training would fail at its end."""
    tiny_llama(64, seed=0).save_pretrained(tmp_path / "base")
    (tmp_path / "base" / "generation_config.json").write_text(json.dumps(options))
    model = loading.load_model(tmp_path / "base", TrainConfig(), Config())
    model.save_pretrained(tmp_path / "M1")
    found = GenerationConfig.from_pretrained(tmp_path / "M1")
    for name, value in ({"eos_token_id": [2, 0]} | saved).items():
        assert getattr(found, name) == value


@pytest.mark.parametrize(
    ("capabilities", "name"),
    [({"avx512_bf16": True}, "bfloat16"), ({"amx_bf16": True}, "bfloat16"), ({"avx512_f": True}, "float32")],
)
def test_cpu_precision_depends_on_the_instruction_set(
    capabilities: dict[str, bool], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert loading.precision(TrainConfig()) == name
    assert loading.precision(TrainConfig(dtype="float16")) == "float16"
    assert loading.model_dtype(TrainConfig()) == torch.float32  # the weights stay float32


@pytest.mark.parametrize(("lora", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_gpu_weights_are_bfloat16_only_with_lora(
    lora: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert loading.model_dtype(TrainConfig(lora=LoraConfig(enabled=lora))) == dtype
