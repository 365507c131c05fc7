"""Check the names in GROUP.OPTION=VALUE before Hydra reads them, so that a mistyped one is answered with a near one."""

from __future__ import annotations

import dataclasses
import difflib
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from srlm.cli.help import groups

_HYDRA = ("hydra", "hydra.")


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
