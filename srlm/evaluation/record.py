"""Type, reader and writer of evaluation.json, the measures of one model."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from srlm.errors import RunFolderError
from srlm.evaluation.measures import Measure
from srlm.io import serialization
from srlm.io.files import write_atomic
from srlm.metrics import slug
from srlm.pipeline.artifacts import EVALUATION
from srlm.pipeline.workspace import Workspace

Measures = Mapping[str, Measure]  # by name, of one part of srlm/metrics.py


@dataclass(frozen=True)
class Scores:
    """Distribution of a judge's scores: a histogram, integer score -> judgements, and its entropy in bits."""

    histogram: dict[str, int] = field(default_factory=dict)
    entropy_bits: float = 0.0


@dataclass(frozen=True)
class JudgeDetails:
    """Counts and breakdowns of a judge on held-out answers (`srlm.evaluation.judge_metrics`)."""

    prompts: int = 0
    pairs: int = 0
    judgements: int = 0
    scores: Scores = Scores()
    length_penalty: float = 0.0
    mean_score_rank: Measures = field(default_factory=dict)  # by human rank
    subsets: Mapping[str, Measures] = field(default_factory=dict)  # by type of prompt


@dataclass(frozen=True)
class Contaminated:
    """Counts of evaluation prompts in the training data, and the ids of those that are excluded."""

    prompts: int = 0
    excluded: int = 0
    exact: int = 0
    thirteen_gram: int = 0
    ids: tuple[str, ...] = ()


@dataclass(frozen=True)
class Instructions:
    """Fractions of verifiable instructions followed, in total and by group of instructions."""

    measures: Measures = field(default_factory=dict)
    groups: Mapping[str, Measures] = field(default_factory=dict)
    excluded: int | None = None  # IFEval prompts in the training data; None for the evaluation prompts
    behaviours: Mapping[str, Measures] = field(default_factory=dict)  # asked for and not; only of evaluation prompts


