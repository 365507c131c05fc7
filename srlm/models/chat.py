"""Encoding of chats as token ids, the same in training and inference: prompts, replies, prefills and choices.

A chat is encoded in two parts. The prompt is the template's text up to the assistant's turn; the engine gets exactly
its ids. The reply is encoded separately, as a continuation of the prompt, both in training and for prefilled replies.
The ids at the boundary are therefore equal. Text that the template writes between prompt and answer (Llama 2's space,
Qwen3's empty thought) belongs to the reply: the model learns to write it, and prefilled replies begin with it.
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

_TURNS = 4  # the user's turns of the conversation by which a template is checked, if no longer one is known
_MARK_OF_THOUGHT = re.compile(r"\s*(</?[\w:]+>|[^\n]*\S)")  # the first mark before an answer


@lru_cache(maxsize=8)
def _control_pattern(tokenizer: PreTrainedTokenizerBase) -> re.Pattern[str]:
    tokens = control_tokens(tokenizer).values()
    # A single character cannot be escaped; no known model has such a control token.
    longest_first = sorted((token for token in tokens if len(token.strip()) > 1), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")


def escape_special_tokens(text: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """Return `text` with a space after the first character of every control token, so that it is encoded as text.

    Texts of seeds and models are untrusted: "<|im_end|>" inside an answer must not end the turn.
    """
    pattern = _control_pattern(tokenizer)
    while pattern.search(text):
        text = pattern.sub(lambda match: f"{match[0][0]} {match[0][1:]}", text)
    return text


def render_turn(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], answer: str) -> tuple[str, str]:
    """Return the text of a chat up to the assistant's turn, and the text of the reply; contents are escaped.

    An answer that begins with a thought is not changed, even if the template would remove the thought: the model is
    trained on what it generated.

    Raises
    ------
    ModelError
        If the template renders the prompt differently in a chat with an answer, so that the two cannot be separated.
    """
    before, reply, closing = _render_parts(tokenizer, messages, answer)
    return before, reply + closing


def _render_parts(tokenizer: Any, messages: Sequence[Message], answer: str) -> tuple[str, str, str]:
    """Return prompt, reply, and the template's text after the reply if it is an end-of-turn token, otherwise "".

    Other text after an answer (a newline, "### End") is dropped: the model would write it as part of its answers.
    """
    plain, text = escape_chat(tokenizer, messages), escape_special_tokens(answer, tokenizer)
    before = render(tokenizer, plain, True)
    lead, closing = around_answer(tokenizer, plain, before)
    chat = render(tokenizer, [*plain, {"role": "assistant", "content": text}], False)
    if _has_own_thought(lead, text):
        lead, text = _blanks_before(lead), text.strip()
    elif chat != f"{before}{lead}{text}{closing}":  # the template strips the answer, or removes its thought
        text = text.strip()
    text_before_end, end, _ = closing.partition(tokenizer.eos_token)
    return before, f"{lead}{text}", closing if end and not text_before_end.strip() else ""


def encode_chat(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], prefill: str = "") -> list[int]:
    """Return the token ids of a chat that the assistant continues; contents are escaped.

    Parameters
    ----------
    messages : sequence of {"role", "content"}
        The last message is the user's.
    prefill : str
        The beginning of the assistant's reply.
    """
    return encode_prefills(tokenizer, messages, [prefill])[0]


def encode_prefills(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], prefills: Sequence[str]
) -> list[list[int]]:
    """Return the token ids of one chat with each of several prefills of the reply; see `encode_chat`."""
    plain = escape_chat(tokenizer, messages)
    before = render(tokenizer, plain, True)
    ids: list[int] = tokenizer(before, add_special_tokens=False)["input_ids"]  # the template writes BOS itself
    lead = around_answer(tokenizer, plain, before)[0] if any(prefills) else ""

    def reply(text: str) -> str:
        return _blanks_before(lead) + text.lstrip() if _has_own_thought(lead, text) else lead + text

    return [[*ids, *(encode_reply(tokenizer, reply(text)) if text else ())] for text in prefills]


def encode_turn(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], answer: str, ended: bool = True
) -> tuple[list[int], list[int]]:
    """Return the token ids of a prompt, and of the reply with the end-of-turn token.

    The prompt's ids are exactly those that an engine gets. The template's text after the end-of-turn token (often a
    newline) is dropped.

    Parameters
    ----------
    ended : bool
        False for an answer that reached the token limit: the end-of-turn token is dropped, too.

    Raises
    ------
    ModelError
        See `render_turn`.
    """
    before, reply, closing = _render_parts(tokenizer, messages, answer)
    prompt_ids: list[int] = tokenizer(before, add_special_tokens=False)["input_ids"]
    if not ended:
        return list(prompt_ids), encode_reply(tokenizer, reply)
    ids, end = encode_reply(tokenizer, reply + closing), tokenizer.eos_token_id
    return list(prompt_ids), [*(ids[: ids.index(end)] if end in ids else ids), end]


@dataclass(frozen=True)
class ThoughtMarks:
    """The marks around a model's thought before its answer: `model.thought_start` and `model.thought_end`.

    If `end` is "", there are no thoughts. If `start` is "", the text before the first `end` is the thought.
    """

    start: str = "<think>"
    end: str = "</think>"
    opened: bool = False  # whether the prompt ends with `start`
    budget: int = 0  # tokens of a thought in addition to the answer's; 0 = none, `model.max_thought_tokens`

    def split(self, text: str) -> tuple[str, str]:
        """Return a completion's thought, with its marks and the whitespace after it, and the answer.

        Their concatenation is `text`. If the thought does not end, because of the token limit, the answer is "".
        """
        if not self.end or not (self.opened or text.lstrip().startswith(self.start)):
            return "", text
        thought, mark, rest = text.partition(self.end)
        if not mark:
            return ("", text) if not self.start else (text, "")
        answer = rest.lstrip()
        return f"{thought}{mark}{rest[: len(rest) - len(answer)]}", answer


def thought_marks(tokenizer: Any, options: ModelConfig) -> ThoughtMarks:
    """Return the marks of a model's thoughts; `opened` is True if its chat template writes the start mark."""
    start, end = options.thought_start, options.thought_end
    prompt = render(tokenizer, [{"role": "user", "content": ""}], True)
    opened = bool(start) and prompt.rstrip().endswith(start)
    return ThoughtMarks(start, end, opened, options.max_thought_tokens if end else 0)


