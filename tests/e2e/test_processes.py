"""Real launchers, ranks and engine cores end with their run, whichever process dies (stand-ins: test_processes.py)."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from srlm.io.record_file import peek_records
from srlm.types import Answer
from tests.e2e.test_masking import prepared
from tests.started_run import StartedRun

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.variant]
needs_vllm = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed here")


@pytest.fixture
def ranks(tmp_path: Path, tiny_checkpoint: Path) -> Iterator[StartedRun]:
    """Yield an SFT run of two ranks in its first steps."""
    folder = tmp_path / "run"
    prepared(folder, tiny_checkpoint, "sft.processes=2", "sft.micro_batch_size=2", "sft.epochs=100000")
    run = StartedRun(folder, [sys.executable, "-m", "tests.process_layouts", str(folder), "sft"])
    try:
        run.wait_until((folder / "iteration_1/sft_log.jsonl").exists)
        yield run
    finally:
        run.kill()


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[StartedRun]:
    """Yield a run in the process layout of a GPU: AsyncLLM, with engine core and worker in other processes."""
    options = [f"runs_dir={tmp_path}", "name=run", "models=[tiny-random]", "engine.kv_cache_gib=0.5"]
    options += ["evaluation.max_new_tokens=900", "engine.max_model_len=1024", "engine.max_concurrent=4"]
    environment = os.environ | {"VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
    folder = tmp_path / "run"
    run = StartedRun(folder, [sys.executable, "-m", "srlm", "side-by-side", *options], environment)
    try:
        run.wait_until((folder / "answers/tiny-random.jsonl").exists)
        yield run
    finally:
        run.kill()


@pytest.mark.parametrize(("victim", "number"), [("coordinator", signal.SIGTERM), ("rank", signal.SIGKILL)])
def test_ranks_end_when_any_process_dies(ranks: StartedRun, victim: str, number: int) -> None:
    assert len(ranks.members()) == 4  # guard, launcher, two ranks
    os.kill(ranks.coordinator.pid if victim == "coordinator" else ranks.pid("-u -m srlm.pipeline.worker"), number)
    ranks.assert_all_end(f"ranks, signal {number} to {victim}")
    assert ranks.coordinator.returncode == (128 + number if victim == "coordinator" else 1)
    message = "Stopped by SIGTERM." if victim == "coordinator" else "was killed by the system"
    assert message in ranks.text()
    assert "Rerun the same command to resume." in ranks.text() or "rerun the same command" in ranks.text()


@needs_vllm
@pytest.mark.parametrize(
    ("victim", "number"),
    [("coordinator", signal.SIGKILL), ("engine core", signal.SIGTERM)],
)
def test_engine_core_ends_when_another_process_dies(engine: StartedRun, victim: str, number: int) -> None:
    assert engine.pid("VLLM::EngineCore") != engine.pid("srlm.pipeline.worker")
    os.kill(engine.coordinator.pid if victim == "coordinator" else engine.pid("VLLM::EngineCore"), number)
    engine.assert_all_end(f"engine, signal {number} to {victim}")
    assert engine.coordinator.returncode == (-number if victim == "coordinator" else 1)
    message = {"coordinator": "", "engine core": "EngineError: vLLM "}[victim]
    assert message in engine.text()
    answers = engine.folder / "answers/tiny-random.jsonl"
    assert all(answer.tokens for answer in peek_records(answers, Answer)), "an aborted request was taken for an answer"
