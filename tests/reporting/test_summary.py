"""srlm.reporting.summary: the summary at the end of a run, its sentences and table, in 80 columns."""

from __future__ import annotations

import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from srlm.io import progress
from srlm.io.record_file import read_records
from srlm.io.serialization import to_json
from srlm.metrics import metric
from srlm.pipeline.resume import python_word
from srlm.pipeline.run_reader import open_run
from srlm.preferences.config import AlarmAction
from srlm.reporting.summary import (
    OPTIONAL,
    ROWS,
    alarm_lines,
    judge_lines,
    measures_table,
    pair_lines,
    print_summary,
    table_rows,
    verdict,
)
from srlm.types import Candidate, PreferencePair
from tests.helpers import evaluations, judgements_of
from tests.reporting.made_run import measure

NONE = measure(None)
AGAINST, FOLLOWED = "Head to head against M_t-1, judged by ", "Instructions followed: evaluation prompts"
ANSWERS = "; answers: the head to head gave no verdict."
JUDGE = "M1 against M0: judge: not compared; answers: "


def of_judge(**gains: dict[str, Any]) -> str:
    """Return the verdict on M1's judge."""
    model = {
        "judge": {"spearman": measure(0.5, 0.1, 0.9)} | {f"{name}_gain": gain for name, gain in gains.items()},
        "head_to_head": {"win": NONE, "loss": NONE, "net_win": NONE},
    }
    [line] = verdict(evaluations({0: {}, 1: model}))
    assert line.startswith("M1 against M0: judge: ")
    assert line.endswith(ANSWERS)
    return line.removeprefix("M1 against M0: judge: ").removesuffix(ANSWERS)


def of_answers(win: float | None, loss: float | None, net: dict[str, Any]) -> str:
    [line] = verdict(
        evaluations({0: {}, 1: {"head_to_head": {"win": measure(win), "loss": measure(loss), "net_win": net}}})
    )
    assert line.startswith(JUDGE)
    return line.removeprefix(JUDGE)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.001, 0.2, "significant"),
        (0.0, 0.2, "not significant"),
        (-0.2, 0.2, "not significant"),
        (-0.2, 0.0, "not significant"),
        (-0.2, -0.001, "significant"),
        (None, None, "too few prompts for an interval"),
    ],
)
def test_net_wins_are_significant_only_beyond_their_interval(low: Any, high: Any, expected: str) -> None:
    assert of_answers(0.704, 0.604, measure(0.1, low, high)) == f"70 % won, 60 % lost ({expected})."


def test_match_without_verdicts_is_reported() -> None:
    assert of_answers(None, None, NONE) == "the head to head gave no verdict."


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.001, 0.2, "better in Kendall's tau"),
        (0.0, 0.2, "no significant difference in any measure"),
        (-0.2, 0.0, "no significant difference in any measure"),
        (-0.2, -0.001, "worse in Kendall's tau"),
        (None, None, "too few prompts to compare"),
    ],
)
def test_judge_differs_only_beyond_the_interval_of_a_gain(low: Any, high: Any, expected: str) -> None:
    assert of_judge(kendall_tau=measure(0.1, low, high)) == expected


def test_judge_measures_are_grouped_by_direction_of_change() -> None:
    up, down, same = measure(0.1, 0.05, 0.2), measure(-0.1, -0.2, -0.05), measure(0.0, -0.1, 0.1)
    assert of_judge(five_best=up, spearman=down, exact_match=up, kendall_tau=same, pairwise_accuracy=down) == (
        "better in 5-best, exact match but worse in Spearman correlation, pairwise accuracy"
    )
    assert of_judge(pairwise_accuracy_imputed=up) == "better in accuracy (unparsed = 0.5)"
    assert of_judge(accuracy_shorter_preferred=down) == "worse in accuracy, shorter preferred"
    assert of_judge(five_best=up, spearman=measure(0.1)) == "better in 5-best"  # the other has no interval


def test_judge_without_earlier_measures_is_not_compared() -> None:
    assert of_judge() == of_judge(spearman=NONE) == "not compared"


def test_verdict_has_one_sentence_for_each_model_after_m0() -> None:
    match = {"win": NONE, "loss": NONE, "net_win": NONE}
    lines = verdict(evaluations({t: {"head_to_head": match} for t in range(3)}))
    assert [line.split(":")[0] for line in lines] == ["M1 against M0", "M2 against M1"]
    assert verdict(evaluations({0: {}})) == []


