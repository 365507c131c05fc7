"""A run that makes EFT of its own answers and is killed at any moment resumes to the same files."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from srlm.io.record_file import read_records
from srlm.types import JudgeExample, Judgement, RankedPrompt
from tests.own_answers import write_prompts
from tests.pipeline.test_resume import assert_same, files, job, points

pytestmark = [pytest.mark.process, pytest.mark.variant]
__all__ = ["job"]  # the fixture
ANSWERS, LABELS = "iteration_1/eft_answers.jsonl", "iteration_1/eft_labels.jsonl"


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = write_prompts(tmp_path_factory.mktemp("data") / "prompts.jsonl")
    own = {"data.eft.path": str(path), "data.eft.limit": 0, "data.own_answers.labels": "checkers"}
    return own | {"iteration": 1, "data.own_answers.count": 5}


@pytest.fixture(scope="module")
def whole(job, options, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], list[str], Path]:
    """Return the files of an uninterrupted run, its writes in order, and its folder."""
    root = tmp_path_factory.mktemp("whole") / "run"
    log = root.with_name("log")
    assert job(root, options=options, log=str(log), errors=str(root.with_name("errors"))) == 0, root.with_name(
        "errors"
    ).read_text()
    return files(root), log.read_text(encoding="utf-8").splitlines(), root


def test_own_answers_become_eft_with_the_scores_of_the_checkers(whole):
    _, steps, root = whole
    train = read_records(root / "data/eft.jsonl", RankedPrompt)
    held_out = read_records(root / "data/eft_held_out.jsonl", RankedPrompt)
    assert {answer.score for prompt in train for answer in prompt.answers} == {0.0, 2.5, 5.0}
    assert not {prompt.id for prompt in train} & {prompt.id for prompt in held_out}
    assert all(prompt.is_ordered for prompt in held_out)
    judged = read_records(root / "iteration_0/evaluation/held_out_judgements.jsonl", Judgement)
    assert {row.candidate_id.split("/")[0] for row in judged} <= {prompt.id for prompt in held_out}
    examples = read_records(root / "iteration_1/eft.jsonl", JudgeExample)
    assert {example.response for example in examples} <= {answer.text for one in train for answer in one.answers}
    # Answers, labels, and only then what depends on them.
    order = ["iteration_1/eft_answers.jsonl", "iteration_1/eft_labels.jsonl", "data/eft.jsonl", "iteration_1/eft.jsonl"]
    moves = [steps.index(f"replace {name}") for name in order]
    assert moves == sorted(moves)
    assert steps.index("replace data/eft.jsonl") < steps.index("write iteration_0/evaluation/answers.jsonl")


def test_run_killed_while_answering_resumes(job, options, whole, tmp_path):
    expected, steps, _ = whole
    for at, when in points(steps, ANSWERS):
        root = tmp_path / f"{at}_{when}"
        assert job(root, options=options, kill={"at": at, "when": when}) == -signal.SIGKILL
        assert job(root, options=options, order=at) == 0
        assert_same(files(root), expected, f"killed {when} step {at}, {steps[at]}")


@pytest.mark.parametrize("name", [LABELS, "data/eft.jsonl", "data/manifests/own_answers.json"])
def test_run_killed_before_or_after_labels_resumes(job, options, whole, tmp_path, name):
    expected, steps, _ = whole
    for when in ("before", "after"):
        root = tmp_path / when
        kill = {"at": steps.index(f"replace {name}"), "when": when}
        assert job(root, options=options, kill=kill) == -signal.SIGKILL
        assert job(root, options=options) == 0
        assert_same(files(root), expected, f"killed {when} {name}")


def test_finished_run_is_not_computed_again_and_other_options_are_refused(job, options, whole, tmp_path):
    root = tmp_path / "run"
    shutil.copytree(whole[2], root)
    assert job(root, options=options, log=str(tmp_path / "log")) == 0
    assert not [line for line in (tmp_path / "log").read_text().split("\n") if "eft" in line or "own" in line]
    for changed, named in (
        ({"data.own_answers.count": 4}, "data.own_answers.count was 5, now 4"),
        ({"data.own_answers.labels": "person"}, "data.own_answers.labels was 'checkers', now 'person'"),
        ({"data.own_answers.labels": "", "data.eft.path": "builtin"}, "data.own_answers.used was True, now False"),
    ):
        assert job(root, options=options | changed, errors=str(tmp_path / "errors")) == 1
        assert named in (tmp_path / "errors").read_text()


def test_person_fills_a_file_and_the_run_continues(job, options, tmp_path):
    root, errors = tmp_path / "run", tmp_path / "errors"
    options = options | {"data.own_answers.labels": "person"}
    assert job(root, options=options, errors=str(errors)) == 1
    assert f"{root / 'labels.jsonl'} has the" in errors.read_text()
    rows = [json.loads(line) for line in (root / "labels.jsonl").read_text(encoding="utf-8").split("\n")[:-1]]
    assert job(root, options=options, errors=str(errors)) == 1
    assert "no `score` yet" in errors.read_text()
    answered = (root / ANSWERS).stat().st_mtime_ns
    for n, row in enumerate(rows):
        row["score"] = "skip" if n == 0 else n % 6
    (root / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert job(root, options=options, errors=str(errors)) == 0, errors.read_text()
    assert (root / ANSWERS).stat().st_mtime_ns == answered
    scores = {row.candidate_id: row.score for row in read_records(root / LABELS, Judgement)}
    assert scores == {row["id"]: None if n == 0 else n % 6 for n, row in enumerate(rows)}
    rows[1]["score"] = 5
    (root / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert job(root, options=options, errors=str(errors)) == 1
    assert "input labels.jsonl has changed" in errors.read_text()
