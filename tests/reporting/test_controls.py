"""The controls that a report cites are those of the study's records, and are shown only beside its setting."""

from __future__ import annotations

import json
import sys
from importlib import resources
from pathlib import Path

import pytest

import srlm
from srlm.evaluation.measures import Measure
from srlm.reporting.controls import FILE, JUDGES, controls_line
from tests.helpers import ROOT

STORED = json.loads(resources.files("srlm.reporting").joinpath("assets", FILE).read_text(encoding="utf-8"))
LAPTOP = ROOT / "experiments" / "laptop"


def test_stored_controls_are_made_from_the_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(LAPTOP))
    readout = __import__("readout")
    readout.write_controls(readout.read_records(), tmp_path / FILE)
    for name in ("readout", "study", "make_sums"):
        sys.modules.pop(name, None)
    assert json.loads((tmp_path / FILE).read_text(encoding="utf-8")) == STORED


def test_line_has_the_gain_of_each_judge_with_its_interval() -> None:
    line = controls_line(srlm.compose())
    assert [arm["judge"] for arm in STORED["arms"]] == list(JUDGES)
    for arm in STORED["arms"]:
        gain = Measure.from_dict(arm["gain"])
        assert None not in (gain.value, gain.low, gain.high)
        text = f"{100 * (gain.value or 0):+.1f} [{100 * (gain.low or 0):+.1f}, {100 * (gain.high or 0):+.1f}]"
        assert f"{text.replace('-', '−')} with {JUDGES[arm['judge']]} ({arm['seeds']} seeds)" in line
    assert controls_line(srlm.compose("iteration=2", "seed=7", "name=mine")) == line


@pytest.mark.parametrize(
    "words",
    [
        ["judge.model=random"],
        ["candidates.count=4"],
        ["dpo.beta=0.5"],
        ["~dpo.extra.loss_type", "~dpo.extra.loss_weights"],
        ["data.evaluation.path=facts:development"],
        ["model.name=tiny-random"],
        ["experiment=free_form"],
    ],
)
def test_other_settings_cite_nothing(words: list[str]) -> None:
    assert controls_line(srlm.compose(*words)) == ""


@pytest.mark.parametrize(
    "page", ["README.md", "docs/getting_started.md", "experiments/README.md", "experiments/laptop/README.md"]
)
def test_documents_cite_the_stored_gains(page: str) -> None:
    text = " ".join((ROOT / page).read_text(encoding="utf-8").split())
    for arm in STORED["arms"]:
        value, low, high = (100 * arm["gain"][name] for name in ("value", "low", "high"))
        assert f"{value:+.1f}" in text
        assert f"[{low:.1f}, {high:.1f}]" in text
