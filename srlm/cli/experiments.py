"""What a command line means together with an experiment: the default one (facts), or one that it chooses.

Without experiment=NAME, a command has the options of facts, or those of free_form if it brings other data. An
experiment's options replace those of the files that GROUP=NAME chooses; where such a choice would be lost, the command
is refused.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from srlm.cli.commands import Command
from srlm.cli.help import GROUP, chosen_groups, experiment_options, options_of_file
from srlm.generation.own_feedback import OWN_EFT
from srlm.pipeline.run_reader import run_at

WITHOUT = "free_form"  # the experiment that sets nothing
_DATA = ("data.ift.path", "data.eft.path", "prompts.path", "judgements.path", "pairs.path", "dataset")
_OF_THE_RUN = ("", "null", OWN_EFT)  # no data, or those of the run itself


def default_experiment(words: Sequence[str], command: Command) -> str:
    """Return the experiment of a command whose words choose none; "" if they choose one, or there is none.

    Parameters
    ----------
    words : sequence of str
        The words of a command line after the command.
    """
    custom = any(word in ("--config-name", "-cn") or word.startswith("--config-name=") for word in words)
    chosen = any(re.match(rf"[+~]?{GROUP}(=|$)", word) for word in words)
    found = "" if custom or chosen else chosen_groups(command).get(GROUP, "")
    return WITHOUT if found and other_data(words) is not None else found


def other_data(words: Sequence[str]) -> int | None:
    """Return the place of the first word that brings other data than those of the default experiment, None without."""
    for place, word in enumerate(words):
        name, value = _assigned(word)
        own = value not in _OF_THE_RUN and not value.startswith("facts:") and run_at(value) is None
        if (name == "data" and value) or (name in _DATA and own):
            return place
    return None


def with_experiment(words: Sequence[str], command: Command) -> tuple[list[str], str]:
    """Return the words, with experiment=free_form if they choose none and bring other data, and a note that says so."""
    place = other_data(words)
    if place is None or default_experiment(words, command) != WITHOUT:
        return list(words), ""
    note = f"experiment={WITHOUT}, because of {words[place].lstrip('+')}: the default experiment is for its own data"
    # next to another option: the parser of the command line takes them only one after the other
    return [*words[:place], f"{GROUP}={WITHOUT}", *words[place:]], note


def replaced_choice(words: Sequence[str], command: Command, folders: Sequence[Path] = ()) -> str | None:
    """Return a message about the first choice whose name or switch the experiment replaces; None if there is none.

    Its numbers may be replaced, such as limits: an experiment is a smaller or larger setting of the same data.

    Parameters
    ----------
    folders : sequence of Path
        Folders of yaml files in addition to the package's.
    """
    implied = default_experiment(words, command)
    given = [_assigned(word) for word in words]
    named = [implied] if implied else [one for name, value in given if name == GROUP for one in _names(value)]
    settings = {option: (one, value) for one in named for option, value in options_of_file(GROUP, one, folders).items()}
    settings = {option: found for option, found in settings.items() if option not in dict(given)}
    groups = [(name, one) for name, value in given if name in chosen_groups(command) for one in _names(value)]
    for group, choice in groups:
        for option, chosen in options_of_file(group, choice, folders).items() if group != GROUP else ():
            if isinstance(chosen, str | bool) and chosen != "" and option in settings:
                experiment, kept = settings[option]
                if kept != chosen:
                    who = f"the default experiment, {experiment}," if implied else f"{GROUP}={experiment}"
                    return (
                        f"{group}={choice} would not set {option}, because {who} sets it to {_word(kept)}. Add "
                        + (f"{GROUP}={WITHOUT}, or " if implied else "")
                        + f"{option}={_word(chosen)}."
                    )
    return None


def hint(message: str, words: Sequence[str], command: Command) -> str:
    """Return a sentence for the end of an error about options that the default experiment sets; "" for other errors."""
    typed = {_assigned(word)[0] for word in words} - {*_DATA}
    named = [one for one in experiment_options(command) if one not in typed and re.search(rf"\b{one}\b", message)]
    implied = default_experiment(words, command)
    if not named or implied in ("", WITHOUT):
        return ""
    return f" The default experiment, {implied}, sets options that are not given here; {GROUP}={WITHOUT} sets none."


def _assigned(word: str) -> tuple[str, str]:
    """Return the name and the value, without quotes, of a word that sets an option; ("", "") for another one."""
    name, equals, value = word.lstrip("+").partition("=")
    return (name, value.strip("'\"")) if equals and not word.startswith("-") else ("", "")


def _names(value: str) -> list[str]:
    """Return the names in a choice: NAME, a sweep's NAME,NAME, or a list [NAME,NAME]."""
    return [name for name in re.split(r"[,\s]+", value.strip("[] ")) if re.fullmatch(r"[\w.-]+", name)]


def _word(value: Any) -> str:
    """Return a value as it is written on a command line."""
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else str(value) or "an empty value"
