"""Make two datasets of equal total length: one with long instructions and short answers, one the other way round.

    python experiments/loss_over_instructions/make_data.py --to data/loss_over_instructions FILE...

FILEs contain instructions with answers in any format that srlm reads. Each example whose instruction is at least as
long as its answer (in characters) is matched with one whose instruction is at most a quarter of its answer: the one
with the nearest total length. The output files are long_instructions.jsonl and long_answers.jsonl for training, and one
with the prefix held_out_ for each.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from random import Random
from statistics import median

from srlm.data.config import SourceConfig
from srlm.data.readers import read_ift
from srlm.io import serialization
from srlm.io.files import write_atomic
from srlm.types import SeedExample

LONG, SHORT = 1.0, 0.25  # ratio of instruction length to answer length: at least, at most
TOTAL = (150, 1200)  # characters of instruction and answer: least, most


def matched(examples: Sequence[SeedExample]) -> list[tuple[SeedExample, SeedExample]]:
    """Return pairs (long instruction, long answer) of nearly equal total length, matched greedily from the longest."""

    def total(example: SeedExample) -> int:
        return len(example.prompt) + len(example.response)

    fitting = [one for one in examples if TOTAL[0] <= total(one) <= TOTAL[1]]
    ratio = {one.id: len(one.prompt) / len(one.response) for one in fitting}
    long = sorted((one for one in fitting if ratio[one.id] >= LONG), key=total, reverse=True)
    short = [one for one in fitting if ratio[one.id] <= SHORT]
    pairs = []
    for one in long:
        other = min(short, key=lambda candidate: (abs(total(candidate) - total(one)), candidate.id))
        short.remove(other)
        pairs.append((one, other))
    return pairs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", metavar="FILE")
    parser.add_argument("--to", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--held-out", type=float, default=0.3, help="share of the pairs that is held out (0.3)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    pairs = matched([one for file in arguments.files for one in read_ift(SourceConfig(path=file))])
    Random(arguments.seed).shuffle(pairs)
    held_out = round(arguments.held_out * len(pairs))
    arguments.to.mkdir(parents=True, exist_ok=True)
    for kind, name in enumerate(("long_instructions", "long_answers")):
        own = [pair[kind] for pair in pairs]
        lengths = (median(len(one.prompt) for one in own), median(len(one.response) for one in own))
        print(
            f"{name}: {len(own)} examples; characters (median): instruction {lengths[0]:.0f}, answer {lengths[1]:.0f}"
        )
        for part, rows in (("held_out_", own[:held_out]), ("", own[held_out:])):
            write_atomic(
                arguments.to / f"{part}{name}.jsonl", "".join(serialization.to_json(row) + "\n" for row in rows)
            )


if __name__ == "__main__":
    main()
