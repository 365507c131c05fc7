"""srlm: self-rewarding language models, as a command and as a Python library.

    import srlm
    scores = srlm.score(["Name a river."], [["The Oder.", "A mountain."]], config=srlm.compose("judge=logprob"))

`import srlm` imports no torch: every function is imported at its first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from srlm.api.comparison import ModelComparison as ModelComparison
    from srlm.api.comparison import compare as compare
    from srlm.api.options import compose as compose
    from srlm.api.runs import Run as Run
    from srlm.api.runs import open_run as open_run
    from srlm.api.scoring import Scores as Scores
    from srlm.api.scoring import score as score
    from srlm.api.selection import PairSelection as PairSelection
    from srlm.api.selection import select_pairs as select_pairs
    from srlm.api.training import TrainedModel as TrainedModel
    from srlm.api.training import dpo as dpo

__version__ = "0.1.0"

_MODULES = {
    "ModelComparison": "comparison",
    "PairSelection": "selection",
    "Run": "runs",
    "Scores": "scoring",
    "TrainedModel": "training",
    "compare": "comparison",
    "compose": "options",
    "dpo": "training",
    "open_run": "runs",
    "score": "scoring",
    "select_pairs": "selection",
}
__all__ = [*_MODULES, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'srlm' has no attribute {name!r}")
    return getattr(importlib.import_module(f"srlm.api.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
