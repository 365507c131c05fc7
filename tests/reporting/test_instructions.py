"""Instructions followed by the last model and by M1: the counts, the paired difference, and the example."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from srlm.config import Config
from srlm.evaluation.record import Contaminated, Evaluation
from srlm.io.record_file import write_records
from srlm.pipeline.artifacts import ANSWERS, EVALUATION_PROMPTS
from srlm.pipeline.workspace import Workspace
from srlm.reporting.instructions import followed, print_changed
from srlm.types import Answer, Constraint, SeedExample

GOOD, BAD = "one two", "one, two"


def made(root: Path, *answers: tuple[str, str]) -> Workspace:
    """Return a run with a prompt for each pair of answers, of M1 and of M2, which must have no comma."""
    workspace = Workspace(root)
    no_comma = (Constraint("punctuation:no_comma"),)
    prompts = [SeedExample(f"p{n}", f"Count to {n}.", "", constraints=no_comma) for n in range(len(answers))]
    write_records(EVALUATION_PROMPTS.path(workspace), prompts)
    for side in (0, 1):
        path = ANSWERS.path(workspace, side + 1)
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = zip(prompts, answers, strict=True)
        write_records(path, [Answer(prompt.id, prompt.prompt, pair[side], 2, False) for prompt, pair in rows])
    return workspace


def test_prompts_that_only_one_model_follows_are_counted(tmp_path: Path) -> None:
    workspace = made(tmp_path, *[(BAD, GOOD)] * 14, *[(GOOD, BAD)] * 2, (GOOD, GOOD), *[(BAD, BAD)] * 3)
    found = followed(workspace, Config(), Evaluation(2))
    assert found
    assert (found.first, found.last, found.before.value, found.now.value) == (1, 2, 3 / 20, 15 / 20)
    assert found.gain.value == pytest.approx(12 / 20)
    assert [one.prompt.id for one in found.better] == [f"p{n}" for n in range(14)]
    assert [one.prompt.id for one in found.worse] == ["p14", "p15"]
    assert found.sign == 1
    text = found.sentence()
    assert text.startswith("M2 follows all instructions of 75 % [")
    assert "of 20 prompts, M1 of 15 % [" in text
    assert "checked by programs and no judge: better (+60 points [+" in text
    screen = io.StringIO()
    print_changed(Console(file=screen, width=120), found)
    assert "followed by M2 and not by M1: 14 prompts; the other way round: 2" in screen.getvalue()
    assert screen.getvalue().index(BAD) < screen.getvalue().index(GOOD)


def test_difference_within_its_interval_is_not_called_better(tmp_path: Path) -> None:
    found = followed(made(tmp_path, *[(BAD, GOOD)] * 6, *[(GOOD, BAD)] * 4), Config(), Evaluation(2))
    assert found
    assert found.sign == 0
    assert "no difference shown (+20 points [−" in found.sentence()


def test_one_prompt_has_no_verdict(tmp_path: Path) -> None:
    found = followed(made(tmp_path, (GOOD, BAD)), Config(), Evaluation(2))
    assert found
    assert found.sentence() == (
        "M2 follows all instructions of 0 % [n/a] of 1 prompt, M1 of 100 % [n/a], checked by programs and no judge: "
        "too few prompts to compare."
    )
    screen = io.StringIO()
    print_changed(Console(file=screen, width=120), found)
    assert screen.getvalue() == ("Instructions followed by M2 and not by M1: 0 prompts; the other way round: 1.\n")


def test_prompts_of_the_training_data_are_left_out(tmp_path: Path) -> None:
    workspace = made(tmp_path, *[(BAD, GOOD)] * 5)
    found = followed(workspace, Config(), Evaluation(2, contamination=Contaminated(5, 2, 2, 0, ("p0", "p1"))))
    assert found
    assert found.now.n == 3
    assert [one.prompt.id for one in found.better] == ["p2", "p3", "p4"]


def test_prompts_that_one_model_did_not_answer_are_no_change(tmp_path: Path) -> None:
    workspace = made(tmp_path, *[(BAD, GOOD)] * 4)
    for side, lost in ((1, "p0"), (2, "p1")):
        path = ANSWERS.path(workspace, side)
        write_records(path, [row for row in ANSWERS.peek(workspace, side) if row.id != lost])
    found = followed(workspace, Config(), Evaluation(2))
    assert found
    assert [one.prompt.id for one in found.better] == ["p2", "p3"]
    assert found.worse == []


def test_nothing_is_said_without_checkable_prompts_or_an_earlier_model(tmp_path: Path) -> None:
    workspace = made(tmp_path, (GOOD, GOOD))
    assert followed(workspace, Config(), Evaluation(0)) is None
    assert followed(workspace, Config(), Evaluation(1)) is None  # M0 has no answers here
    write_records(EVALUATION_PROMPTS.path(workspace), [SeedExample("p0", "Count.", "")])
    assert followed(workspace, Config(), Evaluation(2)) is None
