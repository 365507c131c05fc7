"""Who is asked about against whom: every two of a group in both orders, or round by round within a budget."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from random import Random

from srlm.engines.base import Engine, gather_or_cancel
from srlm.ids import ORDERS, comparison_id, derive_seed, match_id
from srlm.io.record_file import RecordFile
from srlm.judges.bradley_terry import next_matches, strengths_by_group
from srlm.judges.pairwise import compare
from srlm.models.chat import Message
from srlm.types import Comparison


class Tournament:
    """Matches within groups: a prompt's candidates, or a candidate's judgements. What is there is not asked again.

    Parameters
    ----------
    budget : int
        Matches a group, `judge.max_comparisons`.
    before : str
        As for `srlm.judges.pairwise.compare`.
    told : callable
        (comparisons that are done, tokens written for them).
    """

    def __init__(
        self,
        engine: Engine,
        store: RecordFile[Comparison],
        budget: int,
        seed: int,
        before: str,
        told: Callable[[int, int], None],
        priority: int = 0,
    ):
        self.engine, self.store, self.budget, self.seed = engine, store, budget, seed
        self.before, self.told, self.priority = before, told, priority

    def matches(self, n: int) -> int:
        """Of a group of `n`."""
        every = n * (n - 1) // 2
        return min(self.budget or every, every)

    async def play(self, group: str, n: int, ask: Callable[[int, int, str], list[Message]]) -> None:
        """All matches of one group of `n`; `ask` gives the chat for members i and j (i < j) in an order."""
        budget = self.matches(n)
        if budget == n * (n - 1) // 2:
            await gather_or_cancel(self._match(group, i, j, ask) for i, j in combinations(range(n), 2))
            return
        number = Random(derive_seed(self.seed, "matches", group))
        met: list[tuple[int, int]] = []
        played: list[Comparison] = []
        standing = [0.0] * n
        while new := next_matches(standing, met, budget - len(met), number):
            for both in await gather_or_cancel(self._match(group, i, j, ask) for i, j in new):
                played += both
            met += new
            standing = [strength or 0.0 for strength in strengths_by_group(played, {group: n})[group]]

    async def _match(
        self, group: str, i: int, j: int, ask: Callable[[int, int, str], list[Message]]
    ) -> list[Comparison]:
        match = match_id(group, i, j)

        async def one(order: str) -> Comparison:
            tokens = 0
            if comparison_id(match, order) not in self.store.records:
                messages = ask(i, j, order)
                new = await compare(self.engine, match, group, order, messages, self.before, self.priority)
                self.store.append(new)
                tokens = new.tokens
            self.told(1, tokens)
            return self.store.records[comparison_id(match, order)]

        return await gather_or_cancel(one(order) for order in ORDERS)
