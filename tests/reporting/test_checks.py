"""Judge accuracy on own candidates and behaviours, on the report page, in the table of models and in its sentences."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from srlm.evaluation.behaviours import behaviours_part
from srlm.evaluation.feedback_checks import Accuracy, FeedbackChecks
from srlm.evaluation.measures import Measure
from srlm.evaluation.record import Evaluation, Instructions, to_dicts
from srlm.generation.pairs import SelectPairs
from srlm.pipeline.manifest import stage_manifest
from srlm.pipeline.run_reader import open_run
from srlm.pipeline.workspace import Workspace
from srlm.reporting import write_report
from srlm.reporting.behaviours import behaviour_lines, behaviour_rows
from srlm.reporting.collect import collect
from srlm.reporting.phrases import grounds
from srlm.reporting.summary import table_rows
from srlm.types import Answer, Constraint, SeedExample
from tests.helpers import evaluations
from tests.reporting.made_run import make_run
from tests.reporting.test_page import block

NO_COMMA, WORDS = Constraint("punctuation:no_comma"), {"relation": "at least", "num_words": 3}


def checks(low: float = 0.47) -> FeedbackChecks:
    kinds = {
        "punctuation:no_comma": Accuracy(0.61, 0.5, 0.72, 40, 12),
        "startend:quotation": Accuracy(0.5, 0.1, 0.9, 6, 3),
    }
    results = (Measure(share, share - 0.1, share + 0.1, 30) for share in (0.4, 0.35, 0.25))
    return FeedbackChecks(Accuracy(0.53, low, 0.59, 120, 40), kinds, *results)


def behaviours(shares: tuple[int, int], before: tuple[int, int] | None = None) -> dict[str, Any]:
    """Return the behaviours of answers to 20 prompts that ask for no commas, 20 others and 2 that ask for words.

    `shares` are the numbers of answers without commas where they are asked for, and elsewhere.
    """
    words = Constraint("length_constraints:number_words", WORDS)
    free: dict[str, tuple[Constraint, ...]] = {f"o{n}": () for n in range(20)}
    asked = {f"a{n}": (NO_COMMA,) for n in range(20)} | free | {f"w{n}": (words,) for n in range(2)}
    prompts = [SeedExample(id, id, "", constraints=own) for id, own in asked.items()]

    def answers(of: tuple[int, int]) -> list[Answer]:
        counts = dict(zip("ao", of, strict=True)) | {"w": 0}
        return [Answer(id, id, "so" if int(id[1:]) < counts[id[0]] else "so, so", 1, False) for id in asked]

    found = behaviours_part(prompts, answers(shares), answers(before) if before else None, 100, "seed")
    return {name: to_dicts(measures) for name, measures in found.items()}


def with_checks(root: Path, **more: Any) -> Path:
    """Add checks of the feedback, and behaviours of the evaluation answers, to a run of `make_run`."""
    workspace = Workspace(root)
    made = stage_manifest(workspace.iteration(2), "pairs")
    assert made
    counts = made.counts | checks().to_counts() | {"alarms": {"judge_accuracy": 0.53}}
    SelectPairs(workspace, workspace.config(), 2).done({}, counts | more)
    for t, of in enumerate([behaviours((6, 6)), behaviours((6, 6), (6, 6)), behaviours((19, 18), (6, 6))]):
        path = root / f"iteration_{t}/evaluation.json"
        evaluation = json.loads(path.read_text()) | {"instructions": {"groups": {}, "behaviours": of}}
        path.write_text(json.dumps(evaluation))
    return root


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_checks(make_run(tmp_path_factory.mktemp("runs") / "checked"))


@pytest.fixture(scope="module")
def page(root: Path) -> str:
    write_report([root], root / "report.html")
    return (root / "report.html").read_text(encoding="utf-8")


def plain(page: str) -> str:
    """Return the text of a page's markup."""
    outside = re.sub(r"<script[ >].*?</script>|<style>.*?</style>", "", page, flags=re.S)
    return " ".join(re.sub(r"<[^>]+>", " ", outside).split())


