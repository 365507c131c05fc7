"""Fields of a row: access under any usual name, with type checks, and what of them was used."""

from __future__ import annotations

import re
from typing import Any

SPELLINGS = {
    "prompt": ("prompt", "instruction", "question", "query"),
    "response": ("response", "output", "answer", "completion"),
    "responses": ("responses", "completions", "answers", "candidates"),
    "messages": ("messages", "conversations", "conversation"),
    "system": ("system", "system_prompt"),
    "context": ("input", "context"),
    "id": ("id", "message_id", "question_id", "prompt_id", "uid", "key"),
    "type": ("type", "category"),
    "language": ("language", "lang"),
    "desirable": ("kto_tag", "label"),  # human label of KTO data: whether the answer is good
    "reference": ("reference", "reference_answer"),
    "final_answer": ("final_answer", "ground_truth"),
    "score": ("score", "fine-grained_score", "overall_score", "rating", "helpfulness"),
    "answer_text": ("text", "response", "content", "output", "completion", "answer"),  # of one of several answers
}
_ABSENT = ("", "n/a", "na", "none", "null", "nan")
_TRUE = ("true", "1", "1.0", "yes", "good", "desirable", "chosen")
_FALSE = ("false", "0", "0.0", "-1", "no", "bad", "undesirable", "rejected")
_LANGUAGES = {
    "arabic": "ar", "bengali": "bn", "chinese": "zh", "czech": "cs", "danish": "da", "dutch": "nl", "english": "en",
    "finnish": "fi", "french": "fr", "german": "de", "greek": "el", "hebrew": "he", "hindi": "hi", "hungarian": "hu",
    "indonesian": "id", "italian": "it", "japanese": "ja", "korean": "ko", "norwegian": "no", "persian": "fa",
    "polish": "pl", "portuguese": "pt", "romanian": "ro", "russian": "ru", "spanish": "es", "swahili": "sw",
    "swedish": "sv", "tamil": "ta", "thai": "th", "turkish": "tr", "ukrainian": "uk", "urdu": "ur", "vietnamese": "vi",
}  # fmt: skip


class LeftOut(Exception):
    """A valid row that is not used; the message is the reason, and rows are counted by reason."""


class Fault(Exception):
    """A row that cannot be parsed; the arguments are the problem, the remedy, and the place if not the current one."""


class Fields:
    """Names of the fields that the rows of a source have, and of those that were used; inner ones are OUTER.INNER."""

    def __init__(self) -> None:
        self.present: set[str] = set()
        self.used: set[str] = set()

    @property
    def unused(self) -> list[str]:
        return sorted(self.present - self.used)


class Row(dict[str, Any]):
    """A row that records in `fields` which of its fields are read.

    Parameters
    ----------
    data : dict
    fields : Fields
        One for all rows of a source.
    prefix : str
        Of the names in `fields`: "OUTER." for an object inside of another one.
    """

    def __init__(self, data: dict[str, Any], fields: Fields, prefix: str = ""):
        super().__init__(data)
        self.fields, self.prefix = fields, prefix
        fields.present.update(f"{prefix}{key}" for key, value in data.items() if value not in (None, "", [], {}))

    def __getitem__(self, key: str) -> Any:
        self.fields.used.add(self.prefix + key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self.fields.used.add(self.prefix + key)
        return super().get(key, default)


def without_nan(value: Any) -> Any:
    """Return a value with null instead of NaN, which tables of pandas have for missing values."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and value != value else value


def name_in(data: dict[str, Any], name: str) -> str | None:
    """Return the name under which a row has a field, preferably one that is not null; None if it is missing."""
    present = [key for key in SPELLINGS.get(name, (name,)) if key in data]
    return next((key for key in present if dict.get(data, key) is not None), present[0] if present else None)


def get(data: dict[str, Any], name: str) -> Any:
    """Return a field under any of its `SPELLINGS`; None if it is missing."""
    key = name_in(data, name)
    return None if key is None else data[key]


def field_of(data: dict[str, Any], name: str) -> tuple[str, Any]:
    """Return a field with its name in the row. Raises Fault if it is missing."""
    key = name_in(data, name)
    if key is None:
        problem = f"no field {' or '.join(map(repr, SPELLINGS.get(name, (name,))))}; the row has {keys_of(data)}"
        raise Fault(problem, "Add it, set `format`, or map fields with `columns`")
    return key, data[key]


def text_of(data: dict[str, Any], name: str) -> str:
    """Return a stripped text field; "" if it is null. Raises Fault if it is missing or not a string."""
    key, value = field_of(data, name)
    if not isinstance(value, str | None):
        raise Fault(f"{key!r} is of type {type(value).__name__}", "Write a string in quotes")
    return (value or "").strip()


def optional_text(data: dict[str, Any], name: str) -> str:
    """Return a text field as `text_of` does; "" if it is missing."""
    return "" if name_in(data, name) is None else text_of(data, name)


def items_of(data: dict[str, Any], name: str) -> list[Any]:
    """Return a list field; its objects are rows if the row is one. Raises Fault if it is missing or not a list."""
    key, value = name_in(data, name), get(data, name)
    if not isinstance(value, list):
        raise Fault(f"{name!r} is not a list; the row has {keys_of(data)}", "Write [...], or set `format`")
    if not isinstance(data, Row):
        return value
    inner = f"{data.prefix}{key}."
    return [Row(item, data.fields, inner) if isinstance(item, dict) else item for item in value]


def number(value: Any, name: str) -> float | None:
    """Return a value as a float; None if it is null or says so, as "N/A" does.

    Raises Fault if it is not a finite number, or a broken rank.
    """
    if isinstance(value, str):  # as in CSV
        try:
            value = None if value.strip().lower() in _ABSENT else float(value)
        except ValueError as error:
            raise Fault(f"a {name} is {value!r:.60}", "Write a number") from error
    if value is None or value != value:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e15:
        raise Fault(f"a {name} is {value!r:.60}", "Write a number")
    if name == "rank" and value != int(value):
        raise Fault(f"a rank is {value}", "Write an integer, 0 for the best")
    return float(value)


def absent(value: Any) -> bool:
    """Return whether a value is null, or says so, as "N/A" does."""
    return value is None or str(value).strip().lower() in _ABSENT


def flag(value: Any) -> bool | None:
    """Return a yes-or-no value in any spelling (true, 1, "False", "good"); None if it is none."""
    text = str(value).strip().lower()
    return True if text in _TRUE else False if text in _FALSE else None


def iso(language: str) -> str:
    """Return a language's code without its region: zh-CN -> zh, English -> en."""
    code = re.split("[-_]", language.strip().lower())[0]
    return _LANGUAGES.get(code, code)


def keys_of(data: dict[str, Any]) -> str:
    """Return a row's field names for error messages, at most 200 characters."""
    return ", ".join(sorted(map(str, data)))[:200] or "nothing"
