"""`srlm show-masking [model=NAME] [dataset=FILE] [count=N] [sft.train_on=...]`: show the tokens that SFT trains on.

The first IFT and EFT examples are shown token by token (trained, weighted, shared text, masked), on the terminal and as
a page, runs_dir/name/masking.html. The examples are those of a run with the same options; `dataset=FILE` is another
source for both. Nothing is trained, and no run is needed. Texts are untrusted: control characters are spelled out, and
the page escapes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from srlm.cli.application import application
from srlm.cli.by_model import resolve_options
from srlm.cli.show_masking.examples import KINDS, Share, Shown, examples_of, rows_of, share, shown
from srlm.config import ShowMasking
from srlm.errors import ConfigError
from srlm.io.files import write_atomic
from srlm.io.progress import say, screen
from srlm.models.chat_template import load_tokenizer
from srlm.models.resolve import label, resolve
from srlm.pipeline.workspace import Workspace
from srlm.reporting.html import render_page
from srlm.run import show_notes
from srlm.training.methods.sft import TrainOn

STYLES = {"learnt": "bold green", "partly": "yellow", "boilerplate": "magenta", "masked": "dim"}


def run(options: ShowMasking) -> Path:
    """Print the examples, write the page and return its path. Raises SrlmError for errors that a user can fix."""
    if options.count < 1:
        raise ConfigError(f"count={options.count!r} is invalid: it must be 1 or more.")
    show_notes()
    options = resolve_options(options)
    tokenizer = load_tokenizer(resolve(options.model), options.model)
    found, data = examples_of(tokenizer, rows_of(options), options)
    examples = [
        shown(f"{kind.upper()} {number + 1}", example)
        for kind, of_kind in found.items()
        for number, example in enumerate(of_kind[: options.count])
    ]
    totals = [share(kind.upper(), of_kind) for kind, of_kind in found.items()]
    title = f"Tokens that SFT trains on: sft.train_on={options.sft.train_on.name}, {label(options.model.name)}"
    weight = options.sft.prompt_weight if options.sft.train_on is TrainOn.weighted else 0.0
    show(examples, totals, title, weight, screen())
    if options.sft.packing:
        rows, count = data.counts["rows"], data.counts["examples"]
        say(f"  sft.packing: {count} examples in {rows} rows of at most {options.sft.max_length} tokens")
    sources = dict.fromkeys((options.data.ift.path, options.data.eft.path))
    facts = {
        "model.name": label(options.model.name),
        "data": label(options.dataset) if options.dataset else ", ".join(map(label, sources)),
        "data.ift_answers": options.data.ift_answers.name,
        "judge.template": label(options.judge.template),
        "sft.train_on": options.sft.train_on.name,
        "sft.turns": options.sft.turns.name,
        "sft.prompt_weight": f"{options.sft.prompt_weight:g}",
        "sft.shared_text": options.sft.shared_text,
        "sft.max_length": options.sft.max_length,
        "sft.packing": options.sft.packing,
    }
    path = Workspace.of(options).root / "masking.html"
    write_atomic(path, render(examples, totals, title, weight, facts))
    say(f"\nPage  {path}")
    return path


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


main = application("show-masking", run)

if __name__ == "__main__":
    main()
