"""Rows of seed and benchmark files with their line numbers, and access to their fields with type checks.

A file is JSON Lines or one JSON array, plain or gzipped. `hub:OWNER/NAME` is a dataset of the Hugging Face Hub. Errors
give the file and line.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

from srlm.data.config import SourceConfig
from srlm.errors import SeedError
from srlm.types import RankedAnswer

Row = dict[str, Any]
Parsed = Iterator[str | RankedAnswer]  # the prompt, then each answer or the reason why it is left out
SPELLINGS = {
    "prompt": ("prompt", "instruction", "question"),
    "response": ("response", "output", "answer"),
    "messages": ("messages", "conversations"),
    "id": ("id", "message_id", "question_id", "key"),
    "type": ("type", "category"),
    "language": ("language", "lang"),
    "desirable": ("kto_tag", "label"),  # human label of KTO data: whether the answer is good
}


class LeftOut(Exception):
    """A valid row that is not used as a seed; the message is the reason, and rows are counted by reason."""


class Fault(Exception):
    """A row that cannot be parsed; the arguments are the problem, the remedy, and the line if not the current one."""


def load_rows(source: SourceConfig, path: str, name: str) -> Iterator[tuple[int, Any]]:
    """Yield each object of a source with the line on which it begins; rows of a Hub dataset count from 0.

    Parameters
    ----------
    path : str
        `source.path`, or the name of the built-in file if that is "builtin".
    name : str
        Name of the source in error messages.

    Raises
    ------
    SeedError
        If the source does not exist or is not JSON.
    """
    return _load_hub(source) if path.startswith("hub:") else _load_file(source, path, name)


def _load_hub(source: SourceConfig) -> Iterator[tuple[int, Any]]:
    where = f"{source.path}, split {source.split!r}"
    try:
        import datasets  # takes seconds, and only this path needs it
        from huggingface_hub.utils.tqdm import disable_progress_bars
    except ImportError as error:
        raise SeedError(f"{where}: Hub datasets need the package `datasets`. Install it.") from error
    # This runs in the process of the command, whose terminal shows only the command's progress bars.
    datasets.disable_progress_bars()
    disable_progress_bars()
    try:
        yield from enumerate(datasets.load_dataset(source.path.removeprefix("hub:"), split=source.split))
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        remedy = "Check name, split, network and HF_HUB_OFFLINE, or set `path` to a local file"
        raise SeedError(f"{where}: could not be loaded ({error}). {remedy}.") from error


def _load_file(source: SourceConfig, path: str, name: str) -> Iterator[tuple[int, Any]]:
    """Yield each object of a file with the line on which it begins."""
    file = resources.files("srlm.data") / "builtin" / path if source.path == "builtin" else Path(path).expanduser()
    try:
        data = file.read_bytes()
        data = gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data
    except FileNotFoundError as error:
        raise SeedError(f"{path}: no such file. Set `path` to a file, builtin or hub:OWNER/NAME.") from error
    except (OSError, EOFError, zlib.error) as error:
        raise SeedError(f"{path}: cannot be read ({error}). Set `path` to a file, or download it again.") from error
    try:
        text = data.decode("utf-8").removeprefix("\ufeff").rstrip()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        problem = f"byte {error.start} (0x{data[error.start]:02x}) is not UTF-8"
        raise SeedError(f"{name}:{line}: {problem}. Convert the file: iconv -f ENCODING -t UTF-8 {name}.") from error
    if not text.lstrip().startswith("["):
        for line, row in enumerate(text.split("\n") if text else [], 1):  # not splitlines: texts may contain U+2028
            if not row.strip():
                raise SeedError(f"{name}:{line}: the line is blank. Delete it.")
            yield line, _json(row, name, line)
        return
    at, decoder = text.index("[") + 1, json.JSONDecoder()
    line = 1 + text.count("\n", 0, at)
    for _ in _json(text, name, 1):  # the array is valid; decode it again, item by item, for the line numbers
        start = at
        while text[start] in " \t\r\n,":
            start += 1
        line += text.count("\n", at, start)
        item, at = decoder.raw_decode(text, start)
        yield line, item
        line += text.count("\n", start, at)


def _json(text: str, name: str, line: int) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        line += getattr(error, "lineno", 1) - 1
        problem = f"not JSON ({getattr(error, 'msg', error)}, column {getattr(error, 'colno', 1)})"
        remedy = "Fix it: a file contains one JSON object per line, or one JSON array"
        raise SeedError(f"{name}:{line}: {problem}. {remedy}.") from error


def renamed(data: Any, columns: dict[str, str]) -> Row:
    """Return a row with the fields that `columns` maps (our name -> the file's name), and its labels.

    Raises
    ------
    Fault
        If the row is not an object, or a mapped field is missing.
    """
    if not isinstance(data, dict):
        raise Fault(f"expected an object, found {type(data).__name__}", "Write {...} for each row")
    if missing := [theirs for theirs in columns.values() if theirs not in data]:
        raise Fault(f"`columns` names {missing[0]!r}, but the row has {keys_of(data)}", "Fix `columns`")
    kept = [key for name in ("id", "type", "language", "desirable") for key in SPELLINGS[name] if key in data]
    labels = {key: data[key] for key in kept}
    return labels | {ours: data[theirs] for ours, theirs in columns.items()} if columns else data


def get(data: Row, name: str) -> Any:
    """Return a field under any of its `SPELLINGS`; None if it is missing."""
    return next((data[key] for key in SPELLINGS.get(name, (name,)) if key in data), None)


def text_of(data: Row, name: str) -> str:
    """Return a stripped text field; "" if it is null. Raises Fault if it is missing or not a string."""
    keys = SPELLINGS.get(name, (name,))
    key = next((key for key in keys if key in data), None)
    if key is None:
        problem = f"no field {' or '.join(map(repr, keys))}; the row has {keys_of(data)}"
        raise Fault(problem, "Add it, set `format`, or map fields with `columns`")
    if not isinstance(data[key], str | None):
        raise Fault(f"{key!r} is of type {type(data[key]).__name__}", "Write a string in quotes")
    return (data[key] or "").strip()


def items_of(data: Row, name: str) -> list[Any]:
    """Return a list field. Raises Fault if it is missing or not a list."""
    value = get(data, name)
    if not isinstance(value, list):
        raise Fault(f"{name!r} is not a list; the row has {keys_of(data)}", "Write [...], or set `format`")
    return value


def number(value: Any, name: str) -> float | None:
    """Return a value as a float, None if it is null. Raises Fault if it is not a finite number, or a broken rank."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e15:  # also refuses NaN
        raise Fault(f"a {name} is {value!r:.60}", "Write a number, without quotes")
    if name == "rank" and value != int(value):
        raise Fault(f"a rank is {value}", "Write an integer, 0 for the best")
    return float(value)


def iso(code: str) -> str:
    """Return a language code without its region: zh-CN -> zh."""
    return re.split("[-_]", code.strip().lower())[0]


def keys_of(data: Row) -> str:
    """Return a row's field names for error messages, at most 200 characters."""
    return ", ".join(sorted(map(str, data)))[:200] or "nothing"
