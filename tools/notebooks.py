"""Run the notebooks and store their outputs: `python tools/notebooks.py [NAME ...]`; `--check` only checks the files.

They run in the order of their names, on the run that SRLM_NOTEBOOK_RUN names (default: ../runs/default). A notebook
that fails, or whose outputs contain a path of this machine, is not stored.
"""

from __future__ import annotations

import argparse
import ast
import copy
import re
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode
from traitlets.config import Config

FOLDER = Path(__file__).resolve().parent.parent / "notebooks"
LARGEST = 400_000  # maximum size of a file in bytes, with outputs
HOURS = 3  # time limit of one cell; the first cell of all makes the run
METADATA = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
_MACHINE = re.compile(r"(?<![\w.])/(?:home|root|Users|tmp|work|workspace|mnt|opt|private|usr|var)/\S*")
_ADDRESS = re.compile(r" at 0x[0-9a-f]+(?=>)")
_WARNING = re.compile(r"\b\w*Warning:")


def executed(notebook: NotebookNode, folder: Path, seconds: int) -> NotebookNode:
    """Run a notebook in `folder` and return it with its outputs.

    Parameters
    ----------
    seconds : int
        Time limit of each cell.

    Raises
    ------
    nbclient.exceptions.CellExecutionError
        If a cell raises.
    """
    with tempfile.TemporaryDirectory() as sockets:  # instead of a port, which other users of the machine could access
        client = NotebookClient(
            copy.deepcopy(notebook),
            timeout=seconds,
            kernel_name="python3",
            resources={"metadata": {"path": str(folder)}},
            record_timing=False,
            coalesce_streams=True,
            config=Config({"KernelManager": {"transport": "ipc", "ip": f"{sockets}/kernel"}}),
        )
        return cleaned(client.execute())


def cleaned(notebook: NotebookNode) -> NotebookNode:
    """Return the notebook without versions, timestamps, editor metadata and memory addresses, which vary."""
    notebook.metadata = nbformat.from_dict(METADATA)
    for cell in notebook.cells:
        cell.metadata = NotebookNode()
        for output in cell.get("outputs", []):
            if text := output.get("data", {}).get("text/plain"):
                output.data["text/plain"] = _ADDRESS.sub("", text)
        for output in cell.get("outputs", []):
            if "metadata" in output:
                output.metadata = NotebookNode()
    return notebook


def problems(notebook: NotebookNode, size: int) -> list[str]:
    """Return the reasons why a notebook must not be stored; [] if there are none.

    Parameters
    ----------
    size : int
        Size of its file in bytes.
    """
    try:
        nbformat.validate(notebook)
    except nbformat.ValidationError as error:
        return [f"it is not a valid notebook: {error}"]
    found = [f"it has {size} bytes, and at most {LARGEST} are allowed"] if size > LARGEST else []
    if notebook.metadata != METADATA:
        found.append("its metadata differ from those that this tool writes")
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    if [cell.execution_count for cell in code] != list(range(1, len(code) + 1)):
        found.append("its cells were not run once each, in order")
    for cell in notebook.cells:
        found += [f"cell {cell.id}: {problem}" for problem in _of_cell(cell)]
    return found


def shows(source: str) -> bool:
    """Return whether a cell prints, draws, or ends with a value, outside the functions that it defines."""
    body = [node for node in ast.parse(source).body if not isinstance(node, ast.FunctionDef | ast.ClassDef)]
    calls = {ast.unparse(node.func) for part in body for node in ast.walk(part) if isinstance(node, ast.Call)}
    ends = bool(body) and isinstance(body[-1], ast.Expr) and not source.rstrip().endswith(";")
    return ends or bool(calls & {"print", "display", "plt.show"})


def _of_cell(cell: NotebookNode) -> list[str]:
    found = [] if not cell.metadata else ["it has metadata"]
    found += [f"it names {match[0]}" for match in _MACHINE.finditer(cell.source)]
    if cell.cell_type != "code":
        return found
    if shows(cell.source) and not cell.outputs:
        found.append("it shows something, but has no stored output")
    for output in cell.outputs:
        if output.output_type == "error":
            found.append(f"it raised {output.ename}")
            continue
        if output.get("name") == "stderr":
            found.append(f"it wrote to stderr: {output.text[:80]}")
        texts = [output.text] if "text" in output else []
        texts += [text for kind, text in output.get("data", {}).items() if not kind.startswith("image/")]
        for text in map(str, texts):
            found += [f"its output names {match[0]}" for match in _MACHINE.finditer(text)]
            found += [f"its output contains a warning: {match[0]}" for match in _WARNING.finditer(text)]
    return found


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = argparse.ArgumentParser(prog="python tools/notebooks.py", description=__doc__)
    made.add_argument("names", nargs="*", metavar="NAME", help="such as 02_read_a_run; default: all")
    made.add_argument("--check", action="store_true", help="run nothing; only check the stored notebooks")
    return made


def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    known = {path.stem: path for path in sorted(FOLDER.glob("*.ipynb"))}
    if unknown := sorted(set(options.names) - set(known)):
        print(f"There is no notebook {unknown[0]}. Choose from {', '.join(known)}.", file=sys.stderr)
        return 2
    for name in options.names or known:
        notebook = nbformat.read(known[name], as_version=4)
        if not options.check:
            print(f"{name}: running", flush=True)
            notebook = executed(notebook, FOLDER, 3600 * HOURS)
        text = nbformat.writes(notebook) + "\n"
        if found := problems(notebook, len(text.encode())):
            print(f"{name}: " + f"\n{name}: ".join(found), file=sys.stderr)
            return 1
        if not options.check:
            known[name].write_text(text, encoding="utf-8")
        print(f"{name}: {len(text.encode()) // 1000} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
