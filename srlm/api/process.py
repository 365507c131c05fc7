"""Work in a separate process, in a folder that is removed afterwards.

A worker process has its own event loop, so the functions work in a notebook, where one runs already. Its memory and
CUDA state are gone when it ends. It does not import the script that calls the function, so that script needs no
`if __name__ == "__main__"`, although vLLM starts processes.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from srlm.cli.by_model import resolve_options
from srlm.config import C
from srlm.pipeline.worker import RESUME, WorkerCrashed, run_worker
from srlm.pipeline.workspace import Workspace
from srlm.training.config import TrainConfig


@contextlib.contextmanager
def temporary_workspace(config: C, folder: Path | None = None, model: str = "") -> Iterator[tuple[Workspace, C]]:
    """Yield a folder for workers, and the options with this folder as the run; the folder is removed at the end.

    Options that follow the model get their values.

    Parameters
    ----------
    folder : Path, optional
        Where it is made; by default, where the system keeps temporary files.
    model : str
        The model that is trained; by default, `model.name`.
    """
    with tempfile.TemporaryDirectory(prefix=".srlm-" if folder else "srlm-", dir=folder) as name:
        root = Path(name).resolve()
        config = resolve_options(config, model=model)
        config = replace(config, runs_dir=str(root.parent), name=root.name)
        workspace = Workspace(root)
        workspace.save_config(config)
        yield workspace, config


def work(target: str, workspace: Workspace, number: int = 0, train: TrainConfig | None = None, name: str = "") -> None:
    """Run a worker as `srlm.pipeline.worker.run_worker` does; its errors do not advise to resume.

    Parameters
    ----------
    name : str
        In the name of the log and in messages; of a training also its option group.
    """
    try:
        run_worker(target, workspace, number, train, name, group=name if train else "")
    except WorkerCrashed as error:
        raise WorkerCrashed(str(error).removesuffix(RESUME).rstrip()) from None
