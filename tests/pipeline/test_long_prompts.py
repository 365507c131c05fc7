"""Texts longer than the context are counted, named and excluded at every stage; nothing else changes.

The loop runs on the scripted engine of tests/scripted_text.py with a limit on the characters of a request. Seeds of
every kind have long rows, and the models write some long texts of their own.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from srlm.data.prepare import PrepareData, prepare_seeds
from srlm.engines.missing import describe, missing_lines
from srlm.evaluation.record import read_evaluation
from srlm.io import serialization
from srlm.io.record_file import read_records
from srlm.pipeline.workspace import Workspace
from srlm.reporting.summary import measures_table, verdict
from srlm.types import Answer, Candidate, Comparison, Judgement, PreferencePair, Prompt, RankedPrompt, SeedExample
from tests.pipeline.test_resume import Job, assert_same, files, job  # noqa: F401
from tests.scripted_text import small_config

CONTEXT = 10_000  # characters; the longest of the other requests has fewer than 6,000
LONG = "Paragraph after paragraph. " * 500  # 13,500 characters
pytestmark = [pytest.mark.process, pytest.mark.variant]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run folder whose seed data contain some long texts."""
    config = small_config(tmp_path_factory.mktemp("prepared") / "run")
    workspace = Workspace.of(config)
    stage = PrepareData(workspace, config)
    stage.begin()
    counts = prepare_seeds(config, workspace.data)

    def change(name: str, kind: Any, change_row: Any) -> None:
        path = workspace.data / f"{name}.jsonl"
        rows = [change_row(n, row) for n, row in enumerate(read_records(path, kind))]
        path.write_text("".join(serialization.to_json(row) + "\n" for row in rows), encoding="utf-8")

    def long_prompt(n: int, row: Any) -> Any:
        return replace(row, prompt=f"{LONG}{n}", source=f"seeds.jsonl:{n + 1}") if n % 3 == 1 else row

    def long_answer(n: int, row: Any) -> Any:
        first = replace(row.answers[0], text=LONG)
        return replace(row, answers=(first, *row.answers[1:]), source="eft.jsonl:3") if n == 2 else long_prompt(n, row)

    change("ift", SeedExample, long_prompt)
    change("evaluation", SeedExample, long_prompt)
    change("eft", RankedPrompt, long_answer)
    change("eft_held_out", RankedPrompt, long_answer)
    stage.done({}, counts)
    return workspace.root


@pytest.fixture(scope="module")
def finished(job: Job, prepared: Path) -> Path:  # noqa: F811
    root = prepared.with_name("finished")
    shutil.copytree(prepared, root)
    assert job(root, context=CONTEXT) == 0
    return root


def counts(root: Path, stage: str) -> dict[str, Any]:
    folder, _, name = stage.rpartition("/")
    found: dict[str, Any] = json.loads((root / folder / f"manifests/{name}.json").read_text())["counts"]
    return found


def test_long_evaluation_prompts_are_unanswered_and_named(finished: Path) -> None:
    prompts = read_records(finished / "data/evaluation.jsonl", SeedExample)[:4]
    fit = [prompt.id for prompt in prompts if len(prompt.prompt) < CONTEXT]
    assert len(fit) == 3
    for t in range(3):
        answers = read_records(finished / f"iteration_{t}/evaluation/answers.jsonl", Answer)
        assert [answer.id for answer in answers] == fit
        found = counts(finished, f"iteration_{t}/evaluation/answers")
        assert (found["answers"], found["unanswered"]) == (3, {"too long": 1})
        [name] = found["unanswered_examples"]
        assert name.startswith(f"{prompts[1].id} (seeds.jsonl:2): a prompt of 13501 characters, ")
        assert "engine.max_model_len=10000" in name


def test_head_to_head_excludes_missing_and_too_long_answers(finished: Path) -> None:
    missing = 0
    for t, u in ((1, 0), (2, 1), (2, 0)):
        rows = read_records(finished / f"iteration_{t}/evaluation/head_to_head_M{u}.jsonl", Comparison)
        assert len(rows) == 3 * 2
        missing += sum(row.problem.startswith("too long for the judge: ") for row in rows)
        assert all(row.winner is None for row in rows if row.problem)
    assert missing > 0
    measures = json.loads((finished / "iteration_2/evaluation.json").read_text())
    assert measures["head_to_head"]["unparsed_fraction"]["n"] == 3
    assert measures["answers"]["mean_characters"]["n"] == 3


