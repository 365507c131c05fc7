"""srlm.evaluation.evaluate: evaluation.json from stored records, without the prompts of the model's training data."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from srlm.data.prepare import prepare_seeds
from srlm.errors import RunFolderError
from srlm.evaluation import evaluate
from srlm.evaluation.answers import AnswerPrompts, evaluation_prompts
from srlm.evaluation.config import Opponents
from srlm.evaluation.contamination import Contamination
from srlm.evaluation.evaluate import Evaluate, evaluation_of, trained_on
from srlm.evaluation.matches import HeadToHead
from srlm.generation.prompts import WritePrompts
from srlm.io.progress import Bars
from srlm.io.record_file import RecordFile, read_records
from srlm.models.resolve import identity
from srlm.pipeline.artifacts import SEEDS
from srlm.pipeline.workspace import Workspace
from srlm.reporting.summary import measures_table, verdict
from srlm.types import Answer, Comparison, Prompt, SeedExample
from tests.helpers import ScriptedEngine
from tests.scripted_text import small_config


@pytest.fixture
def run(tmp_path: Path):
    """Return a run up to M2 with only seeds, answers and head to heads; M_t's answers have 100 t characters."""
    config = small_config(tmp_path / "run")
    workspace = Workspace.of(config)
    prepare_seeds(config, workspace.data)
    prompts = evaluation_prompts(workspace, config)
    for t in range(3):
        answers = [Answer(p.id, p.prompt, "x" * (100 * t + n), 1, False) for n, p in enumerate(prompts)]
        RecordFile(AnswerPrompts(workspace, config, t).outputs[0], Answer).append(*answers)
        for path in HeadToHead(workspace, config, t).outputs:
            winners = ["first" if n < 2 else "second" for n in range(len(prompts))]
            rows = [
                Comparison(f"{p.id}/{order}", p.id, "", winner)
                for p, winner in zip(prompts, winners, strict=True)
                for order in ("ab", "ba")
            ]
            RecordFile(path, Comparison).append(*rows)
    return workspace, config, prompts


NONE = Contamination(4, (), ())


def test_a_changed_external_judge_is_refused_on_resume(run):
    """The judge's weights change while its head to heads are unfinished."""
    workspace, config, _ = run
    judge = workspace.root / "judge"
    judge.mkdir()
    (judge / "config.json").write_text("{}")
    config = replace(config, evaluation=replace(config.evaluation, judge=str(judge)))
    for t in range(2):
        AnswerPrompts(workspace, config, t).done({}, {})
    stage = HeadToHead(workspace, config, 1)
    stage.outputs[0].unlink()
    engine = ScriptedEngine(lambda *_: "Better: A")

    def play() -> None:
        with Bars() as bars:
            asyncio.run(HeadToHead(workspace, config, 1).generate(engine, bars))

    play()
    assert stage.manifest().inputs[str(judge)] == identity(str(judge))[str(judge)]
    stage.path.rename(stage.path.with_suffix(".begun.json"))  # the state after a kill
    (judge / "config.json").write_text('{"trained": "anew"}')
    with pytest.raises(RunFolderError, match=f"input {judge} has changed since this stage began"):
        play()


def test_parts_of_evaluation_depend_on_the_model(run):
    workspace, config, _ = run
    of_m0, of_m2 = (evaluation_of(workspace, config, t, NONE) for t in (0, 2))
    parts = {"iteration", "judge", "judge_metrics", "answers", "drift", "contamination", "instructions"}
    assert set(of_m0.to_dict()) == parts
    assert set(of_m2.to_dict()) == parts | {"head_to_head", "head_to_heads", "head_to_head_judge"}
    assert list(of_m2.head_to_heads) == [1, 0]
    assert of_m2.head_to_head["win"] == of_m2.head_to_heads[0].measures["win"]
    assert of_m2.head_to_head["win"].value == 0.5
    assert of_m2.drift["characters_gain"].value == 100
    assert "characters_gain" not in of_m0.drift


def test_the_final_table_has_both_win_rates(run):
    workspace, config, _ = run
    table = measures_table({t: evaluation_of(workspace, config, t, NONE) for t in (0, 1)})
    labels, *models = [list(column.cells) for column in table.columns]
    rows = {str(label): figures for label, *figures in zip(labels, *models, strict=True)}
    assert rows["  win rate (tie = 0.5), %"] == ["-", "50 [7,93]"]
    assert rows["  length-controlled win rate, %"] == [
        "-",
        "-",
    ]  # all of M1's answers are longer by the same number of characters


def test_prompts_seen_in_training_are_excluded_from_all_measures(run):
    workspace, config, prompts = run
    seen = Contamination(4, (prompts[3].id,), (prompts[2].id,))
    found = evaluation_of(workspace, config, 2, seen)
    assert found.answers["mean_characters"].value == 200.5
    assert found.drift["characters"].n == 2
    for part in (found.head_to_head, found.head_to_heads[0].measures):
        assert (part["win"].value, part["win"].n) == (1.0, 2)
    assert found.contamination.ids == tuple(sorted(seen.excluded))


def test_excluding_all_prompts_gives_undefined_measures(run):
    workspace, config, prompts = run
    found = {t: evaluation_of(workspace, config, t, NONE) for t in (0, 1)}
    found[2] = evaluation_of(workspace, config, 2, Contamination(4, tuple(p.id for p in prompts), ()))
    parts = [found[2].answers, found[2].drift, found[2].head_to_head]
    assert {measure.value for part in parts for measure in part.values()} == {None}
    assert found[2].head_to_heads[1].types == {}
    assert measures_table(found).row_count > 10
    assert verdict(found)[-1].endswith("the head to head gave no verdict.")


def test_training_prompts_are_seeds_and_prompts_of_earlier_iterations(run):
    workspace, config, prompts = run
    RecordFile(WritePrompts(workspace, config, 2).outputs[0], Prompt).append(
        Prompt("t2/p00000", prompts[0].prompt, ()), Prompt("t2/p00001", prompts[1].prompt, (), "overlap")
    )
    assert [trained_on(workspace, config, t).excluded for t in range(3)] == [(), (), (prompts[0].id,)]
    ift = workspace.data / "ift.jsonl"
    RecordFile(ift, SeedExample).append(SeedExample("copy", prompts[2].prompt.upper(), "yes"))
    assert [len(trained_on(workspace, config, t).excluded) for t in range(3)] == [0, 1, 2]
    assert read_records(ift, SeedExample)[-1].id == "copy"


def test_the_recorded_inputs_are_all_files_read(run, monkeypatch):
    workspace, config, _ = run

    def inputs(t: int) -> list[str]:
        found: list[str] = []
        monkeypatch.setattr(evaluate, "recorded", lambda _, *paths: found.extend(map(workspace.relative, paths)) or {})
        Evaluate(workspace, config, t).made_from()
        return found

    assert set(inputs(0)) == {
        *(f"data/{artifact.file}" for artifact in SEEDS),
        *(f"iteration_0/evaluation/{name}.jsonl" for name in ("held_out_judgements", "answers")),
    }
    assert "iteration_2/1_prompts.jsonl" in inputs(2)
    assert "iteration_2/1_prompts.jsonl" not in inputs(1)
    assert "iteration_0/evaluation/answers.jsonl" in inputs(2)
    config.evaluation.opponents = Opponents.previous
    assert "iteration_0/evaluation/answers.jsonl" not in inputs(2)
