"""Time saved by caching the activations of frozen layers: `python -m benchmarks.activation_cache [epochs]`.

The default model with the default run's LoRA is trained on 12 batches of 4 sequences of 160 tokens, with a loss on the
last 4 tokens only. Epochs with and without the cache alternate, and the ratio is that of their medians.
"""

from __future__ import annotations

import sys
import time
from statistics import median
from typing import Any

import torch
from peft import get_peft_model
from transformers import AutoModelForCausalLM

from srlm.models.config import ModelConfig
from srlm.models.resolve import resolve
from srlm.training import loading
from srlm.training.activation_cache import frozen_once
from srlm.training.config import LoraConfig, TrainConfig


def main(epochs: int = 3) -> None:
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(resolve(ModelConfig()), dtype=torch.float32)
    model: Any = get_peft_model(base, loading.peft_config(LoraConfig(dropout=0.0, last_n_layers=10), base)).train()
    batches = torch.randint(0, 49152, (12, 4, 160))
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=1e-4)
    low_precision = loading.precision(TrainConfig()) == "bfloat16"

    def epoch() -> float:
        start = time.perf_counter()
        for ids in batches:
            inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            with torch.autocast("cpu", torch.bfloat16, enabled=low_precision):
                logits = model(**inputs, logits_to_keep=5).logits[:, :-1]
                loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), ids[:, -4:].flatten())
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        return time.perf_counter() - start

    epoch()
    plain, cached = [], []
    for _ in range(epochs):
        plain.append(epoch())
        with frozen_once(model, passes=2) as below:
            epoch()  # fills the cache
            cached.append(epoch())
    print(f"{below} of {below + 10} layers frozen, {'bfloat16' if low_precision else 'float32'} arithmetic")
    print(f"epoch without cache: {median(plain):.1f} s; with a filled cache: {median(cached):.1f} s (medians)")
    print(f"ratio {median(cached) / median(plain):.2f} (epochs with cache: {min(cached):.1f} to {max(cached):.1f} s)")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
