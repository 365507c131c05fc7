"""Chats as token ids, the same in training and inference: prompts, replies, prefilled replies, and choices.

A chat is encoded in two parts. The prompt is the text that the template writes up to where the assistant begins; an
engine is given exactly its ids. The reply is encoded by itself as the continuation of the prompt, in training and for a
prefilled reply alike, so that both have the same ids at the boundary. Whatever the template writes between the two when
it renders an answer (Llama 2's blank, Qwen3's empty thought) is part of the reply: the model learns to write it, and it
stands in front of a prefilled reply.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from srlm.errors import EngineError, ModelError
from srlm.models.chat_template import Message as Message
from srlm.models.chat_template import around_answer, control_tokens, render
from srlm.models.config import ModelConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_MARK_OF_THOUGHT = re.compile(r"\s*(</?[\w:]+>|[^\n]*\S)")  # the first thing that stands in front of an answer


@lru_cache(maxsize=8)
def _control_pattern(tokenizer: PreTrainedTokenizerBase) -> re.Pattern[str]:
    tokens = control_tokens(tokenizer).values()
    # A single character cannot be spelt otherwise; no known model has such a control token.
    longest_first = sorted((token for token in tokens if len(token.strip()) > 1), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")


def escape_special_tokens(text: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """Return `text` with every control token of the model spelt so that it is encoded as plain characters.

    Text from seeds and models is untrusted: "<|im_end|>" inside an answer must not end the turn it stands in. A space
    goes in after the token's first character.
    """
    pattern = _control_pattern(tokenizer)
    while pattern.search(text):
        text = pattern.sub(lambda match: f"{match[0][0]} {match[0][1:]}", text)
    return text


def render_turn(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], answer: str) -> tuple[str, str]:
    """Return the text of a chat up to where the assistant begins, and of its reply; contents are defused.

    An answer that begins with its own thought, or whose thought the template would remove, stays as it is: training
    sees what the model wrote.

    Raises
    ------
    ModelError
        If the template renders the prompt differently once the answer is there, so that the two cannot be told apart.
    """
    before, reply, closing = _render_parts(tokenizer, messages, answer)
    return before, reply + closing


def _render_parts(tokenizer: Any, messages: Sequence[Message], answer: str) -> tuple[str, str, str]:
    """Return prompt, reply, and what the template writes after the reply, if that is an end of turn.

    Other text after an answer (a newline, "### End") is left out: the model would write it as part of its answers.
    """
    plain, text = defuse_chat(tokenizer, messages), escape_special_tokens(answer, tokenizer)
    before = render(tokenizer, plain, True)
    lead, closing = around_answer(tokenizer, plain, before)
    whole = render(tokenizer, [*plain, {"role": "assistant", "content": text}], False)
    if _has_own_thought(lead, text):
        lead, text = _blanks_before(lead), text.strip()
    elif whole != f"{before}{lead}{text}{closing}":  # the template strips the answer, or removes its thought
        text = text.strip()
    text_before_end, end, _ = closing.partition(tokenizer.eos_token)
    return before, f"{lead}{text}", closing if end and not text_before_end.strip() else ""


def encode_chat(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], prefill: str = "") -> list[int]:
    """Return the token ids of a chat that the assistant is to continue; contents are defused.

    Parameters
    ----------
    messages : sequence of {"role", "content"}
        The last one is the user's.
    prefill : str
        The beginning of the assistant's reply, given to it.
    """
    return encode_prefills(tokenizer, messages, [prefill])[0]


def encode_prefills(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], prefills: Sequence[str]
) -> list[list[int]]:
    """Return the token ids of one chat with each of several prefilled beginnings of the reply, as `encode_chat`."""
    plain = defuse_chat(tokenizer, messages)
    before = render(tokenizer, plain, True)
    ids: list[int] = tokenizer(before, add_special_tokens=False)["input_ids"]  # the template writes BOS itself
    lead = around_answer(tokenizer, plain, before)[0] if any(prefills) else ""

    def reply(text: str) -> str:
        return _blanks_before(lead) + text.lstrip() if _has_own_thought(lead, text) else lead + text

    return [[*ids, *(encode_reply(tokenizer, reply(text)) if text else ())] for text in prefills]


def encode_turn(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], answer: str, ended: bool = True
) -> tuple[list[int], list[int]]:
    """Return the token ids of a prompt, and of the reply with the end of turn.

    With `ended=False`, for an answer that hit a token limit, the ids stop where its text stops: whatever the template
    writes after an answer is left out.

    The prompt's ids are exactly what an engine is given; whatever the template writes after the end of turn (a newline,
    often) is left out.

    Raises
    ------
    ModelError
        As `render_turn` does.
    """
    before, reply, closing = _render_parts(tokenizer, messages, answer)
    prompt_ids: list[int] = tokenizer(before, add_special_tokens=False)["input_ids"]
    if not ended:
        return list(prompt_ids), encode_reply(tokenizer, reply)
    ids, end = encode_reply(tokenizer, reply + closing), tokenizer.eos_token_id
    return list(prompt_ids), [*(ids[: ids.index(end)] if end in ids else ids), end]


@dataclass(frozen=True)
class ThoughtMarks:
    """What surrounds the thought that a model writes before its answer: `model.thought_start` and `model.thought_end`.

    Without `end` there are no thoughts. Without `start`, whatever stands before the first `end` is one.
    """

    start: str = "<think>"
    end: str = "</think>"
    opened: bool = False  # whether the prompt ends on `start` already

    def split(self, text: str) -> tuple[str, str]:
        """Return the thought that a completion begins with, marks and the blanks after it included, and its answer.

        Together they are `text`. A thought that does not end, because of the token limit, leaves an empty answer.
        """
        if not self.end or not (self.opened or text.lstrip().startswith(self.start)):
            return "", text
        thought, mark, rest = text.partition(self.end)
        if not mark:
            return ("", text) if not self.start else (text, "")
        answer = rest.lstrip()
        return f"{thought}{mark}{rest[: len(rest) - len(answer)]}", answer


def thought_marks(tokenizer: Any, options: ModelConfig) -> ThoughtMarks:
    """Return the marks of a model's thoughts, and whether its chat template already writes the first of them."""
    start, end = options.thought_start, options.thought_end
    prompt = render(tokenizer, [{"role": "user", "content": ""}], True)
    return ThoughtMarks(start, end, bool(start) and prompt.rstrip().endswith(start))


