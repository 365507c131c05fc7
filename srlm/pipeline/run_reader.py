"""A run's folder as other commands read it: what is finished there, and that it still is what its manifest says.

Nothing here asks with which options the run would be made today, so that any finished run can be read.
"""

from __future__ import annotations

from pathlib import Path

from srlm.errors import RunFolderError
from srlm.pipeline.manifest import Manifest, finished_manifests
from srlm.pipeline.resume import command_to
from srlm.pipeline.workspace import Workspace

ANSWERS = "evaluation/answers"


def open_run(folder: str | Path) -> Workspace:
    """The run that lies in `folder`. Raises RunFolderError where none does."""
    workspace = Workspace(Path(folder).expanduser().resolve())
    if not (workspace.config_path.is_file() and workspace.run_path.is_file()):
        raise RunFolderError(
            f"{folder} is no run: config.yaml and run.json are not both there. Give a run's folder, such as "
            "runs/default."
        )
    return workspace


def model_manifest(workspace: Workspace, t: int) -> Manifest | None:
    """Return the manifest of the stage that made M_t, t from 1; None if it is not finished."""
    model, folder = workspace.relative(workspace.model(t)), workspace.iteration(t)
    found = (Manifest.load(path) for path in finished_manifests(folder, below=False))
    return next((manifest for manifest in found if model in manifest.outputs), None)


def model_stage(workspace: Workspace, t: int) -> str:
    """Return the name of the stage that made M_t, t from 1; "sft" for M1 and "dpo" for others that are not finished."""
    made = model_manifest(workspace, t)
    return made.stage.rpartition("/")[2] if made else "sft" if t == 1 else "dpo"


def model_name(workspace: Workspace, t: int) -> str:
    """NAME-Mt, as other tools know the model."""
    return f"{workspace.root.name}-M{t}"


def finished_iterations(workspace: Workspace, stage: str) -> list[int]:
    """Every t whose stage of this name is finished, ascending.

    Parameters
    ----------
    stage : str
        Such as "pairs", or "evaluation/answers" for one in a folder of the iteration.
    """
    folder, _, name = stage.rpartition("/")
    found = workspace.root.glob(str(Path("iteration_*") / folder / "manifests" / f"{name}.json"))
    numbers = (path.relative_to(workspace.root).parts[0].removeprefix("iteration_") for path in found)
    return sorted(int(number) for number in numbers if number.isdigit())


def manifest(workspace: Workspace, t: int, stage: str) -> Manifest:
    """A finished stage's manifest.

    Raises
    ------
    RunFolderError
        If the iteration is not there or its stage is not finished; which are is told.
    """
    folder, _, name = stage.rpartition("/")
    path = workspace.iteration(t) / folder / "manifests" / f"{name}.json"
    if not path.is_file():
        there = ", ".join(map(str, finished_iterations(workspace, stage))) or "none"
        raise RunFolderError(
            f"{workspace.root} has no finished {stage} in iteration {t}; it is finished in: {there}. Take one of "
            f"these, or bring the run there first: {command_to(workspace, t)}"
        )
    return read_manifest(path)


def read_manifest(path: Path) -> Manifest:
    return Manifest.load(path)


def finished_output(workspace: Workspace, t: int, stage: str, file: str) -> Path:
    """A file or folder that a finished stage of iteration t left.

    Parameters
    ----------
    file : str
        Its path in the iteration's folder.

    Raises
    ------
    RunFolderError
        If the stage is not finished, or what it left is gone or was changed since.
    """
    path = workspace.iteration(t) / file
    expected = manifest(workspace, t, stage).outputs.get(workspace.relative(path))
    if expected is None or workspace.fingerprint(path) != expected:
        raise RunFolderError(
            f"{path} is gone or was changed since its stage left it. Put it back, or give the run's command again: it "
            "says what can be done."
        )
    return path
