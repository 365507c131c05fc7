"""Formats of data, recognised by the fields of the rows or named by the option `format`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from srlm.data.formats import benchmarks, instructions, oasst, preferences
from srlm.data.formats.base import Format, Parsed, is_messages, turns_of
from srlm.data.rows import Fault, Fields, Row, get, keys_of, name_in
from srlm.errors import SeedError
from srlm.io.components import imported

# In the order in which they are tried: the first that fits is taken.
FORMATS = {
    one.name: one
    for one in (*oasst.FORMATS, *benchmarks.FORMATS, *preferences.FORMATS, *instructions.FORMATS)
}  # fmt: skip
RANKED = tuple(name for name, one in FORMATS.items() if one.ranked)


def named(path: str, name: str) -> Format:
    """Return the format of a name, or of a function from outside the package, module:function.

    Raises
    ------
    SeedError
        If there is none; ConfigError if the function cannot be imported.
    """
    if ":" in name:
        return Format(name, (), _external(imported(f"{path}: format", name)), ranked=True)
    if name not in FORMATS:
        known = f"auto or one of {', '.join(FORMATS)}, or module:function"
        raise SeedError(f"{path}: unknown format {name!r}. Set {known}.")
    return FORMATS[name]


def recognised(rows: Sequence[Any], with_answers: bool, ranked: bool, single: bool = False) -> Format:
    """Return the format of rows.

    Parameters
    ----------
    rows : sequence of dict
        The first rows. A field that is null in some of them is judged by the others.
    with_answers, ranked : bool
        Whether answers, or several ranked answers, are wanted. Formats that have them are preferred.
    single : bool
        Whether only formats of one answer per row are considered.

    Raises
    ------
    Fault
        If no format fits, or two fit that read different fields.
    """
    sample = merged(rows)
    fitting = [one for one in FORMATS.values() if one.fits(sample) and not (single and one.ranked)]
    if with_answers:
        fitting = [one for one in fitting if one.name not in instructions.PROMPTS]
    fitting = [one for one in fitting if one.ranked] * ranked or fitting
    fitting = [one for one in fitting if all(get(sample, name) is not None for name in one.needs)] or fitting
    if not fitting:
        remedy = f"Set `format` to one of {', '.join(FORMATS)}, or map fields with `columns`"
        raise Fault(f"no known format has the fields {keys_of(sample)}{_closest(sample, with_answers, ranked)}", remedy)
    first, *others = fitting
    for other in others:
        if not first.ranked and not other.ranked and not _columns(first, sample) & _columns(other, sample):
            if other.name in instructions.PROMPTS:
                continue
            both = " and ".join(f"{one.name} ({', '.join(sorted(_columns(one, sample)))})" for one in (first, other))
            raise Fault(f"the fields {keys_of(sample)} fit two formats, {both}", "Set `format` to one of them")
    return first


def merged(rows: Sequence[Any]) -> Row:
    """Return a row with the first value of each field that is not null."""
    merged: dict[str, Any] = {}
    for row in rows:
        for key, value in row.items():
            if merged.get(key) is None:
                merged[key] = value
    return Row(merged, Fields())


def _columns(one: Format, sample: Row) -> set[str]:
    return {name_in(sample, name) or name for name in one.needs}


def _closest(sample: Row, with_answers: bool, ranked: bool) -> str:
    """Return, for a message, the formats of which the smallest share of the fields is missing."""
    found = []
    for one in FORMATS.values():
        missing = one.missing(sample)
        if missing and len(missing) < len(one.needs) and not (with_answers and one.name in instructions.PROMPTS):
            order = (len(missing) / len(one.needs), one.ranked is not ranked)
            found.append((order, f"{one.name} (without {', '.join(missing)})"))
    closest = [name for _, name in sorted(found)[:3]]
    return f"; the closest formats are {', '.join(closest)}" if closest else ""


def _external(function: Callable[[Row], Any]) -> Callable[[Row], Parsed]:
    """Return the parser of a function from outside the package: row -> prompt, answers."""

    def parse(data: Row) -> Parsed:
        try:
            prompt, answers = function(data)
        except (LookupError, TypeError, ValueError) as error:
            remedy = "Change the function, or the row"
            raise Fault(f"{function.__name__} fails with {type(error).__name__}: {error}", remedy) from error
        yield turns_of(prompt) if is_messages(prompt) else prompt
        yield from answers

    return parse
