"""Checks of the options' ranges and of what they say together."""

from __future__ import annotations

import re
from datetime import date
from typing import Any

from srlm.config import DTYPES, SAVE_DTYPES, Config, Evaluate, IFTAnswers, JudgeBench, ShowMasking
from srlm.errors import ConfigError
from srlm.judges import judge_of_config, spec_of
from srlm.preferences.policy import policy_named
from srlm.training.config import TrainConfig
from srlm.training.methods.sft import EFTLoss, TrainOn


def _is_date(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def check(config: Config) -> Config:
    """Test every range; returns `config` itself.

    Raises
    ------
    ConfigError
        Naming the option, its value and what it may be.
    """

    def need(ok: bool, option: str, allowed: str) -> None:
        if not ok:
            raise ConfigError(f"{option}={_get(config, option)!r} cannot work: it must be {allowed}.")

    def at_least(low: float, *options: str) -> None:
        for option in options:
            need(_get(config, option) >= low, option, f"{low} or more")

    def share(*options: str) -> None:
        for option in options:
            need(0 < _get(config, option) <= 1, option, "above 0 and at most 1")

    need(_is_date(config.model.template_date), "model.template_date", "a date as YYYY-MM-DD")
    need(bool(config.name) and ".." not in config.name.split("/"), "name", "a folder name")
    at_least(1, "iteration", "engine.max_concurrent", "engine.tensor_parallel_size", "engine.data_parallel_size")
    at_least(1, "endpoint.max_concurrent", "prompts.count", "prompts.attempts", "prompts.shots_ift")
    at_least(1, "prompts.round_size", "prompts.min_words", "prompts.max_new_tokens", "candidates.max_new_tokens")
    at_least(1, "judge.count", "judge.min_valid", "judge.max_score", "judge.max_new_tokens", "pairs.min_pairs")
    at_least(1, "evaluation.judgements", "evaluation.max_new_tokens", "data.rationale_attempts")
    at_least(1, "evaluation.ifeval_max_new_tokens")
    at_least(2, "candidates.count")
    at_least(64, "engine.max_model_len")
    for option in _longest_completions(config):
        limit = config.engine.max_model_len
        need(
            _get(config, option) < limit, option, f"below engine.max_model_len={limit}, which holds the prompt as well"
        )
    at_least(100, "evaluation.bootstrap")
    at_least(0, "seed", "engine.threads", "endpoint.retries", "prompts.shots_generated", "pairs.min_gap")
    at_least(
        0,
        "evaluation.prompts",
        "evaluation.eft_prompts",
        "evaluation.ifeval_prompts",
        "data.eft_limit",
        "tracking.sample_rows",
    )
    share("engine.gpu_memory_utilization", "data.near_duplicate", "data.eft_max_score_fraction")
    share("prompts.top_p", "prompts.max_overlap", "candidates.top_p", "judge.top_p", "evaluation.top_p")
    for option in ("prompts", "candidates", "judge", "evaluation"):
        need(0 <= _get(config, f"{option}.temperature") <= 2, f"{option}.temperature", "0 (greedy) to 2")
    need(config.candidates.temperature > 0, "candidates.temperature", "above 0, or all candidates are the same text")
    need(0 < config.data.eft_held_out < 1, "data.eft_held_out", "between 0 and 1")
    data = config.dataset if isinstance(config, ShowMasking) else ""  # takes the place of data.ift and data.eft
    if (data or config.data.ift.path) == "builtin":
        one = config.data.ift_answers is IFTAnswers.best
        need(one, "data.ift_answers", "best with data.ift.path=builtin, which has one answer each")
    if not config.evaluation.enabled:
        need(config.iteration == 1, "iteration", "1 with evaluation.enabled=false: later models are made from measures")
    need(config.engine.kv_cache_gib > 0, "engine.kv_cache_gib", "above 0 GiB")
    need(config.endpoint.timeout_s > 0, "endpoint.timeout_s", "above 0 seconds")
    fixed = config.endpoint.temperature
    need(fixed is None or 0 <= fixed <= 2, "endpoint.temperature", "0 (greedy) to 2, or null: as each request has it")
    need(config.judge.min_valid <= config.judge.count, "judge.min_valid", f"at most judge.count={config.judge.count}")
    judge_of_config(config.judge).check(config, need)
    if policy_named(config.pairs.policy).needs_all_scores:
        all_scores = f"false with pairs.policy={config.pairs.policy}, which needs all scores"
        need(not config.judge.early_stopping, "judge.early_stopping", all_scores)
    if config.pairs.length_penalty is None:
        known_late = "false with pairs.length_penalty=null: that penalty is known only after all judgements"
        need(not config.judge.early_stopping, "judge.early_stopping", known_late)
    need(0 <= config.judge.early_stopping_risk < 0.5, "judge.early_stopping_risk", "0 up to, but not including, 0.5")
    need(config.prompts.max_words >= config.prompts.min_words, "prompts.max_words", "at least prompts.min_words")
    need(config.tracking.mode in ("auto", "online", "offline"), "tracking.mode", "auto, online or offline")
    need(config.dpo.beta > 0, "dpo.beta", "above 0")
    need(config.dpo.reference_check_tolerance > 0, "dpo.reference_check_tolerance", "above 0")
    at_least(1, "dpo.early_stopping.every_steps")
    at_least(2, "dpo.early_stopping.prompts")
    need(0 <= config.dpo.early_stopping.min_net_win < 1, "dpo.early_stopping.min_net_win", "0 up to 1")
    source = "dpo.early_stopping.source"
    other = "unused_ift, a file or hub:OWNER/NAME: validation prompts are no evaluation prompts"
    need(config.dpo.early_stopping.source.path not in ("", "builtin"), f"{source}.path", other)
    need(
        config.dpo.early_stopping.source.limit == 0, f"{source}.limit", "0: dpo.early_stopping.prompts sets the number"
    )
    for option in ("engine.dtype", "sft.dtype", "reward_model.dtype", "dpo.dtype"):
        need(_get(config, option) in DTYPES, option, f"one of {', '.join(DTYPES)}")
    for name in ("data.ift", "data.eft", "data.evaluation"):
        at_least(0, f"{name}.limit")
        need(bool(data or _get(config, f"{name}.path")), f"{name}.path", "a file, hub:OWNER/NAME or builtin")
    for name in ("sft", "reward_model", "dpo"):
        train: TrainConfig = getattr(config, name)
        need(train.epochs > 0, f"{name}.epochs", "above 0")
        need(train.learning_rate > 0, f"{name}.learning_rate", "above 0")
        need(
            0 <= train.min_learning_rate <= train.learning_rate,
            f"{name}.min_learning_rate",
            f"0 to {name}.learning_rate={train.learning_rate}",
        )
        need(0 <= train.warmup_ratio < 1, f"{name}.warmup_ratio", "0 up to, but not including, 1")
        at_least(1, f"{name}.batch_size", f"{name}.micro_batch_size", f"{name}.processes", f"{name}.lora.r")
        at_least(0, f"{name}.lora.last_n_layers")
        at_least(16, f"{name}.max_length")
        need(train.save_dtype in SAVE_DTYPES, f"{name}.save_dtype", f"one of {', '.join(SAVE_DTYPES)}")
        need(train.save_tolerance > 0, f"{name}.save_tolerance", "above 0")
        at_least(0, f"{name}.checkpoint_steps", f"{name}.weight_decay")
        step = train.micro_batch_size * train.processes
        need(train.batch_size % step == 0, f"{name}.batch_size", f"a multiple of micro_batch_size x processes = {step}")
        for dropout in ("dropout", "lora.dropout"):
            need(0 <= _get(config, f"{name}.{dropout}") < 1, f"{name}.{dropout}", "0 up to, but not including, 1")
    need(0 <= config.sft.prompt_weight <= 1, "sft.prompt_weight", "0 to 1")
    need(_is_pattern(config.sft.shared_text), "sft.shared_text", "a regular expression")
    if config.sft.eft_loss is EFTLoss.ranking:
        for_order = "with sft.eft_loss=ranking"
        learns_scores = spec_of(config.judge).eft == "scores"
        need(learns_scores, "sft.eft_loss", f"score with judge.scorer={config.judge.scorer}, which learns no scores")
        need(config.judge.max_score <= 9, "judge.max_score", f"at most 9 {for_order}: a score must be one digit")
        need(config.sft.train_on is TrainOn.completion, "sft.train_on", f"completion {for_order}")
        need(not config.sft.packing, "sft.packing", f"false {for_order}")
        need(config.sft.micro_batch_size > 1, "sft.micro_batch_size", f"2 or more {for_order}: answers are compared")
        need(0 <= config.sft.eft_length_control <= 1, "sft.eft_length_control", "0 to 1")
    else:
        need(config.sft.eft_length_control == 0, "sft.eft_length_control", "0 with sft.eft_loss=score")
    fixed_models = {
        "prompts.model": config.prompts.model,
        "evaluation.judge": config.evaluation.judge,
        "judge.model": config.judge.model,
        "dpo.early_stopping.judge": config.dpo.early_stopping.judge,
    }
    for option, value in fixed_models.items():
        need(bool(value), option, "sft, base, endpoint or a model name")
        if value == "endpoint" and not (config.endpoint.base_url and config.endpoint.model):
            raise ConfigError(f"{option}=endpoint needs endpoint.base_url and endpoint.model.")
    at_least(0, "judge.max_comparisons", "judge.meta_max_tokens")
    if config.judge.meta:
        need(config.judge.count > 1, "judge.count", "2 or more with judge.meta=true: judgements are compared")
    need(config.judge.length_penalty is None or config.judge.length_penalty >= 0, "judge.length_penalty", "0 or more")
    need(config.pairs.length_penalty is None or config.pairs.length_penalty >= 0, "pairs.length_penalty", "0 or more")
    need(config.judge.reference not in ("", "self", "endpoint"), "judge.reference", "base, previous or a model name")
    at_least(0, *(f"endpoint.{name}" for name in ("requests_per_minute", "input_price", "output_price", "budget")))
    need(config.evaluation.judge != "self", "evaluation.judge", "one fixed judge: sft, base, endpoint or a model name")
    return config


def _longest_completions(config: Config) -> list[str]:
    """Return the options that say how long a completion of a local model may be, as far as the command uses them."""
    writes = spec_of(config.judge).sampled
    local = any(model != "endpoint" for model in getattr(config, "models", []) or [config.model.name])
    if isinstance(config, JudgeBench):
        return ["judge.max_new_tokens"] if writes and local else []
    if isinstance(config, Evaluate):
        return ["evaluation.max_new_tokens"] if local and {"answers", "head_to_head"} & set(config.suite) else []
    if isinstance(config, ShowMasking):
        return []
    found = ["evaluation.max_new_tokens"] if config.evaluation.enabled else []
    found += ["judge.max_new_tokens"] if config.evaluation.enabled and writes else []
    found += ["evaluation.ifeval_max_new_tokens"] if config.evaluation.enabled and config.evaluation.ifeval else []
    if config.iteration >= 2:
        found += ["candidates.max_new_tokens"]
        found += ["prompts.max_new_tokens"] if config.prompts.model != "endpoint" else []
    return found


def _is_pattern(text: str) -> bool:
    try:
        re.compile(text)
    except re.error:
        return False
    return True


def _get(config: Any, option: str) -> Any:
    for part in option.split("."):
        config = getattr(config, part)
    return config
