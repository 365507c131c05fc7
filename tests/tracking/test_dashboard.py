"""The W&B workspace: all its metrics are described, and errors name what is missing."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb

from srlm.metrics import family_of
from srlm.tracking import dashboard
from srlm.tracking.metrics import step_of


@pytest.fixture
def views(tmp_path: Path) -> list[dict[str, Any]]:
    file = tmp_path / "views.json"
    dashboard.main(["--entity", "team", "--project", "mine", "--iterations", "4", "--dry-run", str(file)])
    return list(json.loads(file.read_text(encoding="utf-8")))


def plots(view: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for section in view["spec"]["section"]["panelBankConfig"]["sections"]:
        for panel in section["panels"]:
            yield panel["config"]


def test_both_views_have_the_same_sections(views: list[dict[str, Any]]) -> None:
    assert [view["name"] for view in views] == ["srlm", "srlm, sweeps"]
    for view in views:
        sections = view["spec"]["section"]["panelBankConfig"]["sections"]
        names = [section["name"] for section in sections]
        assert names == ["Does it get better?", "Can the judge be trusted?", "Training", "Cost"]
        assert all(section["panels"] and section["isOpen"] for section in sections)


def test_every_metric_is_described_and_plotted_against_its_step(views: list[dict[str, Any]]) -> None:
    seen = set()
    for view in views:
        for plot in plots(view):
            for name in plot["metrics"]:
                assert family_of(name), name
                assert plot["xAxis"] == step_of(name), name
                seen.add(name)
    assert {"judge/pairwise_accuracy_imputed_low", "head_to_head/net_win", "sft/loss", "dpo_4/loss"} <= seen
    assert "dpo_5/loss" not in seen


def test_losses_are_smoothed_and_measures_are_not(views: list[dict[str, Any]]) -> None:
    smoothed = {plot["metrics"][0]: plot.get("smoothingWeight") for plot in plots(views[0])}
    assert smoothed["sft/loss"] == smoothed["dpo_2/loss"] == 0.8
    assert smoothed["judge/kendall_tau"] is None
    assert {"sft/loss", "sft/loss_ift", "sft/loss_eft"} in [set(plot["metrics"]) for plot in plots(views[0])]


def test_spec_names_only_described_metrics(views: list[dict[str, Any]]) -> None:
    """Every string PART/NAME in the JSON is a described metric."""

    def strings(value: Any) -> Iterator[str]:
        if isinstance(value, dict | list):
            for inner in value.values() if isinstance(value, dict) else value:
                yield from strings(inner)
        elif isinstance(value, str):
            yield value

    names = {text for text in strings(views) if "/" in text and " " not in text}
    assert len(names) > 60
    assert not [name for name in names if family_of(name) is None]


def test_runs_have_intervals_and_sweeps_are_grouped(views: list[dict[str, Any]]) -> None:
    runs, sweeps = views
    first, grouped = next(plots(runs)), next(plots(sweeps))
    name = "judge/pairwise_accuracy_imputed"
    assert first["metrics"] == [name, f"{name}_low", f"{name}_high"]
    assert "groupAgg" not in first
    assert grouped["metrics"] == [name]
    assert (grouped["groupAgg"], grouped["groupArea"]) == ("mean", "stddev")
    (run_set,), (sweep_set,) = (view["spec"]["section"]["runSets"] for view in views)
    assert run_set["grouping"] == []
    assert sweep_set["grouping"] == [{"section": "run", "name": "group"}]


@pytest.fixture
def messages_to_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[str]]:
    messages: list[str] = []
    monkeypatch.setattr(dashboard, "say", messages.append)
    for variable in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    wandb.teardown()
    yield messages
    wandb.teardown()


def test_missing_package_is_an_error(
    messages_to_user: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    with pytest.raises(SystemExit) as ended:
        dashboard.main(["--dry-run", str(tmp_path / "views.json")])
    assert ended.value.code == 1
    assert "pip install 'srlm[dashboard]'" in messages_to_user[0]
    assert not (tmp_path / "views.json").exists()


@pytest.mark.parametrize(
    ("key", "message"), [("", "No W&B key was found. Run `wandb login`"), ("short", "W&B's key cannot be used")]
)
def test_missing_or_invalid_key_is_an_error(
    key: str, message: str, messages_to_user: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if key:
        monkeypatch.setenv("WANDB_API_KEY", key)
    with pytest.raises(SystemExit):
        dashboard.main([])
    (line,) = messages_to_user
    assert line.startswith(f"TrackingError: {message}")


def test_server_error_is_reported(messages_to_user: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from wandb_workspaces.workspaces import Workspace

    def refuse(view: Workspace) -> None:
        raise wandb.errors.CommError("project not found")

    monkeypatch.setattr(Workspace, "save", refuse)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    with pytest.raises(SystemExit):
        dashboard.main(["--entity", "team", "--project", "mine"])
    assert messages_to_user == ["TrackingError: W&B refused the view 'srlm' of team/mine: project not found"]


def test_both_views_are_saved(messages_to_user: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from wandb_workspaces.workspaces import Workspace

    saved: list[str] = []
    monkeypatch.setattr(Workspace, "save", lambda view: saved.append(f"{view.entity}/{view.project}/{view.name}"))
    monkeypatch.setattr(Workspace, "url", "https://example.org/view")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    dashboard.main(["--entity", "team"])
    assert saved == ["team/srlm/srlm", "team/srlm/srlm, sweeps"]
    assert messages_to_user == ["srlm: https://example.org/view", "srlm, sweeps: https://example.org/view"]
