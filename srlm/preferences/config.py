"""Options of pair selection and alarms."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Annotated

from srlm.data.config import RowsConfig
from srlm.ranges import SHARE, at_least


class Truncated(Enum):
    exclude = "exclude"
    keep = "keep"


class AlarmAction(Enum):
    off = "off"
    warn = "warn"
    stop = "stop"


@dataclass
class PairsConfig(RowsConfig):
    """Selection of preference pairs from candidates, or own pairs.

    Of own pairs, only `count`, `min_pairs` and the options of their rows are used.
    """

    # "" = they are selected from judged candidates. Otherwise preference pairs (for KTO also labelled answers): a file,
    # hub:OWNER/NAME or a published dataset, or the folder of another run, runs/NAME; iteration t takes that run's pairs
    # of iteration t. eft = the best against the worst answer of each EFT prompt that the judge is trained on
    path: str = ""
    count: Annotated[int, at_least(0)] = 0  # rows per iteration, drawn with the run's seed; 0 = all, for one iteration
    min_gap: Annotated[float, at_least(0)] = 0.0  # mean score of chosen minus rejected must exceed this, in points
    # share of an iteration's pairs that is kept: those with the largest gaps, on whatever scale the judge has by then
    keep_share: Annotated[float, SHARE] = 1.0
    # points subtracted from a candidate's score per hundred characters; null = the penalty with which the chosen and
    # rejected answers are equally long on average
    length_penalty: Annotated[float | None, at_least(0)] = 0.0
    # candidates that reached candidates.max_new_tokens. exclude = they are neither chosen nor rejected; keep = they can
    # be, and DPO trains on their text without an end of turn
    truncated: Truncated = Truncated.exclude
    min_pairs: Annotated[int, at_least(1)] = 1  # the run stops before training with fewer
    policy: str = "highest_lowest"  # a name in srlm/preferences/policies, or module:Class


@dataclass
class Alarm:
    threshold: float
    action: AlarmAction = AlarmAction.warn  # off; warn; stop = end the run before training


@dataclass
class AlarmsConfig:
    """Alarms for a collapsed or exploited judge; the statistics are defined in srlm/preferences/alarms.py."""

    parse_rate: Alarm = field(default_factory=lambda: Alarm(0.5))  # triggered below; fraction
    top_score_share: Alarm = field(default_factory=lambda: Alarm(0.8))  # triggered above; fraction
    entropy_bits: Alarm = field(default_factory=lambda: Alarm(0.5))  # triggered below; bits
    tie_share: Alarm = field(default_factory=lambda: Alarm(0.5))  # triggered above; fraction
    mean_gap: Alarm = field(default_factory=lambda: Alarm(0.1))  # triggered below; points
    length_ratio: Alarm = field(default_factory=lambda: Alarm(2.0))  # triggered above; ratio
    score_deviation: Alarm = field(default_factory=lambda: Alarm(0.05))  # triggered below; points
    judge_noise: Alarm = field(default_factory=lambda: Alarm(1.5))  # triggered above; points
    meta_higher_share: Alarm = field(default_factory=lambda: Alarm(0.95))  # triggered above; fraction
    agreement: Alarm = field(default_factory=lambda: Alarm(0.0))  # triggered below; Kendall's tau, -1 to 1
    judge_accuracy: Alarm = field(default_factory=lambda: Alarm(0.6))  # triggered below; fraction, chance is 0.5
