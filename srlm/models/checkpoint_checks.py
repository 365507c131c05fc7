"""Checks of a checkpoint or a GGUF file, from what can be read in seconds: no weights are loaded.

`CHECKS` is the table of all checks: what each reads, the problem that it reports, and the remedy. Without them, a
damaged or unsuitable model would fail minutes later, with an error of another library.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from srlm.errors import ModelError
from srlm.models.chat import check_turns
from srlm.models.chat_template import control_tokens, notes
from srlm.models.checkpoint import ADAPTER, INDEX, UNREADABLE, Checkpoint, Use, beginning

Values = Iterator[dict[str, Any]]  # of the fields in a check's problem and remedy, once for each problem
_MERGEABLE = ("LORA", "ADALORA", "LOHA", "LOKR", "OFT", "BOFT", "IA3")  # kinds of peft adapters
_EMBEDDINGS = re.compile(r"(?:^|\.)(?:embed_tokens|wte|embed_in|word_embeddings|tok_embeddings)\.weight$")
SCALED_ROPE = ("linear", "dynamic")  # other kinds of RoPE scaling are included in max_position_embeddings
_PART = re.compile(r"-\d{5}-of-(\d{5})\.gguf$")


@dataclass(frozen=True)
class Check:
    """One check, a row of `CHECKS`.

    Parameters
    ----------
    name : str
    reads : str
        What the check reads.
    problem, remedy : str
        Texts with {fields}, which `find` returns for each problem.
    find : callable
        (checkpoint) -> the fields of each problem.
    uses : tuple of Use
        The uses that the problem prevents.
    """

    name: str
    reads: str
    problem: str
    remedy: str
    find: Callable[[Checkpoint], Values]
    uses: tuple[Use, ...] = ("train", "generate", "classify", "tokenize")

    def messages(self, checkpoint: Checkpoint) -> list[str]:
        """Return a message for each problem of the checkpoint: the problem and its remedy."""
        if checkpoint.use not in self.uses:
            return []
        texts = (self.problem, self.remedy) if self.remedy else (self.problem,)
        return [" ".join(text.format(**values) for text in texts) for values in self.find(checkpoint)]


def problems_of(checkpoint: Checkpoint, files_only: bool = False) -> list[str]:
    """Return a message with the remedy for each problem of a checkpoint; [] if the checkpoint can be used.

    With `files_only`, only `FILE_CHECKS` are made, which import no large library.
    """
    return [message for check in (FILE_CHECKS if files_only else CHECKS) for message in check.messages(checkpoint)]


def notes_of(checkpoint: Checkpoint) -> list[str]:
    """Return warnings about the chat of a checkpoint that can be used; usually none."""
    tokenizer = checkpoint.tokenizer
    if tokenizer is None or isinstance(tokenizer, ModelError):
        return []
    try:
        check_turns(tokenizer, tokenizer.chat_template)
    except ModelError as error:
        return [*notes(tokenizer, checkpoint.path), f"only single turns can be used. {error}"]
    return notes(tokenizer, checkpoint.path)


def refuse(model: str, problems: list[str]) -> None:
    """Raise one ModelError with all problems of a model; do nothing without problems.

    Parameters
    ----------
    model : str
        The option that names the model, with its value: "model.name=mine".
    """
    raise_problems([f"{model}: {problem}" for problem in problems])


def raise_problems(messages: list[str]) -> None:
    """Raise one ModelError with all messages; do nothing without messages."""
    if messages:
        listed = "".join(f"\n- {message}" for message in messages)
        raise ModelError(messages[0] if len(messages) == 1 else f"There are {len(messages)} problems:{listed}")


# Files


def _pointers(checkpoint: Checkpoint) -> Values:
    folder = checkpoint.path.parent if checkpoint.is_gguf else checkpoint.path
    for file in checkpoint.pointers:
        yield {"file": file, "folder": folder}


def _no_config(checkpoint: Checkpoint) -> Values:
    if not checkpoint.is_gguf and not {"config.json", ADAPTER} & checkpoint.files:
        yield {"folder": checkpoint.path}


def _not_json(checkpoint: Checkpoint) -> Values:
    for file, error in checkpoint.json_errors.items():
        yield {"file": checkpoint.path / file, "error": error}


def _other_adapter(checkpoint: Checkpoint) -> Values:
    kind = str(checkpoint.read_json(ADAPTER).get("peft_type") or "LORA")
    if ADAPTER in checkpoint.files and kind not in _MERGEABLE:
        yield {"folder": checkpoint.path, "kind": kind}


def _no_base(checkpoint: Checkpoint) -> Values:
    base = checkpoint.read_json(ADAPTER).get("base_model_name_or_path")
    if ADAPTER in checkpoint.files and (not base or Path(base).expanduser().resolve() == checkpoint.path):
        yield {"folder": checkpoint.path}


def _no_weights(checkpoint: Checkpoint) -> Values:
    if checkpoint.has_weights and not any(name.endswith(".safetensors") for name in checkpoint.files):
        yield {"folder": checkpoint.path}


def _missing_weights(checkpoint: Checkpoint) -> Values:
    present = sorted(name for name in checkpoint.files if name.endswith(".safetensors"))
    for file in checkpoint.weight_files if checkpoint.has_weights and present else []:
        if file not in checkpoint.files:
            yield {"file": file, "folder": checkpoint.path, "present": ", ".join(present)}


def _damaged_weights(checkpoint: Checkpoint) -> Values:
    for file, header in checkpoint.headers.items() if checkpoint.has_weights else ():
        if isinstance(header, str):
            yield {"file": file, "error": header}


def _missing_tensors(checkpoint: Checkpoint) -> Values:
    index = checkpoint.read_json(INDEX).get("weight_map")
    if not checkpoint.has_weights or "model.safetensors" in checkpoint.files or not isinstance(index, dict):
        return
    for file, header in checkpoint.headers.items():
        missing = [tensor for tensor, of_file in index.items() if of_file == file and tensor not in header]
        if missing and not isinstance(header, str):
            yield {"file": file, "tensor": missing[0], "count": len(missing)}


# Kind of model


def _custom_code(checkpoint: Checkpoint) -> Values:
    if checkpoint.needs_code:
        yield {"code": checkpoint.config["auto_map"]}


def _not_causal(checkpoint: Checkpoint) -> Values:
    if checkpoint.use == "generate" and not checkpoint.by_transformers:
        supported = not getattr(checkpoint.text_settings, "is_encoder_decoder", False)
    else:
        supported = checkpoint.is_supported
    if checkpoint.has_config and not supported and not checkpoint.needs_code:
        yield {"type": checkpoint.config.get("model_type"), "names": checkpoint.config.get("architectures")}


def _unreadable_config(checkpoint: Checkpoint) -> Values:
    if isinstance(checkpoint.settings, str) and not checkpoint.is_gguf and checkpoint.is_supported:
        yield {"error": checkpoint.settings.rstrip(".")}


def _quantised(checkpoint: Checkpoint) -> Values:
    if quantised := checkpoint.config.get("quantization_config"):
        method = quantised.get("quant_method") if isinstance(quantised, dict) else quantised
        yield {"method": method or "unknown method"}


def _quantised_without_library(checkpoint: Checkpoint) -> Values:
    quantised = checkpoint.config.get("quantization_config")
    if not checkpoint.by_transformers or not isinstance(quantised, dict):
        return
    from transformers.quantizers import AutoHfQuantizer

    try:
        AutoHfQuantizer.from_config(quantised, pre_quantized=True).validate_environment(device_map=None)
    except UNREADABLE as error:
        yield {"method": quantised.get("quant_method") or "unknown method", "error": str(error).rstrip(".")}


# Vocabulary and positions


def _embedding_rows(checkpoint: Checkpoint) -> Values:
    for header in checkpoint.headers.values() if checkpoint.has_weights and checkpoint.rows else ():
        for tensor, shape in header.items() if isinstance(header, dict) else ():
            if _EMBEDDINGS.search(tensor) and shape and shape[0] != checkpoint.rows:
                yield {"tensor": tensor, "found": shape[0], "rows": checkpoint.rows}


def _no_head(checkpoint: Checkpoint) -> Values:
    """Find models with untied embeddings whose weights have no second tensor of the embeddings' size."""
    settings, headers = checkpoint.text_settings, list(checkpoint.headers.values())
    tied = getattr(settings, "tie_word_embeddings", True) or "quantization_config" in checkpoint.config
    if ADAPTER in checkpoint.files or tied or len(headers) < len(checkpoint.weight_files):
        return
    shapes = {name: shape for header in headers if isinstance(header, dict) for name, shape in header.items()}
    rows = [shape[0] for name, shape in shapes.items() if _EMBEDDINGS.search(name) and shape]
    if rows and sum(shape[:1] == rows[:1] and len(shape) == 2 for shape in shapes.values()) < 2:
        yield {"names": checkpoint.config.get("architectures")}