def encode_choices(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], prefill: str, choices: Sequence[str]
) -> tuple[list[int], list[int]]:
    """Return the token ids of a chat with `prefill`, and for each choice the single token that continues it.

    Choice and prefill are encoded together, as in training. If " 5" is encoded as a space and a digit, the space is
    part of the chat.

    Raises
    ------
    EngineError
        If the choices differ in more than one token.
    """
    encoded = encode_prefills(tokenizer, messages, [f"{prefill}{choice}" for choice in choices])
    if len({tuple(ids[:-1]) for ids in encoded}) > 1 or len({ids[-1] for ids in encoded}) < len(choices):
        raise EngineError(
            f"After {prefill!r}, the choices {', '.join(map(repr, choices))} differ in more than one token for this "
            "model. Scoring by probabilities needs choices of one token each."
        )
    return encoded[0][:-1], [ids[-1] for ids in encoded]


def encode_reply(tokenizer: Any, text: str) -> list[int]:
    """Return the token ids of a text that continues another one.

    SentencePiece tokenizers add a space before the first word of a text, but not inside a text. The text is therefore
    encoded after another text, whose ids are removed.
    """
    return [token for token, _ in encode_reply_with_offsets(tokenizer, text, False)]


def encode_reply_with_offsets(tokenizer: Any, text: str, offsets: bool = True) -> list[tuple[int, tuple[int, int]]]:
    """Return the tokens of `encode_reply`, each with its (start, end) in `text`; (0, 0) with `offsets=False`.

    Raises
    ------
    ModelError
        If the tokenizer cannot encode a continuation.
    """

    def encode(full: str, skipped: str) -> list[tuple[int, tuple[int, int]]] | None:
        before = tokenizer(skipped, add_special_tokens=False)["input_ids"] if skipped else []
        encoding = tokenizer(full, add_special_tokens=False, return_offsets_mapping=offsets)
        ids = encoding["input_ids"]
        if ids[: len(before)] != before:
            return None
        spans = encoding["offset_mapping"] if offsets else [(0, 0)] * len(ids)
        cut = len(skipped)
        moved = [(max(0, start - cut), max(0, end - cut)) for start, end in spans]
        return list(zip(ids, moved, strict=True))[len(before) :]

    if not _prepends_blank(tokenizer):
        return encode(text, "") or []
    for before in ("\n", "a", ":", "0"):  # the first text that does not merge with the reply is used
        tokens = encode(before + text, before)
        if tokens is not None:
            return tokens
    raise ModelError(
        f"The tokenizer merges the beginning of {text[:20]!r} with any text before it, so a reply cannot be encoded "
        "separately. Use a model with another tokenizer."
    )


