"""srlm.training.early_stopping.

The chosen checkpoint, the validation prompts, and resuming of killed runs, with scripted workers.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from srlm.data.splits import Overlap
from srlm.errors import RunFolderError, SeedError
from srlm.io.files import write_atomic
from srlm.io.record_file import RecordFile
from srlm.io.serialization import to_json
from srlm.pipeline.workspace import Workspace, early_stopping_folder
from srlm.training import early_stopping
from srlm.training.config import TrainConfig
from srlm.training.early_stopping import (
    WORKERS,
    decide,
    draw_prompts,
    judge_name,
    next_checkpoint,
    outcome_line,
    outcome_lines,
    sentence,
    train,
)
from srlm.training.stages import Train
from srlm.types import Answer, CheckpointComparison, Comparison, Prompt, SeedExample
from tests.helpers import options

PROMPTS = 4
ON = ("dpo.early_stopping.enabled=true", "dpo.early_stopping.every_steps=10", f"dpo.early_stopping.prompts={PROMPTS}")
TEXTS = (
    "Name a river.",
    "Why is the sky blue at noon?",
    "Translate 'tree' to French.",
    "Add 17 and 25.",
    "Who was Plato?",
)


class Killed(BaseException):
    """Stands for a kill of the run."""


class Scripted:
    """Workers without a model: training of 35 steps, and scripted verdicts.

    Parameters
    ----------
    verdicts : sequence of str
        Verdicts on the second, third, ... checkpoint against the previous: "first" (the newer wins), "second", "tie" or
        "none" (no verdict), on every prompt.
    killed_after : int
        Raise after so many workers; 0 = never.
    """

    def __init__(self, workspace: Workspace, verdicts: list[str], killed_after: int = 0):
        self.workspace, self.verdicts, self.killed_after = workspace, verdicts, killed_after
        self.config = workspace.config()
        self.folder = early_stopping_folder(workspace, 2)
        self.calls: list[str] = []

    def __call__(self, worker: str, train: TrainConfig | None) -> None:
        assert worker in {"dpo", *WORKERS}
        self.calls.append(worker)
        getattr(self, worker)()
        if len(self.calls) == self.killed_after:
            raise Killed

    def dpo(self) -> None:
        target, stop_at = next_checkpoint(self.folder, self.config.dpo.early_stopping.every_steps)
        step = min(stop_at, 35)
        write_atomic(target / "weights", str(step))
        write_atomic(target.with_suffix(".json"), json.dumps({"pairs": 7, "tokens": 70, "step": step, "steps": 35}))

    def validation_answers(self) -> None:
        number = next(n for n in self._numbers() if not self._stage("answers", n).complete())
        assert (self.folder / f"checkpoint_{number}" / "weights").exists()
        stage = self._stage("answers", number)
        rows = [Answer(row.id, row.prompt, f"answer {number}", 2, False) for row in self._prompts()]
        write_atomic(stage.outputs[0], "".join(to_json(row) + "\n" for row in rows))
        stage.done({}, {})

    def validation_comparisons(self) -> None:
        number = max(self._numbers())
        verdict, stage = self.verdicts[number - 2], self._stage("comparisons", number)
        winner = {"first": ("first", "first"), "second": ("second", "second"), "tie": ("first", "second")}
        rows = [
            Comparison(f"{row.id}/{order}", row.id, "", won)
            for row in self._prompts()
            for order, won in zip(("ab", "ba"), winner.get(verdict, (None, None)), strict=True)
        ]
        write_atomic(stage.outputs[0], "".join(to_json(row) + "\n" for row in rows))
        stage.done({}, {})

    def _numbers(self) -> list[int]:
        return sorted(int(path.stem.split("_")[1]) for path in self.folder.glob("checkpoint_*.json"))

    def _prompts(self) -> list[SeedExample]:
        return list(RecordFile(self.folder / "prompts.jsonl", SeedExample).records.values())

    def _stage(self, kind: str, number: int) -> Any:
        make = early_stopping._answers if kind == "answers" else early_stopping._comparisons
        return make(self.workspace, self.config, 2, number)


@pytest.fixture
def messages(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    lines: list[str] = []
    monkeypatch.setattr("srlm.training.early_stopping.say", lines.append)
    return lines


def workspace_of(root: Path, *overrides: str) -> Workspace:
    workspace = Workspace(root)
    workspace.save_config(options("experiment=smoke", *ON, *overrides))
    for name in ("ift", "eft", "eft_held_out", "evaluation"):
        write_atomic(workspace.data / f"{name}.jsonl", "")
    write_atomic(workspace.iteration(2) / "1_prompts.jsonl", "")
    write_atomic(workspace.iteration(2) / "checkpoints/preference/checkpoint-10/weights", "x")
    return workspace


def finish(workspace: Workspace, work: Scripted) -> tuple[int, dict[str, Any]]:
    """Train to the end; return the step whose weights became M2's, and the counts."""
    counts = train(workspace, workspace.config(), 2, work)
    assert not list(early_stopping_folder(workspace, 2).glob("checkpoint_*/weights"))
    assert not (workspace.iteration(2) / "checkpoints" / "dpo").exists()
    return int((workspace.model(2) / "weights").read_text()), counts


