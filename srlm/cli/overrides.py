"""Preparation of command line overrides, GROUP.OPTION=VALUE, before Hydra parses them.

Unknown option names get a suggestion, keys of mappings need no "++", and strings are passed unchanged.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from srlm import config
from srlm.cli.commands import COMMANDS, Command
from srlm.cli.help import chosen_groups, groups
from srlm.config import kinds_of

# Flags of Hydra that the next word belongs to.
_WITH_VALUE = ("--cfg", "-c", "--package", "-p", "--config-dir", "-cd", "--config-name", "-cn", "--config-path", "-cp")
_HYDRA = ("hydra", "hydra.")
_EXCLUDED = "hydra.job.config.override_dirname.exclude_keys"  # Hydra's list of options that are in no job's name
_NEVER_IN_NAMES = ("name", "iteration", "runs_dir", "experiment")  # as in conf/config.yaml
_SYNTAX = ("'", '"', "\\", "${")  # values with Hydra's own syntax are not changed


def option_names(schema: Any, prefix: str = "") -> list[str]:
    """Return the dotted names of all options of a configuration dataclass, with groups, all judges and all engines."""
    names: dict[str, None] = {}
    for kind in kinds_of(schema):
        hints = typing.get_type_hints(kind)
        for field in dataclasses.fields(kind):
            name = f"{prefix}{field.name}"
            names[name] = None
            if dataclasses.is_dataclass(hints[field.name]):
                names |= dict.fromkeys(option_names(hints[field.name], f"{name}."))
    return list(names)


def free_prefixes(schema: Any, prefix: str = "") -> tuple[str, ...]:
    """Return "NAME." for every option that is a mapping with free keys."""
    hints = typing.get_type_hints(schema)
    prefixes: tuple[str, ...] = ()
    for field in dataclasses.fields(schema):
        name, hint = f"{prefix}{field.name}.", hints[field.name]
        if dataclasses.is_dataclass(hint):
            prefixes += free_prefixes(hint, name)
        elif typing.get_origin(hint) is dict:
            prefixes += (name,)
    return prefixes


def with_positionals(words: Sequence[str], option: str) -> list[str]:
    """Return the words with those that are no option and no flag as the values of `option`, a list.

    A word with "=" is such a value if it is the path of a file or folder, such as that of a sweep's run.
    """
    from hydra.core.override_parser.types import Quote, QuotedString

    values, others, before = list[str](), list[str](), ""
    for word in words:
        name, equals, _ = word.partition("=")
        is_value = not word.startswith("-") and before not in _WITH_VALUE
        is_value = is_value and (not equals or "/" in name or Path(word).expanduser().exists())
        (values if is_value else others).append(word)
        before = word
    listed = ",".join(QuotedString(value, Quote.double).with_quotes() for value in values)
    return [*others, f"{option}=[{listed}]"] if values else others


def with_free_keys(words: Sequence[str], schema: Any) -> list[str]:
    """Return the words with "++" before those that set keys of a mapping, because Hydra treats these as new options."""
    free = free_prefixes(schema)

    def sets_keys(word: str) -> bool:
        name, equals, _ = word.partition("=")
        return bool(equals) and f"{name}.".startswith(free)

    return [f"++{word}" if sets_keys(word) else word for word in words]


def kept_keys(words: Sequence[str], options: Any) -> str | None:
    """Return a message about the first mapping on the command line that leaves keys of a file in place, else None.

    Hydra merges dpo.extra={a: 1} with the mapping of an experiment, so that dpo.extra={} would change nothing.

    Parameters
    ----------
    options : dataclass
        The composed options.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser

    free = {prefix.removesuffix(".") for prefix in free_prefixes(type(options))}
    given = {word.partition("=")[0].lstrip("+") for word in words}
    for word in words:
        name, _, value = word.lstrip("+").partition("=")
        if name not in free or not re.fullmatch(r"\{.*\}", value):
            continue
        typed = OverridesParser.create().parse_override(f"x={value}").value()
        if not isinstance(typed, dict):  # a sweep
            continue
        composed = config.option_value(options, name)
        others = [key for key in composed if key not in map(str, typed) and f"{name}.{key}" not in given]
        if others:
            return (
                f"{name}={value} does not remove {', '.join(others)}, because it is merged with the mapping of the "
                f"experiment or file. To remove them, add {' '.join(f'~{name}.{key}' for key in others)}."
            )
    return None


