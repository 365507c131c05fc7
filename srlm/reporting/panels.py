"""The charts of the report page: the metrics that each of them shows, by model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from srlm.metrics import PARTS, Metric, metric

_PERCENT = (0, 100)
DEFINED = (  # metrics of the charts that have no panel
    *(f"head_to_head/{name}" for name in ("win", "tie", "loss", "net_win", "length_controlled_win_rate")),
    *("judge_metrics/scores_histogram_0", "feedback/pairs", "stage/sft_seconds"),
)


@dataclass(frozen=True)
class Panel:
    """One chart: metrics with the same unit, for M0, M1, ..., with their intervals.

    Parameters
    ----------
    domain : (low, high) or None
        Range of the y-axis, in the displayed unit; None = range of the values.
    line : float or None
        Value of a dashed horizontal line, such as chance level.
    """

    title: str
    about: str
    metrics: tuple[str, ...]
    domain: tuple[int, int] | None = None
    line: float | None = None

    def data(self) -> dict[str, Any]:
        """Return the chart as data for the script of the page."""
        shown = [metric(key) for key in self.metrics]
        names = [row.label for row in shown]
        labels = [[*row.key.split("/"), _label(row, names), row.definition] for row in shown]
        share = shown[0].scale == 100
        texts = {"title": self.title, "about": self.about}
        return texts | {"metrics": labels, "share": share, "domain": self.domain, "line": self.line}


def _label(row: Metric, names: list[str]) -> str:
    """Return a metric's label; if another metric of the chart has it too, with the part of the metric."""
    return row.label if names.count(row.label) == 1 else f"{row.label}, {PARTS[row.part].rpartition(': ')[2]}"


PANELS = (
    Panel(
        "Instruction following",
        "Verifiable instructions that are followed; checked by programs, without a judge.",
        (
            "instructions/inst_level_strict_acc",
            "ifeval/inst_level_strict_acc",
            "ifeval/prompt_level_strict_acc",
        ),
        _PERCENT,
    ),
    Panel(
        "Judge accuracy",
        "Held-out pairs that the judge orders as they are ranked; dashed: chance.",
        (
            "judge/pairwise_accuracy_imputed",
            "judge/accuracy_shorter_preferred",
            "judge/accuracy_longer_preferred",
            "judge/length_baseline_accuracy",
        ),
        _PERCENT,
        0.5,
    ),
    Panel(
        "Rank correlation",
        "Correlation of the judge's scores with the ranks, averaged over prompts.",
        ("judge/spearman", "judge/kendall_tau"),
        line=0,
    ),
    Panel(
        "Judge health",
        "Held-out judgements: can they be parsed, and do they discriminate?",
        ("judge/parse_rate", "judge/modal_score_fraction", "judge/ties", "judge/first_position_win_rate"),
        _PERCENT,
    ),
    Panel(
        "Judge on own candidates",
        "Pairs of each model's candidates that the judge orders as programs do, and selected pairs; dashed: chance.",
        ("feedback/judge_accuracy", "feedback/pairs_confirmed", "feedback/pairs_contradicted"),
        _PERCENT,
        0.5,
    ),
    Panel(
        "Mean score by the run's own judge",
        "Mean score of each model's candidates, in points. A rise without more wins or a better judge suggests reward "
        "hacking.",
        ("feedback/score_mean",),
    ),
    Panel("Length of evaluation answers", "Characters. Longer is not better.", ("answers/mean_characters",)),
    Panel(
        "Format of evaluation answers",
        "Share of answers, on the same prompts for every model.",
        ("drift/bullets", "drift/numbered_lists", "drift/headings", "drift/bold", "drift/modal_opening"),
    ),
    Panel(
        "Defects of evaluation answers",
        "Measured without a judge.",
        ("answers/truncated", "drift/seq_rep_4", "drift/refusals", "drift/language_switches"),
    ),
    Panel(
        "Diversity of evaluation answers",
        "Distinct n-grams as a share of all n-grams; it falls with answer length.",
        ("drift/distinct_1", "drift/distinct_2", "drift/distinct_3"),
    ),
)