def test_unparsed_judgements_are_reported_for_each_model() -> None:
    models = {
        0: {"judge": {"parse_rate": measure(0.0, 0.0, 0.1)}},
        1: {"judge": {"parse_rate": measure(0.5, 0.4, 0.6), "ties": measure(0.99)}},
        2: {"judge": {"parse_rate": measure(0.25, 0.1, 0.4), "ties": measure(1.0)}},
        3: {"judge": {}},
        4: {},
    }
    first, second = judge_lines(evaluations(models))
    assert first.startswith("M0 as judge: none of the 24 judgements could be parsed")
    assert second == (
        "M2 as judge: only 6 of 24 judgements could be parsed, and most accuracies count the others as 0.5; all "
        "scored pairs are ties, so the judge prefers no answer."
    )


def test_unparsed_judgements_are_printed_before_the_table(screen: Any, own_run: Path) -> None:
    path = own_run / "iteration_0/evaluation.json"
    model = json.loads(path.read_text())
    model["judge"]["parse_rate"] = measure(0.0, 0.0, 0.1)
    path.write_text(json.dumps(model))
    text = screen(120)
    assert -1 < text.find("M0 as judge: none of the 24 judgements") < text.find("Measures of every model")


# Alarms and pairs


def test_triggered_alarms_name_the_judge(own_run: Path) -> None:
    workspace = open_run(own_run)
    config = workspace.config()
    for name in vars(config.alarms):
        getattr(config.alarms, name).action = AlarmAction.off
    assert alarm_lines(config, workspace) == ["No alarm was triggered (alarms.NAME.threshold)."]
    config.alarms.mean_gap.action = AlarmAction.warn
    config.alarms.mean_gap.threshold = 5.0
    [line] = alarm_lines(config, workspace)
    assert line.startswith("Alarm, M1 as judge: mean score gap: ")
    assert "below alarms.mean_gap.threshold=5" in line
    shutil.copytree(own_run / "iteration_2/manifests", own_run / "iteration_3/manifests")
    config.iteration = 3
    lines = alarm_lines(config, workspace)
    assert [each.split(" as judge")[0] for each in lines] == ["Alarm, M1", "Alarm, M2"]
    config.iteration = 1
    assert alarm_lines(config, workspace) == ["No alarm was triggered (alarms.NAME.threshold)."]


def test_pair_lines_count_prompts_without_a_pair_by_reason() -> None:
    plain = {"pairs": 3, "prompts": 3, "dropped": {}}
    some = {"pairs": 1, "prompts": 4, "dropped": {"tie": 2, "empty": 1}, "truncated_candidates": 5}
    assert pair_lines({2: plain, 3: some}) == [
        "Pairs for M2: 3 from 3 prompts",
        "Pairs for M3: 1 from 4 prompts, without 5 truncated candidates (prompts without a pair: tie: 2; empty: 1)",
    ]


# The table


def cells_of(models: dict[int, Any]) -> dict[str, dict[str, list[str]]]:
    """Return title -> label -> cells."""
    return {title: {row.label: list(row.cells) for row in rows} for title, rows in table_rows(evaluations(models))}


def test_each_row_has_the_definition_of_its_measure() -> None:
    rows = [row for _, rows in table_rows(evaluations({0: {"ifeval": {}}})) for row in rows]
    assert all(row.meaning.endswith(".") for row in rows)
    of_ifeval = dict(table_rows(evaluations({0: {"ifeval": {"inst_level_strict_acc": measure(0.5)}}})))
    [row] = [row for row in of_ifeval["Instructions followed: IFEval"] if row.label.startswith("instruction-level")][:1]
    assert row.meaning.startswith("Verifiable instructions that are followed. On IFEval's prompts")


@pytest.mark.parametrize(("loose", "labels"), [(0.5, ["A (loose: the same)"]), (0.6, ["A", "A, loose"])])
def test_loose_rows_that_repeat_the_strict_row_are_merged(loose: float, labels: list[str]) -> None:
    values = {"prompt_level_strict_acc": measure(0.5, 0.4, 0.6), "prompt_level_loose_acc": measure(loose, 0.4, 0.6)}
    found = cells_of({0: {"ifeval": values}})["Instructions followed: IFEval"]
    shown = [label.replace("prompt-level accuracy", "A").replace(", %", "") for label in found]
    assert [label for label in shown if label.startswith("A")] == labels


