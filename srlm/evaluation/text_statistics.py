"""Statistics of a model's answers without a judge: length, repetition, diversity, format, and instructions followed.

All models answer the same prompts. Words are those of `srlm.data.words`; scripts without spaces are counted by
character.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from srlm.data.checkers import follows
from srlm.data.languages import script
from srlm.data.words import tokens
from srlm.evaluation.intervals import Terms, jackknife_interval
from srlm.evaluation.measures import Measure, combined_measure, mean_measure, measure, share_measure, table_terms
from srlm.types import Answer, Constraint, SeedExample

Ngrams = list[tuple[str, ...]]

REPEATED = 4  # words in a row
DISTINCT = (1, 2, 3)
OPENING = 3  # words
# An answer that begins so is taken for a refusal; compared word by word, so that case and apostrophes do not matter.
REFUSALS = (
    "I cannot", "I can't help", "I can't assist", "I can't provide", "I can't answer", "I can't fulfill",
    "I'm unable to", "I am unable to", "I'm not able to", "I am not able to", "I'm sorry, but", "I am sorry, but",
    "I'm sorry, I", "I am sorry, I", "Sorry, but I", "Sorry, I", "I apologize, but", "Unfortunately, I can't",
    "Unfortunately, I cannot", "As an AI", "As a language model", "As a large language model",
    "抱歉", "很抱歉", "非常抱歉", "对不起", "我无法", "我不能", "作为AI", "作为一个AI", "作为一名AI", "作为人工智能",
    "作为一个人工智能", "作为一名人工智能", "作为语言模型", "作为一个语言模型",
)  # fmt: skip
FORMAT = {
    "bullets": re.compile(r"^[ \t]*[-*+•·][ \t]+\S", re.MULTILINE),
    "numbered_lists": re.compile(r"^[ \t]*[0-9]{1,3}(?:[.)][ \t]+\S|、)", re.MULTILINE),
    "headings": re.compile(r"^#{1,6}[ \t]+\S", re.MULTILINE),
    "bold": re.compile(r"\*\*[^*\n]+\*\*"),
}
# The facts that `facts_part` compares between models, in the order in which tables show them.
FACTS = ("mean_characters", "truncated", "seq_rep_4", "language_switches", "form_followed", "length_followed")
_REFUSALS = {tuple(tokens(opening)) for opening in REFUSALS}


def facts(answer: Answer, constraints: Sequence[Constraint] = ()) -> dict[str, tuple[float, float]]:
    """Return the (numerator, denominator) of one answer for each of `FACTS`; (0, 0) if it does not count.

    Returns
    -------
    dict
        - "mean_characters": the length.
        - "truncated": 1 if the answer reached the token limit.
        - "seq_rep_4": the fraction of repeated 4-grams, if the answer has 4-grams.
        - "language_switches": 1 if the answer has another script than its prompt, if both have a script.
        - "form_followed", "length_followed": the number of constraints followed (strictly), and their number. The group
          length_constraints is length; all other groups are form.
    """
    repeated, asked, written = repeated_share(tokens(answer.text)), script(answer.prompt), script(answer.text)
    followed: dict[bool, list[bool]] = {True: [], False: []}
    for constraint in constraints:
        followed[constraint.id.startswith("length_constraints:")].append(follows(constraint, answer.text))
    return {
        "mean_characters": (len(answer.text), 1),
        "truncated": (float(answer.truncated), 1),
        "seq_rep_4": (0, 0) if repeated is None else (repeated, 1),
        "language_switches": (float(asked != written), 1) if asked and written else (0, 0),
        "form_followed": (sum(followed[False]), len(followed[False])),
        "length_followed": (sum(followed[True]), len(followed[True])),
    }


def facts_part(
    prompts: Sequence[SeedExample], answers: Sequence[Answer], first: Sequence[Answer] | None, resamples: int, seed: str
) -> dict[str, Any]:
    """Return `FACTS` of one model's answers, each a measure with a 95 % interval over prompts.

    Parameters
    ----------
    first : sequence of Answer or None
        The answers of the model that this model is compared with.

    Returns
    -------
    dict
        "measures": fact -> measure. "types": type of prompt -> the same. "against_first", with `first`: the difference
        to the first model, paired by prompt, over the prompts that both answered.
    """
    of_prompt = {prompt.id: prompt for prompt in prompts}

    def terms(rows: Sequence[Answer]) -> dict[str, Terms]:
        found = [facts(row, of_prompt[row.id].constraints) for row in rows]
        bounds = {name: None if name == "mean_characters" else (0.0, 1.0) for name in FACTS}
        return {name: table_terms((row[name] for row in found), bounds[name]) for name in FACTS}

    def measures(rows: Sequence[Answer]) -> dict[str, Any]:
        return {name: measure(table, resamples, seed).to_dict() for name, table in terms(rows).items()}

    of_type: dict[str, list[Answer]] = defaultdict(list)
    for answer in answers:
        of_type[of_prompt[answer.id].type].append(answer)
    part = {
        "measures": measures(answers),
        "types": {kind: measures(some) for kind, some in sorted(of_type.items()) if kind},
    }
    if first is not None:
        of_first = {answer.id: answer for answer in first}
        both = [answer for answer in answers if answer.id in of_first]
        own, others = terms(both), terms([of_first[answer.id] for answer in both])
        part["against_first"] = {
            name: combined_measure([own[name], others[name]], (1, -1), resamples, seed).to_dict() for name in FACTS
        }
    return part


def drift_part(
    answers: Sequence[Answer], resamples: int, seed: str, before: Sequence[Answer] | None = None
) -> dict[str, Measure]:
    """Return the statistics of one model's answers, one answer per prompt, each with a 95 % interval over prompts.

    Parameters
    ----------
    before : sequence of Answer or None
        The answers of the previous model.

    Returns
    -------
    dict
        - "characters", "words": mean length.
        - "characters_gain", with `before`: the difference in length, paired by prompt, over the prompts that both
          models answered.
        - "seq_rep_4": the fraction of repeated 4-grams of an answer, averaged over answers with 4-grams (seq-rep-4 of
          arXiv 1908.04319); 0 to 1.
        - "distinct_1", "distinct_2", "distinct_3": see `distinct`.
        - "refusals": fraction of answers that begin with one of `REFUSALS`, including requested ones.
        - "language_switches": fraction of answers in another script than the prompt, if both have a script. Prompts may
          ask for a translation, so compare models instead of comparing with 0.
        - "bullets", "numbered_lists", "headings", "bold": fraction of answers with at least one (Markdown).
        - "modal_opening": fraction of answers with the most frequent first three words. The opening is computed over
          all answers; answers without words are excluded.
    """
    words = [tokens(answer.text) for answer in answers]
    found = [facts(answer) for answer in answers]
    openings = [tuple(of_one[:OPENING]) for of_one in words]
    counts = Counter(opening for opening in openings if opening)
    most_frequent = max(counts, key=lambda opening: (counts[opening], opening), default=())
    measures = {
        "characters": mean_measure([len(answer.text) for answer in answers], resamples, seed),
        "words": mean_measure([len(of_one) for of_one in words], resamples, seed),
        "seq_rep_4": measure(table_terms(row["seq_rep_4"] for row in found), resamples, seed),
        **{f"distinct_{n}": distinct([_ngrams(of_one, n) for of_one in words]) for n in DISTINCT},
        "refusals": share_measure([_refuses(of_one) for of_one in words]),
        "language_switches": measure(table_terms(row["language_switches"] for row in found), resamples, seed),
        **{
            name: share_measure([pattern.search(answer.text) is not None for answer in answers])
            for name, pattern in FORMAT.items()
        },
        "modal_opening": share_measure(
            [bool(opening) and opening == most_frequent for opening in openings],
            [bool(opening) for opening in openings],
        ),
    }
    if before is not None:
        lengths = {answer.id: len(answer.text) for answer in before}
        longer = [len(answer.text) - lengths[answer.id] for answer in answers if answer.id in lengths]
        measures["characters_gain"] = mean_measure(longer, resamples, seed)
    return measures


def distinct(answers: Sequence[Ngrams]) -> Measure:
    """Return the fraction of distinct n-grams of all n-grams; 0 to 1 (distinct-n of arXiv 1510.03055).

    It decreases with the amount of text, so compare it together with the length. The interval uses the delete-one
    jackknife over answers. A bootstrap would be biased, because a second copy of an answer adds no new n-gram. `n`
    counts the n-grams.
    """
    total = sum(map(len, answers))
    if not total:
        return Measure(None, None, None, 0)
    holders = Counter(gram for grams in answers for gram in set(grams))
    value = len(holders) / total
    excluded = [
        (len(holders) - sum(holders[gram] == 1 for gram in set(grams)), total - len(grams))
        for grams in answers
        if grams
    ]
    fractions = [different / count for different, count in excluded if count]
    return Measure(value, *jackknife_interval(value, fractions, (0.0, 1.0)), total)


def _ngrams(words: Sequence[str], n: int) -> Ngrams:
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def repeated_share(words: Sequence[str]) -> float | None:
    """Return the fraction of repeated 4-grams of a text; None for fewer than four words."""
    grams = _ngrams(words, REPEATED)
    return 1 - len(set(grams)) / len(grams) if grams else None


def _refuses(words: Sequence[str]) -> bool:
    return any(tuple(words[:n]) in _REFUSALS for n in {len(opening) for opening in _REFUSALS})
