"""A file of EFT prompts with constraints, and the options of a run whose model answers them."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from tests.helpers import WORDS

# Half of the answers of a scripted engine, about, follow each of these.
CONSTRAINTS = [
    {"id": "keywords:letter_frequency", "kwargs": {"letter": "k", "let_frequency": 3, "let_relation": "at least"}},
    {"id": "length_constraints:number_words", "kwargs": {"num_words": 15, "relation": "at least"}},
]


def write_prompts(path: Path, count: int = 12, **more: Any) -> Path:
    """Write prompts of ten random words, with `CONSTRAINTS` and the fields `more`; return the path."""
    draw = random.Random(5)
    rows = [
        {"id": f"q{n}", "prompt": " ".join(draw.choices(WORDS, k=10)), "constraints": CONSTRAINTS} | more
        for n in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
