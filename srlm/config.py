"""The option groups of every command. Each group's dataclass stands next to the code that reads it.

Hydra checks names and types against these dataclasses, whose values come from the yaml files in conf/. `srlm.cli.check`
tests ranges (`srlm.ranges`) and combinations once, after composition. Nothing else in the package depends on Hydra.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import reduce
from typing import Annotated, Any

from srlm.data.config import DataConfig
from srlm.engines.config import ENGINE_OPTIONS, EndpointConfig, EngineConfig, VllmConfig
from srlm.engines.config import options_type as engine_options_type
from srlm.errors import ConfigError
from srlm.evaluation.config import EvaluationConfig
from srlm.generation.config import CandidatesConfig, JudgementsConfig, PromptsConfig
from srlm.judges.config import JUDGE_OPTIONS, JudgeConfig, LogprobJudgeConfig, default_judge
from srlm.judges.config import options_type as judge_options_type
from srlm.models.config import ModelConfig
from srlm.preferences.config import AlarmsConfig, PairsConfig
from srlm.ranges import DTYPES as DTYPES
from srlm.ranges import SAVE_DTYPES as SAVE_DTYPES
from srlm.ranges import Range, at_least, one_of
from srlm.tracking.config import Tracker, TrackingConfig
from srlm.training.config import LoopConfig
from srlm.training.methods import METHODS, group_of, method_of, training_options
from srlm.training.methods.dpo import DPOConfig
from srlm.training.methods.reward_model import RewardModelConfig
from srlm.training.methods.sft import SFTConfig

C = typing.TypeVar("C", bound="Config")


def with_methods(kind: type[C]) -> type[C]:
    """Give a dataclass an option group for each training method that it does not name itself."""
    for name, method in METHODS.items():
        if name not in kind.__annotations__:
            kind.__annotations__[name] = method.config
            setattr(kind, name, field(default_factory=method.config))
    return kind


_FOLDER = Range(lambda name: bool(name) and ".." not in name.split("/"), "a folder name")


@dataclass
@with_methods
class Config:
    name: Annotated[str, _FOLDER] = "default"  # the run: its folder is runs_dir/name
    recipe: str = "self_rewarding"  # the stages and their order: a name in srlm/recipes, or module:Class
    # what trains M_t+1 on the feedback of M_t: a name in srlm/training/methods (dpo), or module:Class
    method: str = "dpo"
    # options that a method from outside the package adds, by name: {margin: 0.5}
    method_options: dict[str, Any] = field(default_factory=dict)
    runs_dir: str = "runs"  # the folder of all runs
    iteration: Annotated[int, at_least(1)] = 2  # bring the run to M_iteration
    seed: Annotated[int, at_least(0)] = 0  # every random choice derives from it
    # a metric of the last model's evaluation, such as judge/pairwise_accuracy: what a run returns to a sweeper that
    # searches for good options, such as Optuna's; "" = nothing
    objective: str = ""
    model: ModelConfig = field(default_factory=ModelConfig)
    engine: EngineConfig = field(default_factory=VllmConfig)
    endpoint: EndpointConfig = field(default_factory=EndpointConfig)
    data: DataConfig = field(default_factory=DataConfig)
    prompts: PromptsConfig = field(default_factory=PromptsConfig)
    candidates: CandidatesConfig = field(default_factory=CandidatesConfig)
    judge: JudgeConfig = field(default_factory=default_judge)
    judgements: JudgementsConfig = field(default_factory=JudgementsConfig)
    pairs: PairsConfig = field(default_factory=PairsConfig)
    alarms: AlarmsConfig = field(default_factory=AlarmsConfig)
    sft: SFTConfig = field(default_factory=SFTConfig)
    reward_model: RewardModelConfig = field(default_factory=RewardModelConfig)
    dpo: DPOConfig = field(default_factory=DPOConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    @property
    def training(self) -> LoopConfig:
        """Return the options of `method`."""
        return typing.cast(LoopConfig, training_options(self, method_of(self)))

    @property
    def learns_from(self) -> tuple[type, ...]:
        """Return the kinds of records that `method` trains on."""
        return method_of(self).learns_from

    @property
    def min_valid(self) -> int:
        """Return how many valid judgements a candidate needs: `judge.min_valid`, or 1 of own judgements."""
        return 1 if self.judgements.path else self.judge.min_valid

    def implicit_beta(self) -> tuple[str, float]:
        """Return the name and the value of the option that scales the implicit reward: the beta of `method`.

        Raises
        ------
        ConfigError
            If the method has no beta.
        """
        beta = getattr(self.training, "beta", None)
        if beta is None:
            raise ConfigError(
                f"judge={self.judge.scorer} is scaled by the beta of the training method, and method={self.method} has "
                "no such option. Choose another judge, or a method with a beta, such as dpo."
            )
        return f"{group_of(method_of(self))}.beta", beta


@dataclass
class JudgeBench(Config):
    """`srlm judge-bench`: measure judges on answers that people ranked; the other options are those of a run."""

    name: str = "judge_bench"
    judge: JudgeConfig = field(default_factory=LogprobJudgeConfig)
    models: list[str] = field(default_factory=list)  # names, folders or files, one row each; empty = only model.name
    datasets: list[str] = field(default_factory=lambda: ["builtin"])  # builtin, attacks, files, hub:OWNER/NAME
    split: str = "train"  # of folders and Hub datasets
    limit: int = 0  # rows of each dataset, drawn with the run's seed; 0 = all


@dataclass
class Evaluate(Config):
    """`srlm evaluate`: comparison of any models; the other options are those of a run.

    For this command, evaluation.judge is "first" (the first of the models), a model name or endpoint.
    """

    name: str = "evaluate"
    # names, Hub ids, folders, files, or patterns of folders (runs/sweep-*/iteration_1/model); empty = only model.name
    models: list[str] = field(default_factory=list)
    # options of their runs ([sft.train_on,data.ift.limit]). Models with the same values form one arm with one result;
    # other differences, such as seeds, count as random. An arm is compared with the first arm that differs from it only
    # in the first option. Empty = every model separately
    group_by: list[str] = field(default_factory=list)
    suite: list[str] = field(default_factory=lambda: ["answers", "head_to_head"])  # also loss, benchmarks
    dataset: str = "builtin"  # prompts to answer: builtin, a file or folder, hub:OWNER/NAME, or a published dataset
    split: str = "train"  # of folders and Hub datasets
    # prompts, and examples of each file, drawn with the run's seed; 0 = all (evaluation.prompts is not used)
    limit: int = 0
    # loss: files of prompts with answers, builtin, hub:OWNER/NAME, train = the IFT data of a model's run
    examples: list[str] = field(default_factory=list)
    num_shown: int = 0  # prompts whose answers are shown in the terminal; side_by_side.html has all; >= 0
    benchmarks: list[str] = field(default_factory=list)  # names of lm-evaluation-harness: arc_easy, gsm8k, mmlu, ...
    benchmark_limit: int = 0  # the first documents of each task; 0 = all
    benchmark_shots: int | None = None  # few-shot examples; unset = each task's default
    include_path: str = ""  # folder of custom yaml tasks for the harness; "" = none
    evaluation: EvaluationConfig = field(default_factory=lambda: EvaluationConfig(judge="first"))


@dataclass
class SideBySide(Evaluate):
    """`srlm side-by-side`: `srlm evaluate suite=[answers]` with greedy answers, some of them in the terminal."""

    name: str = "side_by_side"
    suite: list[str] = field(default_factory=lambda: ["answers"])  # answers alone
    num_shown: int = 3  # as for evaluate
    evaluation: EvaluationConfig = field(default_factory=lambda: EvaluationConfig(judge="first", temperature=0.0))


@dataclass
class ShowMasking(Config):
    """`srlm show-masking`: show on which tokens SFT trains; the other options are those of a run."""

    name: str = "show_masking"
    # "" = the data that a run with these options trains on; or builtin, a file, or hub:OWNER/NAME, which replaces both
    # data.ift and data.eft (their other options still apply) and is not split
    dataset: str = ""
    split: str = "train"  # of `dataset`, a folder or Hub dataset
    count: int = 1  # examples of each kind, IFT and EFT; >= 1
    tracking: TrackingConfig = field(default_factory=lambda: TrackingConfig(tracker=Tracker.none))


@dataclass
class CheckModel(Config):
    """`srlm check-model`: whether models can be used; the other options as for a run."""

    name: str = "check_model"
    models: list[str] = field(default_factory=list)  # names, hub ids, folders or files
    # what for: train (the base model), generate (a judge or prompt writer), classify (a reward model as judge)
    use: Annotated[str, one_of("train", "generate", "classify")] = "train"


def to_dict(config: Any) -> dict[str, Any]:
    """Return the options as nested dicts with Enums by name, as in config.yaml and in manifests."""
    return typing.cast(dict[str, Any], _plain(dataclasses.asdict(config)))


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return value


def from_dict(data: dict[str, Any]) -> Config:
    """Return the Config of a dict that `to_dict` returned, such as a run's config.yaml."""
    return from_dict_as(Config, data)


