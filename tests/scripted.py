"""A deterministic engine for the tests of resuming: its text depends only on the model, the request and its seed."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence

from srlm.engines.base import Completion, Sampling, Usage
from srlm.errors import PromptTooLongError
from srlm.models.chat import Message

_SYLLABLES = ("ba", "cor", "del", "fin", "gro", "hum", "jin", "kel", "lor", "mat", "nor", "pel", "qua", "rim", "sto")


class OrderedEngine:
    """Generates prompts, candidates, judgements and verdicts on pairs; some of each kind are unusable.

    Parameters
    ----------
    model : str
        Its text differs from another model's.
    order : int
        Seed of the order in which concurrent requests end; 0 = each after one turn of the event loop.
    verdicts : mapping
        Scores of given answers, so that a judge can agree with human ranks.
    context : int
        Maximum characters of a request; longer ones are refused, and some generated texts become as long.
        0 = no limit.
    refused : int, optional
        Priority of requests that are refused as too long.
    """

    def __init__(
        self,
        model: str,
        order: int = 0,
        verdicts: Mapping[str, int] | None = None,
        context: int = 0,
        refused: int | None = None,
    ):
        self.refused = refused
        self.model, self.verdicts, self.context = model, verdicts or {}, context
        self._turns = random.Random(f"turns/{order}")
        self._calm = order == 0
        self.usage = Usage()

    async def generate(self, messages: Sequence[Message], sampling: Sampling, prefill: str = "") -> list[Completion]:
        # Turns of the event loop instead of seconds, so that the order is the same on a slow machine.
        for _ in range(1 if self._calm else self._turns.randrange(1, 12)):
            await asyncio.sleep(0)
        if 0 < self.context < (length := len(messages[-1]["content"])) or sampling.priority == self.refused:
            raise PromptTooLongError(f"a prompt of {length} characters, and engine.max_model_len={self.context}")
        return [self._complete(messages[-1]["content"], sampling, prefill, place) for place in range(sampling.n)]

    async def close(self) -> None: ...

    def _complete(self, content: str, sampling: Sampling, prefill: str, place: int) -> Completion:
        draw = random.Random(repr((self.model, content, sampling.seed, prefill, place)))
        text = self._text(draw, content, sampling, prefill)
        return Completion(text, len(text.split()), truncated=draw.random() < 0.1)

    def _text(self, draw: random.Random, content: str, sampling: Sampling, prefill: str) -> str:
        if sampling.choices:
            return draw.choice(sampling.choices)
        words = " ".join("".join(draw.choices(_SYLLABLES, k=3)) for _ in range(draw.randrange(8, 16)))
        # Too long to be answered or judged with a small context; its output as a judge is not lengthened.
        if self.context and "Score: N" not in content and draw.random() < 0.25:
            words = " ".join(word * 300 for word in words.split()[:8])
        if prefill:
            return draw.choice([f" {words}.", f" {words}.", f" {words}.", " Draw a map.", " Why?"])
        if "Score: N" in content:
            for answer, score in self.verdicts.items():
                if answer in content:
                    return f"{words}\nScore: {score}"
            return draw.choice([f"{words}\nScore: {draw.randrange(6)}"] * 5 + [f"{words}, 说不准。"])
        return f"{words}\n\n“{words[:9]}” — 好的 🙂\u2028\x85\t{draw.random()}"
