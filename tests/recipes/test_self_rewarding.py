"""srlm.recipes.self_rewarding: the order of the steps, and steps that end the run."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from srlm.cli.check import check
from srlm.config import Config
from srlm.errors import AlarmError, ConfigError, NoPairsError, RunFolderError
from srlm.generation.candidates import SampleCandidates
from srlm.generation.judgements import JudgeCandidates
from srlm.generation.pairs import CheckFeedback, SelectPairs
from srlm.generation.prompts import WritePrompts
from srlm.io.files import write_atomic
from srlm.io.record_file import read_records
from srlm.io.serialization import to_json
from srlm.models import base_model
from srlm.models.base_model import BaseModel, worker
from srlm.pipeline.artifacts import UNPAIRED
from srlm.pipeline.processes import Stopped
from srlm.pipeline.resume import COMPLETED, RUNNING, STOPPED, RunState, state_of
from srlm.pipeline.workspace import Workspace
from srlm.preferences.config import Truncated
from srlm.preferences.pairs import TRUNCATED
from srlm.recipes.runner import Action, Step
from srlm.recipes.self_rewarding import SelfRewarding
from srlm.reporting.summary import pair_lines
from srlm.run import run
from srlm.tracking.config import Tracker
from srlm.training.stages import Train
from srlm.types import Candidate, PreferencePair
from tests.helpers import run_step, tiny_llama, tiny_tokenizer


class Scripted:
    """A recipe whose first step raises an error or does nothing."""

    def __init__(self, error: BaseException | None = None):
        self.error, self.done = error, list[str]()

    def steps(self, workspace: Workspace, config: Config, last: int) -> Iterator[Step]:
        def stop() -> None:
            assert state_of(workspace) == RunState(RUNNING)
            self.done.append("before")
            if self.error:
                raise self.error

        yield Action(stop)
        yield Action(lambda: self.done.append("after"))


@pytest.fixture
def reported(monkeypatch: pytest.MonkeyPatch) -> list[tuple[RunState, bool]]:
    """Return the calls that update the report: the run's state, and whether the page is always written."""
    calls: list[tuple[RunState, bool]] = []

    def update(workspace: Workspace, again: bool = False) -> None:
        calls.append((state_of(workspace), again))

    monkeypatch.setattr("srlm.reporting.run_report.update_report", update)
    monkeypatch.setattr("srlm.reporting.summary.print_summary", lambda *given: None)
    return calls


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (AlarmError("the judge is blind"), "AlarmError: the judge is blind"),
        (NoPairsError("no pairs\n  at all"), "NoPairsError: no pairs at all"),
        (Stopped(signal.SIGTERM), "Stopped: SIGTERM"),
        (KeyError("a fault"), "KeyError: 'a fault'"),
    ],
    ids=["alarm", "no pairs", "signal", "fault"],
)
def test_stopped_run_writes_its_report_after_its_state(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    reported: list[tuple[RunState, bool]],
    error: BaseException,
    why: str,
) -> None:
    recipe = Scripted(error)
    monkeypatch.setattr("srlm.recipes.find_recipe", lambda name: recipe)
    config = Config(name="run", runs_dir=str(tmp_path), iteration=2)
    config.tracking.tracker = Tracker.none
    with pytest.raises(type(error)) as raised:
        run(config, ["judge=logprob"])
    assert reported == [(RunState(STOPPED, why), True)]
    assert recipe.done == ["before"]
    assert "judge=logprob" in raised.value.resume_command  # type: ignore[attr-defined]


def test_completed_run_writes_its_report_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reported: list[tuple[RunState, bool]]
) -> None:
    monkeypatch.setattr("srlm.recipes.find_recipe", lambda name: Scripted())
    config = Config(name="run", runs_dir=str(tmp_path), iteration=1)
    config.tracking.tracker = Tracker.none
    for again in (True, False):  # the second command computes nothing and need not rewrite the page
        reported.clear()
        run(config)
        assert reported == [(RunState(COMPLETED), again)]


def names_of(config: Config) -> list[str]:
    """Return the names of the recipe's stages and sessions."""
    steps = SelfRewarding().steps(Workspace.of(config), config, config.iteration)
    return [step.name for step in steps if not isinstance(step, Action)]


def test_steps_are_in_the_papers_order(tmp_path: Path) -> None:
    config = Config(runs_dir=str(tmp_path), iteration=2)
    start = ["data", "base_model", "generation", "sft_baseline", "rationales", "eft", "sft", "reward_model"]
    first = ["generation", "evaluation", "evaluation", "pairs", "dpo"]
    assert names_of(config) == [*start, *first, "generation", "head_to_head", "evaluation", "evaluation"]


