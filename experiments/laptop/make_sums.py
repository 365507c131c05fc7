"""Write sums of two numbers in the files that a run reads: IFT with answers, and prompts with the correct answer.

    python experiments/laptop/make_sums.py FOLDER

The parts share no sum, in either order of its numbers. Written for this project, CC0.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

from srlm.io.files import write_atomic

SIZES = {"ift": 50, "eft": 250, "pool": 390, "development": 150, "test": 300}
LARGEST = 60
QUESTIONS = ("What is {} plus {}?", "Add {} and {}.", "How much is {} + {}?", "Compute {} + {}.")


def write_sums(folder: Path) -> None:
    """Write ift.jsonl, eft.jsonl, pool.jsonl, development.jsonl and test.jsonl, always the same."""
    generator = random.Random("sums")
    sums = [(a, b) for a in range(11, LARGEST + 1) for b in range(a, LARGEST + 1)]
    generator.shuffle(sums)
    for part, size in SIZES.items():
        lines = []
        for number in range(size):
            a, b = generator.sample(sums.pop(), 2)
            row = {
                "id": f"sums-{part}-{number:03}",
                "prompt": generator.choice(QUESTIONS).format(a, b),
                "instruction_id_list": ["final_answer:number"],
                "kwargs": [{"number": a + b}],
            }
            lines.append(row | ({"response": f"{a} + {b} = {a + b}"} if part == "ift" else {}))
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / f"{part}.jsonl", "".join(json.dumps(line) + "\n" for line in lines))


if __name__ == "__main__":
    write_sums(Path(sys.argv[1]))
