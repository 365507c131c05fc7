"""The verdict counts a change only where its interval leaves out zero."""

from __future__ import annotations

from pathlib import Path

import pytest

from srlm.report.collect import collect
from srlm.report.words import grounds, verdict
from tests.report.made_run import evaluation, make_run, write_measures

UP, SAME, DOWN = (0.7, 0.62, 0.78), (0.5, 0.45, 0.55), (0.3, 0.2, 0.4)
WON, EVEN, LOST = (0.3, 0.1, 0.5), (0.05, -0.2, 0.3), (-0.3, -0.5, -0.1)


@pytest.mark.parametrize(
    ("judge", "answers", "headline"),
    [
        (UP, WON, "better"),
        (UP, EVEN, "better"),
        (SAME, WON, "better"),
        (SAME, EVEN, "no difference shown"),
        (DOWN, EVEN, "worse"),
        (SAME, LOST, "worse"),
        (UP, LOST, "mixed"),
        (DOWN, WON, "mixed"),
    ],
)
def test_headline(tmp_path: Path, judge: tuple[float, ...], answers: tuple[float, ...], headline: str) -> None:
    root = make_run(tmp_path / "made")
    write_measures(root, [evaluation(2, judge, answers)], start=2)  # type: ignore[arg-type]
    assert verdict(collect(root)).headline == headline


def test_two_sentences_with_intervals_and_counts(tmp_path: Path) -> None:
    said = verdict(collect(make_run(tmp_path / "made")))
    assert said.judge == (
        "M2 orders 70 % [62, 78] of the held-out pairs as people did (M1 68 % [60, 76], M0 50 % [50, 50]): "
        "a better judge than M1 (by +20 [+12, +28] points)."
    )
    assert said.answers == (
        "M2's answers win 30 % [0, 50] and lose 0 % [0, 50] against M1's (24 prompts, judged by M1): better answers."
    )


def test_measures_that_are_missing_are_said_to_be(tmp_path: Path) -> None:
    root = make_run(tmp_path / "made")
    write_measures(root, [{"iteration": 2, "answers": {}}], start=2)
    said = verdict(collect(root))
    assert said.headline == "no difference shown"
    assert said.judge == "The judge of M2 was not measured."
    assert said.answers == "No verdict on M2's answers against M1's."


def test_only_m0(tmp_path: Path) -> None:
    root = make_run(tmp_path / "made")
    for t in (1, 2):
        (root / f"iteration_{t}/evaluation.json").unlink()
    assert verdict(collect(root)).headline == "begun"
    assert grounds(collect(root))


def test_grounds_name_what_weakens_the_numbers(tmp_path: Path) -> None:
    told = {ground.text: ground.kind for ground in grounds(collect(make_run(tmp_path / "made")))}
    text = " ".join(told)
    assert "24 evaluation prompts: the net win is known to about 20 points." in told
    assert told["24 evaluation prompts: the net win is known to about 20 points."] == "against"
    assert "M1 likes places: what is shown first wins 80 % [70, 90]" in text
    assert "1 alarm rang" in text or "alarms rang" in text
    assert "no person looked" in text


def test_a_judge_that_length_would_replace(tmp_path: Path) -> None:
    root = make_run(tmp_path / "made")
    worse = evaluation(2, (0.45, 0.4, 0.5), (0.0, -0.1, 0.1))
    write_measures(root, [worse], start=2)
    [ground] = [ground for ground in grounds(collect(root)) if "longer answer wins" in ground.text]
    assert ground.kind == "against"
    assert ground.text.endswith("so length alone does as well.")
