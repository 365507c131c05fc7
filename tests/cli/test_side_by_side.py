"""`srlm side-by-side`, and the page that `srlm evaluate` writes, with scripted models."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from srlm.cli.evaluate import main, workers
from srlm.cli.evaluate.main import run
from srlm.cli.evaluate.plan import Plan
from srlm.config import Evaluate, SideBySide
from srlm.engines import base as engines
from srlm.engines.base import Completion
from srlm.errors import ConfigError, ModelError, PromptTooLongError, RunFolderError
from srlm.models.config import ModelConfig
from srlm.models.resolve import label, labels, resolve
from srlm.pipeline import worker as launch
from srlm.pipeline.workspace import Workspace
from tests.generation.test_pool import texts
from tests.helpers import ROOT, ScriptedEngine

WORDS = texts(24)  # prompts that are no near-duplicates
HOSTILE = "<script>alert(1)</script></style><img src=x onerror=alert(2)> {{ 7 * 7 }} \x1b[31m\x00 \u2028\u202e"
HOSTILE += " [bold]x[/bold]"


def options(folder: Path, kind: type[Evaluate] = SideBySide, **given: Any) -> Evaluate:
    made = kind(models=["a", "b"], runs_dir=str(folder), dataset=str(ROOT / "tests/verifiable_prompts.jsonl"))
    made.evaluation.bootstrap = 100
    for name, value in given.items():
        assert hasattr(made, name)
        setattr(made, name, value)
    return made


unanswered: dict[str, tuple[str, ...]] = {}  # model -> beginnings of prompts that are too long


@pytest.fixture
def requests_made(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, float]]:
    """Replace engines by scripted ones, in this process; return the requests: model and temperature."""
    requests: list[tuple[str, float]] = []

    @contextlib.asynccontextmanager
    async def open_named(config: Any, name: str) -> AsyncIterator[ScriptedEngine]:
        def reply(messages: Any, sampling: Any, prefill: str, place: int) -> Completion:
            requests.append((name, sampling.temperature))
            if any(messages[-1]["content"].startswith(start) for start in unanswered.get(name, ())):
                raise PromptTooLongError("a prompt of 5000 tokens")
            return Completion(HOSTILE if name == "b" else "nile and rhine", 3, name == "b")

        yield ScriptedEngine(reply)

    monkeypatch.setattr(engines, "open_named", open_named)
    monkeypatch.setattr(
        launch, "run_worker", lambda _, workspace, number, **_options: workers.worker(workspace, number)
    )
    return requests


def page_of(folder: Path) -> str:
    return (folder / "side_by_side/side_by_side.html").read_text(encoding="utf-8")


def test_models_answer_greedily_and_text_statistics_are_compared(tmp_path: Path, requests_made: list[Any]) -> None:
    results = run(options(tmp_path))
    assert len(requests_made) == 2 * 5
    assert {temperature for _, temperature in requests_made} == {0.0}
    assert set(results) == {"models", "suite", "answers"}
    one, other = results["answers"]["rows"]
    assert (one["model"], other["model"]) == ("a", "b")
    assert one["measures"]["form_followed"]["n"] == 5
    assert one["measures"]["form_followed"]["value"] == 3 / 5  # no comma, not the word, lowercase text
    assert other["measures"]["truncated"]["value"] == 1.0
    assert other["against_first"]["truncated"]["value"] == 1.0
    assert "against_first" not in one
    assert json.loads((tmp_path / "side_by_side/evaluation.json").read_text(encoding="utf-8")) == results
    assert page_of(tmp_path).count("nile and rhine") == 5


def test_evaluate_writes_a_page_of_its_answers(tmp_path: Path, requests_made: list[Any]) -> None:
    run(options(tmp_path, Evaluate, suite=["answers"]))
    assert {temperature for _, temperature in requests_made} == {0.7}
    assert "nile and rhine" in (tmp_path / "evaluate/side_by_side.html").read_text(encoding="utf-8")


def test_behaviours_are_compared_where_asked_for_and_where_not(
    tmp_path: Path, requests_made: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All answers of b, and none of a, contain the word that 12 of 24 prompts ask for."""
    asking = {"instruction_id_list": ["keywords:existence"], "kwargs": [{"keywords": ["script"]}]}
    rows = [{"key": n, "prompt": f"{WORDS[n]}?"} | (asking if n % 2 else {}) for n in range(24)]
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    shown = io.StringIO()
    monkeypatch.setattr(main, "screen", lambda: Console(file=shown, width=200))
    results = run(options(tmp_path, dataset=str(file)))
    one, other = (row["behaviours"]["keywords:existence"] for row in results["answers"]["rows"])
    assert [(part[name]["value"], part[name]["n"]) for part in (one, other) for name in ("asked", "not_asked")] == [
        (0.0, 12),
        (0.0, 12),
        (1.0, 12),
        (1.0, 12),
    ]
    assert other["not_asked_gain"]["value"] == 1.0
    assert "asked_gain" not in one
    sentence = "b against a: given keywords rose from 0 % to 100 % where not asked for: a habit, not obedience."
    assert sentence in shown.getvalue()
    page = page_of(tmp_path)
    assert sentence in page
    text = " ".join(re.sub(r"<[^>]+>", " ", page).split())
    assert re.search(r"not asked for, % given keywords 0 \[0,\d+\] 100 \[\d+,100\]", text)


