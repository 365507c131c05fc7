"""srlm evaluate group_by=[...]: grouping of models into arms, their references, and the results of arms."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from srlm.cli.evaluate.arms import OWN, Of, answers, arms_results, expand, losses, reference_of, run_of, settings
from srlm.cli.evaluate.plan import Plan
from srlm.cli.evaluate.tables import arm_words, arms_markdown, show
from srlm.config import Config, Evaluate, to_dict
from srlm.data.config import IFTAnswers
from srlm.errors import ConfigError
from srlm.pipeline.workspace import Workspace
from srlm.reporting.plots import plot_arms
from srlm.types import Answer, AnswerLoss, Constraint, SeedExample

RIGHT = Constraint("final_answer:number", {"number": 7})
BY = ["data.ift_answers", "data.ift.limit"]


def sweep(folder: Path) -> list[str]:
    """Return models with two values of one option, two values of another and two seeds each."""
    models = []
    for kept in (IFTAnswers.best, IFTAnswers.worst):
        for limit in (8, 16):
            for seed in (1, 0):
                config = Config(name=f"s-{kept.name}-{limit}-{seed}", runs_dir=str(folder), seed=seed)
                config.data.ift.path = f"{folder}/pairs.jsonl"
                config.data.ift_answers, config.data.ift.limit = kept, limit
                run = Workspace.of(config)
                (run.iteration(1) / "model").mkdir(parents=True)
                run.config_path.write_text(yaml.safe_dump(to_dict(config)), encoding="utf-8")
                run.update_run(name=config.name)
                models.append(str(run.iteration(1) / "model"))
    return models


def test_patterns_give_models_in_order_of_name(tmp_path: Path) -> None:
    models = sweep(tmp_path)
    assert expand(["a", f"{tmp_path}/s-best-*/iteration_1/model"]) == ["a", *sorted(models[:4])]
    with pytest.raises(ConfigError, match=r"models=\[runs/nothing-\*/model\] matches no folder"):
        expand(["runs/nothing-*/model"])


def test_patterns_are_relative_to_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert expand(["s-best-8-?/iteration_1/model"]) == [f"s-best-8-{seed}/iteration_1/model" for seed in (0, 1)]


def test_models_with_equal_options_form_an_arm(tmp_path: Path) -> None:
    models = sweep(tmp_path)
    found = settings([*models, "smollm2-135m-instruct"], BY)
    assert [arm.name for arm in found] == ["smollm2-135m-instruct", "best, 8", "best, 16", "worst, 8", "worst, 16"]
    assert found[1].models == (models[1], models[0])  # seed 0 first
    assert [reference_of(found, arm) for arm in found] == [None, None, None, found[1], found[2]]
    paths = settings(models, ["data.ift.path"])
    assert [arm.name for arm in paths] == ["pairs"]


def test_unknown_options_in_group_by_are_refused(tmp_path: Path) -> None:
    models = sweep(tmp_path)
    for unknown in ("sft.los_on", "sft"):  # a whole group is no option
        with pytest.raises(ConfigError, match=rf"runs have no option {unknown}\."):
            settings(models, [unknown])


def test_own_examples_come_from_the_models_run(tmp_path: Path) -> None:
    models = sweep(tmp_path)
    run = run_of(models[0])
    assert run is not None
    assert run_of("smollm2-135m-instruct") is None
    assert run_of(str(tmp_path)) is None
    options = Evaluate(models=[models[0], "m"], suite=["loss"], examples=[OWN, "f.jsonl"])
    options.evaluation.judge = "first"
    plan = Plan(Workspace(tmp_path / "e"), options)
    assert plan.read == {
        models[0]: {OWN: str(run.data / "ift.jsonl"), "f.jsonl": "f.jsonl"},
        "m": {"f.jsonl": "f.jsonl"},
    }
    assert plan.losses.keys() == {models[0], "m"}
    with pytest.raises(ConfigError, match=r"examples=\[train\] needs models of runs"):
        Plan(Workspace(tmp_path / "e"), Evaluate(models=["m"], suite=["loss"], examples=[OWN]))


def prompts_of(model: str, file: str) -> dict[str, str]:
    return {"1": "One?", "2": "Two?"}


def results_of(folder: Path) -> dict[str, object]:
    """Return results where runs with the best answers solve all problems and those with the worst none."""
    models = sweep(folder)
    prompts = [SeedExample(f"p{n}", "3 + 4?", "", kind, constraints=(RIGHT,)) for n, kind in enumerate("xxy")]

    def answers_of(model: str) -> list[Answer]:
        text = "Answer: 7" if "s-best" in model else "Answer: 8"
        return [Answer(prompt.id, prompt.prompt, text, 4, False) for prompt in prompts]

    def losses_of(model: str, file: str) -> list[AnswerLoss]:
        if model == "m" and file == OWN:
            return []
        nats = 1.0 if "s-best" in model else 2.0
        return [AnswerLoss("1", nats * (3 if file == OWN else 4), 2), AnswerLoss("2", None, 0, "too long")]

    options = Evaluate(models=[*models, "m"], group_by=BY)
    options.evaluation.bootstrap = 100
    measures: list[Of] = losses([OWN, "held_out.jsonl"], losses_of, prompts_of) + answers(prompts, answers_of)
    return arms_results(options, settings(options.models, BY), measures)


def test_the_card_has_values_and_differences_of_arms(tmp_path: Path) -> None:
    found = json.loads(json.dumps(results_of(tmp_path)))
    assert [arm["reference"] for arm in found["arms"]] == [None, None, None, 1, 2]
    rows = {(row["measure"], row["of"]): row["arms"] for row in found["measures"]}
    assert [entry["value"]["value"] for entry in rows["loss", OWN]] == [None, 1.5, 1.5, 3, 3]
    assert [entry["value"]["value"] for entry in rows["gap", "held_out"]] == [None, 0.5, 0.5, 1, 1]
    assert rows["gap", "held_out"][3]["against"]["value"] == 0.5
    assert rows["gap", "held_out"][1]["runs"] == [0.5, 0.5]
    assert [entry["value"]["value"] for entry in rows["follows", "x"]] == [0, 1, 1, 0, 0]
    assert rows["follows", "x"][1]["value"]["n"] == 2
    assert rows["follows", ""][3]["against"]["value"] == -1
    assert rows["loss", "held_out"][0]["against"] is None


def test_tables_and_plot_show_all_arms(tmp_path: Path) -> None:
    found = json.loads(json.dumps(results_of(tmp_path)))
    console = Console(record=True, width=160, file=(tmp_path / "screen").open("w", encoding="utf-8"))
    show({"models": [], "arms": found}, console)
    text = console.export_text()
    assert "instructions followed, x, %" in text
    assert "minus best" in text
    assert "-100 [-100,42]" in text  # all three prompts have the same difference
    table = arms_markdown(found).splitlines()
    assert table[0].startswith("| data.ift_answers, data.ift.limit | runs | loss, its own examples, nats per token |")
    assert all(line.count("|") == table[0].count("|") for line in table)
    assert table[6].startswith("| minus best |  | +1.500 [n/a] | +2.000 [n/a] | +0.500 [n/a] | -100 [-100,42] |")
    titles = [arm_words(row) for row in found["measures"]]
    assert "loss gap, held_out minus its own examples, nats per token" in titles
    picture = plot_arms(found, titles, tmp_path / "arms")
    assert [path.suffix for path in picture] == [".png", ".svg"]
    svg = picture[1].read_text(encoding="utf-8")
    assert all(word in svg for word in ("best", "worst", "16", "difference to best"))


def test_a_single_option_is_the_axis_of_the_plot(tmp_path: Path) -> None:
    models = sweep(tmp_path)
    options = Evaluate(models=models, group_by=["data.ift.limit"])
    options.evaluation.bootstrap = 100

    def losses_of(model: str, file: str) -> list[AnswerLoss]:
        return [AnswerLoss("1", 1.0, 1), AnswerLoss("2", 2.0, 1)]

    arms = settings(models, options.group_by)
    found = json.loads(json.dumps(arms_results(options, arms, losses(["f.jsonl"], losses_of, prompts_of))))
    assert [len(arm["models"]) for arm in found["arms"]] == [4, 4]
    assert [arm["reference"] for arm in found["arms"]] == [None, 0]
    assert "data.ift.limit" in plot_arms(found, ["loss"], tmp_path / "arms")[1].read_text(encoding="utf-8")