@pytest.mark.parametrize(
    ("verdicts", "chosen", "last"),
    [
        (["second"], 10, 20),
        (["tie"], 10, 20),
        (["first", "second"], 20, 30),
        (["first", "first", "second"], 30, 35),
        (["first", "first", "first"], 35, 35),
        (["none", "none", "none"], 35, 35),
        (["none", "second"], 20, 30),
    ],
)
def test_training_stops_at_the_first_checkpoint_without_improvement(
    verdicts: list[str], chosen: int, last: int, tmp_path: Path, messages: list[str]
) -> None:
    workspace = workspace_of(tmp_path)
    found, counts = finish(workspace, Scripted(workspace, verdicts))
    recorded = counts["early_stopping"]
    assert (found, recorded["chosen_step"], recorded["last_step"], recorded["steps"]) == (chosen, chosen, last, 35)
    assert counts["pairs"] == 7
    assert len(recorded["comparisons"]) == len(messages) == len(verdicts)
    assert ("training stops, and step" in messages[-1]) == (chosen != last)


def test_run_killed_after_any_worker_has_the_same_result(tmp_path: Path, messages: list[str]) -> None:
    expected = None
    for killed_after in range(9):
        workspace = workspace_of(tmp_path / str(killed_after))
        work = Scripted(workspace, ["first", "second"], killed_after)
        if killed_after:
            with pytest.raises(Killed):
                train(workspace, workspace.config(), 2, work)
        work.killed_after = 0
        found = finish(workspace, work)
        expected = expected or found
        assert found == expected
        assert len(work.calls) == 8  # three trainings, three answer stages, two comparisons; none is repeated
        again = train(workspace, workspace.config(), 2, Scripted(workspace, []))
        assert again == expected[1]  # killed before the manifest: no worker runs again


def test_training_with_one_checkpoint_has_no_comparison(tmp_path: Path, messages: list[str]) -> None:
    workspace = workspace_of(tmp_path, "dpo.early_stopping.every_steps=35")
    work = Scripted(workspace, [])
    assert finish(workspace, work)[0] == 35
    assert work.calls == ["dpo"]
    assert "nothing to compare" in messages[0]


def comparison(**changed: Any) -> CheckpointComparison:
    found = CheckpointComparison("400-200", 400, 200, 253, 250, 120, 60, 70, 0.2, 0.08, 0.32, "better")
    return dataclasses.replace(found, **changed)


@pytest.mark.parametrize(
    ("changed", "least", "outcome"),
    [
        ({}, 0.0, "better"),
        ({"net_win": 1e-9}, 0.0, "better"),
        ({"net_win": 0.0}, 0.0, "not better"),
        ({"net_win": -0.1}, 0.0, "not better"),
        ({"net_win": 0.2}, 0.2, "not better"),
        ({"net_win": 0.21}, 0.2, "better"),
        ({"judged": 127}, 0.0, "better"),
        ({"judged": 126}, 0.0, "undecided"),
        ({"judged": 0, "net_win": None}, 0.0, "undecided"),
    ],
)
def test_checkpoint_is_better_only_above_the_minimum_net_win(
    changed: dict[str, Any], least: float, outcome: str
) -> None:
    assert decide(comparison(**changed), least) == outcome


