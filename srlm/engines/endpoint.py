"""Any OpenAI-compatible server as the engine: a fixed prompt writer or a fixed judge, never the model in training."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import Any

from srlm.config import EndpointConfig
from srlm.engines.base import Completion, Sampling
from srlm.errors import EngineError
from srlm.models import Message


class EndpointEngine:
    """Chat completions over HTTP; the key comes from the environment alone and is never logged."""

    def __init__(self, config: EndpointConfig):
        from openai import AsyncOpenAI

        self.config = config
        # A local server wants no key, but the client insists on one.
        key = os.environ.get(config.api_key_env) or "none"
        self._client = AsyncOpenAI(
            base_url=config.base_url, api_key=key, timeout=config.timeout_s, max_retries=config.retries
        )
        self._free = asyncio.Semaphore(config.max_concurrent)

    async def generate(self, messages: Sequence[Message], sampling: Sampling, prefill: str = "") -> list[Completion]:
        """As `Engine.generate`. A server has no way to force a prefill or choices: they are asked for in words by the
        templates, and the caller parses what comes."""
        import openai

        request: Any = {
            "model": self.config.model,
            "messages": list(messages),
            "n": sampling.n,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": max(sampling.max_new_tokens, 16) if sampling.choices else sampling.max_new_tokens,
            "seed": sampling.seed,
            "stop": list(sampling.stop) or None,
        }
        try:
            async with self._free:
                answer = await self._client.chat.completions.create(**request)
        except openai.OpenAIError as error:
            raise EngineError(
                f"The server at {self.config.base_url} did not answer for model {self.config.model!r} "
                f"({type(error).__name__}: {str(error)[:300]}). Check endpoint.base_url, endpoint.model and that the "
                "key is in "
                f"the environment variable {self.config.api_key_env}."
            ) from error
        used = answer.usage
        each = round(used.completion_tokens / len(answer.choices)) if used else 0
        return [
            Completion(
                # JSON can hold half a character, which no file can.
                text=(choice.message.content or "").encode("utf-8", "replace").decode("utf-8"),
                tokens=each,
                truncated=choice.finish_reason == "length",
                prompt_tokens=used.prompt_tokens if used else 0,
            )
            for choice in answer.choices
        ]

    async def close(self) -> None:
        await self._client.close()
