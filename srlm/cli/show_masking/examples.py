"""Examples as runs of tokens: trained, weighted, shared text, or masked.

The examples are built with the functions of a run (`srlm.data.prepare.read_seeds`, `srlm.judges.eft.examples_of_run`,
the training method `SFT`), so they are those that the trainer gets.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from srlm.config import ShowMasking
from srlm.data.config import RationaleSource
from srlm.data.prepare import read_eft_seeds, read_ift_seeds, read_own_seeds, read_seeds
from srlm.errors import ConfigError, ModelError, NoRanksError, SeedError
from srlm.io.progress import say
from srlm.judges import spec_of
from srlm.judges.eft import examples_of_run, needs_baseline, sft_uses_eft
from srlm.judges.prompt import JudgeTemplate
from srlm.models.resolve import label
from srlm.training.encoding import chats_of, conversations
from srlm.training.masking import EncodedChat, Part, looks_at_prompts
from srlm.training.methods.sft import SFT, EncodedSamples
from srlm.types import JudgeExample, RankedPrompt, SeedExample

KINDS = {  # what a token is: its marks where there is no colour, and what that means
    "learnt": ("⟦", "⟧", "learnt, weight 1"),
    "partly": ("⟪", "⟫", "learnt in part, weight {weight:g}"),
    "boilerplate": ("⟨", "⟩", "boilerplate: every prompt of its kind has it; not learnt"),
    "masked": ("", "", "masked: not learnt"),
}


@dataclass(frozen=True)
class Token:
    id: int
    text: str  # as `visible` shows it; "" where it shares its character with the token before
    weight: float


@dataclass(frozen=True)
class Run:
    """Neighbouring tokens of one of the `KINDS`."""

    kind: str
    tokens: list[Token]


@dataclass(frozen=True)
class Share:
    """How much is learnt of all examples of one kind, or of one of them."""

    name: str  # "IFT", "EFT", or an example's place among them
    examples: int
    tokens: int
    learnt: int  # tokens with a weight above 0
    boilerplate: int  # tokens that are not learnt as such
    weight: float  # the sum of all weights

    def words(self) -> str:
        return (
            f"{self.tokens} tokens, {self.learnt} learnt ({100 * self.learnt / self.tokens:.0f} %), sum of weights "
            f"{self.weight:g}, boilerplate {self.boilerplate}"
        )


@dataclass(frozen=True)
class Shown:
    """One example."""

    share: Share
    runs: list[Run]


@dataclass(frozen=True)
class Example:
    """One example as the trainer gets it, with its text."""

    conversation: EncodedChat
    weights: list[float]  # of each token


def rows_of(options: ShowMasking) -> list[SeedExample | JudgeExample]:
    """Return the IFT and EFT examples that SFT trains on in a run with these options.

    With `options.dataset` all of that file instead, as IFT and as EFT: without the split, which would keep one of the
    two.

    Raises
    ------
    SeedError
        If the data cannot be read.
    """
    if not options.dataset:
        ift, ranked = _rows_of_run(options)
    else:
        ift_source, eft_source = (
            replace(source, path=options.dataset, split=options.split)
            for source in (options.data.ift, options.data.eft)
        )
        options = replace(options, data=replace(options.data, ift=ift_source, eft=eft_source))
        ift, ranked = read_ift_seeds(options), []
    spec = spec_of(options.judge)
    ift = ift if options.dataset or options.sft.uses_ift else []
    if not (spec.eft_in_sft if options.dataset else sft_uses_eft(options)):
        return [*ift]
    if options.data.own_answers.used and not options.dataset:
        say("  EFT examples are not shown, because a model writes their answers during the run")
        return [*ift]
    if options.dataset:
        try:
            ranked = read_eft_seeds(options)
        except NoRanksError:
            say(
                f"  {label(options.dataset)} is shown as IFT data. It has no ranked answers, so it gives no EFT "
                "examples."
            )
            return [*ift]
        except SeedError as error:
            say(
                f"  WARNING: {label(options.dataset)} is shown as IFT data only, because it gives no EFT examples: "
                f"{error}"
            )
            return [*ift]
    if needs_baseline(ranked, options.data.rationales) and spec.eft == "scores":
        say("  EFT examples are shown without the rationales that the SFT baseline would write")
        options = replace(options, data=replace(options.data, rationales=RationaleSource.none))
    judged, _ = examples_of_run(options, ranked, [])
    return [*ift, *judged]


def _rows_of_run(options: ShowMasking) -> tuple[list[SeedExample], list[RankedPrompt]]:
    """Return the IFT and EFT seeds for training; a model's own EFT answers exist only in a run."""
    if options.data.own_answers.used:
        return read_own_seeds(options)[0].ift, []
    split, _ = read_seeds(options)
    return split.ift, split.train


