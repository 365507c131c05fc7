"""The text that the prompts of all examples repeat: a system prompt, a preamble, the judge's rubric.

It is looked for in one kind of examples at a time (IFT, EFT), and in messages of the same place and role: what all of
them begin with, what all of them end on, and in between the spans that all of them hold, in the same order. Answers are
never boilerplate, though they may repeat themselves, too: "Score:" is to be learnt.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from difflib import SequenceMatcher

from srlm.training.masking import Conversation, Part, Span

SHORTEST = 4  # tokens; shorter spans that all prompts hold are chance


def mark_repeated(examples: Sequence[Conversation]) -> list[Conversation]:
    """Conversations of one kind with the tokens that all prompts repeat as `Part.boilerplate`.

    Of a single message at its place, nothing is known to repeat.
    """
    tokens: dict[tuple[int, str], list[tuple[int, list[int]]]] = defaultdict(list)
    for example, conversation in enumerate(examples):
        for number, role, *span in conversation.prompts:
            tokens[number, role].append((example, _tokens_in(conversation, (span[0], span[1]))))
    marked: dict[int, set[int]] = defaultdict(set)
    for at_place in tokens.values():
        rows = [[examples[example].ids[place] for place in places] for example, places in at_place]
        for (example, places), spans in zip(at_place, common_spans(rows), strict=True):
            marked[example].update(place for start, end in spans for place in places[start:end])
    return [_mark(conversation, marked[example]) for example, conversation in enumerate(examples)]


def mark_pattern(examples: Sequence[Conversation], pattern: str) -> list[Conversation]:
    """Conversations with the tokens as `Part.boilerplate` whose whole text in a prompt lies in a match of `pattern`."""
    found = []
    for conversation in examples:
        marked = set()
        for _, _, start, end in conversation.prompts:
            matches = [match.span() for match in re.finditer(pattern, conversation.text[start:end])]
            for place in _tokens_in(conversation, (start, end)):
                first, last = conversation.extents[place]
                own = max(first - start, 0), min(last, end) - start
                if any(low <= own[0] and own[1] <= high for low, high in matches):
                    marked.add(place)
        found.append(_mark(conversation, marked))
    return found


def common_spans(rows: Sequence[Sequence[int]], shortest: int = SHORTEST) -> list[list[Span]]:
    """The spans that all rows have in common, in order.

    What all begin with and then what all end on; between them what the longest common spans of the shortest row and
    the next leave of it, and the next of that, until all were seen (Ratcliff and Obershelp's way of comparing).

    Parameters
    ----------
    rows : sequence of token ids
    shortest : int
        Spans of fewer tokens do not count.

    Returns
    -------
    For each row the spans' places in it, of the same lengths for all rows; none where there are fewer than two rows.
    """
    if len(rows) < 2:
        return [[] for _ in rows]
    texts = ["".join(map(chr, row)) for row in rows]  # a character a token: str's searches are fast
    head = _common_beginning(texts)
    head = head if head >= shortest else 0
    tail = _common_beginning([text[head:][::-1] for text in texts])
    tail = tail if tail >= shortest else 0
    middles = [text[head : len(text) - tail] for text in texts]
    common = [min(middles, key=len)]
    for middle in middles:
        common = _held_by(middle, common, shortest)
    found = []
    for text, middle in zip(texts, middles, strict=True):
        spans, at = [(0, head)], 0
        for span in common:
            start = middle.index(span, at)
            at = start + len(span)
            spans.append((head + start, head + at))
        spans.append((len(text) - tail, len(text)))
        found.append([span for span in spans if span[0] < span[1]])
    return found


def _common_beginning(texts: list[str]) -> int:
    """How many characters all texts begin with: as many as the first and the last of them in order."""
    first, last = min(texts), max(texts)
    return next((n for n, pair in enumerate(zip(first, last, strict=False)) if pair[0] != pair[1]), len(first))


def _held_by(text: str, spans: list[str], shortest: int) -> list[str]:
    """What of the spans stands in a text, in their order."""
    held, at = [], 0
    for span in spans:
        start = text.find(span, at)
        if start >= 0:
            pieces = [(start, len(span))]
        else:
            blocks = SequenceMatcher(None, span, text[at:], autojunk=False).get_matching_blocks()
            pieces = [(at + block.b, block.size) for block in blocks]
        for place, size in pieces:
            if size >= shortest:
                held.append(text[place : place + size])
                at = place + size
    return held


def _tokens_in(conversation: Conversation, span: Span) -> list[int]:
    """The places of a prompt's tokens."""
    start, end = span
    return [
        place
        for place, (first, last) in enumerate(conversation.extents)
        if conversation.parts[place] is Part.prompt and first < end and last > start
    ]


def _mark(conversation: Conversation, places: set[int]) -> Conversation:
    parts = [Part.boilerplate if place in places else part for place, part in enumerate(conversation.parts)]
    return replace(conversation, parts=parts)