def test_texts_too_long_for_the_judge_are_unscored_and_named(finished: Path) -> None:
    ranked = read_records(finished / "data/eft_held_out.jsonl", RankedPrompt)[:4]
    long = {
        f"{prompt.id}/a{n}"
        for prompt in ranked
        for n, answer in enumerate(prompt.answers)
        if len(prompt.prompt) + len(answer.text) > CONTEXT
    }
    for t in range(3):
        rows = read_records(finished / f"iteration_{t}/evaluation/held_out_judgements.jsonl", Judgement)
        assert {row.candidate_id for row in rows if row.problem.startswith("too long for the judge")} == long
        assert len(rows) == sum(len(prompt.answers) for prompt in ranked)
        found = counts(finished, f"iteration_{t}/evaluation/held_out_judgements")
        assert found["unanswered"] == {"too long for the judge": len(long)}
        assert any("(eft.jsonl:3)" in name for name in found["unanswered_examples"])
    own = read_records(finished / "iteration_2/3_judgements.jsonl", Judgement)
    too_long = {row.candidate_id for row in own if row.problem.startswith("too long for the judge")}
    texts = {row.id: row.text for row in read_records(finished / "iteration_2/2_candidates.jsonl", Candidate)}
    assert too_long
    assert all(len(texts[candidate]) > 8000 for candidate in too_long)
    assert counts(finished, "iteration_2/judgements")["unanswered"] == {"too long for the judge": len(too_long)}
    pairs = read_records(finished / "iteration_2/4_pairs.jsonl", PreferencePair)
    assert pairs
    assert not too_long & {side for pair in pairs for side in (pair.chosen_id, pair.rejected_id)}
    rationales = counts(finished, "iteration_1/rationales")
    assert sum(rationales["unanswered"].values()) == len(rationales["unanswered_examples"]) > 0


def test_too_long_examples_are_replaced_by_fitting_ones(finished: Path) -> None:
    seeds = {seed.id: seed for seed in read_records(finished / "data/ift.jsonl", SeedExample)}
    attempts = read_records(finished / "iteration_2/1_prompts.jsonl", Prompt)
    texts = {row.id: row.text for row in attempts} | {row.id: row.prompt for row in seeds.values()}
    passed_over = {shot for attempt in attempts for shot in attempt.too_long}
    assert passed_over
    for attempt in attempts:
        assert len(attempt.shots) == 8
        assert sum(len(texts[shot]) for shot in attempt.shots) < CONTEXT
        assert not set(attempt.shots) & set(attempt.too_long)
    assert all(len(texts[shot]) > 2000 for shot in passed_over)
    found = counts(finished, "iteration_2/prompts")
    assert found["unanswered"] == {"too long": len(passed_over)}
    assert found["accepted"] == 6
    assert any("(seeds.jsonl:" in name for name in found["unanswered_examples"])


def test_accepted_prompt_longer_than_the_context_has_no_candidates(finished: Path) -> None:
    accepted = [p for p in read_records(finished / "iteration_2/1_prompts.jsonl", Prompt) if not p.rejected]
    candidates = read_records(finished / "iteration_2/2_candidates.jsonl", Candidate)
    long = {prompt.id for prompt in accepted if len(prompt.text) > CONTEXT}
    assert long
    assert {candidate.prompt_id for candidate in candidates} == {prompt.id for prompt in accepted} - long
    found = counts(finished, "iteration_2/candidates")
    assert (found["candidates"], found["unanswered"]) == (4 * (6 - len(long)), {"too long": len(long)})
    judged = counts(finished, "iteration_2/judgements")
    assert judged["judgements"] == found["candidates"] * 3
    assert judged["saved"] == 0


def test_summary_names_unanswered_requests_of_each_stage(finished: Path) -> None:
    lines = missing_lines(finished)
    answers = next(line for line in lines if line.startswith("Without an answer: answers"))
    assert "(iteration 0, iteration 1, iteration 2): 1 too long (" in answers
    stages_named = {line.split(": ")[1].split(" (")[0] for line in lines}
    assert {"prompts", "candidates", "judgements", "held out judgements", "rationales", "answers"} <= stages_named
    assert (finished / "report.html").exists()
    models = {t: read_evaluation(finished / f"iteration_{t}/evaluation.json") for t in range(3)}
    assert measures_table(models).row_count > 10
    assert verdict(models)


@pytest.mark.parametrize("order", [1])
def test_order_of_completion_does_not_change_results(job: Job, prepared: Path, finished: Path, order: int) -> None:  # noqa: F811
    root = prepared.with_name(f"order{order}")
    shutil.copytree(prepared, root)
    assert job(root, context=CONTEXT, order=order) == 0
    assert_same(files(root), files(finished), f"order {order}")