def examples_of(
    tokenizer: Any, rows: Sequence[SeedExample | JudgeExample], options: ShowMasking
) -> tuple[dict[str, list[Example]], EncodedSamples]:
    """Return the examples that the trainer gets, by kind and in its order, and all data that it gets.

    Boilerplate is marked even where `sft.train_on` does not look for it, if the template lets it be found.

    Raises
    ------
    TrainingError
        If no example is left.
    ModelError, ConfigError
        If the options need the prompts' tokens, and these or the boilerplate cannot be found.
    """
    data = SFT().encode(tokenizer, rows, options.sft, options)
    judged = any(isinstance(row, JudgeExample) for row in rows)
    chats = chats_of(rows, JudgeTemplate.load(options.judge) if judged else None)
    try:
        found = conversations(tokenizer, chats, options.sft, with_prompts=True)
    except (ModelError, ConfigError):
        if looks_at_prompts(options.sft.train_on):
            raise
        plain = conversations(tokenizer, chats, options.sft, with_prompts=False)
        found = {kind: [_with_text(tokenizer, each) for each in of_kind] for kind, of_kind in plain.items()}
    by_place: dict[tuple[str, int], list[EncodedChat]] = defaultdict(list)
    for kind, of_kind in found.items():
        for each in of_kind:
            by_place[kind, each.number].append(each)
    examples: dict[str, list[Example]] = {}
    samples = data.samples
    for place, ids, weights in zip(samples.places, samples.input_ids, samples.weights, strict=True):
        sample = next(each for each in by_place[place] if each.ids == ids)
        examples.setdefault(place[0], []).append(Example(sample, weights))
    return examples, data


def share(name: str, examples: Sequence[Example]) -> Share:
    """Return what is learnt of these examples."""
    flat = [pair for each in examples for pair in zip(each.conversation.parts, each.weights, strict=True)]
    return Share(
        name=name,
        examples=len(examples),
        tokens=len(flat),
        learnt=sum(weight > 0 for _, weight in flat),
        boilerplate=sum(part is Part.boilerplate and weight == 0 for part, weight in flat),
        weight=round(sum(weight for _, weight in flat), 6),
    )


def shown(name: str, example: Example) -> Shown:
    """Return one example as runs of tokens."""
    conversation = example.conversation
    tokens, seen = [], 0
    for place, (part, weight) in enumerate(zip(conversation.parts, example.weights, strict=True)):
        start, end = conversation.extents[place]
        text = conversation.text[max(start, seen) : end]
        seen = max(seen, end)
        kind = "learnt" if weight == 1 else "partly" if weight else "masked"
        if part is Part.boilerplate and not weight:
            kind = "boilerplate"
        tokens.append((kind, Token(conversation.ids[place], visible(text), weight)))
    grouped = itertools.groupby(tokens, key=lambda pair: pair[0])
    return Shown(share(name, [example]), [Run(kind, [token for _, token in pairs]) for kind, pairs in grouped])


def visible(text: str) -> str:
    """Text that does nothing where it is shown: control characters spelt out, newlines marked."""
    return "".join(
        "↵\n" if c == "\n" else c if c.isprintable() else f"\\x{ord(c):02x}" if ord(c) < 256 else f"\\u{ord(c):04x}"
        for c in text
    )


def _with_text(tokenizer: Any, conversation: EncodedChat) -> EncodedChat:
    """A conversation whose text was not looked for, with the text of its tokens, each by itself."""
    pieces = [tokenizer.decode([token]) for token in conversation.ids]
    ends = itertools.accumulate(map(len, pieces), initial=0)
    return replace(conversation, text="".join(pieces), extents=list(itertools.pairwise(ends)))
