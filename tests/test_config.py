"""Options: ranges, saving and loading, and every YAML file in conf/ and of the studies in experiments/."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import re
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import Any

import hydra
import pytest
import yaml
from hydra.errors import HydraException
from omegaconf import OmegaConf

import srlm.config
from srlm.cli.check import check
from srlm.cli.commands import COMMANDS
from srlm.config import (
    MISSING,
    Config,
    Evaluate,
    JudgeBench,
    ShowMasking,
    SideBySide,
    flatten,
    from_dict,
    option_value,
    to_dict,
    unknown_options,
)
from srlm.data.config import RationaleSource
from srlm.data.splits import Overlap
from srlm.engines.config import EngineConfig
from srlm.errors import ConfigError
from srlm.evaluation.config import EvaluationConfig
from srlm.generation.config import PromptsConfig
from srlm.generation.prompts import rejection
from srlm.judges.config import (
    JUDGE_OPTIONS,
    ImplicitJudgeConfig,
    RewardModelJudgeConfig,
    SampledJudgeConfig,
    VotesJudgeConfig,
    options_type,
)
from srlm.pipeline.workspace import Workspace
from srlm.preferences.config import AlarmAction
from srlm.ranges import ranges_of
from srlm.run import job_name, plain_options
from srlm.tracking.config import Tracker
from srlm.training.config import LoopConfig, Reference
from srlm.training.methods import METHODS
from srlm.training.methods.sft import TrainOn
from tests.helpers import ROOT, on_cpu, options

CONF = ROOT / "conf"
GROUPS = sorted(
    path.parent.name + "=" + path.stem for path in CONF.glob("*/*.yaml") if path.parent.name != "experiment"
)
EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))
STUDIES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "experiments").glob("*/*.yaml"))
WITH_PLACEHOLDERS = ("data=files", "paper_llama2_70b")


def leaves(options: Any) -> dict[str, Any]:
    return {name: value for group in options for name, value in flatten(options, group).items()}


def typical() -> Config:
    """Return options with a judge that samples several judgements, and no unset option."""
    return on_cpu(Config(judge=SampledJudgeConfig()))


def put(config: Config, option: str, value: Any) -> Config:
    """Set an option; an option of another judge kind also changes the judge."""
    if option in ("judge.reference", "judge.length_penalty"):
        config.judge = ImplicitJudgeConfig()
    if option == "judge.final_answer":
        config.judge = VotesJudgeConfig()
    *groups, name = option.split(".")
    place: Any = config
    for group in groups:
        place = getattr(place, group)
    assert hasattr(place, name)
    setattr(place, name, value)
    return config


# Ranges

OF_THE_LOOP = [name for name, method in METHODS.items() if issubclass(method.config, LoopConfig)]
COUNTS_FROM_1 = (
    *("iteration", "engine.max_concurrent", "engine.tensor_parallel_size", "engine.data_parallel_size"),
    *("endpoint.max_concurrent", "prompts.count", "prompts.attempts", "prompts.shots_ift", "prompts.round_size"),
    *("prompts.min_words", "prompts.max_new_tokens", "candidates.max_new_tokens", "judge.count", "judge.min_valid"),
    *("judge.max_score", "judge.max_new_tokens", "pairs.min_pairs", "evaluation.judgements"),
    *("sft.ift_repeats", "sft.eft_repeats", "data.own_answers.max_new_tokens"),
    *("evaluation.max_new_tokens", "evaluation.ifeval_max_new_tokens", "data.rationale_attempts"),
    *(f"{group}.{name}" for group in METHODS for name in ("batch_size", "micro_batch_size", "processes", "lora.r")),
)
COUNTS_FROM_0 = (
    *(
        "seed",
        "model.max_thought_tokens",
        "engine.threads",
        "endpoint.retries",
        "prompts.shots_generated",
        "evaluation.prompts",
    ),
    *(
        "evaluation.eft_prompts",
        "evaluation.ifeval_prompts",
        "data.eft_limit",
        "pairs.count",
        "judgements.count",
        "data.ift.limit",
        "data.eft.limit",
        "data.evaluation.limit",
    ),
    *("tracking.sample_rows", "tracking.live_seconds", "judge.max_comparisons", "judge.meta_max_tokens"),
    *(f"{group}.{name}" for group in METHODS for name in ("checkpoint_steps", "lora.last_n_layers")),
    *(f"endpoint.{name}" for name in ("requests_per_minute", "input_price", "output_price", "budget")),
)
SHARES = (
    *("engine.gpu_memory_utilization", "data.near_duplicate", "data.eft_max_score_fraction", "prompts.top_p"),
    *("prompts.max_overlap", "candidates.top_p", "judge.top_p", "evaluation.top_p"),
    "data.own_answers.top_p",
)
ABOVE_0 = (
    *("engine.kv_cache_gib", "endpoint.timeout_s"),
    *(f"{group}.{name}" for group in METHODS for name in ("epochs", "learning_rate", "save_tolerance")),
    *(f"{group}.{name}" for group in OF_THE_LOOP for name in ("beta", "reference_check_tolerance")),
)
BELOW_1 = tuple(f"{group}.{name}" for group in METHODS for name in ("warmup_ratio", "dropout", "lora.dropout"))
# (option, invalid values, values at the range's end)
RANGES: list[tuple[str, tuple[Any, ...], tuple[Any, ...]]] = [
    *((option, (0, -1), (1,)) for option in COUNTS_FROM_1 if "batch_size" not in option and option != "judge.count"),
    *((option, (0, -16), ()) for option in COUNTS_FROM_1 if "batch_size" in option),
    *((option, (-1,), (0,)) for option in COUNTS_FROM_0),
    *((option, (0.0, 1.01, -0.5, math.nan), (1.0, 0.01)) for option in SHARES),
    *((option, (0.0, -1.0, math.nan), ()) for option in ABOVE_0),
    *((option, (1.0, -0.1, math.nan), (0.0, 0.99)) for option in BELOW_1),
    *(
        (f"{group}.temperature", (-0.1, 2.1, math.nan), (2.0,))
        for group in ("prompts", "candidates", "judge", "evaluation")
    ),
    *((f"{group}.weight_decay", (-0.1, math.nan), (0.0,)) for group in METHODS),
    *((f"{group}.max_length", (15, 0), (16,)) for group in METHODS),
    *((f"{group}.min_learning_rate", (-1e-9, 1.0, math.nan), (0.0, 5.5e-6)) for group in METHODS),
    *((f"{group}.dtype", ("", "int8", "fp16"), ("float32", "bfloat16", "float16")) for group in ("engine", *METHODS)),
    *((f"{group}.save_dtype", ("", "auto", "int8"), ("float32", "bfloat16", "float16")) for group in METHODS),
    *((f"{group}.optimizer", ("", "adam"), ("adamw", "adafactor")) for group in METHODS),
    *((f"{group}.lora.quantize", ("", "5bit"), ("none",)) for group in METHODS),
    ("sft.prompt_weight", (-0.1, 1.1, math.nan), (0.0, 1.0)),
    ("sft.shared_text", ("(", "*a"), ("", "### .*")),
    *((f"data.{name}.path", ("",), ("hub:OWNER/NAME",)) for name in ("ift", "eft", "evaluation")),
    *(
        (f"data.{name}.score_range", ([1.0], [5.0, 5.0], [0.0, 1.0, 2.0], [0.0, math.nan]), ([], [-1.0, 1.0]))
        for name in ("ift", "eft", "evaluation")
    ),
    ("name", ("", "..", "a/../b"), ("a", "a/b", "a..b")),
    ("judge.count", (0, 1), (2,)),  # judge.min_valid is 2
    ("judge.min_valid", (4,), (3,)),  # judge.count is 3
    ("candidates.count", (1, 0), (2,)),
    ("candidates.temperature", (0.0,), (0.01,)),
    ("evaluation.temperature", (), (0.0,)),
    ("data.own_answers.count", (1, 0), (2,)),
    ("data.own_answers.temperature", (0.0, -0.1, 2.1, math.nan), (0.01, 2.0)),
    ("data.own_answers.model", ("", "self", "sft", "previous"), ("sft_baseline", "base", "OWNER/NAME")),
    ("model.template_date", ("", "today", "2024-7-26"), ("2026-01-01",)),
    ("engine.max_model_len", (63,), (193, 256)),  # judge.max_new_tokens is 192
    ("evaluation.bootstrap", (99,), (100,)),
    ("evaluation.judge", ("", "self"), ("base", "OWNER/NAME")),
    ("prompts.model", ("",), ("self", "OWNER/NAME")),
    *((f"{group}.early_stopping.judge", ("",), ("self", "sft", "OWNER/NAME")) for group in OF_THE_LOOP),
    *((f"{group}.early_stopping.min_net_win", (-0.1, 1.0, math.nan), (0.0, 0.99)) for group in OF_THE_LOOP),
    ("judge.model", ("",), ("self", "sft", "OWNER/NAME")),
    ("prompts.max_words", (3,), (4,)),  # prompts.min_words is 4
    ("pairs.min_gap", (-0.1, math.nan), (0.0,)),
    ("judge.final_answer", ("", "letters"), ("number", "text")),
    ("sft.eft_ranking_weight", (0.0, -1.0, math.nan), (1.0,)),
    ("pairs.keep_share", (0.0, 1.1, math.nan), (0.5, 1.0)),
    ("judge.early_stopping_risk", (-0.1, 0.5, math.nan), (0.0, 0.49)),
    ("data.eft_held_out", (0.0, 1.0, math.nan), (0.01, 0.99)),
    ("tracking.mode", ("", "on"), ("online", "offline")),
    *((f"{group}.batch_size", (7,), (8,)) for group in METHODS),  # micro_batch_size is 2, 4 or 8
    *((f"{group}.early_stopping.every_steps", (0, -1), (1, 200)) for group in OF_THE_LOOP),
    *((f"{group}.early_stopping.min_net_win", (-0.1, 1.0, math.nan), (0.0, 0.99)) for group in OF_THE_LOOP),
    *((f"{group}.early_stopping.prompts", (0, 1), (2, 253)) for group in OF_THE_LOOP),
    ("judge.length_penalty", (-0.1, math.nan), (0.0, None)),
    ("pairs.length_penalty", (-0.1, math.nan), (0.0, None)),
    ("judge.reference", ("", "self", "endpoint"), ("base", "previous", "OWNER/NAME")),
]


def test_default_options_are_valid():
    config = Config()
    assert check(config) is config


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.config], ids=lambda one: one.name)
def test_default_options_in_python_are_those_of_the_command(command):
    """The yaml files hold only what a choice changes."""
    file, kind = command.config
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        words = ["~experiment"] if command.name in ("run", "show-masking") else []
        composed = plain_options(hydra.compose(file, words), getattr(srlm.config, kind))
    assert composed == getattr(srlm.config, kind)()


@pytest.mark.parametrize(("option", "value"), [(option, value) for option, bad, _ in RANGES for value in bad])
def test_value_out_of_range_is_refused(option, value):
    with pytest.raises(ConfigError) as caught:
        check(put(typical(), option, value))
    message = str(caught.value)
    named = "judge.min_valid=2" if (option, value) == ("judge.count", 1) else f"{option}={value!r}"
    assert message.startswith(f"{named} is invalid"), message
    assert re.search(r" is invalid: it must be \S.*\.$", message)


@pytest.mark.parametrize(("option", "value"), [(option, value) for option, _, good in RANGES for value in good])
def test_value_at_the_end_of_its_range_is_accepted(option, value):
    check(put(typical(), option, value))


def test_every_range_is_tested():
    configs = [Config(judge=kind()) for kind in JUDGE_OPTIONS.values()]
    with_range = {option for config in configs for option, _, _ in ranges_of(config)}
    assert len(with_range) > 50
    names = ("limit", "score_range")
    untried = {f"{group}.early_stopping.source.{name}" for group in OF_THE_LOOP for name in names}
    assert with_range - untried <= {option for option, bad, _ in RANGES if bad}


def test_batch_size_must_divide_over_processes():
    config = put(put(put(typical(), "dpo.processes", 8), "dpo.micro_batch_size", 2), "dpo.batch_size", 16)
    check(config)
    with pytest.raises(ConfigError, match=r"dpo\.batch_size=24 .*a multiple of micro_batch_size x processes = 16"):
        check(put(config, "dpo.batch_size", 24))


@pytest.mark.parametrize(
    ("scorer", "option", "value"),
    [
        ("logprob", "evaluation.judgements", 8),
        ("pairwise", "evaluation.judgements", 8),
        ("logprob", "judge.max_score", 10),
        ("logprob_weighted", "judge.max_score", 10),
    ],
)
def test_logprob_scores_need_one_digit_and_one_judgement(scorer, option, value):
    config = Config(judge=options_type(scorer)(scorer=scorer, max_score=9))
    check(config)
    with pytest.raises(ConfigError, match=rf"^{re.escape(option)}={value} is invalid: "):
        check(put(config, option, value))
    config.judge = SampledJudgeConfig(max_score=config.judge.max_score)
    check(config)  # all of them are valid for sampled scores


@pytest.mark.parametrize(
    ("judge", "option"),
    [
        (ImplicitJudgeConfig(model="base"), "judge.model='base'"),
        (ImplicitJudgeConfig(model="OWNER/NAME", reference="previous"), "judge.reference='previous'"),
        (ImplicitJudgeConfig(model="endpoint"), "judge.model='endpoint'"),
        (RewardModelJudgeConfig(model="endpoint"), "judge.model='endpoint'"),
        (RewardModelJudgeConfig(model="sft"), "judge.model='sft'"),
        (SampledJudgeConfig(meta=True, count=1, min_valid=1), "judge.count=1"),
    ],
)
def test_impossible_judge_options_are_refused(judge, option):
    config = Config(judge=judge)
    config.endpoint.base_url, config.endpoint.model = "http://127.0.0.1:8000/v1", "judge-70b"
    with pytest.raises(ConfigError, match=rf"^{re.escape(option)} is invalid: "):
        check(config)


@pytest.mark.parametrize("risk", [0.0, 0.02])
def test_judge_early_stopping_is_refused_with_an_automatic_length_penalty(risk):
    config = Config(judge=SampledJudgeConfig(early_stopping=True, early_stopping_risk=risk))
    check(put(config, "pairs.length_penalty", 0.3))
    with pytest.raises(ConfigError, match=r"^judge\.early_stopping=True is invalid: .*pairs\.length_penalty=null"):
        check(put(config, "pairs.length_penalty", None))


@pytest.mark.parametrize("scorer", ["logprob", "logprob_weighted"])
def test_logprob_judge_on_a_server_needs_logprobs(scorer):
    config = Config(judge=options_type(scorer)(scorer=scorer, model="endpoint"))
    config.endpoint.base_url, config.endpoint.model = "http://127.0.0.1:8000/v1", "judge-70b"
    put(config, "endpoint.logprobs", False)
    with pytest.raises(ConfigError, match=rf"judge\.scorer={scorer} needs .*endpoint\.logprobs=true"):
        check(config)
    check(put(config, "endpoint.logprobs", True))


@pytest.mark.parametrize("option", ["prompts.model", "evaluation.judge", "judge.model"])
@pytest.mark.parametrize("given", [{}, {"base_url": "http://127.0.0.1:8000/v1"}, {"model": "judge-70b"}])
def test_endpoint_must_be_configured_if_it_is_used(option, given):
    config = put(Config(), option, "endpoint")
    for name, value in given.items():
        put(config, f"endpoint.{name}", value)
    with pytest.raises(ConfigError, match=rf"{re.escape(option)}=endpoint needs endpoint.base_url and endpoint.model"):
        check(config)
    config.endpoint.base_url, config.endpoint.model = "http://127.0.0.1:8000/v1", "judge-70b"
    check(config)


# Saving and loading


def unusual() -> Config:
    """Return options in which no field has its default."""

    def change(value: Any, name: str) -> Any:
        if dataclasses.is_dataclass(value):
            fields = {f.name: change(getattr(value, f.name), f.name) for f in dataclasses.fields(value)}
            return type(value)(**fields)
        if isinstance(value, Enum):
            return next(other for other in type(value) if other is not value)
        if value is None or isinstance(value, bool):
            return not value
        if isinstance(value, int):
            return value + 1
        if isinstance(value, float):
            return value / 3 + 1e-7
        if isinstance(value, str):
            return "no: 1e-6, 好的 🙂 #'\"\n{null}"
        return {"yes": "1.0"} if isinstance(value, dict) else ["no", "1e3", "日本"]

    config = change(Config(engine=EngineConfig()), "config")
    # These two select the class of their group's options.
    config.judge.scorer, config.engine.kind = "sampled", "transformers"
    return config


@pytest.mark.parametrize("config", [Config(), unusual()], ids=["defaults", "no defaults"])
def test_options_survive_saving_and_loading(config, tmp_path):
    data = to_dict(config)
    assert from_dict(data) == config
    assert to_dict(from_dict(data)) == data
    workspace = Workspace(tmp_path)
    workspace.save_config(config)
    assert workspace.config() == config
    assert type(workspace.config().dpo) is type(config.dpo)


def test_unusual_options_differ_from_the_defaults_in_every_field():
    plain, other = leaves(to_dict(Config())), leaves(to_dict(unusual()))
    assert len(plain) > 90
    kept = {name for name in plain if name in other and plain[name] == other[name]}
    assert not kept


@pytest.mark.parametrize("value", [None, True, False])
def test_optional_switch_survives_saving_and_loading(value, tmp_path):
    config = put(Config(), "engine.compile", value)
    assert to_dict(config)["engine"]["compile"] is value
    Workspace(tmp_path).save_config(config)
    assert Workspace(tmp_path).config().engine.compile is value


@pytest.mark.parametrize(
    ("option", "kind"),
    [
        ("dpo.reference", Reference),
        ("sft.train_on", TrainOn),
        ("data.rationales", RationaleSource),
        ("alarms.tie_share.action", AlarmAction),
        ("tracking.tracker", Tracker),
    ],
)
def test_choices_survive_saving_and_loading(option, kind, tmp_path):
    for value in kind:
        config = put(Config(), option, value)
        assert leaves(to_dict(config))[option] == value.name
        Workspace(tmp_path).save_config(config)
        assert Workspace(tmp_path).config() == config
        assert leaves(to_dict(options(f"{option}={value.name}")))[option] == value.name


# YAML files


def usage_of(file: str) -> str:
    """Return the first line of a file of conf/ (GROUP=OPTION or an experiment's name): "# WORDS: description"."""
    group, _, option = file.rpartition("=")
    text = (CONF / (group or "experiment") / f"{option}.yaml").read_text(encoding="utf-8")
    return text.removeprefix("# @package _global_\n").split("\n")[0]


def overrides_of(file: str) -> list[str]:
    """Return the command-line words for a file of conf/, with a value for each placeholder of its usage."""
    chosen = file if "=" in file else f"experiment={file}"
    words = usage_of(file).split(": ")[0].split()[2:]
    return [chosen, *(word.replace("FILE", "rows.jsonl") for word in words if not word.startswith("["))]


def study(path: str) -> Config:
    """Return the options of a study's file merged into conf/ like an experiment."""
    text = yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        base = hydra.compose("config", ["~experiment", *chosen_groups(text)])
    text.pop("defaults", None)
    return plain_options(OmegaConf.merge(base, text))


def chosen_groups(text: dict[str, Any]) -> list[str]:
    """`- override /model: NAME` -> "model=NAME"."""
    given = [next(iter(entry.items())) for entry in text.get("defaults", [])]
    return [f"{name.removeprefix('override /')}={value}" for name, value in given]


def test_every_yaml_file_is_tested():
    assert len(GROUPS) >= 15
    assert {"smoke", "paper_llama2_70b"} <= set(EXPERIMENTS)
    names = ("config", "judge_bench", "evaluate", "show_masking", "side_by_side", "check_model")
    commands = {CONF / f"{name}.yaml" for name in names}
    found = set(CONF.rglob("*.yaml")) - commands
    assert len(found) == len(GROUPS) + len(EXPERIMENTS)


def test_judge_bench_command_composes():
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        options = hydra.compose("judge_bench", ["judge=additive", "models=[a,b]", "datasets=[builtin,c.jsonl]"])
    bench = plain_options(options, JudgeBench)
    assert isinstance(bench, JudgeBench)
    assert (bench.name, bench.models, bench.datasets) == ("judge_bench", ["a", "b"], ["builtin", "c.jsonl"])
    assert bench.judge.template == "additive"


def test_side_by_side_command_composes(tmp_path):
    given = ["models=[a,b]", "dataset=prompts.jsonl", "num_shown=4", "engine=transformers"]
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        options = plain_options(hydra.compose("side_by_side", given), SideBySide)
    assert (options.models, options.num_shown, options.engine.kind) == (["a", "b"], 4, "transformers")
    assert (options.suite, options.evaluation.temperature, options.evaluation.judge) == (["answers"], 0.0, "first")
    Workspace(tmp_path).save_config(options)
    assert Workspace(tmp_path).config_as(SideBySide) == options


def test_evaluate_command_composes(tmp_path):
    given = ["models=[a,b]", "suite=[benchmarks]", "benchmarks=[arc_easy]", "benchmark_shots=5", "evaluation.judge=c"]
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        plain = plain_options(hydra.compose("evaluate", []), Evaluate)
        options = plain_options(hydra.compose("evaluate", given), Evaluate)
    assert isinstance(plain, Evaluate)
    assert (plain.suite, plain.evaluation.judge, plain.benchmark_shots) == (["answers", "head_to_head"], "first", None)
    assert isinstance(options, Evaluate)
    assert (options.models, options.benchmarks, options.benchmark_shots) == (["a", "b"], ["arc_easy"], 5)
    assert options.evaluation.judge == "c"
    Workspace(tmp_path).save_config(options)
    assert Workspace(tmp_path).config_as(Evaluate) == options


def test_run_command_composes_without_overrides(tmp_path):
    config = options()
    assert config.name == "default"
    Workspace(tmp_path).save_config(config)
    assert Workspace(tmp_path).config() == config


@pytest.mark.parametrize(
    "override",
    [
        *("cuont=3", "prompts.cuont=3", "promts.count=3", "prompts=nothing", "experiment=nothing"),
        *("prompts.count=many", "prompts.count=2.5", "prompts.count=null", "judge.top_p=[0.9]"),
        # Hydra advises a "+" before a misspelt option; that must be refused too.
        *("+cuont=3", "+prompts.cuont=3", "+promts.count=3", "++prompts.cuont=3"),
    ],
)
def test_unknown_option_or_wrong_type_is_refused(override):
    with pytest.raises((ConfigError, HydraException)) as caught:
        options(override)
    assert any(part in str(caught.value) for part in override.lstrip("+").split("=")[0].split("."))


def test_sweep_job_names_are_unique_and_short_enough():
    assert job_name("lab", "seed=1,data.ift.path=data/a.jsonl") == "lab-seed=1,data.ift.path=data_a.jsonl"
    assert job_name("lab", "") == "lab"
    assert job_name("it's", "data.ift.path='a b.jsonl',seed=1") == "it's-data.ift.path=a b.jsonl,seed=1"
    one, other = (job_name("lab", f"data.ift.path=/{'folder/' * 40}a.jsonl,seed={seed}") for seed in (1, 2))
    assert one != other
    assert len(one.encode()) < 210
    assert len(job_name("说" * 200, "").encode()) < 210


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        ("judge/pairwise_acuracy", "is no metric of an evaluation .* Did you mean judge/pairwise_accuracy?"),
        ("judge/pairwise_accuracy_low", "is no metric of an evaluation .* Did you mean judge/pairwise_accuracy?"),
        ("dpo_2/loss", "is no metric of an evaluation"),
    ],
)
def test_unmeasured_objective_is_refused(objective, message):
    with pytest.raises(ConfigError, match=rf"objective={objective} {message}"):
        options(f"objective={objective}")


