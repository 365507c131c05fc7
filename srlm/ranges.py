"""Ranges of options. A dataclass states the range next to the option: `count: Annotated[int, at_least(1)] = 24`."""

from __future__ import annotations

import dataclasses
import functools
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from typing import Any, TypeVar

T = TypeVar("T")


def resolved(value: T | None) -> T:
    """Return the value of an option that follows the model, after `srlm.training.by_model.resolve` has chosen it."""
    assert value is not None, "options of a run are resolved before they are used"
    return value


@dataclass(frozen=True)
class Range:
    """The values that an option may have.

    Parameters
    ----------
    holds : callable
        Returns whether a value is allowed.
    allowed : str
        The allowed values in words, to follow "it must be".
    """

    holds: Callable[[Any], bool]
    allowed: str


def at_least(low: float) -> Range:
    """Return the range from `low` on."""
    return Range(lambda value: value >= low, f"{low} or more")


def above(low: float, why: str = "") -> Range:
    """Return the range above `low`; `why` is a unit or a reason."""
    return Range(lambda value: value > low, f"above {low}{why}")


def below(high: float) -> Range:
    """Return the range from 0 up to, but not including, `high`."""
    return Range(lambda value: 0 <= value < high, f"0 up to, but not including, {high}")


def one_of(*values: str) -> Range:
    """Return the range that consists of these texts."""
    return Range(lambda value: value in values, f"one of {', '.join(values)}")


def _is_date(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


SHARE = Range(lambda value: 0 < value <= 1, "above 0 and at most 1")
TEMPERATURE = Range(lambda value: 0 <= value <= 2, "0 (greedy) to 2")
MODEL = Range(bool, "sft, base, endpoint or a model name")  # a role in the run, the server, or a model by name
DATE = Range(_is_date, "a date as YYYY-MM-DD")
SAVE_DTYPES = ("float32", "bfloat16", "float16")
DTYPES = ("auto", *SAVE_DTYPES)


@functools.cache
def _type_hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind, include_extras=True)


def ranges_of(options: Any, prefix: str = "") -> Iterator[tuple[str, Any, Range]]:
    """Yield (dotted option, value, range) for each option that has a range, of a dataclass instance and those in it.

    An option that is None is unset and has no range.
    """
    kind: Any = type(options)  # mypy takes a class for unhashable
    hints = _type_hints(kind)
    for field in dataclasses.fields(options):
        name, value = f"{prefix}{field.name}", getattr(options, field.name)
        if dataclasses.is_dataclass(value):
            yield from ranges_of(value, f"{name}.")
        elif value is not None:
            notes = getattr(hints[field.name], "__metadata__", ())
            yield from ((name, value, note) for note in notes if isinstance(note, Range))
