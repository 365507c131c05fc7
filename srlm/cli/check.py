"""Check the range of every option (`srlm.ranges`), and combinations of options."""

from __future__ import annotations

import re
from typing import Any

from srlm.config import Config, Evaluate, JudgeBench, ShowMasking
from srlm.data.config import IFTAnswers
from srlm.errors import ConfigError
from srlm.judges import judge_of_config, spec_of
from srlm.preferences.policy import policy_named
from srlm.ranges import DTYPES, SAVE_DTYPES, ranges_of
from srlm.training.config import TrainConfig
from srlm.training.methods.sft import EFTLoss, TrainOn


def check(config: Config) -> Config:
    """Check every option; return `config` itself.

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

    for option, value, range_ in ranges_of(config):
        need(range_.holds(value), option, range_.allowed)
    for option in _longest_completions(config):
        limit = config.engine.max_model_len
        need(
            _get(config, option) < limit, option, f"below engine.max_model_len={limit}, which holds the prompt as well"
        )
    data = config.dataset if isinstance(config, ShowMasking) else ""  # takes the place of data.ift and data.eft
    if (data or config.data.ift.path) == "builtin":
        one = config.data.ift_answers is IFTAnswers.best
        need(one, "data.ift_answers", "best with data.ift.path=builtin, which has one answer each")
    if not config.evaluation.enabled:
        need(config.iteration == 1, "iteration", "1 with evaluation.enabled=false: later models are made from measures")
    need(config.judge.min_valid <= config.judge.count, "judge.min_valid", f"at most judge.count={config.judge.count}")
    judge_of_config(config.judge).check(config, need)
    if policy_named(config.pairs.policy).needs_all_scores:
        all_scores = f"false with pairs.policy={config.pairs.policy}, which needs all scores"
        need(not config.judge.early_stopping, "judge.early_stopping", all_scores)
    if config.pairs.length_penalty is None:
        known_late = "false with pairs.length_penalty=null: that penalty is known only after all judgements"
        need(not config.judge.early_stopping, "judge.early_stopping", known_late)
    need(config.prompts.max_words >= config.prompts.min_words, "prompts.max_words", "at least prompts.min_words")
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
    for option in ("sft.dtype", "reward_model.dtype", "dpo.dtype"):
        need(_get(config, option) in DTYPES, option, f"one of {', '.join(DTYPES)}")
    for name in ("data.ift", "data.eft", "data.evaluation"):
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
    if config.judge.meta:
        need(config.judge.count > 1, "judge.count", "2 or more with judge.meta=true: judgements are compared")
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
