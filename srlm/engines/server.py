"""Requests to an OpenAI-compatible server: pace, retries, refused parameters and expenses."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

import openai
from aiolimiter import AsyncLimiter

from srlm.engines.base import Usage
from srlm.engines.config import EndpointConfig
from srlm.engines.cost import CostLedger
from srlm.engines.parameters import Parameters
from srlm.engines.responses import BadResponseError, WithheldError, parse_response, read_usage, shorten
from srlm.errors import EngineError, NoAnswerError, PromptTooLongError
from srlm.io.progress import say

PAUSE = 1.0  # seconds before the first retry; doubled before each further one
LONGEST_PAUSE = 60.0  # seconds, where the server does not ask for more
LONGEST_WAIT = 600.0  # seconds that a server may ask for (Retry-After); if it asks for more, the run stops
_RETRIED = (408, 409, 425, 429)  # and all from 500
_RESUME = "Completed work is saved. Rerun the same command to resume."
_TOO_LONG = (
    "context_length_exceeded",
    "exceed_context_size",
    "maximum context length",
    "context size",
    "context window",
    "prompt is too long",
    "input token count",
    "`max_new_tokens` must be",
)


class _RetryError(Exception):
    """A request failed, and a retry may succeed.

    Parameters
    ----------
    wait : float
        The least time in seconds that the server asks to wait.
    """

    def __init__(self, reason: str, wait: float = 0.0):
        super().__init__(reason)
        self.wait = wait


class Server:
    """A client of one server and model.

    Parameters
    ----------
    ledger : CostLedger
        Every response with token counts is added, usable or not.
    usage : Usage
        Counts the same responses.
    """

    def __init__(self, config: EndpointConfig, ledger: CostLedger, usage: Usage):
        self.config, self.ledger, self.usage = config, ledger, usage
        self._key = os.environ.get(config.api_key_env, "")
        self._client = openai.AsyncOpenAI(
            base_url=config.base_url,
            api_key=self._key or "none",  # a local server needs no key, but the client does
            timeout=config.timeout_s,
            max_retries=0,
            http_client=openai.DefaultAsyncHttpxClient(follow_redirects=False),  # no other server gets the key
        )
        self._parameters = Parameters()
        self._free = asyncio.Semaphore(config.max_concurrent)
        per_minute = config.requests_per_minute
        self._pace: contextlib.AbstractAsyncContextManager[None] = (
            AsyncLimiter(1, 60 / per_minute) if per_minute else contextlib.nullcontext()
        )
        self._answered = float("-inf")  # when the last usable response came, by the monotonic clock

    async def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return a response with at least one choice, as `check_response` does.

        Failures that may pass are retried `endpoint.retries` times, with growing pauses, but not before Retry-After.

        Raises
        ------
        PromptTooLongError
            If the prompt exceeds the model's context.
        NoAnswerError
            If there is no usable response to this request, but the server answers others.
        EngineError
            If the server answers no request, or refuses this one.
        """
        started, tries, last = time.monotonic(), self.config.retries + 1, ""
        for attempt in range(tries):
            try:
                return await self._send(request)
            except _RetryError as error:
                last = str(error)
                if error.wait > LONGEST_WAIT:
                    raise EngineError(
                        f"{self} asks to wait {error.wait:.0f} seconds ({last}). Wait that long. {_RESUME}"
                    ) from error
                if attempt + 1 < tries:
                    pause = min(PAUSE * 2**attempt, LONGEST_PAUSE) * random.uniform(0.75, 1.25)
                    await asyncio.sleep(max(pause, error.wait))
        found = f"no usable response in {tries} tries" if tries > 1 else "no usable response"
        if self._answered > started or await self._works(request):
            raise NoAnswerError(f"{found} from {self.config.model}: {last}")
        raise EngineError(
            f"{self} gave {found}. The last one: {last}. Check endpoint.base_url (the address of an OpenAI-compatible "
            f"API, which often ends in /v1), endpoint.model and proxies. {_RESUME}"
        )

    async def close(self) -> None:
        await self._client.close()

    def __str__(self) -> str:
        return f"The server at {self.config.base_url} with endpoint.model={self.config.model}"

    async def _works(self, request: Mapping[str, Any]) -> bool:
        """Return whether the server answers a simple request, which means that the failed one is at fault."""
        simple = {name: request[name] for name in ("model", "temperature", "top_p", "max_tokens") if name in request}
        try:
            await self._send(simple | {"messages": [{"role": "user", "content": "Say yes."}], "n": 1})
        except (_RetryError, NoAnswerError):
            return False
        return True

    async def _send(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Send one request; repeat it without each optional parameter that the server refuses."""
        while True:
            sent = self._parameters.apply(request)
            try:
                text = await self._post(sent)
            except openai.APIStatusError as error:
                self._raise_unless_learnt(error, sent)
                continue
            except TimeoutError as error:
                raise _RetryError(f"no complete response in endpoint.timeout_s={self.config.timeout_s:g}") from error
            except openai.APIConnectionError as error:
                cause = f": {error.__cause__}" if error.__cause__ and str(error.__cause__) else ""
                raise _RetryError(self._hide(f"{type(error).__name__}: {error}{cause}")) from error
            try:
                answer = parse_response(text)
            except WithheldError as error:
                raise NoAnswerError(f"no answer from {self.config.model}: {error}") from error
            except BadResponseError as error:
                raise _RetryError(self._hide(str(error))) from error
            self._answered = time.monotonic()
            return answer

    async def _post(self, sent: Mapping[str, Any]) -> str:
        """Return the body of a response with a status below 300, and count its expenses."""
        async with self._free, self._pace:
            self.ledger.check()
            create: Any = self._client.chat.completions.with_raw_response.create
            async with asyncio.timeout(self.config.timeout_s):  # the client's own limit starts again with each byte
                response: Any = await create(**sent)
        text: str = response.text
        try:
            usage = read_usage(json.loads(text))
        except (ValueError, RecursionError):
            usage = read_usage(None)
        self.usage.add(usage["prompt_tokens"], usage["cached_tokens"])
        self.ledger.add(usage["prompt_tokens"], usage["cached_tokens"], usage["completion_tokens"], from_cache=False)
        return text

    def _raise_unless_learnt(self, error: openai.APIStatusError, sent: Mapping[str, Any]) -> None:
        """Raise the error for an HTTP status, unless the server only refuses a parameter that can be left out."""
        status, body = error.status_code, error.response.text
        message = error.body.get("message") if isinstance(error.body, dict) else None
        said = self._hide(f"HTTP {status}: {shorten(message or body)}")
        if status < 400:
            target = self._hide(error.response.headers.get("location", "nowhere"))
            raise EngineError(
                f"{self} redirects to {target}. Redirects are not followed, so that no other server gets the key. If "
                "the new address is right, set endpoint.base_url to it."
            ) from error
        if status in (401, 403):
            raise EngineError(
                f"{self} refuses access ({said}). Check the key in the environment variable {self.config.api_key_env}, "
                "and that it may use this model."
            ) from error
        if status == 404:
            raise EngineError(
                f"{self} was not found ({said}). Check endpoint.base_url (it often ends in /v1) and endpoint.model."
            ) from error
        if error.code == "insufficient_quota":
            raise EngineError(f"{self} has no quota left ({said}). Add credit. {_RESUME}") from error
        if status in _RETRIED or status >= 500:
            raise _RetryError(f"{type(error).__name__}, {said}", _retry_after(error.response.headers)) from error
        if status == 413 or any(mark in body.lower() for mark in _TOO_LONG):
            raise PromptTooLongError(f"a request does not fit into the context of {self.config.model} ({said})")
        if "content_filter" in body:
            raise NoAnswerError(f"no answer from {self.config.model}: a content filter refused the prompt ({said})")
        try:
            learnt = self._parameters.learn(sent, error.param, body)
        except EngineError as refusal:
            raise EngineError(f"{self} {refusal} ({said})") from error
        if learnt is None:
            raise EngineError(
                f"{self} answered, but refused the request ({said}). Change what it refuses, or use another model."
            ) from error
        if learnt:
            say(f"  {self.config.model} refuses a parameter ({said}). From now on {learnt}.")

    def _hide(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text


def _retry_after(headers: Mapping[str, str]) -> float:
    """Return the seconds that a Retry-After header asks for, as a number or as a date; 0 without one."""
    value = headers.get("retry-after", "")
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except (TypeError, ValueError):
            return 0.0
    return seconds if seconds > 0 else 0.0
