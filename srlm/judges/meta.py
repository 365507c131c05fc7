"""Meta-judge: compares judgements, to train the judge as well (Meta-Rewarding, arXiv 2407.19594, section 2.2).

For each prompt, the candidate with the highest variance of scores is selected. Its judgements are compared in pairs, in
both orders, and get Elo ratings. A win counts less the more often its position wins. The best and the worst judgement
become a preference pair with the judge's prompt, which is additional data for DPO.

Unlike in the paper, the meta-judge gives a letter without a rationale. If the engine reports the letters'
probabilities, winners are first corrected for position bias (`srlm.judges.bradley_terry.calibrated_winners`). Without
the correction, a small judge that often prefers A would give all judgements the same rating.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from statistics import pvariance

import numpy as np

from srlm.config import Config
from srlm.engines.base import Engine
from srlm.ids import ORDERS, match_and_order, members, parent
from srlm.judges.bradley_terry import Array, bradley_terry, calibrated_winners
from srlm.judges.config import JudgeConfig, SampledJudgeConfig
from srlm.judges.evidence import EvidenceFile
from srlm.judges.matchmaking import matches_of
from srlm.judges.pairwise import compare_group
from srlm.judges.prompt import JudgeTemplate, check_letters
from srlm.models.chat import Message
from srlm.models.templating import Template
from srlm.pipeline.stage import Stage
from srlm.types import Candidate, Comparison, Conversation, Judgement, PreferencePair

BEFORE = "The better judgement is"


def meta_options(config: JudgeConfig) -> SampledJudgeConfig:
    """Return the options of a judge with `judge.meta`, which is one that generates judgements."""
    assert isinstance(config, SampledJudgeConfig), "only they have judge.meta"
    return config


def load_template(config: JudgeConfig) -> Template:
    """Return the meta-judge's template; raises ConfigError if it does not exist, or has other fields or letters."""
    fields = ("instruction", "response", "judgement_a", "judgement_b")
    template = Template.load(meta_options(config).meta_template, "srlm.judges", "judge.meta_template", fields)
    check_letters(template, "judge.meta_template")
    return template


def most_disputed(judgements: Iterable[Judgement]) -> list[Judgement]:
    """Return the valid judgements of the candidate of a prompt with the highest variance of scores (the first of ties).

    They are in the order of their ids, and each text occurs once. Truncated judgements are excluded, because DPO would
    train an end of turn that the judge never generated. The list is empty if no candidate has two different scores.
    """
    of_candidate: dict[str, dict[str, Judgement]] = defaultdict(dict)
    for judgement in sorted(judgements, key=lambda judgement: judgement.id):
        if judgement.score is not None and not judgement.truncated:
            of_candidate[judgement.candidate_id].setdefault(judgement.text, judgement)
    rows = {candidate: list(texts.values()) for candidate, texts in sorted(of_candidate.items())}
    spread = {candidate: pvariance([judgement.score or 0.0 for judgement in row]) for candidate, row in rows.items()}
    widest = max(spread, key=lambda candidate: spread[candidate], default=None)
    return rows[widest] if widest is not None and spread[widest] > 0 else []


class MetaJudging:
    """The meta-judge of one stage; call `prompt` for every prompt.

    Parameters
    ----------
    stage : Stage
        Its output receives the comparisons.
    on_progress : callable
        Is called with (comparisons that are done, tokens generated for them).
    """

    def __init__(self, engine: Engine, config: Config, stage: Stage, on_progress: Callable[[int, int], None]):
        self.engine, self.config, self.template = engine, config, load_template(config.judge)
        self._comparisons = EvidenceFile(stage, stage.outputs[0], Comparison, on_progress)
        self.store = self._comparisons.file
        self.planned = 0  # comparisons of the prompts so far

    async def prompt(
        self, prompt: Conversation, candidates: Sequence[Candidate], judgements: Iterable[Judgement]
    ) -> None:
        """Compare the judgements of the prompt's most disputed candidate."""
        disputed = most_disputed(judgements)
        if not disputed:
            return
        candidate = next(candidate for candidate in candidates if candidate.id == disputed[0].candidate_id)
        texts = [judgement.text for judgement in disputed]
        budget = meta_options(self.config.judge).max_comparisons

        def ask(i: int, j: int, order: str) -> list[Message]:
            a, b = (texts[i], texts[j]) if order == "ab" else (texts[j], texts[i])
            content = self.template.fill(instruction=prompt, response=candidate.text, judgement_a=a, judgement_b=b)
            return [{"role": "user", "content": content}]

        self.planned += len(ORDERS) * matches_of(len(texts), budget)
        self._comparisons.resume(candidate.id)
        await compare_group(
            self.engine,
            candidate.id,
            len(texts),
            ask,
            self.store.records,
            self._comparisons.emit,
            budget=budget,
            seed=self.config.seed,
            before=BEFORE,
        )


