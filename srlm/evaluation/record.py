"""Read and write evaluation.json, the measures of one model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from srlm.io.files import write_atomic
from srlm.pipeline.artifacts import EVALUATION
from srlm.pipeline.workspace import Workspace

Parts = dict[str, Any]  # part -> measures, of srlm/metrics.py


def evaluation_path(workspace: Workspace, t: int) -> Path:
    """Return the path of M_t's evaluation.json."""
    return workspace.iteration(t) / EVALUATION


def read_evaluation(path: Path) -> Parts:
    """Return the measures in a file that `write_evaluation` wrote."""
    found: Parts = json.loads(path.read_text(encoding="utf-8"))
    return found


def write_evaluation(path: Path, parts: Parts) -> None:
    """Write a model's measures as JSON."""
    write_atomic(path, json.dumps(parts, indent=1, ensure_ascii=False))
