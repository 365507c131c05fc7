"""Read the finished stages of a run's folder, and check that their outputs are unchanged.

The run's options are not compared with the current ones, so that any finished run can be read.
"""

from __future__ import annotations

from pathlib import Path

from srlm.config import Config, option_value
from srlm.errors import RunFolderError
from srlm.pipeline.artifacts import model_output
from srlm.pipeline.manifest import Manifest, finished_manifests, stage_manifest
from srlm.pipeline.resume import command_to, run_command
from srlm.pipeline.stage import Stage
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


def run_at(path: str) -> Workspace | None:
    """Return the run in the folder that an option names, None if it names anything else."""
    folder = Path(path).expanduser()
    return open_run(folder) if path and (folder / "config.yaml").is_file() and (folder / "run.json").is_file() else None


def next_command(workspace: Workspace, config: Config) -> str | None:
    """Return the shell command that makes the model after the run's last one.

    None if the run was not started by a command line, or uses all rows of its own pairs or judgements in one iteration.
    """
    own = [group for group in (config.judgements, config.pairs) if group.path and run_at(group.path) is None]
    if config.iteration >= 2 and any(not group.count for group in own):
        return None
    return run_command(workspace, config, config.iteration + 1)


def model_manifest(workspace: Workspace, t: int) -> Manifest | None:
    """Return the manifest of the stage that trained M_t, t >= 1; None if it is not finished."""
    model, folder = workspace.relative(model_output(workspace, t)), workspace.iteration(t)
    found = (Manifest.load(path) for path in finished_manifests(folder, below=False))
    return next((manifest for manifest in found if model in manifest.outputs), None)


def refuse_other_maker(stage: Stage, t: int, option: str) -> None:
    """Raise an error if another stage than this one made M_t, t >= 1.

    Raises
    ------
    RunFolderError
        With `option`, which selects the stage.
    """
    made = model_manifest(stage.workspace, t)
    if made and made.stage != str(stage):
        value = option_value(stage.config, option)
        raise RunFolderError(
            f"M{t} in {stage.workspace.root} was made by the stage {made.stage}, not by {stage.name} "
            f"({option}={value}). To continue: revert the option {option}, or start a new run with name=..., or delete "
            f"{stage.to_delete()} to recompute it."
        )


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


def stage_with(workspace: Workspace, t: int, stage: str, file: str) -> str:
    """Return the finished stage of iteration t that wrote a file: `stage`, or one that took the file from own data.

    `stage` as well if neither is finished.
    """
    if stage_manifest(workspace.iteration(t), stage):
        return stage
    name = workspace.relative(workspace.iteration(t) / file)
    found = (path for path in finished_manifests(workspace.iteration(t), below=False))
    return next((path.stem for path in found if name in Manifest.load(path).outputs), stage)


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