def test_objective_needs_an_evaluation():
    assert options("objective=head_to_head/win_rate").objective == "head_to_head/win_rate"
    with pytest.raises(ConfigError, match=r"needs evaluation\.enabled=true"):
        options("objective=head_to_head/win_rate", "evaluation=none", "iteration=1")


def test_columns_of_a_source_can_be_set():
    assert options("+data.ift.columns.prompt=question").data.ift.columns == {"prompt": "question"}


@pytest.mark.parametrize("file", [*GROUPS, *EXPERIMENTS, *STUDIES])
def test_config_file_composes(file, tmp_path):
    config = study(file) if file.endswith(".yaml") else options(*overrides_of(file))
    assert type(config) is Config
    Workspace(tmp_path).save_config(config)
    assert Workspace(tmp_path).config() == config


@pytest.mark.parametrize("study", ["loss_over_instructions", "templates", "chain_of_thought", "seed_quality"])
def test_one_gpu_combines_with_a_study(study):
    config = options(f"experiment=[{study},one_gpu]", "data.ift.path=FILE")
    assert (config.name, config.model.name, config.sft.batch_size) == (study, "Qwen/Qwen2.5-1.5B", 16)
    assert (config.evaluation.enabled, config.iteration) == (False, 1)
    assert config.sft.epochs == options(f"experiment={study}", "data.ift.path=FILE").sft.epochs


