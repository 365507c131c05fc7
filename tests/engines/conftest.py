"""A server on this machine for the tests of engines."""

from __future__ import annotations

import pytest

from srlm.engines import server as requests
from tests.engines.local_server import KEY, Server


@pytest.fixture
def serve(monkeypatch, tmp_path):
    """Return a function that starts servers; retries do not wait, and each test has its own cache and key."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("SRLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(requests, "PAUSE", 0.01)
    servers = []

    def start(reply):
        servers.append(Server(reply))
        return servers[-1]

    yield start
    for server in servers:
        server.http.shutdown()
        server.http.server_close()
