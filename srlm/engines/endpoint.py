"""Any OpenAI-compatible server as the engine: a fixed prompt writer or a fixed judge, never the model in training."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from srlm.chat import Message
from srlm.config import EndpointConfig
from srlm.engines.base import Completion, Sampling, Usage
from srlm.engines.paid import AnswerCache, Ledger
from srlm.errors import EngineError
from srlm.models import cache_folder
from srlm.progress import say

_TOP = 20  # the most likely tokens that servers tell of each place


class EndpointEngine:
    """Chat completions over HTTP; the key comes from the environment alone and is never logged.

    Parameters
    ----------
    ledger : Path
        The run's expenses are appended to it.
    """

    def __init__(self, config: EndpointConfig, ledger: Path):
        from openai import AsyncOpenAI

        self.config = config
        # A local server wants no key, but the client insists on one.
        key = os.environ.get(config.api_key_env) or "none"
        self._client = AsyncOpenAI(
            base_url=config.base_url, api_key=key, timeout=config.timeout_s, max_retries=config.retries
        )
        self._free = asyncio.Semaphore(config.max_concurrent)
        self._next = 0.0  # when the next request may go out, by the monotonic clock
        self.ledger = Ledger(ledger, config)
        self.usage = Usage()
        self._cache = AnswerCache(cache_folder() / "endpoint_answers.sqlite3") if config.cache else None

    async def generate(self, messages: Sequence[Message], sampling: Sampling, prefill: str = "") -> list[Completion]:
        """As `Engine.generate`.

        A server that cannot go on with a begun reply (`endpoint.prefill`) is asked for the whole of it, as the
        templates say it in words. `sampling.choices` are not forced: they are looked for in the reply, where
        `choice_at` says, and their probabilities are read there if the server tells them.
        """
        request: dict[str, Any] = {
            "model": self.config.model,
            "messages": list(messages),
            "n": sampling.n,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_new_tokens,
            "seed": sampling.seed,
            "stop": list(sampling.stop) or None,
        }
        continued = bool(prefill) and self.config.prefill
        if continued:
            request["messages"] = [*messages, {"role": "assistant", "content": prefill}]
            request["extra_body"] = {"continue_final_message": True, "add_generation_prompt": False}
        if sampling.choices:
            request["max_tokens"] = sampling.max_new_tokens if continued else max(sampling.max_new_tokens, 16)
            if self.config.logprobs:
                request |= {"logprobs": True, "top_logprobs": _TOP}
        answer = await self._answer(request)
        used = answer.get("usage") or {}
        replies = answer["choices"]
        each = round((used.get("completion_tokens") or 0) / max(len(replies), 1))
        prompt_tokens = used.get("prompt_tokens") or 0
        return [
            self._completion(reply, sampling, "" if continued else prefill, each, prompt_tokens) for reply in replies
        ]

    def _completion(
        self, reply: dict[str, Any], sampling: Sampling, prefill: str, tokens: int, prompt_tokens: int
    ) -> Completion:
        # JSON can hold half a character, which no file can.
        text = (reply["message"].get("content") or "").encode("utf-8", "replace").decode("utf-8")
        logprobs: tuple[float, ...] = ()
        places = (reply.get("logprobs") or {}).get("content") or []
        if sampling.choices and places:
            place = choice_at([place["token"] for place in places], sampling.choices, prefill)
            logprobs = (-float("inf"),) * len(sampling.choices)
            if place is not None:
                text = places[place]["token"]
                logprobs = choice_logprobs(places[place]["top_logprobs"], sampling.choices)
        return Completion(text, tokens, reply.get("finish_reason") == "length", prompt_tokens, logprobs)

    async def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """The server's answer as JSON, or the one it gave to the same request before."""
        key = AnswerCache.key(self.config.base_url, request)
        known = self._cache.get(key) if self._cache else None
        if known is not None:
            self._count(known, from_cache=True)
            return known
        import openai

        try:
            async with self._free:
                await self._pace()
                self.ledger.check()
                completion: Any = await self._client.chat.completions.create(**request)
        except openai.OpenAIError as error:
            raise EngineError(
                f"The server at {self.config.base_url} did not answer for model {self.config.model!r} "
                f"({type(error).__name__}: {str(error)[:300]}). Check endpoint.base_url, endpoint.model and that the "
                f"key is in the environment variable {self.config.api_key_env}."
            ) from error
        answer: dict[str, Any] = completion.model_dump(mode="json", include={"choices", "usage"})
        self._count(answer, from_cache=False)
        if self._cache:
            self._cache.put(key, answer)
        return answer

    async def _pace(self) -> None:
        """Wait for this request's turn under `endpoint.requests_per_minute`."""
        if self.config.requests_per_minute:
            now = time.monotonic()
            turn = max(now, self._next)
            self._next = turn + 60 / self.config.requests_per_minute
            await asyncio.sleep(turn - now)

    def _count(self, answer: dict[str, Any], from_cache: bool) -> None:
        used = answer.get("usage") or {}
        details = used.get("prompt_tokens_details") or {}
        prompt, cached = used.get("prompt_tokens") or 0, details.get("cached_tokens") or 0
        self.ledger.add(prompt, cached, used.get("completion_tokens") or 0, from_cache)
        if not from_cache:
            self.usage.add(prompt, cached)

    async def close(self) -> None:
        await self._client.close()
        if self._cache:
            self._cache.close()
        if self.ledger.rows:
            say(f"  {self.ledger.summary()}")


def choice_at(tokens: Sequence[str], choices: Sequence[str], after: str) -> int | None:
    """Where a reply makes its choice: the first token that is one of `choices`, spaces aside, behind `after`.

    Parameters
    ----------
    tokens : sequence of str
        The reply, token by token.
    after : str
        What stands before a choice, such as "Score:"; its last occurrence counts, and where it is not there at all, the
        reply's beginning.

    Returns
    -------
    A place in `tokens`; None where no choice is made.
    """
    wanted = {choice.strip() for choice in choices}
    marker = after.strip()
    found = "".join(tokens).rfind(marker) if marker else -1
    start = found + len(marker) if found >= 0 else 0
    end = 0
    for place, token in enumerate(tokens):
        end += len(token)
        if end > start and token.strip() in wanted:
            return place
    return None


def choice_logprobs(top: Sequence[dict[str, Any]], choices: Sequence[str]) -> tuple[float, ...]:
    """Log-probability of each choice among the most likely tokens of one place; the likeliest spelling counts.

    A choice that is not among them is less likely than all of them, and gets minus infinity.
    """
    found = [-float("inf")] * len(choices)
    for place, choice in enumerate(choices):
        spellings = [float(one["logprob"]) for one in top if one["token"].strip() == choice.strip()]
        found[place] = max(spellings, default=-float("inf"))
    return tuple(found)
