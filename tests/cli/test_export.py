"""srlm export: files for other tools, loaded with those tools if they are installed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from srlm.cli.export import FORMS, data_name, export, main, mt_bench_questions, parser, preference_rows
from srlm.data.config import SourceConfig
from srlm.data.readers import read_ranked
from srlm.errors import ExportError, RunFolderError
from srlm.io.files import write_atomic
from srlm.io.record_file import read_records
from srlm.pipeline.run_reader import finished_iterations, open_run
from srlm.types import Answer, PreferencePair, SeedExample
from tests.finished_run import NASTY

ALPACA = "alpaca_eval/rivers-M{}/model_outputs.json"


@pytest.fixture(scope="module")
def exported(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("export")
    export(open_run(finished_run), target, FORMS, None, False)
    return target


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="ascii").splitlines()]


def answers(run: Path, t: int) -> list[Answer]:
    return read_records(run / f"iteration_{t}/evaluation/answers.jsonl", Answer)


def test_alpaca_eval_rows_contain_the_answers_of_each_model(finished_run, exported):
    for t in (0, 1, 2):
        rows = json.loads((exported / ALPACA.format(t)).read_text(encoding="ascii"))
        assert [set(row) for row in rows] == [{"instruction", "output", "generator", "dataset"}] * 4
        assert [(row["instruction"], row["output"]) for row in rows] == [
            (answer.prompt, answer.text) for answer in answers(finished_run, t)
        ]
        assert {(row["generator"], row["dataset"]) for row in rows} == {(f"rivers-M{t}", "srlm_builtin")}


def test_alpaca_eval_loads_the_exported_files(finished_run, exported):
    utils = pytest.importorskip("alpaca_eval.utils", reason="alpaca-eval is not installed", exc_type=ImportError)
    frame = utils.load_or_convert_to_dataframe(str(exported / ALPACA.format(2)))
    assert utils.get_generator_name(None, frame) == "rivers-M2"
    assert list(frame["output"]) == [answer.text for answer in answers(finished_run, 2)]


def test_mt_bench_contains_only_prompts_answered_by_all_models(own_run, tmp_path):
    path = own_run / "iteration_1/evaluation/answers.jsonl"
    rows = [line + "\n" for line in path.read_text(encoding="utf-8").split("\n")[:-1]]
    path.write_text("".join(rows[1:]), encoding="utf-8")  # the first prompt was too long for M1
    manifest = own_run / "iteration_1/evaluation/manifests/answers.json"
    whole = json.loads(manifest.read_text())
    whole["outputs"]["iteration_1/evaluation/answers.jsonl"] = open_run(own_run).fingerprint(path)
    manifest.write_text(json.dumps(whole))
    export(open_run(own_run), tmp_path / "to", ["mt_bench"], None, False)
    questions = lines(tmp_path / "to/mt_bench/question.jsonl")
    assert [question["prompt_id"] for question in questions] == [json.loads(row)["id"] for row in rows[1:]]
    for t in (0, 1, 2):
        assert len(lines(tmp_path / f"to/mt_bench/model_answer/rivers-M{t}.jsonl")) == len(rows) - 1


def test_mt_bench_has_one_single_turn_answer_per_question(finished_run, exported):
    questions = lines(exported / "mt_bench/question.jsonl")
    asked = {question["prompt_id"]: question for question in questions}
    assert [question["question_id"] for question in questions] == [1, 2, 3, 4]
    for t in (0, 1, 2):
        rows = lines(exported / f"mt_bench/model_answer/rivers-M{t}.jsonl")
        choices_by_question = {row["question_id"]: row["choices"] for row in rows}
        assert {row["model_id"] for row in rows} == {f"rivers-M{t}"}
        assert len({row["answer_id"] for row in rows}) == 4
        for answer in answers(finished_run, t):
            assert asked[answer.id]["turns"] == [answer.prompt]
            assert choices_by_question[asked[answer.id]["question_id"]] == [{"index": 0, "turns": [answer.text]}]


def test_fastchat_loads_the_exported_files(finished_run, exported):
    common = pytest.importorskip(
        "fastchat.llm_judge.common", reason="fschat with llm_judge is not installed", exc_type=ImportError
    )
    questions = common.load_questions(str(exported / "mt_bench/question.jsonl"), None, None)
    folder = str(exported / "mt_bench/model_answer")
    models = common.get_model_list(folder)
    assert sorted(models) == ["rivers-M0", "rivers-M1", "rivers-M2"]
    judge = common.Judge("judge", {}, ref_based=True)  # a judge that needs references for some categories
    common.check_data(questions, common.load_model_answers(folder), {}, models, {"math": judge})


@pytest.mark.parametrize(
    ("given", "category"),
    [("", "general"), ("role_play", "role_play"), ("reasoning", "reasoning_without_reference")],
)
def test_no_category_needs_a_reference_answer(given, category):
    [row] = mt_bench_questions([SeedExample("e1", "Why?", "", type=given)])
    assert row == {"question_id": 1, "category": category, "turns": ["Why?"], "prompt_id": "e1"}


def test_exported_pairs_equal_the_pairs_of_the_run(finished_run, exported):
    from datasets import load_dataset, load_from_disk
    from trl.data_utils import is_conversational

    pairs = read_records(finished_run / "iteration_2/4_pairs.jsonl", PreferencePair)
    assert len(pairs) == 3
    assert any(NASTY in pair.prompt for pair in pairs)
    rows = load_from_disk(str(exported / "pairs/iteration_2"))
    assert rows.to_list() == preference_rows(pairs) == lines(exported / "pairs/iteration_2.jsonl")
    assert all(is_conversational(row) for row in rows)
    read = load_dataset("json", data_files=str(exported / "pairs/iteration_2.jsonl"), split="train")
    assert read.to_list() == rows.to_list()
    for path in ("pairs/iteration_2", "pairs/iteration_2.jsonl"):  # as EFT data, with the judge's scores
        ranked = read_ranked(SourceConfig(path=str(exported / path)))
        assert [(row.id, row.prompt) for row in ranked] == [(pair.id, pair.prompt.strip()) for pair in pairs]
        scores = [tuple(answer.score for answer in row.answers) for row in ranked]
        assert scores == [(pair.chosen_score, pair.rejected_score) for pair in pairs]


def test_trl_trains_on_the_exported_pairs(exported, tiny_checkpoint, tmp_path):
    """TRL's DPO trainer makes a step on the unchanged dataset, without code of this package."""
    import torch
    from datasets import load_from_disk
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    model = AutoModelForCausalLM.from_pretrained(tiny_checkpoint, dtype=torch.float32)
    trainer = DPOTrainer(
        model=model,
        args=DPOConfig(
            str(tmp_path),
            max_steps=1,
            per_device_train_batch_size=2,
            use_cpu=True,
            report_to="none",
            save_strategy="no",
        ),
        train_dataset=load_from_disk(str(exported / "pairs/iteration_2")),
        processing_class=AutoTokenizer.from_pretrained(tiny_checkpoint),
    )
    assert len(trainer.train_dataset) == 3
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    assert trainer.train().training_loss == pytest.approx(0.6931, abs=0.02)  # ln 2: no preference yet
    assert any(not torch.equal(weight, before[name]) for name, weight in model.named_parameters())


