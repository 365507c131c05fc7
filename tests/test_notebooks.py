"""The stored notebooks and the tool that cleans them; tests/e2e/test_notebooks.py runs them."""

from __future__ import annotations

import copy
import re
import shlex

import nbformat
import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tests import test_docs
from tests.helpers import ROOT
from tools.notebooks import LARGEST, METADATA, cleaned, main, problems, shows

KEPT = sorted((ROOT / "notebooks").glob("*.ipynb"))
NAMES = ["01_first_run", "02_read_a_run", "03_python_api", "04_own_judge", "05_paper_figures"]
TEXT = [
    cell.source for path in KEPT for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "markdown"
]
COMMANDS = [found for text in TEXT for found in re.findall(r"`((?:python -m srlm\.run|srlm) [^`]*)`", text)]


def test_every_notebook_exists() -> None:
    assert [path.stem for path in KEPT] == NAMES
    assert LARGEST < 500_000


@pytest.mark.parametrize("path", KEPT, ids=NAMES)
def test_stored_notebooks_are_clean_and_have_plots(path) -> None:
    notebook = nbformat.read(path, as_version=4)
    assert problems(notebook, path.stat().st_size) == []
    assert nbformat.writes(notebook) + "\n" == path.read_text(encoding="utf-8")  # formatted like the tool's output
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert 'os.environ.get("SRLM_NOTEBOOK_RUN", "../runs/default")' in code[0].source
    assert any("image/png" in output.get("data", {}) for cell in code for output in cell.outputs)
    assert main(["--check", path.stem]) == 0


@pytest.mark.parametrize("command", [command for command in COMMANDS if len(shlex.split(command)) > 2])
def test_command_in_prose_composes(command: str) -> None:
    test_docs.test_documented_command_composes(command)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("print(1)", True),
        ("for i in (1, 2):\n    print(i)", True),
        ("plt.show()", True),
        ("1 + 1", True),
        ("frame.head();", False),
        ("x = 1", False),
        ("def say():\n    print(1)", False),
        ("", False),
    ],
)
def test_shows_detects_cells_with_output(source: str, expected: bool) -> None:
    assert shows(source) is expected


def made(*cells: NotebookNode) -> NotebookNode:
    """Return a notebook of these cells after cleaning by the tool."""
    notebook = cleaned(new_notebook(cells=list(cells)))
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for number, cell in enumerate(code, 1):
        cell.execution_count = number
    return notebook


def printed(text: str, name: str = "stdout") -> NotebookNode:
    return made(new_code_cell("print(text)", outputs=[new_output("stream", name=name, text=text)]))


def test_clean_notebook_has_no_problems() -> None:
    notebook = printed("../runs/default and 3/root/ and https://example.org/home/page\n")
    assert problems(notebook, 100) == []


@pytest.mark.parametrize(
    ("notebook", "problem"),
    [
        (printed("see /home/ann/runs/default/x.json"), "output names /home/ann/runs/default/x.json"),
        (printed("'/tmp/pytest-1/runs'"), "output names /tmp/pytest-1/runs'"),
        (printed("a.py:3: FutureWarning: this goes away"), "a warning: FutureWarning:"),
        (printed("half done", "stderr"), "wrote to stderr: half done"),
        (made(new_code_cell("print(1)")), "no stored output"),
        (made(new_code_cell('open("/root/x.txt")', outputs=[new_output("stream", text="x")])), "it names /root/x.txt"),
        (made(new_markdown_cell("Look into /Users/ann/x.")), "it names /Users/ann/x."),
        (
            made(
                new_code_cell("1/0", outputs=[new_output("error", ename="ZeroDivisionError", evalue="", traceback=[])])
            ),
            "it raised ZeroDivisionError",
        ),
        (
            made(new_code_cell("x", outputs=[new_output("display_data", {"text/html": "<a href='/work/x'>"})])),
            "output names /work/x",
        ),
    ],
)
def test_problems_are_reported(notebook: NotebookNode, problem: str) -> None:
    [found] = problems(notebook, 100)
    assert problem in found


def test_size_order_metadata_and_format_are_checked() -> None:
    notebook = printed("x")
    assert problems(notebook, LARGEST + 1) == [f"it has {LARGEST + 1} bytes, and at most {LARGEST} are allowed"]
    timed, skipped, versioned, twice = (copy.deepcopy(notebook) for _ in range(4))
    timed.cells[0].metadata = NotebookNode(execution={"iopub.status.busy": "2026-01-01T00:00:00Z"})
    assert "it has metadata" in problems(timed, 100)[0]
    skipped.cells[0].execution_count = 7
    assert problems(skipped, 100) == ["its cells were not run once each, in order"]
    versioned.metadata = nbformat.from_dict(METADATA | {"language_info": {"name": "python", "version": "3.11"}})
    assert problems(versioned, 100) == ["its metadata differ from those that this tool writes"]
    del twice.cells[0]["source"]
    assert "not a valid notebook" in problems(twice, 100)[0]


def test_memory_addresses_are_removed() -> None:
    shown = new_output("execute_result", {"text/plain": "<Styler at 0x7f48526c65d0>"}, execution_count=1)
    assert made(new_code_cell("x", outputs=[shown])).cells[0].outputs[0].data == {"text/plain": "<Styler>"}


def test_unknown_notebook_name_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check", "06_none"]) == 2
    assert "There is no notebook 06_none. Choose from 01_first_run" in capsys.readouterr().err