def test_one_gpu_combines_with_eft_ranking():
    config = options("experiment=[eft_ranking,one_gpu]", "data.eft.path=FILE")
    assert (config.name, config.model.name, config.sft.lora.r) == ("eft_ranking", "Qwen/Qwen2.5-1.5B", 32)
    assert (config.sft.eft_loss.name, config.sft.eft_length_control, config.sft.micro_batch_size) == ("ranking", 1.0, 8)


@pytest.mark.parametrize("file", WITH_PLACEHOLDERS)
def test_missing_placeholder_value_is_named(file):
    with pytest.raises(ConfigError, match=r"data\.ift\.path='' is invalid"):
        options(overrides_of(file)[0])


@pytest.mark.parametrize("file", [*GROUPS, *EXPERIMENTS])
def test_file_starts_with_its_usage(file):
    usage = usage_of(file)
    assert re.match(rf"# {re.escape(overrides_of(file)[0])}( \S+=\S*| \[\S+=\S*\])*: \S", usage), usage


@pytest.mark.parametrize("file", [*EXPERIMENTS, *STUDIES])
def test_experiment_contains_only_differences(file):
    """A value equal to the default would become wrong when the default changes.

    paper_llama2_70b is an exception: it states all of the paper's figures, so changed defaults do not affect it.
    """
    path = ROOT / file if file.endswith(".yaml") else CONF / "experiment" / f"{file}.yaml"
    text = yaml.safe_load(path.read_text(encoding="utf-8"))
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        base = leaves(OmegaConf.to_container(hydra.compose("config", ["~experiment", *chosen_groups(text)])))
        alone = leaves(OmegaConf.to_container(hydra.compose("config", ["~experiment"])))
    text.pop("defaults", None)
    given = leaves(text)
    assert {name for name in given if ".extra." not in name} <= set(base)  # extra has the library's options
    same = [f"{name}={value}" for name, value in given.items() if base.get(name) == value]
    assert not same or "paper_llama2_70b" in file, f"{file} repeats what it would have without: {', '.join(same)}"
    if file not in ("facts", "one_gpu"):  # the default run; combined with another experiment, which names the run
        assert given.get("name") not in (None, alone["name"]), "an experiment's run needs a folder of its own"


