"""The paper's pair policy: the highest against the lowest score (arXiv 2401.10020, section 2.3)."""

from __future__ import annotations

from collections.abc import Sequence

from srlm.preferences.policy import PairPolicy, Scored, Selection, preference_pair
from srlm.types import Prompt


class HighestLowest(PairPolicy):
    """One pair of the highest and the lowest score (arXiv 2401.10020, section 2.3); of equal ones the first by id."""

    needs_all_scores = False

    def select(self, prompt: Prompt, scored: Sequence[Scored]) -> Selection:
        pair = highest_and_lowest(scored, self.config.min_gap)
        return Selection(reason=pair) if isinstance(pair, str) else Selection((preference_pair(prompt, *pair),))


def highest_and_lowest(scored: Sequence[Scored], min_gap: float) -> tuple[Scored, Scored] | str:
    """Return the candidates with the highest and the lowest score, or the reason why they cannot form a pair.

    Parameters
    ----------
    min_gap : float
        The difference of the two scores must exceed this; >= 0.
    """
    if len(scored) < 2:
        return "fewer than two candidates with enough valid judgements"
    high = max(scored, key=lambda one: one[0])
    low = min(scored, key=lambda one: one[0])
    if high[0] == low[0]:
        return "all scores equal"
    if round(high[0] - low[0], 9) <= min_gap:
        return "gap too small"
    texts = [high[1].text.strip(), low[1].text.strip()]
    if not all(texts):
        return "empty text"
    if texts[0] == texts[1]:
        return "identical texts"
    return high, low
