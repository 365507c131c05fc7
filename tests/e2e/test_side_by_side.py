"""`srlm side-by-side` on the tiny model under two names: equal models give equal answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from srlm.models.config import ModelConfig
from srlm.models.resolve import resolve
from tests.forked import run_forked

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.variant]


def test_equal_models_give_equal_answers(tmp_path: Path) -> None:
    command = ["srlm", "side-by-side", "engine=transformers", "evaluation.max_new_tokens=12"]
    command += [f"models=[tiny-random,{resolve(ModelConfig(name='tiny-random'))}]", f"runs_dir={tmp_path}"]
    command += ["dataset=tests/verifiable_prompts.jsonl", "evaluation.bootstrap=100"]
    ran = run_forked(*command)
    assert ran.returncode == 0, ran.stderr[-3000:]
    folder = tmp_path / "side_by_side"
    one, other = (path.read_text(encoding="utf-8") for path in folder.glob("answers/*.jsonl"))
    assert one == other
    assert one.count("\n") == 5
    [_, row] = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))["answers"]["rows"]
    gap = row["against_first"]["mean_characters"]
    # The differences have no variance, so there is no interval.
    assert (gap["value"], gap["low"], gap["high"]) == (0.0, None, None)
    assert (folder / "side_by_side.html").stat().st_size > 10_000
    assert "tiny-random" in ran.stderr
