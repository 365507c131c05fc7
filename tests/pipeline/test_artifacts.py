"""srlm.pipeline.artifacts: one module defines the file names of a run."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from srlm.io.serialization import to_json
from srlm.pipeline import artifacts
from srlm.pipeline.artifacts import Artifact
from srlm.pipeline.workspace import Workspace
from srlm.types import Candidate
from tests.helpers import ROOT

ALL = {name: value for name, value in vars(artifacts).items() if isinstance(value, Artifact)}
# Files of the packaged dataset that have the same names as files of a run.
PACKAGED = {"srlm/data/readers.py", "srlm/models/tiny.py"}


def literals(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}


@pytest.mark.parametrize("name", ALL)
def test_file_name_occurs_in_one_module(name: str) -> None:
    modules = {str(path.relative_to(ROOT)): path for path in (ROOT / "srlm").rglob("*.py")}
    found = {module for module, path in modules.items() if ALL[name].file in literals(path)}
    assert found - PACKAGED == {"srlm/pipeline/artifacts.py"}


def test_artifacts_have_unique_paths() -> None:
    places = [(artifact.folder, artifact.file) for artifact in ALL.values()]
    assert len(set(places)) == len(places)


def test_artifact_path_depends_on_its_folder(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    of = [artifacts.IFT.path(workspace), artifacts.PAIRS.path(workspace, 3), artifacts.ANSWERS.path(workspace, 0)]
    assert [workspace.relative(path) for path in of] == [
        "data/ift.jsonl",
        "iteration_3/4_pairs.jsonl",
        "iteration_0/evaluation/answers.jsonl",
    ]
    assert artifacts.head_to_head(1).path(workspace, 2).name == "head_to_head_M1.jsonl"


def test_unfinished_file_is_read_up_to_its_last_complete_line(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    assert artifacts.CANDIDATES.peek(workspace, 2) == []
    one = Candidate("t2/p00000/c0", "t2/p00000", "text", 1, False)
    path = artifacts.CANDIDATES.path(workspace, 2)
    path.parent.mkdir(parents=True)
    path.write_text(to_json(one) + '\n{"id": "t2/p0', encoding="utf-8")
    assert artifacts.CANDIDATES.peek(workspace, 2) == [one]
    assert artifacts.CANDIDATES.read(workspace, 2) == [one]
