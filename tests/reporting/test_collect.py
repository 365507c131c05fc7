"""srlm.reporting.collect: the report's numbers are read from the run folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from srlm.errors import RunFolderError
from srlm.preferences.pairs import TRUNCATED
from srlm.reporting import write_report
from srlm.reporting.collect import CURVE_POINTS, collect, smoothed
from tests.reporting.made_run import make_run


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "made")


def test_funnel_counts_remaining_items_and_reasons_for_losses(root: Path) -> None:
    assert [(step["step"], step["count"], step["lost"]) for step in collect(root).charts()["funnel"]] == [
        ("generated prompts", 4, {}),
        ("accepted prompts", 3, {"keyword: map": 1}),
        ("with two scored candidates", 2, {}),
        ("pairs", 1, {"all scores equal": 1, TRUNCATED: 1}),
    ]


def test_histograms_exclude_missing_scores(root: Path) -> None:
    rows = [row for row in collect(root).charts()["histograms"] if row["of"] == "candidates of M1"]
    assert {row["score"]: row["count"] for row in rows} == {0: 0, 1: 1, 2: 0, 3: 3, 4: 0, 5: 1}
    assert sum(row["share"] for row in rows) == pytest.approx(1)


def test_curves_contain_logged_steps_without_the_summary_line(root: Path) -> None:
    assert [(row["what"], row["step"], row["value"]) for row in collect(root).charts()["curves"]] == [
        ("loss", 1, 2.0),
        ("loss", 2, 1.0),
    ]


def test_nan_loss_is_skipped_in_the_curve(tmp_path: Path) -> None:
    root = make_run(tmp_path / "made")
    (root / "iteration_1/sft_log.jsonl").write_text('{"loss": NaN, "step": 1}\n{"loss": 1.0, "step": 2}\n')
    assert [row["step"] for row in collect(root).charts()["curves"]] == [2]
    assert write_report([root], root / "report.html")


def test_long_curve_is_thinned(tmp_path: Path) -> None:
    root = make_run(tmp_path / "made")
    lines = "".join(json.dumps({"loss": 1.0, "step": step}) + "\n" for step in range(10 * CURVE_POINTS + 1))
    (root / "iteration_1/sft_log.jsonl").write_text(lines)
    rows = collect(root).charts()["curves"]
    assert CURVE_POINTS / 2 < len(rows) <= CURVE_POINTS
    assert rows[0]["step"] == 0


def test_ift_and_eft_losses_are_two_series_instead_of_their_mixture(tmp_path: Path) -> None:
    root = make_run(tmp_path / "made")
    log = [{"loss": 2.0, "loss_ift": 3.0, "loss_eft": 1.0, "step": 1}, {"loss": 0.5, "loss_eft": 0.5, "step": 2}]
    (root / "iteration_1/sft_log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    rows = collect(root).charts()["curves"]
    assert {row["what"] for row in rows} == {"loss"}
    assert [(row["of"], row["step"], row["value"]) for row in rows] == [
        ("IFT examples", 1, 3.0),
        ("EFT examples", 1, 1.0),
        ("EFT examples", 2, 0.5),
    ]


def test_curves_are_smoothed_over_a_tenth_of_their_steps() -> None:
    assert smoothed([1.0, 5.0]) == [1.0, 5.0]
    values = [float(n % 2) for n in range(40)]
    assert smoothed(values)[20] == pytest.approx(0.4)  # of 5 values
    assert smoothed(values)[0] == pytest.approx(1 / 3)
    assert smoothed([]) == []


def test_types_of_prompts_are_counted_by_the_answers_of_the_last_model(root: Path) -> None:
    assert collect(root).charts()["types"] == {"creative": 1}


def test_feedback_scores_belong_to_the_model_that_generated_the_candidates(root: Path) -> None:
    models = collect(root).charts()["models"]
    assert {
        t: model["feedback"]["score_mean"] and model["feedback"]["score_mean"]["value"] for t, model in models.items()
    } == {
        "0": None,
        "1": 3.0,
        "2": None,
    }


def test_triggered_alarms_name_the_judge(root: Path) -> None:
    alarms = collect(root).alarms
    assert list(alarms) == [2]
    assert any(line.startswith("M1 as judge: chosen to rejected length") for line in alarms[2])


def test_reported_options_contain_no_secrets_and_no_local_paths(tmp_path: Path) -> None:
    root = make_run(tmp_path / "made")
    text = (root / "config.yaml").read_text()
    text = text.replace("base_url: ''", "base_url: http://user:hunter2@host/v1").replace(
        "name: smollm2-135m-instruct", "name: /home/someone/models/mine"
    )
    (root / "config.yaml").write_text(text)
    reported = json.dumps(collect(root).options())
    assert "hunter2" not in reported
    assert "someone" not in reported
    assert str(tmp_path) not in reported
    assert collect(root).options()["model.name"] == "mine"


def test_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"is not a run: it has no config\.yaml or no run\.json"):
        collect(tmp_path)


def test_run_without_evaluated_models_is_refused(tmp_path: Path) -> None:
    root = make_run(tmp_path / "made")
    for t in range(3):
        (root / f"iteration_{t}/evaluation.json").unlink()
    with pytest.raises(RunFolderError, match="no model was evaluated yet"):
        collect(root)


def test_unknown_option_in_config_yaml_is_reported_and_ignored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_run(tmp_path / "made")
    before = collect(root).options()
    with (root / "config.yaml").open("a") as file:
        file.write("future_option: 1\n")
    assert collect(root).options() == before
    assert f"{root}/config.yaml: this version of srlm has no option future_option; ignored" in capsys.readouterr().err


def test_unknown_value_in_config_yaml_is_named(tmp_path: Path) -> None:
    root = make_run(tmp_path / "made")
    path = root / "config.yaml"
    path.write_text(path.read_text().replace("tracker: wandb", "tracker: telegraph"))
    with pytest.raises(RunFolderError, match=r"another version of srlm.*telegraph"):
        collect(root)


def test_damaged_record_is_named_with_its_line(tmp_path: Path) -> None:
    root = make_run(tmp_path / "made")
    path = root / "iteration_2/2_candidates.jsonl"
    path.write_text("{broken\n" + path.read_text())
    with pytest.raises(RunFolderError, match=r"2_candidates\.jsonl:1 is damaged"):
        collect(root).charts()
