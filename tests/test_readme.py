"""Every command of the README is checked: options compose and pass the checks, targets and paths exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from srlm.cli import export, push
from srlm.cli import report as report
from srlm.cli.check import check
from srlm.cli.evaluate.main import main as evaluate_main  # noqa: F401
from srlm.cli.judge_bench import main as bench_main  # noqa: F401
from srlm.cli.show_masking.main import main as masking_main  # noqa: F401
from srlm.cli.side_by_side import main as side_by_side_main  # noqa: F401
from srlm.config import Config, Evaluate, JudgeBench, ShowMasking, SideBySide
from srlm.run import main as run_main  # registers the schema  # noqa: F401
from srlm.tracking import dashboard

REPO = Path(__file__).parents[1]
README = (REPO / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```\n(.*?)```", README, re.DOTALL)
COMMANDS = [line.split("#")[0].strip() for block in BLOCKS for line in block.splitlines() if line.startswith("python ")]
PARSERS = {  # commands without Hydra
    "srlm.cli.export": export.parser,
    "srlm.cli.push": push.parser,
    "srlm.reporting": report.parser,
    "srlm.tracking.dashboard": dashboard.parser,
}
TARGETS = sorted(set(re.findall(r"\bmake ([a-z]+)", README)))


def test_there_are_commands() -> None:
    assert len(COMMANDS) >= 8
    assert {"demo", "test", "lint", "setup"} <= set(TARGETS) | {"lint"}


@pytest.mark.parametrize("command", COMMANDS)
def test_command_composes(command: str) -> None:
    words = shlex.split(command)
    assert words[:2] == ["python", "-m"]
    if words[2] in PARSERS:
        PARSERS[words[2]]().parse_args(words[3:])  # ends the test where it takes them not
        return
    kinds = {"srlm.run": Config, "srlm.cli.judge_bench": JudgeBench, "srlm.cli.evaluate": Evaluate}
    kinds["srlm.cli.show_masking"] = ShowMasking
    kinds["srlm.cli.side_by_side"] = SideBySide
    kind, name = kinds[words[2]], words[2].removeprefix("srlm.").replace("run", "config")
    options = [word if "[" in word else word.split(",")[0] for word in words[3:] if word != "-m"]  # a sweep's first job
    with initialize_config_dir(config_dir=str(REPO / "conf"), version_base="1.3"):
        config = OmegaConf.to_object(compose(name, overrides=options))
    assert type(config) is kind
    check(config)


@pytest.mark.parametrize("option", sorted(set(re.findall(r"`([a-z]+(?:\.[a-z_]+)+)(?:=[^`]*)?`", README))))
def test_option_in_prose_exists(option: str) -> None:
    if option.split(".")[-1] in ("md", "py", "yaml", "jsonl", "html"):
        pytest.skip("a file's name")
    value: object = Config()
    for part in option.split("."):
        if isinstance(value, dict):  # its keys are free
            return
        value = getattr(value, part)


@pytest.mark.parametrize("target", TARGETS)
def test_make_target_exists(target: str) -> None:
    assert re.search(rf"^{target}:", (REPO / "Makefile").read_text(), re.MULTILINE)


def test_tree_names_what_is_there() -> None:
    """Each file of the tree exists, and each module of the package's top level stands in it."""
    tree = README.split("## The tree")[1].split("```")[1]
    named = set(re.findall(r"^  ([a-z_]+(?:\.py|/)) ", tree, re.MULTILINE))
    there = {path.name + ("/" if path.is_dir() else "") for path in (REPO / "srlm").iterdir()}
    small = {"__init__.py", "__main__.py", "errors.py", "progress.py", "chat_templates/", "__pycache__/"}
    assert named <= there
    assert there - named <= small


@pytest.mark.parametrize("link", re.findall(r"\]\((?!http)([^)]+)\)", README))
def test_link_leads_somewhere(link: str) -> None:
    assert (REPO / link).exists()
