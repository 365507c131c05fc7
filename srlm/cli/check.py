"""Check the range of every option (`srlm.ranges`), and combinations of options."""

from __future__ import annotations

from typing import Any

from srlm.config import Config, Evaluate, JudgeBench, ShowMasking
from srlm.data.config import IFTAnswers
from srlm.engines.base import external_engine
from srlm.errors import ConfigError
from srlm.judges import judge_of_config, spec_of
from srlm.judges.base import Need
from srlm.preferences.policies import policy_named
from srlm.ranges import ranges_of
from srlm.training.config import LoopConfig
from srlm.training.methods import METHODS, group_of, method_of
from srlm.types import PreferencePair


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
    external_engine(config.engine.kind)
    judge_of_config(config.judge).check(config, need)
    if policy_named(config.pairs.policy).needs_all_scores:
        all_scores = f"false with pairs.policy={config.pairs.policy}, which needs all scores"
        need(not config.judge.early_stopping, "judge.early_stopping", all_scores)
    if config.pairs.length_penalty is None:
        known_late = "false with pairs.length_penalty=null: that penalty is known only after all judgements"
        need(not config.judge.early_stopping, "judge.early_stopping", known_late)
    need(config.prompts.max_words >= config.prompts.min_words, "prompts.max_words", "at least prompts.min_words")
    for name in ("data.ift", "data.eft", "data.evaluation"):
        need(bool(data or _get(config, f"{name}.path")), f"{name}.path", "a file, hub:OWNER/NAME or builtin")
    for name, method in METHODS.items():
        method.check_options(getattr(config, name), name, config, need)
    _check_method(config, need)
    fixed_models = {
        "prompts.model": config.prompts.model,
        "evaluation.judge": config.evaluation.judge,
        "judge.model": config.judge.model,
        f"{group_of(method_of(config))}.early_stopping.judge": config.training.early_stopping.judge,
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


def _check_method(config: Config, need: Need) -> None:
    """Check that `method` trains M_t+1, and can learn from what the pair policy selects."""
    method, policy = method_of(config), policy_named(config.pairs.policy)
    need(issubclass(method.config, LoopConfig), "method", "a method that trains M_t+1, such as dpo")
    if method not in METHODS.values():
        group = group_of(method)
        for option, value, range_ in ranges_of(config.training, f"{group}."):
            need(range_.holds(value), option, range_.allowed)
        method.check_options(config.training, group, config, need)
    own = f"empty with method={config.method}, whose options are {group_of(method)}.*"
    need(not config.method_options or method not in METHODS.values(), "method_options", own)
    if config.pairs.length_penalty is None:
        pairs = f"a number with pairs.policy={config.pairs.policy}, which gives no pairs to match in length"
        need(policy.gives is PreferencePair, "pairs.length_penalty", pairs)
    gives = policy.gives.__name__
    need(policy.gives in method.learns_from, "pairs.policy", f"another one: {method.name} does not learn from {gives}")


def _get(config: Any, option: str) -> Any:
    for part in option.split("."):
        config = getattr(config, part)
    return config
