"""Load checkpoints for training: precision of weights and computation, dropout, LoRA."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig as PeftLoraConfig
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig
from transformers.pytorch_utils import Conv1D

from srlm.config import Config
from srlm.engines.extra import MODEL_ARGUMENTS
from srlm.errors import ConfigError, TrainingError
from srlm.training.activation_cache import layer_stack
from srlm.training.config import LoraConfig, TrainConfig

LINEAR = (torch.nn.Linear, Conv1D)  # layers that LoRA adapts; GPT-2 has Conv1D
_DROPOUTS = ("attention_dropout", "hidden_dropout", "resid_pdrop", "embd_pdrop", "attn_pdrop", "resid_dropout")


def settings_of(folder: Path, options: TrainConfig, config: Config, **others: Any) -> Any:
    """Return the config of a checkpoint with `others`, and with the dropout of `options` if the config has one.

    Parameters
    ----------
    others
        Further values of the config, such as num_labels.
    """
    settings = AutoConfig.from_pretrained(folder, trust_remote_code=config.model.trust_remote_code, **others)
    for name in _DROPOUTS:
        if hasattr(settings, name):
            setattr(settings, name, options.dropout)
    return settings


def load_model(folder: Path, options: TrainConfig, config: Config, dtype: torch.dtype | None = None) -> Any:
    """Return a checkpoint for training, with weights in the precision of `model_dtype`, or in `dtype`."""
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        config=settings_of(folder, options, config),
        dtype=dtype or model_dtype(options),
        trust_remote_code=config.model.trust_remote_code,
        use_safetensors=True,
        **quantization(options, dtype),
        **options.extra.get(MODEL_ARGUMENTS, {}),
    )
    model.generation_config = savable(model.generation_config)
    return model


def quantization(options: TrainConfig, dtype: torch.dtype | None = None) -> dict[str, Any]:
    """Return the arguments of from_pretrained for `lora.quantize`; none if `dtype` asks for full weights.

    4 bits are QLoRA's: NormalFloat with quantised constants (arXiv 2305.14314, section 3). The output layer and a
    classifier's head are not quantised.

    Raises
    ------
    TrainingError
        If bitsandbytes cannot be used on this machine.
    """
    if dtype is not None or options.lora.quantize == "none":
        return {}
    from transformers import BitsAndBytesConfig

    try:
        import bitsandbytes  # noqa: F401  # it loads its library for this hardware
    except (ImportError, RuntimeError, OSError) as error:
        raise TrainingError(
            f"lora.quantize={options.lora.quantize} needs bitsandbytes, which cannot be used here: {error}. Install a "
            "version for this hardware, or set lora.quantize=none."
        ) from error
    settings = BitsAndBytesConfig(
        load_in_4bit=options.lora.quantize == "4bit",
        load_in_8bit=options.lora.quantize == "8bit",
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, precision(options)),
        llm_int8_skip_modules=["lm_head", "embed_out", "score"],
    )
    return {"quantization_config": settings}


def savable(given: GenerationConfig) -> GenerationConfig:
    """Return a model's generation_config in a form that transformers saves.

    transformers refuses to save the settings that Llama 2 and others were published with: a temperature without
    do_sample, and pad_token_id -1. Training would end with that error. Settings that are invalid even with sampling are
    removed.
    """
    tokens = {name: getattr(given, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    valid = {name: value for name, value in tokens.items() if not (isinstance(value, int) and value < 0)}
    sampling = copy.deepcopy(given)
    sampling.update(do_sample=True, **{name: valid.get(name) for name in tokens})
    for option in (given, sampling):
        with contextlib.suppress(ValueError):
            option.validate(strict=True)
            return option
    return GenerationConfig(**valid)


def precision(options: TrainConfig) -> str:
    """Return the precision of the arithmetic: float32, bfloat16 or float16."""
    if options.dtype != "auto":
        return options.dtype
    cpu = {} if torch.cuda.is_available() else torch.cpu.get_capabilities()
    return "bfloat16" if torch.cuda.is_available() or cpu.get("avx512_bf16") or cpu.get("amx_bf16") else "float32"


def model_dtype(options: TrainConfig) -> torch.dtype:
    """Return the precision of the weights in memory.

    Full fine-tuning in pure bfloat16 loses small updates, so its weights stay in float32 and autocast does the
    arithmetic. LoRA's weights on a CPU stay in float32, too, because models are small there.
    """
    lower = options.lora.enabled and torch.cuda.is_available()
    dtype: torch.dtype = getattr(torch, precision(options)) if lower else torch.float32
    return dtype


def engine_dtype(config: Config) -> torch.dtype:
    """Return the precision in which the run's engine loads a checkpoint (`engine.dtype`)."""
    auto = "bfloat16" if torch.cuda.is_available() else "float32"
    dtype: torch.dtype = getattr(torch, auto if config.engine.dtype == "auto" else config.engine.dtype)
    return dtype


def peft_config(lora: LoraConfig, model: torch.nn.Module, new_head: str = "") -> PeftLoraConfig | None:
    """Return LoRA for all linear layers except the output head, or for the last layers; None for full fine-tuning.

    Experts that are stacked in one parameter keep their weights (`_linear_layers_around_experts`).

    Parameters
    ----------
    new_head : str
        Name of an output layer that is trained as a whole (a classifier's); "" = none.

    Raises
    ------
    ConfigError
        If the model has fewer layers than `last_n_layers`.
    """
    if not lora.enabled:
        return None
    target: str | list[str] = lora.targets or _linear_layers_around_experts(model) or "all-linear"
    names = [name for name, part in model.named_modules() if isinstance(part, LINEAR)]
    for wanted in lora.targets:
        if not any(_is_named(layer, [wanted]) for layer in names):
            known = ", ".join(sorted({name.rpartition(".")[2] for name in names}))
            raise ConfigError(f"lora.targets: the model has no linear layer {wanted}. It has {known}.")
    if lora.last_n_layers:
        name, layers = layer_stack(model)
        if lora.last_n_layers > len(layers):
            raise ConfigError(
                f"lora.last_n_layers={lora.last_n_layers}, but the model has {len(layers)} layers. Lower it."
            )
        target = [
            f"{name}.{place}.{below}"
            for place in range(len(layers) - lora.last_n_layers, len(layers))
            for below, part in layers[place].named_modules()
            if isinstance(part, LINEAR) and (not lora.targets or _is_named(f"{name}.{place}.{below}", lora.targets))
        ]
    return PeftLoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=target,
        task_type="SEQ_CLS" if new_head else "CAUSAL_LM",
        modules_to_save=[new_head] if new_head else None,
        # GPT-2's layers store their weights transposed
        fan_in_fan_out=any(isinstance(part, Conv1D) for part in model.modules()),
    )


def _is_named(layer: str, targets: Sequence[str]) -> bool:
    """Return whether a layer's full name is, or ends with, one of these names."""
    return any(f".{layer}".endswith(f".{target}") for target in targets)


def _linear_layers_around_experts(model: Any) -> list[str]:
    """Return the linear layers of a mixture of experts whose experts are stacked in one parameter; otherwise nothing.

    peft would add updates to such a parameter in its own precision: in bfloat16 small ones would be lost. It also
    refuses dropout there.
    """
    if not any(weight.ndim == 3 and ".experts." in name for name, weight in model.named_parameters()):
        return []
    head = model.get_output_embeddings()
    return [name for name, part in model.named_modules() if isinstance(part, LINEAR) and part is not head]
