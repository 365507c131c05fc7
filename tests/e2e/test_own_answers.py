"""A real run whose SFT baseline writes the EFT answers, with the labels of the checkers."""

from __future__ import annotations

from pathlib import Path

import pytest

from srlm.api.runs import Run
from srlm.data.labels import checked
from srlm.io.record_file import read_records
from srlm.pipeline.artifacts import EFT_EXAMPLES, HELD_OUT_JUDGEMENTS, OWN_HELD_OUT_PROMPTS, OWN_PROMPTS
from srlm.pipeline.manifest import Manifest
from srlm.pipeline.workspace import Workspace
from srlm.types import SeedExample
from tests.e2e.test_smoke import run
from tests.own_answers import write_prompts

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.variant]


def test_m1_learns_to_judge_the_answers_of_its_sft_baseline(tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path / "prompts.jsonl", 16)
    result = run(
        tmp_path, "engine=transformers", "iteration=1", "evaluation.opponents=previous", f"data.eft.path={prompts}",
        "data.own_answers.labels=checkers", "data.own_answers.max_new_tokens=32", "data.eft_held_out=0.5",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-4000:]
    assert "the SFT baseline answers the EFT prompts" in result.stderr
    assert result.stderr.count("Own EFT answers (label: answers)") == 2  # when they are ranked, and in the summary
    found, workspace = Run(tmp_path / "smoke"), Workspace(tmp_path / "smoke")
    rows = [
        row for one in (OWN_PROMPTS, OWN_HELD_OUT_PROMPTS) for row in read_records(one.path(workspace), SeedExample)
    ]
    of_id = {row.id: row for row in rows}
    answers = {row.id: row for row in found.records("eft_answers", 1)}
    assert len(rows) == 16
    assert len(answers) == 64
    labels = found.records("eft_labels", 1)
    assert {row.score for row in labels} >= {0.0, 2.5}
    for row in labels:
        answer = answers[row.candidate_id]
        assert row.score == checked(of_id[answer.prompt_id], answer.text, 5)
    train, held_out = found.records("eft"), found.records("eft_held_out")
    examples = EFT_EXAMPLES.read(workspace, 1)
    assert {example.prompt for example in examples} <= {row.prompt for row in train}
    assert {example.score for example in examples} >= {0.0, 3.0}
    judged = {row.candidate_id.rpartition("/")[0] for row in HELD_OUT_JUDGEMENTS.read(workspace, 1)}
    assert judged <= {row.id for row in held_out}
    manifest = Manifest.load(workspace.data / "manifests" / "own_answers.json")
    assert sum(manifest.counts["labels"].values()) == len(labels)
    assert set(manifest.inputs) == {
        "data/eft_prompts.jsonl", "data/eft_held_out_prompts.jsonl", "iteration_1/eft_answers.jsonl",
        "iteration_1/eft_labels.jsonl",
    }  # fmt: skip
    assert (workspace.root / "report.html").read_text(encoding="utf-8").count("Own EFT answers") == 3
    answering = Manifest.load(workspace.iteration(1) / "manifests" / "eft_answers.json")
    assert "iteration_1/sft_baseline" in answering.inputs
