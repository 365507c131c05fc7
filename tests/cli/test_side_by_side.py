"""srlm.cli.side_by_side.

What a command asks for, a run on scripted models, its page, and M_N of a run by its folder.
"""

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

from srlm import engines
from srlm.cli import side_by_side
from srlm.cli.side_by_side import Plan, run, show
from srlm.config import ModelConfig, SideBySide
from srlm.engines.base import Completion
from srlm.errors import ConfigError, ModelError, PromptTooLongError, RunFolderError
from srlm.models.resolve import label, resolve
from srlm.pipeline import worker as launch
from srlm.pipeline.workspace import Workspace
from tests.helpers import ROOT, ScriptedEngine

HOSTILE = "<script>alert(1)</script></style><img src=x onerror=alert(2)> {{ 7 * 7 }} \x1b[31m\x00 \u2028\u202e"
HOSTILE += " [bold]x[/bold]"


def options(folder: Path, **given: Any) -> SideBySide:
    made = SideBySide(models=["a", "b"], runs_dir=str(folder), dataset=str(ROOT / "tests/verifiable_prompts.jsonl"))
    made.evaluation.bootstrap, made.samples = 100, 2
    for name, value in given.items():
        assert hasattr(made, name)
        setattr(made, name, value)
    return made


unanswered: dict[str, tuple[str, ...]] = {}  # model -> how the prompts begin that are too long for it


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, float]]:
    """Scripted models in the engines' place, and the worker in this process; each request: model and temperature."""
    requests: list[tuple[str, float]] = []

    @contextlib.asynccontextmanager
    async def open_named(config: Any, name: str) -> AsyncIterator[ScriptedEngine]:
        def reply(messages: Any, sampling: Any, prefill: str, place: int) -> Completion:
            requests.append((name, sampling.temperature))
            if any(messages[-1]["content"].startswith(start) for start in unanswered.get(name, ())):
                raise PromptTooLongError("a prompt of 5000 tokens")
            plain = f"nile and rhine {sampling.seed % 7}" if sampling.temperature else "nile and rhine"
            return Completion(HOSTILE if name == "b" else plain, 3, name == "b")

        yield ScriptedEngine(reply)

    monkeypatch.setattr(engines, "open_named", open_named)
    monkeypatch.setattr(
        launch, "run_worker", lambda _, workspace, number, **_options: side_by_side.worker(workspace, number)
    )
    return requests


def test_a_run(tmp_path: Path, asked: list[tuple[str, float]]) -> None:
    card = run(options(tmp_path))
    assert len(asked) == 2 * 5 * (1 + 2)
    assert {temperature for _, temperature in asked} == {0.0, 0.7}
    greedy = [row for row in card["rows"] if row["way"] == "greedy"]
    assert [row["model"] for row in greedy] == card["models"] == ["a", "b"]
    assert greedy[0]["measures"]["form_followed"]["n"] == card["constraints"] - 1 == 5
    assert greedy[0]["measures"]["form_followed"]["value"] == 3 / 5  # no comma, not the word, lowercase
    assert greedy[1]["measures"]["stops_by_itself"]["value"] == 0.0
    assert greedy[1]["against_first"]["stops_by_itself"]["value"] == -1.0
    assert "against_first" not in greedy[0]
    folder = tmp_path / "side_by_side"
    rows = [json.loads(line) for line in (folder / "side_by_side.jsonl").read_text(encoding="utf-8").split("\n")[:-1]]
    assert [row["id"] for row in rows] == ["1", "2", "3", "4", "5"]
    assert [len(rows[0]["answers"]["a"][way]) for way in ("greedy", "sampled")] == [1, 2]
    assert rows[0]["answers"]["a"]["greedy"][0]["follows"] == [True]
    samples = {one["text"] for row in rows for one in row["answers"]["a"]["sampled"]}
    assert len(samples) > 2, "samples were meant to differ"
    assert json.loads((folder / "side_by_side.json").read_text(encoding="utf-8")) == card