def _tokens_without_row(checkpoint: Checkpoint) -> Values:
    """Find tokens of the chat, and tokens that ordinary text can contain. Control tokens in a text are escaped."""
    tokenizer, rows = checkpoint.tokenizer, checkpoint.rows
    if rows is None or not isinstance(checkpoint.turn, list):
        return
    ordinary = set(tokenizer.get_added_vocab().values()) - control_tokens(tokenizer).keys()
    if beyond := sorted({token for token in {*checkpoint.turn, *ordinary} if token >= rows}):
        tokens = ", ".join(tokenizer.convert_ids_to_tokens(beyond))
        yield {"size": len(tokenizer), "rows": rows, "tokens": tokens}


def positions(settings: Any) -> int | None:
    """Return the number of positions of a model's configuration, with its RoPE scaling; None if it has no limit."""
    limit = getattr(settings, "max_position_embeddings", None)
    if not isinstance(limit, int) or limit <= 0:
        return None
    rope = getattr(settings, "rope_parameters", None) or {}
    scaled = [one for one in (rope, *rope.values()) if isinstance(one, dict) and one.get("rope_type") in SCALED_ROPE]
    return int(limit * max((one.get("factor") or 1.0 for one in scaled), default=1.0))


def _positions(checkpoint: Checkpoint) -> Values:
    limit = positions(checkpoint.text_settings)
    if limit is not None and checkpoint.max_model_len > limit:
        yield {"limit": limit, "length": checkpoint.max_model_len}


