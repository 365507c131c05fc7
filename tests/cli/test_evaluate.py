"""srlm evaluate: the plan of a command's options, and invalid options."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from srlm.cli.check import check
from srlm.cli.evaluate import workers
from srlm.cli.evaluate.main import run
from srlm.cli.evaluate.plan import Plan, read_asked
from srlm.config import Evaluate
from srlm.engines import base as engines
from srlm.errors import ConfigError, PromptTooLongError, RunFolderError
from srlm.io.files import write_atomic
from srlm.pipeline import worker as launch
from srlm.pipeline.stage import report_differences
from srlm.pipeline.workspace import Workspace
from tests.helpers import ScriptedEngine


def plan(folder: Path, **given: Any) -> Plan:
    options = Evaluate(models=["b", "a", "c"])
    judge = given.pop("judge", "first")
    for name, value in given.items():
        assert hasattr(options, name)
        setattr(options, name, value)
    options.evaluation.judge = judge
    return Plan(Workspace(folder), options)


def test_every_pair_has_one_match_and_the_judge_is_last(tmp_path: Path) -> None:
    found = plan(tmp_path)
    assert [(match.first, match.second) for match in found.matches] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert found.judge == "b"
    assert found.generators == ["a", "c", "b"]
    assert plan(tmp_path, judge="other").generators == ["b", "a", "c", "other"]
    assert plan(tmp_path, judge="other", suite=["answers"]).generators == ["b", "a", "c"]


def test_files_do_not_depend_on_the_order_of_models(tmp_path: Path) -> None:
    one = plan(tmp_path, judge="c")
    other = plan(tmp_path, judge="c", models=["c", "b", "a"])
    assert {match.comparisons.outputs[0] for match in one.matches} == {
        match.comparisons.outputs[0] for match in other.matches
    }
    assert one.matches[0].comparisons.options == other.matches[0].comparisons.options


def test_comparisons_depend_on_the_judge(tmp_path: Path) -> None:
    one, other = (plan(tmp_path, judge=judge).matches[0].comparisons for judge in ("b", "c"))
    assert one.options["evaluation.judge"] == "b"
    assert one.options != other.options


def test_a_single_model_has_answers_and_no_match(tmp_path: Path) -> None:
    found = plan(tmp_path, models=[])
    assert found.models == ["smollm2-135m-instruct"]
    assert found.matches == []
    assert found.generators == found.models


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"suite": ["answers", "elo"]}, r"suite contains 'elo'\. Use only answers, head_to_head, loss, benchmarks"),
        ({"suite": ["loss"]}, r"suite=\[loss\] needs prompts with answers"),
        ({"suite": ["loss"], "examples": ["a.jsonl", "a.jsonl"]}, "contains a file twice"),
        ({"suite": ["loss"], "examples": ["a.jsonl"], "models": ["endpoint"]}, "endpoint"),
        ({"suite": []}, r"suite=\[\] is empty"),
        (
            {"suite": ["benchmarks"]},
            r"suite=\[benchmarks\] needs the names of benchmarks, such as benchmarks=\[arc_easy,",
        ),
        ({"models": ["a", "b", "a"]}, r"models=\[a,b,a\] contains a model twice"),
        ({"judge": "sft"}, r"evaluation\.judge=sft is for runs"),
        ({"judge": "base"}, r"evaluation\.judge=base is for runs"),
        ({"judge": "endpoint"}, r"needs endpoint\.base_url and endpoint\.model"),
        ({"models": ["a", "endpoint"]}, r"needs endpoint\.base_url and endpoint\.model"),
        ({"models": ["a"], "suite": ["head_to_head"]}, r"suite=\[head_to_head\] needs at least two models"),
        ({"limit": -1}, r"limit=-1 is invalid"),
        ({"benchmark_limit": -1}, r"benchmark_limit=-1 is invalid"),
        ({"benchmark_shots": -1}, r"benchmark_shots=-1 is invalid"),
    ],
)
def test_invalid_options_are_refused(given: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        plan(tmp_path, **given)


def test_benchmarks_with_an_endpoint_are_refused(tmp_path: Path) -> None:
    options = Evaluate(models=["endpoint"], suite=["benchmarks"], benchmarks=["arc_easy"])
    options.endpoint.base_url, options.endpoint.model = "http://127.0.0.1:8000/v1", "big"
    with pytest.raises(ConfigError, match=r"suite=\[benchmarks\] needs local models"):
        Plan(Workspace(tmp_path), options)


def test_answers_of_an_endpoint_depend_on_its_model(tmp_path: Path) -> None:
    options = Evaluate(models=["endpoint", "a"])
    options.endpoint.base_url, options.endpoint.model = "http://127.0.0.1:8000/v1", "big"
    found = Plan(Workspace(tmp_path), options)
    assert found.answers["endpoint"].options["endpoint.model"] == "big"
    assert "endpoint.model" not in found.answers["a"].options
    assert found.matches[0].comparisons.options["endpoint.model"] == "big"  # the first model is the judge


@pytest.mark.parametrize("finished", [True, False])
def test_answers_of_a_retrained_model_are_refused(tmp_path: Path, finished: bool) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    save_file({"one": torch.zeros(1)}, folder / "model.safetensors")

    def answers_are_complete() -> bool:
        found = plan(tmp_path / "runs", models=[str(folder)], suite=["answers"])
        if not found.prompts.path.exists():
            write_atomic(found.prompts.outputs[0], "")
            found.prompts.done({}, {})
        [stage] = found.answers.values()
        if not stage.path.parent.exists():
            stage.begin()
            write_atomic(stage.outputs[0], "")
            if finished:
                stage.done({}, {})
        report_differences(found.stages())
        return stage.complete()

    assert answers_are_complete() is finished
    save_file({"two": torch.zeros(1)}, folder / "model.safetensors")
    verb = "ran" if finished else "began"
    with pytest.raises(RunFolderError, match=f"input {folder} has changed since this stage {verb}"):
        answers_are_complete()
    save_file({"one": torch.zeros(1)}, folder / "model.safetensors")
    assert answers_are_complete() is finished
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()  # its answers are still stored
    assert answers_are_complete() is finished


def test_too_long_prompts_are_missing_and_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Models a and b each miss an answer to another prompt, so their match has three prompts."""
    data = tmp_path / "prompts.jsonl"
    rows = [
        {
            "key": n,
            "prompt": f"Prompt {n}: name a river.",
            "instruction_id_list": ["punctuation:no_comma"],
            "kwargs": [{}],
        }
        for n in range(5)
    ]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    too_long = {"a": "Prompt 0", "b": "Prompt 3"}

    @contextlib.asynccontextmanager
    async def open_named(config: Any, name: str) -> AsyncIterator[ScriptedEngine]:
        def reply(messages: Any, sampling: Any, prefill: str, place: int) -> str:
            content = messages[-1]["content"]
            if not sampling.choices and content.startswith(too_long[name]):
                raise PromptTooLongError("a prompt of 5000 tokens")
            if sampling.choices and "Prompt 1" in content:
                raise PromptTooLongError("a prompt of 9000 tokens")
            return " A" if sampling.choices else f"The {name}, or the Nile."

        yield ScriptedEngine(reply)

    monkeypatch.setattr(engines, "open_named", open_named)
    monkeypatch.setattr(
        launch, "run_worker", lambda _, workspace, number, **_options: workers.worker(workspace, number)
    )
    options = Evaluate(models=["a", "b"], dataset=str(data), runs_dir=str(tmp_path / "runs"))
    options.evaluation.bootstrap = 100
    results = run(options)
    assert results["answers"]["prompts"] == 5
    first, second = results["answers"]["rows"]
    assert [row["measures"]["mean_characters"]["n"] for row in (first, second)] == [4, 4]
    assert second["against_first"]["mean_characters"]["n"] == 3
    assert second["measures"]["prompt_level_strict_acc"]["n"] == 4
    assert second["against_first"]["prompt_level_strict_acc"]["value"] == 0.0
    [match] = results["head_to_head"]["matches"]
    assert (match["measures"]["unparsed_fraction"]["value"], match["measures"]["unparsed_fraction"]["n"]) == (
        pytest.approx(1 / 3),
        3,
    )
    output = capfd.readouterr().err
    assert "(prompts.jsonl:1): a prompt of 5000 tokens" in output.replace(str(tmp_path) + "/", "")
    assert "Head to head: answers to judge without an answer: 1 too long for the judge" in output
    assert "head to heads: 6 of 6" in output


def test_the_number_of_prompts_is_an_option_of_its_own() -> None:
    options = Evaluate(models=["a"])
    options.evaluation.prompts = 2
    with pytest.raises(ConfigError, match=r"evaluation\.prompts is for runs\. Here, `limit` is the number of prompts"):
        run(options)


def test_names_that_are_too_long_for_a_folder_are_refused() -> None:
    assert check(Evaluate(name="a" * 220, models=["a"]))
    for name in ("a" * 221, "é" * 130):
        with pytest.raises(ConfigError, match=r"name=.*at most 220 bytes long"):
            check(Evaluate(name=name, models=["a"]))


def test_what_the_reader_notes_is_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Also where Hydra has disabled the reader's logger, as it does with those that exist before it starts."""
    rows = [{"prompt": "Name a river.", "mood": "calm"}, {"prompt": "Name a river.", "mood": "calm"}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    logging.getLogger("srlm.data").disabled = True
    read_asked(plan(tmp_path, dataset=str(tmp_path / "rows.jsonl")))
    told = " ".join(capfd.readouterr().err.split())
    assert "rows.jsonl: 1 read, 1 left out: 1 repeated" in told
    assert "fields that are not used: mood" in told
