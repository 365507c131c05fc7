"""Options of pair selection and alarms."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Annotated

from srlm.ranges import at_least


class Truncated(Enum):
    exclude = "exclude"
    keep = "keep"


class AlarmAction(Enum):
    off = "off"
    warn = "warn"
    stop = "stop"


@dataclass
class PairsConfig:
    """Which candidates become preference pairs."""

    min_gap: Annotated[float, at_least(0)] = 0.0  # chosen's mean minus rejected's must exceed this
    # points subtracted from a candidate's score for each hundred characters; unset = so that the chosen and the
    # rejected answers of the kept pairs are equally long on average
    length_penalty: Annotated[float | None, at_least(0)] = 0.0
    # candidates that hit candidates.max_new_tokens. exclude = they are neither chosen nor rejected; keep = they can be,
    # and DPO trains on their text without an end of turn
    truncated: Truncated = Truncated.exclude
    min_pairs: Annotated[int, at_least(1)] = 1  # stop before training with fewer
    policy: str = "highest_lowest"  # a name in srlm/preferences/policies, or module:Class


@dataclass
class Alarm:
    threshold: float
    action: AlarmAction = AlarmAction.warn  # off; warn; stop = end the run before training


@dataclass
class AlarmsConfig:
    """Signs that a judge has gone blind or is being gamed; what each is: srlm/preferences/alarms.py."""

    parse_rate: Alarm = field(default_factory=lambda: Alarm(0.5))  # rings below; share
    top_score_share: Alarm = field(default_factory=lambda: Alarm(0.8))  # rings above; share
    entropy_bits: Alarm = field(default_factory=lambda: Alarm(0.5))  # rings below; bits
    tie_share: Alarm = field(default_factory=lambda: Alarm(0.5))  # rings above; share
    mean_gap: Alarm = field(default_factory=lambda: Alarm(0.1))  # rings below; points
    length_ratio: Alarm = field(default_factory=lambda: Alarm(2.0))  # rings above
    score_deviation: Alarm = field(default_factory=lambda: Alarm(0.05))  # rings below; points
    judge_noise: Alarm = field(default_factory=lambda: Alarm(1.5))  # rings above; points
    meta_higher_share: Alarm = field(default_factory=lambda: Alarm(0.95))  # rings above; share
    agreement: Alarm = field(default_factory=lambda: Alarm(0.0))  # rings below; Kendall's tau, -1 to 1
