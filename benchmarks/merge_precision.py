"""Part of a DPO update that survives merging LoRA, by precision: `python -m benchmarks.merge_precision [MODEL]`.

The model's weights are rounded to bfloat16, as in training on a GPU, and LoRA is trained with 4 steps of DPO on 8 pairs
of built-in seeds, for three learning rates. The result is stored and loaded in three ways. The margin of each is
compared with the policy's (`srlm.training.checkpoint_check.agreement`): as a share of the mean margin, and as the slope
of a regression through the origin over the pairs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model
from torch.nn.functional import logsigmoid
from transformers import AutoModelForCausalLM

from srlm.io.record_file import read_records
from srlm.models.chat import encode_turn
from srlm.models.chat_template import load_tokenizer
from srlm.models.config import ModelConfig
from srlm.models.resolve import resolve
from srlm.training import loading
from srlm.training.checkpoint_check import Probe, Scores, change, float32_arithmetic, probe_of_pairs, score
from srlm.training.config import LoraConfig
from srlm.types import SeedExample

PAIRS, STEPS, BETA = 8, 4, 0.1
RATES = (2e-6, 2e-5, 2e-4)


def main(name: str = "tiny-random") -> None:
    folder = resolve(ModelConfig(name=name))
    probe = pairs_of_seeds(folder)

    def load() -> Any:
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)

    start = load()
    exact = score(start, probe)
    with float32_arithmetic(start, torch.bfloat16):
        rounded = score(start, probe)
    per_token = float((torch.cat(rounded) - torch.cat(exact)).abs().mean())
    print(f"{name}, {sum(map(len, probe.ids))} tokens")
    print(f"rounding the weights changes a token's log-probability by {per_token:.2g} nats")
    print("remaining share of the margin: of the mean, and by regression")
    print(f"{'rate':>6}  {'margin, nats':>12}  {'float32 file':>16}", end="")
    print(f"  {'loaded as bfloat16':>18}  {'merged in bfloat16':>18}")
    for rate in RATES:
        policy, updates = train(load(), probe, rounded, rate)
        gained = margins(policy, rounded)
        ways: list[tuple[Scores, torch.dtype | None, Callable[..., torch.Tensor]]] = [
            (exact, None, lambda weight, update: weight + update),
            (rounded, torch.bfloat16, lambda weight, update: weight + update),
            (rounded, torch.bfloat16, lambda weight, update: (weight.bfloat16() + update.bfloat16()).float()),
        ]
        cells = []
        for before, rounding, merge in ways:
            model = load()
            for layer, update in updates.items():
                weight = model.get_submodule(layer).weight
                weight.data = merge(weight.data, update)
            with float32_arithmetic(model, rounding):
                kept = margins(score(model, probe), before)
            slope = float((kept * gained).sum() / (gained * gained).sum())
            cells.append(f"{100 * float(kept.mean() / gained.mean()):.0f} %, {100 * slope:.0f} %")
        print(
            f"{rate:>6.0e}  {float(gained.mean()):>12.4f}  {cells[0]:>16}  {cells[1]:>18}  {cells[2]:>18}", flush=True
        )


def pairs_of_seeds(folder: Path) -> Probe:
    """Return pairs of a seed's own answer and another seed's, cut to 160 characters."""
    tokenizer = load_tokenizer(folder)
    with resources.as_file(resources.files("srlm.data") / "builtin" / "ift.jsonl") as path:
        seeds = [row for row in read_records(path, SeedExample) if len(row.prompt) < 80][:PAIRS]
    prompts, chosen, rejected = [], [], []
    for seed, other in zip(seeds, [*seeds[1:], seeds[0]], strict=True):
        question = [{"role": "user", "content": seed.prompt}]
        prompt_ids, answer_ids = encode_turn(tokenizer, question, seed.response[:160])
        prompts.append(prompt_ids)
        chosen.append(answer_ids)
        rejected.append(encode_turn(tokenizer, question, other.response[:160])[1])
    return probe_of_pairs(prompts, chosen, rejected)


def train(model: Any, probe: Probe, reference: Scores, rate: float) -> tuple[Scores, dict[str, torch.Tensor]]:
    """Return the policy's scores after DPO over weights rounded to bfloat16, and the update of each layer."""
    for weight in model.parameters():
        weight.data = weight.data.bfloat16().float()
    torch.manual_seed(0)
    policy: Any = get_peft_model(model, loading.peft_config(LoraConfig(dropout=0.0), model))
    optimizer = torch.optim.AdamW([p for p in policy.parameters() if p.requires_grad], lr=rate, weight_decay=0)
    for _ in range(STEPS):
        optimizer.zero_grad()
        for pair in range(PAIRS):
            gains = []
            for place in (2 * pair, 2 * pair + 1):
                ids = torch.tensor([probe.ids[place]])
                first = len(ids[0]) - len(reference[place])
                log_probs = policy(input_ids=ids).logits[0, first - 1 : -1].log_softmax(-1)
                gains.append(log_probs.gather(1, ids[0, first:, None]).sum() - reference[place].sum())
            (-logsigmoid(BETA * (gains[0] - gains[1])) / PAIRS).backward()
        optimizer.step()
    updates = {
        layer.removeprefix("base_model.model."): part.get_delta_weight("default").detach()
        for layer, part in policy.named_modules()
        if hasattr(part, "get_delta_weight")
    }
    return score(policy, probe), updates


def margins(scores: Scores, before: Scores) -> torch.Tensor:
    """Return the gain of each chosen answer minus that of the rejected one, in nats: shape (PAIRS,)."""
    gained = torch.stack([part.sum() for part in change(scores, before)]).view(-1, 2)
    return gained[:, 0] - gained[:, 1]


if __name__ == "__main__":
    main(*sys.argv[1:])
