"""Loss masking: which tokens have a loss, and with what weight.

A chat that ends with an answer is one sequence of token ids: the prompt as an engine gets it, and the answer. A token
belongs to the template (roles, control tokens), to a prompt (the text of a system or user message), or to an answer
(the assistant's text with its end of turn, including earlier turns). `sft.train_on` selects the trained parts:

- completion: only answers (arXiv 2401.10020, section 3.1.2).
- all: answers and prompts (instruction modelling, arXiv 2405.14394).
- no_shared_text: like all, except text that all IFT prompts or all EFT prompts have in common (`shared_spans.py`).
- weighted: like all, with weight `sft.prompt_weight` for prompt tokens and 1 for answer tokens.

The only requirement for a template is that it renders a prompt in the same way with and without an answer. To find the
template's own text, the chat is rendered again with marks instead of the messages. Text that the assistant writes
after the prompt belongs to its answer: Llama 2's space, Qwen3's empty thought. Control tokens are never trained, except
the end of a turn. A token that contains both message and template text (" Hi" after "[INST]") belongs to the message.

The first token of a sequence has no loss, because no position predicts it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from typing import Any

from srlm.errors import ModelError
from srlm.models.chat import encode_reply_with_offsets, encode_turn, escape_special_tokens, render_turn
from srlm.models.chat_template import Message, control_tokens, render
from srlm.training.methods.sft import TrainOn

IGNORED = -100  # label that PyTorch's cross entropy ignores
Span = tuple[int, int]  # (start, end), without the end


class Part(IntEnum):
    """The part of a chat that a token belongs to; the larger value counts if it belongs to two."""

    template = 0
    boilerplate = 1
    prompt = 2
    answer = 3


@dataclass(frozen=True)
class Conversation:
    """A chat that ends with an answer, as token ids.

    Attributes
    ----------
    ids : list of int, length n
    parts : list of Part, length n
    text : str
        The rendered chat, up to the last token.
    extents : list of (int, int), length n
        Character span of each token in `text`; spans of tokens that share a character overlap.
    prompts : tuple of (int, str, int, int)
        Of each system and user message: its index in the chat, its role, and the start and end of its text in `text`.
        Empty if prompts were not located.
    number : int
        Index of the chat among the IFT or EFT examples.
    """

    ids: list[int]
    parts: list[Part]
    text: str
    extents: list[Span]
    prompts: tuple[tuple[int, str, int, int], ...] = ()
    number: int = 0


def looks_at_prompts(train_on: TrainOn) -> bool:
    """Return whether the tokens of prompts must be located."""
    return train_on is not TrainOn.completion


def token_weights(parts: Sequence[Part], train_on: TrainOn, prompt_weight: float) -> list[float]:
    """Return the weight of each token in the loss, 0 to 1; length n.

    Parameters
    ----------
    parts : sequence of Part, length n
    prompt_weight : float
        Weight of prompt tokens with `TrainOn.weighted`; 0 to 1.
    """
    of_prompt = {TrainOn.completion: 0.0, TrainOn.weighted: prompt_weight}.get(train_on, 1.0)
    weight = {
        Part.template: 0.0,
        Part.boilerplate: 0.0 if train_on is TrainOn.no_shared_text else of_prompt,
        Part.prompt: of_prompt,
        Part.answer: 1.0,
    }
    return [weight[part] if i else 0.0 for i, part in enumerate(parts)]


def labels_of(ids: Sequence[int], weights: Sequence[float]) -> list[int]:
    """Return the ids of tokens with a weight above 0, and `IGNORED` for the others."""
    return [token if weight > 0 else IGNORED for token, weight in zip(ids, weights, strict=True)]


def encode_conversation(tokenizer: Any, messages: Sequence[Message], with_prompts: bool = True) -> Conversation:
    """Return a chat's token ids, and the part that each token belongs to.

    Parameters
    ----------
    messages : sequence of {"role", "content"}
        The last message is the assistant's.
    with_prompts : bool
        Whether to locate the prompts' texts. If False, and without earlier answers, the complete prompt belongs to the
        template, and every template that `encode_turn` accepts can be used.

    Raises
    ------
    ModelError
        As for `srlm.models.chat.render_turn`. Also if prompts or earlier answers cannot be located, because the
        template changes their text, or the tokenizer returns no offsets.
    """
    *context, last = messages
    assert last["role"] == "assistant"
    prompt_ids, answer_ids = encode_turn(tokenizer, context, last["content"])
    roles = tuple(message["role"] for message in context)
    ids = prompt_ids + answer_ids
    if not with_prompts and "assistant" not in roles:
        return Conversation(ids, [Part.template] * len(prompt_ids) + [Part.answer] * len(answer_ids), "", [])
    if not tokenizer.is_fast:
        raise ModelError(
            "The model's tokenizer returns no offsets, so the tokens of prompts cannot be located. Use "
            "sft.train_on=completion, or a model with a fast tokenizer (tokenizer.json)."
        )
    before, after = render_turn(tokenizer, context, last["content"])
    frame = _frame(tokenizer, tokenizer.chat_template, roles)
    spans = _locate(before, frame, [escape_special_tokens(message["content"], tokenizer) for message in context])
    characters = [Part.template] * len(before)
    for n, (start, end) in enumerate(spans):
        if roles[n] == "assistant":
            closing = _end_of_turn(tokenizer, frame.pieces[n + 1])
            start, end = start - frame.leads[n], end + closing
        characters[start:end] = [Part.answer if roles[n] == "assistant" else Part.prompt] * (end - start)
    extents = _extents(tokenizer, before)
    controls = control_tokens(tokenizer)
    parts = []
    for token, extent in zip(prompt_ids, extents, strict=True):
        part = max(characters[slice(*extent)], default=Part.template)
        parts.append(Part.template if token in controls and part is not Part.answer else part)
    of_answer = _reply_extents(tokenizer, after)[: len(answer_ids)]
    if len(of_answer) < len(answer_ids):  # an EOS token that the template does not write
        after += tokenizer.eos_token
        of_answer.append((len(after) - len(tokenizer.eos_token), len(after)))
    parts += [Part.answer] * len(of_answer)
    extents += [(len(before) + start, len(before) + end) for start, end in of_answer]
    prompts = [(n, role, *span) for n, (role, span) in enumerate(zip(roles, spans, strict=True)) if role != "assistant"]
    return Conversation(ids, parts, (before + after)[: extents[-1][1]], extents, tuple(prompts))


@dataclass(frozen=True)
class _Frame:
    """A template's text around the messages of a chat.

    Attributes
    ----------
    pieces : tuple of str
        Text before the first message, between two messages, and after the last one up to the assistant's turn; empty
        if the messages cannot be located.
    leads : tuple of int
        Number of characters before each message's text that the assistant generates itself.
    """

    pieces: tuple[str, ...]
    leads: tuple[int, ...]


@lru_cache(maxsize=64)
def _frame(tokenizer: Any, template: str, roles: tuple[str, ...]) -> _Frame:
    marks = [f"qz{n}mark{n}zq" for n in range(len(roles))]
    chat = [{"role": role, "content": mark} for role, mark in zip(roles, marks, strict=True)]

    rendered = render(tokenizer, chat, True)
    leads = []
    for n, role in enumerate(roles):
        before = render(tokenizer, chat[:n], True) if n and role == "assistant" else rendered
        at = rendered.find(marks[n])
        leads.append(at - len(before) if at >= 0 and rendered.startswith(before) and before != rendered else 0)
    pieces, rest = [], rendered
    for mark in marks:
        if rest.count(mark) != 1:
            return _Frame((), tuple(leads))
        piece, rest = rest.split(mark)
        pieces.append(piece)
    return _Frame((*pieces, rest), tuple(leads))


def _locate(text: str, frame: _Frame, contents: Sequence[str]) -> list[Span]:
    """Return the span of each message in the rendered `text`; a template may strip whitespace of messages.

    Raises
    ------
    ModelError
        If the text does not consist of the frame's pieces and the contents.
    """

    def from_piece(at: int, n: int) -> list[Span] | None:
        if not text.startswith(frame.pieces[n], at):
            return None
        at += len(frame.pieces[n])
        if n == len(contents):
            return [] if at == len(text) else None
        content = contents[n]
        for form in dict.fromkeys((content, content.strip(), content.lstrip(), content.rstrip())):
            if text.startswith(form, at):
                rest = from_piece(at + len(form), n + 1)
                if rest is not None:
                    return [(at, at + len(form)), *rest]
        return None

    spans = from_piece(0, 0) if frame.pieces else None
    if spans is None:
        raise ModelError(
            "The chat template changes the messages' texts, so the tokens of prompts and earlier answers cannot be "
            "located. Use another template, such as model.chat_template=chatml, or, for single turns, "
            "sft.train_on=completion."
        )
    return spans


def _end_of_turn(tokenizer: Any, piece: str) -> int:
    """Return the length in characters of the end of turn at the start of a piece after an answer; 0 without one.

    Only the token that stops generation counts. gpt-oss ends earlier turns with another token. Templates without an
    end of turn continue with the next role's mark.
    """
    match = re.match(rf"\s*{re.escape(tokenizer.eos_token)}", piece)
    return match.end() if match else 0


def _extents(tokenizer: Any, text: str) -> list[Span]:
    """Return the character span of each token of a text; spans can overlap."""
    return _stretched(tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"], text)


def _reply_extents(tokenizer: Any, text: str) -> list[Span]:
    """Return the character span of each token of a text that continues another one."""
    return _stretched([span for _, span in encode_reply_with_offsets(tokenizer, text)], text)


def _stretched(spans: Sequence[Span], text: str) -> list[Span]:
    """Return token spans that include the whitespace that tokenizers omit from their offsets.

    A token begins at the end of the previous one, or at its offset, whichever is earlier. A token of whitespace only
    ends at the start of the next one.
    """
    extents, last = [], 0
    for i, (start, end) in enumerate(spans):
        first = min(start, last)
        following = spans[i + 1][0] if i + 1 < len(spans) else len(text)
        extents.append((first, end if end > first else max(end, following)))
        last = max(end, last)
    return extents
