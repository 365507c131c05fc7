"""srlm.evaluation.plots: pictures of scorecards, also of judges that said nothing."""

from __future__ import annotations

import random

import pytest

from srlm.config import JudgeConfig
from srlm.evaluation.attacks import ATTACKS, attack_card, attacked
from srlm.evaluation.judge_card import judge_card
from srlm.evaluation.plots import plot_attacks, plot_judges
from tests.helpers import judgements_of, ranked


def card(seed: int, silent: bool = False, prompts: int = 12):
    number = random.Random(seed)
    rows = [ranked(f"e{n}", range(number.choice([2, 3]))) for n in range(prompts)]
    judgements = [
        judgement
        for row in rows
        for place in range(len(row.answers))
        for judgement in judgements_of(f"{row.id}/a{place}", [None if silent else float(number.randint(0, 5))])
    ]
    return judge_card(rows, judgements, JudgeConfig(), 100, "s")


@pytest.mark.parametrize("cards", [1, 2, 7])
def test_a_picture_as_png_and_svg(tmp_path, cards):
    made = [card(n) for n in range(cards)]
    names = [f"judge {n}" for n in range(cards)]
    png, svg = plot_judges(made, names, "A data set: $3 a prompt & <more>", tmp_path / "plots" / "data.jsonl")
    assert png.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    text = svg.read_text(encoding="utf-8")
    assert text.lstrip().startswith("<?xml")
    for name in names:
        assert name in text
    assert "$3 a prompt &amp; &lt;more&gt;" in text  # no formula, no markup
    assert "<dc:date>" not in text
    again = plot_judges(made, names, "A data set: $3 a prompt & <more>", tmp_path / "again" / "data.jsonl")
    assert [path.read_bytes() for path in again] == [png.read_bytes(), svg.read_bytes()]
    assert [path.name for path in again] == ["data.jsonl.png", "data.jsonl.svg"]


def test_a_judge_that_says_nothing_has_no_points(tmp_path):
    png, _ = plot_judges([card(0, silent=True), card(1)], ["silent", "fine"], "t", tmp_path / "x")
    assert png.stat().st_size > 5000
    plot_judges([card(0, silent=True)], ["silent"], "t", tmp_path / "y")
    plot_judges([card(0, prompts=1)], ["one prompt, no interval"], "t", tmp_path / "z")


def test_attacks(tmp_path):
    rows = attacked([ranked(f"e{n}") for n in range(3)])
    last = len(ATTACKS)
    judgements = [
        judgement
        for row in rows
        for place in range(last + 1)
        for judgement in judgements_of(f"{row.id}/a{place}", [None if place == last else float(place % 6)])
    ]
    made = attack_card(rows, judgements, 100, "s")
    _, svg = plot_attacks([made, made], ["M0", "M1"], "What attacks buy", tmp_path / "attacks")
    text = svg.read_text(encoding="utf-8")
    assert all(name in text for name in ATTACKS)
    assert text.count("not scored") == 1
