"""What the same setting gave over several seeds, and with other judges: the study in experiments/laptop.

A single run cannot say how much of a gain is its judge's. The study repeats the default run with five seeds, and with
controls as the judge of the candidates: a program (an oracle), and random scores. `experiments/laptop/readout.py`
writes its results to assets/controls.json; they are shown beside a run that has the study's options.
"""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from typing import Any

from srlm.config import Config, option_value
from srlm.evaluation.measures import Measure

# {"options": the study's, "arms": [{"judge", "seeds", "gain": M3 minus M1 on the test prompts, pooled over seeds}]}
FILE = "controls.json"
STUDY = "experiments/laptop"
JUDGES = {"self": "its own scores", "program": "a program's scores", "random": "random scores"}  # by judge.model


def controls_line(config: Config) -> str:
    """Return the study's gains for a run that has its options, but for the number of iterations; "" for other runs."""
    study = _study()
    if any(option_value(config, name) != value for name, value in study["options"].items()):
        return ""
    gains = [
        f"{_points(Measure.from_dict(arm['gain']))} with {JUDGES[arm['judge']]} ({arm['seeds']} seeds)"
        for arm in study["arms"]
    ]
    return f"Over several seeds of this setting ({STUDY}), M3 minus M1, points: {'; '.join(gains)}."


@cache
def _study() -> dict[str, Any]:
    return dict(json.loads(resources.files("srlm.reporting").joinpath("assets", FILE).read_text(encoding="utf-8")))


def _points(gain: Measure) -> str:
    if gain.value is None or gain.low is None or gain.high is None:
        return "no value"
    return f"{100 * gain.value:+.1f} [{100 * gain.low:+.1f}, {100 * gain.high:+.1f}]".replace("-", "−")
