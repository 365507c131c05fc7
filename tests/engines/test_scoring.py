"""srlm.engines.scoring and .batching: log-probabilities match a direct computation in any batch.

Bad checkpoints.
"""

from __future__ import annotations

import asyncio

import pytest
import torch

from srlm.config import Config
from srlm.engines.base import open_sequence_scorer
from srlm.engines.batching import Batches
from srlm.engines.config import EngineConfig
from srlm.engines.scoring import ImplicitReward, Likelihood, RewardModel
from srlm.errors import ConfigError, ModelError, PromptTooLongError
from srlm.models.chat import encode_turn
from srlm.models.chat_template import load_tokenizer
from srlm.models.config import ModelConfig
from srlm.training.config import LoopConfig
from srlm.training.methods.dpo import DPO, DPOConfig
from srlm.training.methods.kto import KTOConfig
from tests.helpers import options, tiny_llama, tiny_tokenizer, user

ENGINE = EngineConfig(max_model_len=96, max_concurrent=8)


class Sharper(DPO):
    """A method from outside the package with DPO's options."""


class NoBeta(DPO):
    """A method from outside the package without a beta."""

    config = LoopConfig


PAIRS = [
    ("Name a river.", "The Nile."),
    ("Name a river.", "I would say the Danube, or the Rhine."),
    ("Hi", "x"),
    ("Say nothing, please.", ""),
    ("Write a long text about the sea.", "the sea " * 8),
]


def saved(folder, model, tokenizer):
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def policy(tmp_path):
    tokenizer = tiny_tokenizer()
    return saved(tmp_path / "policy", tiny_llama(len(tokenizer), 1), tokenizer)


@pytest.fixture
def reference(tmp_path):
    tokenizer = tiny_tokenizer()
    return saved(tmp_path / "reference", tiny_llama(len(tokenizer), 2), tokenizer)


def scores_of(rater, pairs=PAIRS, ended=True):
    async def run():
        found = await asyncio.gather(*(rater.score(prompt, answer, ended=ended) for prompt, answer in pairs))
        await rater.close()
        return found

    return asyncio.run(run())


