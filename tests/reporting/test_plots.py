"""srlm.reporting.plots: plots of judge metrics, including judges without scores."""

from __future__ import annotations

import random

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from srlm.evaluation.attacks import ATTACKS, attack_results, attacked
from srlm.evaluation.judge_metrics import judge_metrics
from srlm.judges.config import SampledJudgeConfig
from srlm.reporting import plots
from srlm.reporting.plots import _points, plot_attacks, plot_judges
from tests.helpers import judgements_of, ranked


def results_of(seed: int, silent: bool = False, prompts: int = 12):
    number = random.Random(seed)
    rows = [ranked(f"e{n}", range(number.choice([2, 3]))) for n in range(prompts)]
    judgements = [
        judgement
        for row in rows
        for place in range(len(row.answers))
        for judgement in judgements_of(f"{row.id}/a{place}", [None if silent else float(number.randint(0, 5))])
    ]
    return judge_metrics(rows, judgements, SampledJudgeConfig(), 100, "s")


@pytest.mark.parametrize("count", [1, 2, 7])
def test_plot_is_written_as_png_and_svg(tmp_path, count):
    made = [results_of(n) for n in range(count)]
    names = [f"judge {n}" for n in range(count)]
    png, svg = plot_judges(made, names, "A data set: $3 a prompt & <more>", tmp_path / "plots" / "data.jsonl")
    assert png.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    text = svg.read_text(encoding="utf-8")
    assert text.lstrip().startswith("<?xml")
    for name in names:
        assert name in text
    assert "$3 a prompt &amp; &lt;more&gt;" in text  # neither mathtext nor markup
    assert "<dc:date>" not in text
    again = plot_judges(made, names, "A data set: $3 a prompt & <more>", tmp_path / "again" / "data.jsonl")
    assert [path.read_bytes() for path in again] == [png.read_bytes(), svg.read_bytes()]
    assert [path.name for path in again] == ["data.jsonl.png", "data.jsonl.svg"]


def test_judge_without_scores_can_be_plotted(tmp_path):
    png, _ = plot_judges([results_of(0, silent=True), results_of(1)], ["silent", "fine"], "t", tmp_path / "x")
    assert png.stat().st_size > 5000
    plot_judges([results_of(0, silent=True)], ["silent"], "t", tmp_path / "y")
    plot_judges([results_of(0, prompts=1)], ["one prompt, no interval"], "t", tmp_path / "z")


def test_accuracy_of_a_judge_without_scores_is_not_plotted(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        plots, "_points", lambda axes, rows, number, of, **rest: drawn.append((axes.get_title("left"), number))
    )
    monkeypatch.setattr(plots, "_histogram", lambda *given: None)
    monkeypatch.setattr(plots, "_calibration", lambda *given: None)
    plot_judges([results_of(0, silent=True), results_of(1)], ["silent", "fine"], "t", tmp_path / "x")
    assert [number for _, number in drawn] == [1]


def test_attack_plot_names_every_attack(tmp_path):
    rows = attacked([ranked(f"e{n}") for n in range(3)])
    last = len(ATTACKS)
    judgements = [
        judgement
        for row in rows
        for place in range(last + 1)
        for judgement in judgements_of(f"{row.id}/a{place}", [None if place == last else float(place % 6)])
    ]
    made = attack_results(rows, judgements, 100, "s")
    _, svg = plot_attacks([made, made], ["M0", "M1"], "What attacks buy", tmp_path / "attacks")
    text = svg.read_text(encoding="utf-8")
    assert all(name in text for name in ATTACKS)
    assert text.count("not scored") == 1


def points(axes: Axes, vertical: bool = True) -> list[float]:
    """Return the values that are drawn with markers, in the unit of the axis."""
    lines = [line for line in axes.lines if line.get_marker() not in ("None", "", None, "|", "_", 2, 3)]
    return [float(value) for line in lines for value in (line.get_ydata() if vertical else line.get_xdata())]


def test_accuracies_are_drawn_in_percent_with_chance_at_fifty() -> None:
    made = results_of(0)
    axes = Figure().subplots()
    plots._accuracies(axes, [made])
    [chance] = [line for line in axes.lines if line.get_linestyle() == ":"]
    assert list(chance.get_ydata()) == [50, 50]
    [text] = axes.texts
    assert text.get_text() == "chance"
    assert abs(text.get_position()[1] - 50) <= 6
    values = [made["measures"][name]["value"] for name in plots._ACCURACIES]
    assert points(axes) == pytest.approx([100 * value for value in values if value is not None])
    longer = 100 * made["measures"]["length_baseline_accuracy"]["value"]
    assert [longer, longer] in [pytest.approx(list(line.get_ydata())) for line in axes.lines]
    assert axes.get_ylabel().endswith("%")


def test_histogram_is_drawn_in_percent() -> None:
    made = results_of(0)
    axes = Figure().subplots()
    plots._histogram(axes, [made])
    counts = list(made["scores"]["histogram"].values())
    heights = [bar.get_height() for bar in axes.patches]
    assert heights == pytest.approx([100 * count / sum(counts) for count in counts])
    assert axes.get_ylabel().endswith("%")


def test_scores_and_changes_of_scores_are_drawn_in_points() -> None:
    made = results_of(0)
    axes = Figure().subplots()
    plots._calibration(axes, [made])
    means = [measure["value"] for measure in made["mean_score_rank"].values() if measure["value"] is not None]
    assert points(axes) == pytest.approx(means)
    assert axes.get_ylabel() == "mean score"


def test_arms_are_drawn_in_the_unit_of_their_panel() -> None:
    measure = {"value": 0.25, "low": 0.2, "high": 0.3}
    entries = [{"value": measure, "against": None, "runs": [0.2, 0.3]}]
    sweep = {"by": ["seed"], "arms": [{"name": "1", "options": {"seed": "1"}, "reference": None}]}
    axes = Figure().subplots()
    plots._Arms(sweep).draw(axes, entries, "value", 100)
    assert sorted(points(axes)) == pytest.approx([20, 25, 30])


def test_value_without_an_interval_has_no_error_bar() -> None:
    axes = Figure().subplots()
    rows = [(0, {"value": 0.5, "low": None, "high": None}), (1, {"value": 0.5, "low": 0.25, "high": 0.625})]
    _points(axes, rows, 0, 1, scale=100)
    [drawn] = axes.containers
    without, bar = drawn.lines[2][0].get_segments()
    assert np.isnan(without).any() or not len(without)
    assert bar[:, 1].tolist() == [25, 62.5]
    for caps in drawn.lines[1]:
        assert np.isfinite(np.asarray(caps.get_ydata(), dtype=float)).sum() == 1