def encode_choices(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], prefill: str, choices: Sequence[str]
) -> tuple[list[int], list[int]]:
    """Return a chat as `encode_chat` does, and for each choice the one token that continues it after `prefill`.

    Choice and prefill are encoded together, as they were in training: where a model writes " 5" as a space and a digit,
    the space belongs to the chat's end.

    Raises
    ------
    EngineError
        If the choices differ in more than one token.
    """
    whole = encode_prefills(tokenizer, messages, [f"{prefill}{choice}" for choice in choices])
    if len({tuple(ids[:-1]) for ids in whole}) > 1 or len({ids[-1] for ids in whole}) < len(choices):
        raise EngineError(
            f"After {prefill!r}, the choices {', '.join(map(repr, choices))} differ in more than one token for this "
            "model; an answer by probabilities needs choices of one token each."
        )
    return whole[0][:-1], [ids[-1] for ids in whole]


def encode_reply(tokenizer: Any, text: str) -> list[int]:
    """Return the token ids of a text that continues another one.

    SentencePiece tokenizers put a blank in front of a text's first word. Within a text there is none, so the ids are
    taken from behind another text.
    """
    return [token for token, _ in encode_reply_with_offsets(tokenizer, text, False)]


def encode_reply_with_offsets(tokenizer: Any, text: str, offsets: bool = True) -> list[tuple[int, tuple[int, int]]]:
    """Return the tokens of `encode_reply`, each with the characters of `text` it stands for, where asked for these.

    Raises
    ------
    ModelError
        If the tokenizer has no way to encode a continuation.
    """

    def encode(whole: str, skipped: str) -> list[tuple[int, tuple[int, int]]] | None:
        before = tokenizer(skipped, add_special_tokens=False)["input_ids"] if skipped else []
        found = tokenizer(whole, add_special_tokens=False, return_offsets_mapping=offsets)
        ids = found["input_ids"]
        if ids[: len(before)] != before:
            return None
        spans = found["offset_mapping"] if offsets else [(0, 0)] * len(ids)
        cut = len(skipped)
        moved = [(max(0, start - cut), max(0, end - cut)) for start, end in spans]
        return list(zip(ids, moved, strict=True))[len(before) :]

    if not _prepends_blank(tokenizer):
        return encode(text, "") or []
    for before in ("\n", "a", ":", "0"):  # the first one that does not merge with the text
        found = encode(before + text, before)
        if found is not None:
            return found
    raise ModelError(
        f"The tokenizer merges the beginning of {text[:20]!r} with whatever stands before it, so a reply cannot be "
        "encoded by itself. Use a model with another tokenizer."
    )


@lru_cache(maxsize=8)
def _prepends_blank(tokenizer: Any) -> bool:
    """Return whether a word at the beginning of a text has other ids than the same word after a newline."""

    def ids(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    return ids("\na")[len(ids("\n")) :] != ids("a")


def defuse_chat(tokenizer: Any, messages: Sequence[Message]) -> list[Message]:
    """Return the messages with their contents defused."""
    return [{**message, "content": escape_special_tokens(message["content"], tokenizer)} for message in messages]


def _blanks_before(lead: str) -> str:
    return lead[: len(lead) - len(lead.lstrip())]


def _has_own_thought(lead: str, answer: str) -> bool:
    """Return whether an answer brings its own thought, which the template's `lead` would otherwise replace."""
    found = _MARK_OF_THOUGHT.match(lead)
    mark = found[1] if found else ""
    return bool(mark) and (answer.lstrip().startswith(mark) or (mark.startswith("</") and mark in answer))
