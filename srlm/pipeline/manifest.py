"""The manifest of a finished stage: its options, inputs, outputs and counts."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from srlm import __version__
from srlm.errors import RunFolderError
from srlm.io.files import read_object

BEGUN = ".begun.json"  # ending of the manifest of a stage that has begun


@dataclass
class Manifest:
    """The record of a finished stage, by which it is skipped, refused or traced."""

    stage: str
    options: dict[str, Any]  # dotted name -> value, of those that the outcome depends on
    inputs: dict[str, str]  # path in the run, or name of an external model or file -> hash
    outputs: dict[str, str]  # path in the run -> hash
    counts: dict[str, Any] = field(default_factory=dict)  # in, out, dropped and why
    seconds: float = 0.0
    tokens: int = 0  # generated or trained on
    read: dict[str, int] = field(default_factory=dict)  # prompt tokens, and those from the prefix cache
    version: str = __version__
    finished: str = ""  # UTC
    libraries: dict[str, str] = field(default_factory=dict)  # package -> version, of those that can change the outcome

    @classmethod
    def load(cls, path: Path) -> Manifest:
        """Read the manifest of a stage that has finished or begun; unknown fields of newer versions are ignored.

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
