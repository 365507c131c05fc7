"""The layers below LoRA's make the same of an example in every epoch: on a CPU they are run once.

With `lora.last_n_layers` the layers below are frozen, and without dropout what they make of a sequence depends on its
tokens alone. That is most of a small model's work, and its result is small (tokens x hidden size), so it is kept from
the first epoch for the others. Gradients are those of the whole model.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

_KNOWN = ("llama", "mistral", "qwen2", "qwen3")  # whose layers take and give one tensor
LIMIT = 2 * 2**30  # bytes to keep in memory


def layer_stack(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """The decoder's layers and their name in the model: its longest list of modules."""
    stacks = [(name, part) for name, part in model.named_modules() if isinstance(part, nn.ModuleList)]
    return max(stacks, key=lambda stack: len(stack[1]))


class _Above(nn.Module):
    """In the place of a layer whose work is done."""

    def forward(self, hidden_states: torch.Tensor, **_: Any) -> torch.Tensor:
        return hidden_states


class _Below(nn.Module):
    """In the place of the first layer: all frozen ones, each sequence once."""

    def __init__(self, layers: list[nn.Module]):
        super().__init__()
        self._frozen = layers  # in a plain list: they are not to appear in a checkpoint under other names
        self._made: dict[bytes, torch.Tensor] = {}  # token ids -> (tokens, hidden size)
        self._bytes = 0
        self._rows: list[tuple[bytes, int]] = []  # of the batch under way: token ids, length

    def see(self, _: nn.Module, args: Any, inputs: dict[str, Any]) -> None:
        """Before the decoder runs: which sequences are these?"""
        ids, mask = inputs.get("input_ids"), inputs.get("attention_mask")
        self._rows = []
        if ids is None or mask is None or mask.dim() != 2 or not bool(mask[:, 0].all()):
            return  # nothing to know a sequence by, or padded on the left
        for row, length in zip(ids, mask.sum(dim=1).tolist(), strict=True):
            self._rows.append((row[:length].numpy().tobytes(), length))

    def forward(self, hidden_states: torch.Tensor, **inputs: Any) -> torch.Tensor:
        """hidden_states: (batch, tokens, hidden size), as embedded -> the same shape, after the frozen layers."""
        if self._rows and all(key in self._made for key, _ in self._rows):
            made = torch.zeros_like(hidden_states)  # what stands at padding is masked for the layers above
            for place, (key, length) in enumerate(self._rows):
                made[place, :length] = self._made[key]
            return made
        with torch.no_grad():
            for layer in self._frozen:
                hidden_states = layer(hidden_states, **inputs)
        for place, (key, length) in enumerate(self._rows):
            kept = hidden_states[place, :length].clone()
            size = kept.numel() * kept.element_size()
            if key not in self._made and self._bytes + size <= LIMIT:
                self._made[key] = kept
                self._bytes += size
        return hidden_states


@contextmanager
def frozen_once(model: nn.Module, epochs: float) -> Iterator[int]:
    """While it is open, layers below the first trained one are run once for each sequence; yields how many those are.

    None are (0) where that would gain nothing or is not known to be right: one epoch, a GPU, dropout, gradient
    checkpointing, trained embeddings, an architecture whose layers exchange more than one tensor.
    """
    name, layers = layer_stack(model)
    trained = [any(weight.requires_grad for weight in layer.parameters()) for layer in layers]
    below = trained.index(True) if True in trained else 0
    decoder = model.get_submodule(name.rpartition(".")[0])
    settings: Any = getattr(decoder, "config", None)
    others = [
        weight.requires_grad
        for part, weight in decoder.named_parameters()
        if not part.startswith(f"{name.rpartition('.')[2]}.")
    ]
    if (
        epochs <= 1
        or torch.cuda.is_available()
        or any(others)
        or getattr(settings, "model_type", "") not in _KNOWN
        or len(set(getattr(settings, "layer_types", None) or ["one"])) > 1
        or getattr(settings, "attention_dropout", 0) > 0
        or getattr(decoder, "gradient_checkpointing", False)
    ):
        below = 0
    if not below:
        yield 0
        return
    whole = list(layers)
    first = _Below(whole[:below])
    hook = decoder.register_forward_pre_hook(first.see, with_kwargs=True)
    for place in range(below):
        layers[place] = _Above() if place else first
    try:
        yield below
    finally:
        hook.remove()
        for place in range(below):
            layers[place] = whole[place]
