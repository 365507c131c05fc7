"""The size of a model and the shape of its layers, from its configuration and the headers of its weights."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from srlm.errors import ModelError
from srlm.models.config import ModelConfig


@dataclass(frozen=True)
class ModelFacts:
    """What the options that follow the model depend on.

    Attributes
    ----------
    parameters : int
        Number of weights, embeddings included.
    layers : int
        Number of transformer layers; 0 = not known.
    hidden : int
        Width of the residual stream; 0 = not known.
    vocabulary : int
        Rows of the output layer; 0 = not known.
    cached : int
        Numbers that the key-value cache holds for each token, over all layers; 0 = not known.
    positions : int
        Longest context in tokens; 0 = no limit, or not known.
    """

    parameters: int
    layers: int = 0
    hidden: int = 0
    vocabulary: int = 0
    cached: int = 0
    positions: int = 0


SMOLLM2_135M = ModelFacts(134_515_008, layers=30, hidden=576, vocabulary=49_152, cached=11_520, positions=8192)
# Models whose files need not be opened, by name.
_KNOWN = {
    "smollm2-135m-instruct": SMOLLM2_135M,
    "tiny-random": ModelFacts(460_000, layers=2, hidden=128, vocabulary=1024, cached=256, positions=2048),
}


def facts_of(options: ModelConfig) -> ModelFacts | None:
    """Return the facts of a model; None if it cannot be found, or its files do not say how large it is.

    For a model on the Hub, the files except the weights are downloaded, and its size is estimated from config.json.
    """
    # Imported here, because the help of commands uses this module, and these import Hydra.
    from srlm.models.adapters import base_of, is_adapter
    from srlm.models.resolve import locate

    if options.name in _KNOWN:
        return _KNOWN[options.name]
    with contextlib.suppress(ModelError, OSError, ValueError, KeyError, TypeError):
        path = locate(options, weights=False)
        if is_adapter(path):
            base, revision = base_of(path)
            return facts_of(ModelConfig(name=base, revision=revision))
        return _of_gguf(path) if path.is_file() else _of_folder(path)
    return None


def facts_of_config(config: Mapping[str, Any], parameters: int = 0) -> ModelFacts | None:
    """Return the facts that a config.json states.

    Parameters
    ----------
    parameters : int
        The number of weights, if it is known; otherwise it is estimated for a decoder with gated feed-forward layers.
    """
    from srlm.models.checkpoint_checks import SCALED_ROPE

    config = {**config, **config["text_config"]} if isinstance(config.get("text_config"), dict) else config

    def number(*names: str) -> int:
        return next((int(config[name]) for name in names if isinstance(config.get(name), int)), 0)

    layers, hidden = number("num_hidden_layers", "n_layer", "num_layers"), number("hidden_size", "n_embd", "d_model")
    heads = number("num_attention_heads", "n_head", "num_heads") or 1
    groups = number("num_key_value_heads") or heads
    head = number("head_dim") or hidden // heads
    vocabulary = number("vocab_size")
    if not parameters:
        wide = number("intermediate_size", "n_inner", "ffn_dim") or 4 * hidden
        experts = number("num_local_experts", "num_experts", "n_routed_experts") or 1
        per_layer = 2 * hidden * head * (heads + groups) + 3 * hidden * wide * experts
        parameters = layers * per_layer + vocabulary * hidden * (1 if config.get("tie_word_embeddings") else 2)
    if not parameters:
        return None
    limit = number("max_position_embeddings", "n_positions")
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = rope.get("rope_type") or rope.get("type") if isinstance(rope, dict) else None
    factor = float(rope.get("factor") or 1) if kind in SCALED_ROPE else 1.0
    return ModelFacts(parameters, layers, hidden, vocabulary, 2 * layers * groups * head, int(limit * factor))


def _of_folder(folder: Path) -> ModelFacts | None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return facts_of_config(config, sum(_weights_in(file) for file in folder.glob("*.safetensors")))


def _weights_in(file: Path) -> int:
    """Return the number of weights in a safetensors file, from its header."""
    with file.open("rb") as stream:
        header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    return sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")


def _of_gguf(path: Path) -> ModelFacts:
    from gguf import GGUFReader

    reader = GGUFReader(path)
    kind = reader.fields["general.architecture"].contents()

    def number(name: str) -> int:
        field = reader.fields.get(f"{kind}.{name}")
        value = field.contents() if field else 0
        return value if isinstance(value, int) else 0

    hidden, layers = number("embedding_length"), number("block_count")
    heads = number("attention.head_count") or 1
    head = number("attention.key_length") or hidden // heads
    cached = 2 * layers * (number("attention.head_count_kv") or heads) * head
    vocabulary = next((int(one.shape[-1]) for one in reader.tensors if one.name == "token_embd.weight"), 0)
    parameters = sum(int(one.n_elements) for one in reader.tensors)
    return ModelFacts(parameters, layers, hidden, vocabulary, cached, number("context_length"))
