"""A run folder with a few finished stages, as input of trackers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from srlm.config import Config
from srlm.io import serialization
from srlm.io.files import write_atomic
from srlm.pipeline.stage import Stage
from srlm.pipeline.workspace import Workspace
from srlm.tracking.config import TrackingConfig
from srlm.types import Candidate, Judgement, PreferencePair, Prompt

LONG = "<b>long</b> " * 400

PROMPTS = [
    Prompt("t2/p0", "Why is the sky blue?", ()),
    Prompt("t2/p1", LONG, ()),
    Prompt("t2/p2", "?", (), "too short"),
]
CANDIDATES = [
    Candidate("t2/p0/c0", "t2/p0", "Rayleigh scattering", 4, False),
    Candidate("t2/p0/c1", "t2/p0", "Blue paint", 2, True),
    Candidate("t2/p1/c0", "t2/p1", "<script>alert(1)</script>", 6, False),
    Candidate("t2/p1/c1", "t2/p1", "No.", 4, False),
]
JUDGEMENTS = [
    Judgement("t2/p0/c0/j0", "t2/p0/c0", "Score: 5", 5.0),
    Judgement("t2/p0/c0/j1", "t2/p0/c0", "Score: 4", 4.0),
    Judgement("t2/p0/c1/j0", "t2/p0/c1", "Score: 1", 1.0),
    Judgement("t2/p0/c1/j1", "t2/p0/c1", "well", None, "no verdict"),
    Judgement("t2/p1/c0/j0", "t2/p1/c0", "Score: 5", 5.0),
    Judgement("t2/p1/c1/j0", "t2/p1/c1", "Score: 5", 5.0),
]
PAIRS = [
    PreferencePair("t2/p0", "Why?", "Rayleigh scattering", "Blue paint", "t2/p0/c0", "t2/p0/c1", 4.5, 1.0),
]
MEASURES: dict[str, Any] = {
    "iteration": 2,
    "judge": {
        "pairwise_accuracy": {"value": 0.75, "low": 0.5, "high": 0.9, "n": 12},
        "spearman": {"value": None, "low": None, "high": None, "n": 0},
    },
    "head_to_head": {"win": {"value": 0.5, "low": None, "high": None, "n": 1}},
    "head_to_head_judge": "M1",
}
ROWS = [{"step": 1, "loss": 0.69, "rewards/chosen": 0.0}, {"step": 2, "loss": 0.5, "rewards/chosen": 0.1}]
DPO_ROWS = [*ROWS, {"step": 2, "train_loss": 0.6}]


def make(folder: Path, name: str = "tiny-seed=3", **options: Any) -> tuple[Config, Workspace]:
    """Return a run's options and its folder with config.yaml and run.json."""
    config = Config(name=name, runs_dir=str(folder / "runs"), seed=3, tracking=TrackingConfig(**options))
    workspace = Workspace.of(config)
    workspace.update_run(name=name, version="0.1", python="3.11", packages={"trl": "1.16"}, machine={"gpus": []})
    return config, workspace


def finished(
    folder: Path, name: str, outputs: dict[str, Any], inputs: Sequence[str] = (), counts: dict[str, Any] | None = None
) -> Stage:
    """Make a finished stage. Outputs are records or a JSON object; an output without a file extension is a model."""
    workspace = Workspace(folder.parent if "_" in folder.name or folder.name == "data" else folder)
    stage = Stage(workspace, folder, name, list(outputs), {})
    stage.begin()
    for output, content in outputs.items():
        place = folder / output
        if "." not in output:
            place, content = place / "model.safetensors", {"weights": str(content)}
        place.parent.mkdir(parents=True, exist_ok=True)
        rows = isinstance(content, list)
        place.write_text("".join(serialization.to_json(r) + "\n" for r in content) if rows else json.dumps(content))
    stage.done({path: "abc" for path in inputs}, counts or {}, tokens=100)
    return stage


def log(folder: Path, name: str, rows: list[dict[str, Any]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / f"{name}_log.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def finished_stages(workspace: Workspace) -> list[Stage]:
    """Return the finished stages of a run to M2, in order."""
    zero, one, two = (workspace.iteration(t) for t in range(3))
    log(one, "sft", ROWS)
    log(two, "dpo", DPO_ROWS)
    dropped = {"prompts": 2, "pairs": 1, "dropped": {"all scores equal": 1}, "note": "text"}
    of_pairs = [f"iteration_2/{name}.jsonl" for name in ("1_prompts", "2_candidates", "3_judgements")]
    return [
        finished(workspace.data, "data", {"ift.jsonl": [PROMPTS[0]]}, counts={"ift": 3}),
        finished(zero, "base_model", {"model.json": {"name": str(Path.home() / "m0"), "id": "0"}}),
        finished(one, "sft", {"model": 1}, ["data/ift.jsonl", "iteration_0/model.json"]),
        finished(two, "prompts", {"1_prompts.jsonl": PROMPTS}, ["data/ift.jsonl"]),
        finished(two, "candidates", {"2_candidates.jsonl": CANDIDATES}, of_pairs[:1]),
        finished(two, "judgements", {"3_judgements.jsonl": JUDGEMENTS}, of_pairs[1:2]),
        finished(two, "pairs", {"4_pairs.jsonl": PAIRS}, of_pairs, dropped),
        finished(two, "dpo", {"model": 2}, ["iteration_2/4_pairs.jsonl", "iteration_1/model"], {"pairs": 1}),
        finished(two, "evaluation", {"evaluation.json": MEASURES}),
    ]


def track(tracker: Any, workspace: Workspace, failed: bool = False) -> None:
    """Track a run to M2 and close the tracker."""
    for stage in finished_stages(workspace):
        tracker.stage(stage)
    tracker.close(failed)
