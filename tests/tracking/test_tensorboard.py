"""Event files, read back with TensorBoard's own reader."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util import tensor_util

from srlm.pipeline.workspace import Workspace
from srlm.tracking import base
from srlm.tracking.base import open_tracker
from srlm.tracking.config import Tracker
from srlm.tracking.tensorboard import TensorBoardTracker, text_of
from tests.tracked import finished_stages, make, track


def read(workspace: Workspace) -> dict[str, list[tuple[int, Any]]]:
    """Return tag -> (step, value) of all event files of a run."""
    events = EventAccumulator(str(workspace.root / "tensorboard"), size_guidance={"tensors": 0})
    events.Reload()
    return {
        tag: [(event.step, tensor_util.make_ndarray(event.tensor_proto)) for event in events.Tensors(tag)]
        for tag in events.Tags()["tensors"]
    }


def test_every_number_is_logged_once(tmp_path: Path) -> None:
    config, workspace = make(tmp_path, tracker=Tracker.tensorboard, sample_rows=2)
    stages = finished_stages(workspace)
    for _ in range(3):  # the first is the run, the others resume it
        tracker = open_tracker(config, workspace)
        assert isinstance(tracker, TensorBoardTracker)
        for stage in stages:
            tracker.stage(stage)
        tracker.close(False)
        assert not tracker.off
    found = read(workspace)
    assert [(step, float(value)) for step, value in found["judge/pairwise_accuracy"]] == [(2, 0.75)]
    assert [(step, float(value)) for step, value in found["sft/loss"]] == [
        (1, pytest.approx(0.69)),
        (2, pytest.approx(0.5)),
    ]
    assert [step for step, _ in found["dpo_2/train_loss"]] == [2]
    ((step, histogram),) = found["feedback/scores"]
    assert step == 2
    assert histogram[:, 2].tolist() == [0, 1, 0, 0, 1, 3]
    assert histogram[:, 0].tolist() == [-0.5, 0.5, 1.5, 2.5, 3.5, 4.5]
    assert all(len({step for step, _ in values}) == len(values) for values in found.values())
    ((step, texts),) = found["samples/pairs"]
    assert step == 2
    assert b"chosen: Rayleigh scattering" in texts.item()


def test_model_text_is_not_rendered_as_markup() -> None:
    text = text_of([{"id": "a", "text": "# big\n\n![x](http://e.org/x.png)\r\n<script>\x1b[31m\u2028"}, {"id": "b"}])
    assert text == "    id: a\n    text: # big\n    ![x](http://e.org/x.png) \n    <script> [31m \n\n    id: b"
    from tensorboard.plugin_util import markdown_to_safe_html

    shown = markdown_to_safe_html(text)
    assert "<img" not in shown
    assert "<script" not in shown
    assert "<h1" not in shown


def test_missing_tensorboard_disables_tracking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    messages: list[str] = []
    monkeypatch.setattr(base, "say", messages.append)
    monkeypatch.setitem(sys.modules, "tensorboard.summary.writer.event_file_writer", None)
    config, workspace = make(tmp_path, tracker=Tracker.tensorboard)
    track(open_tracker(config, workspace), workspace)
    (line,) = messages
    assert "pip install 'srlm[tensorboard]'" in line
    assert "off from now on" in line
