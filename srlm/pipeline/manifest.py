"""The manifest that a finished stage leaves: its options, inputs, outputs and counts."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from srlm import __version__
from srlm.errors import RunFolderError
from srlm.io.files import read_object

BEGUN = ".begun.json"  # of a stage that is not finished


@dataclass
class Manifest:
    """What a finished stage leaves: enough to skip it, to refuse it, and to trace it."""

    stage: str
    options: dict[str, Any]  # dotted name -> value, those its outcome depends on
    inputs: dict[str, str]  # what it was made from -> hash: paths in the run, external models and files by name
    outputs: dict[str, str]  # path in the run -> hash
    counts: dict[str, Any] = field(default_factory=dict)  # in, out, dropped and why
    seconds: float = 0.0
    tokens: int = 0  # generated or trained on
    read: dict[str, int] = field(default_factory=dict)  # prompt tokens meanwhile, and those from the engine's cache
    version: str = __version__
    finished: str = ""  # UTC
    libraries: dict[str, str] = field(default_factory=dict)  # package -> version, those that can change the outcome

    @classmethod
    def load(cls, path: Path) -> Manifest:
        """Read a manifest, or the note of a stage that has begun; fields of newer versions are left out.

        Raises
        ------
        RunFolderError
            If the file is damaged.
        """
        remedy = f"Restore it, or delete {path.parents[1]} to recompute its stages."
        data: dict[str, Any] = {"stage": path.stem, "inputs": {}, "outputs": {}} | read_object(path, remedy)
        wrong = [name for name in ("options", "inputs", "outputs") if not isinstance(data.get(name), dict)]
        if wrong:
            raise RunFolderError(f"{path} is damaged (it has no {wrong[0]}). {remedy}")
        return cls(**{one.name: data[one.name] for one in fields(cls) if one.name in data})


def finished_manifests(folder: Path, below: bool = True) -> list[Path]:
    """Return the manifests of all finished stages in a folder, and in those `below` it, sorted by path."""
    pattern = "**/manifests/*.json" if below else "manifests/*.json"
    return sorted(path for path in folder.glob(pattern) if not path.name.endswith(BEGUN))


def stage_manifest(folder: Path, stage: str) -> Manifest | None:
    """Return the manifest of a stage in an iteration's folder; None if the stage has not finished."""
    path = folder / "manifests" / f"{stage}.json"
    return Manifest.load(path) if path.exists() else None
