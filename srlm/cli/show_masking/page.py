"""The examples on the terminal, and as one page that needs nothing else and lets nothing run.

Texts of people and models are hostile: on the terminal their control characters are spelt out, on the page they are
escaped as well, and its Content-Security-Policy allows one style sheet, by its hash, and no script.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup
from rich.console import Console
from rich.text import Text

from srlm import __version__
from srlm.cli.show_masking.examples import KINDS, Share, Shown

STYLES = {"learnt": "bold green", "partly": "yellow", "boilerplate": "magenta", "masked": "dim"}


def legend(weight: float) -> list[tuple[str, str, str, str]]:
    """(kind, opening mark, closing mark, words) of each kind; `weight` is a prompt token's, 0 where none has one."""
    kinds = {kind: value for kind, value in KINDS.items() if kind != "partly" or 0 < weight < 1}
    return [(kind, opens, closes, words.format(weight=weight)) for kind, (opens, closes, words) in kinds.items()]


def show(examples: Sequence[Shown], totals: Sequence[Share], title: str, weight: float, console: Console) -> None:
    """Print the legend, each example, and what is learnt of all."""
    key = Text(f"{title}\n")
    for kind, opens, closes, words in legend(weight):
        key.append(f"{opens}{words}{closes}", STYLES[kind]).append("\n")
    console.print(key)
    for example in examples:
        text = Text(f"{example.share.name}: {example.share.words()}\n", style="")
        text.stylize("bold underline", 0, len(example.share.name))
        for run in example.runs:
            opens, closes, _ = KINDS[run.kind]
            text.append(opens + "".join(token.text for token in run.tokens) + closes, STYLES[run.kind])
        console.print(text, soft_wrap=True)
        console.print()
    for total in totals:
        console.print(Text(f"All {total.examples} {total.name} examples: {total.words()}"), soft_wrap=True)


def render(
    examples: Sequence[Shown], totals: Sequence[Share], title: str, weight: float, options: dict[str, Any]
) -> str:
    """The page."""
    style = _asset("page.css")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(_asset("page.html"))
    return template.render(
        title=title,
        policy=f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'",
        style=Markup(style),  # our own file; everything else is escaped
        legend=legend(weight),
        examples=examples,
        totals=totals,
        options=options,
        version=__version__,
    )


def _asset(name: str) -> str:
    return resources.files("srlm.cli.show_masking").joinpath(name).read_text(encoding="utf-8").strip()
