"""Sequence scorers: log-likelihoods of a model, implicit rewards of two models, and reward models.

They return a **strength** (see `srlm.judges.bradley_terry`) for each answer. Prompt and answer are encoded as in DPO,
end of turn included, so that the implicit reward is the quantity that DPO trains.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from srlm.engines.base import Usage
from srlm.engines.batching import Batches
from srlm.engines.config import EngineConfig
from srlm.errors import ModelError, PromptTooLongError
from srlm.models.chat import encode_turn
from srlm.models.chat_template import load_tokenizer
from srlm.models.config import ModelConfig
from srlm.models.conversation import messages_of
from srlm.ranges import resolved
from srlm.types import Conversation

_TOKENS = 4096  # padded tokens in a batch; logits over a large vocabulary need most of the memory

Row = tuple[list[int], list[int], int]  # token ids of prompt and answer, priority


class _Scorer:
    """The common part of scorers: encoding, batches and padding; see `srlm.engines.base.SequenceScorer`."""

    reads_end = False  # whether the score is read at the end of turn, so that a truncated answer needs one, too

    def __init__(self, config: EngineConfig, model: Path, options: ModelConfig):
        if config.threads:
            torch.set_num_threads(config.threads)
        self.max_model_len, self.max_concurrent = resolved(config.max_model_len), resolved(config.max_concurrent)
        self.tokenizer: Any = load_tokenizer(model, options)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.usage = Usage()
        self._batches = Batches(self._scores, self._fits, lambda row: row[2])

    async def score(
        self, prompt: Conversation, answer: str, priority: int = 0, ended: bool = True
    ) -> tuple[float, int]:
        ended = ended or self.reads_end
        prompt_ids, answer_ids = encode_turn(self.tokenizer, messages_of(prompt), answer, ended)
        if len(prompt_ids) + len(answer_ids) > self.max_model_len:
            raise PromptTooLongError(
                f"a prompt and answer of {len(prompt_ids) + len(answer_ids)} tokens do not fit into "
                f"engine.max_model_len={self.max_model_len}"
            )
        self.usage.add(len(prompt_ids) + len(answer_ids), 0)
        return await self._batches.ask((prompt_ids, answer_ids, priority)), len(answer_ids)

    async def close(self) -> None:
        self._batches.close()

    def _fits(self, row: Row, batch: list[Row]) -> bool:
        lengths = [len(prompt) + len(answer) for prompt, answer, _ in [*batch, row]]
        return (
            len(lengths) <= self.max_concurrent
            and max(lengths) * len(lengths) <= _TOKENS
            and max(lengths) <= 2 * min(lengths)
        )

    def _padded(self, rows: Sequence[Row], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return right-padded token ids and their attention mask, both of shape (batch, width)."""
        width = max(len(prompt) + len(answer) for prompt, answer, _ in rows)
        ids = torch.full((len(rows), width), pad)
        mask = torch.zeros((len(rows), width), dtype=torch.long)
        for place, (prompt, answer, _) in enumerate(rows):
            ids[place, : len(prompt) + len(answer)] = torch.tensor(prompt + answer)
            mask[place, : len(prompt) + len(answer)] = 1
        return ids.to(self.device), mask.to(self.device)

    def _scores(self, rows: list[Row]) -> list[float]:
        raise NotImplementedError


class _Likelihoods(_Scorer):
    """The common part of scorers by likelihood."""

    def _load(self, config: EngineConfig, folder: Path, options: ModelConfig) -> Any:
        """Return a causal model, in float32 if `engine.dtype` is auto."""
        dtype = torch.float32 if config.dtype == "auto" else getattr(torch, config.dtype)
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, trust_remote_code=options.trust_remote_code, use_safetensors=True
        )
        return model.to(self.device).eval()

    @torch.inference_mode()
    def _log_probabilities(self, model: Any, rows: list[Row]) -> list[float]:
        """Return log pi(answer | prompt) of each row, in nats."""
        ids, mask = self._padded(rows, 0)
        first = min(len(prompt) for prompt, _, _ in rows)  # earliest answer token; its logits are one before
        kept = ids.shape[1] - first + 1
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False, logits_to_keep=kept).logits
        totals = []
        # Row by row, because float32 copies of the whole batch's logits would need the most memory of all.
        for row, (prompt, answer, _) in enumerate(rows):
            begin, end = len(prompt) - first, len(prompt) - first + len(answer)
            targets = ids[row, first + begin : first + end]
            totals.append(-float(cross_entropy(logits[row, begin:end].float(), targets, reduction="sum")))
        return totals


