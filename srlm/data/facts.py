"""The built-in set `facts`: requests for a fact about a topic, with one or two constraints that a program can check.

A small model can learn to follow them, and a judge's scores can be compared with the checkers'. Each kind of constraint
has an opposite or an argument that changes, or its rate can be measured where it is not asked, so that a habit is told
from obedience. The parts have different topics. IFT answers are facts, rewritten so that they follow their constraints.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Literal, get_args

from srlm.data.checkers import AT_LEAST, LESS, follows
from srlm.types import Constraint

Part = Literal["ift", "eft", "pool", "development", "test"]
PARTS: tuple[Part, ...] = get_args(Part)
SHARES = {"eft": 85, "pool": 130, "development": 50, "test": 100}  # topics of each part; IFT has those of facts.txt
PROMPTS_OF_A_TOPIC = 3
SHORT, LONG = 12, 14  # words: fewer than the first, at least the second
REQUESTS = (
    "Give a short fact about {}.",
    "State one fact about {}.",
    "Tell me something true about {}.",
    "What is worth knowing about {}?",
)
ENDINGS = ("That is all.", "So it is.", "Now you know.", "Good to know.", "Ask me more.", "Is it not strange?")
COMMON = ("the", "and", "many", "most", "very", "that")  # words to avoid
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
        ("Write in lowercase letters only.", "Use no capital letters.", "Keep every letter small."),
        "case",
    ),
    "capitals": Kind(
        "change_case:english_capital",
        ("Write in capital letters only.", "Use capital letters throughout.", "Put every letter in upper case."),
        "case",
    ),
    "short": Kind(
        "length_constraints:number_words",
        ("Use fewer than {} words.", "Stay below {} words.", "The answer must have less than {} words."),
        "length",
        (str(SHORT),),
        lambda words: {"relation": LESS, "num_words": int(words)},
    ),
    "long": Kind(
        "length_constraints:number_words",
        ("Use at least {} words.", "Write {} words or more.", "The answer must have {} words or more."),
        "length",
        (str(LONG),),
        lambda words: {"relation": AT_LEAST, "num_words": int(words)},
    ),
    "quotes": Kind(
        "startend:quotation",
        (
            "Put the whole answer in double quotes.",
            "Begin and end with a double quote.",
            "Wrap all of it in double quotes.",
        ),
        "end",
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
    "avoid": Kind(
        "keywords:forbidden_words",
        ('Do not use the word "{}".', 'Avoid the word "{}".', 'The word "{}" must not occur.'),
        "word",
        COMMON,
        lambda word: {"forbidden_words": [word]},
    ),
}


def rows(part: Part) -> Iterator[dict[str, Any]]:
    """Yield the rows of a part, in IFEval's format; those of `ift` with an answer (`response`).

    The rows are always the same. `limit` draws some of them with a run's seed.
    """
    generator, used = random.Random(f"facts/{part}"), set[tuple[str, ...]]()
    for number, (topic, *fact) in enumerate(row for row in _topics(part) for _ in range(PROMPTS_OF_A_TOPIC)):
        chosen, response = _chosen(generator, fact)
        while (topic, *sorted(name for name, _ in chosen)) in used:
            chosen, response = _chosen(generator, fact)
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


def _chosen(generator: random.Random, fact: Sequence[str]) -> tuple[list[tuple[str, str]], str]:
    """Draw one or two constraints, with their arguments, and return them with an answer that follows them."""
    while True:
        names = generator.sample(list(KINDS), generator.choice((1, 2)))
        if len({KINDS[name].group for name in names}) < len(names):
            continue
        chosen = [(name, _argument(generator, name, fact)) for name in names]
        answer = _rewritten(fact, dict(chosen)) if fact else ""
        constraints = [Constraint(KINDS[name].id, KINDS[name].kwargs(argument)) for name, argument in chosen]
        if not fact or all(follows(constraint, answer) for constraint in constraints):
            return chosen, answer


def _argument(generator: random.Random, name: str, fact: Sequence[str]) -> str:
    words = [word for word in fact[0].split() if len(word) >= 4] if fact and name == "use" else KINDS[name].arguments
    return generator.choice(words) if words else ""


def _rewritten(fact: Sequence[str], chosen: Mapping[str, str]) -> str:
    """Return the fact in the asked form, as far as it can have it."""
    text = ". ".join(fact if "long" in chosen else fact[:1]) + "."
    if "ending" in chosen:
        text = f"{text} {chosen['ending']}"
    if "lowercase" in chosen:
        text = text.lower()
    if "capitals" in chosen:
        text = text.upper()
    return f'"{text}"' if "quotes" in chosen else text
