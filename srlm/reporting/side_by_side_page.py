"""The page of `srlm evaluate` that shows every model's answers to the same prompts in columns: one file, no script.

Texts of models are untrusted. They are escaped, and control characters are made visible.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from srlm.data.checkers import constraint_words, follows
from srlm.evaluation.text_statistics import facts
from srlm.io.files import write_atomic
from srlm.io.tables import Section
from srlm.models.conversation import dialogue
from srlm.reporting.html import render_page
from srlm.types import Answer, SeedExample


def write_side_by_side(
    models: Mapping[str, Mapping[str, Answer]],
    prompts: Sequence[SeedExample],
    data: str,
    tables: Mapping[str, Sequence[Section]],
    to: Path,
    behaviour_lines: Sequence[str] = (),
) -> None:
    """Write the page.

    Parameters
    ----------
    models : mapping
        Model name -> prompt id -> answer. A prompt may have no answer.
    data : str
        The name of the prompts' data.
    tables : mapping
        "all": the sections of the table of measures, with one cell per model. "types": the same by type of prompt.
        "behaviours", optional: the same of behaviours where they are asked for and where they are not.
    behaviour_lines : sequence of str
        Sentences about behaviours in which a model differs from the first one.
    """
    by_type: dict[str, list[SeedExample]] = defaultdict(list)
    for prompt in prompts:
        by_type[prompt.type or "other"].append(prompt)
    page = render_page(
        "side_by_side.html",
        ("report.css", "side_by_side.css"),
        models=models,
        data=data,
        prompts=len(prompts),
        constraints=sum(len(prompt.constraints) for prompt in prompts),
        tables=tables,
        behaviour_lines=behaviour_lines,
        types=dict(sorted(by_type.items())),
        facts=facts,
        follows=follows,
        words=constraint_words,
        seen=seen,
        dialogue=dialogue,
    )
    write_atomic(to, page)


def seen(text: str) -> str:
    """Return the text with visible symbols instead of control characters and line separators."""
    return "".join(_picture(one) for one in text)


def _picture(one: str) -> str:
    if one in "\n\t" or one.isprintable() or one == "\u3000":
        return one
    if ord(one) < 0x20:
        return chr(0x2400 + ord(one))
    return f"[U+{ord(one):04X}]"