def from_dict_as(kind: type[C], data: Mapping[str, Any]) -> C:
    """Do the same as `from_dict` for another command's options.

    `data` may be from another version: a missing option has its default value, and an option that does not exist in
    this version is ignored (`unknown_options` returns it).
    """
    return typing.cast(C, updated(kind(), data))


@dataclass(frozen=True)
class Kinds:
    """An option group whose options depend on the component that one of them names.

    Attributes
    ----------
    group : str
        The option group: judge, engine.
    base : type
        The dataclass of the options that all components of the group have.
    option : str
        The option that names the component: scorer.
    known : mapping
        Name of a component of the package -> the dataclass of its options.
    of : callable
        Returns the dataclass for any name, also "module:Class"; raises ConfigError if there is no such component.
    """

    group: str
    base: type
    option: str
    known: Mapping[str, type]
    of: Callable[[str], Any]

    def of_saved(self, data: Mapping[str, Any]) -> Any:
        """Return the dataclass of saved options, `base` if they name no component."""
        return self.of(data[self.option]) if data.get(self.option) else self.base


KINDS = (
    Kinds("judge", JudgeConfig, "scorer", JUDGE_OPTIONS, judge_options_type),
    Kinds("engine", EngineConfig, "kind", ENGINE_OPTIONS, engine_options_type),
)


