"""Loss masking: which tokens have a loss, and with what weight.

A chat that ends with an answer is one sequence of token ids: the prompt as an engine gets it, and the answer. A token
belongs to the template (roles, control tokens), to a prompt (the text of a system or user message), or to an answer
(the assistant's text with its end of turn). In a conversation, `sft.turns` decides whether all answers are trained or
the last one; earlier ones then belong to the prompt. `sft.train_on` selects the trained parts:

- completion: only answers (arXiv 2401.10020, section 3.1.2).
- all: answers and prompts (instruction modelling, arXiv 2405.14394).
- no_shared_text: like all, except text that all IFT prompts or all EFT prompts have in common (`shared_spans.py`).
- weighted: like all, with weight `sft.prompt_weight` for prompt tokens and 1 for answer tokens.

The only requirement for a template is that it renders a prompt in the same way with and without an answer. A template
may render an answer differently once another turn follows it (Qwen3 removes its thought, gpt-oss ends it with another
token). Such a conversation becomes several samples, each of which ends with one answer. To find the template's own
text, the chat is rendered again with marks instead of the messages. Text that the assistant writes
after the prompt belongs to its answer: Llama 2's space, Qwen3's empty thought. Control tokens are never trained, except
the end of a turn. A token that contains both message and template text (" Hi" after "[INST]") belongs to the message.

The first token of a sequence has no loss, because no position predicts it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import lru_cache
from typing import Any

from srlm.errors import ModelError
from srlm.models.chat import encode_reply_with_offsets, encode_turn, escape_special_tokens, fit_roles, render_turn
from srlm.models.chat_template import Message, control_tokens, render
from srlm.training.methods.sft import TrainOn

IGNORED = -100  # label that PyTorch's cross entropy ignores
Span = tuple[int, int]  # (start, end), without the end
_THOUGHT = re.compile(r"\A\s*<(\w+)>.*?</\1>\s*", re.DOTALL)


class Part(IntEnum):
    """The part of a chat that a token belongs to; the larger value counts if it belongs to two."""

    template = 0
    boilerplate = 1
    prompt = 2
    answer = 3


@dataclass(frozen=True)
class EncodedChat:
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
        Of each message that belongs to the prompt: its index in the chat, its role, and the start and end of its text
        in `text`. Empty if prompts were not located.
    number : int
        Index of the chat among the IFT or EFT examples.
    answers : int
        Number of answers that the sample trains.
    """

    ids: list[int]
    parts: list[Part]
    text: str
    extents: list[Span]
    prompts: tuple[tuple[int, str, int, int], ...] = ()
    number: int = 0
    answers: int = 1


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


def encode_answers(
    tokenizer: Any,
    messages: Sequence[Message],
    every: bool = True,
    with_prompts: bool = True,
    max_length: int = 0,
    skipped: Collection[int] = (),
) -> list[EncodedChat]:
    """Return the samples in which the answers of a chat are trained, and the part that each token belongs to.

    Each answer follows exactly the ids that an engine gets as its prompt. If the template renders an earlier answer in
    the same way as a new one, one sample trains all answers. If it does not (it drops earlier thoughts, or writes
    something only before the last answer), an answer is trained in a sample of its own, as the end of a shorter chat.

    Parameters
    ----------
    messages : sequence of {"role", "content"}
        The last message is the assistant's.
    every : bool
        Whether all answers are trained, or only the last one. Earlier answers are then part of the prompt.
    with_prompts : bool
        Whether to locate the prompts' texts. If False, the complete prompt belongs to the template, and every template
        that `encode_turn` accepts can be used.
    max_length : int
        Tokens; answers that end later are left out. 0 = no limit.
    skipped : collection of int
        Numbers of answers, 0 for the first one, that are not trained.

    Returns
    -------
    list of EncodedChat
        Usually one; none if the chat is too long. Each prompt and each answer is trained in one of them, and belongs
        to the template in the others.

    Raises
    ------
    ModelError
        As for `srlm.models.chat.render_turn`. Also if prompts cannot be located, because the template changes their
        text, or the tokenizer returns no offsets.
    """
    messages = fit_roles(tokenizer, messages)
    assert messages[-1]["role"] == "assistant"
    places = [n for n, message in enumerate(messages) if message["role"] == "assistant"]
    ends: list[tuple[int, list[int], list[Span]]] = []  # of a sample: its last message, its ids, its answers' spans
    places = [n for number, n in enumerate(places) if number not in skipped]
    for n in places if every else places[-1:]:
        prompt, answer = encode_turn(tokenizer, messages[:n], messages[n]["content"])
        ids = prompt + answer
        if max_length and len(ids) > max_length:
            break
        earlier = ends.pop()[2] if ends and prompt[: len(ends[-1][1])] == ends[-1][1] else []
        ends.append((n, ids, [*earlier, (len(prompt), len(ids))]))
    samples, start = [], 0
    for last, ids, answers in ends:
        samples.append(_sample(tokenizer, messages[: last + 1], ids, answers, with_prompts, start, every))
        start = last + 1
    return samples


