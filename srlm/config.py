"""Every option, typed, with its unit and range; yaml files hold values only.

Hydra checks names and types against these dataclasses. `check` tests the ranges and what options say together, once,
after composition; the rest of the package gets plain frozen-by-habit dataclasses and never sees Hydra.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import reduce
from typing import Any

from srlm.data.config import SourceConfig
from srlm.preferences.config import AlarmsConfig, PairsConfig
from srlm.training.methods import METHODS
from srlm.training.methods.dpo import DPOConfig
from srlm.training.methods.reward_model import RewardModelConfig
from srlm.training.methods.sft import SFTConfig

C = typing.TypeVar("C", bound="Config")


class EngineKind(Enum):
    vllm = "vllm"
    transformers = "transformers"


class IFTAnswers(Enum):
    best = "best"
    all = "all"
    worst = "worst"


class RationaleSource(Enum):
    auto = "auto"
    seed = "seed"
    baseline = "baseline"
    none = "none"


class Opponents(Enum):
    all = "all"
    previous = "previous"


class Tracker(Enum):
    wandb = "wandb"
    tensorboard = "tensorboard"
    jsonl = "jsonl"
    none = "none"


@dataclass
class ModelConfig:
    """The base model M0, or any fixed model beside it."""

    name: str = "smollm2-135m-instruct"  # packaged name, hub id, local folder, or a .gguf file
    revision: str = ""  # hub revision; "" = the default branch
    chat_template: str = ""  # "" = the model's own; else a name in srlm/models/chat_templates or a .jinja file
    # variables for the chat template, such as {enable_thinking: false}, in training and generation alike
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    template_date: str = "2024-07-26"  # YYYY-MM-DD, for templates that write today's date: no prompt reads the clock
    # What a model writes from thought_start to thought_end, before its answer: not judged, measured or checked, but
    # trained on by DPO. An empty thought_start: whatever stands before thought_end; an empty thought_end: no thoughts.
    thought_start: str = "<think>"
    thought_end: str = "</think>"
    trust_remote_code: bool = False  # run code that a hub repository ships: only for repositories you trust


@dataclass
class EngineConfig:
    """Who writes text for the models of the run."""

    kind: EngineKind = EngineKind.vllm  # the engine; engine=vllm and engine=transformers set it
    dtype: str = "auto"  # auto = float32 on a CPU, bfloat16 on a GPU; else float32, bfloat16, float16
    max_model_len: int = 2048  # tokens, prompt and completion together; >= 64
    max_concurrent: int = 64  # sequences decoded at once; >= 1
    kv_cache_gib: float = 2.0  # CPU only: memory for the key-value cache, GiB; > 0
    gpu_memory_utilization: float = 0.9  # GPU only: share of memory the engine may take; (0, 1]
    tensor_parallel_size: int = 1  # GPUs a model is split over; >= 1
    data_parallel_size: int = 1  # copies of the model; >= 1
    # torch.compile and CUDA graphs; unset = off on a CPU (start takes minutes), on on a GPU
    compile: bool | None = None
    threads: int = 0  # CPU threads for engine and trainer; 0 = OMP_NUM_THREADS, or all cores
    # further arguments by name: of vLLM's AsyncEngineArgs ({kv_cache_dtype: fp8}), or of transformers' from_pretrained
    # ({attn_implementation: sdpa})
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass
class EndpointConfig:
    """An OpenAI-compatible server: a fixed prompt writer or a fixed judge (`writer: endpoint`, `judge: endpoint`)."""

    base_url: str = ""  # such as http://127.0.0.1:8000/v1
    model: str = ""  # the server's name for the model
    api_key_env: str = "OPENAI_API_KEY"  # environment variable that holds the key; the key itself is never stored
    max_concurrent: int = 16  # requests under way at once; >= 1
    timeout_s: float = 120.0  # seconds for one request; > 0
    retries: int = 5  # retries after the first try, with growing pauses; >= 0
    requests_per_minute: float = 0.0  # 0 = as fast as it answers
    cache: bool = True  # answers are kept, and a request that was answered once is not sent again
    # sent instead of each request's own, for models that accept one value only; 0 to 2; unset = as requested
    temperature: float | None = None
    logprobs: bool = True  # the server tells probabilities (top_logprobs); false: verdicts are read from the text alone
    prefill: bool = False  # the server goes on with a begun reply (vLLM's continue_final_message)
    input_price: float = 0.0  # of a million prompt tokens, in your currency; for the ledger in the run's logs
    output_price: float = 0.0  # of a million completion tokens
    budget: float = 0.0  # stop when the run has spent so much; 0 = no limit


@dataclass
class DataConfig:
    ift: SourceConfig = field(default_factory=SourceConfig)
    eft: SourceConfig = field(default_factory=SourceConfig)
    evaluation: SourceConfig = field(default_factory=SourceConfig)
    ift_answers: IFTAnswers = IFTAnswers.best  # of ranked answers: an example of the best, of each, or of the worst
    builtin_languages: list[str] = field(default_factory=lambda: ["en"])  # of the built-in set (en, zh); empty = all
    eft_held_out: float = 0.25  # share of the EFT prompts kept for measuring judges; (0, 1)
    near_duplicate: float = 0.7  # ROUGE-L F1 from which two prompts count as the same; (0, 1]
    rationales: RationaleSource = RationaleSource.auto  # auto = the seed's own where it has them, else the SFT baseline
    eft_max_score_fraction: float = 0.3  # no score may make up more than this share of the EFT examples; (0, 1]
    rationale_attempts: int = 1  # the baseline judges a prompt's answers until it orders them as people did; >= 1
    # the baseline sees a better answer beside a worse one, and names what the worse lacks
    rationale_reference: bool = False
    # EFT examples in which length tells nothing about the score; then the share above is not looked at
    eft_length_balance: bool = False
    eft_limit: int = 0  # EFT examples to train on, of whole prompts (pairs: one a prompt in turn); 0 = all


@dataclass
class PromptsConfig:
    """New prompts (arXiv 2401.10020, section 2.2; filters as in Self-Instruct, arXiv 2212.10560)."""

    count: int = 24  # accepted prompts an iteration; >= 1
    attempts: int = 4  # give up after count x this many attempts; >= 1
    model: str = "self"  # self = M_t; sft = M1; base = M0; endpoint; or any model name
    shots_ift: int = 6  # examples from IFT; >= 1
    shots_generated: int = 2  # examples from prompts accepted before (from IFT while there are none); >= 0
    round_size: int = 16  # attempts that share one view of what was accepted so far; >= 1
    temperature: float = 0.6  # of sampling
    top_p: float = 0.9  # nucleus sampling: total probability of the tokens drawn from; (0, 1]
    max_new_tokens: int = 96  # tokens
    max_overlap: float = 0.7  # reject from this ROUGE-L F1 with any prompt seen; (0, 1]
    min_words: int = 4  # words (characters in scripts written without spaces: Chinese, Japanese, Thai, ...)
    max_words: int = 120  # words, counted as for min_words
    languages: list[str] = field(default_factory=lambda: ["en", "zh"])  # accepted, by script; empty = all
    keywords: list[str] = field(
        default_factory=lambda: [
            "image", "images", "picture", "pictures", "photo", "graph", "graphs", "chart", "diagram", "file", "files",
            "map", "draw", "plot", "video", "audio", "music score", "go to", "website link", "url", "attached",
            "图片", "照片", "附件", "视频", "文件",
        ]
    )  # a prompt that contains one of these (whole words) asks for what text cannot do  # fmt: skip


@dataclass
class CandidatesConfig:
    count: int = 4  # N, candidates a prompt; >= 2
    temperature: float = 0.7  # of sampling
    top_p: float = 0.9  # nucleus sampling: total probability of the tokens drawn from; (0, 1]
    max_new_tokens: int = 128  # tokens


@dataclass
class JudgeConfig:
    """LLM-as-a-Judge by the model itself: an additive 0 to 5 score (arXiv 2401.10020, figure 2); or other judges."""

    # the model that judges candidates: self = M_t (reward_model: the run's own); sft = M1; base = M0; endpoint; or any
    # model name
    model: str = "self"
    # sampled = k judgements are generated, and each one's score is its verdict; logprob_weighted = the same, but the
    # score is the mean of all scores by their probabilities at the place of the verdict; logprob = that mean right
    # after the prompt, without generating; pairwise = candidates are compared two at a time; implicit = by their
    # likelihood against a reference model's; reward_model = a classifier trained on the ranked answers; or module:Class
    scorer: str = "sampled"
    template: str = "additive"  # a name in srlm/judges/templates or a .txt file
    # k, judgements of each candidate; >= 1; 1 with judges that do not sample: logprob, pairwise, implicit, reward_model
    count: int = 3
    min_valid: int = 2  # valid judgements a candidate needs to take part in pairs; 1 to count
    early_stopping: bool = False  # no more judgements of a candidate that will become neither best nor worst
    early_stopping_risk: float = 0.02  # chance to err in that, for each comparison; 0 = only where it is sure; [0, 0.5)
    max_score: int = 5  # scores range from 0 to this; logprob_weighted, logprob: at most 9
    temperature: float = 0.7  # logprob does not use it, nor the next two
    top_p: float = 0.9  # nucleus sampling: total probability of the tokens drawn from; (0, 1]
    max_new_tokens: int = 192  # tokens, rationale and verdict together
    # pairwise: matches a prompt, each in both orders; 0 = all of N (N - 1) / 2; fewer: Swiss-style
    max_comparisons: int = 0
    reference: str = "base"  # implicit: base = M0; previous = the model before the judge; or any model name
    # implicit, reward_model: strength taken off for each token of an answer, log-odds; >= 0; unset = so that the
    # strongest and the weakest candidates are equally long on average
    length_penalty: float | None = 0.0

    # sampled, logprob_weighted: judgements are judged as well, two at a time, and give further pairs for DPO
    # (Meta-Rewarding); `max_comparisons` applies to them too
    meta: bool = False
    meta_template: str = "meta"  # a name in srlm/judges/templates or a .txt file
    meta_max_tokens: int = 0  # tokens; a longer chosen judgement gives no pair; 0 = no limit


@dataclass
class EvaluationConfig:
    # false = models are made and not measured, up to M1 only: for sweeps whose models srlm evaluate measures
    # together
    enabled: bool = True
    prompts: int = 24  # evaluation prompts answered by every model; 0 = all
    eft_prompts: int = 0  # held-out EFT prompts judged by every model; 0 = all
    temperature: float = 0.7  # of sampling
    top_p: float = 0.9  # nucleus sampling: total probability of the tokens drawn from; (0, 1]
    max_new_tokens: int = 128  # tokens
    judgements: int = 1  # judgements a held-out answer; >= 1
    judge: str = "sft"  # the one fixed judge of head to heads: sft = M1; base = M0; endpoint; or any model name
    judge_template: str = "pairwise"  # a name in srlm/judges/templates or a .txt file
    # whom M_t is compared with, two judgements a prompt and opponent: all = every earlier model; previous = M_t-1
    opponents: Opponents = Opponents.all
    # IFEval's prompts, answered greedily by every model: a file with `instruction_id_list` and `kwargs`, or
    # hub:google/IFEval; "" = none
    ifeval: str = ""
    ifeval_prompts: int = 0  # of these, drawn with the run's seed; 0 = all (541)
    ifeval_max_new_tokens: int = 1280  # tokens; some prompts ask for 600 words and more
    bootstrap: int = 2000  # resamples for 95 % intervals of lengths, scores and losses (shares need none); >= 100


@dataclass
class TrackingConfig:
    tracker: Tracker = Tracker.wandb  # where metrics go; tracking=NAME sets it
    mode: str = "auto"  # W&B: auto = online where a key is found, else offline; online; offline
    project: str = "srlm"  # W&B
    entity: str = ""  # W&B: "" = the account's default
    sample_rows: int = 50  # rows a table of samples; W&B and TensorBoard
    artifacts: bool = True  # W&B: store data as artifacts, and models by their manifests


def with_methods(kind: type[C]) -> type[C]:
    """Give a dataclass an option group for each training method that it does not name itself."""
    for name, method in METHODS.items():
        if name not in kind.__annotations__:
            kind.__annotations__[name] = method.config
            setattr(kind, name, field(default_factory=method.config))
    return kind


@dataclass
@with_methods
class Config:
    name: str = "default"  # the run: its folder is runs_dir/name
    recipe: str = "self_rewarding"  # the method: a name in srlm/recipes, or module:Class
    runs_dir: str = "runs"  # the folder of all runs
    iteration: int = 2  # bring the run to M_iteration; >= 1
    seed: int = 0  # every random choice derives from it
    model: ModelConfig = field(default_factory=ModelConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    endpoint: EndpointConfig = field(default_factory=EndpointConfig)
    data: DataConfig = field(default_factory=DataConfig)
    prompts: PromptsConfig = field(default_factory=PromptsConfig)
    candidates: CandidatesConfig = field(default_factory=CandidatesConfig)
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    pairs: PairsConfig = field(default_factory=PairsConfig)
    alarms: AlarmsConfig = field(default_factory=AlarmsConfig)
    sft: SFTConfig = field(default_factory=SFTConfig)
    reward_model: RewardModelConfig = field(default_factory=RewardModelConfig)
    dpo: DPOConfig = field(default_factory=DPOConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)


@dataclass
class JudgeBench(Config):
    """`srlm judge-bench`: judges on answers that people ranked; the other options as for a run."""

    name: str = "judge_bench"
    models: list[str] = field(default_factory=list)  # names, folders or files, a row each; empty = model.name alone
    datasets: list[str] = field(default_factory=lambda: ["builtin"])  # builtin, attacks, files, hub:OWNER/NAME
    split: str = "train"  # hub only
    limit: int = 0  # rows of each, drawn with the run's seed; 0 = all


@dataclass
class Evaluate(Config):
    """`srlm evaluate`: any models side by side; the other options as for a run.

    evaluation.judge is for this command "first" (the first of the models), a model name or endpoint.
    """

    name: str = "evaluate"
    # names, hub ids, folders, files, or patterns of folders (runs/sweep-*/iteration_1/model); empty = model.name alone
    models: list[str] = field(default_factory=list)
    # options of their runs ([sft.train_on,data.ift.limit]): models that agree in them are one arm, told as one, with
    # their other differences, such as seeds, as chance, and compared with the first that differs in the first option
    # alone; empty = every model alone
    group_by: list[str] = field(default_factory=list)
    suite: list[str] = field(default_factory=lambda: ["answers", "head_to_head"])  # of these two, loss and benchmarks
    dataset: str = "builtin"  # prompts to answer: builtin, a file, or hub:OWNER/NAME
    split: str = "train"  # hub only
    # prompts, and examples of each file, drawn with the run's seed; 0 = all (evaluation.prompts is not looked at)
    limit: int = 0
    # loss: files of prompts with answers, builtin, hub:OWNER/NAME, own = the IFT that a model's run was trained on
    examples: list[str] = field(default_factory=list)
    num_shown: int = 0  # prompts whose answers are shown in the terminal; side_by_side.html has all; >= 0
    benchmarks: list[str] = field(default_factory=list)  # lm-evaluation-harness's names: arc_easy, gsm8k, mmlu, ...
    benchmark_limit: int = 0  # documents of each of their tasks, from the first; 0 = all
    benchmark_shots: int | None = None  # examples before each question; unset = as each task has it
    include_path: str = ""  # the harness's yaml tasks of your own; "" = none
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
    """`srlm show-masking`: which tokens SFT learns of which example; the other options as for a run."""

    name: str = "show_masking"
    # "" = what a run with these options would train on; or builtin, a file, or hub:OWNER/NAME, in the place of both
    # data.ift and data.eft (their other options hold) and without the split between these
    dataset: str = ""
    split: str = "train"  # of `data`, hub only
    count: int = 1  # examples of each kind, IFT and EFT; >= 1


SAVE_DTYPES = ("float32", "bfloat16", "float16")
DTYPES = ("auto", *SAVE_DTYPES)


def to_dict(config: Any) -> dict[str, Any]:
    """Plain nested dicts, Enums by name: what config.yaml and the manifests hold."""
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
    """The Config that `to_dict` wrote; a worker process reads the run's config.yaml this way."""
    return from_dict_as(Config, data)


