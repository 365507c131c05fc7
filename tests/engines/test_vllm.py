"""Unfinished outputs of vLLM are errors. The engine itself is tested in tests/e2e."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from srlm.engines.vllm import check_finished
from srlm.errors import EngineError


def output(*reasons: str | None) -> SimpleNamespace:
    return SimpleNamespace(outputs=[SimpleNamespace(finish_reason=reason) for reason in reasons])


@pytest.mark.parametrize("reasons", [["stop"], ["length"], ["stop", "length"]])
def test_finished_completions_are_accepted(reasons):
    check_finished(output(*reasons))


@pytest.mark.parametrize("reasons", [["abort"], ["error"], [None], ["stop", "abort"]])
def test_unfinished_completions_are_refused(reasons):
    """An engine core that receives SIGTERM returns each waiting request at once, without text, as aborted."""
    with pytest.raises(EngineError, match="before it was finished"):
        check_finished(output(*reasons))
