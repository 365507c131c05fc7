"""The documents are correct: commands compose, options, files, links and messages exist, references are complete."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from srlm import config as schema
from srlm.cli.check import check
from srlm.cli.commands import COMMANDS
from srlm.cli.experiments import replaced_choice, with_experiment
from srlm.cli.overrides import option_names, with_free_keys, with_positionals, with_texts
from srlm.cli.resume import resumed
from srlm.cli.schemas import register_external
from srlm.config import Config
from srlm.models.checkpoint_checks import CHECKS
from tests.extending import write_examples
from tools.config_reference import page as configuration_page

REPO = Path(__file__).resolve().parents[1]
DOCS = sorted((REPO / "docs").glob("*.md"))
PAGES = [REPO / "README.md", REPO / "CONTRIBUTING.md", *DOCS]
STUDIES = [REPO / "benchmarks" / "README.md", *sorted((REPO / "experiments").rglob("*.md"))]
TEXT = {path: path.read_text(encoding="utf-8") for path in [*PAGES, *STUDIES]}
BY_NAME = {command.name: command for command in COMMANDS}
FLAGS = [
    command.name for command in COMMANDS if command.config is None
]  # need arguments; a name without arguments is prose
PROGRAMS = ("srlm ", "python -m srlm.run")


@pytest.fixture(scope="module", autouse=True)
def examples(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Make the modules of docs/extending.md importable, whose classes its commands name."""
    folder = str(write_examples(tmp_path_factory.mktemp("own")))
    sys.path.insert(0, folder)
    yield
    sys.path.remove(folder)


