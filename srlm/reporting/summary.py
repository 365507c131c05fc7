"""Terminal summary of a finished run: measures of M0..M_t, alarms, a prompt with its candidates, and file paths."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from srlm.config import Config
from srlm.engines.missing import missing_lines
from srlm.evaluation.behaviours import WORDS
from srlm.evaluation.feedback_checks import RESULTS, Accuracy, FeedbackChecks, checks_by_model
from srlm.evaluation.judge_metrics import judge_warning
from srlm.evaluation.measures import Measure, direction
from srlm.evaluation.record import Evaluation, Measures, evaluation_path, read_evaluation
from srlm.evaluation.reward_hacking import reward_hacking_report
from srlm.generation.own_answers import report
from srlm.generation.own_feedback import LEFT_OUT
from srlm.ids import parent
from srlm.io.progress import say, screen
from srlm.io.tables import Section, TableRow, cell, plain_text, print_table, sections_table
from srlm.judges.roles import feedback_judge
from srlm.metrics import PARTS, Metric, metric, slug
from srlm.models.conversation import dialogue
from srlm.pipeline.artifacts import CANDIDATES, JUDGEMENTS, LABELLED, PAIRS
from srlm.pipeline.manifest import stage_manifest
from srlm.pipeline.run_reader import next_command
from srlm.pipeline.workspace import Workspace
from srlm.preferences.alarms import triggered
from srlm.preferences.scores import mean_score
from srlm.reporting.behaviours import behaviour_lines
from srlm.reporting.controls import controls_line
from srlm.reporting.instructions import followed, print_changed
from srlm.training.early_stopping import outcome_lines
from srlm.types import Judgement, LabelledAnswer, PreferencePair

_FOLLOWED = ("prompt_level_strict_acc", "prompt_level_loose_acc", "inst_level_strict_acc", "inst_level_loose_acc")
ROWS = {  # part of evaluation.json -> its measures in the table of models
    "instructions": _FOLLOWED,
    "ifeval": _FOLLOWED,
    "judge": (
        "pairwise_accuracy",
        "pairwise_accuracy_imputed",
        "accuracy_shorter_preferred",
        "length_balanced_accuracy",
        "length_baseline_accuracy",
        "five_best",
        "exact_match",
        "spearman",
        "kendall_tau",
        "parse_rate",
        "pair_coverage",
        "modal_score_fraction",
    ),
    "answers": ("mean_characters", "truncated"),
    "head_to_head": ("win", "tie", "loss", "win_rate", "length_controlled_win_rate", "first_position_win_rate"),
}
_STYLES = {"chosen": "green", "desirable": "green", "rejected": "red", "undesirable": "red"}
OPTIONAL = ("judge", "instructions", "ifeval", "head_to_head")  # shown if a model has them


def print_summary(config: Config, workspace: Workspace, seconds: float) -> None:
    """Print the summary to the user's terminal."""
    console = screen()
    models = {t: read_evaluation(evaluation_path(workspace, t)) for t in range(config.iteration + 1)}
    counts = {t: pair_counts(workspace, t) for t in range(2, config.iteration + 1)}
    console.print()
    for line in judge_lines(models):
        console.print(line, style="bold", markup=False)
    print_table(console, measures_table(models, checks_by_model(counts)))
    checked = followed(workspace, config, models[max(models)])
    for line in [*([checked.sentence()] if checked else []), *verdict(models, workspace.is_base(1))]:
        console.print(line, style="bold", markup=False)
    if (controls := controls_line(config)) and checked:
        console.print(controls, markup=False)
    for line in behaviour_lines(models):
        console.print(line, markup=False)
    for line in [*own_answer_lines(workspace), *missing_lines(workspace.root)]:
        console.print(line, markup=False)
    if config.iteration >= 2:
        stopping = outcome_lines(workspace, config, config.iteration)
        for line in [
            *pair_lines(counts),
            *alarm_lines(config, workspace),
            *stopping,
            *reward_hacking_report(models, counts),
        ]:
            console.print(line, markup=False)
        console.print()
        print_sample(console, workspace, config.iteration)
        if checked:
            print_changed(console, checked)
    _print_paths(config, workspace, seconds)


def measures_table(models: Mapping[int, Evaluation], checks: Mapping[int, FeedbackChecks] | None = None) -> Table:
    """Return a table with M0, M1, ... as columns and every measure with its 95 % interval."""
    sections = table_rows(models, checks)
    return sections_table("Measures of every model (95 % intervals)", [f"M{t}" for t in models], sections)


def table_rows(models: Mapping[int, Evaluation], checks: Mapping[int, FeedbackChecks] | None = None) -> list[Section]:
    """Return the table of models as sections, one for each part of evaluation.json, and those of `checks_sections`."""
    table: list[Section] = []
    for part, names in ROWS.items():
        if part == "answers" and checks:  # after the judge's part
            table += checks_sections(models, checks)
        if part in OPTIONAL and not any(model.part(part) for model in models.values()):
            continue
        metrics = [metric(f"{part}/{name}") for name in names]
        rows = _without_repeated_loose(
            [
                (row, [cell(model.part(part).get(name), row.scale) for model in models.values()])
                for name, row in zip(names, metrics, strict=True)
            ]
        )
        judge = f", judged by {models[max(models)].head_to_head_judge or '?'}" if part == "head_to_head" else ""
        table.append((PARTS[part] + judge, rows))
    return table


