"""Read the finished stages of a run's folder, and check that their outputs are unchanged.

The run's options are not compared with the current ones, so that any finished run can be read.
"""

from __future__ import annotations

from pathlib import Path

from srlm.errors import RunFolderError
from srlm.pipeline.manifest import Manifest, finished_manifests
from srlm.pipeline.resume import command_to
from srlm.pipeline.workspace import Workspace

ANSWERS = "evaluation/answers"


def open_run(folder: str | Path) -> Workspace:
    """Return the run in `folder`. Raise RunFolderError if there is none."""
    workspace = Workspace(Path(folder).expanduser().resolve())
    if not (workspace.config_path.is_file() and workspace.run_path.is_file()):
        raise RunFolderError(
            f"{folder} is not a run: it has no config.yaml or no run.json. Give a run's folder, such as runs/default."
        )
    return workspace


def model_manifest(workspace: Workspace, t: int) -> Manifest | None:
    """Return the manifest of the stage that trained M_t, t >= 1; None if it is not finished."""
    model, folder = workspace.relative(workspace.model(t)), workspace.iteration(t)
    found = (Manifest.load(path) for path in finished_manifests(folder, below=False))
    return next((manifest for manifest in found if model in manifest.outputs), None)


def model_stage(workspace: Workspace, t: int) -> str:
    """Return the stage that trained M_t, t >= 1; if none has finished, "sft" for M1, otherwise "dpo"."""
    made = model_manifest(workspace, t)
    return made.stage.rpartition("/")[2] if made else "sft" if t == 1 else "dpo"


def model_name(workspace: Workspace, t: int) -> str:
    """Return the model's name for other tools, NAME-Mt."""
    return f"{workspace.root.name}-M{t}"


def finished_iterations(workspace: Workspace, stage: str) -> list[int]:
    """Return the iterations in which this stage is finished, ascending.

    Parameters
    ----------
    stage : str
        Such as "pairs", or "evaluation/answers" for a stage in a subfolder of the iteration.
    """
    folder, _, name = stage.rpartition("/")
    found = workspace.root.glob(str(Path("iteration_*") / folder / "manifests" / f"{name}.json"))
    numbers = (path.relative_to(workspace.root).parts[0].removeprefix("iteration_") for path in found)
    return sorted(int(number) for number in numbers if number.isdigit())


def manifest(workspace: Workspace, t: int, stage: str) -> Manifest:
    """Return the manifest of a finished stage.

    Raises
    ------
    RunFolderError
        If the stage is not finished. The message lists the iterations in which it is.
    """
    folder, _, name = stage.rpartition("/")
    path = workspace.iteration(t) / folder / "manifests" / f"{name}.json"
    if not path.is_file():
        finished = ", ".join(map(str, finished_iterations(workspace, stage))) or "none"
        raise RunFolderError(
            f"{workspace.root} has no finished {stage} in iteration {t}; it is finished in: {finished}. Use one of "
            f"these, or run this command first: {command_to(workspace, t)}"
        )
    return Manifest.load(path)


def finished_output(workspace: Workspace, t: int, stage: str, file: str) -> Path:
    """Return the path of an output of a finished stage of iteration t.

    Parameters
    ----------
    file : str
        Its path in the iteration's folder.

    Raises
    ------
    RunFolderError
        If the stage is not finished, or its output is missing or has changed since.
    """
    path = workspace.iteration(t) / file
    expected = manifest(workspace, t, stage).outputs.get(workspace.relative(path))
    if expected is None or workspace.fingerprint(path) != expected:
        raise RunFolderError(
            f"{path} is missing or has changed since its stage finished. Restore it, or rerun the run's command, which "
            "says how to continue."
        )
    return path
