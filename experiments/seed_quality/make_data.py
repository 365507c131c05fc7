"""Make training and held-out data from prompts with at least three ranked answers.

    python experiments/seed_quality/make_data.py --to data/seed_quality FILE...

FILEs contain ranked answers in any format that srlm reads. The output files are ranked.jsonl for training, and
held_out_best.jsonl and held_out_worst.jsonl with the best and the worst answer to each held-out prompt.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from random import Random
from statistics import median

from srlm.data.config import SourceConfig
from srlm.data.readers import read_ranked
from srlm.io import serialization
from srlm.io.files import write_atomic
from srlm.types import RankedPrompt, SeedExample

LONGEST = 1000  # maximum characters of a prompt and of each answer, so that no training example is too long
ANSWERS = 3  # minimum number of answers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", metavar="FILE")
    parser.add_argument("--to", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--held-out", type=int, default=50, help="number of held-out prompts (50)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    every = [one for file in arguments.files for one in read_ranked(SourceConfig(path=file))]
    fitting = [one for one in every if len(one.answers) >= ANSWERS and _longest(one) <= LONGEST]
    Random(arguments.seed).shuffle(fitting)
    held_out, train = fitting[: arguments.held_out], fitting[arguments.held_out :]
    print(f"{len(every)} prompts; {len(train)} to train on, {len(held_out)} held out")
    print(f"answers to train on: {sum(len(one.answers) for one in train)}")
    for name, place in (("best", 0), ("worst", -1)):
        print(f"median characters of the {name}: {median(len(one.answers[place].text) for one in train):.0f}")
    arguments.to.mkdir(parents=True, exist_ok=True)
    _write(arguments.to / "ranked.jsonl", train)
    for name, place in (("best", 0), ("worst", -1)):
        rows = [SeedExample(one.id, one.prompt, one.answers[place].text, source=one.source) for one in held_out]
        _write(arguments.to / f"held_out_{name}.jsonl", rows)


def _longest(prompt: RankedPrompt) -> int:
    return max(len(text) for text in (prompt.prompt, *(answer.text for answer in prompt.answers)))


def _write(path: Path, rows: list[RankedPrompt] | list[SeedExample]) -> None:
    write_atomic(path, "".join(serialization.to_json(row) + "\n" for row in rows))


if __name__ == "__main__":
    main()