# Chat


def _chat(checkpoint: Checkpoint) -> Values:
    for result in (checkpoint.tokenizer, checkpoint.turn):
        if isinstance(result, ModelError):
            yield {"error": result}


# GGUF files


def _gguf_part(checkpoint: Checkpoint) -> Values:
    if part := _PART.search(checkpoint.path.name):
        yield {"file": checkpoint.path.name, "parts": int(part[1])}


def _not_gguf(checkpoint: Checkpoint) -> Values:
    if checkpoint.is_gguf and not checkpoint.pointers and (begins := beginning(checkpoint.path, 4)) != b"GGUF":
        yield {"file": checkpoint.path.name, "begins": begins}


def _damaged_gguf(checkpoint: Checkpoint) -> Values:
    if checkpoint.is_gguf and beginning(checkpoint.path, 4) == b"GGUF" and checkpoint.gguf_error:
        yield {"file": checkpoint.path.name, "error": checkpoint.gguf_error.rstrip(".")}


def _unsupported_gguf(checkpoint: Checkpoint) -> Values:
    if checkpoint.is_gguf and isinstance(checkpoint.settings, str):
        yield {"file": checkpoint.path.name, "error": checkpoint.settings.rstrip(".")}


_HEADER = "the header of each weights file"
_RELOAD = "Copy or download it again."
FILE_CHECKS = (
    Check(
        "Git LFS pointer",
        "the first bytes of each file",
        "{file} is a Git LFS pointer, not the file itself.",
        "Run git lfs pull in {folder}.",
        _pointers,
    ),
    Check(
        "no checkpoint",
        "the names of the files",
        "{folder} has no config.json, so it is not a checkpoint.",
        "Use a checkpoint's folder.",
        _no_config,
    ),
    Check("not JSON", "each JSON file", "{file} is not a JSON file ({error}).", _RELOAD, _not_json),
    Check(
        "adapter that cannot be merged",
        ADAPTER,
        "{folder} contains a {kind} adapter (adapter_config.json), which cannot be merged into a model.",
        "Use a full model, or a LoRA adapter.",
        _other_adapter,
    ),
    Check(
        "adapter without base model",
        ADAPTER,
        "{folder} contains an adapter, and adapter_config.json does not name its base model.",
        "Set base_model_name_or_path in that file to a name on the Hub or a folder.",
        _no_base,
    ),
    Check(
        "no safetensors",
        "the names of the files",
        "{folder} has no *.safetensors file.",
        "Weights in other formats (*.bin, *.pt) can run code when they are loaded, so they are not read. Convert them "
        "with save_pretrained first.",
        _no_weights,
    ),
    Check(
        "missing weights",
        f"{INDEX} and the names of the files",
        "{file} is missing from {folder} (present: {present}).",
        _RELOAD,
        _missing_weights,
    ),
    Check("damaged weights", _HEADER, "{file} is damaged or truncated ({error}).", _RELOAD, _damaged_weights),
    Check(
        "weights of another checkpoint",
        f"{INDEX} and {_HEADER}",
        "{file} does not contain {tensor}, which the index lists for it ({count} missing).",
        "Copy or download all files again.",
        _missing_tensors,
    ),
)
CHECKS = (
    *FILE_CHECKS,
    Check(
        "custom code",
        "config.json (auto_map)",
        "The model has custom code ({code}).",
        "If you trust that code, set model.trust_remote_code=true.",
        _custom_code,
    ),
    Check(
        "architecture",
        "config.json (model_type)",
        "model_type {type!r} is not a causal language model that transformers supports (architectures: {names}).",
        "Use a decoder-only model.",
        _not_causal,
        ("train", "generate"),
    ),
    Check(
        "classifier",
        "config.json (model_type)",
        "model_type {type!r} is not a sequence classifier that transformers supports (architectures: {names}).",
        "Use a reward model with one output.",
        _not_causal,
        ("classify",),
    ),
    Check(
        "configuration",
        "config.json",
        "transformers cannot read config.json: {error}.",
        "Fix the file, or download it again. A newer model may need a newer transformers.",
        _unreadable_config,
    ),
    Check(
        "quantised weights",
        "config.json (quantization_config)",
        "The weights are quantised ({method}) and cannot be trained.",
        "Use the original model. As a fixed model (judge.model, prompts.model, evaluation.judge) it can be used.",
        _quantised,
        ("train",),
    ),
    Check(
        "quantised weights without their library",
        "config.json (quantization_config)",
        "The weights are quantised ({method}), and transformers cannot load them here: {error}.",
        "Install what the message names, use engine=vllm, or use the original model.",
        _quantised_without_library,
        ("generate",),
    ),
    Check(
        "size of the embeddings",
        f"config.json (vocab_size) and {_HEADER}",
        "{tensor} has {found} rows, and config.json names a vocabulary of {rows}.",
        "Correct vocab_size in config.json, or download both files again.",
        _embedding_rows,
    ),
    Check(
        "output layer",
        f"config.json (tie_word_embeddings) and {_HEADER}",
        "The weights have no output layer (architectures: {names}). transformers would fill it with random numbers.",
        "Use a language model. This may be a reward model, or only the layers below the output.",
        _no_head,
        ("train", "generate"),
    ),
    Check(
        "tokens without embedding",
        "config.json (vocab_size) and the tokenizer",
        "The tokenizer has {size} tokens and the model's embeddings {rows} rows. There is no row for {tokens}.",
        "Resize the embeddings (model.resize_token_embeddings) and save the model, or use its original tokenizer.",
        _tokens_without_row,
    ),
    Check(
        "positions",
        "config.json (max_position_embeddings, RoPE scaling)",
        "The model has {limit} positions, fewer than engine.max_model_len={length}.",
        "Set engine.max_model_len={limit} or lower.",
        _positions,
        ("train", "generate", "classify"),
    ),
    Check("tokenizer and chat template", "the tokenizer, and the text and tokens of a chat", "{error}", "", _chat),
    Check(
        "part of a GGUF model",
        "the name of the file",
        "{file} is one of {parts} parts of a model.",
        "Merge them first (llama-gguf-split --merge), and use the merged file.",
        _gguf_part,
    ),
    Check(
        "not GGUF",
        "the first bytes of the file",
        "{file} is not a GGUF file: it begins with {begins!r}.",
        _RELOAD,
        _not_gguf,
    ),
    Check(
        "damaged GGUF file",
        "the header of the file",
        "{file} is damaged or truncated ({error}).",
        _RELOAD,
        _damaged_gguf,
    ),
    Check(
        "GGUF architecture",
        "the header of the file",
        "transformers cannot convert {file}: {error}.",
        "Use the original checkpoint of the model.",
        _unsupported_gguf,
    ),
)
