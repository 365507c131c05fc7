"""Validation of responses of OpenAI-compatible servers, before they are cached, counted or read.

Servers and proxies also send HTML, incomplete responses, errors with status 200, and choices that are null. All of
these occur in practice.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

_CUT = 200  # characters of a response in an error message
_LENGTH = ("length", "max_tokens", "model_length", "MAX_TOKENS")  # finish reasons for the token limit
_FAILED = ("error", "abort", "insufficient_system_resource")  # finish reasons for an incomplete text


class BadResponseError(ValueError):
    """A response cannot be used. The message says why."""


class WithheldError(BadResponseError):
    """A content filter withheld the text. A retry would give the same result."""


def parse_response(text: str) -> dict[str, Any]:
    """Return the response in a body or a cache row, as `check_response` does."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadResponseError(f"not JSON: {shorten(text)}") from error
    return check_response(data)


def check_response(data: Any) -> dict[str, Any]:
    """Return the used parts of a response, with their types checked.

    Returns
    -------
    dict
        - "choices": at least one dict with "message" {"content": str}, "finish_reason" str, and, if the server returns
          log-probabilities, "logprobs" {"content": list of {"token": str, "top_logprobs": list of {"token": str,
          "logprob": float}}}. Without another content, it is the refusal. A text that was cut off by the token limit
          may be empty, if the model spent all tokens on its reasoning. If the server returns the reasoning apart from
          the answer, it is "reasoning" of the message.
        - "usage": "prompt_tokens", "completion_tokens", "cached_tokens", each an int >= 0; 0 if it is not given.

    Raises
    ------
    WithheldError
        If a content filter withholds the text of a choice.
    BadResponseError
        If anything else is missing or of another type.
    """
    if not isinstance(data, dict):
        raise BadResponseError(f"not an object: {shorten(data)}")
    if data.get("error"):
        raise BadResponseError(f"an error: {shorten(data['error'])}")
    choices = data.get("choices")
    if not isinstance(choices, list) or not choices:
        raise BadResponseError(f"no list of choices: {shorten(data)}")
    return {"choices": [_choice(choice) for choice in choices], "usage": read_usage(data)}


def read_usage(data: Any) -> dict[str, int]:
    """Return the token counts of a response, 0 where not given. Unusable responses may have been paid for, too."""
    usage = _dict(_dict(data).get("usage"))
    details = _dict(usage.get("prompt_tokens_details"))
    return {
        "prompt_tokens": _count(usage.get("prompt_tokens")),
        "completion_tokens": _count(usage.get("completion_tokens")),
        "cached_tokens": _count(usage.get("cached_tokens", details.get("cached_tokens"))),
    }


def is_cut_off(choice: dict[str, Any]) -> bool:
    """Return whether the token limit ended a choice's text."""
    return choice["finish_reason"] in _LENGTH


def shorten(value: Any) -> str:
    """Return the beginning of a value on one line, for an error message."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=repr)
    text = re.sub(r"\s+", " ", text).strip()
    return repr(text if len(text) <= _CUT else text[:_CUT] + "...")


def _choice(choice: Any) -> dict[str, Any]:
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(message, dict):
        raise BadResponseError(f"a choice without a message: {shorten(choice)}")
    if choice.get("error"):
        raise BadResponseError(f"an error in a choice: {shorten(choice['error'])}")
    reason = choice.get("finish_reason")
    if reason == "content_filter":
        raise WithheldError("a content filter withheld the text (finish_reason=content_filter)")
    if not isinstance(reason, str) or not reason or reason in _FAILED:
        raise BadResponseError(f"finish_reason={reason!r}, so that the text may be incomplete: {shorten(choice)}")
    content, refusal = message.get("content"), message.get("refusal")
    parts = content if isinstance(content, list) else []
    if parts:
        content = _joined_texts(parts, "text")
    if content is None and isinstance(refusal, str):
        content = refusal
    if content is None and reason in _LENGTH:
        content = ""
    if not isinstance(content, str):
        raise BadResponseError(f"a message whose content is no text: {shorten(choice)}")
    fields = (message.get("reasoning_content"), message.get("reasoning"), _joined_texts(parts, "thinking"))
    reasoning = next((text for text in fields if isinstance(text, str) and text), None)
    found: dict[str, Any] = {"message": {"content": content}, "finish_reason": reason}
    if reasoning:
        found["message"]["reasoning"] = reasoning
    logprobs = _logprobs(choice.get("logprobs"))
    return found | {"logprobs": {"content": logprobs}} if logprobs is not None else found


def _joined_texts(parts: list[Any], kind: str) -> str | None:
    """Return the text of the content parts of a kind; None without one. A "thinking" part may contain text parts."""
    bodies = [part.get(kind) for part in parts if isinstance(part, dict) and part.get("type") == kind]
    texts = [_joined_texts(body, "text") if isinstance(body, list) else body for body in bodies]
    return "".join(text for text in texts if isinstance(text, str)) if texts else None


def _logprobs(value: Any) -> list[dict[str, Any]] | None:
    """Return a reply's tokens with the most likely tokens of each position; [] if none are likely, None without tokens.

    Servers write them in three forms: OpenAI's list "content", such a list without the object around it, and the
    parallel lists "tokens" and "top_logprobs" of the older completions API.
    """
    if not value:
        return None
    try:
        if isinstance(value, list):
            places = value
        elif value.get("tokens"):
            tokens = value["tokens"]
            tops = value.get("top_logprobs") or [None] * len(tokens)
            places = [
                {"token": token, "top_logprobs": top if isinstance(top, dict) else None}
                for token, top in zip(tokens, tops, strict=True)
            ]
        else:
            places = value.get("content")
        if not places:
            return None
        found = [
            {"token": _text(place["token"]), "top_logprobs": _likely(place.get("top_logprobs"))} for place in places
        ]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise BadResponseError(
            f"logprobs in another form (endpoint.logprobs=false does without them): {shorten(value)}"
        ) from error
    return found if any(place["top_logprobs"] for place in found) else []


def _likely(tops: Any) -> list[dict[str, Any]]:
    """Return the most likely tokens of a position, from a list of objects or from one object token -> logprob."""
    if isinstance(tops, dict):
        tops = [{"token": token, "logprob": logprob} for token, logprob in tops.items()]
    return [{"token": _text(top["token"]), "logprob": _logprob(top["logprob"])} for top in tops or []]


def _logprob(value: Any) -> float:
    found = float(value)
    if not found < math.inf:  # also true for NaN
        raise ValueError(f"not a log-probability: {value!r}")
    return found


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"not a text: {value!r}")
    return value


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _count(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