def test_paper_experiment_has_the_papers_figures():
    """arXiv 2401.10020, sections 2 and 3.1; a default that changes must not change this."""
    config = options(*overrides_of("paper_llama2_70b"))
    given = leaves(to_dict(config))
    expected = {
        "iteration": 3,
        "model.name": "meta-llama/Llama-2-70b-hf",
        # Open Assistant: 3,200 IFT examples in English; 1,630 EFT prompts to train on and 541 to measure with.
        "data.ift.limit": 3200,
        "data.ift.languages": ["en"],
        "data.eft.languages": ["en"],
        "data.eft.limit": 0,
        "data.eft_limit": 0,
        "data.rationales": "baseline",
        # Prompts: 8-shot by a fixed chat model, filtered as in Self-Instruct.
        "prompts.model": "meta-llama/Llama-2-70b-chat-hf",
        "prompts.shots_ift": 6,
        "prompts.shots_generated": 2,
        "prompts.temperature": 0.6,
        "prompts.top_p": 0.9,
        "prompts.max_overlap": 0.7,
        "prompts.languages": ["en"],
        # Candidates, judged three times each with the same decoding, 0 to 5.
        "candidates.count": 4,
        "candidates.temperature": 0.7,
        "candidates.top_p": 0.9,
        "judge.template": "additive",
        "judge.count": 3,
        "judge.temperature": 0.7,
        "judge.top_p": 0.9,
        "judge.max_score": 5,
        "pairs.min_gap": 0.0,
        # Full fine-tuning.
        "sft.learning_rate": 5.5e-6,
        "sft.min_learning_rate": 1.1e-6,
        "sft.batch_size": 16,
        "sft.dropout": 0.1,
        "sft.lora.enabled": False,
        "dpo.beta": 0.1,
        "dpo.learning_rate": 1e-6,
        "dpo.min_learning_rate": 1e-7,
        "dpo.batch_size": 16,
        "dpo.dropout": 0.1,
        "dpo.lora.enabled": False,
        "dpo.reference": "previous",
        "dpo.checkpoint_steps": 200,
        "evaluation.prompts": 0,  # all
        "evaluation.eft_prompts": 0,
    }
    assert {name: given[name] for name in expected} == expected
    assert round(config.data.eft_held_out * (1630 + 541)) == 541
    assert config.prompts.count >= 3964
    for word in ("image", "graph", "file"):
        text = f"Please describe what one can see in the {word} below."
        assert rejection(text, False, config.prompts, Overlap()) == f"keyword: {word}"


