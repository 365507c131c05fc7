"""`srlm dashboard`: the project's workspace in W&B, as code.

Two saved views: one for single runs, with the 95 % intervals of what is measured, and one for sweeps, where runs are
grouped by W&B's group (a sweep's name) and each line is a group's mean with its standard deviation. Every metric is one
that `srlm.tracking.metrics` describes. `--dry-run FILE` writes both as JSON, and needs no account.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from srlm.config import TrackingConfig
from srlm.errors import SrlmError, TrackingError
from srlm.io.files import write_atomic
from srlm.io.progress import say
from srlm.tracking.metrics import TRAINERS, step_of, trainer_part


@dataclass(frozen=True)
class Panel:
    """One plot: metrics of one unit, against the step that they are logged with; of a measure with its interval."""

    title: str
    metrics: tuple[str, ...]
    interval: bool = False


BETTER = (
    Panel("Judge: pairwise accuracy, a coin where silent", ("judge/pairwise_accuracy_imputed",), True),
    Panel("Judge: gain in it over M_t-1", ("judge/pairwise_accuracy_imputed_gain",), True),
    Panel("Judge: Kendall's tau", ("judge/kendall_tau",), True),
    Panel("Judge: Spearman", ("judge/spearman",), True),
    Panel("Judge: exact match", ("judge/exact_match",), True),
    Panel("Judge: 5-best", ("judge/five_best",), True),
    Panel("Answers: wins minus losses against M_t-1", ("head_to_head/net_win",), True),
    Panel("Answers: wins, ties, losses", ("head_to_head/win", "head_to_head/tie", "head_to_head/loss")),
    Panel("Answers: length, characters", ("answers/mean_characters",), True),
    Panel("Answers: cut off", ("answers/truncated",), True),
)
TRUST = (
    Panel("Valid verdicts", ("judge/parse_rate", "feedback/judgement_valid_share")),
    Panel("Entropy of the scores, bits", ("judge_metrics/scores_entropy_bits", "feedback/score_entropy_bits")),
    Panel("Ties", ("judge/ties", "feedback/tie_share")),
    Panel("Top scores, commonest score", ("feedback/top_score_share", "judge/modal_score_fraction")),
    Panel("Chosen over rejected length", ("feedback/chosen_to_rejected_length",)),
    Panel("Length bias; 0 = none", ("judge/length_bias",), True),
    Panel(
        "Accuracy where shorter, longer is better",
        ("judge/accuracy_shorter_preferred", "judge/accuracy_longer_preferred"),
    ),
    Panel("Gap of chosen and rejected, points", ("feedback/gap_mean",)),
    Panel("Shown first wins; 0.5 = no bias", ("judge/first_position_win_rate", "head_to_head/first_position_win_rate")),
    Panel("Noise of a candidate's judgements, points", ("stage/pairs_signs_judge_noise", "judge/score_std")),
    Panel("Agreement with the judge before", ("stage/pairs_signs_agreement",)),
    Panel("Agreement of EFT with people", ("stage/eft_agreement_with_people",), True),
)
_TIMED = ("sft", "prompts", "candidates", "judgements", "dpo", "answers", "held_out_judgements", "head_to_head")
COST = (
    Panel("Seconds", tuple(f"stage/{stage}_seconds" for stage in _TIMED)),
    Panel("Tokens, generated or trained on", tuple(f"stage/{stage}_tokens" for stage in _TIMED)),
    Panel(
        "Prompt tokens of judging, and those from the prefix cache",
        ("stage/judgements_prompt_tokens", "stage/judgements_prompt_tokens_cached"),
    ),
    Panel("Prompts: accepted, rejected", ("feedback/prompts_accepted", "feedback/prompts_rejected")),
    Panel("Pairs", ("feedback/pairs",)),
)


def training_panels(iterations: int) -> list[Panel]:
    """SFT, and DPO of M_2 to M_`iterations`."""
    dpo = [trainer_part(TRAINERS[-1], t) for t in range(2, iterations + 1)]
    panels = [Panel(f"{part}: loss", (f"{part}/loss",)) for part in ("sft", *dpo)]
    for part in dpo:
        panels.append(Panel(f"{part}: rewards", (f"{part}/rewards_chosen", f"{part}/rewards_rejected")))
        panels.append(Panel(f"{part}: pairs in order", (f"{part}/rewards_accuracies",)))
    return panels + [Panel(f"{part}: gradient norm", (f"{part}/grad_norm",)) for part in ("sft", *dpo)]


def workspaces(entity: str, project: str, iterations: int) -> list[Any]:
    """The two views, as `wandb_workspaces.workspaces.Workspace`; nothing is sent.

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
        "Training": training_panels(iterations),
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
                # The stages' own small runs, which W&B's lineage graph is made of, have nothing to plot.
                runset_settings=ws.RunsetSettings(
                    filters="Metric('JobType') = 'loop'", groupby=[ws.Metric("Group")] if grouped else []
                ),
            )
        )
    return views


def _plot(panel: Panel, grouped: bool) -> Any:
    from wandb_workspaces.reports import v2 as reports

    bounds = [f"{name}_{end}" for name in panel.metrics for end in ("low", "high")]
    grouping = {"groupby_aggfunc": "mean", "groupby_rangefunc": "stddev"} if grouped else {}
    return reports.LinePlot(
        title=panel.title,
        x=step_of(panel.metrics[0]),
        y=[*panel.metrics, *(bounds if panel.interval and not grouped else [])],
        **grouping,
    )


def save(views: Sequence[Any]) -> None:
    """Send the views to W&B as new ones, and tell where they are.

    Raises
    ------
    TrackingError
        If no key is found, or the server refuses.
    """
    import wandb

    from srlm.tracking.wandb import key_is_found

    try:
        found = key_is_found()
    except wandb.Error as error:
        raise TrackingError(f"W&B's key cannot be used: {error}") from error
    if not found:
        raise TrackingError(
            "No W&B key is found: `wandb login`, or WANDB_API_KEY; or see the views with --dry-run FILE."
        )
    for view in views:
        try:
            view.entity = view.entity or wandb.Api().default_entity
            view.save()
        except (wandb.Error, OSError, RuntimeError, ValueError) as error:
            where = f"{view.entity or 'your account'}/{view.project}"
            raise TrackingError(f"W&B did not take the view {view.name!r} of {where}: {error}") from error
        say(f"{view.name}: {view.url}")


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    made = argparse.ArgumentParser("srlm dashboard", description="Build the W&B workspace of a project.")
    made.add_argument("--entity", default="", help="team or user; the account's default unless given")
    made.add_argument("--project", default=TrackingConfig.project, help="tracking.project (default: %(default)s)")
    made.add_argument(
        "--iterations", type=int, default=3, help="panels of training up to this M_t (default: %(default)s)"
    )
    made.add_argument("--dry-run", metavar="FILE", type=Path, help="write the views to FILE as JSON, send nothing")
    return made


def main(words: Sequence[str] | None = None) -> None:
    asked = parser().parse_args(words)
    try:
        views = workspaces(asked.entity, asked.project, asked.iterations)
        if asked.dry_run:
            specs = [
                {
                    "name": view.name,
                    "spec": view._to_model().spec.model_dump(by_alias=True, exclude_none=True, mode="json"),
                }
                for view in views
            ]
            write_atomic(asked.dry_run, json.dumps(specs, indent=1, ensure_ascii=False) + "\n")
            say(f"Both views are in {asked.dry_run}; nothing was sent.")
        else:
            save(views)
    except SrlmError as error:
        say(f"{type(error).__name__}: {error}")
        sys.exit(1)


if __name__ == "__main__":
    main()
