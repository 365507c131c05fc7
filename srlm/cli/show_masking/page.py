"""The examples on the terminal, and as one self-contained page without scripts.

Texts of people and models are untrusted: their control characters are spelled out, and on the page they are escaped.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from srlm.cli.show_masking.examples import KINDS, Share, Shown
from srlm.reporting.html import render_page

STYLES = {"learnt": "bold green", "partly": "yellow", "boilerplate": "magenta", "masked": "dim"}


def legend(weight: float) -> list[tuple[str, str, str, str]]:
    """Return (kind, opening mark, closing mark, words) of each kind; `weight` is that of prompt tokens, 0 if unused."""
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
    """Return the page."""
    legends = legend(weight)
    return render_page(
        "masking.html", ("masking.css",), title=title, legend=legends, examples=examples, totals=totals, options=options
    )