def test_empty_judgement_pairs_are_exported_as_an_empty_dataset(own_run, tmp_path):
    """A meta-judge's pairs are exported, too; a file without pairs gives a dataset without rows."""
    from datasets import load_from_disk

    workspace = open_run(own_run)
    path = own_run / "iteration_2/4_judgement_pairs.jsonl"
    write_atomic(path, "")
    manifest = own_run / "iteration_2/manifests/pairs.json"
    stored_manifest = json.loads(manifest.read_text())
    stored_manifest["outputs"]["iteration_2/4_judgement_pairs.jsonl"] = workspace.fingerprint(path)
    manifest.write_text(json.dumps(stored_manifest))
    export(workspace, tmp_path / "to", ("pairs",), None, False)
    rows = load_from_disk(str(tmp_path / "to/pairs/iteration_2_judgements"))
    assert len(rows) == 0
    assert rows.column_names == load_from_disk(str(tmp_path / "to/pairs/iteration_2")).column_names


def test_export_of_one_model_contains_only_its_files(finished_run, tmp_path):
    made = export(open_run(finished_run), tmp_path, FORMS, 1, False)
    names = [str(path.relative_to(tmp_path)) for path in made]
    assert names == [ALPACA.format(1), "mt_bench/question.jsonl", "mt_bench/model_answer/rivers-M1.jsonl"]