def kinds_for(group: Any) -> Kinds | None:
    """Return the entry of `KINDS` for the dataclass of an option group; None if all its options always exist."""
    return next((one for one in KINDS if isinstance(group, type) and issubclass(group, one.base)), None)


def kinds_of(group: Any) -> tuple[Any, ...]:
    """Return the dataclasses that an option group can have, given the type of its field."""
    kinds = kinds_for(group)
    return tuple(dict.fromkeys((group, *kinds.known.values()))) if kinds else (group,)


def unknown_options(kind: Any, data: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return the dotted names in nested `data` that are no options of the dataclass `kind`, in no kind of component."""
    hints = {name: hint for one in reversed(kinds_of(kind)) for name, hint in typing.get_type_hints(one).items()}
    if kinds := kinds_for(kind):
        hints |= typing.get_type_hints(kinds.of_saved(data))
    found: list[str] = []
    for name, value in data.items():
        if name not in hints:
            found.append(f"{prefix}{name}")
        elif dataclasses.is_dataclass(hints[name]):
            found += unknown_options(hints[name], value, f"{prefix}{name}.")
    return found


def is_of_other_kind(kind: type[Config], name: str) -> bool:
    """Return whether a dotted option exists in some kind of component, such as another judge."""
    group, _, rest = name.partition(".")
    hint = typing.get_type_hints(kind).get(group)
    return kinds_for(hint) is not None and any(rest in typing.get_type_hints(one) for one in kinds_of(hint))


def default_options(config: C) -> C:
    """Return the default options of a command, with the kinds of components that `config` has."""
    defaults = type(config)()
    for kinds in KINDS:
        default, kind = getattr(defaults, kinds.group), type(getattr(config, kinds.group))
        if kind is not type(default):
            named = {kinds.option: getattr(default, kinds.option)}
            setattr(defaults, kinds.group, dataclasses.replace(kind(), **named))
    return defaults


MISSING: typing.Final = object()  # what `option_value` returns for an option that does not exist


def option_value(config: Any, name: str) -> Any:
    """Return the value of a dotted option or property as a manifest holds it, or `MISSING` if there is no such option.

    An entry of a dict option (data.ift.columns.prompt) that is not set is None.
    """
    value, rest = config, name
    while rest:
        if isinstance(value, dict):
            return _plain(_entry(value, rest))
        part, _, rest = rest.partition(".")
        value = getattr(value, part, MISSING)
    return MISSING if dataclasses.is_dataclass(value) else _plain(value)


def _entry(values: dict[str, Any], name: str) -> Any:
    if name in values:
        return values[name]
    first, _, rest = name.partition(".")
    inner = values.get(first)
    return _entry(inner, rest) if rest and isinstance(inner, dict) else None


def updated(default: Any, data: Mapping[str, Any]) -> Any:
    """Return the dataclass instance `default` with the values that `data` gives."""
    hints = typing.get_type_hints(type(default))
    given = {
        name: updated(_of_kind(getattr(default, name), value), value)
        if dataclasses.is_dataclass(hints[name])
        else _build(hints[name], value)
        for name, value in data.items()
        if name in hints
    }
    return dataclasses.replace(default, **given)


def _of_kind(default: Any, data: Mapping[str, Any]) -> Any:
    """Return the default options of the kind of component that `data` names."""
    kinds = kinds_for(type(default))
    kind = kinds.of(data[kinds.option]) if kinds and data.get(kinds.option) else type(default)
    same = kind is type(default) and (kinds is None or data.get(kinds.option) in (None, getattr(default, kinds.option)))
    return default if same else kind()


def _build(kind: Any, value: Any) -> Any:
    if isinstance(kind, type) and issubclass(kind, Enum):
        return kind[value]
    if typing.get_origin(kind) in (types.UnionType, typing.Union) and value is None:
        return None
    return value


def flatten(options: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Return the options at or below the dotted `prefix`, flat: {"judge": {"count": 3}} becomes {"judge.count": 3}."""
    value: Any = options
    for part in prefix.split("."):
        value = value[part]
    return _flat(value, prefix)


def _flat(value: Any, prefix: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {prefix: value}
    return {name: v for key in value for name, v in _flat(value[key], f"{prefix}.{key}").items()}


def options_of(config: Config, *prefixes: str) -> dict[str, Any]:
    """Return the options at or below `prefixes`, flat, as in a manifest."""
    found: dict[str, Any] = {}
    for prefix in prefixes:
        value = option_value(config, prefix)
        group = reduce(getattr, prefix.split("."), config) if value is MISSING else None
        found |= _flat(value if group is None else to_dict(group), prefix)
    return found