@dataclass(frozen=True)
class Match:
    """Head to head with one earlier model, over all prompts and by type of prompt."""

    measures: Measures = field(default_factory=dict)
    types: Mapping[str, Measures] = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluation:
    """The measures of M_`iteration`; a part that was not measured is empty or None."""

    iteration: int
    judge: Measures = field(default_factory=dict)
    judge_metrics: JudgeDetails | None = None
    contamination: Contaminated | None = None
    answers: Measures = field(default_factory=dict)
    drift: Measures = field(default_factory=dict)
    instructions: Instructions | None = None
    ifeval: Instructions | None = None
    head_to_heads: Mapping[int, Match] = field(default_factory=dict)  # by the earlier model's iteration
    head_to_head: Measures = field(default_factory=dict)  # against the previous model
    head_to_head_judge: str = ""

    def part(self, name: str) -> Measures:
        """Return the measures of a part, without breakdowns by group or type."""
        part: Any = getattr(self, name)
        return part.measures if isinstance(part, Instructions) else part or {}

    def measures(self) -> Iterator[tuple[str, Measure]]:
        """Yield every measure with its key in srlm/metrics.py."""
        for part in ("judge", "answers", "drift", "instructions", "ifeval", "head_to_head"):
            yield from _keyed(f"{part}/", self.part(part))
        if self.judge_metrics:
            yield from _keyed("judge_metrics/mean_score_rank_", self.judge_metrics.mean_score_rank)
            for type_name, of_type in self.judge_metrics.subsets.items():
                yield from _keyed(f"judge_metrics/subsets_{slug(type_name)}_", of_type)
        for part, instructions in (("instructions", self.instructions), ("ifeval", self.ifeval)):
            for group, of_group in instructions.groups.items() if instructions else ():
                yield from _keyed(f"{part}/groups_{slug(group)}_", of_group)
            for behaviour, of_behaviour in instructions.behaviours.items() if instructions else ():
                yield from _keyed(f"{part}/behaviours_{slug(behaviour)}_", of_behaviour)
        for t, match in self.head_to_heads.items():
            yield from _keyed(f"head_to_heads/M{t}_", match.measures)
            for type_name, of_type in match.types.items():
                yield from _keyed(f"head_to_heads/M{t}_types_{slug(type_name)}_", of_type)

    def counts(self) -> Iterator[tuple[str, float]]:
        """Yield every value without an interval, with its key in srlm/metrics.py."""
        if details := self.judge_metrics:
            for name in ("prompts", "pairs", "judgements", "length_penalty"):
                yield f"judge_metrics/{name}", getattr(details, name)
            yield "judge_metrics/scores_entropy_bits", details.scores.entropy_bits
            for score, count in details.scores.histogram.items():
                yield f"judge_metrics/scores_histogram_{score}", count
        if self.contamination:
            for name in ("prompts", "excluded", "exact", "thirteen_gram"):
                yield f"contamination/{name}", getattr(self.contamination, name)
        if self.ifeval and self.ifeval.excluded is not None:
            yield "ifeval/excluded", self.ifeval.excluded

    def to_dict(self) -> dict[str, Any]:
        """Return the content of evaluation.json, without the parts that were not measured."""
        parts: dict[str, Any] = asdict(self)
        for name in ("instructions", "ifeval"):
            if part := parts[name]:
                others = {} if part["excluded"] is None else {"excluded": part["excluded"]}
                others |= {"behaviours": part["behaviours"]} if part["behaviours"] else {}
                parts[name] = part["measures"] | {"groups": part["groups"]} | others
        parts["head_to_heads"] = {
            str(t): match["measures"] | {"types": match["types"]} for t, match in parts["head_to_heads"].items()
        }
        return {name: part for name, part in parts.items() if part or name == "iteration"}

    @classmethod
    def from_dict(cls, data: Any) -> Evaluation:
        """Return the evaluation that `to_dict` wrote. Raises ValueError on unknown names or wrong types."""
        plain = dict(data)
        for name in ("instructions", "ifeval"):
            if name in plain:
                plain[name] = _nested(plain[name], "groups", "excluded", "behaviours")
        plain["head_to_heads"] = {t: _nested(match, "types") for t, match in plain.get("head_to_heads", {}).items()}
        return serialization.from_dict(cls, plain)


def evaluation_path(workspace: Workspace, t: int) -> Path:
    """Return the path of M_t's evaluation.json."""
    return workspace.iteration(t) / EVALUATION


def read_evaluation(path: Path) -> Evaluation:
    """Return the measures in a file that `write_evaluation` wrote.

    Raises
    ------
    RunFolderError
        If the file is damaged, or from another version of srlm.
    """
    try:
        return Evaluation.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError, AttributeError) as error:
        raise RunFolderError(
            f"{path} is damaged or from another version of srlm ({error}). To compute it again, delete it and "
            f"{path.parent / 'manifests' / 'evaluation.json'}, and rerun the run's command."
        ) from error


def write_evaluation(path: Path, evaluation: Evaluation) -> None:
    """Write a model's measures as JSON."""
    write_atomic(path, json.dumps(evaluation.to_dict(), indent=1, ensure_ascii=False))


def measures_of(data: Mapping[str, Any]) -> dict[str, Measure]:
    """Return measures by name from plain dicts. Raises ValueError on other fields or types."""
    return {name: Measure.from_dict(one) for name, one in data.items()}


def to_dicts(measures: Measures) -> dict[str, Any]:
    """Return measures by name as plain dicts, for JSON."""
    return {name: measure.to_dict() for name, measure in measures.items()}


def _keyed(prefix: str, measures: Measures) -> Iterator[tuple[str, Measure]]:
    return ((f"{prefix}{name}", measure) for name, measure in measures.items())


def _nested(data: Mapping[str, Any], *others: str) -> dict[str, Any]:
    """Return a part with its measures as a separate entry, next to those in `others`."""
    measures = {name: one for name, one in data.items() if name not in others}
    return {"measures": measures} | {name: data[name] for name in others if name in data}
