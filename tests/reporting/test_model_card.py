"""srlm.reporting.model_card.

The content of a model card, its escaping, and that changed cards do not affect a run.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from srlm.evaluation.record import read_evaluation
from srlm.pipeline.run_reader import open_run
from srlm.pipeline.workspace import CARD
from srlm.recipes import find_recipe
from srlm.recipes.runner import Runner
from srlm.reporting.model_card import model_card, plain, shown, write_card
from srlm.tracking.base import NoTracker
from tests.finished_run import NASTY


def card(run: Path, t: int, place: str = "") -> ModelCard:
    workspace = open_run(run)
    return ModelCard(model_card(workspace, workspace.config(), t, place))


def with_measures(run: Path, t: int, **parts: Any) -> None:
    path = run / f"iteration_{t}/evaluation.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | parts))


def with_licence(run: Path, **licence: str) -> None:
    path = run / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_licence": licence}))


def section(text: str, title: str) -> str:
    return text.split(f"## {title}\n")[1].split("\n## ")[0]


def test_metadata_have_the_fields_of_the_hub(finished_run):
    data = card(finished_run, 2).data
    assert (data.library_name, data.pipeline_tag, data.license) == ("transformers", "text-generation", "unknown")
    assert data.language == ["en"]
    assert data.base_model is None  # tiny-random is not on the Hub
    assert {"self-rewarding", "dpo"} <= set(data.tags)
    assert "dpo" not in card(finished_run, 1).data.tags
    measures = json.loads((finished_run / "iteration_2/evaluation.json").read_text())
    assert data.model_name == "rivers-M2"
    found = {result.metric_type: result.metric_value for result in data.eval_results}
    accuracy = measures["judge"]["pairwise_accuracy"]
    assert found["pairwise_accuracy"] == f"{accuracy['value']:.4g} [{accuracy['low']:.4g}, {accuracy['high']:.4g}]"
    assert found["loss"] == "0 [0, 0.6024]"


def test_metadata_exclude_undefined_measures(own_run):
    path = own_run / "iteration_2/evaluation.json"
    judge = json.loads(path.read_text())["judge"]
    with_measures(own_run, 2, judge=judge | {"spearman": {"value": None, "low": None, "high": None, "n": 0}})
    found = {result.metric_type for result in card(own_run, 2).data.eval_results}
    assert "kendall_tau" in found
    assert "spearman" not in found


def test_every_measure_is_listed_or_marked_undefined(finished_run):
    measures = [one for _, one in read_evaluation(finished_run / "iteration_2/evaluation.json").measures()]
    expected = section(card(finished_run, 2).text, "Measures")
    rows = [line for line in expected.splitlines() if line.startswith("| ") and not line.startswith("| ---")]
    heads = [row for row in rows if row.endswith("| | n |")]
    defined = [measure for measure in measures if measure.value is not None]
    assert len(rows) - len(heads) == len(defined) > 40
    undefined = sum(len(line.split(";")) for line in expected.splitlines() if line.startswith("Undefined"))
    assert undefined == len(measures) - len(defined) > 0
    assert "| length, characters | 100 [n/a] | 4 |" in expected
    assert "(judged by M1)" in expected


def test_measures_have_table_labels_and_unknown_names_are_escaped(own_run):
    measure = {"value": 0.25, "low": 0.125, "high": 0.5, "n": 8}
    undefined = measure | {"value": None, "low": None, "high": None}
    types = {"types": {"role play": {"win": measure}}}
    with_measures(own_run, 2, head_to_heads={"0": {"win": measure} | types, "1": {"win": undefined}})
    with_measures(own_run, 2, drift={"kl_to_base": measure, NASTY: measure})
    text = card(own_run, 2).text
    assert "| wins, against M0, % | 25 [12,50] | 8 |" in text
    assert "| wins, against M0, role play, % | 25 [12,50] | 8 |" in text
    assert "Undefined: wins, against M1." in text
    assert "| kl to base | 0.25 [0.12,0.50] | 8 |" in text
    assert "<script>" not in text


def test_lineage_has_counts_and_hashes_of_the_manifests(finished_run):
    text = section(card(finished_run, 2).text, "Lineage")
    pairs = json.loads((finished_run / "iteration_2/manifests/pairs.json").read_text())
    assert f"iteration_2/4_pairs.jsonl ({pairs['outputs']['iteration_2/4_pairs.jsonl'][:12]})" in text
    stages = re.findall(r"^\| (\S+/\S+) \|", text, re.MULTILINE)
    names = [stage.split("/")[1] for stage in stages]
    made = ["data", "base_model", "eft", "sft", "prompts", "candidates", "judgements", "pairs", "dpo"]
    assert names == made
    assert "attempts 4, accepted 3, rejected 1" in text
    first = section(card(finished_run, 1).text, "Lineage")
    assert "iteration_2" not in first


def test_card_lists_alarms_options_and_limits(finished_run):
    text = card(finished_run, 2).text
    assert "- mean score gap: 1, below alarms.mean_gap.threshold=4.5." in section(text, "Alarms")
    assert "| dpo.beta | 0.1 |" in section(text, "Options")
    assert "| judge.scorer | logprob_weighted |" in section(text, "Options")
    limits = section(text, "Limits")
    assert "M1 judged the answers that this model was trained on." in limits
    assert re.search(r"Chosen answers were \d\.\d\d times as long as rejected ones", limits)
    assert "from 156 pairs of ranked answers and 4 prompts" in limits
    assert "M1 is trained without pairs" in section(card(finished_run, 1).text, "Alarms")
    assert "times as long" not in section(card(finished_run, 1).text, "Limits")


def test_licence_is_that_of_the_base_model_or_unknown(own_run):
    unknown = card(own_run, 2)
    assert unknown.data.license == "unknown"
    assert "is unknown" in section(unknown.text, "Licence")
    assert "IFT builtin (CC0-1.0)" in section(unknown.text, "Licence")
    with_licence(own_run, license="other", license_name="rivers<b>-1", license_link="https://example.org/x")
    stated = card(own_run, 2)
    assert (stated.data.license, stated.data.license_name) == ("other", "rivers<b>-1")
    assert "is other, rivers&lt;b&gt;-1, https&#58;//example.org/x." in section(stated.text, "Licence")


@pytest.mark.parametrize("given", ["hub:owner/seeds", "hub:owner/seeds:main[train]"])
def test_hub_datasets_and_models_are_named(own_run, given):
    path = own_run / "config.yaml"
    text = path.read_text().replace("path: builtin", f"path: {given}", 1)
    path.write_text(text.replace("name: tiny-random", "name: owner/base-model"))
    found = card(own_run, 2)
    assert found.data.base_model == "owner/base-model"
    assert found.data.datasets == ["owner/seeds"]
    assert "IFT hub:owner/seeds (licence unknown)" in section(found.text, "Licence")


def test_card_contains_no_local_paths(own_run):
    path = own_run / "config.yaml"
    text = path.read_text().replace("path: builtin", "path: /home/me/secret/ift.jsonl", 1)
    path.write_text(text.replace("name: tiny-random", "name: /home/me/secret/base"))
    found = card(own_run, 2)
    assert "IFT ift.jsonl" in found.text
    assert "of base (M0)" in found.text
    assert not re.search(r"/home|secret|" + re.escape(str(own_run.parent)), str(found))


def test_loading_example_runs(finished_run, monkeypatch):
    """The example runs unchanged in the folder of the card."""
    text = (finished_run / "iteration_2/model" / CARD).read_text(encoding="utf-8")
    [code] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    monkeypatch.chdir(finished_run / "iteration_2/model")
    names: dict[str, Any] = {}
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(code, names)
    assert names["output"].shape[1] > names["inputs"]["input_ids"].shape[1]
    assert printed.getvalue().endswith("\n")
    assert 'name = "owner/name"  # on the Hub' in card(finished_run, 2, "owner/name").text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a_b snake_case 1.5 %, it's (so)", "a_b snake_case 1.5 %, it's (so)"),
        ("<b>&amp;", "&lt;b&gt;&amp;amp;"),
        ("a | b\n# c\x07\u2028d", "a \\| b \\# c  d"),
        ("[x](javascript:1) `y` *z* _w_", "\\[x\\](javascript:1) \\`y\\` \\*z\\* \\_w\\_"),
        ("see https://evil.example or WWW.evil.example", "see https&#58;//evil.example or WWW&#46;evil.example"),
    ],
)
def test_untrusted_text_is_escaped_in_markdown(text, expected):
    assert plain(text) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("/home/me/model", "model"),
        ("~/model", "model"),
        ("../data/ift.jsonl", "ift.jsonl"),
        ("C:\\Users\\me\\ift.jsonl", "ift.jsonl"),
        ("owner/model", "owner/model"),
        ("hub:owner/data", "hub:owner/data"),
        (0.5, "0.5"),
        (["en", "zh"], '["en", "zh"]'),
        ("x" * 200, "x" * 119 + "…"),
    ],
)
def test_local_paths_are_shown_by_their_last_part(value, expected):
    assert shown(value) == expected


def test_card_is_written_only_if_it_changed(own_run):
    workspace = open_run(own_run)
    path = own_run / "iteration_2/model" / CARD
    before = path.stat().st_mtime_ns
    write_card(workspace, workspace.config(), 2)
    assert path.stat().st_mtime_ns == before
    with_measures(own_run, 2, drift={"kl": {"value": 0.5, "low": 0.25, "high": 0.75, "n": 3}})
    write_card(workspace, workspace.config(), 2)
    assert "| kl | 0.50 [0.25,0.75] | 3 |" in path.read_text(encoding="utf-8")
    assert not list(path.parent.glob(".*"))


def test_resume_restores_missing_and_changed_cards(own_run):
    """Resuming a finished run starts no stage because of missing or changed cards."""
    workspace = open_run(own_run)
    cards = [own_run / f"iteration_{t}/model" / CARD for t in (1, 2)]
    text = [path.read_text(encoding="utf-8") for path in cards]
    cards[0].unlink()
    cards[1].write_text("changed by hand")
    (cards[1].parent / f".{CARD}.123.tmp").write_text("half of a ca")  # what a kill leaves
    others = [path for path in own_run.rglob("*") if path.is_file() and path.name != CARD]
    before = {path: path.stat().st_mtime_ns for path in others}
    runner = Runner(find_recipe("self_rewarding"), workspace, workspace.config(), NoTracker())
    runner.refuse_changes()
    runner.run()
    assert [path.read_text(encoding="utf-8") for path in cards] == text
    assert {path: path.stat().st_mtime_ns for path in others} == before
