"""What a format is: a function from a row to a prompt and its answers, and the fields by which it is recognised."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from srlm.data.files import Place
from srlm.data.rows import Fault, LeftOut, Row, get, name_in, optional_text, text_of
from srlm.types import Constraint, RankedAnswer

RoleText = tuple[str, str]  # role (system, user, assistant or tool) and text
# First the prompt: a text, or the turns of a conversation. The last turn is the user's if answers follow. Without
# answers, the conversation may contain them itself. Then each answer, or the reason why it is left out.
Parsed = Iterator[str | list[RoleText] | RankedAnswer]
PlacedRows = Iterable[tuple[Place, Row]]

ROLES = {
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bing", "bard", "claude", "bot", "model"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("tool", "function", "function_call", "tool_call", "observation", "ipython"), "tool"),
}


@dataclass(frozen=True)
class Format:
    """A format of rows.

    Parameters
    ----------
    name : str
    needs : tuple of str
        Fields that a row must have, under any of their spellings (`srlm.data.rows.SPELLINGS`).
    parse : callable
        Row -> `Parsed`. It raises LeftOut for rows that are not used, and Fault for those that cannot be parsed.
    check : callable
        Whether rows with these fields have this format, from the first value of each field that is not null.
    ranked : bool
        Whether a prompt has several answers that people ranked.
    group : callable or None
        Combines the rows of one prompt into one row, for formats with an answer per row.
    score_range : tuple of float, or None
        The lowest and highest score, if the format has one scale.
    final_answer : callable
        Row -> the constraint that an answer must end with the right number or option; None if there is none.
    """

    name: str
    needs: tuple[str, ...]
    parse: Callable[[Row], Parsed]
    check: Callable[[Row], bool] = lambda sample: True
    ranked: bool = False
    group: Callable[[PlacedRows], PlacedRows] | None = None
    score_range: tuple[float, float] | None = None
    final_answer: Callable[[Row], Constraint | None] = lambda row: None

    def missing(self, sample: Row) -> list[str]:
        """Return the needed fields that a row does not have."""
        return [name for name in self.needs if name_in(sample, name) is None]

    def fits(self, sample: Row) -> bool:
        return not self.missing(sample) and self.check(sample)


def turns_of(messages: list[Any]) -> list[RoleText]:
    """Return the turns of a list of messages, {role, content} or {from, value}, without those after an unusable one.

    The content is a text, or a list of parts. An assistant's message with a tool call is a turn of the tool, because
    its text is no answer.

    Raises
    ------
    Fault
        If one of the first messages has no role or content.
    LeftOut
        If one of the first messages has an unknown role or no text, as an image.
    """
    turns: list[RoleText] = []
    for message in messages:
        try:
            turns.append(_turn(message))
        except (Fault, LeftOut):
            if any(role == "assistant" for role, _ in turns):  # what precedes it can be used
                return [*turns, ("tool", "")]
            raise
    return turns


def _turn(message: Any) -> RoleText:
    if not isinstance(message, dict) or not {"role", "from"} & message.keys():
        raise Fault(f"a message is {message!r:.60}", "Write {role, content} or {from, value}")
    given = message.get("from") if message.get("role") is None else message["role"]
    role = ROLES.get(str(given).lower())
    if role is None:
        raise LeftOut(f"unknown role {given!r:.60}")
    if message.get("tool_calls") or message.get("function_call"):
        return "tool", ""
    texts = [message[key] for key in ("content", "value", "text") if key in message]
    content = next((text for text in texts if text is not None), None)  # tables have all columns of their messages
    if not texts:
        raise Fault(f"a message has only {', '.join(map(str, message))}", "Add its content")
    if isinstance(content, list):
        parts = [part if isinstance(part, dict) else {"type": type(part).__name__, "text": part} for part in content]
        if other := [part for part in parts if not isinstance(part.get("text"), str)]:
            raise LeftOut(f"a message contains {other[0].get('type')!s:.20}")
        content = "".join(part["text"] for part in parts)
    if not isinstance(content, str | None):
        raise Fault(f"the content of a message is of type {type(content).__name__}", "Write a string in quotes")
    return role, (content or "").strip()


def is_messages(value: Any) -> bool:
    """Return whether a value looks like a list of messages."""
    first = value[0] if isinstance(value, list) and value else None
    return isinstance(first, dict) and bool({"role", "from"} & first.keys())


def prompt_turns(row: Row, name: str = "prompt") -> list[RoleText]:
    """Return the turns of a prompt, a text or a list of messages, with what the row has besides.

    The context follows the prompt after a blank line. `history`, a list of earlier [prompt, answer] or messages, and
    a system prompt precede it.
    """
    value = get(row, name)
    turns = turns_of(value) if is_messages(value) else [("user", text_of(row, name))]
    context = optional_text(row, "context")
    if context and turns[-1][1]:
        turns[-1] = (turns[-1][0], f"{turns[-1][1]}\n\n{context}")
    return with_system(row, [*_history(row), *turns])


def _history(row: Row) -> list[RoleText]:
    pairs = row.get("history") or []
    if is_messages(pairs):
        return turns_of(pairs)
    if not isinstance(pairs, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
        raise Fault(
            "'history' is not a list of [prompt, answer]", "Write [[prompt, answer], ...] or [{role, content}, ...]"
        )
    roles = ("user", "assistant")
    return [(role, str(text or "").strip()) for pair in pairs for role, text in zip(roles, pair, strict=True)]


def with_system(row: Row, turns: list[RoleText]) -> list[RoleText]:
    """Return the turns with the row's system prompt first, if it has one and the turns have none."""
    system = optional_text(row, "system")
    return [("system", system), *turns] if system and [role for role, _ in turns[:1]] != ["system"] else turns
