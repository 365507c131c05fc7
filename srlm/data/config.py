"""Options of data: sources, IFT and EFT examples."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Annotated

from srlm.ranges import MODEL, SHARE, TEMPERATURE, Range, above, at_least


class IFTAnswers(Enum):
    best = "best"
    all = "all"
    worst = "worst"


class SourceTurns(Enum):
    all = "all"
    first = "first"


class RationaleSource(Enum):
    auto = "auto"
    seed = "seed"
    baseline = "baseline"
    none = "none"


_LOW_HIGH = Range(lambda pair: not pair or (len(pair) == 2 and pair[0] < pair[1]), "empty or [LOWEST, HIGHEST]")
# Datasets of the Hugging Face Hub that a path can name
PUBLISHED = {
    "alpaca_cleaned": "hub:yahma/alpaca-cleaned",
    "arc_challenge": "hub:allenai/ai2_arc:ARC-Challenge",
    "arc_easy": "hub:allenai/ai2_arc:ARC-Easy",
    "arena_hard": "hub:lmarena-ai/arena-hard-auto-v0.1",
    "dolly": "hub:databricks/databricks-dolly-15k",
    "gsm8k": "hub:openai/gsm8k:main",
    "helpsteer": "hub:nvidia/HelpSteer",
    "helpsteer2": "hub:nvidia/HelpSteer2",
    "ifeval": "hub:google/IFEval",
    "oasst1": "hub:OpenAssistant/oasst1",
    "oasst2": "hub:OpenAssistant/oasst2",
    "reward_bench_2": "hub:allenai/reward-bench-2[test]",
    "ultrafeedback": "hub:openbmb/UltraFeedback",
    "ultrafeedback_binarized": "hub:HuggingFaceH4/ultrafeedback_binarized[train_prefs]",
    "wildchat": "hub:allenai/WildChat-1M",
}
FACTS = "facts:"  # and a part of the built-in set of `srlm.data.facts`: facts:ift


def hub_name(path: str) -> str:
    """Return OWNER/NAME of a path that stands for a dataset of the Hub, without its other parts; "" for other paths."""
    path = PUBLISHED.get(path, path)
    return re.split(r"[:@\[]", path.removeprefix("hub:"))[0] if path.startswith("hub:") else ""


@dataclass
class RowsConfig:
    """Where rows come from, and how they are read."""

    # a file, a folder, hub:OWNER/NAME (a dataset of the Hugging Face Hub; also with its other parts,
    # hub:OWNER/NAME:CONFIGURATION@REVISION[SPLIT]), one of srlm.data.config.PUBLISHED, or facts:PART (built-in requests
    # with constraints that a program can check; PART is ift, eft, pool, development or test); "" = none
    path: str = ""
    format: str = "auto"  # auto, one of srlm.data.formats.FORMATS, or module:function
    split: str = "train"  # of a folder or Hub dataset; of the Hub also a slice, train[:1000]
    configuration: str = ""  # of a Hub dataset or folder that has several; "" = its default
    revision: str = ""  # of a Hub dataset: a commit, branch or tag; "" = main
    columns: dict[str, str] = field(default_factory=dict)  # our field -> the source's column


ROW_OPTIONS = tuple(one.name for one in fields(RowsConfig))


@dataclass
class SourceConfig(RowsConfig):
    """Where rows come from, and which of them are used."""

    path: str = "builtin"  # builtin, or as for RowsConfig
    # lowest and highest possible score in the source; empty = 0 to 5, 10 or 100, the first that fits
    score_range: Annotated[list[float], _LOW_HIGH] = field(default_factory=list)
    turns: SourceTurns = SourceTurns.all  # of conversations: all, or the first question with its answers
    languages: list[str] = field(default_factory=list)  # keep only these (ISO 639-1); empty = all
    # rows to keep, drawn at random with the run's seed; 0 = all; unset (data.ift) = by the hardware
    limit: Annotated[int | None, at_least(0)] = 0


def source_of(rows: RowsConfig) -> SourceConfig:
    """Return the source of an option group that has `path`, `format` and the other options of `RowsConfig`."""
    return SourceConfig(**{name: getattr(rows, name) for name in ROW_OPTIONS})


# Values of `data.own_answers.labels` that are no file and no function.
CHECKERS, ENDPOINT_LABELS, PERSON = "checkers", "endpoint", "person"
_ANSWERS = Range(
    lambda model: model not in ("self", "previous", "sft"),
    "sft_baseline, base, endpoint or a model name, because M1 is trained on the answers",
)


@dataclass
class OwnAnswersConfig:
    """EFT answers that a model writes and that are labelled, instead of answers that people wrote and ranked."""

    # "" = the answers and their ranks are those of data.eft. Otherwise a model answers the prompts of data.eft, and
    # this labels its answers from 0 to judge.max_score: checkers (share of the prompt's constraints that an answer
    # follows), endpoint (a server, with the run's judge), person (a file to fill in), a file, or module:function
    labels: str = ""
    # who answers: sft_baseline = M0 after SFT on IFT alone; base = M0; endpoint; or any model name
    model: Annotated[str, MODEL, _ANSWERS] = "sft_baseline"
    count: Annotated[int, at_least(2)] = 4  # answers to each prompt
    temperature: Annotated[float, TEMPERATURE, above(0, ", or all answers are the same text")] = 1.0  # of sampling
    top_p: Annotated[float, SHARE] = 1.0  # nucleus sampling: total probability of the tokens drawn from
    max_new_tokens: Annotated[int, at_least(1)] = 128  # tokens
    # keep prompts whose answers all have one label for training. The ranking loss (sft.eft_loss=ranking) learns from
    # pairs of answers, so they take time and teach it nothing about which answer is better
    keep_tied: bool = True

    @property
    def used(self) -> bool:
        """Return whether the EFT answers are a model's."""
        return bool(self.labels)

    @property
    def by_baseline(self) -> bool:
        """Return whether the SFT baseline writes the EFT answers."""
        return self.used and self.model == "sft_baseline"

    @property
    def checked(self) -> bool:
        """Return whether the labels need prompts with constraints."""
        return self.labels == CHECKERS