def test_table_rows_are_the_measures_of_available_parts() -> None:
    judge = {"pairwise_accuracy": measure(0.7, 0.6, 0.8), "length_baseline_accuracy": measure(0.4, 0.3, 0.5)}
    match = {"head_to_head": {"win": NONE}, "head_to_head_judge": "M1"}
    rows = dict(cells_of({0: {"judge": judge}, 1: match}))
    assert AGAINST + "M1" not in cells_of({0: {"judge": judge}, 1: {"head_to_head_judge": "M1"}})
    assert list(rows) == ["Judge: held-out EFT", "Evaluation answers", AGAINST + "M1"]
    of_judge = dict(rows["Judge: held-out EFT"])
    assert of_judge["pairwise accuracy, %"] == ["70 [60,80]", "-"]
    assert of_judge["length baseline accuracy, %"] == ["40 [30,50]", "-"]
    assert len(of_judge) == len(ROWS["judge"])
    assert "length baseline accuracy, %" not in dict(rows["Evaluation answers"])
    ifeval_rows = cells_of({0: {}, 1: {"ifeval": {"prompt_level_strict_acc": measure(0.5, 0.4, 0.6)}}})
    assert dict(ifeval_rows["Instructions followed: IFEval"])["prompt-level accuracy, %"] == ["-", "50 [40,60]"]
    assert FOLLOWED not in ifeval_rows
    followed = cells_of({0: {"instructions": {"prompt_level_strict_acc": measure(0.5, 0.4, 0.6)}}})
    assert dict(followed[FOLLOWED])["prompt-level accuracy, %"] == ["50 [40,60]"]
    assert f"{AGAINST}?" not in ifeval_rows


def test_table_has_a_column_for_each_model() -> None:
    table = measures_table(evaluations({0: {}, 1: {}}))
    assert [column.header for column in table.columns] == ["", "M0", "M1"]
    assert table.title == "Measures of every model (95 % intervals)"
    judge = {"length_baseline_accuracy": measure(0.4, 0.3, 0.5)}
    table = measures_table(evaluations({0: {"judge": judge}}))
    labels, figures = ([str(cell) for cell in column.cells] for column in table.columns)
    assert figures[labels.index("  length baseline accuracy, %")] == "40 [30,50]"
    assert labels[0] == "Judge: held-out EFT"


# The complete screen


