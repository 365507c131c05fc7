"""Matchmaking: which members of a group are compared, all pairs or rounds of a Swiss tournament within a budget."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from itertools import combinations
from random import Random
from typing import Any

from srlm.engines.base import gather_or_cancel
from srlm.ids import ORDERS, derive_seed
from srlm.judges.bradley_terry import next_matches, strengths_by_group
from srlm.types import Comparison


def matches_of(n: int, budget: int) -> int:
    """Return the number of matches in a group of `n`; `budget` is `judge.max_comparisons`, 0 = all pairs."""
    all_pairs = n * (n - 1) // 2
    return min(budget or all_pairs, all_pairs)


async def play(
    group: str, n: int, budget: int, seed: int, compare: Callable[[int, int, str], Coroutine[Any, Any, Comparison]]
) -> None:
    """Compare the members of one group of `n`, each match in both orders.

    Parameters
    ----------
    group : str
        The id of the group: a prompt (candidates are compared) or a candidate (judgements are compared).
    budget : int
        Maximum number of matches in the group, `judge.max_comparisons`; 0 = all pairs.
    seed : int
        The run's seed.
    compare : callable
        (i, j, order) -> the comparison of members i and j, i < j.
    """

    async def both_orders(i: int, j: int) -> list[Comparison]:
        return await gather_or_cancel(compare(i, j, order) for order in ORDERS)

    budget = matches_of(n, budget)
    if budget == n * (n - 1) // 2:
        await gather_or_cancel(both_orders(i, j) for i, j in combinations(range(n), 2))
        return
    rng = Random(derive_seed(seed, "matches", group))
    matches: list[tuple[int, int]] = []
    results: list[Comparison] = []
    strengths = [0.0] * n
    while new := next_matches(strengths, matches, budget - len(matches), rng):
        for comparisons in await gather_or_cancel(both_orders(i, j) for i, j in new):
            results += comparisons
        matches += new
        strengths = [strength or 0.0 for strength in strengths_by_group(results, {group: n})[group]]
