"""srlm.reporting.readers: verdicts of readers are matched with the run's answers and judgements."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from srlm.cli.report import main
from srlm.errors import VerdictError
from srlm.io import serialization
from srlm.reporting.collect import RunNumbers, collect
from srlm.reporting.readers import Readers, read_back
from srlm.types import Verdict
from tests.reporting.made_run import RIVERS, make_run

TIME = "2026-01-01T00:00:00Z"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunNumbers:
    return collect(make_run(tmp_path_factory.mktemp("runs") / "made"))


def of_pair(run: RunNumbers, verdict: str = "first") -> Verdict:
    texts = ("Yangtze, Mekong, Indus.", "Rhine.")
    return Verdict(run.id, RIVERS, "Name three rivers of Asia.", "c0", "c1", *texts, "ba", verdict, 7, TIME)


def of_models(run: RunNumbers, verdict: str = "second") -> Verdict:
    texts = ("Rain, says M2.", "Rain, says M1.")
    return Verdict(run.id, "eval-1", "Describe rain.", "M2", "M1", *texts, "ab", verdict, 7, TIME)


def written(path: Path, *verdicts: Verdict) -> Path:
    path.write_text("".join(f"{serialization.to_json(one)}\n" for one in verdicts))
    return path


def read(run: RunNumbers, path: Path, *verdicts: Verdict) -> Readers:
    [readers] = read_back([run], [written(path, *verdicts)])
    return readers


def test_the_id_of_a_run_stays_when_it_continues_and_differs_between_runs(run: RunNumbers, tmp_path: Path) -> None:
    assert run.id.startswith("made-")
    assert replace(run, last=1).id == run.id
    assert replace(run, last=0).id == ""
    other = make_run(tmp_path / "made")
    assert collect(other).id == run.id  # the same answers
    path = other / "iteration_1/evaluation/answers.jsonl"
    path.write_text(path.read_text().replace("says M1", "wrote M1"))
    assert collect(other).id != run.id


def test_verdicts_are_compared_with_scores_and_head_to_heads(run: RunNumbers, tmp_path: Path) -> None:
    readers = read(run, tmp_path / "v.jsonl", of_pair(run), of_models(run))
    assert [(one.reader, one.judge) for one in readers.pairs[2]] == [(1.0, 1.0)]
    assert [(one.reader, one.judge) for one in readers.matches[2]] == [(0.0, 1.0)]  # the judge prefers M2
    _, rows = readers.section()
    assert [row.cells for row in rows] == [["-", "-", "100 [n/a]"], ["-", "-", "0 [n/a]"], ["-", "-", "0 [n/a]"]]
    assert all(row.meaning for row in rows)
    assert readers.counted() == "2 verdicts of readers"
    assert [sentence for _, sentence in readers.sentences()] == [
        "M1 as judge of the feedback agrees with readers on 100 % [n/a] of 1 verdict: no difference from chance shown.",
        "M1 as judge head to head agrees with readers on 0 % [n/a] of 1 verdict: no difference from chance shown.",
        "Readers' win rate of M2 over M1 is 0 % [n/a] of 1 verdict: no difference shown.",
    ]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"verdict": "skip"}, "skipped by the reader"),
        ({"prompt_id": "t9/p00000"}, "of a prompt that the run does not have"),
        ({"second_id": "c7"}, "of answers that the run does not have"),
        ({"second": "Rhine!"}, "of texts that have changed since"),
        ({"run": "other-1"}, "of another run"),
    ],
)
def test_verdicts_that_do_not_fit_the_run_are_counted_with_the_reason(
    run: RunNumbers, tmp_path: Path, change: dict[str, str], reason: str
) -> None:
    readers = read(run, tmp_path / "v.jsonl", of_models(run), replace(of_pair(run), **change))
    assert not readers.pairs
    assert readers.counted() == f"1 verdict of readers; left out: 1 {reason}"


def test_verdicts_on_other_runs_are_refused(run: RunNumbers, tmp_path: Path) -> None:
    with pytest.raises(
        VerdictError, match=r"verdicts on the run other-1, but the report is of made-\w+\. Name the run"
    ):
        read(run, tmp_path / "v.jsonl", replace(of_pair(run), run="other-1"))


def test_command_prints_the_agreement_and_writes_it_into_the_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_run(tmp_path / "made")
    path = written(tmp_path / "v.jsonl", of_models(collect(root), "first"))
    main([str(root), "--verdicts", str(path)])
    printed = capsys.readouterr().out
    assert "made: 1 verdict of readers" in printed
    assert "Readers' win rate of M2 over M1 is 100 % [n/a] of 1 verdict" in printed
    page = (root / "report.html").read_text(encoding="utf-8")
    assert "Verdicts of readers" in page
    assert "No person read these answers" not in page
    path.write_text("{}\n")
    with pytest.raises(SystemExit, match="1"):
        main([str(root), "--verdicts", str(path)])
    assert "v.jsonl:1 is no verdict of this version of srlm" in capsys.readouterr().err
