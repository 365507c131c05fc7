"""Which tokens carry the loss, and with what weight.

A chat that ends on an answer is one sequence of token ids, the prompt as an engine is given it and the answer after it.
Each token is part of what the template writes (roles, control tokens), of a prompt (the text of a system or user
message), or of an answer: an assistant's text with the end of its turn, of earlier turns, too. `sft.train_on` says
which parts are learnt:

- completion: answers alone (arXiv 2401.10020, section 3.1.2).
- full: answers and prompts (instruction modelling, arXiv 2405.14394).
- no_shared_text: as full, less what all prompts of a kind, IFT or EFT, have in common (`boilerplate.py`).
- weighted: as full, where a prompt's token counts `sft.prompt_weight` and an answer's 1.

Nothing is asked of a template but that it renders a prompt the same before and after its answer: it is rendered once
more with marks in the place of the texts, which shows what it writes itself. Whatever the
assistant has to write after the prompt that an engine is given is part of its answer: Llama 2's blank, Qwen3's empty
thought. Control tokens are never learnt but as the end of a turn. A token that is partly a text and partly the
template's (" Hi" after "[INST]") counts as the text.

The first token of a sequence is learnt by none of them: nothing predicts it.
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

IGNORED = -100  # the label that PyTorch's cross entropy leaves out
Span = tuple[int, int]  # from, up to but not including


class Part(IntEnum):
    """What a token is part of; the larger one holds where a token is part of two."""

    template = 0
    boilerplate = 1
    prompt = 2
    answer = 3


@dataclass(frozen=True)
class Conversation:
    """A chat that ends on an answer, as token ids.

    Attributes
    ----------
    ids : list of int, length n
    parts : list of Part, length n
    text : str
        All of it as the template renders it, up to the last token.
    extents : list of (int, int), length n
        Where in `text` each token stands; tokens that share a character have it both.
    prompts : tuple of (int, str, int, int)
        Of each system and user message: its number in the chat, its role, and where in `text` its text stands. Empty
        where prompts were not looked for.
    number : int
        Its place among the chats of its kind.
    """

    ids: list[int]
    parts: list[Part]
    text: str
    extents: list[Span]
    prompts: tuple[tuple[int, str, int, int], ...] = ()
    number: int = 0


def looks_at_prompts(train_on: TrainOn) -> bool:
    """Whether it must be known which tokens are a prompt's text."""
    return train_on is not TrainOn.completion


def token_weights(parts: Sequence[Part], train_on: TrainOn, prompt_weight: float) -> list[float]:
    """The weight of each token in the loss, 0 to 1.

    Parameters
    ----------
    parts : sequence of Part, length n
    prompt_weight : float
        Of a prompt's token with `TrainOn.weighted`; 0 to 1.
    """
    of_prompt = {TrainOn.completion: 0.0, TrainOn.weighted: prompt_weight}.get(train_on, 1.0)
    weight = {
        Part.template: 0.0,
        Part.boilerplate: 0.0 if train_on is TrainOn.no_shared_text else of_prompt,
        Part.prompt: of_prompt,
        Part.answer: 1.0,
    }
    return [weight[part] if place else 0.0 for place, part in enumerate(parts)]


def labels_of(ids: Sequence[int], weights: Sequence[float]) -> list[int]:
    """The ids where the weight is above 0, `IGNORED` elsewhere; all of one length."""
    return [token if weight > 0 else IGNORED for token, weight in zip(ids, weights, strict=True)]


