"""The folder of a run: its paths, options, run.json and lock."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from srlm.config import C, Config, from_dict_as, to_dict, unknown_options
from srlm.errors import RunFolderError
from srlm.io.files import disk_errors, hash_of_files, read_object, sha256, write_atomic
from srlm.io.progress import say
from srlm.pipeline.processes import LOCK, lock_exclusively, share_lock

LINEAGE = "lineage"  # folder in a run: the last manifest of each stage
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the one in C is ten times as fast
_REWRITTEN = "Restore it, or delete it: the next command writes it again."
BASE_MODEL = "model.json"  # of iteration 0: which model M0 is; of iteration 1, if it is M0 as well
CARD = "README.md"  # a model's card, in the model's folder


class Workspace:
    """The folder of one run.

    Parameters
    ----------
    root : Path
        runs_dir/name.
    """

    def __init__(self, root: Path):
        self.root = root

    @classmethod
    def of(cls, config: Config) -> Workspace:
        return cls(Path(config.runs_dir).expanduser().resolve() / config.name)

    @property
    def config_path(self) -> Path:
        return self.root / "config.yaml"

    @property
    def run_path(self) -> Path:
        return self.root / "run.json"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def data(self) -> Path:
        """The run's data after its split: ift, eft, eft_held_out, evaluation (.jsonl)."""
        return self.root / "data"

    def iteration(self, t: int) -> Path:
        return self.root / f"iteration_{t}"

    def model(self, t: int) -> Path:
        """Return the full checkpoint of M_t. M_0 is not copied; its path is in run.json."""
        if t == 0 or self.is_base(t):
            return Path(self.run()["base_model"])
        return self.iteration(t) / "model"

    def is_base(self, t: int) -> bool:
        """Return whether M_t, t >= 1, is M_0 itself: M_1 without SFT (`sft.data=none`)."""
        return t == 1 and (self.iteration(1) / BASE_MODEL).exists()

    @property
    def sft_baseline(self) -> Path:
        """M0 after SFT on IFT alone, if the run trained it."""
        return self.iteration(1) / "sft_baseline"

    @property
    def reward_model(self) -> Path:
        """The reward model, if the run trained one."""
        return self.iteration(1) / "reward_model"

    def evaluation(self, t: int) -> Path:
        """Return the folder of M_t's evaluation outputs."""
        return self.iteration(t) / "evaluation"

    def relative(self, path: Path) -> str:
        return str(path.relative_to(self.root)) if path.is_relative_to(self.root) else str(path)

    def save_config(self, config: Config) -> None:
        write_atomic(self.config_path, yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True))

    def config(self) -> Config:
        return self.config_as(Config)

    def config_as(self, kind: type[C]) -> C:
        """Return the options of the command whose folder this is, as a dataclass of this kind.

        Options that this version of srlm does not have are reported and ignored. Missing ones have their defaults.
        """
        saved = self._read_config()
        if unknown := unknown_options(kind, saved):
            say(f"  {self.config_path}: this version of srlm has no option {', '.join(unknown)}; ignored")
        return from_dict_as(kind, saved)

    def saved_options(self) -> dict[str, Any]:
        """Return config.yaml, the options of the last command, as nested dicts; {} if there is none."""
        return self._read_config() if self.config_path.exists() else {}

    def _read_config(self) -> dict[str, Any]:
        try:
            found = yaml.load(self.config_path.read_text(encoding="utf-8"), _LOADER) or {}
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise RunFolderError(f"{self.config_path} is damaged ({error}). {_REWRITTEN}") from error
        if not isinstance(found, dict):
            raise RunFolderError(f"{self.config_path} is damaged (it contains no options). {_REWRITTEN}")
        return found

    def run(self) -> dict[str, Any]:
        """Return run.json: versions, hardware, seed, lineage."""
        return read_object(self.run_path, _REWRITTEN) if self.run_path.exists() else {}

    def update_run(self, **entries: Any) -> None:
        write_atomic(self.run_path, json.dumps(self.run() | entries, indent=1, ensure_ascii=False))

    def fingerprint(self, path: Path) -> str:
        """Return the hash of a file, or of the names and `content_hash`es of a model folder's files.

        A model's card is not hashed, because it is written after the model is evaluated.
        """
        if not path.exists():
            return "missing"
        if path.is_dir():
            of_card = {path / CARD, *path.glob(f".{CARD}.*.tmp")}  # temporary files of `write_atomic` that a kill left
            return hash_of_files(path, (p for p in path.rglob("*") if p.is_file() and p not in of_card))
        return sha256(path)

    def in_use(self) -> bool:
        """Return whether a process, this one included, holds the run's lock."""
        try:
            fd = os.open(self.root / LOCK, os.O_RDWR)
        except OSError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(fd)
        return False

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Lock the run, so that no other command can use it before this process and all its workers have ended.

        Raises
        ------
        RunFolderError
            If another process uses the run. The message names its process id and host.
        """
        with disk_errors(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
            fd = os.open(self.root / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            lock_exclusively(fd, self.root)
            with disk_errors(self.root):
                os.ftruncate(fd, 0)
                os.write(fd, f"process {os.getpid()} on {socket.gethostname()}".encode())
            share_lock(fd, self.root)
            yield
        finally:
            os.close(fd)


def early_stopping_folder(workspace: Workspace, t: int) -> Path:
    """Return the folder of M_t's early stopping: checkpoints, answers and comparisons."""
    return workspace.iteration(t) / "early_stopping"
