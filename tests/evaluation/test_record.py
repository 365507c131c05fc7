"""srlm.evaluation.record: evaluation.json of a model."""

from __future__ import annotations

from pathlib import Path

from srlm.evaluation.record import evaluation_path, read_evaluation, write_evaluation
from srlm.pipeline.workspace import Workspace


def test_measures_are_read_as_they_were_written(tmp_path: Path) -> None:
    path = evaluation_path(Workspace(tmp_path), 2)
    path.parent.mkdir()
    parts = {"iteration": 2, "judge": {"spearman": {"value": 0.5, "low": None, "high": None, "n": 1}}, "by": "Mé"}
    write_evaluation(path, parts)
    assert path == tmp_path / "iteration_2/evaluation.json"
    assert read_evaluation(path) == parts
    assert "Mé" in path.read_text(encoding="utf-8")  # a text stays readable
