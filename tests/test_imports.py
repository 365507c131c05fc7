"""Modules import only from lower layers, and heavy libraries only in their owners, by parsing the source."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import ROOT

PACKAGE = ROOT / "srlm"
# From the bottom up. A unit is a module or a folder of srlm/; it may import its own layer and those before it.
LAYERS = (
    ("srlm", "errors", "config", "ids", "types", "metrics", "ranges"),
    ("io",),
    ("pipeline",),
    ("models",),
    ("engines",),
    ("data",),
    ("preferences",),
    ("judges",),
    ("evaluation",),
    ("generation",),
    ("training",),
    ("tracking",),
    ("reporting",),
    ("recipes",),
    ("cli", "run"),
    ("api",),
    ("__main__",),
)
OWNERS = {
    "vllm": "engines",
    "trl": "training",
    "wandb": "tracking",
    "wandb_workspaces": "tracking",
    "tensorboard": "tracking",
    "lm_eval": "evaluation",
}
HEAVY = ("torch", "vllm", "trl", "wandb", "transformers", "tensorboard", "lm_eval")

OPTION_MODULES = re.compile(r"srlm\.(\w+\.config|training\.methods?(\..*)?)")  # srlm.config composes their dataclasses

MODULES = {
    ".".join(("srlm", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}


def imports_of(path: Path) -> set[str]:
    """Return all modules that a file imports, also in functions; `from srlm import X` is srlm.X if that is a module."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else str(node.module) for name in inner}
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("importlib.import_module", "__import__"):
            found |= {argument.value for argument in node.args if isinstance(argument, ast.Constant)}
    return found


def unit_of(module: str) -> str:
    """ "srlm.data.readers" -> "data"; the package's own __init__ is "srlm"; "srlm.data.config" holds options."""
    return "config" if module.endswith(".config") else module.split(".")[1] if "." in module else module


def layer_of(module: str) -> int:
    return next(number for number, units in enumerate(LAYERS) if unit_of(module) in units)


def inner_imports(module: str) -> set[str]:
    return {name for name in imports_of(MODULES[module]) if name.split(".")[0] == "srlm"}


def test_every_module_has_one_layer():
    units = [unit for layer in LAYERS for unit in layer]
    assert len(units) == len(set(units))
    assert {unit_of(module) for module in MODULES} == set(units)
    assert len(MODULES) > 30


@pytest.mark.parametrize("module", MODULES)
def test_modules_import_only_from_lower_layers(module):
    upward = {name for name in inner_imports(module) if layer_of(name) > layer_of(module)}
    if module.endswith(".config"):  # options may ask the components of their own package
        upward.discard(module.removesuffix(".config"))
    if module == "srlm.config":
        upward = {name for name in upward if not OPTION_MODULES.fullmatch(name)}
    if module == "srlm":  # imports srlm.api only for type checkers: `srlm.score` is imported at its first use
        upward = {name for name in upward if unit_of(name) != "api"}
    assert not upward, f"{MODULES[module]} imports from above it: {sorted(upward)}"


def test_only_the_judges_package_compares_judge_kinds():
    """Other modules ask the judge's spec, so that a new judge needs no change outside srlm/judges."""
    compared = re.compile(r"\bscorer (?:==|!=|is|in|not)\s|(?:==|!=|is|in) \w*\.?judge\.scorer\b|isinstance\(.*Judge\b")
    found = {
        f"{path.relative_to(ROOT)}:{number}"
        for module, path in MODULES.items()
        if not module.startswith("srlm.judges")
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if compared.search(line)
    }
    assert not found


def test_base_modules_import_only_the_standard_library():
    """The modules that all others use depend only on the standard library."""
    allowed = {"srlm.errors", "__future__", *sys.stdlib_module_names}
    for module in ("srlm", "srlm.errors", "srlm.ranges", "srlm.types"):
        roots = {name if name.startswith("srlm") else name.split(".")[0] for name in imports_of(MODULES[module])}
        assert {name for name in roots if not name.startswith("srlm.api.")} <= allowed, module


@pytest.mark.parametrize("module", ["srlm.config", *filter(OPTION_MODULES.fullmatch, MODULES)])
def test_option_modules_import_only_options_at_module_level(module):
    """srlm.config imports them, so they must not import modules that import srlm.config, nor heavy libraries."""
    for node in ast.parse(MODULES[module].read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("srlm"):
            name = str(node.module)
            assert name in ("srlm.errors", "srlm.ranges", "srlm.types") or OPTION_MODULES.fullmatch(name), (
                f"{name} in {module}"
            )
        elif isinstance(node, ast.Import | ast.ImportFrom):
            assert ast.unparse(node).split()[1].split(".")[0] in ("__future__", *sys.stdlib_module_names), module


@pytest.mark.parametrize(("library", "owner"), OWNERS.items())
def test_library_has_one_owner(library, owner):
    users = {module for module, path in MODULES.items() if library in {name.split(".")[0] for name in imports_of(path)}}
    assert users
    assert {unit_of(module) for module in users} == {owner}


def test_one_module_imports_lm_eval():
    users = {module for module, path in MODULES.items() if any(n.split(".")[0] == "lm_eval" for n in imports_of(path))}
    assert users == {"srlm.evaluation.lm_eval"}


@pytest.mark.parametrize("library", OWNERS)
def test_owned_library_is_imported_inside_functions(library):
    """The package can then be imported without the library installed."""
    for path in MODULES.values():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                assert not ast.unparse(node).split()[1].startswith(library), f"{path}:{node.lineno}"


def loaded(*arguments: str) -> set[str]:
    """Return the top-level modules that a Python process imports."""
    ran = subprocess.run(
        [sys.executable, "-X", "importtime", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    lines = [line for line in ran.stderr.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip().split(".")[0] for line in lines}


@pytest.mark.parametrize(
    "arguments",
    [
        ("-c", "import srlm"),
        ("-m", "srlm.run", "--help"),
        ("-m", "srlm", "evaluate", "--help"),
        ("-m", "srlm", "side-by-side", "--help"),
        ("-c", "import srlm.recipes.self_rewarding, srlm.pipeline.worker, srlm.reporting.summary"),
    ],
    ids=["import srlm", "run --help", "evaluate --help", "side_by_side --help", "the parent process"],
)
def test_heavy_libraries_are_not_loaded(arguments):
    """Help is fast, and the process that waits for its workers uses little memory."""
    found = loaded(*arguments)
    assert "srlm" in found
    assert not found & set(HEAVY)