def test_worst_answers_are_refused_for_built_in_instructions() -> None:
    with pytest.raises(ConfigError, match=r"data.ift_answers=.*must be best with data.ift.path=builtin"):
        options("data.ift_answers=worst")
    assert options("data=files", "data.ift.path=a.jsonl", "data.eft.path=b.jsonl", "data.ift_answers=worst")


@pytest.mark.parametrize("value", [-0.1, 2.1])
def test_server_temperature_has_the_usual_range(value):
    with pytest.raises(ConfigError, match=r"endpoint\.temperature=.*must be 0 \(greedy\) to 2"):
        check(put(Config(), "endpoint.temperature", value))
    assert check(put(Config(), "endpoint.temperature", 1.0)).endpoint.temperature == 1.0
    assert check(Config()).endpoint.temperature is None


def test_option_missing_from_config_yaml_has_its_default(tmp_path: Path) -> None:
    """This holds at any depth; `Evaluate` has different defaults, and an alarm keeps its threshold."""
    space = Workspace(tmp_path)
    space.config_path.write_text("{name: old, judge: {count: 5}, alarms: {tie_share: {action: stop}}}")
    found = space.config()
    expected = Config(name="old")
    expected.judge.count, expected.alarms.tie_share.action = 5, AlarmAction.stop
    assert found == expected
    assert space.config_as(Evaluate) == replace(
        Evaluate(name="old"), judge=expected.judge, alarms=expected.alarms, evaluation=EvaluationConfig(judge="first")
    )


