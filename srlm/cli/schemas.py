"""Hydra's schemas: the dataclasses of the commands and of judges, which Hydra checks names and types against."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf.errors import OmegaConfBaseException

from srlm.cli.help import conf_folder
from srlm.config import Config, Evaluate, JudgeBench, ShowMasking, SideBySide
from srlm.judges.config import JUDGE_OPTIONS, JudgeConfig, options_type

_STORE = ConfigStore.instance()
_WITH_JUDGE = {"schema": Config, "judge_bench_schema": JudgeBench, "show_masking_schema": ShowMasking}
for _name, _kind in _WITH_JUDGE.items():  # the group `judge` adds the options of the chosen judge
    _STORE.store(name=_name, node=replace(_kind(), judge=JudgeConfig()))
_STORE.store(name="evaluate_schema", node=Evaluate)
_STORE.store(name="side_by_side_schema", node=SideBySide)
for _name, _options in JUDGE_OPTIONS.items():
    _STORE.store(group="judge", name=f"{_name}_options", node=_options)


def register_judges(words: Sequence[str]) -> None:
    """Make judges from outside the package (judge=module:Class) known to Hydra; raises ConfigError if there is none."""
    for word in words:
        name, _, value = word.partition("=")
        for judge in value.split(",") if name == "judge" else ():
            if ":" in judge:
                _STORE.store(group="judge", name=judge, node=options_type(judge)(scorer=judge))


def refused_option(error: BaseException) -> str | None:
    """Return what is wrong with an option of the judge that Hydra refuses, and which judges have it; otherwise None."""
    found: BaseException | None = error
    while found is not None and not (isinstance(found, OmegaConfBaseException) and found.full_key):
        found = found.__cause__ or found.__context__
    if not isinstance(found, OmegaConfBaseException):
        return None
    group, _, option = str(found.full_key).partition(".")
    kind: Any = found.object_type
    if group != "judge" or not isinstance(kind, type) or not issubclass(kind, JudgeConfig) or option in _names(kind):
        return None
    return no_such_option(kind, option)


def no_such_option(kind: type[JudgeConfig], option: str) -> str:
    """Return a message about an option that judges with the options `kind` do not have."""
    text = f"judge.{option} is no option of the chosen judge, which has {', '.join(_names(kind))}."
    if judges := [name for name, options in _judges().items() if option in _names(options)]:
        return f"{text} Judges that have it: {', '.join(judges)}. To choose one: judge=NAME."
    near = difflib.get_close_matches(option, _names(kind), 1)
    return text + (f" Did you mean judge.{near[0]}?" if near else "")


def _judges() -> dict[str, type[JudgeConfig]]:
    """Return the judges that `judge=NAME` chooses, with their options; each yaml file names its schema."""
    texts = {path.stem: path.read_text(encoding="utf-8") for path in sorted((conf_folder() / "judge").glob("*.yaml"))}
    found = {name: re.search(r"^  - .*?(\w+)_options", text, re.MULTILINE) for name, text in texts.items()}
    return {name: JUDGE_OPTIONS[schema[1]] for name, schema in found.items() if schema}


def _names(kind: type[JudgeConfig]) -> list[str]:
    return [field.name for field in fields(kind)]
