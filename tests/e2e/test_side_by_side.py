"""`srlm side-by-side` for real, on the tiny model under two names: the same command, the same answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from srlm.config import ModelConfig
from srlm.models.resolve import resolve
from tests.helpers import ROOT

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


def test_the_same_model_twice(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "srlm", "side-by-side", "engine=transformers", "evaluation.max_new_tokens=12"]
    command += [f"models=[tiny-random,{resolve(ModelConfig(name='tiny-random'))}]", f"runs_dir={tmp_path}"]
    command += ["dataset=tests/verifiable_prompts.jsonl", "samples=2", "evaluation.bootstrap=100"]
    ran = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"HF_HUB_OFFLINE": "1"}, text=True, capture_output=True, timeout=300
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    folder = tmp_path / "side_by_side"
    rows = [json.loads(line) for line in (folder / "side_by_side.jsonl").read_text(encoding="utf-8").split("\n")[:-1]]
    assert len(rows) == 5
    for row in rows:
        one, other = row["answers"].values()
        assert one == other
        assert [len(one[way]) for way in ("greedy", "sampled")] == [1, 2]
    card = json.loads((folder / "side_by_side.json").read_text(encoding="utf-8"))
    gaps = [row["against_first"]["characters"] for row in card["rows"] if "against_first" in row]
    # Nothing differs, so the answers give no spread to estimate an interval from.
    assert [(gap["value"], gap["low"], gap["high"]) for gap in gaps] == [(0.0, None, None)] * 2
    assert (folder / "side_by_side.html").stat().st_size > 10_000
    assert "tiny-random" in ran.stderr