@pytest.fixture
def screen(own_run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Return a function that prints the summary to a terminal of the given width and returns its text."""

    def shown(width: int) -> str:
        monkeypatch.setenv("COLUMNS", str(width))
        path = tmp_path / f"screen{width}"
        workspace = open_run(own_run)
        with path.open("w", encoding="utf-8") as file:
            monkeypatch.setattr(progress, "terminal", lambda: file)
            print_summary(workspace.config(), workspace, 90.0)
        return path.read_text(encoding="utf-8")

    return shown


@pytest.mark.parametrize("width", [80, 120])
def test_screen_fits_the_width_and_shows_every_measure(screen: Any, width: int, own_run: Path) -> None:
    text = screen(width)
    table = text.split("A prompt of the feedback")[0].split("M1 against M0")[0]
    assert max(map(len, table.splitlines())) <= width
    assert "…" not in table  # nothing is cut
    joined = " ".join(table.split())
    for part, names in ROWS.items():
        for name in names if part == "judge" or part not in OPTIONAL else ():
            assert metric(f"{part}/{name}").heading in joined
    for line in ("M1 against M0: judge: ", "M2 against M1: judge: ", "M2 against M1: "):
        assert line in text
    assert "(1.5 min in this session)" in text
    assert "iteration_1/model...iteration_2/model" in "".join(text.split())


def test_early_stopping_is_reported_if_it_was_used(screen: Any, own_run: Path) -> None:
    assert "Early stopping" not in screen(120)
    path = own_run / "iteration_2/manifests/dpo.json"
    manifest = json.loads(path.read_text())
    manifest["counts"]["early_stopping"] = {"chosen_step": 4, "last_step": 4, "steps": 4, "comparisons": []}
    path.write_text(json.dumps(manifest))
    assert "Early stopping of M2: training has one checkpoint, at step 4, and no comparison." in screen(121)


def test_brackets_in_names_are_printed_as_text(screen: Any, own_run: Path) -> None:
    """Square brackets in names of files and judges are not interpreted as rich markup."""
    for name, counts in {"pairs": {"truncated_candidates": 2}, "judgements": _UNANSWERED}.items():
        path = own_run / f"iteration_2/manifests/{name}.json"
        manifest = json.loads(path.read_text())
        path.write_text(json.dumps(manifest | {"counts": manifest["counts"] | counts}))
    path = own_run / "iteration_2/evaluation.json"
    measures = json.loads(path.read_text()) | {"head_to_head_judge": "judge[b]", "ifeval": {}, "instructions": {}}
    measures["drift"]["characters_gain"] = measure(20, 5, 35)
    measures["head_to_head"]["net_win"] = measure(0.2, 0.1, 0.3)
    measures["judge"]["pairwise_accuracy_imputed_gain"] = measure(None)
    path.write_text(json.dumps(measures))
    text = " ".join(screen(1000).split())
    workspace = open_run(own_run)
    config = workspace.config()
    assert "Without an answer: judgements (iteration 2): 1 too long (t2/p00000 (more[b].jsonl:3): 900 tokens)." in text
    assert "Pairs for M2: 3 from 3 prompts, without 2 truncated candidates" in text
    assert all(line in text for line in alarm_lines(config, workspace))
    assert "Alarm, M1 as judge: mean score gap: 1, below alarms.mean_gap.threshold=4.5." in text
    assert "but so did net wins by judge[b]'s verdicts, 20 % [10, 30]." in text


_UNANSWERED = {"unanswered": {"too long": 1}, "unanswered_examples": ["t2/p00000 (more[b].jsonl:3): 900 tokens"]}


def test_sample_shows_scores_marks_and_shortened_texts(screen: Any, own_run: Path) -> None:
    """The second pair has the largest gap, although the first has higher scores."""
    texts = [f"{name} " + "y" * size for name, size in (("HI\x07GH", 1), ("LOW", 237), ("SILENT", 233))]
    found = PreferencePair("t2/p1", "Q" * 299 + "AZ", texts[0], texts[1], "t2/p1/c0", "t2/p1/c1", 2.0, 0.5)
    other = PreferencePair("t2/p0", "Other?", "a", "b", "t2/p0/c0", "t2/p0/c1", 5.0, 4.5)
    candidates = [Candidate(f"t2/p1/c{n}", "t2/p1", text, 5, False) for n, text in enumerate(texts)]
    judgements = [
        judgement
        for n, scores in enumerate(([2.0, 2.0], [1.0, None, 0.0], [None]))
        for judgement in judgements_of(f"t2/p1/c{n}", scores)
    ]
    for name, rows in {"4_pairs": [other, found], "2_candidates": candidates, "3_judgements": judgements}.items():
        path = own_run / f"iteration_2/{name}.jsonl"
        path.write_text("".join(to_json(row) + "\n" for row in rows))
    sample = screen(1000).split("A prompt of the feedback for M2, and the answers of M1")[1]
    assert "Other?" not in sample
    rows = [[cell.strip() for cell in re.split("[│┃]", line)[1:-1]] for line in sample.splitlines()]
    assert [row for row in rows if len(row) == 3] == [
        ["score", "", "Q" * 299 + "…"],
        ["2.00", "chosen", "HI GH y"],  # no control characters
        ["0.50", "rejected", f"LOW {'y' * 235}…"],
        ["-", "", texts[2]],
    ]


@pytest.mark.parametrize(
    ("last", "models"), [(2, "/iteration_1/model ... iteration_2/model"), (1, "/iteration_1/model")]
)
def test_screen_ends_with_paths_and_the_command_to_continue(
    last: int, models: str, own_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = open_run(own_run)
    workspace.update_run(arguments=["model.name=tiny-random", f"iteration={last}"])
    config = workspace.config()
    config.iteration = last
    file = io.StringIO()
    monkeypatch.setattr(progress, "terminal", lambda: file)
    print_summary(config, workspace, 3600.0)
    command = (
        f"{python_word()} -m srlm.run model.name=tiny-random name=rivers runs_dir={own_run.parent} iteration={last + 1}"
    )
    assert file.getvalue().splitlines()[-5:] == [
        f"Run      {own_run} (60.0 min in this session)",
        f"Models   {own_run}{models}",
        f"Records  {own_run}/iteration_N/*.jsonl, measures in iteration_N/evaluation.json",
        f"Report   {own_run}/report.html",
        f"Continue {command}",
    ]


def test_sample_is_the_pair_with_the_largest_gap(screen: Any, own_run: Path) -> None:
    text = screen(200)
    pairs = read_records(own_run / "iteration_2/4_pairs.jsonl", PreferencePair)
    widest = max(pairs, key=lambda pair: pair.chosen_score - pair.rejected_score)
    sample = text.split("A prompt of the feedback for M2, and the answers of M1")[1]
    assert widest.prompt[:20] in sample
    lines = sample.splitlines()
    chosen, rejected = (next(line for line in lines if f" {mark} " in line) for mark in ("chosen", "rejected"))
    assert f"{widest.chosen_score:.2f}" in chosen
    assert f"{widest.rejected_score:.2f}" in rejected
