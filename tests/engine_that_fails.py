"""An engine for runs that are to end before they generate text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from srlm.engines.base import LocalEngine
from srlm.errors import EngineError

OPTIONS = ("engine=tests.engine_that_fails:FailingEngine", "model.name=tiny-random")


class FailingEngine(LocalEngine):
    """Fails when it is opened."""

    def __init__(self, options: Any, folder: Path, model: Any):
        raise EngineError("This engine does not start.")

    async def generate(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError
