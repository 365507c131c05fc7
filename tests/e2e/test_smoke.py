"""The whole loop with a real engine and trainer and a two-layer random model: kill, resume, refused options."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from srlm.config import from_dict
from srlm.io.record_file import read_records
from srlm.pipeline.workspace import Workspace
from srlm.types import Candidate, Judgement, PreferencePair, Prompt
from tests.forked import run_forked
from tests.terminals import in_terminal

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
REPO = Path(__file__).parents[2]
ENGINE = "vllm" if importlib.util.find_spec("vllm") else "transformers"


def command(runs: Path, *options: str, engine: str = "transformers") -> list[str]:
    return [sys.executable, "-m", "srlm.run", "experiment=smoke", f"runs_dir={runs}", f"engine={engine}", *options]


def run(runs: Path, *options: str, engine: str = ENGINE) -> subprocess.CompletedProcess[str]:
    return run_forked("srlm.run", "experiment=smoke", f"runs_dir={runs}", f"engine={engine}", *options)


def stopped_at(path: Path, *given: str) -> str:
    """Start a command, stop it by SIGTERM once a file exists, so that no later stage costs time; return its output."""
    process = subprocess.Popen(given, cwd=REPO, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 400
    while not path.exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.1)
    exists = path.exists()
    process.terminate()
    _, printed = process.communicate()
    assert exists, printed[-4000:]
    return printed


def records(folder: Path) -> dict[str, bytes]:
    """Return all records except the trainers' logs, which contain times."""
    paths = [path for path in sorted(folder.rglob("*.jsonl")) if "log" not in str(path.relative_to(folder))]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Return a finished run to M2 and its output; with vLLM, where it is installed."""
    runs = tmp_path_factory.mktemp("runs")
    given = command(runs, engine=ENGINE)
    result = subprocess.run(given, cwd=REPO, text=True, capture_output=True, timeout=550)
    assert result.returncode == 0, result.stderr[-4000:]
    return runs / "smoke", result.stderr


def test_the_run_makes_m2_and_stores_all_records(finished: tuple[Path, str]) -> None:
    folder, printed = finished
    for t in (1, 2):
        assert list((folder / f"iteration_{t}" / "model").glob("*.safetensors"))
    prompts = [p for p in read_records(folder / "iteration_2/1_prompts.jsonl", Prompt) if not p.rejected]
    candidates = read_records(folder / "iteration_2/2_candidates.jsonl", Candidate)
    judgements = read_records(folder / "iteration_2/3_judgements.jsonl", Judgement)
    pairs = read_records(folder / "iteration_2/4_pairs.jsonl", PreferencePair)
    assert len(candidates) == 4 * len(prompts)
    assert len(judgements) == len(candidates)
    for judgement in judgements:  # judge=logprob: the mean score by the model's probabilities
        assert bool(judgement.probabilities) == bool(re.search(r"Score: [0-5]", judgement.text))
        if judgement.score is not None:
            mean = sum(score * p for score, p in enumerate(judgement.probabilities)) / sum(judgement.probabilities)
            assert judgement.score == pytest.approx(mean, abs=1e-4)
    assert pairs
    assert {pair.id for pair in pairs} <= {prompt.id for prompt in prompts}
    for t in range(3):
        measures = json.loads((folder / f"iteration_{t}" / "evaluation.json").read_text())
        assert {"judge", "answers", "drift", "contamination"} <= set(measures)
        assert ("head_to_head" in measures) == (t > 0)
        assert list(measures.get("head_to_heads", {})) == [str(u) for u in reversed(range(t))]
    assert "M2 against M1, M0, judged by M1" in printed
    assert "reward hacking" in printed
    for t in (1, 2):  # each model has a model card
        assert f"name: smoke-M{t}" in (folder / f"iteration_{t}/model/README.md").read_text(encoding="utf-8")
    assert "M0" in printed
    assert "M2" in printed
    assert "Traceback" not in printed
    assert not list((folder / "iteration_2").glob("checkpoints/*/*"))


def test_every_input_of_a_stage_has_a_known_origin(finished: tuple[Path, str]) -> None:
    """Every input of a stage is M0 or another stage's output, by hash, so M2 traces back to M0 and the seeds."""
    folder, _ = finished
    manifests = [json.loads(path.read_text()) for path in folder.rglob("manifests/*.json")]
    made = {path: value for manifest in manifests for path, value in manifest["outputs"].items()}
    base = json.loads((folder / "iteration_0" / "model.json").read_text())
    made |= {base["name"]: base["id"], "model.chat_template": "the model's own"}
    for manifest in manifests:
        for path, value in manifest["inputs"].items():
            assert made[path] == value, (manifest["stage"], path)
    [preference] = [m for m in manifests if m["stage"] == "iteration_2/dpo"]
    assert set(preference["inputs"]) == {"iteration_1/model", "iteration_2/4_pairs.jsonl", "model.chat_template"}


