"""Prepare the words of a command line, GROUP.OPTION=VALUE, before Hydra reads them.

A mistyped name is answered with a near one, keys of mappings need no "++", and texts reach the option as typed.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from srlm.cli.help import groups

_HYDRA = ("hydra", "hydra.")
_SYNTAX = ("'", '"', "\\", "${")  # what a user who knows Hydra's grammar writes: such a value is left as it is


def option_names(kind: Any, prefix: str = "") -> list[str]:
    """Return the dotted names of all options of a configuration dataclass, groups of options included."""
    hints = typing.get_type_hints(kind)
    found: list[str] = []
    for field in dataclasses.fields(kind):
        name = f"{prefix}{field.name}"
        found.append(name)
        if dataclasses.is_dataclass(hints[field.name]):
            found += option_names(hints[field.name], f"{name}.")
    return found


def free_prefixes(kind: Any, prefix: str = "") -> tuple[str, ...]:
    """Return "NAME." of every option that is a mapping, whose keys are free."""
    hints = typing.get_type_hints(kind)
    found: tuple[str, ...] = ()
    for field in dataclasses.fields(kind):
        name, hint = f"{prefix}{field.name}.", hints[field.name]
        if dataclasses.is_dataclass(hint):
            found += free_prefixes(hint, name)
        elif typing.get_origin(hint) is dict:
            found += (name,)
    return found


def with_free_keys(words: Sequence[str], kind: Any) -> list[str]:
    """Return the words with "++" before those that set keys of a mapping, which Hydra takes for new options."""
    free = free_prefixes(kind)

    def sets_keys(word: str) -> bool:
        name, equals, _ = word.partition("=")
        return bool(equals) and f"{name}.".startswith(free)

    return [f"++{word}" if sets_keys(word) else word for word in words]


def with_texts(words: Sequence[str], kind: Any) -> list[str]:
    """Return the words with quotes around the texts that Hydra's grammar reads differently, or not at all.

    Hydra reads name=2026_11_28 as 20261128 and model.revision=2e51234 as infinity, and it refuses letters beyond ASCII,
    "~" and "=" in a value. Sweeps (a,b), null and values that hold quotes, backslashes or "${" are left as they are.
    """
    return [_with_text(word, kind) for word in words]


def _with_text(word: str, kind: Any) -> str:
    name, equals, value = word.partition("=")
    hint = _type_of(name.lstrip("+"), kind) if equals and not word.startswith("-") else None
    if any(mark in value for mark in _SYNTAX):
        return word
    if hint is str:
        return f"{name}={_as_text(value)}"
    inner = value[1:-1]
    if hint == list[str] and value == f"[{inner}]" and inner.strip() and not set(inner) & set("[]{}"):
        return f"{name}=[{','.join(_as_text(part.strip()) for part in inner.split(','))}]"
    return word


def _as_text(value: str) -> str:
    """Return a value that Hydra reads as this text; sweeps, null and texts that it reads so are returned unchanged."""
    # Here, because completion and help use this module and must not wait for Hydra.
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import Quote, QuotedString
    from hydra.errors import HydraException

    try:
        override = OverridesParser.create().parse_override(f"x={value}")
        if override.is_sweep_override() or not isinstance(override.value(), (bool, int, float)):
            return value
    except HydraException:  # the value is no word of Hydra's grammar
        pass
    return str(QuotedString(value, Quote.single).with_quotes())


def _type_of(name: str, kind: Any) -> Any:
    """Return the type of the option with this dotted name, of keys of a mapping too; None where there is none."""
    hint = kind
    for part in name.split("."):
        if dataclasses.is_dataclass(hint):
            hint = typing.get_type_hints(hint).get(part)
        else:
            hint = typing.get_args(hint)[1] if typing.get_origin(hint) is dict else None
        options = typing.get_args(hint) if isinstance(hint, types.UnionType) else ()
        hint = next((option for option in options if option is not types.NoneType), hint)
    return hint


def unknown_option(words: Sequence[str], kind: Any, folders: Sequence[Path] = ()) -> str | None:
    """Return a message about the first word that sets an option which does not exist; None where all exist.

    Parameters
    ----------
    words : sequence of str
        The words of a command line behind the command, flags of Hydra among them.
    kind : type
        The command's configuration dataclass.
    folders : sequence of Path
        Folders of yaml files besides those of the package; their subfolders are groups.
    """
    known, free = option_names(kind), (*free_prefixes(kind), *_HYDRA)
    own = {path.name for folder in folders if folder.is_dir() for path in folder.iterdir() if path.is_dir()}
    choices = {*groups(), *own}
    for word in words:
        name, equals, _ = word.lstrip("+~").partition("=")
        name = name.partition("@")[0]
        if word.startswith("-") or not (equals or word.startswith("~")) or name in known or name in choices:
            continue
        if "/" in name or name.startswith(free) or name == "hydra":  # a group in a group, or of a user's own folder
            continue
        near = difflib.get_close_matches(name, [*known, *choices], 1) or _by_last_part(name, known)
        hint = f" Did you mean {near[0]}?" if near else ""
        return f"There is no option {name}.{hint} To list all options: --cfg job. Most used ones: --help."
    return None


def _by_last_part(name: str, known: Sequence[str]) -> list[str]:
    """Return the options whose last part is that of `name`: learning_rate is sft.learning_rate, for one."""
    last = name.rpartition(".")[2]
    return [option for option in known if option.rpartition(".")[2] == last]