def _sample(
    tokenizer: Any,
    messages: Sequence[Message],
    ids: list[int],
    answers: Sequence[Span],
    with_prompts: bool,
    start: int,
    every: bool,
) -> EncodedChat:
    """Return a sample that trains the answers at these token spans, and the prompts from message `start` on."""
    parts, found = [Part.template] * len(ids), EncodedChat(ids, [], "", [])
    if with_prompts:
        found = _located(tokenizer, messages, ids)
        roles = ("system", "user") if every else ("system", "user", "assistant")
        prompts = tuple(prompt for prompt in found.prompts if prompt[0] >= start and prompt[1] in roles)
        found = replace(found, prompts=prompts)
        controls = control_tokens(tokenizer)
        characters = [False] * len(found.text)
        for _, _, first, end in prompts:
            characters[first:end] = [True] * (end - first)
        for i, (first, end) in enumerate(found.extents):
            if any(characters[first:end]) and ids[i] not in controls:
                parts[i] = Part.prompt
    for first, end in answers:
        parts[first:end] = [Part.answer] * (end - first)
    return replace(found, parts=parts, answers=len(answers))


def _located(tokenizer: Any, messages: Sequence[Message], ids: list[int]) -> EncodedChat:
    """Return a chat with its text and the spans of its tokens and of all messages before the last one; no parts."""
    if not tokenizer.is_fast:
        raise ModelError(
            "The model's tokenizer returns no offsets, so the tokens of prompts cannot be located. Use "
            "sft.train_on=completion, or a model with a fast tokenizer (tokenizer.json)."
        )
    *context, last = messages
    before, after = render_turn(tokenizer, context, last["content"])
    roles = tuple(message["role"] for message in context)
    contents = [escape_special_tokens(message["content"], tokenizer) for message in context]
    spans = _locate(before, _pieces(tokenizer, tokenizer.chat_template, roles), contents, roles)
    extents = _extents(tokenizer, before)
    of_answer = _reply_extents(tokenizer, after)[: len(ids) - len(extents)]
    if len(extents) + len(of_answer) < len(ids):  # an EOS token that the template does not write
        after += tokenizer.eos_token
        of_answer.append((len(after) - len(tokenizer.eos_token), len(after)))
    extents += [(len(before) + start, len(before) + end) for start, end in of_answer]
    prompts = [(n, role, *span) for n, (role, span) in enumerate(zip(roles, spans, strict=True))]
    return EncodedChat(ids, [], (before + after)[: extents[-1][1]], extents, tuple(prompts))


@lru_cache(maxsize=64)
def _pieces(tokenizer: Any, template: str, roles: tuple[str, ...]) -> tuple[str, ...]:
    """Return a template's text around the messages of a chat, up to the assistant's turn.

    These are the texts before the first message, between two messages, and after the last one; () if the template
    writes a message never or twice.
    """
    marks = [f"qz{n}mark{n}zq" for n in range(len(roles))]
    rest = render(tokenizer, [{"role": role, "content": mark} for role, mark in zip(roles, marks, strict=True)], True)
    pieces = []
    for mark in marks:
        if rest.count(mark) != 1:
            return ()
        piece, rest = rest.split(mark)
        pieces.append(piece)
    return (*pieces, rest)


def _locate(text: str, pieces: Sequence[str], contents: Sequence[str], roles: Sequence[str]) -> list[Span]:
    """Return the span of each message in the rendered `text`.

    A template may strip whitespace of messages, and remove the thoughts of earlier answers.

    Raises
    ------
    ModelError
        If the text does not consist of the pieces and the contents.
    """

    def from_piece(at: int, n: int) -> list[Span] | None:
        if not text.startswith(pieces[n], at):
            return None
        at += len(pieces[n])
        if n == len(contents):
            return [] if at == len(text) else None
        content = contents[n]
        without_thought = _THOUGHT.sub("", content) if roles[n] == "assistant" else content
        forms = (content, content.strip(), content.lstrip(), content.rstrip(), without_thought, without_thought.strip())
        for form in dict.fromkeys(forms):
            if text.startswith(form, at):
                rest = from_piece(at + len(form), n + 1)
                if rest is not None:
                    return [(at, at + len(form)), *rest]
        return None

    spans = from_piece(0, 0) if pieces else None
    if spans is None:
        raise ModelError(
            "The chat template changes the messages' texts, so the tokens of prompts cannot be located. Use another "
            "template, such as model.chat_template=chatml, or sft.train_on=completion."
        )
    return spans


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