def test_policy_equals_reference_before_the_first_step(finished: tuple[Path, str]) -> None:
    counts = json.loads((finished[0] / "iteration_2" / "dpo_counts.json").read_text())
    assert 0 <= counts["reference_check_difference"] < 0.001
    log = [json.loads(line) for line in (finished[0] / "iteration_2" / "dpo_log.jsonl").read_text().splitlines()]
    assert log[0]["loss"] == pytest.approx(0.6931, abs=0.02)  # ln 2: no preference yet


@pytest.mark.parametrize("stage", ["iteration_1/sft", "iteration_2/dpo"])
def test_saved_checkpoints_are_the_trained_policies(finished: tuple[Path, str], stage: str) -> None:
    counts = json.loads((finished[0] / f"{stage}_counts.json").read_text())
    assert counts["saved_dtype"] == "float32"
    assert counts["saved_difference"] < 1e-5
    assert counts["saved_kept"] == pytest.approx(1, abs=1e-3)
    assert "WARNING" not in finished[1]


def test_a_second_run_changes_nothing(finished: tuple[Path, str]) -> None:
    folder, _ = finished
    before = {
        path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and "iteration" in str(path)
    }
    result = run(folder.parent)
    assert result.returncode == 0, result.stderr[-4000:]
    after = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and "iteration" in str(path)}
    assert after == before
    assert "writes" not in result.stderr


def test_changed_options_are_refused_with_their_name(finished: tuple[Path, str]) -> None:
    result = run(finished[0].parent, "candidates.temperature=0.3")
    assert result.returncode == 1
    assert "candidates.temperature was 1.0, now 0.3" in result.stderr
    assert "name=" in result.stderr