def from_dict_as(kind: type[C], data: Mapping[str, Any]) -> C:
    """As `from_dict`, for another command's options.

    `data` may come from another version: a missing option has its default value, and an option that does not exist in
    this version is left out (`unknown_options` names it).
    """
    return typing.cast(C, _updated(kind(), data))


def unknown_options(kind: Any, data: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return the dotted names in nested `data` that are no options of the dataclass `kind`."""
    hints = typing.get_type_hints(kind)
    found: list[str] = []
    for name, value in data.items():
        if name not in hints:
            found.append(f"{prefix}{name}")
        elif dataclasses.is_dataclass(hints[name]):
            found += unknown_options(hints[name], value, f"{prefix}{name}.")
    return found


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


def _updated(default: Any, data: Mapping[str, Any]) -> Any:
    """The dataclass instance `default` with the values that `data` gives."""
    hints = typing.get_type_hints(type(default))
    given = {
        name: _updated(getattr(default, name), value)
        if dataclasses.is_dataclass(hints[name])
        else _build(hints[name], value)
        for name, value in data.items()
        if name in hints
    }
    return dataclasses.replace(default, **given)


def _build(kind: Any, value: Any) -> Any:
    if isinstance(kind, type) and issubclass(kind, Enum):
        return kind[value]
    if typing.get_origin(kind) in (types.UnionType, typing.Union) and value is None:
        return None
    return value


def flatten(options: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """`{"judge": {"count": 3}}` -> `{"judge.count": 3}`, for those below `prefix` (dotted; itself included)."""
    value: Any = options
    for part in prefix.split("."):
        value = value[part]
    return _flat(value, prefix)


def _flat(value: Any, prefix: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {prefix: value}
    return {name: v for key in value for name, v in _flat(value[key], f"{prefix}.{key}").items()}


def options_of(config: Config, *prefixes: str) -> dict[str, Any]:
    """The options at or below `prefixes`, flat, as a manifest holds them."""
    found: dict[str, Any] = {}
    for prefix in prefixes:
        value = option_value(config, prefix)
        group = reduce(getattr, prefix.split("."), config) if value is MISSING else None
        found |= _flat(value if group is None else to_dict(group), prefix)
    return found