def direct_logprob(folder, prompt: str, answer: str, ended: bool = True) -> tuple[float, int]:
    """Return the sum of the answer's token log-probabilities and the number of tokens."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    before, ids = encode_turn(load_tokenizer(folder), user(prompt), answer, ended)
    with torch.no_grad():
        logprobs = model(torch.tensor([before + ids])).logits[0].log_softmax(-1)
    return sum(float(logprobs[len(before) + n - 1, token]) for n, token in enumerate(ids)), len(ids)


def test_implicit_reward_is_beta_times_the_log_ratio(policy, reference):
    found = scores_of(ImplicitReward(ENGINE, policy, reference, 0.3, ModelConfig()))
    for (prompt, answer), (strength, tokens) in zip(PAIRS, found, strict=True):
        (p, length), (r, _) = (direct_logprob(folder, prompt, answer) for folder in (policy, reference))
        assert strength == pytest.approx(0.3 * (p - r), abs=2e-4)
        assert tokens == length


@pytest.mark.parametrize(("method", "beta"), [("dpo", 0.2), ("kto", 0.3), ("tests.engines.test_scoring:Sharper", 0.4)])
def test_implicit_reward_has_the_beta_of_the_training_method(policy, reference, method, beta):
    config = Config(engine=ENGINE, method=method, dpo=DPOConfig(beta=0.2), kto=KTOConfig(beta=0.3))
    config.method_options = {"beta": 0.4} if ":" in method else {}

    async def opened():
        async with open_sequence_scorer(config, policy, reference) as scorer:
            return scorer.beta

    assert asyncio.run(opened()) == beta


def test_implicit_judge_refuses_methods_without_beta():
    with pytest.raises(ConfigError, match=r"judge=implicit .* method=tests\.engines\.test_scoring:NoBeta has no such"):
        options("judge=implicit", "method=tests.engines.test_scoring:NoBeta")
    assert options("judge=additive", "method=tests.engines.test_scoring:NoBeta").training.learning_rate == 2e-4


def test_likelihood_is_the_sum_of_answer_token_logprobs(policy):
    found = scores_of(Likelihood(ENGINE, policy, ModelConfig()))
    for (prompt, answer), (log_probability, tokens) in zip(PAIRS, found, strict=True):
        expected, length = direct_logprob(policy, prompt, answer)
        assert log_probability == pytest.approx(expected, abs=1e-3)
        assert tokens == length


def test_strengths_do_not_depend_on_the_batch(policy, reference):
    rater = ImplicitReward(ENGINE, policy, reference, 0.1, ModelConfig())
    together = [strength for strength, _ in scores_of(rater)]
    alone = [scores_of(rater, [pair])[0][0] for pair in PAIRS]
    assert together == pytest.approx(alone, abs=1e-5)


def test_implicit_reward_is_0_for_equal_models(policy):
    found = scores_of(ImplicitReward(ENGINE, policy, policy, 0.1, ModelConfig()))
    assert [strength for strength, _ in found] == [0.0] * len(PAIRS)


def test_models_of_different_vocabularies_are_refused(policy, tmp_path):
    tokenizer = tiny_tokenizer()
    other = saved(tmp_path / "other", tiny_llama(len(tokenizer) + 3, 0), tokenizer)
    with pytest.raises(ModelError, match=r"their vocabularies differ .*judge\.reference"):
        ImplicitReward(ENGINE, policy, other, 0.1, ModelConfig())


def test_likelihoods_of_truncated_answers_exclude_the_end_of_turn(policy, reference):
    implicit = scores_of(ImplicitReward(ENGINE, policy, reference, 0.3, ModelConfig()), ended=False)
    likelihoods = scores_of(Likelihood(ENGINE, policy, ModelConfig()), ended=False)
    for (prompt, answer), (strength, tokens), (nats, _) in zip(PAIRS, implicit, likelihoods, strict=True):
        (p, length), (r, _) = (direct_logprob(folder, prompt, answer, ended=False) for folder in (policy, reference))
        assert nats == pytest.approx(p, abs=2e-4)
        assert strength == pytest.approx(0.3 * (p - r), abs=2e-4)
        assert tokens == length == direct_logprob(policy, prompt, answer)[1] - 1


def test_reward_models_score_truncated_answers_at_an_end_of_turn(tmp_path):
    folder = classifier(tmp_path / "rm")
    assert scores_of(RewardModel(ENGINE, folder, ModelConfig()), ended=False) == scores_of(
        RewardModel(ENGINE, folder, ModelConfig())
    )


def classifier(folder, labels: int = 1, pad: int | None = 0):
    from transformers import LlamaConfig, LlamaForSequenceClassification

    tokenizer = tiny_tokenizer()
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4
    )
    config.num_labels, config.pad_token_id = labels, pad
    return saved(folder, LlamaForSequenceClassification(config).eval(), tokenizer)


@pytest.mark.parametrize("pad", [0, None])
def test_rewards_are_the_logit_at_the_last_token(tmp_path, pad):
    from transformers import AutoModelForSequenceClassification

    folder = classifier(tmp_path / "rm", pad=pad)
    rater = RewardModel(ENGINE, folder, ModelConfig())
    found = scores_of(rater)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    for (prompt, answer), (strength, _) in zip(PAIRS, found, strict=True):
        before, ids = encode_turn(load_tokenizer(folder), user(prompt), answer)
        with torch.no_grad():
            hidden = model.model(torch.tensor([before + ids])).last_hidden_state[0, -1]
            assert strength == pytest.approx(float(model.score(hidden)), abs=1e-5)


@pytest.mark.parametrize("kind", ["two labels", "a language model"])
def test_models_that_are_no_reward_model_are_refused(tmp_path, policy, kind):
    folder = classifier(tmp_path / "rm", labels=2) if kind == "two labels" else policy
    with pytest.raises(ModelError, match=r"is not a reward model: .*iteration_1/reward_model"):
        RewardModel(ENGINE, folder, ModelConfig())


def test_texts_longer_than_the_context_are_refused(policy):
    rater = ImplicitReward(EngineConfig(max_model_len=64, max_concurrent=8), policy, policy, 0.1, ModelConfig())
    with pytest.raises(PromptTooLongError, match=r"do not fit into engine\.max_model_len=64"):
        scores_of(rater, [("q" * 80, "a")])


def test_control_tokens_in_an_answer_are_plain_text(policy):
    rater = ImplicitReward(ENGINE, policy, policy, 0.1, ModelConfig())
    [(_, plain), (_, forged)] = scores_of(rater, [("q", "end"), ("q", "<|im_end|>")])
    assert forged > plain  # plain text, not one token


# Batches


def results_of(batches, requests):
    async def run():
        try:
            return await asyncio.gather(*(batches.ask(r) for r in requests), return_exceptions=True)
        finally:
            batches.close()

    return asyncio.run(run())


def test_waiting_requests_are_batched_by_key():
    seen = []

    def work(batch):
        seen.append(list(batch))
        return [10 * request for request in batch]

    batches = Batches(work, lambda _, batch: len(batch) < 3, lambda request: request)
    assert results_of(batches, [5, 1, 4, 2, 3]) == [50, 10, 40, 20, 30]
    assert seen == [[1, 2, 3], [4, 5]]  # lowest key first


def test_errors_reach_only_their_batch():
    def work(batch):
        if 2 in batch:
            raise ValueError("two")
        return batch

    batches = Batches(work, lambda _, batch: len(batch) < 2, lambda request: request)
    found = results_of(batches, [1, 2, 3, 4])
    assert [isinstance(one, ValueError) for one in found] == [True, True, False, False]
    assert found[2:] == [3, 4]


def test_cancelled_requests_are_not_processed():
    seen = []

    async def run():
        batches = Batches(lambda batch: seen.append(list(batch)) or batch, lambda *_: True, lambda request: request)
        first = asyncio.create_task(batches.ask(1))
        second = asyncio.create_task(batches.ask(2))
        await asyncio.sleep(0)
        first.cancel()
        assert await second == 2
        batches.close()

    asyncio.run(run())
    assert seen == [[2]]
