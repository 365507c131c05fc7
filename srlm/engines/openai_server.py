"""The engine for an OpenAI-compatible server: an external prompt generator or judge, never the trained model."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

from srlm.engines.base import Completion, Place, Sampling, Usage, gather_or_cancel, split_thought
from srlm.engines.config import EndpointConfig
from srlm.engines.cost import AnswerCache, CostLedger
from srlm.engines.responses import BadResponseError, is_cut_off, parse_response
from srlm.engines.server import Server
from srlm.io.progress import say
from srlm.models.chat import Message, ThoughtMarks
from srlm.models.resolve import cache_folder

_TEMPLATE_VARIABLES = "chat_template_kwargs"  # the field of vLLM and llama.cpp
_TOP = 20  # most likely tokens requested for each position


class EndpointEngine:
    """Chat completions over HTTP. The key is read from the environment only and never logged.

    Only complete, valid responses are cached. They are checked again when they are read (`srlm.engines.responses`).

    Parameters
    ----------
    ledger : Path
        The file that the run's expenses are appended to.
    thoughts : ThoughtMarks, optional
        A server counts the tokens of thought and answer together: it gets the sum of both limits.
    variables : mapping, optional
        Variables for the server's chat template, sent with each request as chat_template_kwargs.
    """

    def __init__(
        self,
        config: EndpointConfig,
        ledger: Path,
        thoughts: ThoughtMarks | None = None,
        variables: Mapping[str, Any] | None = None,
    ):
        self.config, self._thoughts, self._variables = config, thoughts or ThoughtMarks(), dict(variables or {})
        self.ledger = CostLedger(ledger, config)
        self.usage = Usage()
        self._server = Server(config, self.ledger, self.usage)
        self._cache = AnswerCache(cache_folder() / "endpoint_answers.sqlite3") if config.cache else None
        self._one_by_one = False  # whether the server has given fewer answers than were requested at once

    async def generate(self, messages: Sequence[Message], sampling: Sampling, prefill: str = "") -> list[Completion]:
        """Return completions, as `Engine.generate` does.

        A server that cannot continue a prefilled reply (`endpoint.prefill`) generates the whole reply, whose form the
        templates describe in words. `sampling.choices` are not forced: `choice_at` finds the reply's choice, and the
        probabilities are read there if the server reports them.
        """
        request: dict[str, Any] = {
            "model": self.config.model,
            "messages": list(messages),
            "n": sampling.n,
            "temperature": sampling.temperature if self.config.temperature is None else self.config.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_new_tokens,
            "seed": sampling.seed,
            "stop": list(sampling.stop) or None,
        }
        if not (prefill or sampling.choices):
            request["max_tokens"] += self._thoughts.budget
        if self.config.extra:
            request["extra_body"] = dict(self.config.extra)
        if self._variables:
            own = self.config.extra.get(_TEMPLATE_VARIABLES) or {}
            request.setdefault("extra_body", {})[_TEMPLATE_VARIABLES] = self._variables | own
        continued = bool(prefill) and self.config.prefill
        if continued:
            request["messages"] = [*messages, {"role": "assistant", "content": prefill}]
            request.setdefault("extra_body", {}).update(continue_final_message=True, add_generation_prompt=False)
        if sampling.choices:
            # A continued reply may begin with a space, as a token of its own.
            request["max_tokens"] = max(sampling.max_new_tokens, 3 if continued else 16)
        if (sampling.choices or sampling.likely_tokens) and self.config.logprobs:
            request |= {"logprobs": True, "top_logprobs": _TOP}
        answer = await self._answer(request)
        used, replies = answer["usage"], answer["choices"]
        each = round(used["completion_tokens"] / len(replies))
        read = partial(self._completion, sampling=sampling, prefill=prefill, continued=continued, tokens=each)
        completions = [read(reply, prompt_tokens=used["prompt_tokens"]) for reply in replies]
        if prefill or sampling.choices:
            return completions
        return [one if one.thought else split_thought(one, self._thoughts) for one in completions]

    def _completion(
        self,
        reply: dict[str, Any],
        sampling: Sampling,
        prefill: str,
        continued: bool,
        tokens: int,
        prompt_tokens: int,
    ) -> Completion:
        text = _writable(reply["message"]["content"])
        thought = self._thought(_writable(reply["message"].get("reasoning", "")), text)
        cut = min((at for stop in sampling.stop if (at := text.find(stop)) >= 0), default=None)
        text = text if cut is None else text[:cut]  # not every server obeys `stop`
        logprobs: tuple[float, ...] = ()
        places = (reply.get("logprobs") or {}).get("content") or []
        if thought:
            places = _after_thought(places, text)
        if sampling.choices and places:
            reply_tokens = [place["token"] for place in places]
            place = choice_at(reply_tokens, sampling, prefill, continued, is_cut_off(reply))
            logprobs = (-float("inf"),) * len(sampling.choices)
            if place is not None:
                text = places[place]["token"]
                logprobs = choice_logprobs(places[place]["top_logprobs"], sampling.choices, text)
        elif sampling.choices and continued and choice_at([text], sampling, prefill, continued) == 0:
            text = text.strip()[:1]
        likely = tuple(
            Place(place["token"], {top["token"]: top["logprob"] for top in place["top_logprobs"]})
            for place in (places if sampling.likely_tokens else [])
        )
        if thought and likely:
            likely = (Place(thought, {}), *likely)  # `places` cover the thought as well
        return Completion(text, tokens, is_cut_off(reply) and cut is None, prompt_tokens, logprobs, likely, thought)

    def _thought(self, reasoning: str, answer: str) -> str:
        """Return the reasoning that a server returns apart from the answer, as a local engine's thought."""
        if not reasoning:
            return ""
        marks = self._thoughts
        return f"{marks.start}{reasoning}{marks.end}\n\n" if answer else f"{marks.start}{reasoning}"

    async def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return a response with as many choices as the request's `n`, from the cache if possible.

        If the server returns fewer, the others are requested one by one: number i with the request's seed plus i, as
        local engines sample it.
        """
        n = request["n"]
        known = self._known(request)
        if known is not None:
            used = known["usage"]
            self.ledger.add(used["prompt_tokens"], used["cached_tokens"], used["completion_tokens"], from_cache=True)
            return known
        parts: list[dict[str, Any]] = []
        if n == 1 or not self._one_by_one:
            response = await self._server.ask(request)
            found = _split(response)[:n]
            if len(found) == n:
                whole = response if len(response["choices"]) == n else _joined(found)
                self._keep(request, whole)
                return whole
            if not self._one_by_one:
                self._one_by_one = True
                say(
                    f"  {self.config.model} returned {len(found)} of n={n} answers. From now on answers to the same "
                    "prompt are requested one by one, which costs the prompt's tokens each time."
                )
            for place, part in enumerate(found):
                self._keep(_single(request, place), part)
            parts = found
        rest = (self._answer(_single(request, place)) for place in range(len(parts), n))
        return _joined([*parts, *await gather_or_cancel(rest)])

    def _known(self, request: dict[str, Any]) -> dict[str, Any] | None:
        """Return the cached response to a request; None if there is none that is valid and complete."""
        row = self._cache.get(AnswerCache.key(self.config.base_url, request)) if self._cache else None
        try:
            answer = parse_response(row) if row is not None else None
        except BadResponseError:
            return None
        return answer if answer and len(answer["choices"]) == request["n"] else None

    def _keep(self, request: dict[str, Any], answer: dict[str, Any]) -> None:
        if self._cache:
            self._cache.put(AnswerCache.key(self.config.base_url, request), answer)

    async def close(self) -> None:
        await self._server.close()
        if self._cache:
            self._cache.close()
        if self.ledger.rows:
            say(f"  {self.ledger.summary()}")


def _writable(text: str) -> str:
    """Return a text without unpaired surrogates, which JSON can contain and files cannot."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _after_thought(places: list[dict[str, Any]], answer: str) -> list[dict[str, Any]]:
    """Return the positions of the answer; some servers list those of the reasoning before them. [] if not found."""
    tokens = [place["token"] for place in places]
    start = "".join(tokens).rfind(answer)
    return [] if start < 0 else places[bisect(list(accumulate(map(len, tokens))), start) :]