def with_texts(words: Sequence[str], schema: Any) -> list[str]:
    """Return the words with quotes around string values that Hydra's grammar would change or reject.

    Hydra parses name=2026_11_28 as 20261128 and model.revision=2e51234 as infinity. It rejects non-ASCII letters, "~"
    and "=" in a value. null, sweeps by a function (choice(a,b)) and values with quotes, backslashes or "${" are not
    changed.
    """
    return [_with_text(word, schema) for word in words]


def _with_text(word: str, schema: Any) -> str:
    name, equals, value = word.partition("=")
    hint = _type_of(name.lstrip("+"), schema) if equals and not word.startswith("-") else None
    if any(mark in value for mark in _SYNTAX):
        return word
    if hint is str:
        parts = value.split(",") if not set(value) & set("()[]{}") else [value]  # a sweep, value by value
        return f"{name}={','.join(map(_as_text, parts))}"
    inner = value[1:-1]
    if hint == list[str] and value == f"[{inner}]" and inner.strip():
        parts = [part.strip() for part in re.split(r",(?![^\[\]]*\])", inner)]  # not at commas in brackets
        if not any(set(part) & set("[]{}") for part in parts if not part.startswith("hub:")):  # hub:OWNER/NAME[SPLIT]
            return f"{name}=[{','.join(map(_as_text, parts))}]"
    return word


def _as_text(value: str) -> str:
    """Return a value that Hydra parses as this string; sweeps, null and ordinary strings are returned unchanged."""
    # Imported here, because completion and help use this module, and importing Hydra is slow.
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import Quote, QuotedString
    from hydra.errors import HydraException

    try:
        override = OverridesParser.create().parse_override(f"x={value}")
        if override.is_sweep_override() or not isinstance(override.value(), (bool, int, float)):
            return value
    except HydraException:  # the value does not match Hydra's grammar
        pass
    return str(QuotedString(value, Quote.single).with_quotes())


def with_short_job_names(words: Sequence[str]) -> list[str]:
    """Return the words of a sweep with an override that keeps options which all jobs share out of the jobs' names."""
    if not {"-m", "--multirun"} & set(words) or any(_EXCLUDED in word for word in words):
        return list(words)
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        given = OverridesParser.create().parse_overrides([word for word in words if not word.startswith("-")])
    except HydraException:  # Hydra reports it
        return list(words)
    shared = [override.key_or_group for override in given if not override.is_sweep_override()]
    excluded = dict.fromkeys([*_NEVER_IN_NAMES, *(name for name in shared if not name.startswith(_HYDRA))])
    place = next((n for n, word in enumerate(words) if "=" in word and not word.startswith("-")), len(words))
    # Next to another override: the parser of the command line takes them only one after the other.
    return [*words[:place], f"{_EXCLUDED}=[{','.join(excluded)}]", *words[place:]]


def _type_of(name: str, schema: Any) -> Any:
    """Return the type of the option, or key of a mapping, with this dotted name; None if it does not exist."""
    hint = schema
    for part in name.split("."):
        if dataclasses.is_dataclass(hint):
            hints = (typing.get_type_hints(kind).get(part) for kind in kinds_of(hint))
            hint = next((one for one in hints if one is not None), None)
        else:
            hint = typing.get_args(hint)[1] if typing.get_origin(hint) is dict else None
        options = typing.get_args(hint) if isinstance(hint, types.UnionType) else ()
        hint = next((option for option in options if option is not types.NoneType), hint)
    return hint