@dataclass
class DataConfig:
    """Seed data: IFT and EFT examples, and evaluation prompts."""

    ift: SourceConfig = field(default_factory=lambda: SourceConfig(limit=None))
    eft: SourceConfig = field(default_factory=SourceConfig)
    evaluation: SourceConfig = field(default_factory=SourceConfig)
    own_answers: OwnAnswersConfig = field(default_factory=OwnAnswersConfig)
    ift_answers: IFTAnswers = IFTAnswers.best  # of ranked answers: an example of the best, of each, or of the worst
    builtin_languages: list[str] = field(default_factory=lambda: ["en"])  # of the built-in set (en, zh); empty = all
    # share of the EFT prompts that is held out, to measure judges
    eft_held_out: Annotated[float, Range(lambda value: 0 < value < 1, "between 0 and 1")] = 0.25
    near_duplicate: Annotated[float, SHARE] = 0.7  # ROUGE-L F1 from which two prompts count as the same
    # of EFT examples, before the score: auto = the seed's own where it has them, else the SFT baseline. A judge that
    # writes a rationale sets auto (`judge`)
    rationales: RationaleSource = RationaleSource.none
    eft_max_score_fraction: Annotated[float, SHARE] = 0.3  # no score may make up more than this share of EFT examples
    # the baseline judges a prompt's answers until it orders them as people did
    rationale_attempts: Annotated[int, at_least(1)] = 1
    # the baseline sees a better answer next to a worse one, and names what the worse one lacks
    rationale_reference: bool = False
    # EFT examples in which length says nothing about the score; then the share above is not used
    eft_length_balance: bool = False
    # EFT examples to train on, of whole prompts (pairs: one per prompt in turn); 0 = all
    eft_limit: Annotated[int, at_least(0)] = 0
