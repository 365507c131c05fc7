"""Fixtures and settings that several tests share."""

import itertools
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import psutil
import pytest
from filelock import FileLock

MOST_WORKERS, GIB_OF_A_WORKER = 4, 6  # a worker and what it starts take some 5 GiB
LONGEST = "test_smoke.py"


def pytest_configure(config: pytest.Config) -> None:
    """Let signals reach the processes that tests start, and give a worker and its children one thread each.

    Background jobs of a shell ignore Ctrl-C, nohup ignores SIGHUP, and children inherit that.
    """
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)
    if hasattr(config, "workerinput"):
        os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_xdist_auto_num_workers() -> int:
    """Return the number of workers of `-n auto`; 0 with a GPU, because each engine reserves most of its memory."""
    import torch

    memory = psutil.virtual_memory().total // 2**30
    return 0 if torch.cuda.is_available() else min(os.cpu_count() or 1, memory // GIB_OF_A_WORKER, MOST_WORKERS)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Run the slowest files first, so that workers end at the same time. A single process keeps the order."""
    if hasattr(config, "workerinput"):
        first = [LONGEST, "e2e", "process"]
        items.sort(key=lambda item: [not (item.path.name == one or item.get_closest_marker(one)) for one in first])


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """With --durations, list the files whose tests and fixtures took longest."""
    seconds: Counter[str] = Counter()
    for report in itertools.chain.from_iterable(terminalreporter.stats.values()):
        if isinstance(report, pytest.TestReport):
            seconds[report.nodeid.partition("::")[0]] += report.duration
    if config.getoption("durations"):
        terminalreporter.section(f"slowest files, of {sum(seconds.values()):.0f} s")
        for name, value in seconds.most_common(30):
            terminalreporter.write_line(f"{value:6.0f} s {name}")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of real data next to the project; tests that need it are skipped without it."""
    folder = Path(os.environ.get("SRLM_SHARED_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no folder {folder}: set SRLM_SHARED_DATA to run the tests on real data")
    return folder


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a checkpoint with two random layers and a tokenizer."""
    from srlm.models import tiny

    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny.build(folder)
    return folder


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Path:
    """Return a finished run to M2 that tests must not change; `own_run` may be changed."""
    from tests.finished_run import make_run

    root = tmp_path_factory.mktemp("runs") / "rivers"
    make_run(root, tiny_checkpoint)
    return root


@pytest.fixture(scope="session")
def smoke_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a real run to M2 (experiment=smoke engine=transformers), made once for all workers; it must not change."""
    folder = tmp_path_factory.getbasetemp()
    runs = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "smoke_run"
    command = [sys.executable, "-m", "srlm.run", "experiment=smoke", "engine=transformers", f"runs_dir={runs}"]
    with FileLock(f"{runs}.lock"):
        if not (runs / "finished").exists():
            ended = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True)
            assert ended.returncode == 0, ended.stderr[-4000:]
            (runs / "finished").touch()
    return runs / "smoke"


@pytest.fixture
def own_run(finished_run: Path, tmp_path: Path) -> Path:
    """Return a copy of `finished_run` that the test may change."""
    config = (finished_run / "config.yaml").read_text()
    shutil.copytree(finished_run, tmp_path / "rivers")
    (tmp_path / "rivers/config.yaml").write_text(config.replace(str(finished_run.parent), str(tmp_path)))
    return tmp_path / "rivers"


@pytest.fixture(autouse=True)
def notes_of_readers():
    """Restore the logger that a command prints on the terminal: afterwards, `caplog` would see none of its records."""
    logger = logging.getLogger("srlm.data")
    before = (logger.handlers[:], logger.propagate, logger.disabled, logger.level)
    yield
    logger.handlers[:], logger.propagate, logger.disabled, logger.level = before