def test_table_has_the_checks_of_each_models_candidates() -> None:
    sections = dict(table_rows(evaluations({0: {}, 1: {}, 2: {}}), {1: checks()}))
    own = {row.label: list(row.cells) for row in sections["Judge: own candidates, checked by programs"]}
    assert own == {
        "accuracy on own candidates, %": ["-", "53 [47,59]", "-"],
        "selected pairs, confirmed, %": ["-", "40 [30,50]", "-"],
        "selected pairs, tied, %": ["-", "35 [25,45]", "-"],
        "selected pairs, contradicted, %": ["-", "25 [15,35]", "-"],
    }
    kinds = sections["Accuracy on own candidates, by kind (prompts)"]
    assert [(row.label, list(row.cells)) for row in kinds] == [
        ("answers without commas, %", ["-", "61 [50,72] (12)", "-"]),
        ("quotation marks around the answer, %", ["-", "too\u00a0few (3)", "-"]),
    ]
    assert all(row.meaning.endswith("section 3.3.2.") for row in kinds)
    assert not [title for title, _ in table_rows(evaluations({0: {}})) if "own candidates" in title]


def test_page_shows_checks_alarm_and_reason(page: str) -> None:
    text = plain(page)
    assert "accuracy on own candidates, % - 53 [47,59] -" in text
    assert "M1 as judge: accuracy on own candidates: 53 % [47, 59], below alarms.judge_accuracy.threshold=0.6." in text
    assert "M1 orders 53 % [47, 59] of the pairs of M1&#39;s own candidates as programs do (40 prompts)" in text
    [run] = block(page, "charts")
    assert run["models"]["1"]["feedback"]["judge_accuracy"]["value"] == 0.53
    assert "judge_accuracy" not in run["models"]["2"]["feedback"]


@pytest.mark.parametrize(("low", "kind"), [(0.5, "against"), (0.501, "for"), (0.47, "against")])
def test_judge_is_trusted_only_above_chance(tmp_path: Path, low: float, kind: str) -> None:
    root = with_checks(make_run(tmp_path / "run"), **checks(low).to_counts())
    assert kind in [ground.kind for ground in grounds(collect(root)) if "own candidates" in ground.text]


def test_page_shows_behaviours_of_every_model(page: str) -> None:
    text = plain(page)
    assert "answers without commas rose from 27 % to 82 % where not asked for: a habit, not obedience." in text
    assert text.count("M2 against M1: answers without commas") == 1
    assert "M1 against M0: answers" not in text
    headings = "M0 M1 M2 asked not asked asked not asked asked not asked"
    assert headings in text
    [row] = re.findall(r"answers without commas ((?:\d+ \[\d+,\d+\] ?){6})", text)
    assert re.sub(r"\[\S+\] ?", "", row).split() == ["30", "27", "30", "27", "95", "82"]  # of 20, and of 22 others
    assert "the given number of words (at least) too few (2) 0 [0," in text


def test_runs_without_constraints_show_neither(tmp_path: Path) -> None:
    root = make_run(tmp_path / "made")
    write_report([root], root / "report.html")
    text = plain((root / "report.html").read_text(encoding="utf-8"))
    assert "own candidates" not in text
    assert "Asked for, and not asked for" not in text


def test_behaviours_without_an_earlier_model_have_no_sentences() -> None:
    def model(t: int, of: dict[str, Any]) -> Evaluation:
        return Evaluation.from_dict({"iteration": t, "instructions": {"groups": {}, "behaviours": of}})

    changed = {0: model(0, behaviours((6, 6))), 1: model(1, behaviours((19, 18)))}  # M1 is M0, or was measured alone
    assert behaviour_lines(changed) == []
    assert len(behaviour_rows(changed)) == 2
    alone = {0: Evaluation(0), 1: model(1, behaviours((19, 18), (6, 6)))}  # M0's file is of an older version
    assert behaviour_lines(alone) == []
    assert behaviour_rows(alone)[0].cells[:2] == ["-", "-"]
    assert behaviour_rows({0: Evaluation(0, instructions=Instructions())}) == []


def test_checks_of_a_run_are_read_in_python(root: Path) -> None:
    import srlm

    assert srlm.open_run(root).feedback_checks(2) == checks()
    assert open_run(root).root == root
