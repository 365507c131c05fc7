"""Plots of judge metrics, one for each dataset, and of the arms of sweeps, as PNG and SVG."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from srlm.evaluation.judge_metrics import parsed
from srlm.evaluation.record import measures_of
from srlm.metrics import metric

COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#000000",
)  # Okabe and Ito's colour-blind-safe palette
_ACCURACIES = (
    "pairwise_accuracy_imputed",
    "accuracy_longer_preferred",
    "accuracy_shorter_preferred",
    "length_balanced_accuracy",
)
_GREY = "#666666"
_LINES = ("--", ":", "-.")
_STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "srlm",
    "svg.fonttype": "none",
}

Results = dict[str, Any]


def plot_judges(results: Sequence[Results], names: Sequence[str], title: str, path: Path) -> list[Path]:
    """Plot the accuracy, the scores and the calibration of judges on one dataset.

    Parameters
    ----------
    results : sequence of dict
        Results of `srlm.evaluation.judge_metrics.judge_metrics`, one per judge.
    names : sequence of str
        Labels of the judges.
    path : Path
        Path without its extension; ".png" and ".svg" are written, and their paths returned.
    """
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(12, 3.6 + 0.18 * max(0, len(results) - 4)), layout="constrained")
        right, scores, ranks = figure.subplots(1, 3, width_ratios=(5, 4, 3))
        _accuracies(right, results)
        _histogram(scores, results)
        _calibration(ranks, results)
        baseline = Line2D([], [], color=_GREY, linewidth=1.5)
        _legend(
            figure,
            [*map(_handle, range(len(results))), baseline],
            [*names, metric("judge/length_baseline_accuracy").label],
            title,
        )
        return _save(figure, path)


def plot_attacks(results: Sequence[Results], names: Sequence[str], title: str, path: Path) -> list[Path]:
    """Plot the change of the score by each attack, from what `srlm.evaluation.attacks.attack_results` returns."""
    attacks = [name for name in results[0] if name != "plain"]
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(8, 1.4 + 0.3 * len(attacks)), layout="constrained")
        axes = figure.subplots()
        for index, result in enumerate(results):
            rows = [(row, result[name]["change"]) for row, name in enumerate(attacks)]
            _points(axes, rows, index, len(results), upright=False)
        axes.axvline(0, color=_GREY, linewidth=1)
        axes.set_yticks(range(len(attacks)), attacks)
        axes.invert_yaxis()
        axes.set_xlabel(metric("attacks/change").heading)
        axes.grid(axis="x", alpha=0.3)
        for row, name in enumerate(attacks):
            if all(result[name]["change"]["value"] is None for result in results):
                axes.annotate(
                    metric("attacks/unparsed_fraction").label,
                    (0, row),
                    (6, 0),
                    textcoords="offset points",
                    va="center",
                    color=_GREY,
                )
        _legend(figure, [*map(_handle, range(len(results)))], names, title)
        return _save(figure, path)


def plot_arms(results: Results, titles: Sequence[str], path: Path) -> list[Path]:
    """Plot the arms of a sweep: colours show the first option, positions on the axis show the others.

    Each measure has a panel of values, and a panel below it with the differences to the arm's reference. Differences
    are paired, so they can be significant although the arms' intervals overlap. A point is the mean of an arm's runs
    with its 95 % interval; small dots are single runs. A model without a run, such as M0, is a horizontal line.

    Parameters
    ----------
    results : dict
        Result of `srlm.cli.evaluate.arms.arms_results`.
    titles : sequence of str
        Titles of the panels, one for each measure.
    path : Path
        Path without its extension; ".png" and ".svg" are written, and their paths returned.
    """
    layout = _Arms(results)
    kinds = ("value", "against") if any(arm["reference"] is not None for arm in results["arms"]) else ("value",)
    columns = min(4, len(titles))
    rows = -(-len(titles) // columns) * len(kinds)
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(max(5.0, 3.3 * columns), 2.5 * rows + 0.9), layout="constrained")
        every = figure.subplots(rows, columns, squeeze=False)
        for axes in every.flatten():
            axes.set_visible(False)
        for number, (row, words) in enumerate(zip(results["measures"], titles, strict=True)):
            for below, kind in enumerate(kinds):
                axes = every[number // columns * len(kinds) + below, number % columns]
                axes.set_visible(True)
                layout.draw(axes, row["arms"], kind, metric(row["measure"], "evaluate").scale)
                title = words if kind == "value" else f"difference to {layout.references}"
                axes.set_title(_plain("\n".join(textwrap.wrap(title, 38))), loc="left", fontsize=9)
        _legend(figure, *layout.legend(), f"By {', '.join(results['by'])}")
        return _save(figure, path)


class _Arms:
    """Layout of the arms: their positions on the axis and their colours."""

    def __init__(self, results: Results):
        self.values = [list(arm["options"].values()) for arm in results["arms"]]
        own = [of_arm for of_arm in self.values if of_arm]
        self.first = list(dict.fromkeys(of_arm[0] for of_arm in own))
        self.rest = list(dict.fromkeys(", ".join(of_arm[1:]) for of_arm in own))
        self.alone = self.rest == [""]  # a single option: its values are on the axis, in one colour
        self.across = [arm["name"] for arm in results["arms"] if not arm["options"]]
        self.axis = ", ".join(results["by"] if self.alone else results["by"][1:])
        references = {arm["reference"] for arm in results["arms"] if arm["reference"] is not None}
        self.references = " or ".join(dict.fromkeys(self.values[place][0] for place in sorted(references)))

    def draw(self, axes: Axes, entries: Sequence[Results], kind: str, scale: float) -> None:
        shown = self.first if self.alone else self.rest
        of = 1 if self.alone else len(self.first)
        lines = [entry["value"]["value"] for entry, v in zip(entries, self.values, strict=True) if not v]
        for number, value in enumerate(lines if kind == "value" else [0.0]):
            if value is not None:
                style = _LINES[number % 3] if kind == "value" else "-"  # the legend is of the values
                axes.axhline(scale * value, color=_GREY, linewidth=1, linestyle=style)
        for entry, of_arm in zip(entries, self.values, strict=True):
            if not of_arm or entry[kind] is None:
                continue
            colour = 0 if self.alone else self.first.index(of_arm[0])
            place = shown.index(of_arm[0] if self.alone else ", ".join(of_arm[1:]))
            if kind == "value":
                at = place + (colour - (of - 1) / 2) * min(0.2, 0.7 / of) + 0.06
                single = [scale * one for one in entry["runs"] if one is not None]
                axes.plot(
                    [at] * len(single), single, ".", color=COLOURS[colour % len(COLOURS)], alpha=0.5, markersize=4
                )
            _points(axes, [(place, entry[kind])], colour, of, scale)
        axes.set_xticks(range(len(shown)), [_plain(name.replace(", ", "\n")) for name in shown], fontsize=8)
        axes.set_xlim(-0.5, len(shown) - 0.5)
        axes.set_xlabel(_plain(self.axis), fontsize=8)
        axes.grid(axis="y", alpha=0.3)

    def legend(self) -> tuple[list[Any], list[str]]:
        colours = [] if self.alone else self.first
        handles = [*map(_handle, range(len(colours)))]
        handles += [Line2D([], [], color=_GREY, linewidth=1, linestyle=_LINES[n % 3]) for n in range(len(self.across))]
        return handles, [*colours, *self.across]


def _accuracies(axes: Axes, results: Sequence[Results]) -> None:
    axes.axhline(50, color=_GREY, linewidth=1, linestyle=":")
    axes.annotate("chance", (1, 50), xycoords=("axes fraction", "data"), color=_GREY, fontsize=8, va="center")
    baseline = results[0]["measures"]["length_baseline_accuracy"]["value"]
    if baseline is not None:
        axes.plot([-0.4, 0.4], [100 * baseline] * 2, color=_GREY, linewidth=1.5)
    for number, result in enumerate(results):
        if not parsed(measures_of(result["measures"]))[0]:
            continue  # without a score, all accuracies are 0.5 by imputation
        rows = [(place, result["measures"][name]) for place, name in enumerate(_ACCURACIES)]
        _points(axes, rows, number, len(results), scale=100)
    labels = ["\n".join(textwrap.wrap(metric(f"judge/{name}").label, 12)) for name in _ACCURACIES]
    axes.set_xticks(range(len(_ACCURACIES)), labels)
    axes.set_xlim(-0.5, len(_ACCURACIES) - 0.5)
    axes.set_ylim(0, 100)
    axes.set_ylabel("accuracy, %")
    axes.set_title("Accuracy on pairs with different ranks", loc="left", fontsize=9)


def _histogram(axes: Axes, results: Sequence[Results]) -> None:
    for number, result in enumerate(results):
        counts = result["scores"]["histogram"]
        total = sum(counts.values())
        shares = [100 * count / total if total else 0 for count in counts.values()]
        width = 0.8 / len(results)
        places = [place - 0.4 + (number + 0.5) * width for place in range(len(counts))]
        axes.bar(places, shares, width=0.9 * width, color=COLOURS[number % len(COLOURS)])
    labels = list(results[0]["scores"]["histogram"])
    axes.set_xticks(range(len(labels)), labels)
    axes.set_xlabel("score, rounded")
    axes.set_ylabel("judgements, %")
    axes.set_title("Distribution of scores", loc="left", fontsize=9)


def _calibration(axes: Axes, results: Sequence[Results]) -> None:
    longest = 1
    for number, result in enumerate(results):
        rows = [(place, measure) for place, measure in enumerate(list(result["mean_score_rank"].values())[:4])]
        longest = max(longest, len(rows))
        _points(axes, rows, number, len(results), joined=True)
    axes.set_xticks(range(longest), ["best", *(f"{n}." for n in range(2, longest + 1))])
    axes.set_xlim(-0.5, longest - 0.5)
    axes.set_xlabel("rank")
    axes.set_ylabel("mean score")
    axes.set_title("Mean score by rank", loc="left", fontsize=9)


def _points(
    axes: Axes,
    rows: Sequence[tuple[int, Results]],
    number: int,
    of: int,
    scale: float = 1,
    joined: bool = False,
    upright: bool = True,
) -> None:
    """Draw values with their intervals; the `of` series are side by side around each position."""
    defined = [(position, m) for position, m in rows if m["value"] is not None]
    if not defined:
        return
    at = [position + (number - (of - 1) / 2) * min(0.2, 0.7 / of) for position, _ in defined]
    values = [scale * m["value"] for _, m in defined]
    # NaN draws no error bar; 0 would draw a bar of width 0.
    errors = [
        [math.nan if m[end] is None else scale * abs(m[end] - m["value"]) for _, m in defined]
        for end in ("low", "high")
    ]
    style: dict[str, Any] = {
        "color": COLOURS[number % len(COLOURS)],
        "marker": "os^Dv"[number % 5],
        "markersize": 5,
        "capsize": 2,
    }
    style["linestyle"] = "-" if joined else "none"
    if upright:
        axes.errorbar(at, values, yerr=errors, elinewidth=1.2, **style)
    else:
        axes.errorbar(values, at, xerr=errors, elinewidth=1.2, **style)


def _legend(figure: Figure, handles: Sequence[Any], names: Sequence[str], title: str) -> None:
    figure.legend(handles, [*map(_plain, names)], loc="outside lower center", ncols=min(len(names), 4), frameon=False)
    figure.suptitle(_plain(title), x=0.01, ha="left", fontsize=10, fontweight="bold")


def _plain(text: str) -> str:
    """Return a text with escaped dollar signs, which would otherwise begin a formula."""
    return text.replace("$", r"\$")


def _handle(number: int) -> Any:
    return Line2D([], [], color=COLOURS[number % len(COLOURS)], marker="os^Dv"[number % 5], linestyle="none")


def _save(figure: Figure, path: Path) -> list[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    paths = [path.with_name(f"{path.name}.{ending}") for ending in ("png", "svg")]
    figure.savefig(paths[0], dpi=150)
    figure.savefig(paths[1], metadata={"Date": None})
    return paths
