"""A run with KTO: answers above the prompt's mean score are desirable, those below it undesirable."""

from __future__ import annotations

import io
import json
from collections import defaultdict
from pathlib import Path
from statistics import fmean

import pytest
from rich.console import Console

from srlm.cli.check import check
from srlm.cli.export import export, unpaired_rows
from srlm.config import Config
from srlm.errors import ConfigError, ExportError, RunFolderError
from srlm.pipeline.artifacts import CANDIDATES, JUDGEMENTS, LABELLED, PAIRS, PROMPTS, UNPAIRED
from srlm.pipeline.manifest import stage_manifest
from srlm.pipeline.workspace import Workspace
from srlm.preferences.config import PairsConfig
from srlm.preferences.policies.above_mean import AboveMean
from srlm.preferences.scores import mean_scores
from srlm.reporting.collect import collect
from srlm.reporting.entries import feedback_entries
from srlm.reporting.summary import print_sample, widest_gap
from srlm.training.methods.kto import KTOConfig
from srlm.training.stages import Train
from tests.e2e.test_smoke import command, stopped_at, without_dpo
from tests.forked import run_job
from tests.helpers import candidates_of, options, prompt

KTO = {"method": "kto", "pairs.policy": "above_mean"}


def labels(texts: list[str], scores: list[float], min_gap: float = 0.0) -> dict[str, bool] | str:
    """Return the labels that the policy gives one prompt's candidates, or the reason for none."""
    scored = list(zip(scores, candidates_of("t2/p00000", texts), strict=True))
    selection = AboveMean(PairsConfig(min_gap=min_gap)).select(prompt("t2/p00000"), scored)
    assert all(answer.score == scores[texts.index(answer.completion)] for answer in selection.answers)
    return selection.reason or {answer.completion: answer.label for answer in selection.answers}


def test_answers_above_the_mean_are_desirable() -> None:
    assert labels(["a", "b", "c", "d"], [5, 1, 1, 1]) == {"a": True, "b": False, "c": False, "d": False}
    assert labels(["a", "b", "c"], [4, 3, 2]) == {"a": True, "c": False}  # b's score equals the mean
    assert labels(["a", "b", "c", "d"], [4, 3.1, 2.9, 2], min_gap=0.5) == {"a": True, "d": False}


def test_empty_and_duplicate_texts_have_no_label() -> None:
    assert labels(["a", "", "b", "c"], [5, 0, 1, 2]) == {"a": True, "b": False}
    assert labels(["a", "b", "a"], [5, 1, 1]) == {"a": True, "b": False}


