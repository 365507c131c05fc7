"""Options that follow the model and the hardware: the default run's values, larger models, stored and set values."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from srlm.cli.by_model import resolve_options
from srlm.cli.check import check
from srlm.config import Config, option_value, to_dict
from srlm.engines import hardware
from srlm.engines.hardware import Hardware
from srlm.errors import ConfigError
from srlm.models.config import ModelConfig
from srlm.models.facts import SMOLLM2_135M, ModelFacts, facts_of, facts_of_config
from srlm.models.resolve import PACKAGED, TINY
from srlm.training.by_model import lines, resolve, unset_options
from srlm.training.methods import METHODS
from srlm.training.methods.sft import EFTLoss
from tests.helpers import tiny_llama

CPU, GPU = Hardware(0, 8.0, False), Hardware(1, 80.0, True)
QWEN_1_5B = ModelFacts(1_540_000_000, 28, 1536, 151_936, 14_336, 32_768)
LLAMA_8B = ModelFacts(8_030_000_000, 32, 4096, 128_256, 65_536, 8192)
LLAMA_70B = ModelFacts(69_000_000_000, 80, 8192, 32_000, 163_840, 4096)


def values(config: Config, *names: str) -> list[Any]:
    return [option_value(config, name) for name in names]


def test_default_run_keeps_its_values() -> None:
    config, _ = resolve(Config(), [SMOLLM2_135M], CPU)
    assert unset_options(config) == []
    assert {name: values(config, f"{name}.learning_rate", f"{name}.min_learning_rate") for name in METHODS} == {
        "sft": [2e-3, 2e-4], "dpo": [2.5e-4, 2.5e-5], "kto": [2e-4, 2e-5], "reward_model": [1e-3, 1e-4]
    }  # fmt: skip
    names = ("epochs", "batch_size", "micro_batch_size", "lora.last_n_layers", "max_length", "gradient_checkpointing")
    assert {group: values(config, *(f"{group}.{name}" for name in names)) for group in METHODS} == {
        "sft": [5, 4, 4, 10, 1024, False],
        "dpo": [2, 4, 2, 10, 1024, False],
        "kto": [1, 8, 4, 0, 1024, False],
        "reward_model": [2, 8, 8, 10, 1024, False],
    }
    engine = values(config, "engine.dtype", "engine.max_model_len", "engine.max_concurrent", "engine.kv_cache_gib")
    assert engine == ["auto", 2048, 64, 2.0]
    assert config.data.ift.limit == 64


def test_dpo_of_all_layers_moves_slowly() -> None:
    config = Config()
    config.dpo.lora.last_n_layers = 0
    found, _ = resolve(config, [SMOLLM2_135M], CPU)
    assert values(found, "dpo.learning_rate", "dpo.epochs") == [2e-4, 1]


def test_ranking_loss_adapts_more_layers_at_half_the_rate() -> None:
    config = Config()
    config.sft.eft_loss = EFTLoss.ranking
    assert values(resolve(config, [SMOLLM2_135M], CPU)[0], "sft.learning_rate", "sft.lora.last_n_layers") == [1e-3, 20]
    assert values(resolve(config, [SMOLLM2_135M], GPU)[0], "sft.learning_rate", "sft.lora.last_n_layers") == [2e-3, 0]
    assert values(resolve(config, [QWEN_1_5B], CPU)[0], "sft.learning_rate", "sft.lora.last_n_layers") == [2e-4, 0]


@pytest.mark.parametrize("hardware", [CPU, GPU], ids=["CPU", "GPU"])
@pytest.mark.parametrize("model", [ModelFacts(1_000_000), QWEN_1_5B, LLAMA_70B], ids=["unknown", "1.5B", "70B"])
def test_micro_batch_of_the_ranking_loss_has_two_answers_to_compare(model: ModelFacts, hardware: Hardware) -> None:
    config = Config()
    config.sft.eft_loss = EFTLoss.ranking
    found, _ = resolve(config, [model], hardware)
    assert found.sft.micro_batch_size is not None
    assert found.sft.micro_batch_size >= 2
    assert check(found) is found


@pytest.mark.parametrize("model", [QWEN_1_5B, LLAMA_8B, LLAMA_70B], ids=["1.5B", "8B", "70B"])
def test_larger_model_inherits_nothing_of_the_default_run(model: ModelFacts) -> None:
    config, _ = resolve(Config(), [model], GPU)
    assert config.sft.learning_rate in (2e-4, 1e-4)
    assert values(config, "sft.epochs", "sft.batch_size", "sft.lora.last_n_layers") == [3, 16, 0]
    assert values(config, "dpo.learning_rate", "engine.dtype", "sft.dtype")[1:] == ["auto", "bfloat16"]
    assert config.dpo.learning_rate <= 2e-5
    assert values(config, "engine.max_model_len", "engine.max_concurrent", "data.ift.limit") == [4096, 256, 0]


def test_full_fine_tuning_has_the_papers_learning_rates_for_its_model() -> None:
    config = Config()
    config.sft.lora.enabled = config.dpo.lora.enabled = False
    found, _ = resolve(config, [LLAMA_70B], GPU)
    assert values(found, "sft.learning_rate", "dpo.learning_rate", "sft.batch_size") == [5.5e-6, 1e-6, 16]


def test_micro_batch_follows_the_memory() -> None:
    sizes, checkpointed = {}, {}
    for gib in (24, 48, 80, 192):
        config, _ = resolve(Config(), [LLAMA_8B], Hardware(1, gib, True))
        sizes[gib], checkpointed[gib] = config.sft.micro_batch_size, config.sft.gradient_checkpointing
        assert config.sft.batch_size == 16
        assert config.dpo.micro_batch_size <= config.sft.micro_batch_size
    assert list(sizes.values()) == sorted(sizes.values())
    assert (sizes[24], checkpointed[24]) == (1, True)
    assert (sizes[192], checkpointed[192]) == (8, False)


def test_memory_of_a_cpu_limits_micro_batches_of_larger_models() -> None:
    config, _ = resolve(Config(), [QWEN_1_5B], Hardware(0, 16.0, False))
    assert values(config, "sft.micro_batch_size", "sft.batch_size", "engine.dtype") == [1, 16, "auto"]
    assert config.kto.micro_batch_size == 2  # each prompt is also paired with another prompt's answer
    assert config.engine.kv_cache_gib == 2  # type: ignore[attr-defined]


@pytest.mark.parametrize(("given", "found"), [
    ({"batch_size": 12}, (12, 4)), ({"batch_size": 6}, (6, 3)), ({"micro_batch_size": 8}, (8, 8)),
    ({"processes": 2}, (4, 2)), ({"processes": 8}, (8, 1)), ({"processes": 2, "micro_batch_size": 4}, (8, 4)),
])  # fmt: skip
def test_batches_fit_to_those_that_are_set(given: dict[str, int], found: tuple[int, int]) -> None:
    config = Config()
    config.sft = replace(config.sft, **given)
    config, _ = resolve(config, [SMOLLM2_135M], CPU)
    assert (config.sft.batch_size, config.sft.micro_batch_size) == found


def test_set_values_are_kept() -> None:
    config = Config()
    config.sft.learning_rate, config.engine.dtype, config.dpo.lora.last_n_layers = 1e-5, "float16", 3
    config.sft.gradient_checkpointing, config.reward_model.min_learning_rate = True, 0.0
    found, choices = resolve(config, [QWEN_1_5B], GPU)
    assert values(found, "sft.learning_rate", "sft.min_learning_rate", "engine.dtype") == [1e-5, 1e-6, "float16"]
    assert values(found, "dpo.lora.last_n_layers", "sft.gradient_checkpointing") == [3, True]
    assert found.reward_model.min_learning_rate == 0
    assert "learning_rate" not in next(choice.values for choice in choices if choice.group == "sft")
    assert config.sft.epochs is None, "the given options are not changed"


def test_stored_values_have_priority_over_the_table() -> None:
    """A run continues with its values, also on other hardware."""
    first, _ = resolve(Config(), [SMOLLM2_135M], CPU)
    stored = to_dict(first)
    again, _ = resolve(Config(), [LLAMA_8B], GPU, stored)
    assert again == first
    changed = Config()
    changed.sft.learning_rate, changed.sft.processes, changed.dpo.batch_size = 1e-5, 2, 1
    found, _ = resolve(changed, [LLAMA_8B], GPU, stored)
    assert values(found, "sft.learning_rate", "sft.min_learning_rate", "sft.batch_size") == [1e-5, 1e-6, 4]
    assert values(found, "sft.micro_batch_size", "dpo.micro_batch_size") == [2, 1], "what follows from them fits"


def test_context_fits_every_model() -> None:
    config, _ = resolve(Config(), [LLAMA_8B, replace(QWEN_1_5B, positions=1024)], GPU)
    assert (config.engine.max_model_len, config.sft.max_length) == (1024, 2048)


def test_old_gpu_computes_in_float16() -> None:
    config, _ = resolve(Config(), [SMOLLM2_135M], Hardware(1, 16.0, False))
    assert values(config, "sft.dtype", "engine.dtype") == ["float16", "float16"]


def test_choices_are_printed_with_their_reason() -> None:
    _, choices = resolve(Config(), [QWEN_1_5B], GPU)
    [sft, engine] = lines(choices, ["sft", "engine"])
    assert sft.startswith("sft: learning_rate=0.0002, ")
    assert sft.endswith("(LoRA of 1.54B parameters on a GPU)")
    assert "max_concurrent=256" in engine


def test_unknown_model_counts_as_large() -> None:
    config, _ = resolve(Config(), [], CPU)
    assert config.sft.learning_rate == 2e-4
    assert config.sft.epochs == 3


def test_values_that_do_not_fit_together_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("srlm.cli.by_model.hardware", lambda: CPU)
    config = Config()
    config.sft.min_learning_rate = 0.1
    with pytest.raises(ConfigError, match=r"sft\.min_learning_rate=0\.1 .*0 to sft\.learning_rate=0\.002"):
        resolve_options(config)
    config = Config()
    config.candidates.max_new_tokens = 2048
    with pytest.raises(ConfigError, match=r"candidates\.max_new_tokens=2048 .*below engine\.max_model_len=2048"):
        resolve_options(config)


def test_run_with_all_values_stored_reads_no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise AssertionError("the model is not needed")

    stored = to_dict(resolve(Config(), [LLAMA_8B], GPU)[0])
    monkeypatch.setattr("srlm.cli.by_model.facts_of", fail)
    found = resolve_options(Config(model=ModelConfig(name="OWNER/NAME")), stored)
    assert found.sft.learning_rate == 2e-4


# Facts


def test_facts_of_a_checkpoint_are_read_from_its_header(tmp_path: Path) -> None:
    model = tiny_llama(64, seed=0)
    model.save_pretrained(tmp_path)
    found = facts_of(ModelConfig(name=str(tmp_path)))
    assert found == ModelFacts(sum(weight.numel() for weight in model.parameters()), 2, 32, 64, 64, 128)


@pytest.mark.parametrize(("config", "facts"), [
    ({"n_layer": 12, "n_embd": 768, "n_head": 12, "vocab_size": 50_257, "n_positions": 1024,
      "tie_word_embeddings": True}, (12, 768, 18_432, 1024)),
    ({"text_config": {"num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 1,
      "vocab_size": 100, "max_position_embeddings": 4096}}, (2, 64, 64, 4096)),
    ({"num_hidden_layers": 2, "hidden_size": 64, "vocab_size": 10, "max_position_embeddings": 512,
      "rope_scaling": {"type": "linear", "factor": 4.0}}, (2, 64, 256, 2048)),
], ids=["GPT-2", "text model of a multimodal one", "scaled positions"])  # fmt: skip
def test_facts_of_a_configuration(config: dict[str, Any], facts: tuple[int, ...]) -> None:
    found = facts_of_config(config)
    assert found is not None
    assert (found.layers, found.hidden, found.cached, found.positions) == facts


def test_size_is_estimated_from_the_configuration() -> None:
    qwen = {"num_hidden_layers": 28, "hidden_size": 1536, "num_attention_heads": 12, "num_key_value_heads": 2,
            "intermediate_size": 8960, "vocab_size": 151_936, "tie_word_embeddings": True}  # fmt: skip
    found = facts_of_config(qwen)
    assert found is not None
    assert found.parameters == pytest.approx(1.54e9, rel=0.02)
    assert facts_of_config({"model_type": "strange"}) is None


def test_packaged_models_are_known() -> None:
    for name in (*PACKAGED, TINY):
        assert facts_of(ModelConfig(name=name)) is not None


def test_model_that_is_not_there_has_no_facts(tmp_path: Path) -> None:
    assert facts_of(ModelConfig(name=str(tmp_path / "missing"))) is None
    (tmp_path / "config.json").write_text("{")
    assert facts_of(ModelConfig(name=str(tmp_path))) is None


def test_hardware_without_a_gpu_tool_is_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware.shutil, "which", lambda _: None)
    found = hardware.hardware.__wrapped__()
    assert found.gpus == 0
    assert found.memory_gib > 0
    assert str(Hardware(2, 80.0, True)) == "2 GPUs with 80 GiB each, bfloat16"
