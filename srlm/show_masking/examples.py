"""Examples as runs of tokens that are learnt, learnt in part, boilerplate, or masked."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from srlm.chat import Message
from srlm.config import LossOn, RationaleSource, ShowMasking, SourceConfig
from srlm.errors import ModelError, SeedError, TrainingError
from srlm.progress import say
from srlm.rubric import JudgeTemplate
from srlm.seeds.eft import build_examples, needs_baseline
from srlm.seeds.readers import read_ift, read_ranked
from srlm.training.masking import Conversation, Part, token_weights
from srlm.training.sft import conversations, eft_example, ift_example

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
    """What is learnt of all examples of one kind, or of one of them."""

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


def kinds_of(options: ShowMasking) -> dict[str, list[list[Message]]]:
    """The chats of each kind (IFT, EFT) that SFT would make of `options.data`.

    Raises
    ------
    SeedError
        If the data cannot be read.
    """
    languages = options.seeds.builtin_languages if options.data == "builtin" else []
    source = SourceConfig(path=options.data, split=options.split, languages=languages)
    kinds = {"IFT": [ift_example(example) for example in read_ift(source, options.seed)]}
    if options.judge.rates:
        return kinds
    try:
        ranked = read_ranked(source, options.seed)
    except SeedError as error:
        say(f"  No EFT examples: {error}")
        return kinds
    seeds = options.seeds
    if needs_baseline(ranked, seeds.rationales) and not options.judge.learns_pairs:
        say("  EFT examples are shown without the rationales that the SFT baseline would write")
        seeds = replace(seeds, rationales=RationaleSource.none)
    template = JudgeTemplate.load(options.judge)
    examples, _ = build_examples(ranked, [], seeds, options.judge, options.seed)
    return kinds | {"EFT": [eft_example(example, template) for example in examples]}


def encoded(tokenizer: Any, kinds: Mapping[str, list[list[Message]]], options: ShowMasking) -> dict[str, Any]:
    """Conversations of each kind; boilerplate is marked whatever the loss is on, where the template lets it be found.

    Raises
    ------
    TrainingError
        If all examples are too long.
    ModelError
        If the options need the prompts' tokens, and they cannot be found.
    """
    try:
        found = conversations(tokenizer, kinds, options.sft, with_prompts=True)
    except ModelError:
        if options.sft.loss_on is not LossOn.completion:
            raise
        plain = conversations(tokenizer, kinds, options.sft, with_prompts=False)
        found = {kind: [_with_text(tokenizer, each) for each in of_kind] for kind, of_kind in plain.items()}
    if not any(found.values()):
        raise TrainingError(f"All examples are longer than sft.max_length={options.sft.max_length} tokens. Raise it.")
    return {kind: of_kind for kind, of_kind in found.items() if of_kind}


def share(name: str, examples: Sequence[Conversation], options: ShowMasking) -> Share:
    """What is learnt of these examples."""
    rows = [_with_weights(conversation, options) for conversation in examples]
    flat = [pair for row in rows for pair in row]
    return Share(
        name=name,
        examples=len(examples),
        tokens=len(flat),
        learnt=sum(weight > 0 for _, weight in flat),
        boilerplate=sum(part is Part.boilerplate and weight == 0 for part, weight in flat),
        weight=round(sum(weight for _, weight in flat), 6),
    )


def shown(name: str, conversation: Conversation, options: ShowMasking) -> Shown:
    """One example as runs of tokens."""
    tokens, seen = [], 0
    for place, (part, weight) in enumerate(_with_weights(conversation, options)):
        start, end = conversation.extents[place]
        text = conversation.text[max(start, seen) : end]
        seen = max(seen, end)
        kind = "learnt" if weight == 1 else "partly" if weight else "masked"
        if part is Part.boilerplate and not weight:
            kind = "boilerplate"
        tokens.append((kind, Token(conversation.ids[place], visible(text), weight)))
    grouped = itertools.groupby(tokens, key=lambda pair: pair[0])
    return Shown(
        share(name, [conversation], options), [Run(kind, [token for _, token in pairs]) for kind, pairs in grouped]
    )


def visible(text: str) -> str:
    """Text that does nothing where it is shown: control characters spelt out, newlines marked."""
    return "".join(
        "↵\n" if c == "\n" else c if c.isprintable() else f"\\x{ord(c):02x}" if ord(c) < 256 else f"\\u{ord(c):04x}"
        for c in text
    )


def _with_text(tokenizer: Any, conversation: Conversation) -> Conversation:
    """A conversation whose text was not looked for, with the text of its tokens, each by itself."""
    pieces = [tokenizer.decode([token]) for token in conversation.ids]
    ends = itertools.accumulate(map(len, pieces), initial=0)
    return replace(conversation, text="".join(pieces), extents=list(itertools.pairwise(ends)))


def _with_weights(conversation: Conversation, options: ShowMasking) -> list[tuple[Part, float]]:
    weights = token_weights(conversation.parts, options.sft.loss_on, options.sft.prompt_weight)
    return list(zip(conversation.parts, weights, strict=True))
