"""Generate arithmetic word problems and small logic puzzles with checkable answers and reasoning steps.

    python experiments/chain_of_thought/make_data.py --to data/chain_of_thought

The data are generated from the templates below (written for this project, CC0). share_00.jsonl to share_50.jsonl
contain the same training problems. In a file with share S, the prompts of S % of the problems ask for steps, and their
answers contain them. The other prompts ask for the answer only. A problem that has steps at one share also has them at
every larger share. evaluation.jsonl contains held-out problems, each with both forms of the prompt.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from srlm.io import serialization
from srlm.io.files import write_atomic
from srlm.types import Constraint, SeedExample


def _words(text: str) -> list[str]:
    return text.split()


SHARES = (0, 10, 25, 50)  # percent
DIRECT = "Give only the answer."
STEPS = "Think step by step, and end with the answer."
NAMES = _words(
    "Anna Ben Clara David Emma Farid Grace Hugo Iris Jonas Kira Leo Maya Noah Olga Pavel Rosa Sam Tara Victor"
)
THINGS = _words("apples pens books coins marbles stamps cards shells cookies tickets")
BOXES = _words("boxes bags drawers baskets jars")
ORDERS = (("taller", "tallest", "shortest"), ("older", "oldest", "youngest"), ("faster", "fastest", "slowest"))


@dataclass(frozen=True)
class Problem:
    """One problem: its text, the steps, the answer, and the possible answers ([] = a number)."""

    kind: str
    text: str
    steps: str
    answer: str
    options: list[str]


def _sum(rng: Random) -> Problem:
    name, other = rng.sample(NAMES, 2)
    things = rng.choice(THINGS)
    a, b, c = rng.randint(2, 20), rng.randint(2, 20), rng.randint(2, 9)
    forms = (
        (
            f"{name} has {a} {things} and buys {b} more. Then {name} gives {c} to {other}. How many {things} does "
            f"{name} have now?",
            f"{name} has {a} + {b} = {a + b}. After giving {c} away, {a + b} - {c} = {a + b - c} are left.",
            a + b - c,
        ),
        (
            f"There are {a} {things} on the table and {b} in the cupboard. {name} adds {c} to them. How many {things} "
            "are there in all?",
            f"Table and cupboard hold {a} + {b} = {a + b}. With {c} more, that is {a + b} + {c} = {a + b + c}.",
            a + b + c,
        ),
        (
            f"{name} had {a + b} {things}. {other} took {b} of them and later brought {c} back. How many {things} does "
            f"{name} have?",
            f"After {other} took some, {a + b} - {b} = {a} were left. With {c} back, that is {a} + {c} = {a + c}.",
            a + c,
        ),
    )
    text, steps, answer = rng.choice(forms)
    return Problem("arithmetic", text, steps, str(answer), [])


def _product(rng: Random) -> Problem:
    name = rng.choice(NAMES)
    things, boxes = rng.choice(THINGS), rng.choice(BOXES)
    a, b = rng.randint(2, 6), rng.randint(2, 9)
    c = rng.randint(1, a * b - 1)
    forms = (
        (
            f"{name} has {a} {boxes} with {b} {things} in each, and loses {c} {things}. How many {things} are left?",
            f"The {boxes} hold {a} * {b} = {a * b}. Without {c}, {a * b} - {c} = {a * b - c} are left.",
            a * b - c,
        ),
        (
            f"{name} has {a} {boxes} with {b} {things} in each, and {c} {things} beside them. How many is that?",
            f"The {boxes} hold {a} * {b} = {a * b}. With {c} more, that is {a * b} + {c} = {a * b + c}.",
            a * b + c,
        ),
    )
    text, steps, answer = rng.choice(forms)
    return Problem("arithmetic", text, steps, str(answer), [])


def _order(rng: Random) -> Problem:
    first, second, third = rng.sample(NAMES, 3)
    more, most, least = rng.choice(ORDERS)
    facts = [f"{first} is {more} than {second}.", f"{second} is {more} than {third}."]
    rng.shuffle(facts)
    top = rng.random() < 0.5
    return Problem(
        "logic",
        f"{facts[0]} {facts[1]} Who is the {most if top else least}?",
        f"From the {most} to the {least}: {first}, {second}, {third}. The {most if top else least} is "
        f"{first if top else third}.",
        first if top else third,
        sorted((first, second, third)),
    )


def _lamp(rng: Random) -> Problem:
    names = rng.sample(NAMES, 3)
    on = rng.random() < 0.5
    text, steps = f"A lamp is {'on' if on else 'off'}.", f"The lamp is {'on' if on else 'off'}."
    for name in names:
        if rng.random() < 0.5:
            on = not on
            text += f" {name} presses its switch."
            steps += f" {name} presses: it is {'on' if on else 'off'}."
        else:
            text += f" {name} does nothing."
            steps += f" {name} does nothing: it stays {'on' if on else 'off'}."
    return Problem("logic", f"{text} Is the lamp on now, yes or no?", steps, "yes" if on else "no", ["yes", "no"])


def problems(count: int, seed: str) -> list[Problem]:
    """Return `count` different problems, alternately arithmetic and logic."""
    rng = Random(seed)
    found: dict[str, Problem] = {}
    makers = (_sum, _order, _product, _lamp)
    while len(found) < count:
        problem = makers[len(found) % len(makers)](rng)
        found.setdefault(problem.text, problem)
    return list(found.values())


def example(number: int, problem: Problem, with_steps: bool) -> SeedExample:
    """Return a training example."""
    answer = f"Answer: {problem.answer}"
    return SeedExample(
        f"{problem.kind}-{number}",
        f"{problem.text} {STEPS if with_steps else DIRECT}",
        f"{problem.steps} {answer}" if with_steps else answer,
        problem.kind,
    )


def evaluation_prompt(number: int, problem: Problem, with_steps: bool) -> SeedExample:
    """Return an evaluation prompt, whose constraint is the correct answer."""
    right = (
        Constraint("final_answer:choice", {"answer": problem.answer, "options": problem.options})
        if problem.options
        else Constraint("final_answer:number", {"number": int(problem.answer)})
    )
    way = "step by step" if with_steps else "direct"
    prompt = f"{problem.text} {STEPS if with_steps else DIRECT}"
    return SeedExample(f"{number}-{way}", prompt, problem.answer, f"{problem.kind}, {way}", constraints=(right,))


def _write(path: Path, rows: Sequence[SeedExample]) -> None:
    print(f"{path.stem}: {len(rows)} prompts")
    write_atomic(path, "".join(serialization.to_json(row) + "\n" for row in rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--train", type=int, default=160, help="number of training problems (160)")
    parser.add_argument("--evaluation", type=int, default=100, help="number of evaluation problems (100)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    every = problems(arguments.train + arguments.evaluation, f"{arguments.seed}/problems")
    evaluation, train = every[: arguments.evaluation], every[arguments.evaluation :]
    arguments.to.mkdir(parents=True, exist_ok=True)
    # The first problems get steps. The kinds alternate, so every share has as much arithmetic as logic.
    for share in SHARES:
        explained = round(share / 100 * len(train))
        rows = [example(number, problem, number < explained) for number, problem in enumerate(train)]
        _write(arguments.to / f"share_{share:02}.jsonl", rows)
    both_forms = [
        evaluation_prompt(number, one, steps) for steps in (False, True) for number, one in enumerate(evaluation)
    ]
    _write(arguments.to / "evaluation.jsonl", both_forms)


if __name__ == "__main__":
    main()