@pytest.mark.parametrize(
    ("texts", "scores", "reason"),
    [
        (["a"], [5], "fewer than two candidates with enough valid judgements"),
        (["a", "b"], [3, 3], "all scores equal"),
        (["a", ""], [5, 1], "no answer on one side of the mean"),
    ],
)
def test_prompts_without_labels_have_a_reason(texts: list[str], scores: list[float], reason: str) -> None:
    assert labels(texts, scores) == reason


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("method=dpo",), r"pairs\.policy='above_mean' .*dpo does not learn from LabelledAnswer"),
        (("pairs.length_penalty=null",), r"pairs\.length_penalty=None .*gives no pairs to match in length"),
        (("judge=verdict_only", "judge.early_stopping=true"), r"judge\.early_stopping=True .*needs all scores"),
        (("kto.desirable_weight=0",), r"kto\.desirable_weight=0\.0 .*above 0"),
        (("+kto.extra.train_sampling_strategy=random",), r"kto\.extra=.*train_sampling_strategy"),
        (("+kto.extra.beta=0.2",), r"kto\.extra\.beta cannot be set.*Use kto\.beta instead"),
        (("method=sft",), r"method='sft' .*a method that trains M_t\+1"),
    ],
)
def test_incompatible_options_are_refused(given: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        options("experiment=kto", *given)


def test_kto_accepts_preference_pairs() -> None:
    assert check(Config(method="kto")).training == KTOConfig()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Return a run to M3 with a scripted engine."""
    root = tmp_path_factory.mktemp("kto") / "run"
    ended = run_job(root, options=KTO | {"iteration": 3})
    assert ended.returncode == 0, ended.stderr[-4000:]
    return Workspace(root)


def test_scored_candidates_are_labelled_by_the_prompts_mean(run: Workspace) -> None:
    means = mean_scores(JUDGEMENTS.read(run, 2), 2)
    of_prompt: dict[str, list[float]] = defaultdict(list)
    for candidate in CANDIDATES.read(run, 2):
        if candidate.id in means:
            of_prompt[candidate.prompt_id].append(means[candidate.id])
    answers = LABELLED.read(run, 2)
    assert len(answers) >= 10
    for answer in answers:
        assert answer.label is (means[answer.id] > fmean(of_prompt[answer.id.rpartition("/")[0]]))
    assert PAIRS.read(run, 2) == []
    labelled = {answer.id.rpartition("/")[0] for answer in answers}
    accepted = {one.id for one in PROMPTS.read(run, 2) if not one.rejected}
    assert labelled | {one.id for one in UNPAIRED.read(run, 2)} == accepted


def test_training_stage_is_named_after_the_method(run: Workspace) -> None:
    for t in (2, 3):
        made = stage_manifest(run.iteration(t), "kto")
        assert made
        assert f"iteration_{t}/4_labelled_answers.jsonl" in made.inputs
        assert made.options["kto.beta"] == 0.1
        assert not any(name.startswith("dpo.") for name in made.options)
        counts = stage_manifest(run.iteration(t), "pairs").counts  # type: ignore[union-attr]
        assert counts["labelled_answers"] == len(LABELLED.read(run, t)) > counts["desirable_answers"] > 0
        assert {"mean_gap", "length_ratio"} <= counts["alarms"].keys()


def test_reports_and_cards_name_method_and_labels(run: Workspace) -> None:
    numbers = collect(run.root)
    marks = [shown.mark for entry in feedback_entries(numbers, 2) for shown in entry.answers]
    assert marks.count("desirable") + marks.count("undesirable") == len(LABELLED.read(run, 2))
    assert (
        f"trained with KTO from M1 on {len(LABELLED.read(run, 2))} labelled answers"
        in (run.model(2) / "README.md").read_text()
    )


def test_export_has_the_labelled_answers_in_trls_unpaired_format(run: Workspace, tmp_path: Path) -> None:
    from datasets import load_from_disk
    from trl.data_utils import is_conversational

    made = export(run, tmp_path, ("pairs", "labelled_answers"), None, False)
    datasets = [tmp_path / f"labelled_answers/iteration_{t}" for t in (2, 3)]
    assert made == [path for folder in datasets for path in (folder.with_suffix(".jsonl"), folder)]
    for t, folder in zip((2, 3), datasets, strict=True):
        answers, rows = LABELLED.read(run, t), load_from_disk(str(folder)).to_list()
        assert rows == unpaired_rows(answers)
        assert rows == [json.loads(line) for line in folder.with_suffix(".jsonl").read_text("ascii").splitlines()]
        assert [(row["prompt"], row["completion"], row["label"]) for row in rows] == [
            (
                [{"role": "user", "content": answer.prompt}],
                [{"role": "assistant", "content": answer.completion}],
                answer.label,
            )
            for answer in answers
        ]
        assert all(is_conversational(row) for row in rows)
    with pytest.raises(ExportError, match=r"no finished data for pairs: .* learn from labelled_answers\. .*--what "):
        export(run, tmp_path / "other", ("pairs",), None, False)


def test_trl_trains_on_the_exported_labelled_answers(run: Workspace, tiny_checkpoint: Path, tmp_path: Path) -> None:
    """TRL's KTO trainer makes a step on the unchanged dataset, without code of this package."""
    import torch
    from datasets import load_from_disk
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import KTOConfig as Arguments
    from trl import KTOTrainer

    export(run, tmp_path, ("labelled_answers",), 2, False)
    model = AutoModelForCausalLM.from_pretrained(tiny_checkpoint, dtype=torch.float32)
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    trainer = KTOTrainer(
        model=model,
        args=Arguments(
            str(tmp_path / "trained"), max_steps=1, per_device_train_batch_size=4, use_cpu=True, report_to="none",
            save_strategy="no",
        ),
        train_dataset=load_from_disk(str(tmp_path / "labelled_answers/iteration_2")),
        processing_class=AutoTokenizer.from_pretrained(tiny_checkpoint),
    )  # fmt: skip
    assert len(trainer.train_dataset) == len(LABELLED.read(run, 2))
    trainer.train()
    assert any(not torch.equal(weight, before[name]) for name, weight in model.named_parameters())


def test_sample_is_the_prompt_with_the_largest_gap_and_its_labels(run: Workspace) -> None:
    answers = LABELLED.read(run, 2)
    found = widest_gap([], answers)
    assert found is not None
    prompt_id, text, marks = found
    gaps = {
        answer.prompt: max(one.score for one in answers if one.prompt == answer.prompt)
        - min(one.score for one in answers if one.prompt == answer.prompt)
        for answer in answers
    }
    assert gaps[text] == max(gaps.values()) > min(gaps.values())
    assert marks == {
        one.id: "desirable" if one.label else "undesirable" for one in answers if one.id.startswith(f"{prompt_id}/")
    }
    assert set(marks.values()) == {"desirable", "undesirable"}
    assert widest_gap([], []) is None
    screen = io.StringIO()
    print_sample(Console(file=screen, width=200), run, 2)
    for mark in ("desirable", "undesirable"):
        assert sum(f" {mark} " in line for line in screen.getvalue().splitlines()) == list(marks.values()).count(mark)


def test_model_of_another_method_is_refused(run: Workspace) -> None:
    config = run.config()
    config.method = "dpo"
    with pytest.raises(RunFolderError, match=r"M2 .* was made by the stage iteration_2/kto, not by dpo"):
        Train(run, config, 2).complete()


@pytest.mark.variant
@pytest.mark.e2e
@pytest.mark.slow
def test_kto_trains_a_model_end_to_end(smoke_run: Path, tmp_path: Path) -> None:
    (without_dpo(smoke_run, tmp_path) / "iteration_2/manifests/pairs.json").unlink()
    options = ("method=kto", "pairs=above_mean", "kto.learning_rate=1e-3")
    printed = stopped_at(tmp_path / "smoke/iteration_2/manifests/kto.json", *command(tmp_path, *options))
    assert "M1 -> M2: KTO, reference previous" in printed
    counts = json.loads((tmp_path / "smoke/iteration_2/kto_counts.json").read_text())
    assert counts["answers"] > counts["desirable"] > 0
    assert 0 <= counts["reference_check_difference"] < 0.001
    assert (tmp_path / "smoke/iteration_2/model/model.safetensors").exists()