def test_too_long_prompts_are_missing_and_listed(
    tmp_path: Path, requests_made: list[Any], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Model b misses two answers and both models a third; only prompts answered by both are compared."""
    run(options(tmp_path / "whole"))
    starts = [
        json.loads(line)["prompt"][:40]
        for line in (tmp_path / "whole/side_by_side/data/prompts.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    ]
    monkeypatch.setitem(unanswered, "a", (starts[4],))
    monkeypatch.setitem(unanswered, "b", (starts[0], starts[1], starts[4]))
    one, other = run(options(tmp_path))["answers"]["rows"]
    assert [row["measures"]["mean_characters"]["n"] for row in (one, other)] == [4, 2]
    gap = other["against_first"]["mean_characters"]
    assert (gap["value"], gap["n"]) == (len(HOSTILE) - len("nile and rhine"), 2)
    output = capfd.readouterr().err
    assert "engine.max_model_len" in output
    assert "Without an answer:" in output
    assert page_of(tmp_path).count('<p class="quiet">no answer</p>') == 4


def test_a_rerun_resumes_and_accepts_new_models(tmp_path: Path, requests_made: list[Any]) -> None:
    run(options(tmp_path))
    requests_made.clear()
    run(options(tmp_path))
    assert requests_made == []
    results = run(options(tmp_path, models=["a", "b", "c"]))
    assert {name for name, _ in requests_made} == {"c"}
    assert results["models"] == ["a", "b", "c"]
    warm = options(tmp_path)
    warm.evaluation.temperature = 0.5
    with pytest.raises(RunFolderError, match=r"evaluation\.temperature was 0\.0, now 0\.5"):
        run(warm)


def test_the_page_has_no_active_content(tmp_path: Path, requests_made: list[Any]) -> None:
    run(options(tmp_path))
    page = page_of(tmp_path)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    styles = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    assert policy
    for style in styles:
        digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
        assert f"sha256-{digest}" in policy[1].replace("&#43;", "+").replace("&#39;", "'")
    assert len(styles) == 2
    assert policy[1].startswith("default-src &#39;none&#39;; style-src ")
    for tag in ("<script", "<img", " style=", " onerror=", "http:", "https:"):
        inside = page.replace("onerror=alert(2)", "")  # remove the escaped text
        assert tag not in inside, tag
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "{{ 7 * 7 }}" in page
    assert not re.search("[\x00-\x08\x0b-\x1f\u2028\u202e]", page)
    assert "[U+202E]" in page


def test_the_terminal_shows_texts_without_markup(
    tmp_path: Path, requests_made: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = io.StringIO()
    monkeypatch.setattr(main, "screen", lambda: Console(file=shown, width=160, highlight=False))
    run(options(tmp_path, num_shown=2))
    assert "[bold]x[/bold]" in shown.getvalue()
    assert "\x1b" not in shown.getvalue()
    assert shown.getvalue().count("follows 1 of 1") >= 1
    assert "form instructions followed, %" in shown.getvalue()


def test_a_negative_number_of_prompts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"num_shown=-1 is invalid"):
        Plan(Workspace(tmp_path), options(tmp_path, num_shown=-1))


def test_runs_of_the_same_name_are_labelled_by_folder() -> None:
    models = ["one/default/iteration_1", "two/default/iteration_1"]
    assert labels(models) == ["one/default M1", "two/default M1"]
    assert labels(models[:1]) == ["default M1"]
    assert labels(["m", "a/x/runs/r/iteration_2/model", "a/y/runs/r/iteration_2"]) == [
        "m",
        "x/runs/r M2",
        "y/runs/r M2",
    ]
    same = ["runs/a/iteration_1", "runs/a/iteration_1/model"]
    assert labels(same) == same


def test_run_folders_resolve_to_their_models(own_run: Path, tiny_checkpoint: Path) -> None:
    """M_0 is outside the run; a missing model raises an error with its name."""
    assert resolve(ModelConfig(name=str(own_run / "iteration_0"))) == tiny_checkpoint.resolve()
    assert resolve(ModelConfig(name=str(own_run / "iteration_2"))) == (own_run / "iteration_2/model").resolve()
    assert label(str(own_run / "iteration_0")) == "rivers M0"
    (own_run / "iteration_3").mkdir()
    with pytest.raises(ModelError, match=r"iteration_3: this run has no M3: .*model does not exist"):
        resolve(ModelConfig(name=str(own_run / "iteration_3")))
    Workspace(own_run).run_path.write_text("{}")
    with pytest.raises(ModelError, match=r"this run has no M0 yet"):
        resolve(ModelConfig(name=str(own_run / "iteration_0")))
    Workspace(own_run).run_path.unlink()
    with pytest.raises(ModelError, match=r"has no config\.json"):  # without run.json it is an ordinary folder
        resolve(ModelConfig(name=str(own_run / "iteration_2")))