def test_resumed_run_has_the_files_of_an_uninterrupted_run(job: Job, prepared: Path, finished: Path) -> None:  # noqa: F811
    log = prepared.with_name("log")
    shutil.copytree(prepared, prepared.with_name("logged"))
    assert job(prepared.with_name("logged"), context=CONTEXT, log=str(log)) == 0
    writes = len(log.read_text().splitlines())
    for at in range(3, writes, writes // 5):
        root = prepared.with_name(f"killed{at}")
        shutil.copytree(prepared, root)
        assert job(root, context=CONTEXT, order=3, kill={"at": at, "when": "after"}) == -9
        assert job(root, context=CONTEXT, order=4) == 0
        assert_same(files(root), files(finished), f"killed at {at}")


def test_context_can_be_increased_on_resume(job: Job, prepared: Path, finished: Path) -> None:  # noqa: F811
    """Unanswered requests of incomplete stages are sent again; complete stages are unchanged."""
    log = prepared.with_name("raised_log")
    root = prepared.with_name("raised")
    shutil.copytree(prepared, prepared.with_name("raised_whole"))
    assert job(prepared.with_name("raised_whole"), context=CONTEXT, log=str(log)) == 0
    steps = log.read_text().splitlines()
    at = max(n for n, step in enumerate(steps) if step == "write iteration_2/3_judgements.jsonl")
    shutil.copytree(prepared, root)
    options = {"engine.max_model_len": 4096}
    assert job(root, context=CONTEXT, kill={"at": at, "when": "after"}) == -9
    assert job(root, context=10**6, options=options) == 0
    assert "unanswered" not in counts(root, "iteration_2/judgements")
    assert "unanswered" not in counts(root, "iteration_2/candidates")
    assert "unanswered" not in counts(root, "iteration_2/evaluation/answers")
    assert len(read_records(root / "iteration_2/2_candidates.jsonl", Candidate)) == 6 * 4
    assert counts(root, "iteration_1/evaluation/answers") == counts(finished, "iteration_1/evaluation/answers")


@pytest.mark.parametrize(
    "options",
    [
        {"judge.scorer": "pairwise"},
        {"judge.meta": True},
        {"judge.early_stopping": True, "judge.early_stopping_risk": 0.0},
        {"prompts.model": "sft", "evaluation.judge": "base"},
        {"judge.model": "sft"},
    ],
    ids=lambda options: " ".join(f"{name}={value}" for name, value in options.items()),
)
def test_other_judges_and_prompt_models_exclude_too_long_texts(
    job: Job,  # noqa: F811
    prepared: Path,
    options: dict[str, Any],
    request: pytest.FixtureRequest,
) -> None:
    root = prepared.with_name(f"run{abs(hash(request.node.name))}")
    shutil.copytree(prepared, root)
    assert job(root, context=CONTEXT, options=options) == 0
    assert describe(counts(root, "iteration_2/judgements")).count("too long for the judge") == 1
    assert counts(root, "iteration_2/pairs")["pairs"] > 0


def lengthen(root: Path, *names: str) -> None:
    """Make every prompt of these seed files too long for the context."""
    for name in names:
        path = root / f"data/{name}.jsonl"
        kind: Any = RankedPrompt if name.startswith("eft") else SeedExample
        rows = [replace(row, prompt=f"{LONG}{n}") for n, row in enumerate(read_records(path, kind))]
        path.write_text("".join(serialization.to_json(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture(scope="module")
def all_long(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function that prepares a run folder with too long prompts in the given seed files."""

    def prepare(names: list[str], options: dict[str, Any] | None = None) -> Path:
        config = small_config(tmp_path_factory.mktemp("all_long") / "run", options)
        workspace = Workspace.of(config)
        stage = PrepareData(workspace, config)
        stage.begin()
        counts = prepare_seeds(config, workspace.data)
        lengthen(workspace.root, *names)
        stage.done({}, counts)
        return workspace.root

    return prepare


SMALL, CANDIDATES, JUDGE = {"context": CONTEXT}, {"context": 10**6, "refused": -1}, {"context": 10**6, "refused": 0}
PAIRWISE = {"judge.scorer": "pairwise"}


@pytest.mark.variant
@pytest.mark.parametrize(
    ("names", "limit", "options", "expected"),
    [
        (["eft"], SMALL, {}, "No EFT prompt has judgements that rank its answers like people: "),
        (["ift"], SMALL, {}, "24 x examples too long: a prompt of "),
        ([], CANDIDATES, {}, "No accepted prompt could be answered: 6 too long (t2/p"),
        ([], JUDGE, {}, "No candidate could be judged: 24 too long for the judge (t2/p"),
        ([], JUDGE, PAIRWISE, "No candidate could be judged: "),
    ],
    ids=["rationales", "examples", "candidates", "judgements", "comparisons"],
)
def test_run_without_fitting_texts_fails_and_resumes_with_more_context(
    job: Job,  # noqa: F811
    all_long: Callable[..., Path],
    names: list[str],
    limit: dict[str, int],
    options: dict[str, Any],
    expected: str,
) -> None:
    """The resumed run gives the same files as a run with the larger context from the start."""
    root, whole = all_long(names, options), all_long(names, options)
    errors = root.with_name("errors.txt")
    for _ in range(2):
        assert job(root, options=options, errors=str(errors), **limit) == 1
        message = errors.read_text().strip().splitlines()[-1]
        assert expected in message
        assert "raise engine.max_model_len" in message
    options = {**options, "engine.max_model_len": 4096}
    assert job(root, context=10**6, options=options) == 0
    assert job(whole, context=10**6, options=options) == 0
    assert_same(files(root), files(whole), expected)
