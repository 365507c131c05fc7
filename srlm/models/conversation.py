"""Prompts as conversations: the messages of a chat template, and the transcript that a judge reads."""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate

from srlm.models.chat_template import Message
from srlm.types import Conversation

_INTRODUCTION = (
    "The instruction is the user's last message of this conversation. The messages before it are context, which a good "
    "reply takes into account."
)


def messages_of(prompt: Conversation) -> list[Message]:
    """Return the messages of a prompt, of which the last one is the user's."""
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    return [{"role": turn.role, "content": turn.content} for turn in prompt]


def dialogue(prompt: Conversation) -> str:
    """Return a prompt as text for people: the user's text itself, or the turns of a conversation with their roles."""
    if isinstance(prompt, str):
        return prompt
    return "\n\n".join(f"{turn.role.capitalize()}: {turn.content}" for turn in prompt)


def user_texts(prompt: Conversation) -> list[str]:
    """Return the user's turns up to each of them, joined by newlines; the last text has all.

    Prompts are compared by these texts. System prompts and answers do not count.
    """
    if isinstance(prompt, str):
        return [prompt]
    return list(accumulate((turn.content for turn in prompt if turn.role == "user"), "{}\n{}".format))


def compared_texts(prompt: Conversation) -> list[str]:
    """Return the texts that a new single-turn prompt must not repeat: the user's first turn, and all of them."""
    texts = user_texts(prompt)
    return list(dict.fromkeys((texts[0], texts[-1])))


def transcript(prompt: Conversation, escape: Callable[[str], str] = str) -> str:
    """Return the text by which a judge reads a prompt: the user's text itself, or a conversation with its roles.

    Parameters
    ----------
    escape : callable
        Is applied to each turn's text, which is untrusted. It must remove the tags <system>, <user> and <assistant>,
        so that a text cannot pretend to be another turn.
    """
    if isinstance(prompt, str):
        return escape(prompt)
    turns = [f"<{turn.role}>\n{escape(turn.content)}\n</{turn.role}>" for turn in prompt]
    return "\n".join([_INTRODUCTION, *turns])
