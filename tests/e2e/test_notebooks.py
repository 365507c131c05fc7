"""Every notebook runs from top to bottom on a run with a random model, which the first notebook completes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError

from srlm.io.record_file import read_records
from srlm.types import Judgement
from tools.notebooks import FOLDER, executed, problems

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.variant, pytest.mark.timeout(1200)]
NAMES = sorted(path.stem for path in FOLDER.glob("*.ipynb"))
SECONDS = 900  # for one cell


def run(name: str, folder: Path) -> nbformat.NotebookNode:
    return executed(nbformat.read(folder / f"{name}.ipynb", as_version=4), folder, SECONDS)


@pytest.fixture(scope="module")
def folder(smoke_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Yield a copy of notebooks/ with the environment of their kernels, and a run that lacks M2's evaluation."""
    copy = tmp_path_factory.mktemp("project") / "notebooks"
    shutil.copytree(FOLDER, copy)
    last = shutil.copytree(smoke_run, copy.parent / "runs/tiny") / "iteration_2"
    shutil.rmtree(last / "evaluation")
    for name in ("evaluation.json", "manifests/evaluation.json"):
        (last / name).unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SRLM_NOTEBOOK_RUN", "../runs/tiny")
        patch.setenv("SRLM_NOTEBOOK_OPTIONS", "experiment=smoke engine=transformers")
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(FOLDER.parent), os.environ.get("PYTHONPATH")])))
        yield copy


@pytest.fixture(scope="module")
def first(folder: Path) -> nbformat.NotebookNode:
    return run("01_first_run", folder)


def test_the_first_notebook_continues_the_run(first: nbformat.NotebookNode, folder: Path) -> None:
    texts = [output.text for cell in first.cells for output in cell.get("outputs", []) if "text" in output]
    assert "is not there yet" in texts[0]
    assert "M2 generates" in texts[1]
    assert "Measures of every model" in texts[1]
    for t in range(3):
        assert (folder.parent / f"runs/tiny/iteration_{t}/evaluation.json").is_file()


@pytest.mark.parametrize("name", NAMES)
def test_notebooks_run_without_errors(first: nbformat.NotebookNode, folder: Path, name: str) -> None:
    notebook = first if name == "01_first_run" else run(name, folder)
    assert problems(notebook, len(nbformat.writes(notebook).encode())) == []
    if name == "04_own_judge":
        [judged] = (folder.parent / "runs/tiny_own_judge").glob("my_rubric-*/judgements/*/*.jsonl")
        assert len(read_records(judged, Judgement)) == 16  # four answers to four prompts


@pytest.mark.parametrize("name", [name for name in NAMES if name != "01_first_run"])
def test_a_missing_run_is_explained(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SRLM_NOTEBOOK_RUN", "../runs/none")
    with pytest.raises(CellExecutionError, match=r"(?s)no finished run to M2 in \.\./runs/none.*python -m srlm\.run"):
        run(name, folder)