def test_run_without_evaluation_ends_after_training(tmp_path: Path) -> None:
    config = Config(runs_dir=str(tmp_path), iteration=1)
    config.evaluation.enabled = False
    assert names_of(check(config)) == ["data", "base_model", "sft_baseline", "rationales", "eft", "sft", "reward_model"]
    config.iteration = 2
    with pytest.raises(ConfigError, match=r"iteration=2 is invalid: it must be 1 with evaluation\.enabled=false"):
        check(config)


def truncate(root: Path, ids: set[str], *overrides: str) -> SelectPairs:
    """Mark candidates of a finished run as truncated, delete its pairs, and return the pairs stage."""
    workspace = Workspace(root)
    config = workspace.config()
    config.pairs.truncated = Truncated[overrides[0]] if overrides else config.pairs.truncated
    answered, judged = (make(workspace, config, 2) for make in (SampleCandidates, JudgeCandidates))
    rows = [replace(one, truncated=one.id in ids) for one in read_records(answered.outputs[0], Candidate)]
    write_atomic(answered.outputs[0], "".join(to_json(one) + "\n" for one in rows))
    prompts = WritePrompts(workspace, config, 2).fingerprints()
    answered.done(prompts, {"candidates": len(rows)})
    judged.done(answered.fingerprints(), {"judgements": 6, "valid": 6})
    for made in (SelectPairs(workspace, config, 2), Train(workspace, config, 2)):
        made.path.unlink()
    return SelectPairs(workspace, config, 2)


def test_pairs_exclude_truncated_candidates_and_count_them(own_run: Path) -> None:
    made = truncate(own_run, {"t2/p00000/c0", "t2/p00001/c0", "t2/p00001/c1"})
    run_step(made)
    counts = made.manifest().counts
    assert (counts["pairs"], counts["truncated_candidates"], counts["dropped"]) == (1, 3, {TRUNCATED: 2})
    unpaired = UNPAIRED.read(made.workspace, 2)
    assert {one.reason for one in unpaired} == {TRUNCATED}
    assert {one.id for one in unpaired} == {"t2/p00000", "t2/p00001"}
    assert pair_lines({2: counts}) == [
        f"Pairs for M2: 1 from 3 prompts, without 3 truncated candidates (prompts without a pair: {TRUNCATED}: 2)"
    ]


def test_kept_truncated_candidates_are_marked_in_the_pairs_file(own_run: Path) -> None:
    made = truncate(own_run, {"t2/p00000/c0", "t2/p00001/c1"}, "keep")
    run_step(made)
    stage = made
    assert stage.manifest().counts["truncated_candidates"] == 0
    assert stage.manifest().options["pairs.truncated"] == "keep"
    pairs = read_records(stage.outputs[0], PreferencePair)
    assert [(one.chosen_truncated, one.rejected_truncated) for one in pairs] == [
        (True, False),
        (False, True),
        (False, False),
    ]


def test_error_names_truncation_as_the_reason_for_no_pairs(own_run: Path) -> None:
    made = truncate(own_run, {f"t2/p0000{p}/c{c}" for p in range(3) for c in range(2)})
    run_step(made)
    with pytest.raises(NoPairsError, match=r"0 preference pairs from 3 prompts") as caught:
        CheckFeedback(made.workspace, made.config, 2).run()
    for words in (f"{TRUNCATED}: 3", "candidates.max_new_tokens", "pairs.truncated=keep"):
        assert words in str(caught.value)


def test_changed_base_model_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A changed M0 would be a wrong reference model without any other sign."""
    base, tokenizer = tmp_path / "base", tiny_tokenizer()
    tokenizer.save_pretrained(base)
    tiny_llama(len(tokenizer), seed=0).save_pretrained(base)
    config = Config(name="run", runs_dir=str(tmp_path))
    config.model.name, config.engine.max_model_len = str(base), 128  # the model's positions
    workspace = Workspace.of(config)
    workspace.save_config(config)
    made: list[str] = []

    def run_worker(target: str, workspace: Workspace, t: int, name: str) -> None:
        made.append(name)
        worker(workspace, t)

    monkeypatch.setattr(base_model, "run_worker", run_worker)
    for _ in range(2):
        run_step(BaseModel(workspace, config))
    (base / "README.md").write_text("A card.")
    run_step(BaseModel(workspace, config))
    assert made == ["base_model"]
    tiny_llama(len(tokenizer), seed=1).save_pretrained(base)
    with pytest.raises(RunFolderError, match=rf"input {base} has changed since this stage ran"):
        run_step(BaseModel(workspace, config))
    assert made == ["base_model"]
