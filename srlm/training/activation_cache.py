"""Cache of the activations of frozen layers, used on CPUs.

With `lora.last_n_layers` the layers below are frozen. Without dropout, their output for a sequence depends only on its
tokens. Computing it is most of the work for a small model, and it needs little memory (tokens x hidden size), so the
output of the first pass over the data is reused in later ones. Gradients equal those of the whole model. A pass is an
epoch, or the pass in which DPO computes the reference's log-probabilities with the adapter switched off.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

_KNOWN = ("llama", "mistral", "qwen2", "qwen3")  # architectures whose layers exchange one tensor
LIMIT = 2 * 2**30  # maximum size of the cache, bytes
Activations = dict[bytes, torch.Tensor]  # token ids of a sequence -> output of the frozen layers, (tokens, hidden size)


def layer_stack(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """Return the name and the layers of the decoder: the longest ModuleList of the model."""
    stacks = [(name, part) for name, part in model.named_modules() if isinstance(part, nn.ModuleList)]
    return max(stacks, key=lambda stack: len(stack[1]))


class _Above(nn.Module):
    """Identity that replaces a frozen layer that `_Below` runs."""

    def forward(self, hidden_states: torch.Tensor, **_: Any) -> torch.Tensor:
        return hidden_states


class _Below(nn.Module):
    """Replacement of the first layer: runs all frozen layers, once per sequence."""

    def __init__(self, layers: list[nn.Module], made: Activations):
        super().__init__()
        self._frozen = layers  # a plain list, so that checkpoints do not contain these layers under other names
        self._made = made
        self._bytes = sum(one.numel() * one.element_size() for one in made.values())
        self._rows: list[tuple[bytes, int]] = []  # of the current batch: token ids, length

    def see(self, _: nn.Module, args: Any, inputs: dict[str, Any]) -> None:
        """Record the sequences of a batch (a forward pre-hook of the decoder).

        With a mask of four dimensions, positions identify what a token sees (`srlm.training.shared_prompts`).
        """
        ids, mask, positions = (inputs.get(name) for name in ("input_ids", "attention_mask", "position_ids"))
        self._rows = []
        if ids is None or mask is None:
            return
        if mask.dim() == 4 and positions is not None:
            for row, places in zip(ids, positions, strict=True):
                length = 1 + max(places.nonzero().flatten().tolist(), default=0)  # padding has position 0
                self._rows.append((row[:length].numpy().tobytes() + places[:length].numpy().tobytes(), length))
        elif mask.dim() == 2 and bool(mask[:, 0].all()):  # otherwise padded on the left
            for row, length in zip(ids, mask.sum(dim=1).tolist(), strict=True):
                self._rows.append((row[:length].numpy().tobytes(), length))

    def forward(self, hidden_states: torch.Tensor, **inputs: Any) -> torch.Tensor:
        """Return the output of the frozen layers.

        Parameters
        ----------
        hidden_states : tensor of shape (batch, tokens, hidden size)
            Embedded tokens.

        Returns
        -------
        tensor of the same shape
        """
        if self._rows and all(key in self._made for key, _ in self._rows):
            made = torch.zeros_like(hidden_states)  # zeros at padding positions, which the attention mask excludes
            for index, (key, length) in enumerate(self._rows):
                made[index, :length] = self._made[key]
            return made
        with torch.no_grad():
            for layer in self._frozen:
                hidden_states = layer(hidden_states, **inputs)
        for index, (key, length) in enumerate(self._rows):
            kept = hidden_states[index, :length].clone()
            size = kept.numel() * kept.element_size()
            if key not in self._made and self._bytes + size <= LIMIT:
                self._made[key] = kept
                self._bytes += size
        return hidden_states


@contextmanager
def frozen_once(model: nn.Module, passes: float, made: Activations | None = None) -> Iterator[int]:
    """Run the frozen layers below the first trained layer once per sequence, within the context; yields their number.

    Yields 0 and changes nothing if the cache gives no speed-up or is not known to be correct: with one pass, a GPU,
    dropout, gradient checkpointing, trained embeddings, or layers that exchange more than one tensor.

    Parameters
    ----------
    passes : float
        How often the sequences are computed, earlier and later passes of the same model included.
    made : dict, optional
        The activations of an earlier pass, to which new ones are added.
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
        passes <= 1
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
    first = _Below(whole[:below], {} if made is None else made)
    hook = decoder.register_forward_pre_hook(first.see, with_kwargs=True)
    for index in range(below):
        layers[index] = _Above() if index else first
    try:
        yield below
    finally:
        hook.remove()
        for index in range(below):
            layers[index] = whole[index]