def _single(request: dict[str, Any], place: int) -> dict[str, Any]:
    """Return the request for only one of the answers that `request` asks for, number `place`."""
    return {**request, "n": 1, "seed": (request["seed"] + place) % 2**31}


def _split(response: dict[str, Any]) -> list[dict[str, Any]]:
    """Return one response for each choice. Each counts the prompt and an equal share of the completion tokens."""
    choices, usage = response["choices"], response["usage"]
    each = usage | {"completion_tokens": round(usage["completion_tokens"] / len(choices))}
    return [{"choices": [choice], "usage": each} for choice in choices]


def _joined(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Merge responses to the same prompt into one that counts the prompt once, as a server that supports `n` does."""
    usage = parts[0]["usage"] | {"completion_tokens": sum(part["usage"]["completion_tokens"] for part in parts)}
    return {"choices": [choice for part in parts for choice in part["choices"]], "usage": usage}


def choice_at(
    tokens: Sequence[str], sampling: Sampling, prefill: str, continued: bool = False, truncated: bool = False
) -> int | None:
    """Return the index of the token with a reply's choice; None without one.

    Parameters
    ----------
    tokens : sequence of str
        The reply, token by token.
    sampling : Sampling
        Has the `choices`, and `find_choice`, which finds the choice in a longer reply.
    prefill : str
        The text before a choice, such as "Score:".
    continued : bool
        Whether the server continued `prefill`, so that the reply begins with the choice.
    truncated : bool
        Whether the reply hit the token limit.
    """
    reply = "".join(tokens)
    if continued or sampling.find_choice is None:
        at = len(reply) - len(reply.lstrip())
        names = [choice.strip() for choice in sampling.choices]
        found = at if reply[at : at + 1] in names and not reply[at + 1 : at + 2].isalnum() else None
    else:
        found = sampling.find_choice(reply, prefill, truncated)
    return None if found is None else bisect(list(accumulate(map(len, tokens))), found)


def choice_logprobs(top: Sequence[dict[str, Any]], choices: Sequence[str], written: str = "") -> tuple[float, ...]:
    """Return the log-probability of each choice among the most likely tokens of one position, ignoring spaces.

    A choice that is not among them gets minus infinity, because it is less likely than all of them.

    Parameters
    ----------
    written : str
        The token of the reply's choice, which may include punctuation, such as "A."; "" = the choice alone.
    """
    names = [choice.strip() for choice in choices]
    own = next((name for name in names if name in written), "")
    found = []
    for name in names:
        spelt = written.strip().replace(own, name, 1) if own else name
        found.append(max((one["logprob"] for one in top if one["token"].strip() == spelt), default=-float("inf")))
    return tuple(found)
