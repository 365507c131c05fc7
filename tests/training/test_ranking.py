"""srlm.training.ranking: pairs, the slope of length, the position of a score, and the loss in the real trainer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from srlm.errors import ConfigError, TrainingError
from srlm.judges.config import SampledJudgeConfig
from srlm.judges.eft import sft_uses_eft
from srlm.judges.prompt import JudgeTemplate
from srlm.training import ranking
from srlm.training.encoding import eft_example, encode
from srlm.training.methods.sft import SFTConfig
from srlm.types import JudgeExample
from tests.helpers import options, tiny_llama, tiny_tokenizer, user

RATE = 0.5
TEMPLATE = JudgeTemplate.load(SampledJudgeConfig(template="verdict_only"))
IFT = [[*user("Hi?"), {"role": "assistant", "content": "Hello."}]]
EXAMPLES = [
    JudgeExample(f"{prompt}/a{place}", prompt, text, "", score, "seed")
    for prompt, answers in {
        "Why?": [("Because.", 5.0), ("No idea at all.", 3.0), ("Score: 4", 1.0)],
        "Who?": [("5 people, all of them.", 5.0), ("Me", 1.0)],
        "When?": [("Now", 4.0)],
    }.items()
    for place, (text, score) in enumerate(answers)
]

SHARES = [0.0, 2 / 6, 0.0, 1 / 6, 1 / 6, 2 / 6]


def columns(examples: Sequence[JudgeExample] = EXAMPLES) -> dict[str, list[Any]]:
    tokenizer = tiny_tokenizer()
    kinds = {"ift": IFT, "eft": [eft_example(example, TEMPLATE) for example in examples]}
    encoded = encode(tokenizer, kinds, SFTConfig())
    tokens = ranking.score_tokens(tokenizer, TEMPLATE, 5)
    verdicts = ranking.find_verdicts(encoded.input_ids, encoded.places, examples, tokens)
    found: dict[str, list[Any]] = {"input_ids": encoded.input_ids, "labels": encoded.labels}
    return found | {name: [getattr(verdict, name) for verdict in verdicts] for name in ranking.FIELDS}


def model() -> Any:
    made = tiny_llama(len(tiny_tokenizer()), seed=0)
    made.config.max_position_embeddings = 1024
    return made


def step(
    folder: Path,
    slope: float,
    micro: int,
    policy: Any = None,
    examples: Sequence[JudgeExample] = EXAMPLES,
    weight: float = 1.0,
    shared: bool = False,
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Run one step over all examples with the real trainer; return the logged values and the gradients."""
    from datasets import Dataset
    from trl import SFTConfig as Arguments

    tokenizer, policy = tiny_tokenizer(), policy or model()
    before = {name: weight.detach().clone() for name, weight in policy.named_parameters()}
    table = columns(examples)
    order = [1, 2, 3, 0, 4, 5, 6]  # with micro-batches of three, pairs are not split
    table = {name: [values[place] for place in order] for name, values in table.items()}
    tokens = ranking.score_tokens(tokenizer, TEMPLATE, 5)
    trainer = ranking.ranking_trainer(ranking.RankingLoss([], tokens, SHARES, 1, slope), weight)(
        model=policy,
        args=Arguments(
            output_dir=str(folder), use_cpu=True, bf16=False, report_to="none", save_strategy="no", disable_tqdm=True,
            optim="sgd", learning_rate=RATE, lr_scheduler_type="constant", max_grad_norm=0.0, max_steps=1,
            per_device_train_batch_size=micro, gradient_accumulation_steps=math.ceil(7 / micro),
            gradient_checkpointing=False, train_sampling_strategy="sequential", max_length=None, logging_steps=1,
            remove_unused_columns=False,
        ),
        train_dataset=Dataset.from_dict(table),
        processing_class=tokenizer,
    )  # fmt: skip
    collate = partial(ranking.collate_ranked, pad_token_id=tokenizer.pad_token_id)
    trainer.data_collator = (lambda rows: collate(ranking.with_shared_prompts(rows))) if shared else collate
    trainer.train()
    after = dict(policy.named_parameters())
    return trainer.state.log_history[0], {name: (before[name] - after[name].detach()) / RATE for name in before}


