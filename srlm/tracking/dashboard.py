"""`srlm dashboard`: create a W&B workspace for the project.

It saves two views. One is for single runs and plots measures with their 95 % intervals. The other is for sweeps: runs
are grouped by W&B's group (the sweep's name), and each line is a group's mean with its standard deviation. All metrics
are in srlm/metrics.py. `--dry-run FILE` writes both views as JSON and needs no account.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from srlm.errors import SrlmError, TrackingError
from srlm.io.files import write_atomic
from srlm.io.progress import say
from srlm.metrics import metric
from srlm.tracking.config import TrackingConfig
from srlm.tracking.metrics import ITERATION, step_of, trainer_part


@dataclass(frozen=True)
class Panel:
    """One plot of metrics with the same unit, against their step.

    Parameters
    ----------
    metrics : tuple of str
        Keys of srlm/metrics.py.
    interval : bool
        Whether to plot the 95 % interval.
    title : str
        "" = the metrics' labels.
    """

    metrics: tuple[str, ...]
    interval: bool = False
    title: str = ""


def _measure(key: str) -> Panel:
    return Panel((key,), True)


BETTER = (
    _measure("judge/pairwise_accuracy_imputed"),
    _measure("judge/pairwise_accuracy_imputed_gain"),
    _measure("judge/kendall_tau"),
    _measure("judge/spearman"),
    _measure("judge/exact_match"),
    _measure("judge/five_best"),
    _measure("head_to_head/net_win"),
    Panel(("head_to_head/win", "head_to_head/tie", "head_to_head/loss"), title="Wins, ties and losses against M_t-1"),
    _measure("answers/mean_characters"),
    _measure("answers/truncated"),
)
TRUST = (
    Panel(("judge/parse_rate", "alarms/parse_rate"), title="Parse rate"),
    Panel(("judge_metrics/scores_entropy_bits", "alarms/entropy_bits"), title="Entropy of the scores, bits"),
    Panel(("judge/ties", "alarms/tie_share"), title="Ties"),
    Panel(("alarms/top_score_share", "judge/modal_score_fraction"), title="Top score share, modal score fraction"),
    Panel(("alarms/length_ratio",)),
    _measure("judge/length_bias"),
    Panel(
        ("judge/accuracy_shorter_preferred", "judge/accuracy_longer_preferred"),
        title="Accuracy with shorter and with longer preferred",
    ),
    Panel(("alarms/mean_gap",)),
    Panel(
        ("judge/first_position_win_rate", "head_to_head/first_position_win_rate"),
        title="First-position win rate; 0.5 = no position bias",
    ),
    Panel(("alarms/judge_noise", "judge/score_std"), title="Judge noise, points"),
    Panel(("alarms/agreement",)),
    _measure("feedback/judge_accuracy"),
    Panel(
        ("feedback/pairs_confirmed", "feedback/pairs_contradicted"),
        title="Pairs that programs confirm and contradict",
    ),
    _measure("stage/eft_agreement_with_people"),
)
_TIMED = ("sft", "prompts", "candidates", "judgements", "dpo", "answers", "held_out_judgements", "head_to_head")
COST = (
    Panel(tuple(f"stage/{stage}_seconds" for stage in _TIMED), title="Seconds"),
    Panel(tuple(f"stage/{stage}_tokens" for stage in _TIMED), title="Tokens, generated or trained on"),
    Panel(
        ("stage/judgements_prompt_tokens", "stage/judgements_prompt_tokens_cached"),
        title="Prompt tokens of judging, all and cached",
    ),
    Panel(("feedback/prompts_accepted", "feedback/prompts_rejected"), title="Accepted and rejected prompts"),
    Panel(("feedback/pairs",)),
)


def training_panels(iterations: int, method: str = "dpo") -> list[Panel]:
    """Return the panels of SFT, and of the training of M_2 to M_`iterations`."""
    loop = [trainer_part(method, t) for t in range(2, iterations + 1)]
    keys: list[tuple[str, ...]] = [("sft/loss", "sft/loss_ift", "sft/loss_eft"), *((f"{part}/loss",) for part in loop)]
    for part in loop:
        keys += [(f"{part}/rewards_chosen", f"{part}/rewards_rejected"), (f"{part}/rewards_accuracies",)]
    keys += [(f"{part}/grad_norm",) for part in ("sft", *loop)]
    return [Panel(metrics, title=f"{metrics[0].split('/')[0]}: {_labels(metrics)}") for metrics in keys]


def _labels(metrics: Sequence[str]) -> str:
    return ", ".join(metric(key).label for key in metrics)


def workspaces(entity: str, project: str, iterations: int, method: str = "dpo") -> list[Any]:
    """Return the two views, as `wandb_workspaces.workspaces.Workspace`; nothing is sent.

    Raises
    ------
    TrackingError
        If the package is missing.
    """
    try:
        from wandb_workspaces import workspaces as ws
    except ImportError as error:
        raise TrackingError(f"{error}. pip install 'srlm[dashboard]'") from error
    sections = {
        "Does it get better?": BETTER,
        "Can the judge be trusted?": TRUST,
        "Training": training_panels(iterations, method),
        "Cost": COST,
    }
    views = []
    for name, grouped in (("srlm", False), ("srlm, sweeps", True)):
        views.append(
            ws.Workspace(
                entity=entity,
                project=project,
                name=name,
                sections=[
                    ws.Section(name=title, panels=[_plot(panel, grouped) for panel in panels], is_open=True)
                    for title, panels in sections.items()
                ],
                runset_settings=ws.RunsetSettings(groupby=[ws.Metric("Group")] if grouped else []),
            )
        )
    return views


def _plot(panel: Panel, grouped: bool) -> Any:
    from wandb_workspaces.reports import v2 as reports

    bounds = [f"{name}_{end}" for name in panel.metrics for end in ("low", "high")]
    grouping = {"groupby_aggfunc": "mean", "groupby_rangefunc": "stddev"} if grouped else {}
    trained = step_of(panel.metrics[0]) != ITERATION
    smoothing = {"smoothing_factor": 0.8, "smoothing_type": "exponentialTimeWeighted", "smoothing_show_original": True}
    return reports.LinePlot(
        title=panel.title or _labels(panel.metrics),
        x=step_of(panel.metrics[0]),
        y=[*panel.metrics, *(bounds if panel.interval and not grouped else [])],
        **grouping,
        **(smoothing if trained else {}),
    )


def save(views: Sequence[Any]) -> None:
    """Save the views in W&B as new ones and print their addresses.

    Raises
    ------
    TrackingError
        If no key is found, or the server refuses.
    """
    import wandb

    try:
        has_key = wandb.login(prompt=False, verify=False)
    except wandb.Error as error:
        raise TrackingError(f"W&B's key cannot be used: {error}") from error
    if not has_key:
        raise TrackingError(
            "No W&B key was found. Run `wandb login` or set WANDB_API_KEY, or write the views with --dry-run FILE."
        )
    for view in views:
        try:
            view.entity = view.entity or wandb.Api().default_entity
            view.save()
        except (wandb.Error, OSError, RuntimeError, ValueError) as error:
            where = f"{view.entity or 'your account'}/{view.project}"
            raise TrackingError(f"W&B refused the view {view.name!r} of {where}: {error}") from error
        say(f"{view.name}: {view.url}")


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command's options."""
    options = argparse.ArgumentParser("srlm dashboard", description="Create the W&B workspace of a project.")
    options.add_argument("--entity", default="", help="team or user (default: the account's)")
    options.add_argument("--project", default=TrackingConfig.project, help="tracking.project (default: %(default)s)")
    options.add_argument(
        "--iterations", type=int, default=3, help="show training panels up to this M_t (default: %(default)s)"
    )
    options.add_argument("--method", default="dpo", help="what trains M_t+1 (default: %(default)s)")
    options.add_argument("--dry-run", metavar="FILE", type=Path, help="write the views to FILE as JSON, send nothing")
    return options


def main(words: Sequence[str] | None = None) -> None:
    asked = parser().parse_args(words)
    try:
        views = workspaces(asked.entity, asked.project, asked.iterations, asked.method)
        if asked.dry_run:
            specs = [
                {
                    "name": view.name,
                    "spec": view._to_model().spec.model_dump(by_alias=True, exclude_none=True, mode="json"),
                }
                for view in views
            ]
            write_atomic(asked.dry_run, json.dumps(specs, indent=1, ensure_ascii=False) + "\n")
            say(f"Both views were written to {asked.dry_run}; nothing was sent.")
        else:
            save(views)
    except SrlmError as error:
        say(f"{type(error).__name__}: {error}")
        sys.exit(1)


if __name__ == "__main__":
    main()