@pytest.mark.variant
@pytest.mark.parametrize(
    ("after", "engine"), [("iteration_2/2_candidates.jsonl", ENGINE), ("iteration_1/sft_log.jsonl", "transformers")]
)
def test_resume_after_a_kill_gives_the_same_records(
    request: pytest.FixtureRequest, tmp_path: Path, after: str, engine: str
) -> None:
    """kill -9 once a file has its first lines; the same command then gives the records of an uninterrupted run.

    The killed run begins with the iteration of that file; earlier ones are those of the finished run. The rerun is
    stopped when the records are complete: before DPO, or when M1 has been evaluated.
    """
    fixture = request.getfixturevalue("finished" if engine == ENGINE else "smoke_run")
    finished: Path = fixture[0] if engine == ENGINE else fixture
    shutil.copytree(finished, tmp_path / "smoke")
    first = int(after[len("iteration_")])
    for t in range(first, 3):
        shutil.rmtree(tmp_path / f"smoke/iteration_{t}")
    given = command(tmp_path, f"iteration={first}", engine=engine)
    process = subprocess.Popen(given, cwd=REPO, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    watched = tmp_path / "smoke" / after
    end = time.monotonic() + 400
    while not (watched.exists() and watched.stat().st_size) and process.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
    assert process.poll() is None, "the run ended before it could be killed"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done = "manifests/pairs.json" if first == 2 else "evaluation.json"
    stopped_at(tmp_path / f"smoke/iteration_{first}" / done, *given)  # no lock is held: the worker died with its parent
    later = "iteration_2/evaluation/" if first == 2 else "iteration_2/"  # on a busy machine, some of it exists
    resumed, uninterrupted = (
        {name: text for name, text in records(folder).items() if not name.startswith(later)}
        for folder in (tmp_path / "smoke", finished)
    )
    assert set(resumed) == set(uninterrupted)
    for name, content in uninterrupted.items():
        assert resumed[name] == content, name


def without_dpo(finished: Path, runs: Path) -> Path:
    """Return a copy of a finished run without M2's training and evaluation."""
    folder = runs / finished.name
    shutil.copytree(finished, folder)
    for name in ("dpo", "evaluation"):
        (folder / "iteration_2" / "manifests" / f"{name}.json").unlink()
    for name in ("model", "evaluation"):
        shutil.rmtree(folder / "iteration_2" / name)
    return folder


@pytest.mark.variant
def test_resume_after_a_kill_in_dpo_gives_the_same_model(smoke_run: Path, tmp_path: Path) -> None:
    """kill -9 during DPO: the rerun resumes from a checkpoint and gives the weights of an uninterrupted run."""
    options = ("dpo.epochs=15", "dpo.checkpoint_steps=4")
    made = "iteration_2/manifests/dpo.json"
    uninterrupted = without_dpo(smoke_run, tmp_path / "undisturbed")
    stopped_at(uninterrupted / made, *command(uninterrupted.parent, *options))
    killed = without_dpo(smoke_run, tmp_path / "killed")
    process = subprocess.Popen(command(killed.parent, *options), cwd=REPO, stderr=subprocess.DEVNULL)
    checkpoints = killed / "iteration_2" / "checkpoints" / "dpo"
    end = time.monotonic() + 200
    while not list(checkpoints.glob("checkpoint-*/trainer_state.json")) and time.monotonic() < end:
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(2)  # the worker ends with its parent
    assert not (killed / "iteration_2" / "model").exists()
    stopped_at(killed / made, *command(killed.parent, *options))
    logs = [(folder / "iteration_2" / "dpo_log.jsonl").read_text() for folder in (uninterrupted, killed)]
    steps = [[json.loads(line)["step"] for line in log.splitlines()] for log in logs]
    assert steps[0] == steps[1]
    weights = [load_file(folder / "iteration_2" / "model" / "model.safetensors") for folder in (uninterrupted, killed)]
    for name, weight in weights[0].items():
        torch.testing.assert_close(weights[1][name], weight, rtol=0, atol=1e-6)
    assert any(
        not torch.equal(weight, load_file(smoke_run / "iteration_1" / "model" / "model.safetensors")[name])
        for name, weight in weights[0].items()
    )


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """Yield a folder whose paths fit into 80 columns, so that no path is wrapped."""
    with tempfile.TemporaryDirectory(prefix="r") as folder:
        yield Path(folder)


@pytest.mark.variant
@pytest.mark.parametrize("columns", [80, 120])
def test_terminal_shows_the_run_without_library_output(smoke_run: Path, short_folder: Path, columns: int) -> None:
    """The terminal shows DPO, M2's texts and the final screen; at 120 columns only the final screen."""
    runs = short_folder
    if columns == 80:
        without_dpo(smoke_run, runs)
    else:
        shutil.copytree(smoke_run, runs / "smoke")
    seen = in_terminal(command(runs, f"runs_dir={runs}"), columns, REPO, timeout=400)
    assert seen.code == 0, seen.text[-3000:]
    assert seen.widest <= columns
    for noise in ("'loss'", "it/s", "s/it", "%|", "Warning", "INFO", "WARNING"):
        assert noise not in seen.raw, noise
    assert len(seen.lines) < 120  # the tables take 70
    assert any(line.startswith("│") and "pairwise accuracy" in line for line in seen.lines)
    assert "python -m srlm.run" in seen.text
    assert seen.cursor_is_visible
    if columns == 80:
        [bar] = [line for line in seen.lines if line.startswith("✓ dpo")]
        assert re.search(r" (\d+)/\1 .* a minute in \d\d:\d\d$", bar)
        assert "'loss'" in (runs / "smoke/logs/iteration_2_dpo.log").read_text()


def test_alarms_with_action_stop_prevent_training(finished: tuple[Path, str], tmp_path: Path) -> None:
    folder = without_dpo(finished[0], tmp_path)
    result = run(tmp_path, "alarms.score_deviation.threshold=100", "alarms.score_deviation.action=stop")
    assert result.returncode == 1
    assert "ALARM, M1 as judge: spread of candidates' scores" in result.stderr
    assert "AlarmError: M2 is not trained" in result.stderr
    assert not (folder / "iteration_2" / "model").exists()


@pytest.mark.variant
def test_a_run_continues_to_m3_and_stores_its_config(smoke_run: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(smoke_run, tmp_path / "smoke")
    resume = (sys.executable, "-m", "srlm.run", "--resume", str(folder), "iteration=3")
    stopped_at(folder / "iteration_3/manifests/dpo.json", *resume)
    assert (folder / "iteration_3" / "model" / "config.json").exists()
    workspace = Workspace(folder)
    assert workspace.config().iteration == 3
    assert from_dict(workspace.run()["options"]) == workspace.config()
