"""Labels of single answers by their prompt's mean score: above it desirable, below it undesirable.

The sign of score minus mean is that of the group-relative advantage (arXiv 2402.03300, section 4.1.1). All scored
candidates are used, not only the best and the worst, and a prompt with one good answer among many bad ones gives all
of them. Answers within `pairs.min_gap` of the mean are left out, and so are empty ones. Of equal texts the first by id
counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from srlm.preferences.policy import PairPolicy, Scored, Selection, labelled_answer
from srlm.types import LabelledAnswer, Prompt


class AboveMean(PairPolicy):
    """Each candidate, labelled by whether its score is above or below the mean of its prompt's scores."""

    gives = LabelledAnswer

    def select(self, prompt: Prompt, scored: Sequence[Scored]) -> Selection:
        if len(scored) < 2:
            return Selection(reason="fewer than two candidates with enough valid judgements")
        mean = fmean(score for score, _ in scored)
        by_text = {one[1].text.strip(): one for one in reversed(scored)}
        by_text.pop("", None)
        apart = [one for one in reversed(by_text.values()) if round(abs(one[0] - mean), 9) > self.config.min_gap]
        answers = tuple(labelled_answer(prompt, one, one[0] > mean) for one in apart)
        if len({answer.label for answer in answers}) < 2:
            equal = len({score for score, _ in scored}) == 1
            return Selection(reason="all scores equal" if equal else "no answer on one side of the mean")
        return Selection(answers=answers)