def test_a_prompt_that_is_too_long_for_a_model_is_missing_and_named(
    tmp_path: Path, asked: list[tuple[str, float]], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """b lacks two answers, and both models a third: what is compared is what both have."""
    whole = run(options(tmp_path / "whole"))
    starts = [
        json.loads(line)["prompt"][:40]
        for line in (tmp_path / "whole/side_by_side/side_by_side.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    ]
    monkeypatch.setitem(unanswered, "a", (starts[4],))
    monkeypatch.setitem(unanswered, "b", (starts[0], starts[1], starts[4]))
    card = run(options(tmp_path))
    rows = {(row["model"], row["way"]): row for row in card["rows"]}
    assert [rows[name, "greedy"]["measures"]["characters"]["n"] for name in "ab"] == [4, 2]
    assert [rows[name, "sampled"]["measures"]["characters"]["n"] for name in "ab"] == [8, 4]
    assert rows["b", "greedy"]["against_first"]["characters"]["n"] == 2
    gap = rows["b", "greedy"]["against_first"]["characters"]["value"]
    assert gap == next(r for r in whole["rows"] if r["model"] == "b")["against_first"]["characters"]["value"]
    told = capfd.readouterr().err
    assert "greedy answers: prompts without an answer: 3 too long (1 (" in told
    assert "engine.max_model_len" in told
    assert "Without an answer: greedy (answers): 3 too long" in told
    page = (tmp_path / "side_by_side/side_by_side.html").read_text(encoding="utf-8")
    assert page.count('<p class="quiet">no answer</p>') == 4


def test_it_goes_on_and_takes_in_new_models(tmp_path: Path, asked: list[tuple[str, float]]) -> None:
    run(options(tmp_path))
    asked.clear()
    run(options(tmp_path))
    assert asked == []
    card = run(options(tmp_path, models=["a", "b", "c"]))
    assert {name for name, _ in asked} == {"c"}
    assert card["models"] == ["a", "b", "c"]
    with pytest.raises(RunFolderError, match="samples was 2, now 3"):
        run(options(tmp_path, samples=3))


def test_the_page_is_harmless(tmp_path: Path, asked: list[tuple[str, float]]) -> None:
    run(options(tmp_path))
    page = (tmp_path / "side_by_side/side_by_side.html").read_text(encoding="utf-8")
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    styles = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    assert policy
    for style in styles:
        digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
        assert f"sha256-{digest}" in policy[1].replace("&#43;", "+").replace("&#39;", "'")
    assert len(styles) == 2
    assert policy[1].startswith("default-src &#39;none&#39;; style-src ")
    for tag in ("<script", "<img", " style=", " onerror=", "http:", "https:"):
        inside = page.replace("onerror=alert(2)", "")  # as text
        assert tag not in inside, tag
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "{{ 7 * 7 }}" in page
    assert not re.search("[\x00-\x08\x0b-\x1f\u2028\u202e]", page)
    assert "[U+202E]" in page


def test_the_terminal_shows_texts_as_they_are(tmp_path: Path, asked: list[tuple[str, float]]) -> None:
    card = run(options(tmp_path))
    rows = [
        json.loads(line)
        for line in (tmp_path / "side_by_side/side_by_side.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    ]
    told = io.StringIO()
    show(card, rows, 2, Console(file=told, width=160, highlight=False))
    assert "[bold]x[/bold]" in told.getvalue()
    assert "\x1b" not in told.getvalue()
    assert told.getvalue().count("follows 1 of 1") >= 1
    assert "form instructions followed, % of 5" in told.getvalue()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"models": ["a", "a"]}, r"models=\[a,a\] names a model twice"),
        ({"samples": -1}, r"samples=-1 cannot work"),
        ({"num_shown": -1}, r"num_shown=-1 cannot work"),
        ({"limit": -1}, r"limit=-1 cannot work"),
        ({"models": ["endpoint"]}, r"needs endpoint\.base_url and endpoint\.model"),
    ],
)
def test_what_cannot_be_asked(given: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        Plan(Workspace(tmp_path), options(tmp_path, **given))


def test_samples_need_chance(tmp_path: Path) -> None:
    cold = options(tmp_path)
    cold.evaluation.temperature = 0.0
    with pytest.raises(ConfigError, match=r"samples=1 or more with evaluation\.temperature=0"):
        Plan(Workspace(tmp_path), cold)
    cold.samples = 0
    assert list(Plan(Workspace(tmp_path), cold).answers["a"]) == ["greedy"]


def test_two_runs_of_one_name_keep_their_places(tmp_path: Path) -> None:
    models = ["one/default/iteration_1", "two/default/iteration_1"]
    assert Plan(Workspace(tmp_path), options(tmp_path, models=models)).names == models
    assert Plan(Workspace(tmp_path), options(tmp_path, models=models[:1])).names == ["default M1"]


def test_a_runs_models_by_their_folders(own_run: Path, tiny_checkpoint: Path) -> None:
    """M_0 lies outside of the run; a model that is not there yet is named."""
    assert resolve(ModelConfig(name=str(own_run / "iteration_0"))) == tiny_checkpoint.resolve()
    assert resolve(ModelConfig(name=str(own_run / "iteration_2"))) == (own_run / "iteration_2/model").resolve()
    assert label(str(own_run / "iteration_0")) == "rivers M0"
    (own_run / "iteration_3").mkdir()
    with pytest.raises(ModelError, match=r"iteration_3: this run has no M3: .*model is not there"):
        resolve(ModelConfig(name=str(own_run / "iteration_3")))
    Workspace(own_run).run_path.write_text("{}")
    with pytest.raises(ModelError, match=r"this run has no M0 yet"):
        resolve(ModelConfig(name=str(own_run / "iteration_0")))
    Workspace(own_run).run_path.unlink()
    with pytest.raises(ModelError, match=r"holds no config\.json"):  # no run's folder: as any other
        resolve(ModelConfig(name=str(own_run / "iteration_2")))