def checks_sections(models: Iterable[int], checks: Mapping[int, FeedbackChecks]) -> list[Section]:
    """Return what programs find in each model's feedback: the judge's accuracy and the selected pairs, and kinds.

    Parameters
    ----------
    checks : t -> checks of M_t's candidates
    """
    found = [checks.get(t) for t in models]
    rows = {name: [getattr(one, name) if one else None for one in found] for name in ("judge_accuracy", *RESULTS)}
    kinds = sorted({kind for one in checks.values() for kind in one.judge_accuracy_kinds})
    of_kinds = {kind: [one.judge_accuracy_kinds.get(kind) if one else None for one in found] for kind in kinds}
    return [
        ("Judge: own candidates, checked by programs", [_checked(name, map(_share, rows[name])) for name in rows]),
        (
            "Accuracy on own candidates, by kind (prompts)",
            [_of_constraint(kind, map(_of_kind, of_kinds[kind])) for kind in kinds],
        ),
    ]


def _checked(name: str, cells: Iterable[str]) -> TableRow:
    row = metric(f"feedback/{name}")
    return TableRow(row.heading, list(cells), row.definition)


def _of_constraint(kind: str, cells: Iterable[str]) -> TableRow:
    row = metric(f"feedback/judge_accuracy_kinds_{slug(kind)}")
    return TableRow(f"{WORDS[kind]}, %" if kind in WORDS else row.heading, list(cells), row.definition)


def _share(measure: Measure | None) -> str:
    return cell(measure, 100)


def _of_kind(accuracy: Accuracy | None) -> str:
    if accuracy is None:
        return "-"
    return f"too\u00a0few ({accuracy.prompts})" if accuracy.few else f"{cell(accuracy, 100)} ({accuracy.prompts})"


def _without_repeated_loose(rows: Sequence[tuple[Metric, list[str]]]) -> list[TableRow]:
    """Return rows without those of a loose criterion whose cells repeat the strict row's; its label says so."""
    cells_of = {row.key: cells for row, cells in rows}
    kept = []
    for row, cells in rows:
        loose, strict = row.key.replace("_strict_", "_loose_"), row.key.replace("_loose_", "_strict_")
        if strict == row.key or cells_of.get(strict) != cells:
            same = loose != row.key and cells_of.get(loose) == cells
            kept.append(TableRow(f"{row.heading} (loose: the same)" if same else row.heading, cells, row.definition))
    return kept


def judge_lines(models: Mapping[int, Evaluation]) -> list[str]:
    """Return a warning for each model whose accuracies as a judge are not meaningful (see `judge_warning`)."""
    warnings = {t: judge_warning(model.judge) for t, model in models.items()}
    return [f"M{t} as judge: {warning}." for t, warning in warnings.items() if warning]


def own_answer_lines(workspace: Workspace) -> list[str]:
    """Return lines about the labels of own EFT answers (`data.own_answers`); none if EFT has other answers."""
    made = stage_manifest(workspace.data, "own_answers")
    return report(made.counts) if made else []


def verdict(models: Mapping[int, Evaluation], m1_is_m0: bool = False) -> list[str]:
    """Return a sentence for each model: whether its judge and its answers are better than the previous model's.

    A change counts if the 95 % interval of the difference excludes 0. `m1_is_m0` if there was no SFT.
    """
    return [
        f"M{t} against M{t - 1}: judge: {_judge_verdict(models[t].judge)}; "
        f"answers: {_answers_verdict(models[t].head_to_head)}."
        if t > 1 or not m1_is_m0
        else "M1 is M0, without SFT."
        for t in list(models)[1:]
    ]


def _judge_verdict(judge: Measures) -> str:
    gains = {name.removesuffix("_gain"): m for name, m in judge.items() if name.endswith("_gain")}
    with_interval = {name: m for name, m in gains.items() if m.low is not None}
    better = [metric(f"judge/{name}").label for name, m in with_interval.items() if direction(m) > 0]
    worse = [metric(f"judge/{name}").label for name, m in with_interval.items() if direction(m) < 0]
    changes = [f"better in {', '.join(better)}"] if better else []
    changes += [f"worse in {', '.join(worse)}"] if worse else []
    if changes:
        return " but ".join(changes)
    if with_interval:
        return "no significant difference in any measure"
    single = any(m.value is not None for m in gains.values())
    return "too few prompts to compare" if single else "not compared"


