"""The page of `srlm side-by-side`: one file without a script, every model's answers in a column.

Texts of models are hostile: they are escaped as they are put in, control characters are made visible, and the page's
policy allows nothing but its own two style sheets, by their hashes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from srlm import __version__
from srlm.evaluation.answer_facts import FACTS, counted
from srlm.io.files import write_atomic
from srlm.io.tables import cell, signed
from srlm.metrics import metric
from srlm.models.resolve import label
from srlm.reporting.page import asset, fingerprint

STYLES = ("report.css", "side_by_side.css")
WAYS = {"greedy": "Greedy decoding", "sampled": "Sampled"}


def write_side_by_side(card: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], to: Path) -> None:
    """Write the page.

    Parameters
    ----------
    card : mapping
        What side_by_side.json holds.
    rows : sequence of mapping
        What side_by_side.jsonl holds: a prompt each, with everybody's answers.
    """
    styles = [asset(name) for name in STYLES]
    allowed = " ".join(f"'{fingerprint(style)}'" for style in styles)
    by_type: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        by_type[row["type"] or "other"].append(row)
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template.filters |= {"seen": seen, "words": words, "phrase": lambda name: name.replace("_", " ")}
    page = template.from_string(asset("side_by_side.html")).render(
        policy=f"default-src 'none'; style-src {allowed}; base-uri 'none'; form-action 'none'",
        styles=[Markup(style) for style in styles],  # our own files; everything else is escaped
        models=card["models"],
        data=label(card["data"]),
        prompts=card["prompts"],
        constraints=card["constraints"],
        tables=[_table(card, way) for way in WAYS if any(row["way"] == way for row in card["rows"])],
        types=dict(sorted(by_type.items())),
        version=__version__,
    )
    # "replace": a lone surrogate, which JSON can smuggle in, has no UTF-8.
    write_atomic(to, page.encode("utf-8", "replace").decode("utf-8"))


def _table(card: Mapping[str, Any], way: str) -> dict[str, Any]:
    """One way's measures: rows of (label, a cell a model), over all prompts, against the first, and by type."""
    of_way = [row for row in card["rows"] if row["way"] == way]

    def rows_of(measures: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
        found = [(counted(name, measures), [cell(one[name], metric(name).scale) for one in measures]) for name in FACTS]
        return [(told, cells) for told, cells in found if set(cells) != {"-"}]

    parts = [("All prompts", rows_of([row["measures"] for row in of_way]))]
    if len(of_way) > 1:
        gaps = [
            (
                metric(name).heading,
                ["", *(signed(row["against_first"][name], metric(name).scale) for row in of_way[1:])],
            )
            for name in FACTS
        ]
        parts.append((f"Difference to {of_way[0]['model']}", [gap for gap in gaps if set(gap[1]) != {"", "-"}]))
    types = [
        (
            f"{kind.replace('_', ' ')} ({count} prompt{'s' * (count != 1)})",
            rows_of([row["types"][kind] for row in of_way]),
        )
        for kind, count in card["types"].items()
    ]
    return {"title": WAYS[way], "parts": parts, "types": types if len(types) > 1 else []}


def words(constraint: Mapping[str, Any]) -> str:
    """An instruction as a reader takes it in: "number words: at least 40"."""
    relations = {name: value for name, value in constraint["kwargs"].items() if name.endswith("relation")}
    others = [value for name, value in constraint["kwargs"].items() if name not in relations]
    values = [str(one) for value in others for one in (value if isinstance(value, list) else [value])]
    told = " ".join([*relations.values(), ", ".join(values)])
    name: str = constraint["id"].partition(":")[2].replace("_", " ")
    return f"{name}: {told}" if told else name


def seen(text: str) -> str:
    """A text whose control characters and line separators can be seen, and do nothing."""
    return "".join(_picture(one) for one in text)


def _picture(one: str) -> str:
    if one in "\n\t" or one.isprintable() or one == "\u3000":
        return one
    if ord(one) < 0x20:
        return chr(0x2400 + ord(one))
    return f"[U+{ord(one):04X}]"