def test_unknown_option_in_config_yaml_is_reported_and_ignored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space = Workspace(tmp_path)
    data = to_dict(Config()) | {"moods": 1}
    data["sft"]["lora"]["mood"] = 2
    space.config_path.write_text(json.dumps(data))
    assert space.config() == Config()
    assert unknown_options(Config, data) == ["sft.lora.mood", "moods"]
    assert "this version of srlm has no option sft.lora.mood, moods; ignored" in capsys.readouterr().err


def test_option_value_is_looked_up_by_dotted_name() -> None:
    config = Evaluate()
    config.data.ift.columns = {"prompt": "question", "a.b": "c", "deep": {"er": 1}}  # type: ignore[dict-item]
    values = {
        "judge.scorer": "logprob_weighted",
        "evaluation.judge": "first",
        "benchmark_shots": None,
        "prompts.languages": ["en"],
        "data.ift.columns.prompt": "question",
        "data.ift.columns.a.b": "c",
        "data.ift.columns.deep.er": 1,
        "data.ift.columns.response": None,
    }
    assert {name: option_value(config, name) for name in values} == values
    for name in ("judge", "judge.moods", "moods", "judge.scorer.moods", "benchmark_shots.moods"):
        assert option_value(config, name) is MISSING, name


@pytest.mark.parametrize(
    ("config", "options"),
    [
        (
            Config(),
            [
                "prompts.max_new_tokens",
                "candidates.max_new_tokens",
                "judge.max_new_tokens",
                "evaluation.max_new_tokens",
            ],
        ),
        (Config(evaluation=EvaluationConfig(ifeval="hub:google/IFEval")), ["evaluation.ifeval_max_new_tokens"]),
        (JudgeBench(judge=SampledJudgeConfig()), ["judge.max_new_tokens"]),
        (Evaluate(), ["evaluation.max_new_tokens"]),
        (SideBySide(), ["evaluation.max_new_tokens"]),
    ],
    ids=["run", "run with IFEval", "judge_bench", "evaluate", "side_by_side"],
)
def test_completion_length_must_be_below_the_context_length(config, options):
    config = on_cpu(config)
    for option in options:
        for limit in (config.engine.max_model_len, config.engine.max_model_len + 1):
            with pytest.raises(ConfigError, match=rf"{re.escape(option)}={limit} .*below engine\.max_model_len=2048"):
                check(put(copy.deepcopy(config), option, limit))
        check(put(copy.deepcopy(config), option, config.engine.max_model_len - 1))


@pytest.mark.parametrize(
    ("config", "option"),
    [
        (Config(iteration=1), "candidates.max_new_tokens"),
        (Config(iteration=1), "prompts.max_new_tokens"),
        (Config(iteration=1, evaluation=EvaluationConfig(enabled=False)), "evaluation.max_new_tokens"),
        (Config(iteration=1, evaluation=EvaluationConfig(enabled=False)), "judge.max_new_tokens"),
        (Config(), "evaluation.ifeval_max_new_tokens"),
        (JudgeBench(), "candidates.max_new_tokens"),
        (JudgeBench(models=["endpoint"], judge=SampledJudgeConfig()), "judge.max_new_tokens"),
        (Evaluate(), "judge.max_new_tokens"),
        (SideBySide(), "prompts.max_new_tokens"),
        (ShowMasking(), "evaluation.max_new_tokens"),
    ],
)
def test_completion_length_of_unused_stages_is_not_checked(config, option):
    check(put(on_cpu(config), option, 100_000))


def test_completion_length_of_a_server_is_not_checked():
    config = Config(prompts=PromptsConfig(model="endpoint", max_new_tokens=100_000))
    config.endpoint.base_url, config.endpoint.model = "http://127.0.0.1:8000/v1", "big"
    check(config)