def _answers_verdict(match: Measures) -> str:
    if not match:
        return "not compared"
    win, loss, net = (match.get(name) for name in ("win", "loss", "net_win"))
    if not win or not loss or not net or win.value is None or loss.value is None:
        return "the head to head gave no verdict"
    result = f"{100 * win.value:.0f} % won, {100 * loss.value:.0f} % lost"
    if net.low is None:
        return f"{result} (too few prompts for an interval)"
    return f"{result} ({'significant' if direction(net) else 'not significant'})"


def pair_lines(counts_of: Mapping[int, Mapping[str, Any]]) -> list[str]:
    """Return a line for each iteration: its pairs, excluded candidates, and the reasons of prompts without a pair.

    Parameters
    ----------
    counts_of : t -> counts of the pairs stage of M_t
    """
    lines = []
    for t, counts in counts_of.items():
        feedback = "Labelled answers" if "labelled_answers" in counts else "Pairs"
        number = counts.get("labelled_answers", counts["pairs"])
        line = f"{feedback} for M{t}: {number} from {counts['prompts']} prompts"
        if truncated := counts.get("truncated_candidates"):
            line += f", without {truncated} truncated candidates"
        if counts["dropped"]:
            reasons = "; ".join(f"{reason}: {count}" for reason, count in counts["dropped"].items())
            line += f" (prompts without a pair: {reasons})"
        if left_out := counts.get(LEFT_OUT):
            line += f" (rows left out: {', '.join(f'{count} {why}' for why, count in left_out.items())})"
        lines.append(line)
    return lines


def pair_counts(workspace: Workspace, t: int) -> dict[str, Any]:
    """Return the counts of the finished stage that selected M_t's pairs."""
    manifest = stage_manifest(workspace.iteration(t), "pairs")
    assert manifest is not None, f"the pairs of iteration {t} are not selected"
    return manifest.counts


def alarm_lines(config: Config, workspace: Workspace) -> list[str]:
    """Return a line for each triggered alarm, or one line if there was none."""
    lines = []
    for t in range(2, config.iteration + 1):
        counts, judge = pair_counts(workspace, t), feedback_judge(config, t - 1)
        lines += [f"Alarm, {judge} as judge: {message}" for _, message in triggered(counts, config.alarms)]
    return lines or ["No alarm was triggered (alarms.NAME.threshold)."]


def print_sample(console: Console, workspace: Workspace, t: int) -> None:
    """Print the prompt with the largest score gap, its candidates, their scores, and what they are in training."""
    widest = widest_gap(PAIRS.read(workspace, t), LABELLED.peek(workspace, t))
    if widest is None:
        return
    prompt_id, prompt, marks = widest
    judgements: dict[str, list[Judgement]] = defaultdict(list)
    for judgement in JUDGEMENTS.read(workspace, t):
        judgements[judgement.candidate_id].append(judgement)
    table = Table(
        title=f"A prompt of the feedback for M{t}, and the answers of M{t - 1}", title_justify="left", show_lines=True
    )
    table.add_column("score", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column(plain_text(prompt, 300))
    for candidate in CANDIDATES.read(workspace, t):
        if candidate.prompt_id == prompt_id:
            score = mean_score(judgements[candidate.id], 1)
            style = _STYLES.get(mark := marks.get(candidate.id, ""), "")
            table.add_row("-" if score is None else f"{score:.2f}", Text(mark, style), plain_text(candidate.text, 240))
    console.print(table)


def widest_gap(
    pairs: Sequence[PreferencePair], answers: Sequence[LabelledAnswer]
) -> tuple[str, str, dict[str, str]] | None:
    """Return the prompt with the largest score gap in the feedback: of a pair, or of a prompt's labelled answers.

    Returns
    -------
    The prompt's id, its text, and the marks of its candidates by id, such as "chosen"; None without feedback.
    """
    if pairs:
        pair = max(pairs, key=lambda p: p.chosen_score - p.rejected_score)
        return (
            parent(pair.rejected_id),
            dialogue(pair.conversation),
            {pair.chosen_id: "chosen", pair.rejected_id: "rejected"},
        )
    if not answers:
        return None
    scores: dict[str, list[float]] = defaultdict(list)
    for answer in answers:
        scores[parent(answer.id)].append(answer.score)
    prompt_id = max(scores, key=lambda prompt: max(scores[prompt]) - min(scores[prompt]))
    shown = [answer for answer in answers if parent(answer.id) == prompt_id]
    marks = {answer.id: "desirable" if answer.label else "undesirable" for answer in shown}
    return prompt_id, dialogue(shown[0].conversation), marks


def _print_paths(config: Config, workspace: Workspace, seconds: float) -> None:
    last = config.iteration
    root = workspace.root
    others = f" ... iteration_{last}/model" if last > 1 else ""
    say(f"\nRun      {root} ({seconds / 60:.1f} min in this session)")
    say(f"Models   {workspace.model(1)}{others}")
    say(f"Records  {root}/iteration_N/*.jsonl, measures in iteration_N/evaluation.json")
    say(f"Report   {root}/report.html")
    if command := next_command(workspace, config):
        say("Continue", command=command)
