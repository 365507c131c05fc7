"""Select preference pairs from scored answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from srlm.api.arguments import Answers, AnswerScores, Text, candidate_records, judgement_records, prompt_records
from srlm.api.options import compose
from srlm.config import Config
from srlm.preferences import pairs as policies
from srlm.types import Judgement, LabelledAnswer, PreferencePair, Prompt, Unpaired


@dataclass(frozen=True)
class PairSelection:
    """Preference pairs, and the prompts that gave none.

    Attributes
    ----------
    pairs : list of PreferencePair
        In the order of the prompts.
    unpaired : list of Unpaired
        The other prompts, each with the reason why it gave no pair.
    length_penalty : float
        Points per hundred characters that were subtracted from the scores; >= 0.
    labelled_answers : list of LabelledAnswer
        Of policies that label single answers instead: "pairs=above_mean" with "method=kto".
    """

    pairs: list[PreferencePair]
    unpaired: list[Unpaired]
    length_penalty: float
    labelled_answers: list[LabelledAnswer] = field(default_factory=list)

    @property
    def reasons(self) -> dict[str, int]:
        """Return reason -> number of prompts that gave no pair for it."""
        return policies.count_reasons(self.unpaired)


def select_pairs(
    prompts: Sequence[Text | Prompt], answers: Answers, scores: AnswerScores, *, config: Config | None = None
) -> PairSelection:
    """Select preference pairs, as the stage `pairs` of a run does (arXiv 2401.10020, section 2.3).

    Parameters
    ----------
    prompts : sequence of str, list of messages or Prompt
        P prompts: texts, or conversations whose last message is the user's. Prompts that a run rejected are left out.
    answers : sequence of sequence of str, or sequence of Candidate
        As for `score`.
    scores : sequence of sequence of float, or sequence of Judgement
        One score for each answer, from any source, in points; None or NaN where it is missing. Or judgements, whose
        mean is the score of an answer with `judge.min_valid` valid ones: `Scores.judgements`, or those of a run.
    config : Config, optional
        From `compose`; `pairs` and `judge.min_valid` are used: "pairs=length_controlled", "pairs.min_gap=0.5",
        "pairs.policy=module:Class".

    Returns
    -------
    PairSelection

    Raises
    ------
    ArgumentError
        If prompts, answers and scores do not belong together.

    Examples
    --------
    >>> srlm.select_pairs(["Name a river."], [["The Oder.", "A mountain."]], [[4.0, 0.5]]).pairs[0].chosen
    'The Oder.'
    """
    config = config or compose("experiment=free_form")
    rows = prompt_records(prompts)
    candidates = candidate_records(rows, answers)
    judgements = judgement_records(rows, candidates, scores)
    judged = bool(scores) and isinstance(scores[0], Judgement)
    min_valid = config.judge.min_valid if judged else 1
    penalty = policies.length_penalty(rows, candidates, judgements, config.pairs, min_valid)
    found = policies.select(rows, candidates, judgements, config.pairs, min_valid, penalty)
    pairs = [pair for selection in found.values() for pair in selection.pairs]
    labelled = [answer for selection in found.values() for answer in selection.answers]
    return PairSelection(pairs, policies.unpaired_of(found), penalty, labelled)
