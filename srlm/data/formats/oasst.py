"""Reader of Open Assistant's exports: prompts with their direct replies, without rejected messages.

A root prompt is a row, and so is each later prompt that has replies. The history of a later prompt is its path from the
root. With `turns: first`, only root prompts are read, as in the paper (arXiv 2401.10020, section 3.1.1).

A message is rejected by these fields of the export:

- `tree_state`: only trees in state ready_for_export are finished and ranked. Aborted (aborted_low_grade), halted
  (halted_by_moderator) and unfinished trees are left out. If only prompts are read, prompt_lottery_waiting is accepted,
  too: such a prompt passed its review and has no replies yet. Trees of files without this field are accepted.
- `deleted`, `review_result` (false), `synthetic` and `model_name` (the model that wrote the message). Flags may be
  booleans, 0 and 1, or strings.
- `labels`: the mean of the reviewers' flags, each 0 or 1. A message is left out if at least half of its reviewers set a
  flag. `fails_task` and the scales (quality, toxicity, violence, ...) are ignored: ranks express them, and judges need
  examples of bad answers.

Source: the dataset cards of OpenAssistant/oasst1 and oasst2 on the Hugging Face Hub.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from srlm.data.formats.base import Format, Parsed, PlacedRows
from srlm.data.rows import Fault, LeftOut, Row, flag, number, text_of
from srlm.types import RankedAnswer

FINISHED, REVIEWED = "ready_for_export", "prompt_lottery_waiting"
FLAGS = {
    "spam": "marked as spam",
    "lang_mismatch": "marked as another language",
    "pii": "marked as personal data",
    "not_appropriate": "marked as inappropriate",
    "hate_speech": "marked as hate speech",
    "sexual_content": "marked as sexual",
}
FLAGGED = 0.5  # mean of the reviewers' votes


def find_prompts(rows: PlacedRows) -> PlacedRows:
    """Yield the root prompts with their places, each followed by the later prompts of its tree that have replies.

    "replies" of each prompt has its direct replies with their places, whether they are nested or separate rows.
    "tree_state" has the state of its tree, and "path" of a later prompt the turns before it.
    """
    roots: list[tuple[Any, Row]] = []
    replies: dict[str, list[tuple[Any, Mapping[str, Any]]]] = {}
    for place, row in rows:
        message = row
        if isinstance(row.get("prompt"), dict):
            message = Row({"tree_state": row.get("tree_state"), **row["prompt"]}, row.fields, "prompt.")
        if message.get("parent_id") is None:
            roots.append((place, message))
        else:
            replies.setdefault(str(message["parent_id"]), []).append((place, message))

    def children(place: Any, message: Mapping[str, Any]) -> list[tuple[Any, Mapping[str, Any]]]:
        nested = message.get("replies") or []
        if not isinstance(nested, list) or not all(isinstance(reply, dict) for reply in nested):
            raise Fault("'replies' contains other values than objects", "Write [{...}, ...]", place)
        return [*((place, reply) for reply in nested), *replies.get(str(message.get("message_id")), [])]

    def prompts(place: Any, prompt: Row) -> PlacedRows:
        prompt["replies"] = children(place, prompt)
        yield place, prompt
        if why_unusable(prompt):
            return
        for at, reply in prompt["replies"]:
            if why_unusable(reply) or not all(isinstance(one.get("text"), str) for one in (prompt, reply)):
                continue  # `parse` raises for messages without a text
            turns = [("user", text_of(prompt, "text")), ("assistant", text_of(reply, "text"))]
            for after, message in children(at, reply):
                if children(after, message):
                    path = [*prompt.get("path", []), *turns]
                    later = {**message, "tree_state": prompt.get("tree_state"), "path": path}
                    yield from prompts(after, Row(later, prompt.fields, prompt.prefix))

    for place, root in roots:
        yield from prompts(place, root)


def is_later_prompt(form: str, row: Row) -> bool:
    """Return whether a row of `find_prompts` is not the root prompt of its tree; False for rows of other formats."""
    return form.startswith("oasst") and bool(row.get("path"))


def parse(prompt: Row) -> Parsed:
    """Yield the text of a root prompt, then each reply as `RankedAnswer`, or the reason why it is left out.

    Raises
    ------
    LeftOut
        If the prompt itself or its tree is rejected. With replies, the tree must be finished.
    """
    state = prompt.get("tree_state")
    if state not in (None, FINISHED, REVIEWED):
        raise LeftOut(f"tree in state {state!s:.60}")
    text_of(prompt, "message_id")
    if reason := why_unusable(prompt):
        raise LeftOut(f"prompt {reason}")
    yield [*prompt.get("path", []), ("user", text_of(prompt, "text"))]
    if state == REVIEWED:
        raise LeftOut(f"tree in state {state}")
    for place, reply in prompt["replies"]:
        try:
            rank = number(reply.get("rank"), "rank")
            if (reason := why_unusable(reply)) or rank is None:
                yield reason or "no rank"
            else:
                yield RankedAnswer(text_of(reply, "text"), int(rank))
        except Fault as fault:
            raise Fault(*fault.args, place) from fault


def why_unusable(message: Mapping[str, Any]) -> str:
    """Return the reason why a message is rejected; "" if it can be used."""
    if flag(message.get("deleted")) is True:
        return "deleted"
    if flag(message.get("review_result")) is False:
        return "rejected in review"
    if flag(message.get("synthetic")) is True or message.get("model_name"):
        return "written by a model"
    values = _label_values(message.get("labels"))
    return next((reason for label, reason in FLAGS.items() if values.get(label, 0.0) >= FLAGGED), "")


def _label_values(labels: Any) -> dict[str, float]:
    """Return each label's mean, from any of the three formats of the exports and the Hub."""
    if isinstance(labels, dict) and all(isinstance(labels.get(key), list) for key in ("name", "value")):
        pairs = list(zip(labels["name"], labels["value"], strict=False))
    elif isinstance(labels, dict):  # by name: the value, or {value, count}
        pairs = [(name, entry.get("value") if isinstance(entry, dict) else entry) for name, entry in labels.items()]
    elif isinstance(labels, list):  # {name, value, count} each
        pairs = [(entry.get("name"), entry.get("value")) for entry in labels if isinstance(entry, dict)]
    else:
        pairs = []
    return {name: mean for name, value in pairs if isinstance(name, str) and (mean := _mean(value)) is not None}


def _mean(value: Any) -> float | None:
    try:
        return float(value)
    except (OverflowError, TypeError, ValueError):
        return None


FORMATS = (
    Format(
        "oasst_trees",
        ("prompt",),
        parse,
        lambda row: isinstance(row.get("prompt"), dict),
        ranked=True,
        group=find_prompts,
    ),
    Format("oasst_messages", ("message_id", "text"), parse, ranked=True, group=find_prompts),
)
