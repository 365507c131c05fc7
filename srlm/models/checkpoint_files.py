"""Checks of a checkpoint's files before its weights are loaded.

Without them, a damaged or unsuitable checkpoint would fail minutes later with an error of another library.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from srlm.errors import ModelError

_LFS = b"version https://git-lfs"


def check_weights(folder: Path, name: str) -> None:
    """Check that a checkpoint's folder contains complete weights that transformers can load.

    Parameters
    ----------
    name : str
        The value of `model.name`, for messages.

    Raises
    ------
    ModelError
        If the folder contains an adapter, a Git LFS pointer, a truncated file, or only some of the shards.
    """
    option = f"model.name={name}: "
    if (folder / "adapter_config.json").is_file():
        raise ModelError(
            f"{option}{folder} contains a LoRA adapter (adapter_config.json), not a model. Merge it into its base "
            "model first, for example with peft's merge_and_unload() and save_pretrained(), and use the merged model."
        )
    index = folder / "model.safetensors.index.json"
    files = [folder / "model.safetensors"]
    if not files[0].is_file() and index.is_file():
        files = [folder / file for file in sorted(set(_read(index, option)["weight_map"].values()))]
    for file in files:
        if not file.is_file():
            present = ", ".join(sorted(path.name for path in folder.glob("*.safetensors")))
            raise ModelError(
                f"{option}{file.name} is missing from {folder} (present: {present}). Copy or download it again."
            )
        _check_safetensors(file, option)


def check_trainable(folder: Path, name: str, trust_remote_code: bool) -> None:
    """Check that a checkpoint's config.json describes a language model that training can load.

    Raises
    ------
    ModelError
        If the model is quantised, is not a causal language model, or needs custom code that is not trusted.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    option = f"model.name={name}: "
    config = _read(folder / "config.json", option)
    if quantised := config.get("quantization_config"):
        method = quantised.get("quant_method", "unknown method") if isinstance(quantised, dict) else quantised
        raise ModelError(f"{option}the weights are quantised ({method}) and cannot be trained. Use the original model.")
    model_type = config.get("model_type")
    if model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or (config.get("auto_map") and trust_remote_code):
        return
    if config.get("auto_map"):
        raise ModelError(
            f"{option}the model has custom code ({config['auto_map']}). If you trust that code, set "
            "model.trust_remote_code=true."
        )
    raise ModelError(
        f"{option}model_type {model_type!r} is not a causal language model that transformers supports (architectures: "
        f"{config.get('architectures')}). Use a decoder-only model."
    )


def check_vocabulary(folder: Path, name: str, tokenizer: Any, ids: list[int]) -> None:
    """Check that the embeddings have a row for each of these token ids, such as those of a rendered chat.

    Raises
    ------
    ModelError
        If tokens were added to the tokenizer and the embeddings were not resized.
    """
    config = _read(folder / "config.json", "")
    rows = (config.get("text_config") or config).get("vocab_size")
    beyond = sorted({i for i in ids if isinstance(rows, int) and i >= rows})
    if beyond:
        raise ModelError(
            f"model.name={name}: the tokenizer has {len(tokenizer)} tokens and the model's embeddings {rows} rows. "
            f"There is no row for {', '.join(tokenizer.convert_ids_to_tokens(beyond))}. Resize the embeddings "
            "(model.resize_token_embeddings) and save the model again, or use its original tokenizer."
        )


def _check_safetensors(file: Path, option: str) -> None:
    """Check that a file is whole, from its header, and no Git LFS pointer."""
    from safetensors import SafetensorError, safe_open

    with file.open("rb") as stream:
        if stream.read(len(_LFS)) == _LFS:
            raise ModelError(
                f"{option}{file.name} is a Git LFS pointer, not the weights. Run git lfs pull in {file.parent}."
            )
    try:
        with safe_open(file, "numpy"):
            pass
    except SafetensorError as error:
        raise ModelError(
            f"{option}{file.name} is damaged or truncated ({error}). Copy or download it again."
        ) from error


def _read(path: Path, option: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{option}{path} is not a JSON file ({error}). Copy or download it again.") from error
    return content if isinstance(content, dict) else {}
