"""Type, reader and writer of evaluation.json, the measures of one model."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from srlm.errors import RunFolderError
from srlm.evaluation.measures import Measure
from srlm.io import serialization
from srlm.io.files import write_atomic
from srlm.metrics import slug
from srlm.pipeline.artifacts import EVALUATION
from srlm.pipeline.workspace import Workspace

V = TypeVar("V")
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
                excluded = {} if part["excluded"] is None else {"excluded": part["excluded"]}
                parts[name] = part["measures"] | {"groups": part["groups"]} | excluded
        parts["head_to_heads"] = {
            str(t): match["measures"] | {"types": match["types"]} for t, match in parts["head_to_heads"].items()
        }
        return {name: part for name, part in parts.items() if part or name == "iteration"}

    @classmethod
    def from_dict(cls, data: Any) -> Evaluation:
        """Return the evaluation that `to_dict` wrote. Raises ValueError on unknown names or wrong types."""
        plain = dict(data)
        for name, read in _READERS.items():
            if plain.get(name) is not None:
                plain[name] = _at(name, read, plain[name])
        plain["head_to_heads"] = {int(t): match for t, match in plain.get("head_to_heads", {}).items()}
        unknown = sorted(set(plain) - set(cls.__dataclass_fields__))
        if unknown or type(plain.get("iteration")) is not int:
            raise ValueError(f"unknown part {unknown[0]!r}" if unknown else "no iteration")
        return cls(**plain)


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
    except (ValueError, TypeError) as error:
        raise RunFolderError(
            f"{path} is damaged or from another version of srlm ({error}). To compute it again, delete it and "
            f"{path.parent / 'manifests' / 'evaluation.json'}, and rerun the run's command."
        ) from error


def write_evaluation(path: Path, evaluation: Evaluation) -> None:
    """Write a model's measures as JSON."""
    write_atomic(path, json.dumps(evaluation.to_dict(), indent=1, ensure_ascii=False))


def measures_of(data: Mapping[str, Any]) -> dict[str, Measure]:
    """Return measures by name from plain dicts. Raises ValueError, with the name, on other fields or types."""
    return _by_name(data, Measure.from_dict)


def _keyed(prefix: str, measures: Measures) -> Iterator[tuple[str, Measure]]:
    return ((f"{prefix}{name}", measure) for name, measure in measures.items())


def _groups(data: Any) -> dict[str, dict[str, Measure]]:
    return _by_name(data, measures_of)


def _instructions(data: Mapping[str, Any]) -> Instructions:
    plain = dict(data)
    groups, excluded = _groups(plain.pop("groups", {})), plain.pop("excluded", None)
    return Instructions(measures_of(plain), groups, excluded)


def _match(data: Mapping[str, Any]) -> Match:
    plain = dict(data)
    types = _groups(plain.pop("types", {}))
    return Match(measures_of(plain), types)


def _details(data: Mapping[str, Any]) -> JudgeDetails:
    plain = dict(data)
    ranks, subsets = measures_of(plain.pop("mean_score_rank", {})), _groups(plain.pop("subsets", {}))
    scores = serialization.from_dict(Scores, plain.pop("scores", {}))
    return JudgeDetails(**plain, scores=scores, mean_score_rank=ranks, subsets=subsets)


def _at(name: str, read: Callable[[Any], V], data: Any) -> V:
    try:
        return read(data)
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{name}: {error}") from error


def _by_name(data: Mapping[str, Any], read: Callable[[Any], V]) -> dict[str, V]:
    return {name: _at(name, read, value) for name, value in data.items()}


_READERS: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("judge", "answers", "drift", "head_to_head"), measures_of),
    **dict.fromkeys(("instructions", "ifeval"), _instructions),
    "judge_metrics": _details,
    "contamination": lambda data: serialization.from_dict(Contaminated, data),
    "head_to_heads": lambda data: _by_name(data, _match),
}
