"""Find the class that an option names, in a registry or outside the package as "module:Class"."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping
from typing import Any, TypeVar

from srlm.errors import ConfigError

T = TypeVar("T")


def component(option: str, name: str, registry: Mapping[str, type[T] | str], base: type[T]) -> type[T]:
    """Return the class that an option names.

    Parameters
    ----------
    option : str
        The option, for the error.
    name : str
        The option's value: a key of `registry`, or "module:Class".
    registry : mapping
        Name -> class, or "module:Class" of a class that is imported when it is used.
    base : type
        The class that an external one must inherit from.

    Raises
    ------
    ConfigError
        If there is no such class.
    """
    target = registry.get(name, name)
    if isinstance(target, type):
        return target
    found = imported(option, target) if ":" in target else None
    if not (isinstance(found, type) and issubclass(found, base)):
        raise ConfigError(
            f"{option}={name} does not exist. Use one of {', '.join(registry)}, or module:Class for a subclass of "
            f"{base.__module__}.{base.__name__}."
        )
    return found


def check_options_type(option: str, name: str, given: object, expected: type, choice: str) -> None:
    """Raise ConfigError if the options of a component are those of another kind.

    Parameters
    ----------
    option, name : str
        The option that names the component, such as judge.scorer, and its value.
    given : object
        The options: a dataclass.
    expected : type
        The dataclass that this component has.
    choice : str
        The name that chooses the component together with its options.
    """
    if type(given) is not expected:
        group = option.partition(".")[0]
        raise ConfigError(
            f"{option}={name} needs the options {expected.__name__}, and the options are {type(given).__name__}. "
            f"Choose both with {group}={choice}."
        )


def imported(option: str, name: str) -> Any:
    """Return what "module:name" names, of a module in the current folder or on Python's path.

    Raises
    ------
    ConfigError
        If it cannot be imported.
    """
    module, _, attribute = name.partition(":")
    if os.getcwd() not in sys.path:  # the command srlm lies in another folder
        sys.path.append(os.getcwd())
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"{option}={name} cannot be imported: {error}") from None
