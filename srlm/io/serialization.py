"""Convert records to JSON and back, with type checks."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVar

R = TypeVar("R")


def to_json(record: Any) -> str:
    """Return a record as one line of JSON, with keys in field order.

    An empty field whose metadata has `omit_empty` is left out.
    """
    data = dataclasses.asdict(record)
    for field in dataclasses.fields(record):
        if field.metadata.get("omit_empty") and not data[field.name]:
            del data[field.name]
    return json.dumps(data, ensure_ascii=False)


def from_json(cls: type[R], line: str) -> R:
    """Return the record in a line that `to_json` wrote.

    Raises
    ------
    ValueError
        If the line is not a JSON object, has a missing or unknown field, or a value of the wrong type.
    """
    return from_dict(cls, json.loads(line))


def from_dict(cls: type[R], data: Any, where: str = "") -> R:
    """Return a record with its nested records from a plain dict; `where` names it in errors.

    Raises
    ------
    ValueError
        As `from_json` does.
    """
    where = where or cls.__name__
    if not isinstance(data, dict):
        raise ValueError(f"expected an object for {where}, found {type(data).__name__}")
    hints = _hints(typing.cast(Any, cls))
    if unknown := sorted(set(data) - set(hints)):
        raise ValueError(f"unknown field {unknown[0]!r} for {where}; fields are {', '.join(hints)}")
    try:
        return cls(**{name: _value(hints[name], value, f"{where}.{name}") for name, value in data.items()})
    except TypeError as error:  # a required field is missing
        raise ValueError(f"{where}: {error}") from error


@cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _value(kind: Any, value: Any, where: str) -> Any:
    origin = typing.get_origin(kind)
    if origin in (types.UnionType, typing.Union):
        if value is None:
            return None
        kind = next(k for k in typing.get_args(kind) if k is not type(None))
        return _value(kind, value, where)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ValueError(f"{where}: expected a list, found {type(value).__name__}")
        return tuple(_value(typing.get_args(kind)[0], item, where) for item in value)
    if origin in (dict, Mapping):
        if not isinstance(value, dict):
            raise ValueError(f"{where}: expected an object, found {type(value).__name__}")
        key_kind, inner = typing.get_args(kind)
        if inner is Any:
            return value
        return {key_kind(key): _value(inner, one, f"{where}.{key}") for key, one in value.items()}
    if dataclasses.is_dataclass(kind):
        return from_dict(typing.cast(type, kind), value, where)
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise ValueError(f"{where}: expected {kind.__name__}, found {type(value).__name__}")
    return value