class Likelihood(_Likelihoods):
    """log pi(answer | prompt), summed over the answer's tokens, in nats."""

    def __init__(self, config: EngineConfig, model: Path, options: ModelConfig):
        super().__init__(config, model, options)
        self.model = self._load(config, model, options)

    def _scores(self, rows: list[Row]) -> list[float]:
        return self._log_probabilities(self.model, rows)


class ImplicitReward(_Likelihoods):
    """beta (log pi(answer | prompt) - log pi_ref(answer | prompt)), summed over the answer's tokens.

    This is the implicit reward of a DPO-trained policy, up to a term that depends on the prompt only (arXiv 2305.18290,
    equation 5). DICE uses it as a judge of new answers (arXiv 2406.09760). Both models are loaded at the same time, in
    float32 if `engine.dtype` is auto, because a small DPO step is lost in bfloat16.

    Parameters
    ----------
    policy, reference : Path
        Checkpoints of one model family; the policy's tokenizer is used for both.
    beta : float
    """

    def __init__(
        self,
        config: EngineConfig,
        policy: Path,
        reference: Path,
        beta: float,
        options: ModelConfig,
    ):
        super().__init__(config, policy, options)
        self.beta = beta
        self.models = [self._load(config, folder, options) for folder in (policy, reference)]
        sizes = [model.get_input_embeddings().num_embeddings for model in self.models]
        if sizes[0] != sizes[1]:
            raise ModelError(
                f"judge=implicit compares {policy} with {reference}, but their vocabularies differ ({sizes[0]} and "
                f"{sizes[1]} tokens). Set judge.reference to a model of the same family."
            )

    def _scores(self, rows: list[Row]) -> list[float]:
        policy, reference = (self._log_probabilities(model, rows) for model in self.models)
        return [self.beta * (p - r) for p, r in zip(policy, reference, strict=True)]


class RewardModel(_Scorer):
    """A sequence classifier with one output, its logit: the frozen judge of RLHF (arXiv 2203.02155, section 3.4).

    It was trained with the logit at the end of turn, so truncated answers are encoded with one, too.

    Raises
    ------
    ModelError
        If the checkpoint is not a sequence classifier with one label.
    """

    reads_end = True

    def __init__(self, config: EngineConfig, model: Path, options: ModelConfig):
        super().__init__(config, model, options)
        settings = AutoConfig.from_pretrained(model, trust_remote_code=options.trust_remote_code)
        classes = settings.architectures or []
        if settings.num_labels != 1 or not any(name.endswith("ForSequenceClassification") for name in classes):
            raise ModelError(
                f"{model} is not a reward model: it is {', '.join(classes) or 'of unknown class'} with "
                f"{settings.num_labels} labels, but a reward model is a sequence classifier with one label. Give the "
                "folder of one, such as a run's iteration_1/reward_model."
            )
        on_gpu = self.device == "cuda"
        dtype = ("bfloat16" if on_gpu else "float32") if config.dtype == "auto" else config.dtype
        self.model = (
            AutoModelForSequenceClassification.from_pretrained(
                model, dtype=getattr(torch, dtype), trust_remote_code=options.trust_remote_code, use_safetensors=True
            )
            .to(self.device)
            .eval()
        )
        if (
            self.model.config.get_text_config().pad_token_id is None
        ):  # the model uses it to find the last token of each row
            self.model.config.get_text_config().pad_token_id = self.tokenizer.pad_token_id

    @torch.inference_mode()
    def _scores(self, rows: list[Row]) -> list[float]:
        ids, mask = self._padded(rows, self.model.config.get_text_config().pad_token_id)
        rewards: list[float] = self.model(input_ids=ids, attention_mask=mask).logits[:, 0].float().tolist()
        return rewards
