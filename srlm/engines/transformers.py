"""The engine for transformers' `generate`, for machines without vLLM.

Waiting requests form a left-padded batch. Each row is sampled with a separate generator, seeded by its request, so
that a text does not depend on its batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteriaList,
    StopStringCriteria,
)

from srlm.engines.base import Completion, Sampling, Usage, check_length, cut_to_limits, encode_request, with_thought
from srlm.engines.batching import Batches
from srlm.engines.config import EngineConfig
from srlm.models.chat import Message, thought_marks
from srlm.models.chat_template import load_tokenizer, stop_token_ids
from srlm.models.config import ModelConfig
from srlm.ranges import resolved


@dataclass
class _Request:
    ids: list[int]
    sampling: Sampling
    allowed: list[int]


class SeededSampling(LogitsProcessor):
    """Sample one token per row with temperature and top-p, and mask all others, so that greedy decoding selects it.

    Parameters
    ----------
    rows : sequence of (Sampling, allowed token ids, torch.Generator)
        One entry for each row of the batch.
    """

    def __init__(self, rows: Sequence[tuple[Sampling, list[int], torch.Generator]]):
        self.rows = rows
        self.choice_logprobs: dict[int, tuple[float, ...]] = {}  # row -> of its allowed tokens, at the first step

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return scores of shape (batch, vocabulary): 0 for the sampled token, -inf for the others."""
        picked = torch.full_like(scores, float("-inf"))
        for row, (sampling, allowed, generator) in enumerate(self.rows):
            logits = scores[row].float()
            if allowed:
                logprobs = torch.log_softmax(logits, dim=-1)[allowed].tolist()
                self.choice_logprobs.setdefault(row, tuple(logprobs))
                masked = torch.full_like(logits, float("-inf"))
                masked[allowed] = logits[allowed]
                logits = masked
            picked[row, draw(logits, sampling.temperature, sampling.top_p, generator)] = 0.0
        return picked


def draw(logits: torch.Tensor, temperature: float, top_p: float, generator: torch.Generator) -> int:
    """Sample a token from (vocabulary,) logits: greedily at temperature 0, else by nucleus (arXiv 1904.09751)."""
    if temperature == 0:
        return int(logits.argmax())
    probabilities, order = torch.softmax(logits / temperature, dim=-1).cpu().sort(descending=True)
    before = probabilities.cumsum(0) - probabilities
    probabilities[before >= top_p] = 0.0  # the most likely token always stays
    return int(order[torch.multinomial(probabilities, 1, generator=generator)])


class TransformersEngine:
    """Run `model.generate` on batches; see `srlm.engines.base.Engine`."""

    def __init__(self, config: EngineConfig, model: Path, options: ModelConfig):
        on_gpu = torch.cuda.is_available()
        if config.threads:
            torch.set_num_threads(config.threads)
        dtype = ("bfloat16" if on_gpu else "float32") if config.dtype == "auto" else config.dtype
        self.max_model_len, self.max_concurrent = resolved(config.max_model_len), resolved(config.max_concurrent)
        self.tokenizer: Any = load_tokenizer(model, options)
        self.tokenizer.padding_side = "left"
        self.model = AutoModelForCausalLM.from_pretrained(
            model,
            dtype=getattr(torch, dtype),
            device_map="cuda" if on_gpu else None,
            trust_remote_code=options.trust_remote_code,
            use_safetensors=True,
            **config.extra,
        ).eval()
        self.model.generation_config = GenerationConfig()  # ignore the checkpoint's, such as a repetition penalty
        self._end = set(stop_token_ids(self.tokenizer, model))
        self._thoughts = thought_marks(self.tokenizer, options)
        self.usage = Usage()
        self._batches = Batches(self._complete, self._fits, lambda request: request.sampling.priority)

    async def generate(self, messages: Sequence[Message], sampling: Sampling, prefill: str = "") -> list[Completion]:
        ids, allowed = encode_request(self.tokenizer, messages, prefill, sampling)
        thinks = not (prefill or allowed)
        longest = with_thought(sampling, self._thoughts) if thinks else sampling
        check_length(ids, longest, self.max_model_len)
        self.usage.add(len(ids), 0)  # there is no prefix cache
        found = await self._batches.ask(_Request(ids, longest, allowed))
        if not thinks:
            return [completion for completion, _ in found]
        return [
            cut_to_limits(completion, tokens, self._decode, sampling, self._thoughts) for completion, tokens in found
        ]

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    def _fits(self, request: _Request, batch: list[_Request]) -> bool:
        return _batch_together(request, batch[0]) and _rows(batch) < self.max_concurrent

    @torch.inference_mode()
    def _complete(self, batch: list[_Request]) -> list[list[tuple[Completion, list[int]]]]:
        rows = [(request, i) for request in batch for i in range(request.sampling.n)]
        inputs = self.tokenizer.pad({"input_ids": [request.ids for request, _ in rows]}, return_tensors="pt")
        inputs = inputs.to(self.model.device)
        generators = [torch.Generator().manual_seed(request.sampling.seed + i) for request, i in rows]
        sampling = SeededSampling(
            [(request.sampling, request.allowed, g) for (request, _), g in zip(rows, generators, strict=True)]
        )
        limits = [1 if request.allowed else request.sampling.max_new_tokens for request, _ in rows]
        stops = batch[0].sampling.stop  # the same for the whole batch, see _batch_together
        output = self.model.generate(
            **inputs,
            do_sample=False,
            max_new_tokens=max(limits),
            logits_processor=LogitsProcessorList([sampling]),
            stopping_criteria=StoppingCriteriaList([StopStringCriteria(self.tokenizer, list(stops))] if stops else []),
            pad_token_id=self.tokenizer.pad_token_id,
            eos_token_id=sorted(self._end),
        )
        results: dict[int, list[tuple[Completion, list[int]]]] = {id(request): [] for request in batch}
        width = inputs["input_ids"].shape[1]
        for row, ids in enumerate(output[:, width:].tolist()):
            request, limit = rows[row][0], limits[row]
            choices = sampling.choice_logprobs.get(row, ())
            results[id(request)].append(self._completion(request, ids[:limit], limit, choices))
        return [results[id(request)] for request in batch]

    def _completion(
        self, request: _Request, ids: list[int], limit: int, choice_logprobs: tuple[float, ...]
    ) -> tuple[Completion, list[int]]:
        """Return a completion, and its token ids up to its end."""
        end = next((i for i, token in enumerate(ids) if token in self._end), None)
        kept = ids if end is None else ids[:end]
        text = self._decode(kept)
        cut = min((at for stop in request.sampling.stop if (at := text.find(stop)) >= 0), default=None)
        completion = Completion(
            text=text if cut is None else text[:cut],
            tokens=len(kept) + (end is not None),
            truncated=end is None and cut is None and len(ids) == limit and not request.allowed,
            prompt_tokens=len(request.ids),
            choice_logprobs=choice_logprobs,
        )
        return completion, kept if end is None else ids[: end + 1]

    async def close(self) -> None:
        self._batches.close()


def _rows(batch: list[_Request]) -> int:
    return sum(request.sampling.n for request in batch)


def _batch_together(one: _Request, other: _Request) -> bool:
    """Return whether two requests can be in one batch: equal stop strings, and token limits within a factor of 2."""
    limits = sorted((one.sampling.max_new_tokens, other.sampling.max_new_tokens))
    return one.sampling.stop == other.sampling.stop and limits[1] <= 2 * limits[0]