def unknown_option(words: Sequence[str], schema: Any, folders: Sequence[Path] = ()) -> str | None:
    """Return a message about the first word that sets an option which does not exist; None if all options exist.

    Parameters
    ----------
    words : sequence of str
        The words of a command line after the command, including Hydra's flags.
    schema : type
        The command's configuration dataclass.
    folders : sequence of Path
        Folders of yaml files in addition to the package's; their subfolders are groups.
    """
    known, free = option_names(schema), (*free_prefixes(schema), *_HYDRA)
    if any(word.startswith("judge=") and ":" in word for word in words):  # an external judge: Hydra knows its options
        free = (*free, "judge.")
    custom = {path.name for folder in folders if folder.is_dir() for path in folder.iterdir() if path.is_dir()}
    choices = {*groups(), *custom}
    for word in words:
        name, equals, _ = word.lstrip("+~").partition("=")
        name = name.partition("@")[0]
        if word.startswith("-") or not (equals or word.startswith("~")) or name in known or name in choices:
            continue
        if "/" in name or name.startswith(free) or name == "hydra":  # a nested group, or one of the user's folder
            continue
        without_group = [] if "." in name else _by_last_part(name, known)
        near = without_group or difflib.get_close_matches(name, [*known, *choices], 1) or _by_last_part(name, known)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        others = [f"srlm {one.name}" for one in COMMANDS if one.config and name in option_names(_schema(one))]
        if others and not without_group:
            hint = f" It is an option of {', '.join(others)}."
        return f"There is no option {name}.{hint} To list all options: --cfg job. For the most used ones: --help."
    return None


def _schema(command: Command) -> Any:
    """Return the dataclass of a command's options."""
    assert command.config
    return getattr(config, command.config[1])


def foreign_group(words: Sequence[str], command: Command) -> str | None:
    """Return a message about the first word that chooses from a group which this command does not use; else None."""
    schema = _schema(command)
    for word in words:
        name, equals, _ = word.partition("=")
        if not equals or name.startswith("-") or name not in groups() or name in chosen_groups(command):
            continue
        used = " and ".join(f"{group}=NAME" for group in chosen_groups(command) if "/" not in group)
        text = f"srlm {command.name} has no {name}=NAME; it has {used}."
        near = [
            one
            for one in _by_last_part(name, option_names(schema))
            if not dataclasses.is_dataclass(_type_of(one, schema))
        ]
        if near:
            return f"{text} Did you mean {min(near, key=lambda one: one.count('.'))}?"
        return f"{text} Single options can be set: {name}.OPTION=VALUE." if _type_of(name, schema) else text
    return None


def unknown_choice(words: Sequence[str], folders: Sequence[Path] = ()) -> str | None:
    """Return a message about the first GROUP=NAME whose NAME does not exist; None if all exist.

    Names of sweeps (a,b) and lists ([a,b]) are checked one by one. Paths, module:Class and Hydra's syntax are not
    checked.
    """
    for word in words:
        group, equals, value = word.lstrip("+").partition("=")
        if not equals or word.startswith("-") or group not in groups():
            continue
        own = [path.stem for folder in folders for path in sorted((folder / group).glob("*.yaml"))]
        known = [*groups()[group], *own]
        for name in re.split(r"[,\s]+", value.strip("[] ")):
            if re.fullmatch(r"[\w.-]+", name) and name not in known:
                near = difflib.get_close_matches(name, known, 1, cutoff=0.5)
                near = near or [one for one in known if one.startswith(name)]
                hint = f" Did you mean {group}={near[0]}?" if near else ""
                return f"There is no {group}={name}.{hint} There are {', '.join(known)}."
    return None


def _by_last_part(name: str, known: Sequence[str]) -> list[str]:
    """Return the options with the same last part as `name`, such as sft.learning_rate for learning_rate.

    The list is empty if there are more than four: such a name says too little.
    """
    last = name.rpartition(".")[2]
    found = [option for option in known if option.rpartition(".")[2] == last]
    return found if len(found) <= 4 else []
