"""A checkpoint's folder or a GGUF file, read in seconds: names, headers, configuration and tokenizer, no weights."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from srlm.errors import ModelError
from srlm.models.chat import encode_turn
from srlm.models.chat_template import load_tokenizer, prepare_loaded
from srlm.models.config import ModelConfig

Use = Literal["train", "generate", "classify", "tokenize"]  # what a command uses a model for
CHECKPOINT_FILES = ("*.json", "*.safetensors", "*.model", "*.jinja", "*.txt", "tokenizer*")
ADAPTER = "adapter_config.json"
INDEX = "model.safetensors.index.json"
# JSON files that a model's use depends on; a folder may contain others, such as logs.
JSON_FILES = (
    *("config.json", "generation_config.json", ADAPTER, INDEX),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json"),
    "chat_template.json",
)
_LFS = b"version https://git-lfs"
# transformers reports files and options that it cannot use with these errors.
UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, ImportError, RuntimeError)


@dataclass
class Checkpoint:
    """A checkpoint's folder or a GGUF file, with its parts read when a check asks for them.

    Parameters
    ----------
    path : Path
        The folder, or the .gguf file.
    options : ModelConfig
        How the model is used: its chat template, and whether its code is trusted.
    use : Use
    max_model_len : int
        `engine.max_model_len`, in tokens; 0 = not checked.
    engine : str
        `engine.kind`.
    listed : tuple of str, optional
        The files of the repository on the Hub, if the weights have not been downloaded; () = not known.
    """

    path: Path
    options: ModelConfig
    use: Use = "generate"
    max_model_len: int = 0
    engine: str = ""
    listed: tuple[str, ...] | None = None

    @property
    def is_gguf(self) -> bool:
        return self.path.suffix == ".gguf"

    @cached_property
    def files(self) -> set[str]:
        """Return the names of the files, on the Hub for weights that have not been downloaded."""
        if self.is_gguf:
            return {self.path.name}
        present = {path.name for path in self.path.iterdir() if path.is_file()}
        return present | set(self.listed or ())

    @cached_property
    def pointers(self) -> list[str]:
        """Return the files that are Git LFS pointers, among those that the model's use depends on."""
        folder = self.path.parent if self.is_gguf else self.path
        needed = {*JSON_FILES, *self.weight_files}
        names = [name for name in self.files if name in needed or name.endswith((".gguf", ".model", ".jinja"))]
        paths = [folder / name for name in sorted(names)]
        return [path.name for path in paths if path.is_file() and beginning(path, len(_LFS)) == _LFS]

    @cached_property
    def json_errors(self) -> dict[str, str]:
        """Return file -> error for the JSON files that cannot be read."""
        errors = {}
        for name in sorted(self.files & {*JSON_FILES} - {*self.pointers}):
            if (self.path / name).is_file():
                try:
                    json.loads((self.path / name).read_text(encoding="utf-8"))
                except (ValueError, RecursionError) as error:
                    errors[name] = str(error)
        return errors

    def read_json(self, name: str) -> dict[str, Any]:
        """Return a JSON object of the folder; {} if there is no such file, or it cannot be read."""
        try:
            content = json.loads((self.path / name).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return {}
        return content if isinstance(content, dict) else {}

    @cached_property
    def config(self) -> dict[str, Any]:
        """Return config.json."""
        return self.read_json("config.json")

    @cached_property
    def has_config(self) -> bool:
        """Return whether there is a config.json that can be read."""
        name = "config.json"
        return (self.path / name).is_file() and name not in self.pointers and name not in self.json_errors

    @cached_property
    def weight_files(self) -> list[str]:
        """Return the safetensors files that transformers or peft loads."""
        if ADAPTER in self.files:
            return ["adapter_model.safetensors"]
        index = self.read_json(INDEX).get("weight_map")
        if "model.safetensors" not in self.files and isinstance(index, dict):
            return sorted({str(file) for file in index.values()})
        return ["model.safetensors"]

    @cached_property
    def headers(self) -> dict[str, dict[str, list[int]] | str]:
        """Return file -> shapes of its tensors, or the error of a damaged file; without files that are not here."""
        from safetensors import SafetensorError, safe_open

        found: dict[str, dict[str, list[int]] | str] = {}
        for name in self.weight_files:
            if not (self.path / name).is_file() or name in self.pointers:
                continue
            try:
                with safe_open(self.path / name, "numpy") as file:
                    found[name] = {tensor: file.get_slice(tensor).get_shape() for tensor in file.keys()}  # noqa: SIM118
            except (SafetensorError, OSError) as error:
                found[name] = str(error)
        return found

    @cached_property
    def has_weights(self) -> bool:
        """Return whether this is a folder whose weights have known names."""
        return self.listed != () and not self.is_gguf and bool({"config.json", ADAPTER} & self.files)

    @cached_property
    def settings(self) -> Any:
        """Return transformers' configuration, or the error that it raises; None if there is nothing to read."""
        from huggingface_hub.errors import StrictDataclassError
        from transformers import AutoConfig

        if self.is_gguf:
            if self.pointers or self.gguf_error:
                return None
            where: dict[str, Any] = {"gguf_file": self.path.name}
            folder = self.path.parent
        elif not self.has_config or self.needs_code:
            return None
        else:
            where, folder = {}, self.path
        try:
            return AutoConfig.from_pretrained(folder, trust_remote_code=self.options.trust_remote_code, **where)
        except (*UNREADABLE, StrictDataclassError) as error:
            return " ".join(str(error).split())

    @property
    def text_settings(self) -> Any:
        """Return the configuration of the text model; None if it cannot be read."""
        readable = self.settings is not None and not isinstance(self.settings, str)
        return self.settings.get_text_config() if readable else None

    @cached_property
    def gguf_error(self) -> str:
        """Return why a GGUF file cannot be read; "" if it can."""
        from gguf import GGUFReader

        try:
            GGUFReader(self.path)
        except UNREADABLE as error:
            return str(error) or type(error).__name__
        return ""

    @property
    def needs_code(self) -> bool:
        """Return whether the model has code of its own that is not trusted and that transformers does not replace."""
        return bool(self.config.get("auto_map")) and not (self.options.trust_remote_code or self._is_known)

    @property
    def _is_known(self) -> bool:
        from transformers.models.auto import modeling_auto

        known = modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
        if self.use == "classify":
            known = modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES
        return self.config.get("model_type") in known

    @property
    def by_transformers(self) -> bool:
        """Return whether transformers loads the model; vLLM has further kinds of models."""
        return self.use == "train" or self.engine == "transformers"

    @property
    def is_supported(self) -> bool:
        """Return whether transformers, or trusted code, has a model of this kind."""
        return self._is_known or bool(self.config.get("auto_map") and self.options.trust_remote_code)

    @cached_property
    def tokenizer(self) -> Any:
        """Return the prepared tokenizer, or the ModelError that it raises; None if its files cannot be read."""
        damaged = {*self.pointers, *self.json_errors}
        unreadable = any(name.startswith(("tokenizer", "config.json")) for name in damaged)
        if unreadable or self.needs_code or isinstance(self.settings, str):
            return None
        try:
            if not self.is_gguf:
                return load_tokenizer(self.path, self.options) if "config.json" in self.files else None
            if self.text_settings is None:
                return None
            from transformers import AutoTokenizer

            try:
                tokenizer = AutoTokenizer.from_pretrained(self.path.parent, gguf_file=self.path.name)
            except UNREADABLE as error:
                raise ModelError(f"The tokenizer of {self.path} cannot be loaded: {error}") from error
            return prepare_loaded(tokenizer, self.path, self.options)
        except ModelError as error:
            return error

    @cached_property
    def turn(self) -> Any:
        """Return the token ids of a prompt and its answer, or the ModelError of their encoding."""
        if self.tokenizer is None or isinstance(self.tokenizer, ModelError):
            return None
        try:
            prompt, reply = encode_turn(self.tokenizer, [{"role": "user", "content": "Hello?"}], "Hello.")
        except ModelError as error:
            return error
        return [*prompt, *reply, self.tokenizer.pad_token_id]

    @property
    def rows(self) -> int | None:
        """Return the number of rows of the embeddings, by the configuration; None if it is not known."""
        size = getattr(self.text_settings, "vocab_size", None)
        return size if isinstance(size, int) else None


def beginning(path: Path, length: int) -> bytes:
    """Return the first bytes of a file."""
    with path.open("rb") as stream:
        return stream.read(length)
