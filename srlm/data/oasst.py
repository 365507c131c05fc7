"""Open Assistant's exports: root prompts with their direct replies, without what people or the project ruled out.

Every field of the export that says "do not use" counts:

- `tree_state`: only trees in ready_for_export are finished and ranked. Aborted (aborted_low_grade), halted
  (halted_by_moderator) and unfinished ones are left out. For prompts alone, prompt_lottery_waiting is enough: such a
  prompt passed its review and waits for replies, and the project's own export of prompts has both states. Files without
  the field are taken as they are.
- `deleted`, `review_result` (false), `synthetic` and `model_name` (the model that wrote it) of each message; flags may
  be booleans, 0 and 1, or their names, as other programs export them.
- `labels`: reviewers' flags, each 0 or 1, of which the export gives the mean. A message is left out from 0.5 on, where
  at least half of its reviewers set the flag. `fails_task` and the scales (quality, toxicity, violence, ...) do not
  rule a message out: ranks express them, and a judge has to see bad answers.

Source: the data set cards of OpenAssistant/oasst1 and oasst2 on the Hugging Face Hub.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from srlm.data.files import Fault, LeftOut, Parsed, Row, items_of, number, text_of
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


def find_prompts(objects: list[tuple[int, Row]]) -> Iterator[tuple[int, Row]]:
    """Yield the root prompts with their line numbers.

    Each has as "replies" its direct replies with their line numbers, whether nested or rows of their own, and the state
    of its tree as "tree_state".
    """
    roots: list[tuple[int, Row]] = []
    replies: dict[str, list[tuple[int, Row]]] = {}
    for line, data in objects:
        message = data
        if isinstance(data.get("prompt"), dict):
            message = {"tree_state": data.get("tree_state")} | data["prompt"]
        if message.get("parent_id") is None:
            roots.append((line, message))
        else:
            replies.setdefault(str(message["parent_id"]), []).append((line, message))
    for line, root in roots:
        nested = items_of(root, "replies") if root.get("replies") is not None else []
        if not all(isinstance(reply, dict) for reply in nested):
            raise Fault("'replies' does not hold objects only", "Write {...} for each message", line)
        own = replies.get(str(root.get("message_id")), [])
        yield line, root | {"replies": [*((line, reply) for reply in nested), *own]}


def check_tree(prompt: Row, with_answers: bool) -> None:
    """Raise LeftOut where a prompt's tree is in a state that gives no seeds.

    Parameters
    ----------
    with_answers : bool
        Whether the prompt's replies are used, too.
    """
    state = prompt.get("tree_state")
    if state not in ((None, FINISHED) if with_answers else (None, FINISHED, REVIEWED)):
        raise LeftOut(f"tree in state {state!s:.60}")


def parse(prompt: Row) -> Parsed:
    """Yield the text of a root prompt, then each reply, or why it is left out.

    Raises
    ------
    LeftOut
        If the prompt itself is ruled out.
    """
    text_of(prompt, "message_id")
    if reason := why_unusable(prompt):
        raise LeftOut(f"prompt {reason}")
    yield text_of(prompt, "text")
    for line, reply in prompt["replies"]:
        try:
            rank = number(reply.get("rank"), "rank")
            if (reason := why_unusable(reply)) or rank is None:
                yield reason or "no rank"
            else:
                yield RankedAnswer(text_of(reply, "text"), int(rank))
        except Fault as fault:
            raise Fault(*fault.args, line) from fault


def why_unusable(message: Row) -> str:
    """Return why a message must not be used, "" if it can be."""
    if _flag(message, "deleted") is True:
        return "deleted"
    if _flag(message, "review_result") is False:
        return "rejected in review"
    if _flag(message, "synthetic") is True or message.get("model_name"):
        return "written by a model"
    values = _label_values(message.get("labels"))
    return next((reason for flag, reason in FLAGS.items() if values.get(flag, 0.0) >= FLAGGED), "")


def _flag(message: Row, name: str) -> bool | None:
    """Return a flag in any spelling; None where it is not given."""
    return {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}.get(
        str(message.get(name)).strip().lower()
    )


def _label_values(labels: Any) -> dict[str, float]:
    """Return each label's mean, from any of the three forms that the exports and the Hub have."""
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