@lru_cache(maxsize=8)
def _prepends_blank(tokenizer: Any) -> bool:
    """Return whether a word at the start of a text has different ids than after a newline."""

    def ids(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    return ids("\na")[len(ids("\n")) :] != ids("a")


def escape_chat(tokenizer: Any, messages: Sequence[Message]) -> list[Message]:
    """Return the messages with escaped contents, and with the roles that the template has (`fit_roles`)."""
    escaped = [{**message, "content": escape_special_tokens(message["content"], tokenizer)} for message in messages]
    return fit_roles(tokenizer, escaped)


def fit_roles(tokenizer: Any, messages: Sequence[Message]) -> list[Message]:
    """Return the messages as the chat template can render them.

    If the template has no system role, the system prompt becomes the beginning of the first user's text, followed by a
    blank line.

    Raises
    ------
    ModelError
        If the template drops the earlier turns of a conversation.
    """
    first, rest = messages[0], list(messages[1:])
    if (turns := sum(message["role"] == "user" for message in messages)) > 1:
        check_turns(tokenizer, tokenizer.chat_template, max(turns, _TURNS))
    if first["role"] != "system" or not rest or _has_system_role(tokenizer, tokenizer.chat_template):
        return list(messages)
    return [{**rest[0], "content": f"{first['content']}\n\n{rest[0]['content']}"}, *rest[1:]]


@lru_cache(maxsize=8)
def _has_system_role(tokenizer: Any, template: str) -> bool:
    """Return whether the template renders a system message and the user's message after it, also with an answer."""
    try:
        return _renders_all(tokenizer, "system", "user")
    except ModelError:
        return False


@lru_cache(maxsize=64)
def check_turns(tokenizer: Any, template: str, turns: int = _TURNS) -> None:
    """Raise ModelError if the tokenizer's chat template cannot be used for conversations.

    It must render all turns, both before an answer and with one, in the same way.

    Parameters
    ----------
    turns : int
        Number of the user's turns. A template may render only the last few messages.
    """
    roles = ("user", *("assistant", "user") * (turns - 1))
    if not _renders_all(tokenizer, *roles):
        raise ModelError(
            "The chat template drops earlier turns of a conversation, so the model would answer without them. Use "
            "another template, such as model.chat_template=chatml, or data of single turns."
        )


def _renders_all(tokenizer: Any, *roles: str) -> bool:
    """Return whether each text of a chat with these roles is in the prompt, and also in the chat with an answer.

    Raises
    ------
    ModelError
        If the template rejects the chat, or renders the prompt differently with and without an answer.
    """
    chat = [{"role": role, "content": f"qz{n}mark{n}zq"} for n, role in enumerate(roles)]
    before = render(tokenizer, chat, True)
    texts = (before, render(tokenizer, [*chat, {"role": "assistant", "content": "qzmarkzq"}], False))
    if not all(message["content"] in text for message in chat for text in texts):
        return False
    around_answer(tokenizer, chat, before)
    return True


def _blanks_before(lead: str) -> str:
    return lead[: len(lead) - len(lead.lstrip())]


def _has_own_thought(lead: str, answer: str) -> bool:
    """Return whether an answer contains a thought, which the template's `lead` would otherwise replace."""
    match = _MARK_OF_THOUGHT.match(lead)
    mark = match[1] if match else ""
    return bool(mark) and (answer.lstrip().startswith(mark) or (mark.startswith("</") and mark in answer))
