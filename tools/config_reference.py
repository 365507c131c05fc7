"""The configuration reference: type, default and meaning of every option, from the dataclasses and their comments.

`python tools/config_reference.py` prints the page; the documentation site contains it as configuration.md.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import typing
from enum import Enum
from pathlib import Path
from types import UnionType
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

import srlm.run  # noqa: F401  (registers the schema)
from srlm.config import CheckModel, Config, Evaluate, JudgeBench, ShowMasking, SideBySide, kinds_for, kinds_of
from srlm.ranges import Range
from srlm.training.by_model import for_default_run, unset_options

CONF = Path(__file__).resolve().parents[1] / "conf"
COMMANDS = {
    "judge-bench": JudgeBench,
    "evaluate": Evaluate,
    "show-masking": ShowMasking,
    "side-by-side": SideBySide,
    "check-model": CheckModel,
}
HEAD = """# Configuration

This page is generated from the dataclasses and yaml files. "Default" is the value that `srlm run` uses without any
argument; `srlm run --cfg job` prints all of them. "Follows the model" marks options that are unset: a run chooses
their values by the size of the model and the hardware, prints them and stores them in its config.yaml
([the rules](models.md#options-that-follow-the-model)). The page shows those of the default run, and a value that is
set is always kept. `srlm run experiment=free_form --cfg job` prints the options without those that the default
experiment, facts, sets. Set an option with `GROUP.OPTION=VALUE`, and choose a group's file
with `GROUP=CHOICE`.
"""


def comments(kind: type) -> dict[str, str]:
    """Return the comments of each field of a dataclass, including inherited ones: the one above and the one next to it.

    A comment above a field also applies to the fields directly below that have no comment.
    """
    found: dict[str, str] = {}
    for base in reversed([one for one in kind.__mro__ if dataclasses.is_dataclass(one)]):
        above: list[str] = []
        shared, inside, name = "", False, ""
        for line in inspect.getsource(base).splitlines():
            text = line.strip()
            if text.startswith("#"):
                above.append(text.lstrip("# "))
                continue
            match = re.match(r"    (\w+): ", line)
            if match and not inside:
                name = match[1]
                own = " ".join(above)
                shared = own or ("" if "#" in line else shared)
                found[name] = "; ".join(part for part in (own or shared, _beside(line)) if part)
                inside, above = line.rstrip().endswith(("(", "[")), []
            elif inside and line.startswith("    )"):
                found[name] = found[name] or _beside(line)
                inside = False
            elif not text:
                above, shared = [], ""
    return found


def meanings(kind: type) -> dict[str, str]:
    """Return the meaning of each field of a dataclass: its comment, and its ranges."""
    hints = typing.get_type_hints(kind, include_extras=True)

    def ranges(name: str) -> list[str]:
        return [note.allowed for note in getattr(hints[name], "__metadata__", ()) if isinstance(note, Range)]

    return {name: "; ".join(part for part in (note, *ranges(name)) if part) for name, note in comments(kind).items()}


def _beside(line: str) -> str:
    code, mark, comment = line.partition("  # ")
    return comment.partition("  # ")[0].strip() if mark and code.strip() else ""


def type_name(kind: Any) -> str:
    """Return a type as the reference shows it: an Enum by its values, `str | None` as is."""
    if isinstance(kind, type) and issubclass(kind, Enum):
        return ", ".join(member.name for member in kind)
    if typing.get_origin(kind) in (UnionType, typing.Union):
        return " or ".join("null" if part is type(None) else type_name(part) for part in typing.get_args(kind))
    if origin := typing.get_origin(kind):
        return str(origin.__name__)
    return {"bool": "true, false"}.get(kind.__name__, kind.__name__)


FOLLOWING = frozenset(unset_options(Config()))


def default_run() -> Config:
    """Return the options of `srlm run` without arguments."""
    with initialize_config_dir(config_dir=str(CONF), version_base="1.3"):
        return for_default_run(typing.cast(Config, OmegaConf.to_object(compose("config"))))


def option_rows(kind: type, value: Any, prefix: str) -> list[str]:
    """Return a table row for each option of a dataclass instance; nested dataclasses follow with dotted names."""
    hints, notes, rows, nested = typing.get_type_hints(kind), meanings(kind), [], []
    for field in dataclasses.fields(kind):
        name, inner = f"{prefix}{field.name}", getattr(value, field.name)
        if dataclasses.is_dataclass(hints[field.name]):
            nested += option_rows(hints[field.name], inner, f"{name}.") if prefix else []
            continue
        meaning = notes.get(field.name, "") if kind.__name__ != "Alarm" else ""
        rows.append(_row(name, type_name(hints[field.name]), inner, meaning))
    return rows + nested


def _row(name: str, kind: str, value: Any, meaning: str) -> str:
    shown = (
        value.name if isinstance(value, Enum) else yaml.safe_dump(value, default_flow_style=True, allow_unicode=True)
    )
    shown = shown.removesuffix("\n...\n").strip().replace("\n", " ")
    shown = shown if len(shown) < 60 else shown[:50] + " …"
    follows = ", follows the model" if name in FOLLOWING else ""
    cells = (f"`{name}`", kind, f"`{shown}`{follows}", escape(meaning))
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def escape(text: str) -> str:
    """Return a comment with Markdown's special characters escaped."""
    return re.sub(r"([*_<>\[\]{}])", r"\\\1", text)


def table(rows: list[str]) -> str:
    return "\n".join(["| option | type or values | default | meaning |", "|---|---|---|---|", *rows]) + "\n"


def choices(group: str) -> str:
    """Return the yaml files of a group with their first comments, as a table; "" if there are fewer than two files."""
    rows = []
    for path in sorted((CONF / group).glob("*.yaml")):
        head = []
        for line in path.read_text(encoding="utf-8").splitlines():
            if not line.startswith("#"):
                break
            head.append(line.lstrip("# "))
        text = " ".join(line for line in head if not line.startswith("@package"))
        meaning = re.sub(rf"^{group}={path.stem}[^:]*: ", "", text)
        rows.append(f"| `{group}={path.stem}` | {escape(meaning)} |")
    return "\n".join(["| choice | meaning |", "|---|---|", *rows]) + "\n" if len(rows) > 1 else ""


def page() -> str:
    """Return configuration.md."""
    config = default_run()
    hints, notes = typing.get_type_hints(Config), meanings(Config)
    top = [
        _row(field.name, type_name(hints[field.name]), getattr(config, field.name), notes[field.name])
        for field in dataclasses.fields(Config)
        if not dataclasses.is_dataclass(hints[field.name])
    ]
    parts = [HEAD, "## The run\n", table(top), "## experiment\n", choices("experiment")]
    for field in dataclasses.fields(Config):
        kind, value = hints[field.name], getattr(config, field.name)
        if dataclasses.is_dataclass(kind):
            intro = inspect.getdoc(kind) or ""
            parts += [f"## {field.name}\n", "" if intro.startswith(f"{kind.__name__}(") else intro + "\n"]
            parts += [choices(field.name), _alarm_table(kind, value) if field.name == "alarms" else ""]
            parts += [table(option_rows(kind, value, f"{field.name}."))] if field.name != "alarms" else []
            parts += kind_parts(kind, value, field.name)
    for command, kind in COMMANDS.items():
        own = [row for row in option_rows(kind, kind(), "") if row.split("`")[1] in _own(kind)]
        parts += [f"## srlm {command}\n", (inspect.getdoc(kind) or "") + "\n", table(own)]
    return "\n".join(part for part in parts if part)


def kind_parts(group: type, value: Any, name: str) -> list[str]:
    """Return the parts of the page about the kinds of component of a group, with the options that each adds."""
    parts, shared = [], {field.name for field in dataclasses.fields(group)}
    kinds = kinds_for(group)
    for kind in kinds_of(group)[1:] if kinds else ():
        names = ", ".join(f"`{one}`" for one, options in kinds.known.items() if options is kind)
        rows = option_rows(kind, value if type(value) is kind else kind(), f"{name}.")
        own = [row for row in rows if row.split("`")[1].rpartition(".")[2] not in shared]
        named = f"`{name}.{kinds.option}` is {names}."
        parts += [f"### {name}: {names.replace('`', '')}\n", f"{inspect.getdoc(kind)} {named}\n"]
        parts += [table(own)]
    return parts


def _own(kind: type) -> set[str]:
    """Return the names of a command's options that `srlm run` does not have."""
    return {field.name for field in dataclasses.fields(kind)} - {field.name for field in dataclasses.fields(Config)}


def _alarm_table(kind: type, value: Any) -> str:
    notes = comments(kind)
    rows = [
        f"| `alarms.{field.name}.threshold` | `{getattr(value, field.name).threshold:g}` "
        f"| `{getattr(value, field.name).action.name}` | {escape(notes[field.name])} |"
        for field in dataclasses.fields(kind)
    ]
    head = "| option | default | `.action` (off, warn, stop) | meaning |\n|---|---|---|---|\n"
    return head + "\n".join(rows) + "\n"


if __name__ == "__main__":
    print(page())
