"""Request parameters that a server refuses, and their replacements.

Servers refuse parameters by HTTP 400 or 422: OpenAI's reasoning models accept only `max_completion_tokens` and one
temperature, other servers have no `seed` or `n`. A parameter is left out if that does not change what is asked for.
Otherwise the error names the option to change.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from srlm.errors import EngineError

# Parameters that can be left out -> the consequence for the answers.
_LEFT_OUT = {
    "seed": "its answers differ from one run to the next, except those that are cached",
    "stop": "its text is cut at the stop strings here",
    "n": "several answers are requested one by one",
}
_DEFAULTS = {"temperature": 1.0, "top_p": 1.0, "n": 1}  # of the API, so that sending them makes no difference
_ADVICE = {
    "temperature": (
        "Set prompts.temperature, judge.temperature or evaluation.temperature, whichever this model is used for, to a "
        "value that it accepts, or set endpoint.temperature for all its requests: comparisons of two answers are "
        "otherwise requested with temperature 0."
    ),
    "top_p": "Set prompts.top_p, judge.top_p or evaluation.top_p, whichever this model is used for, to 1.",
    "logprobs": "Set endpoint.logprobs=false: verdicts are then read from the text alone.",
    "top_logprobs": "Set endpoint.logprobs=false: verdicts are then read from the text alone.",
    "continue_final_message": "Set endpoint.prefill=false.",
    "add_generation_prompt": "Set endpoint.prefill=false.",
}
_NAMES = ("max_tokens", "seed", "stop", *_ADVICE)  # "n" is a letter as well, so it has a separate pattern
_REFUSAL = re.compile(
    r"unsupported|not supported|unrecogni[sz]ed|unknown|unexpected|not permitted|not allowed|deprecated|"
    r"(?:does not|doesn't|do not) (?:support|accept)|only .{0,80}(?:supported|allowed|accepted)|extra|invalid|must be",
    re.IGNORECASE | re.DOTALL,
)
_REFUSES_N = re.compile(
    r"['\"`]n['\"`]|\bn\s*(?:>|=|must|should|is not)|only one (?:completion )?choice", re.IGNORECASE
)


class Parameters:
    """The parameters that a server accepts, learnt from its refusals until the engine is closed."""

    def __init__(self) -> None:
        self._left_out: set[str] = set()
        self._renamed = False

    def apply(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return the request without the parameters that the server is known to refuse."""
        sent = {name: value for name, value in request.items() if name not in self._left_out}
        if self._renamed and "max_tokens" in sent:
            sent["max_completion_tokens"] = sent.pop("max_tokens")
        return sent

    def learn(self, sent: Mapping[str, Any], param: str | None, message: str) -> str | None:
        """Learn from a refusal; return what to log about it.

        That is "" if another request has learnt it already, and None if no parameter is refused.

        Parameters
        ----------
        sent : mapping
            The refused request, as `apply` returned it.
        param : str or None
            The parameter that the response names outside its message.

        Raises
        ------
        EngineError
            If answers depend on the refused parameter. The message names the option to change.
        """
        names = {**sent, **sent.get("extra_body", {})}
        name = refused(names, param, message)
        if name is None:
            return None
        if name not in self.apply(names):
            return ""
        if name == "max_tokens":
            self._renamed = True
            return "max_completion_tokens is sent instead of max_tokens"
        if name in _LEFT_OUT or names[name] == _DEFAULTS.get(name):
            self._left_out.add(name)
            return f"{name} is not sent: {_LEFT_OUT.get(name, f'{names[name]} is the default')}"
        raise EngineError(f"refuses {name}={names[name]!r}. {_ADVICE[name]}")


def refused(sent: Mapping[str, Any], param: str | None, message: str) -> str | None:
    """Return the sent parameter that an HTTP 400 or 422 refuses; None if it is about something else."""
    known = [name for name in (*_NAMES, "n") if sent.get(name) is not None]
    if not _REFUSAL.search(message) and not _REFUSES_N.search(message):
        return None
    if param in known:
        return param
    # A message may also name the parameter to send instead. The refused one is named first.
    places = {name: found.start() for name in known if (found := re.search(rf"\b{name}\b", message)) and name != "n"}
    if places:
        return min(places, key=lambda name: places[name])
    return "n" if "n" in known and _REFUSES_N.search(message) else None
