"""Rows of a seed or benchmark file, with the line each begins on, and values that are what they should be.

A file is JSON Lines or one JSON array, plain or gzipped; `hub:OWNER/NAME` is a `datasets` hub id. What cannot be
understood is an error that names file and line.
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
Parsed = Iterator[str | RankedAnswer]  # the prompt; then, if asked for, each answer or why it is left out
SPELLINGS = {
    "prompt": ("prompt", "instruction", "question"),
    "response": ("response", "output", "answer"),
    "messages": ("messages", "conversations"),
    "id": ("id", "message_id", "question_id", "key"),
    "type": ("type", "category"),
    "language": ("language", "lang"),
    "desirable": ("kto_tag", "label"),  # whether people found the answer good, as data for KTO say
}


class LeftOut(Exception):
    """A row that is understood but is no seed: its message is the reason, under which it is counted."""


class Fault(Exception):
    """A row that cannot be understood: what was found, what to do, and its line if that is not the current one."""


def load_rows(source: SourceConfig, path: str, name: str) -> Iterator[tuple[int, Any]]:
    """Each object of a source with the line it begins on; rows of a hub data set count from 0.

    Parameters
    ----------
    path : str
        `source.path`, or the built-in file's name where that is "builtin".
    name : str
        What errors call it.

    Raises
    ------
    SeedError
        If there is no such source, or it is not JSON.
    """
    return _load_hub(source) if path.startswith("hub:") else _load_file(source, path, name)


def _load_hub(source: SourceConfig) -> Iterator[tuple[int, Any]]:
    where = f"{source.path}, split {source.split!r}"
    try:
        import datasets  # takes seconds, and only this path needs it
        from huggingface_hub.utils.tqdm import disable_progress_bars
    except ImportError as error:
        raise SeedError(f"{where}: hub data sets need the package `datasets`. Install it.") from error
    # These run in the process of the command itself, whose screen shows the command's own progress only.
    datasets.disable_progress_bars()
    disable_progress_bars()
    try:
        yield from enumerate(datasets.load_dataset(source.path.removeprefix("hub:"), split=source.split))
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        remedy = "Check name, split, network and HF_HUB_OFFLINE, or set `path` to a local file"
        raise SeedError(f"{where}: cannot be loaded ({error}). {remedy}.") from error


def _load_file(source: SourceConfig, path: str, name: str) -> Iterator[tuple[int, Any]]:
    """Each object with the line it begins on."""
    file = resources.files("srlm.data") / "builtin" / path if source.path == "builtin" else Path(path).expanduser()
    try:
        data = file.read_bytes()
        data = gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data
    except FileNotFoundError as error:
        raise SeedError(f"{path}: no such file. Set `path` to a file, builtin or hub:OWNER/NAME.") from error
    except (OSError, EOFError, zlib.error) as error:
        raise SeedError(f"{path}: cannot be read ({error}). Set `path` to a file, or fetch this one again.") from error
    try:
        text = data.decode("utf-8").removeprefix("\ufeff").rstrip()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        found = f"byte {error.start} (0x{data[error.start]:02x}) is not UTF-8"
        raise SeedError(f"{name}:{line}: {found}. Convert the file: iconv -f ENCODING -t UTF-8 {name}.") from error
    if not text.lstrip().startswith("["):
        for line, row in enumerate(text.split("\n") if text else [], 1):  # not splitlines: texts may hold U+2028
            if not row.strip():
                raise SeedError(f"{name}:{line}: the line is blank. Delete it.")
            yield line, _json(row, name, line)
        return
    at, decoder = text.index("[") + 1, json.JSONDecoder()
    line = 1 + text.count("\n", 0, at)
    for _ in _json(text, name, 1):  # valid as a whole: once more, item by item, for their lines
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
        found = f"not JSON ({getattr(error, 'msg', error)}, column {getattr(error, 'colno', 1)})"
        remedy = "Mend it: a file holds one whole JSON object a line, or one JSON array"
        raise SeedError(f"{name}:{line}: {found}. {remedy}.") from error


def renamed(data: Any, columns: dict[str, str]) -> Row:
    if not isinstance(data, dict):
        raise Fault(f"expected an object, found {type(data).__name__}", "Write {...} for each row")
    if missing := [theirs for theirs in columns.values() if theirs not in data]:
        raise Fault(f"`columns` names {missing[0]!r}, the row has {keys_of(data)}", "Mend `columns`")
    kept = [key for name in ("id", "type", "language", "desirable") for key in SPELLINGS[name] if key in data]
    labels = {key: data[key] for key in kept}
    return labels | {ours: data[theirs] for ours, theirs in columns.items()} if columns else data


def get(data: Row, name: str) -> Any:
    return next((data[key] for key in SPELLINGS.get(name, (name,)) if key in data), None)


def text_of(data: Row, name: str) -> str:
    keys = SPELLINGS.get(name, (name,))
    key = next((key for key in keys if key in data), None)
    if key is None:
        found = f"no field {' or '.join(map(repr, keys))}; the row has {keys_of(data)}"
        raise Fault(found, "Add it, set `format`, or map fields by `columns`")
    if not isinstance(data[key], str | None):
        raise Fault(f"{key!r} is of type {type(data[key]).__name__}", "Write a text in quotes")
    return (data[key] or "").strip()


def items_of(data: Row, name: str) -> list[Any]:
    value = get(data, name)
    if not isinstance(value, list):
        raise Fault(f"{name!r} is no list; the row has {keys_of(data)}", "Write [...], or set `format`")
    return value


def number(value: Any, name: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e15:  # NaN is not either
        raise Fault(f"a {name} is {value!r:.60}", "Write a number, without quotes")
    if name == "rank" and value != int(value):
        raise Fault(f"a rank is {value}", "Write a whole number, 0 for the best")
    return float(value)


def iso(code: str) -> str:
    return re.split("[-_]", code.strip().lower())[0]  # zh-CN -> zh


def keys_of(data: Row) -> str:
    return ", ".join(sorted(map(str, data)))[:200] or "nothing"
