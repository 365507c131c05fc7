"""Shared text of all prompts, such as a system prompt, a preamble or the judge's rubric.

IFT and EFT examples are compared separately, and only messages with the same index and role. Shared text is the common
prefix, the common suffix, and the spans between them that occur in all messages in the same order. Answers have no
shared text, even if they repeat text: the model must learn "Score:".
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from difflib import SequenceMatcher

from srlm.training.masking import EncodedChat, Part, Span

SHORTEST = 4  # tokens; shorter common spans are coincidence


def mark_repeated(examples: Sequence[EncodedChat]) -> list[EncodedChat]:
    """Return the conversations with the shared tokens of their prompts marked as `Part.boilerplate`.

    A message whose index and role occur in one conversation only has no shared tokens.
    """
    messages: dict[tuple[int, str], list[tuple[int, list[int]]]] = defaultdict(list)
    for example, conversation in enumerate(examples):
        for n, role, *span in conversation.prompts:
            messages[n, role].append((example, _tokens_in(conversation, (span[0], span[1]))))
    marked: dict[int, set[int]] = defaultdict(set)
    for same_position in messages.values():
        rows = [[examples[example].ids[i] for i in tokens] for example, tokens in same_position]
        for (example, tokens), spans in zip(same_position, common_spans(rows), strict=True):
            marked[example].update(i for start, end in spans for i in tokens[start:end])
    return [_mark(conversation, marked[example]) for example, conversation in enumerate(examples)]


def mark_pattern(examples: Sequence[EncodedChat], pattern: str) -> list[EncodedChat]:
    """Return the conversations with prompt tokens inside matches of `pattern` marked as `Part.boilerplate`."""
    marked_examples = []
    for conversation in examples:
        marked = set()
        for _, _, start, end in conversation.prompts:
            matches = [match.span() for match in re.finditer(pattern, conversation.text[start:end])]
            for i in _tokens_in(conversation, (start, end)):
                first, last = conversation.extents[i]
                in_prompt = max(first - start, 0), min(last, end) - start
                if any(low <= in_prompt[0] and in_prompt[1] <= high for low, high in matches):
                    marked.add(i)
        marked_examples.append(_mark(conversation, marked))
    return marked_examples


def common_spans(rows: Sequence[Sequence[int]], shortest: int = SHORTEST) -> list[list[Span]]:
    """Return the spans that all rows have in common, in order.

    These are the common prefix, the common suffix, and spans between them. The spans start as the shortest row. For
    each further row they are reduced to their longest common parts with that row (Ratcliff and Obershelp's method).

    Parameters
    ----------
    rows : sequence of token ids
    shortest : int
        Minimum length of a span in tokens.

    Returns
    -------
    list of list of (start, end)
        The spans of each row; the lengths are the same for all rows. Empty for fewer than two rows.
    """
    if len(rows) < 2:
        return [[] for _ in rows]
    texts = ["".join(map(chr, row)) for row in rows]  # one character per token, because str searches are fast
    head = _common_beginning(texts)
    head = head if head >= shortest else 0
    tail = _common_beginning([text[head:][::-1] for text in texts])
    tail = tail if tail >= shortest else 0
    middles = [text[head : len(text) - tail] for text in texts]
    common = [min(middles, key=len)]
    for middle in middles:
        common = _in_common(middle, common, shortest)
    spans_of_rows = []
    for text, middle in zip(texts, middles, strict=True):
        spans, at = [(0, head)], 0
        for span in common:
            start = middle.index(span, at)
            at = start + len(span)
            spans.append((head + start, head + at))
        spans.append((len(text) - tail, len(text)))
        spans_of_rows.append([span for span in spans if span[0] < span[1]])
    return spans_of_rows


def _common_beginning(texts: list[str]) -> int:
    """Return the length of the common prefix, which is that of the first and the last text in sorted order."""
    first, last = min(texts), max(texts)
    return next((n for n, pair in enumerate(zip(first, last, strict=False)) if pair[0] != pair[1]), len(first))


def _in_common(text: str, spans: list[str], shortest: int) -> list[str]:
    """Return the parts of the spans that occur in a text, in their order."""
    common, at = [], 0
    for span in spans:
        start = text.find(span, at)
        if start >= 0:
            pieces = [(start, len(span))]
        else:
            blocks = SequenceMatcher(None, span, text[at:], autojunk=False).get_matching_blocks()
            pieces = [(at + block.b, block.size) for block in blocks]
        for start, size in pieces:
            if size >= shortest:
                common.append(text[start : start + size])
                at = start + size
    return common


def _tokens_in(conversation: EncodedChat, span: Span) -> list[int]:
    """Return the indices of a prompt's tokens."""
    start, end = span
    return [
        i
        for i, (first, last) in enumerate(conversation.extents)
        if conversation.parts[i] is Part.prompt and first < end and last > start
    ]


def _mark(conversation: EncodedChat, tokens: set[int]) -> EncodedChat:
    parts = [Part.boilerplate if i in tokens else part for i, part in enumerate(conversation.parts)]
    return replace(conversation, parts=parts)
