"""The report page's charts of measures by model: which metrics stand in which chart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from srlm.metrics import metric

_PERCENT = (0, 100)


@dataclass(frozen=True)
class Panel:
    """One chart: metrics of one unit, for M0, M1, ..., with their intervals.

    Parameters
    ----------
    domain : (low, high) or None
        Of the axis, in the unit that is shown; None = that of the values.
    line : float or None
        A value at which a dashed line is drawn, such as chance.
    """

    title: str
    about: str
    metrics: tuple[str, ...]
    domain: tuple[int, int] | None = None
    line: float | None = None

    def data(self) -> dict[str, Any]:
        """Return what the page's script needs."""
        shown = [metric(key) for key in self.metrics]
        labels = [[*key.split("/"), one.label] for key, one in zip(self.metrics, shown, strict=True)]
        share = shown[0].scale == 100
        found = {"title": self.title, "about": self.about, "metrics": labels, "share": share}
        return found | {"domain": self.domain, "line": self.line}


PANELS = (
    Panel(
        "Judge accuracy",
        "Held-out pairs that the judge orders as people do; dashed: chance.",
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
        "Of the judge's scores with people's ranks, within a prompt.",
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
        "Mean score by the run's own judge",
        "Of each model's candidates, points. A rise without more wins or a better judge hints at reward hacking.",
        ("feedback/score_mean",),
    ),
    Panel(
        "Instruction following",
        "Of verifiable instructions; no judge takes part.",
        (
            "instructions/inst_level_strict_acc",
            "ifeval/inst_level_strict_acc",
            "ifeval/prompt_level_strict_acc",
        ),
        _PERCENT,
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
        "Different n-grams as a share of all; longer answers have fewer.",
        ("drift/distinct_1", "drift/distinct_2", "drift/distinct_3"),
    ),
)
