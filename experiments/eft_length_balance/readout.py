"""Fit a linear readout of the untrained model's hidden states: can a judge learn more than length from them?

    python experiments/eft_length_balance/readout.py RANKED.jsonl [--limit N] [--longest 512]

RANKED.jsonl contains ranked prompts as a run writes them (runs/NAME/data/eft.jsonl). The default model processes each
answer with the judge's prompt, up to the position of the score. A linear function of the standardised hidden states at
this position is fitted to the human order with the loss of srlm/training/ranking.py and an L2 penalty. It is evaluated
by 10-fold cross-validation over prompts.
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Sequence
from pathlib import Path

import torch

from srlm.config import Config
from srlm.evaluation.judge_metrics import accuracy_longer_preferred, accuracy_shorter_preferred
from srlm.evaluation.measures import JudgedPrompt, pairwise_accuracy_imputed
from srlm.io.record_file import read_records
from srlm.judges.config import SampledJudgeConfig
from srlm.judges.prompt import VERDICT, JudgeTemplate
from srlm.models.chat import encode_choices
from srlm.models.chat_template import load_tokenizer
from srlm.models.resolve import resolve
from srlm.training.ranking import length_slope, ranking_losses
from srlm.types import RankedPrompt

LAYERS = {"last": (-1,), "last, -4": (-4, -1), "last, -4, -7, -11": (-11, -7, -4, -1)}  # from the top
OFFSETS, PENALTIES, FOLDS = (0.0, 0.5, 1.0), (1.0, 0.3, 0.1), 10


@torch.inference_mode()
def states(prompts: Sequence[RankedPrompt], longest: int) -> dict[tuple[int, int], torch.Tensor]:
    """Return (prompt, answer) -> hidden states, shape (layers + 1, hidden size), of prompts up to `longest` tokens."""
    from transformers import AutoModelForCausalLM

    folder = resolve(Config().model)
    tokenizer, template = load_tokenizer(folder), JudgeTemplate.load(SampledJudgeConfig(template="verdict_only"))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval().base_model
    found = {}
    for number, prompt in enumerate(prompts):
        for place, answer in enumerate(prompt.answers):
            ids, _ = encode_choices(tokenizer, template.messages(prompt.prompt, answer.text), VERDICT, [" 0", " 1"])
            if len(ids) <= longest:
                layers = model(torch.tensor([ids]), output_hidden_states=True, use_cache=False).hidden_states
                found[number, place] = torch.stack([layer[0, -1] for layer in layers])
        print(f"\r{number + 1} of {len(prompts)} prompts", end="", flush=True)
    print()
    return found


def fitted(differences: torch.Tensor, lengths: torch.Tensor, offset: float, penalty: float) -> torch.Tensor:
    """Return the weights; `differences` (pairs, features) and log-`lengths` (pairs,) are better minus worse."""
    slope = offset * length_slope(lengths.tolist())
    weights = torch.zeros(differences.shape[1], requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=150, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        gaps = differences @ weights
        loss = ranking_losses(gaps, torch.zeros_like(gaps), slope * lengths).mean() + penalty * (weights**2).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return weights.detach()


def cross_validated(
    prompts: Sequence[RankedPrompt], features: dict[tuple[int, int], torch.Tensor], offset: float, penalty: float
) -> list[JudgedPrompt]:
    """Return every prompt with its answers scored by a readout that was fitted to the other folds."""
    order = random.Random(0).sample(range(len(prompts)), len(prompts))
    fold = {number: place % FOLDS for place, number in enumerate(order)}
    pairs = [
        ((number, i), (number, j))
        for number, prompt in enumerate(prompts)
        for i, one in enumerate(prompt.answers)
        for j, other in enumerate(prompt.answers)
        if one.rank < other.rank and (number, i) in features and (number, j) in features
    ]

    def log_length(key: tuple[int, int]) -> float:
        return math.log1p(len(prompts[key[0]].answers[key[1]].text))

    differences = torch.stack([features[better] - features[worse] for better, worse in pairs])
    lengths = torch.tensor([log_length(better) - log_length(worse) for better, worse in pairs])
    judged = []
    for held_out in range(FOLDS):
        kept = torch.tensor([fold[better[0]] != held_out for better, _ in pairs])
        weights = fitted(differences[kept], lengths[kept], offset, penalty)
        for number in (number for number in order if fold[number] == held_out):
            answers = [(i, a) for i, a in enumerate(prompts[number].answers) if (number, i) in features]
            judged.append(
                JudgedPrompt(
                    id=prompts[number].id,
                    ranks=tuple(answer.rank for _, answer in answers),
                    scores=tuple(float(features[number, i] @ weights) for i, _ in answers),
                    lengths=tuple(len(answer.text) for _, answer in answers),
                    type="",
                )
            )
    return judged


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ranked", type=Path)
    parser.add_argument("--limit", type=int, default=0, help="only the first N prompts; 0 = all")
    parser.add_argument("--longest", type=int, default=512, help="maximum tokens of a judge's prompt")
    given = parser.parse_args(arguments)
    prompts = read_records(given.ranked, RankedPrompt)[: given.limit or None]
    show(prompts, states(prompts, given.longest))


def show(prompts: Sequence[RankedPrompt], of_layers: dict[tuple[int, int], torch.Tensor]) -> None:
    """Print the accuracies of the readout for each choice of layers, fraction of the offset, and penalty."""
    stacked = torch.stack(list(of_layers.values()))
    spread = stacked.std(dim=0).clamp(min=1e-3)
    standard = {key: (value - stacked.mean(dim=0)) / spread for key, value in of_layers.items()}
    print("layers                   offset  penalty  accuracy  longer  shorter  balanced, %")
    for name, layers in LAYERS.items():
        features = {key: torch.cat([value[layer] for layer in layers]) for key, value in standard.items()}
        for offset in OFFSETS:
            for penalty in PENALTIES:
                judged = cross_validated(prompts, features, offset, penalty)
                terms = pairwise_accuracy_imputed(judged)
                shares = [float(terms.numerators.sum() / terms.denominators.sum())]
                for measure in (accuracy_longer_preferred, accuracy_shorter_preferred):
                    tops, counts = zip(*(measure(prompt) for prompt in judged), strict=True)
                    shares.append(sum(tops) / max(sum(counts), 1))
                shares.append((shares[1] + shares[2]) / 2)
                shown = "  ".join(f"{100 * share:7.1f}" for share in shares)
                print(f"{name:24} {offset:6.1f}  {penalty:7.1f}  {shown}")
    print(f"{int(terms.denominators.sum())} pairs of {len(prompts)} prompts")


if __name__ == "__main__":
    main()
