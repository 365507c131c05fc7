"""What several tests need."""

import os
import signal
from pathlib import Path

import pytest


def pytest_configure() -> None:
    """Ctrl-C must reach what tests start: background jobs of a shell ignore it, and children inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data that lies beside the project, not in it; tests that need it are skipped without."""
    folder = Path(os.environ.get("SRLM_SHARED_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no folder {folder}: set SRLM_SHARED_DATA to run the tests on real data")
    return folder