def test_progress_sentence_reports_each_comparison() -> None:
    assert sentence(comparison(), "M1", "M2") == (
        "Early stopping: step 400 against step 200, judged by M1: 120 wins, 60 ties, 70 losses on 250 of 253 prompts, "
        "net win +0.20 [+0.08, +0.32]. It is better: training continues."
    )
    worse = sentence(comparison(net_win=-0.1, low=None, high=None, outcome="not better"), "M1", "M2")
    assert worse.endswith("net win -0.10. It is not better: training stops, and step 200 becomes M2.")
    without_verdicts = sentence(comparison(judged=3, net_win=None, outcome="undecided"), "M1", "M2")
    assert "on 3 of 253 prompts. Too few prompts have a verdict, so training continues." in without_verdicts


def line(*compared: CheckpointComparison, chosen: int = 400) -> str:
    counts = {
        "chosen_step": chosen,
        "last_step": 600,
        "steps": 600,
        "comparisons": list(map(dataclasses.asdict, compared)),
    }
    return outcome_line(counts, "M1", "M2")


def test_report_names_compared_and_chosen_checkpoints() -> None:
    first = "Early stopping of M2, judged by M1: step 400 against step 200: 120 wins, 60 ties, 70 losses on 250 of 253 "
    first += "prompts, net win +0.20 [+0.08, +0.32] (better)"
    second = comparison(newer_step=600, older_step=400, net_win=-0.1, low=None, high=None, outcome="not better")
    assert line(comparison(), second) == (
        f"{first}; step 600 against step 400: 120 wins, 60 ties, 70 losses on 250 of 253 prompts, net win -0.10 "
        "(not better). Training stopped there, and step 400 of 600 became M2."
    )
    assert line(comparison()) == f"{first}. Training ran to its end, and its last step, 400, became M2."
    without_verdicts = line(comparison(judged=3, net_win=None, outcome="undecided"))
    assert "on 3 of 253 prompts (too few verdicts to decide). Training ran to its end" in without_verdicts
    assert line(chosen=35) == "Early stopping of M2: training has one checkpoint, at step 35, and no comparison."


@pytest.mark.parametrize(
    ("judge", "name"), [("self", "M2"), ("sft", "M1"), ("base", "M0"), ("org/model", "org/model"), ("/home/me/j", "j")]
)
def test_judge_is_named_without_its_local_path(judge: str, name: str) -> None:
    assert judge_name(options(f"dpo.early_stopping.judge={judge}"), 3) == name


def test_outcome_lines_cover_trainings_with_early_stopping(tmp_path: Path, messages: list[str]) -> None:
    workspace = workspace_of(tmp_path)
    _, counts = finish(workspace, Scripted(workspace, ["first", "second"]))
    assert outcome_lines(workspace, workspace.config(), 2) == []  # the stage is not complete
    Train(workspace, workspace.config(), 2).done({}, counts)
    Train(workspace, workspace.config(), 3).done({}, {"pairs": 7})  # without early stopping
    [found] = outcome_lines(workspace, workspace.config(), 3)
    assert found.startswith("Early stopping of M2, judged by M1: step 20 against step 10: 4 wins, 0 ties, 0 losses")
    assert found.endswith("(not better). Training stopped there, and step 20 of 35 became M2.")
    assert outcome_lines(workspace, workspace.config(), 1) == []


def test_early_stopping_files_of_a_deleted_training_are_refused(tmp_path: Path, messages: list[str]) -> None:
    """After the model and its manifest are deleted, old answers and verdicts remain in the folder."""
    workspace = workspace_of(tmp_path)
    shutil.rmtree(workspace.iteration(2) / "checkpoints")
    stage = Train(workspace, workspace.config(), 2)
    stage.begin()
    _, counts = finish(workspace, Scripted(workspace, ["second"]))
    stage.done({}, counts)
    stage.path.unlink()
    shutil.rmtree(workspace.model(2))
    other = Train(workspace, options("experiment=smoke", *ON, "dpo.beta=0.3"), 2)
    assert not other.complete()
    with pytest.raises(RunFolderError, match=r"early_stopping exists, but no manifest says .* delete it to recompute"):
        other.begin()
    shutil.rmtree(early_stopping_folder(workspace, 2))
    other.begin()


def rows(*texts: str) -> list[SeedExample]:
    return [SeedExample(f"v{n}", text, "") for n, text in enumerate(texts)]


