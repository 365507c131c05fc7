"""LoRA adapters given as models. They are merged into their base model: engines and training load full models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from srlm.errors import ModelError
from srlm.models.checkpoint import ADAPTER


def is_adapter(folder: Path) -> bool:
    """Return whether a folder contains an adapter of peft."""
    return (folder / ADAPTER).is_file()


def base_of(folder: Path) -> tuple[str, str]:
    """Return the name of an adapter's base model, and its revision on the Hub ("" = the default branch)."""
    config = json.loads((folder / ADAPTER).read_text(encoding="utf-8"))
    return str(config.get("base_model_name_or_path") or ""), str(config.get("revision") or "")


def merge(adapter: Path, base: Path, folder: Path) -> None:
    """Write an adapter merged into its base model to `folder`, in float32, with the adapter's tokenizer if it has one.

    Raises
    ------
    ModelError
        If the adapter does not fit the base model.
    """
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, use_safetensors=True)
    try:
        merged = PeftModel.from_pretrained(model, adapter).merge_and_unload(safe_merge=True)
    except (ValueError, RuntimeError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(
            f"The adapter in {adapter} cannot be merged into {base} ({reason}). Use the base model that it was trained "
            f"on: base_model_name_or_path in {ADAPTER}."
        ) from error
    merged.save_pretrained(folder)
    source = adapter if (adapter / "tokenizer_config.json").is_file() else base
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)