def position_weights(comparisons: Iterable[Comparison]) -> tuple[float, float]:
    """Return the weights of a win in first and in second position: the fraction of wins of the other position."""
    decided = [comparison for comparison in comparisons if comparison.winner is not None]
    first_wins = [
        (comparison.winner == "first") == (match_and_order(comparison.id)[1] == ORDERS[0]) for comparison in decided
    ]
    fraction = sum(first_wins) / len(first_wins) if first_wins else 0.5
    return 1 - fraction, fraction


def elo(comparisons: Sequence[Comparison], weights: tuple[float, float], n: int) -> Array:
    """Return the ratings of a candidate's `n` judgements in log-odds, with wins weighted by position (section 2.2).

    Shape (n,). `srlm.judges.bradley_terry.bradley_terry` fits them.
    """
    wins = np.zeros((n, n))
    for comparison in comparisons:
        if comparison.winner is not None:
            match, order = match_and_order(comparison.id)
            i, j = members(match)
            won_first = (comparison.winner == "first") == (order == ORDERS[0])
            winner, loser = (i, j) if comparison.winner == "first" else (j, i)
            wins[winner, loser] += weights[0] if won_first else weights[1]
    return bradley_terry(wins)


def judgement_pairs(
    template: JudgeTemplate,
    prompts: dict[str, Conversation],
    candidates: Iterable[Candidate],
    judgements: Iterable[Judgement],
    comparisons: Sequence[Comparison],
    longest: int,
) -> tuple[list[PreferencePair], dict[str, int], float | None]:
    """Return the pair of best and worst judgement of every candidate whose judgements were compared.

    Parameters
    ----------
    prompts : prompt id -> text
    longest : int
        A chosen judgement of more tokens gives no pair, because meta-judges prefer length; 0 = no limit.

    Returns
    -------
    pairs : list of PreferencePair
        `prompt` is the judge's complete prompt; scores are Elo ratings.
    dropped : dict
        Reason -> number of candidates without a pair.
    follows_score : float or None
        Fraction of matches that the higher score won, among those between different scores with the same winner in both
        orders. A value near 1 means that the meta-judge only prefers high scores.
    """
    of_candidate: dict[str, list[Judgement]] = defaultdict(list)
    for judgement in judgements:
        of_candidate[judgement.candidate_id].append(judgement)
    by_candidate: dict[str, list[Comparison]] = defaultdict(list)
    winners = calibrated_winners(comparisons)
    comparisons = [replace(comparison, winner=w) for comparison, w in zip(comparisons, winners, strict=True)]
    weights = position_weights(comparisons)
    for comparison in comparisons:
        by_candidate[comparison.prompt_id].append(comparison)
    pairs: list[PreferencePair] = []
    dropped: dict[str, int] = defaultdict(int)
    higher: list[bool] = []
    for candidate in candidates:
        if candidate.id not in by_candidate:
            continue
        row = most_disputed(of_candidate[candidate.id])
        higher += _higher_wins(row, by_candidate[candidate.id])
        ratings = elo(by_candidate[candidate.id], weights, len(row))
        best, worst = row[int(ratings.argmax())], row[int(ratings.argmin())]
        reason = ""
        if ratings.max() - ratings.min() < 1e-9:
            reason = "equal ratings"
        elif 0 < longest < best.tokens:
            reason = "chosen judgement too long"
        if reason:
            dropped[reason] += 1
            continue
        [message] = template.messages(prompts[candidate.prompt_id], candidate.text)
        pairs.append(
            PreferencePair(
                id=f"{candidate.id}/judgements",
                prompt=message["content"],
                chosen=best.thought + best.text,
                rejected=worst.thought + worst.text,
                chosen_id=best.id,
                rejected_id=worst.id,
                chosen_score=float(ratings.max()),
                rejected_score=float(ratings.min()),
            )
        )
    return pairs, dict(dropped), sum(higher) / len(higher) if higher else None


def _higher_wins(row: Sequence[Judgement], comparisons: Iterable[Comparison]) -> list[bool]:
    winners: dict[str, set[str | None]] = defaultdict(set)
    for comparison in comparisons:
        winners[parent(comparison.id)].add(comparison.winner)
    higher_won = []
    for match, of_match in winners.items():
        i, j = members(match)
        first, second = row[i].score, row[j].score
        if len(of_match) == 1 and None not in of_match and first != second:
            higher_won.append((of_match == {"first"}) == ((first or 0.0) > (second or 0.0)))
    return higher_won
