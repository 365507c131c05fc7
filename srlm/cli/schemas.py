"""Hydra's schemas: the dataclasses of the commands, judges and engines, which Hydra checks names and types against."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf.errors import OmegaConfBaseException

from srlm.cli.help import conf_folder
from srlm.config import KINDS, CheckModel, Config, Evaluate, JudgeBench, Kinds, ShowMasking, SideBySide, kinds_for
from srlm.engines.config import EngineConfig
from srlm.judges.config import JudgeConfig

_STORE = ConfigStore.instance()
# The groups `engine` and `judge` add the options of the chosen component.
_COMMANDS = {"schema": Config, "judge_bench_schema": JudgeBench, "show_masking_schema": ShowMasking}
for _name, _kind in _COMMANDS.items():
    _STORE.store(name=_name, node=replace(_kind(), engine=EngineConfig(), judge=JudgeConfig()))
_WITHOUT_JUDGE: dict[str, type[Config]]
_WITHOUT_JUDGE = {"evaluate_schema": Evaluate, "side_by_side_schema": SideBySide, "check_model_schema": CheckModel}
for _name, _kind in _WITHOUT_JUDGE.items():
    _STORE.store(name=_name, node=replace(_kind(), engine=EngineConfig()))
for _kinds in KINDS:
    for _name, _options in _kinds.known.items():
        _STORE.store(group=_kinds.group, name=f"{_name}_options", node=_options)


def register_external(words: Sequence[str]) -> None:
    """Make judges and engines from outside the package (judge=module:Class) known to Hydra.

    Raises
    ------
    ConfigError
        If there is no such class.
    """
    for word in words:
        group, _, value = word.partition("=")
        for kinds in KINDS:
            for name in value.split(",") if group == kinds.group else ():
                if ":" in name:
                    _STORE.store(group=group, name=name, node=kinds.of(name)(**{kinds.option: name}))


_TYPES = {  # OmegaConf's message -> what the value must be
    r"could not be converted to Integer": "a whole number",
    r"could not be converted to Float": "a number",
    r"is not a valid bool": "true or false",
    r"expected one of \[(.*?)\]": "one of {}",
    r"is not a ListConfig": "a list, such as [a,b]",
}


def refused_option(error: BaseException, word: str = "") -> str | None:
    """Return what is wrong with an option that Hydra refuses: a wrong type, or an option of another component.

    None for other errors. `word` is the override, if the error does not have it.
    """
    override = re.match(r"Error merging override (.+)", str(error))
    word = override[1] if override else word
    found: BaseException | None = error
    while found is not None and not (isinstance(found, OmegaConfBaseException) and found.full_key):
        found = found.__cause__ or found.__context__
    if not isinstance(found, OmegaConfBaseException):
        return None
    for pattern, needed in _TYPES.items():
        if word and (match := re.search(pattern, str(found))):
            return f"{word} is invalid: it must be {needed.format(*match.groups())}."
    group, _, option = str(found.full_key).partition(".")
    kind: Any = found.object_type
    kinds = kinds_for(kind)
    if kinds is None or group != kinds.group or option in _names(kind):
        return None
    return no_such_option(kinds, kind, option)


def no_such_option(kinds: Kinds, kind: Any, option: str) -> str:
    """Return a message about an option that components with the options `kind` do not have."""
    group = kinds.group
    text = f"{group}.{option} is no option of the chosen {group}, which has {', '.join(_names(kind))}."
    if having := [name for name, options in _choices(kinds).items() if option in _names(options)]:
        return f"{text} {group.capitalize()}s that have it: {', '.join(having)}. To choose one: {group}=NAME."
    near = difflib.get_close_matches(option, _names(kind), 1)
    return text + (f" Did you mean {group}.{near[0]}?" if near else "")


def _choices(kinds: Kinds) -> dict[str, type]:
    """Return what GROUP=NAME chooses, with its options; each yaml file names its schema."""
    files = sorted((conf_folder() / kinds.group).glob("*.yaml"))
    texts = {path.stem: path.read_text(encoding="utf-8") for path in files}
    found = {name: re.search(r"^  - .*?(\w+)_options", text, re.MULTILINE) for name, text in texts.items()}
    return {name: kinds.known[schema[1]] for name, schema in found.items() if schema}


def _names(kind: Any) -> list[str]:
    return [field.name for field in fields(kind)]
