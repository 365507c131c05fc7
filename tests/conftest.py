"""What several tests need."""

import os
import shutil
import signal
from pathlib import Path

import pytest


def pytest_configure() -> None:
    """Signals must reach what tests start: background jobs of a shell ignore Ctrl-C, nohup ignores SIGHUP, and children
    inherit that."""
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data that lies beside the project, not in it; tests that need it are skipped without."""
    folder = Path(os.environ.get("SRLM_SHARED_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no folder {folder}: set SRLM_SHARED_DATA to run the tests on real data")
    return folder


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ordinary checkpoint: two random layers and a tokenizer."""
    from srlm import tiny

    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny.build(folder)
    return folder


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Path:
    """A finished run to M2, to read; `own_run` is one to change."""
    from tests.finished_run import make_run

    root = tmp_path_factory.mktemp("runs") / "rivers"
    make_run(root, tiny_checkpoint)
    return root


@pytest.fixture
def own_run(finished_run: Path, tmp_path: Path) -> Path:
    """A copy of `finished_run` that the test may change."""
    config = (finished_run / "config.yaml").read_text()
    shutil.copytree(finished_run, tmp_path / "rivers")
    (tmp_path / "rivers/config.yaml").write_text(config.replace(str(finished_run.parent), str(tmp_path)))
    return tmp_path / "rivers"