def test_repeated_export_is_allowed_and_changed_files_are_refused(finished_run, tmp_path):
    run = open_run(finished_run)
    export(run, tmp_path, FORMS, 1, False)
    made = export(run, tmp_path, FORMS, None, False)  # question.jsonl exists with the same content
    assert len(made) == 9
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    export(run, tmp_path, FORMS, None, False)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    (tmp_path / "pairs/iteration_2.jsonl").write_text("mine\n")
    (tmp_path / ALPACA.format(0)).write_text("[]")
    with pytest.raises(ExportError, match=r"already exists.*use --force \(2 in total\); to write.*--to"):
        export(run, tmp_path, FORMS, None, False)
    assert (tmp_path / ALPACA.format(0)).read_text() == "[]"
    export(run, tmp_path, FORMS, None, True)
    assert len(lines(tmp_path / "pairs/iteration_2.jsonl")) == 3
    assert not list(tmp_path.rglob(".*"))  # no temporary file is left


def test_force_does_not_remove_other_folders(finished_run, tmp_path):
    (tmp_path / "pairs/iteration_2").mkdir(parents=True)
    (tmp_path / "pairs/iteration_2/thesis.txt").write_text("mine")
    with pytest.raises(ExportError, match="is not a dataset"):
        export(open_run(finished_run), tmp_path, ("pairs",), None, True)
    assert (tmp_path / "pairs/iteration_2/thesis.txt").read_text() == "mine"


def test_incomplete_datasets_are_written_again_with_force(finished_run, tmp_path):
    """The .jsonl file is written last, so a dataset without it is incomplete."""
    run = open_run(finished_run)
    export(run, tmp_path, ("pairs",), None, False)
    (tmp_path / "pairs/iteration_2.jsonl").unlink()
    with pytest.raises(ExportError, match="--force"):
        export(run, tmp_path, ("pairs",), None, False)
    export(run, tmp_path, ("pairs",), None, True)
    assert len(lines(tmp_path / "pairs/iteration_2.jsonl")) == 3


def test_missing_or_changed_files_are_refused_with_the_reason(own_run, tmp_path):
    with pytest.raises(RunFolderError, match=r"is not a run: it has no config\.yaml or no run\.json"):
        open_run(tmp_path)
    run = open_run(own_run)
    with pytest.raises(RunFolderError, match=r"no finished evaluation/answers in iteration 7; .*: 0, 1, 2\."):
        export(run, tmp_path / "to", FORMS, 7, False)
    with pytest.raises(ExportError, match="no finished data for pairs"):
        export(run, tmp_path / "to", ("pairs",), 1, False)
    (own_run / "iteration_1/evaluation/answers.jsonl").write_text("")
    with pytest.raises(RunFolderError, match="is missing or has changed since its stage finished"):
        export(run, tmp_path / "to", FORMS, None, False)
    (own_run / "iteration_1/evaluation/manifests/answers.json").unlink()  # unfinished stages count as missing
    export(run, tmp_path / "to", ("alpaca_eval",), None, False)
    assert not (tmp_path / "to" / ALPACA.format(1)).exists()
    assert (tmp_path / "to" / ALPACA.format(2)).exists()


def test_iterations_are_ordered_by_number(own_run):
    for t in (10, 9):
        shutil.copytree(own_run / "iteration_2", own_run / f"iteration_{t}")
    assert finished_iterations(open_run(own_run), "evaluation/answers") == [0, 1, 2, 9, 10]


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("builtin", "srlm_builtin"),
        ("hub:owner/name", "owner/name"),
        ("hub:owner/name:main@v1[test]", "owner/name"),
        ("dolly", "databricks/databricks-dolly-15k"),
        ("/home/me/secret/prompts.jsonl", "prompts.jsonl"),
    ],
)
def test_data_names_contain_no_folders(path, shown):
    assert data_name(path) == shown


def test_the_command_exports_and_reports_errors(finished_run, tmp_path, capfd):
    main([str(finished_run), "--to", str(tmp_path / "to"), "--what", "mt_bench,alpaca_eval", "--model", "2"])
    assert (tmp_path / "to/mt_bench/question.jsonl").is_file()
    assert not (tmp_path / "to/pairs").exists()
    with pytest.raises(SystemExit) as ended:
        main([str(tmp_path)])
    assert ended.value.code == 1
    assert "RunFolderError" in capfd.readouterr().err
    with pytest.raises(SystemExit):
        parser().parse_args([".", "--what", "alpaca"])
    assert "'alpaca' is not one of alpaca_eval, mt_bench, pairs, labelled_answers" in capfd.readouterr().err