def by_hand(slope: float, weight: float = 1.0) -> tuple[float, float, dict[str, torch.Tensor]]:
    """Return the documented loss, computed example by example, its ranking part, and the gradients."""
    policy, table = model(), columns()
    tokens = ranking.score_tokens(tiny_tokenizer(), TEMPLATE, 5)
    total, count, expected = torch.tensor(0.0), 0, []
    for ids, labels, place in zip(table["input_ids"], table["labels"], table["place"], strict=True):
        log_probs = policy(torch.tensor([ids])).logits[0].log_softmax(-1)
        for at in range(1, len(ids)):
            if labels[at] != -100:
                own = log_probs[at - 1, ids[at]]
                if at == place:
                    own = (log_probs[at - 1, tokens] * torch.tensor(SHARES)).sum()
                total, count = total - own, count + 1
        of_scores = log_probs[place - 1, tokens].exp()
        expected.append(of_scores @ torch.arange(6.0) / of_scores.sum())
    pairs = [(1, 2), (1, 3), (2, 3), (4, 5)]  # after the single IFT example
    losses = []
    for better, worse in pairs:
        lengths = [len(EXAMPLES[place - 1].response) + 1 for place in (better, worse)]
        gap = expected[better] - expected[worse] + slope * math.log(lengths[0] / lengths[1])
        losses.append(-torch.log(1 / (1 + torch.exp(-gap))))
    order = torch.stack(losses).mean()
    loss = total / count + weight * order
    loss.backward()
    return (
        float(loss.detach()),
        float(order.detach()),
        {name: weight.grad for name, weight in policy.named_parameters()},
    )


@pytest.mark.parametrize("micro", [7, 3], ids=["at once", "in micro-batches"])
@pytest.mark.parametrize(
    ("slope", "weight", "shared"), [(0.0, 1.0, False), (1.3, 3.0, False), (0.0, 1.0, True), (1.3, 3.0, True)]
)
def test_loss_and_gradients_equal_the_documented_formula(
    tmp_path: Path, slope: float, weight: float, micro: int, shared: bool
) -> None:
    loss, order, gradients = by_hand(slope, weight)
    logged, found = step(tmp_path, slope, micro, weight=weight, shared=shared)
    assert logged["loss"] == pytest.approx(loss, rel=1e-4)
    if micro == 7:
        assert logged["ranking_loss"] == pytest.approx(order, rel=1e-4)
    assert 0 <= logged["ranking_accuracy"] <= 1
    for name, gradient in gradients.items():
        if gradient is not None:
            torch.testing.assert_close(found[name], gradient, rtol=2e-3, atol=2e-5)


