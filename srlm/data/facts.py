"""The built-in set `facts`: requests for a fact about a topic, with one or two constraints that a program can check.

A small model can learn to follow them, and a judge's scores can be compared with the checkers'. Each kind of constraint
excludes another one or has an argument that changes, so that no habit follows all prompts. The parts have different
topics. IFT answers are facts, rewritten so that they follow their constraints.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Literal, get_args

from srlm.data.checkers import follows
from srlm.types import Constraint

Part = Literal["ift", "eft", "pool", "development", "test"]
PARTS: tuple[Part, ...] = get_args(Part)
SHARES = {"eft": 85, "pool": 130, "development": 50, "test": 100}  # topics of each part; IFT has those of facts.txt
PROMPTS_OF_A_TOPIC = 3
REQUESTS = (
    "Give a short fact about {}.",
    "State one fact about {}.",
    "Tell me something true about {}.",
    "What is worth knowing about {}?",
)
BEGINNINGS = ("Well", "Indeed", "Listen", "Look", "Surely", "Today", "Remember", "Perhaps")
ENDINGS = ("That is all.", "So it is.", "Now you know.", "Good to know.", "Ask me more.", "Is it not strange?")
SUBJECTS = ("people", "water", "world", "food", "light", "years", "small", "often", "long", "air")  # words to use


@dataclass(frozen=True)
class Kind:
    """A kind of constraint.

    Attributes
    ----------
    id : str
        Of its checker, as in IFEval.
    texts : tuple of str
        Ways to ask for it; {} is the argument.
    group : str
        Kinds of one group exclude each other.
    arguments : tuple of str
        Values of the argument; () = it has none.
    kwargs : callable
        Takes the argument, and returns those of the checker.
    """

    id: str
    texts: tuple[str, ...]
    group: str
    arguments: tuple[str, ...] = ()
    kwargs: Callable[[str], dict[str, Any]] = lambda argument: {}


KINDS = {
    "lowercase": Kind(
        "change_case:english_lowercase",
        ("Write in lowercase letters only.", "Use small letters throughout.", "Keep every letter small."),
        "case",
    ),
    "capitals": Kind(
        "change_case:english_capital",
        ("Write in capital letters only.", "Use capital letters throughout.", "Put every letter in upper case."),
        "case",
    ),
    "beginning": Kind(
        "length_constraints:nth_paragraph_first_word",
        ('Begin with the word "{}".', 'Start with the word "{}".', 'Your first word must be "{}".'),
        "beginning",
        BEGINNINGS,
        lambda word: {"num_paragraphs": 1, "nth_paragraph": 1, "first_word": word},
    ),
    "ending": Kind(
        "startend:end_checker",
        ('End with the words "{}"', 'Your last sentence must be "{}"', 'Finish with exactly this: "{}"'),
        "end",
        ENDINGS,
        lambda phrase: {"end_phrase": phrase},
    ),
    "use": Kind(
        "keywords:existence",
        ('Use the word "{}".', 'Include the word "{}".', 'The word "{}" must occur.'),
        "word",
        SUBJECTS,
        lambda word: {"keywords": [word]},
    ),
}


def rows(part: Part) -> Iterator[dict[str, Any]]:
    """Yield the rows of a part, in IFEval's format; those of `ift` with an answer (`response`).

    The rows are always the same. `limit` draws some of them with a run's seed.
    """
    generator, used = random.Random(f"facts/{part}"), set[tuple[str, ...]]()
    for number, (topic, *fact) in enumerate(row for row in _topics(part) for _ in range(PROMPTS_OF_A_TOPIC)):
        chosen, response = _chosen(generator, topic, fact)
        while (topic, *sorted(name for name, _ in chosen)) in used:
            chosen, response = _chosen(generator, topic, fact)
        used.add((topic, *sorted(name for name, _ in chosen)))
        asked = [generator.choice(KINDS[name].texts).format(argument) for name, argument in chosen]
        row: dict[str, Any] = {
            "id": f"facts-{part}-{number:03}",
            "prompt": " ".join([generator.choice(REQUESTS).format(topic), *asked]),
            "instruction_id_list": [KINDS[name].id for name, _ in chosen],
            "kwargs": [KINDS[name].kwargs(argument) for name, argument in chosen],
        }
        yield row | ({"response": response} if fact else {})


def _topics(part: Part) -> list[list[str]]:
    """Return the topics of a part; those of `ift` with two sentences without their full stops."""
    folder = resources.files("srlm.data") / "builtin"
    if part == "ift":
        return [line.split(" | ") for line in (folder / "facts.txt").read_text(encoding="utf-8").splitlines()]
    topics = (folder / "topics.txt").read_text(encoding="utf-8").split(",")
    random.Random("facts").shuffle(topics)
    names = list(SHARES)
    start = sum(SHARES[name] for name in names[: names.index(part)])
    return [[topic.strip()] for topic in topics[start : start + SHARES[part]]]


def _chosen(generator: random.Random, topic: str, fact: Sequence[str]) -> tuple[list[tuple[str, str]], str]:
    """Draw one or two constraints, with their arguments, and return them with an answer that follows them."""
    while True:
        names = generator.sample(list(KINDS), generator.choice((1, 2)))
        if len({KINDS[name].group for name in names}) < len(names):
            continue
        chosen = [(name, _argument(generator, name, fact)) for name in names]
        answer = _rewritten(topic, fact, dict(chosen)) if fact else ""
        constraints = [Constraint(KINDS[name].id, KINDS[name].kwargs(argument)) for name, argument in chosen]
        if not fact or all(follows(constraint, answer) for constraint in constraints):
            return chosen, answer


def _argument(generator: random.Random, name: str, fact: Sequence[str]) -> str:
    words = [word for word in fact[0].split() if len(word) >= 4] if fact and name == "use" else KINDS[name].arguments
    return generator.choice(words) if words else ""


def _rewritten(topic: str, fact: Sequence[str], chosen: Mapping[str, str]) -> str:
    """Return the fact in the asked form, as far as it can have it."""
    text = f"{fact[0]}."
    if "beginning" in chosen:
        first = text[0] if topic[0].isupper() else text[0].lower()  # a fact begins with its topic
        text = f"{chosen['beginning']}, {first}{text[1:]}"
    if "ending" in chosen:
        text = f"{text} {chosen['ending']}"
    if "lowercase" in chosen:
        text = text.lower()
    return text.upper() if "capitals" in chosen else text