def commands_in(text: str) -> list[str]:
    """Return the commands of a page (fenced and indented blocks, inline code), without prompts and comments."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    lines += re.findall(r"^ {4}(\S.*)$", text, re.MULTILINE)
    lines += re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text)
    found = (re.split(r"\s+#\s", line.removeprefix("$ ").strip())[0] for line in lines)
    names = [line for line in found if line.startswith(PROGRAMS) and len(line.split()) > 1]
    return [line for line in names if line not in {f"srlm {name}" for name in FLAGS}]


def without_placeholders(command: str) -> bool:
    return not re.search(r"[\[=]\.\.\.|<|\bRUN\b|COMMAND", command)


COMMANDS_IN_DOCS = sorted({c for path in PAGES for c in commands_in(TEXT[path]) if without_placeholders(c)})


def test_docs_contain_every_command() -> None:
    assert len(COMMANDS_IN_DOCS) > 60
    assert {command.split()[1] for command in COMMANDS_IN_DOCS} >= BY_NAME.keys()


@pytest.mark.parametrize("command", COMMANDS_IN_DOCS)
def test_documented_command_composes(command: str) -> None:
    words = shlex.split(command)
    name, words = ("run", words[3:]) if words[0] == "python" else (words[1], words[2:])
    if name.startswith("-") or name == "completion" or words in (["--help"], ["--cfg", "job"]):
        return  # `test_cheap_command_runs`
    known = BY_NAME[name]
    module = importlib.import_module(known.module)  # registers the schema
    if known.config is None:
        parser: argparse.ArgumentParser = module.parser()
        parser.parse_args(words)  # exits if it rejects them
        return
    if "--config-dir" in words:
        place = words.index("--config-dir")
        del words[place : place + 3]
    file, kind = known.config
    if found := resumed(words):  # only the other words are options
        assert found[0]
        words = found[1]
    words = with_positionals(words, known.positional) if known.positional else words
    words = [word if "[" in word else word.split(",")[0] for word in words if word != "-m"]  # a sweep's first job
    options = with_free_keys(with_texts(words, getattr(schema, kind)), getattr(schema, kind))
    register_external(words)
    options, _ = with_experiment(options, known)
    assert replaced_choice(options, known) is None
    with initialize_config_dir(config_dir=str(REPO / "conf"), version_base="1.3"):
        config = OmegaConf.to_object(compose(file, overrides=options))
    assert type(config) is getattr(schema, kind)
    check(config)


@pytest.mark.parametrize("command", ["--help", "run --help", "run --cfg job", "completion bash", "judge-bench --help"])
def test_cheap_command_runs(command: str, tmp_path: Path) -> None:
    arguments = [sys.executable, "-m", "srlm", *command.split()]
    assert subprocess.run(arguments, cwd=tmp_path, capture_output=True, timeout=300).returncode == 0


def test_models_page_lists_every_check_of_a_model() -> None:
    def plain(text: str) -> str:
        fields = re.compile(r"\{(\w+)(?:!r)?\}")
        return fields.sub(lambda field: field[1].upper(), text)

    rows = [line.strip("| ").split(" | ") for line in TEXT[REPO / "docs" / "models.md"].splitlines()]
    for one in CHECKS:
        expected = [one.name, one.reads, plain(one.problem), plain(one.remedy)]
        [row] = [row for row in rows if row[0] == one.name]
        assert row == (expected if one.remedy else [*expected[:2], *row[2:]])


FILES = (
    "md",
    "py",
    "yaml",
    "jsonl",
    "json",
    "html",
    "txt",
    "toml",
    "ipynb",
    "gguf",
    "index",
    "judges",
    "log",
    "in",
    "yml",
)
OPTIONS = sorted({one for path in PAGES for one in re.findall(r"`([a-z]+(?:\.[a-z_]+)+)(?:=[^`]*)?`", TEXT[path])})


NO_OPTIONS = re.compile(rf"srlm\..*|.*\.({'|'.join(FILES)})")  # functions and files


@pytest.mark.parametrize("option", [one for one in OPTIONS if not NO_OPTIONS.fullmatch(one)])
def test_option_in_prose_exists(option: str) -> None:
    if option in option_names(Config):
        return
    value: object = Config()
    for part in option.split("."):
        if isinstance(value, dict):  # arbitrary keys
            return
        value = getattr(value, part)


@pytest.mark.parametrize(
    "target", sorted({t for text in TEXT.values() for t in re.findall(r"\bmake ([a-z-]+)`", text)})
)
def test_make_target_exists(target: str) -> None:
    assert re.search(rf"^{target}:", (REPO / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize(
    "module", sorted({m for text in TEXT.values() for m in re.findall(r"-m (benchmarks\.\w+)", text)})
)
def test_benchmark_module_exists(module: str) -> None:
    assert importlib.util.find_spec(module)


GENERATED = {"configuration.md"}  # by tools/docs_hooks.py
LINKS = [(path, link) for path in TEXT for link in re.findall(r"\]\((?![a-z]+:)([^()\s]+)\)", TEXT[path])]


def anchors(text: str) -> set[str]:
    heads = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", head).strip().lower()) for head in heads}


@pytest.mark.parametrize(("path", "link"), LINKS, ids=[f"{path.stem}-{link}" for path, link in LINKS])
def test_link_target_exists(path: Path, link: str) -> None:
    name, _, anchor = link.partition("#")
    target = (path.parent / name).resolve() if name else path
    if target.name in GENERATED and target.parent == REPO / "docs":
        assert not anchor or f"## {anchor}\n" in configuration_page()
        return
    assert target.exists()
    if anchor and target.suffix == ".md":
        assert anchor in anchors(target.read_text(encoding="utf-8"))


def test_navigation_contains_every_page() -> None:
    names = re.findall(r": ([\w/]+\.md)$", (REPO / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    assert {path.name for path in DOCS} <= set(names)


def test_readme_and_contributing_are_short() -> None:
    assert len(TEXT[REPO / "README.md"].splitlines()) <= 150
    assert len(TEXT[REPO / "CONTRIBUTING.md"].splitlines()) <= 80


def test_every_option_has_a_description() -> None:
    rows = [line.split(" | ") for line in configuration_page().splitlines() if line.startswith("| `")]
    assert len(rows) > 150
    assert not [row[0] for row in rows if not row[-1].strip(" |")]


def test_docs_name_every_experiment_and_every_judge() -> None:
    experiments = {path.stem for path in (REPO / "conf/experiment").glob("*.yaml")}
    assert not [name for name in experiments if not re.search(rf"[=,]\[?{name}\b", TEXT[REPO / "docs/recipes.md"])]
    judges = {path.stem for path in (REPO / "conf/judge").glob("*.yaml")}
    assert not [name for name in judges if f"| `{name}`" not in TEXT[REPO / "docs/judges.md"]]


def test_evaluation_page_defines_every_measure() -> None:
    groups = r"(?:judge|head_to_head|answers|drift|instructions)/([\w<>]+)"
    measures = set(re.findall(rf"^\| `{groups}`", TEXT[REPO / "docs/metrics.md"], re.MULTILINE))
    assert len(measures) > 40
    defined = set(re.findall(r"`([\w<>]+)`", TEXT[REPO / "docs/evaluation.md"]))
    assert not {name for name in measures if not name.startswith("groups_")} - defined


def test_messages_of_the_troubleshooting_page_exist() -> None:
    """Each quoted message occurs in the source after adjacent string literals are joined."""
    files = [*(REPO / "srlm").rglob("*.py"), REPO / "tools/setup.sh"]
    source = "\n".join(path.read_text(encoding="utf-8") for path in files)
    source = re.sub(r"[\"']\s*\n?\s*(?:\+ )?f?[\"']", "", source).replace("\\'", "'")
    quoted = re.findall(r'"([^"\n]+)"', re.sub(r"`[^`]*`", "", TEXT[REPO / "docs/troubleshooting.md"]))
    assert len(quoted) > 25
    assert not [message for message in quoted if message not in source]


def test_experiments_contain_only_known_groups() -> None:
    for path in (REPO / "conf/experiment").glob("*.yaml"):
        assert set(yaml.safe_load(path.read_text(encoding="utf-8"))) - {"defaults"} <= set(Config.__dataclass_fields__)