def test_ranking_loss_depends_only_on_the_order_of_scores(tmp_path: Path) -> None:
    """Subtracting a point from human scores keeps the ranking loss; reversing their order changes it."""
    lower = [replace(example, score=max(example.score - 1, 0.0)) for example in EXAMPLES]
    turned = [replace(example, score=5 - example.score) for example in EXAMPLES]
    losses = [
        step(tmp_path / str(number), 0.0, 7, examples=examples)[0]["ranking_loss"]
        for number, examples in enumerate((EXAMPLES, lower, turned))
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert losses[2] != pytest.approx(losses[0], rel=0.1)


def test_model_with_logit_softcapping_is_refused(tmp_path: Path) -> None:
    policy = model()
    policy.config.final_logit_softcapping = 2.0
    with pytest.raises(ConfigError, match=r"sft\.eft_loss=ranking does not work with this model"):
        step(tmp_path, 0.0, 7, policy)


def test_score_token_is_found_at_the_examples_end() -> None:
    """Scores in the prompt or in the rated answer are ignored."""
    tokenizer, table = tiny_tokenizer(), columns()
    for ids, place, example in zip(table["input_ids"][1:], table["place"][1:], EXAMPLES, strict=True):
        assert tokenizer.decode(ids[place]) == f"{example.score:.0f}"
        assert tokenizer.decode(ids[:place]).endswith("Score: ")
        assert tokenizer.decode(ids[place + 1 :]) == "<|im_end|>"
    assert table["place"][0] == table["group"][0] == -1  # IFT
    assert table["group"][1:] == [0, 0, 0, 1, 1, 2]
    assert table["log_length"][1] == math.log(len("Because.") + 1)


def test_rows_with_the_same_prompt_text_are_not_compared() -> None:
    again = [replace(example, id=f"other {example.id}") for example in EXAMPLES[:2]]
    assert columns([*EXAMPLES, *again])["group"][1:] == [0, 0, 0, 1, 1, 2, 3, 3]


def test_score_shares_count_examples_with_a_score() -> None:
    verdicts = [ranking.NO_VERDICT, *(ranking.Verdict(9, 0, score, 1.0) for score in (5.0, 1.0, 5.0, 3.0))]
    assert ranking.score_shares(verdicts, 6) == [0, 0.25, 0, 0.25, 0, 0.5]


def test_pairs_follow_ranks_if_scores_tie_or_contradict() -> None:
    """This holds for the loss and the counts; answers of equal rank give no pair."""
    ranked = [replace(example, rank=rank) for example, rank in zip(EXAMPLES, (2, 1, 1, 0, 3, 0), strict=True)]
    table = columns(ranked)
    assert table["rank"] == [-1, 2, 1, 1, 0, 3, 0]
    batch = {name: torch.tensor(table[name]) for name in ranking.FIELDS}
    assert sorted(ranking._pairs_of(batch)) == [(2, 1), (3, 1), (4, 5)]
    verdicts = [ranking.Verdict(*row) for row in zip(*(table[name] for name in ranking.FIELDS), strict=True)]
    assert ranking.fit_length(verdicts, 0.0) == (3, 0.0)


def test_all_pairs_are_kept_with_more_ranks_than_scores() -> None:
    many = [JudgeExample(f"Why?/a{n}", "Why?", f"answer {n}", "", float(5 - n // 2), "seed", rank=n) for n in range(8)]
    batch = {name: torch.tensor(columns(many)[name]) for name in ranking.FIELDS}
    assert sorted(ranking._pairs_of(batch)) == [(i, j) for i in range(1, 9) for j in range(i + 1, 9)]


@given(st.lists(st.tuples(st.integers(-1, 2), st.integers(0, 3)), max_size=8))
def test_pairs_are_within_one_prompt_and_better_first(rows: list[tuple[int, int]]) -> None:
    groups, scores = [group for group, _ in rows], [float(score) for _, score in rows]
    found = ranking.ordered_pairs(groups, scores)
    assert sorted(found) == [
        (i, j)
        for i in range(len(rows))
        for j in range(len(rows))
        if groups[i] == groups[j] and groups[i] >= 0 and scores[i] > scores[j]
    ]


@pytest.mark.parametrize("seed", range(5))
def test_slope_equals_that_of_logistic_regression(seed: int) -> None:
    """Compared with scipy's minimiser on random data with a known slope."""
    number = np.random.default_rng(seed)
    size = number.normal(size=4000)
    won = number.random(4000) < 1 / (1 + np.exp(-1.5 * size))
    d = np.where(won, size, -size)  # better minus worse
    best = minimize_scalar(lambda b: np.log1p(np.exp(-b * d)).sum(), bounds=(-20, 20), method="bounded")
    assert ranking.length_slope(d.tolist()) == pytest.approx(best.x, abs=1e-3)
    assert ranking.length_slope(d.tolist()) == pytest.approx(1.5, abs=0.2)


def test_slope_is_clipped_to_its_range() -> None:
    assert ranking.length_slope([]) == ranking.length_slope([0.0, 0.0]) == 0
    assert ranking.length_slope([0.1, 2.0]) == ranking.STEEPEST  # the longer answer is always better
    assert ranking.length_slope([-0.1]) == -ranking.STEEPEST
    assert ranking.length_slope([1.0, -1.0]) == pytest.approx(0, abs=1e-6)


def test_gradient_is_smaller_if_length_explains_the_order() -> None:
    equal = torch.zeros(3, requires_grad=True)
    offset = torch.tensor([2.0, 0.0, -2.0])  # the better answer is longer, as long, shorter
    ranking.ranking_losses(equal, torch.zeros(3), offset).sum().backward()
    push = -equal.grad
    assert push.tolist() == pytest.approx([1 / (1 + math.exp(2)), 0.5, 1 / (1 + math.exp(-2))], abs=1e-6)


def test_training_without_pairs_is_refused() -> None:
    lone = [ranking.Verdict(9, group, 3.0, 1.0) for group in range(4)]
    with pytest.raises(TrainingError, match="a better and a worse answer"):
        ranking.fit_length(lone, 1.0)
    two = [ranking.Verdict(9, 0, 5.0, 2.0), ranking.Verdict(9, 0, 1.0, 1.0)]
    for offset in (0.0, 0.25, 1.0):
        assert ranking.fit_length(two, offset) == (1, offset * ranking.STEEPEST)


@pytest.mark.parametrize(
    "overrides",
    [
        ["judge=pairwise"],
        ["sft.packing=true"],
        ["sft.train_on=all"],
        ["sft.micro_batch_size=1"],
        ["sft.eft_length_control=1.5"],
        ["judge.scorer=sampled", "judge.max_score=10"],
    ],
)
def test_incompatible_options_are_refused(overrides: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"ranking|learns no scores|0 to 1"):
        options("sft.eft_loss=ranking", *overrides)
    with pytest.raises(ConfigError, match=r"sft\.eft_length_control"):
        options("sft.eft_length_control=0.5")
    with pytest.raises(ConfigError, match=r"sft\.eft_ranking_weight"):
        options("sft.eft_ranking_weight=3")


@pytest.mark.parametrize("judge", ["implicit", "reward_model", "votes"])
def test_judges_that_sft_does_not_train_do_not_use_the_loss(judge: str) -> None:
    """So an experiment with the ranking loss can be run with another judge."""
    assert not sft_uses_eft(options("sft.eft_loss=ranking", f"judge={judge}"))
