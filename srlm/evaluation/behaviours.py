"""Behaviours that programs can check, where they are asked for and where they are not: obedience or habit.

Training can raise the rate of a behaviour, such as lowercase letters, because the model obeys more often, or because it
now behaves so everywhere. The answers to the evaluation prompts tell the two apart. For each behaviour that an
evaluation prompt asks for:

- asked: the fraction of the answers that show it, over the prompts that ask for it.
- not_asked: the same over the other prompts. If the behaviour has arguments, such as an end phrase, an answer counts as
  the fraction of the behaviour's distinct arguments in the evaluation prompts with which it shows the behaviour. Of
  more than `MOST_ARGUMENTS`, some are used, evenly spaced in the order of their JSON.
- obedience: asked minus not_asked; 0 = the behaviour does not depend on whether it is asked for.

A behaviour is an instruction of IFEval and its relation: "at least" 300 words and "less than" 50 words are two. A
prompt with another relation of the same instruction belongs to neither group. Correct final answers and the repetition
of the prompt are left out, because their arguments have a meaning only for their own prompt.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from statistics import fmean

from srlm.data.checkers import follows
from srlm.evaluation.intervals import Terms
from srlm.evaluation.measures import FEW_PROMPTS, Measure, combined_measure, direction, measure, table_terms
from srlm.evaluation.record import Measures
from srlm.types import Answer, Constraint, RecordId, SeedExample

Shown = dict[str, tuple[bool, float]]  # behaviour -> whether the prompt asks for it, and to which fraction it is shown

MOST_ARGUMENTS = 10  # of a behaviour; IFEval has up to 49, and all of them would take half a minute for every model
ASKED, NOT_ASKED, OBEDIENCE = "asked", "not_asked", "obedience"
# In words, after which "rose" or "fell" can follow.
WORDS = {
    "keywords:existence": "given keywords",
    "keywords:frequency": "the given frequency of a keyword",
    "keywords:forbidden_words": "answers without the forbidden words",
    "keywords:letter_frequency": "the given frequency of a letter",
    "language:response_language": "the given language",
    "length_constraints:number_sentences": "the given number of sentences",
    "length_constraints:number_paragraphs": "the given number of paragraphs",
    "length_constraints:number_words": "the given number of words",
    "length_constraints:nth_paragraph_first_word": "the given first word of a paragraph",
    "detectable_content:number_placeholders": "placeholders",
    "detectable_content:postscript": "postscripts",
    "detectable_format:number_bullet_lists": "the given number of bullets",
    "detectable_format:constrained_response": "one of three given answers",
    "detectable_format:number_highlighted_sections": "highlighted sections",
    "detectable_format:multiple_sections": "numbered sections",
    "detectable_format:json_format": "JSON",
    "detectable_format:title": "titles",
    "combination:two_responses": "two responses",
    "startend:end_checker": "the given end phrase",
    "startend:quotation": "quotation marks around the answer",
    "change_case:capital_word_frequency": "the given number of words in capitals",
    "change_case:english_capital": "capital letters",
    "change_case:english_lowercase": "lowercase letters",
    "punctuation:no_comma": "answers without commas",
}


def behaviour_of(constraint: Constraint) -> str:
    """Return the behaviour that a constraint asks for: its id and its relation; "" if it is none."""
    if constraint.id not in WORDS:
        return ""
    relation = [value for name, value in constraint.kwargs.items() if name.endswith("relation")]
    return " ".join([constraint.id, *relation])


def behaviour_words(behaviour: str) -> str:
    """Return a behaviour in words, such as "the given number of words (at least)"."""
    id, _, relation = behaviour.partition(" ")
    return WORDS[id] + (f" ({relation})" if relation else "")


def behaviours_part(
    prompts: Sequence[SeedExample],
    answers: Sequence[Answer],
    before: Sequence[Answer] | None,
    resamples: int,
    seed: str,
    published: bool = True,
) -> dict[str, Measures]:
    """Return behaviour -> the measures of one model's answers, each with a 95 % interval over prompts.

    Parameters
    ----------
    prompts : sequence of SeedExample
        All evaluation prompts; they define the behaviours and their arguments, which are equal for all models.
    before : sequence of Answer or None
        The previous model's answers. Gains use the prompts that both models answered.
    published : bool
        As for `srlm.data.checkers.follows`.

    Returns
    -------
    dict
        "asked" and "not_asked" are fractions, and `n` counts their prompts. "obedience" is their difference, and its
        `n` counts the prompts that ask. Each of the three with "_gain" is the difference to the previous model.
    """
    arguments: dict[str, dict[str, Constraint]] = {}
    for prompt in prompts:
        for constraint in prompt.constraints:
            if behaviour := behaviour_of(constraint):
                key = json.dumps(constraint.kwargs, sort_keys=True)
                arguments.setdefault(behaviour, {})[key] = constraint
    distinct = {name: _spaced([found[key] for key in sorted(found)]) for name, found in sorted(arguments.items())}
    asked = {prompt.id: prompt.constraints for prompt in prompts}

    def shown(rows: Sequence[Answer]) -> dict[RecordId, Shown]:
        return {row.id: _shown(row, asked[row.id], distinct, published) for row in rows}

    now, then = shown(answers), None if before is None else shown(before)
    return {name: _measures(name, now, then, resamples, seed) for name in distinct}


def behaviour_sentence(behaviour: str, before: Measures, now: Measures) -> str:
    """Return what changed since another model, and whether it is obedience or habit; "" if no change is significant.

    A change is significant if the 95 % interval of the difference excludes 0. "Not obedience" is only said if at least
    5 prompts ask for the behaviour, and its rise there is not significantly greater than elsewhere.

    Parameters
    ----------
    before, now : mapping
        Measures of the two models. `now` contains the gains over `before`.
    """
    enough = now[ASKED].n >= FEW_PROMPTS
    habit, asked, more = (direction(now[f"{name}_gain"]) for name in (NOT_ASKED, ASKED, OBEDIENCE))
    words = behaviour_words(behaviour)
    if habit and now[NOT_ASKED].n >= FEW_PROMPTS:
        text = f"{words} {_change(habit, before[NOT_ASKED], now[NOT_ASKED])} where not asked for"
        if habit < 0 and asked < 0 and enough:
            both = f"{words} {_change(asked, before[ASKED], now[ASKED])} where asked for"
            kind = ": less obedience" if more < 0 else ""
            return f"{both}, and {_change(habit, before[NOT_ASKED], now[NOT_ASKED])} elsewhere{kind}."
        if habit < 0:
            return f"{text}: less of a habit."
        known = enough and now[f"{OBEDIENCE}_gain"].low is not None
        kind = "a habit, besides obedience" if enough and more > 0 else "a habit, not obedience" if known else "a habit"
        return f"{text}: {kind}."
    if asked and enough:
        text = f"{words} {_change(asked, before[ASKED], now[ASKED])} where asked for"
        kind = "obedience" if asked > 0 and more > 0 else "less obedience" if asked < 0 and more < 0 else ""
        return f"{text}: {kind}." if kind else f"{text}."
    return ""


def _change(side: int, before: Measure, now: Measure) -> str:
    shares = [100 * (one.value or 0.0) for one in (before, now)]
    digits = 0 if round(shares[0]) != round(shares[1]) else 1
    first, second = (f"{share:.{digits}f} %" for share in shares)
    return f"{'rose' if side > 0 else 'fell'} from {first} to {second}"


def _spaced(constraints: Sequence[Constraint]) -> list[Constraint]:
    """Return at most `MOST_ARGUMENTS` constraints, evenly spaced."""
    count = min(MOST_ARGUMENTS, len(constraints))
    return [constraints[n * len(constraints) // count] for n in range(count)]


def _shown(
    answer: Answer, required: Sequence[Constraint], behaviours: Mapping[str, Sequence[Constraint]], published: bool
) -> Shown:
    """Return to which fraction an answer shows each behaviour, except those asked for with another relation."""
    shown: Shown = {}
    ids = {constraint.id for constraint in required}
    for name, distinct in behaviours.items():
        own = [constraint for constraint in required if behaviour_of(constraint) == name]
        if own or distinct[0].id not in ids:
            shown[name] = (bool(own), fmean(follows(one, answer.text, published) for one in own or distinct))
    return shown


def _measures(
    name: str,
    now: Mapping[RecordId, Shown],
    before: Mapping[RecordId, Shown] | None,
    resamples: int,
    seed: str,
) -> dict[str, Measure]:
    asked, other = (_terms(name, now, now, group) for group in (True, False))
    found = {ASKED: measure(asked, resamples, seed), NOT_ASKED: measure(other, resamples, seed)}
    found[OBEDIENCE] = combined_measure([asked, other], (1, -1), resamples, seed, found[ASKED].n)
    if before is not None:
        both = [id for id in now if id in before]
        terms = [_terms(name, model, both, group) for model in (now, before) for group in (True, False)]
        n = round(float(terms[0].denominators.sum()))
        for gain, parts in ((ASKED, terms[::2]), (NOT_ASKED, terms[1::2])):
            found[f"{gain}_gain"] = combined_measure(parts, (1, -1), resamples, seed)
        found[f"{OBEDIENCE}_gain"] = combined_measure(terms, (1, -1, -1, 1), resamples, seed, n)
    return found


def _terms(
    name: str,
    rows: Mapping[RecordId, Shown],
    ids: Collection[RecordId],
    group: bool,
) -> Terms:
    """Return the terms of the prompts that ask for the behaviour (`group`), or of those that do not."""
    found = (rows[id].get(name) for id in ids)
    return table_terms((one[1], 1.0) if one and one[0] is group else (0.0, 0.0) for one in found)