def encode_conversation(tokenizer: Any, messages: Sequence[Message], with_prompts: bool = True) -> Conversation:
    """A chat's token ids, and what each is part of.

    Parameters
    ----------
    messages : sequence of {"role", "content"}
        The last one is the assistant's.
    with_prompts : bool
        Look for the prompts' texts. Without, and with no earlier answers, the whole prompt counts as the template's,
        and any template that `encode_turn` takes will do.

    Raises
    ------
    ModelError
        As `srlm.models.chat.render_turn`; or if prompts or earlier answers cannot be found, since the template changes
        their text, or the tokenizer does not tell where its tokens stand.
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
            "The model's tokenizer does not tell where in a text its tokens stand, so those of prompts cannot be "
            "found. Use sft.train_on=completion, or a model with a fast tokenizer (tokenizer.json)."
        )
    before, after = render_turn(tokenizer, context, last["content"])
    frame = _frame(tokenizer, tokenizer.chat_template, roles)
    places = _places(before, frame, [escape_special_tokens(message["content"], tokenizer) for message in context])
    characters = [Part.template] * len(before)
    for number, (start, end) in enumerate(places):
        if roles[number] == "assistant":
            closing = _end_of_turn(tokenizer, frame.pieces[number + 1])
            start, end = start - frame.leads[number], end + closing
        characters[start:end] = [Part.answer if roles[number] == "assistant" else Part.prompt] * (end - start)
    extents = _extents(tokenizer, before)
    controls = control_tokens(tokenizer)
    parts = []
    for token, extent in zip(prompt_ids, extents, strict=True):
        part = max(characters[slice(*extent)], default=Part.template)
        parts.append(Part.template if token in controls and part is not Part.answer else part)
    of_answer = _reply_extents(tokenizer, after)[: len(answer_ids)]
    if len(of_answer) < len(answer_ids):  # an end of sequence that the template does not write
        after += tokenizer.eos_token
        of_answer.append((len(after) - len(tokenizer.eos_token), len(after)))
    parts += [Part.answer] * len(of_answer)
    extents += [(len(before) + start, len(before) + end) for start, end in of_answer]
    prompts = [
        (number, role, *place)
        for number, (role, place) in enumerate(zip(roles, places, strict=True))
        if role != "assistant"
    ]
    return Conversation(ids, parts, (before + after)[: extents[-1][1]], extents, tuple(prompts))


@dataclass(frozen=True)
class _Frame:
    """What a template writes around the texts of a chat.

    Attributes
    ----------
    pieces : tuple of str
        In front of the first text, between two, and behind the last one up to where the assistant begins; empty where
        they cannot be told.
    leads : tuple of int
        Of each message: how many of the characters in front of its text the assistant has to write itself.
    """

    pieces: tuple[str, ...]
    leads: tuple[int, ...]


@lru_cache(maxsize=64)
def _frame(tokenizer: Any, template: str, roles: tuple[str, ...]) -> _Frame:
    marks = [f"qz{number}mark{number}zq" for number in range(len(roles))]
    chat = [{"role": role, "content": mark} for role, mark in zip(roles, marks, strict=True)]

    whole = render(tokenizer, chat, True)
    leads = []
    for number, role in enumerate(roles):
        before = render(tokenizer, chat[:number], True) if number and role == "assistant" else whole
        found = whole.find(marks[number])
        leads.append(found - len(before) if found >= 0 and whole.startswith(before) and before != whole else 0)
    pieces, rest = [], whole
    for mark in marks:
        if rest.count(mark) != 1:
            return _Frame((), tuple(leads))
        piece, rest = rest.split(mark)
        pieces.append(piece)
    return _Frame((*pieces, rest), tuple(leads))


def _places(text: str, frame: _Frame, contents: Sequence[str]) -> list[Span]:
    """Where in the rendered `text` each of the contents stands; a template may strip their blanks.

    Raises
    ------
    ModelError
        If the pieces and the contents together are not the text.
    """

    def from_piece(at: int, number: int) -> list[Span] | None:
        if not text.startswith(frame.pieces[number], at):
            return None
        at += len(frame.pieces[number])
        if number == len(contents):
            return [] if at == len(text) else None
        content = contents[number]
        for form in dict.fromkeys((content, content.strip(), content.lstrip(), content.rstrip())):
            if text.startswith(form, at):
                rest = from_piece(at + len(form), number + 1)
                if rest is not None:
                    return [(at, at + len(form)), *rest]
        return None

    found = from_piece(0, 0) if frame.pieces else None
    if found is None:
        raise ModelError(
            "The chat template changes the texts of a chat, so that the tokens of its prompts and earlier answers "
            "cannot be found. Use another one, such as model.chat_template=chatml, or, for single turns, "
            "sft.train_on=completion."
        )
    return found


def _end_of_turn(tokenizer: Any, piece: str) -> int:
    """Characters of the end of turn that a piece behind an answer begins with; 0 where it has none.

    Only the token that generation stops at counts. gpt-oss ends earlier turns with another one, and in templates that
    end no turns the next role's mark follows.
    """
    found = re.match(rf"\s*{re.escape(tokenizer.eos_token)}", piece)
    return found.end() if found else 0


def _extents(tokenizer: Any, text: str) -> list[Span]:
    """Return where each token of a text stands; several can share a character."""
    return _stretched(tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"], text)


def _reply_extents(tokenizer: Any, text: str) -> list[Span]:
    """Return the same for a text that continues another one."""
    return _stretched([span for _, span in encode_reply_with_offsets(tokenizer, text)], text)


def _stretched(spans: Sequence[Span], text: str) -> list[Span]:
    """Give the blanks that tokenizers leave out of their offsets to a token.

    A token begins where the one before ended, or where its offset says, whichever is earlier. One that is nothing but
    blanks ends where the next one begins.
    """
    extents, last = [], 0
    for place, (start, end) in enumerate(spans):
        first = min(start, last)
        following = spans[place + 1][0] if place + 1 < len(spans) else len(text)
        extents.append((first, end if end > first else max(end, following)))
        last = max(end, last)
    return extents