def test_validation_prompts_exclude_near_duplicates() -> None:
    taken = Overlap(["Name a river in Asia, please."])
    given = rows("Name a river in Asia please", *TEXTS, TEXTS[1] + " Why?")
    drawn, excluded = draw_prompts(given, taken, 10, 0.7, seed=0)
    assert len(drawn) == 5
    assert excluded == 2
    assert not any("Asia" in row.prompt for row in drawn)
    again, _ = draw_prompts(given, Overlap(["Name a river in Asia, please."]), 10, 0.7, seed=0)
    assert again == drawn
    assert len(draw_prompts(given, Overlap(), 3, 0.7, seed=0)[0]) == 3


@pytest.mark.parametrize("where", ["ift", "eft", "eft_held_out", "evaluation", "ifeval", "new prompts"])
def test_validation_prompts_exclude_training_and_evaluation_prompts(
    where: str, tmp_path: Path, messages: list[str]
) -> None:
    source = tmp_path / "validation.jsonl"
    source.write_text("".join(json.dumps({"prompt": text, "response": "x"}) + "\n" for text in TEXTS))
    workspace = workspace_of(tmp_path / "run", f"dpo.early_stopping.source.path={source}")
    if where == "new prompts":
        kept, dropped = Prompt("t2/p0", TEXTS[2], ()), Prompt("t2/p1", TEXTS[3], (), rejected="too short")
        write_atomic(workspace.iteration(2) / "1_prompts.jsonl", to_json(kept) + "\n" + to_json(dropped) + "\n")
    else:
        row: dict[str, Any] = {"id": "s0", "prompt": TEXTS[2]}
        ranked = [{"text": "a", "rank": 0}, {"text": "b", "rank": 1}]
        row |= {"answers": ranked} if where.startswith("eft") else {"response": ""}
        write_atomic(workspace.data / f"{where}.jsonl", json.dumps(row) + "\n")
    early_stopping._write_prompts(workspace, workspace.config(), 2)
    found = RecordFile(early_stopping_folder(workspace, 2) / "prompts.jsonl", SeedExample).records.values()
    assert {row.prompt for row in found} == {text for text in TEXTS if text != TEXTS[2]}


def test_unused_ift_rows_are_those_beyond_the_limit(tmp_path: Path, messages: list[str]) -> None:
    from srlm.data.prepare import prepare_seeds

    workspace = workspace_of(tmp_path, "dpo.early_stopping.prompts=30")
    config = workspace.config()
    prepare_seeds(config, workspace.data)
    early_stopping._write_prompts(workspace, config, 2)
    drawn = RecordFile(early_stopping_folder(workspace, 2) / "prompts.jsonl", SeedExample).records
    trained = RecordFile(workspace.data / "ift.jsonl", SeedExample).records
    assert len(drawn) == 30
    assert not drawn.keys() & trained.keys()
    assert {row.language for row in drawn.values()} == {"en"}


def test_too_few_validation_prompts_raise_an_error_with_instructions(tmp_path: Path) -> None:
    from srlm.data.prepare import prepare_seeds

    workspace = workspace_of(tmp_path, "data.ift.limit=0")
    prepare_seeds(workspace.config(), workspace.data)
    with pytest.raises(SeedError, match=r"source\.path=unused_ift gives 0 validation prompts.*data\.ift\.limit"):
        early_stopping._write_prompts(workspace, workspace.config(), 2)


def test_options_are_recorded_only_if_early_stopping_is_enabled(tmp_path: Path) -> None:
    off = Train(Workspace(tmp_path), options("dpo.early_stopping.every_steps=5"), 2).options
    assert not [name for name in off if "early_stopping" in name or name.startswith(("evaluation.", "engine."))]
    on = Train(Workspace(tmp_path), options(*ON), 2).options
    assert on["dpo.early_stopping.every_steps"] == 10
    assert {"evaluation.temperature", "evaluation.judge_template", "engine.kind"} <= set(on)
    assert off.items() <= on.items()


def test_paper_experiment_has_the_papers_early_stopping_options() -> None:
    given = options("experiment=paper_llama2_70b", "data.ift.path=a", "data.eft.path=b").dpo.early_stopping
    assert (given.enabled, given.every_steps, given.prompts) == (True, 200, 253)
