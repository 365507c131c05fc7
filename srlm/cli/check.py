"""Check the range of every option (`srlm.ranges`), and combinations of options."""

from __future__ import annotations

import difflib

from srlm.config import CheckModel, Config, Evaluate, JudgeBench, ShowMasking, option_value
from srlm.data.config import ENDPOINT_LABELS, IFTAnswers
from srlm.data.labels import is_function
from srlm.engines import check_engine
from srlm.errors import ConfigError
from srlm.generation.own_feedback import OWN_EFT
from srlm.io.components import imported
from srlm.judges import judge_of_config, spec_of
from srlm.judges.base import Need
from srlm.judges.eft import sft_uses_eft
from srlm.judges.roles import judge_of
from srlm.metrics import METRICS, find
from srlm.pipeline.roles import CONTROLS
from srlm.pipeline.run_reader import run_at
from srlm.preferences.policies import policy_named
from srlm.ranges import MODEL, ranges_of
from srlm.recipes import find_recipe
from srlm.training.config import LoopConfig
from srlm.training.methods import METHODS, group_of, method_of
from srlm.training.methods.sft import SFTData
from srlm.types import PreferencePair

LONGEST_NAME = 220  # bytes; file systems take 255, and some files have the name of a run and an ending
OWN_DATA = ("prompts.path", "judgements.path", "pairs.path")


def check(config: Config) -> Config:
    """Check every option; return `config` itself.

    Raises
    ------
    ConfigError
        Naming the option, its value and what it may be.
    """

    def need(ok: bool, option: str, allowed: str) -> None:
        if not ok:
            raise ConfigError(f"{option}={option_value(config, option)!r} is invalid: it must be {allowed}.")

    longest = max(len(part.encode()) for part in config.name.split("/"))
    need(longest <= LONGEST_NAME, "name", f"at most {LONGEST_NAME} bytes long, because it is the name of a folder")
    method = method_of(config)
    external = {} if method in METHODS.values() else {f"{group_of(method)}.": config.training}
    ranges = [one for prefix, group in {"": config, **external}.items() for one in ranges_of(group, prefix)]
    for option, value, range_ in ranges:
        need(range_.holds(value), option, range_.allowed)
        judges = f"another model: {value} is a program, which only judges candidates (judge.model)"
        need(range_ is not MODEL or value not in CONTROLS or option == "judge.model", option, judges)
        if range_ is MODEL and value == "endpoint" and not (config.endpoint.base_url and config.endpoint.model):
            raise ConfigError(f"{option}=endpoint needs endpoint.base_url and endpoint.model.")
    limit = config.engine.max_model_len
    thought = config.model.max_thought_tokens
    holds_both = f"below engine.max_model_len={limit}, which holds the prompt as well"
    holds_both += f", and model.max_thought_tokens={thought}" if thought else ""
    for option in _longest_completions(config) if limit is not None else ():
        need(option_value(config, option) + thought < limit, option, holds_both)
    data = config.dataset if isinstance(config, ShowMasking) else ""  # takes the place of data.ift and data.eft
    if (data or config.data.ift.path) == "builtin":
        one = config.data.ift_answers is IFTAnswers.best
        need(one, "data.ift_answers", "best with data.ift.path=builtin, which has one answer each")
    if not config.evaluation.enabled and not (config.judgements.path or config.pairs.path):
        need(config.iteration == 1, "iteration", "1 with evaluation.enabled=false: later models are made from measures")
    check_engine(config.engine)
    judge_of_config(config.judge).check(config, need)
    _check_control(config, need)
    need(config.prompts.max_words >= config.prompts.min_words, "prompts.max_words", "at least prompts.min_words")
    _check_method(config, need)
    if not data:
        _check_data(config, need)
        _check_own_answers(config, need)
    for name, method in METHODS.items():
        method.check_options(getattr(config, name), name, config, need)
    _check_objective(config)
    _check_own_data(config, need)
    need(config.evaluation.judge != "self", "evaluation.judge", "one fixed judge: sft, base, endpoint or a model name")
    return config


def _check_control(config: Config, need: Need) -> None:
    """Check the judge of a control arm (`srlm.judges.controls`)."""
    control = config.judge.model
    if control not in CONTROLS:
        return
    command = isinstance(config, Evaluate | JudgeBench | ShowMasking | CheckModel)
    need(not command, "judge.model", f"another one, because {control} judges the candidates of a run")
    need(
        not config.judge.meta, "judge.meta", f"false with judge.model={control}, which writes no judgements to compare"
    )
    own = config.judgements.path or config.pairs.path
    checkable = f"prompts with constraints with judge.model={control}: facts:pool, a file, hub:OWNER/NAME or a run"
    judged = control == "program" and config.iteration >= 2 and not own
    need(bool(config.prompts.path) or not judged, "prompts.path", checkable)


def _longest_completions(config: Config) -> list[str]:
    """Return the options that say how long a completion of a local model may be, as far as the command uses them."""
    writes = spec_of(config.judge).sampled
    local = any(model != "endpoint" for model in getattr(config, "models", []) or [config.model.name])
    if isinstance(config, JudgeBench):
        return ["judge.max_new_tokens"] if writes and local else []
    if isinstance(config, Evaluate):
        return ["evaluation.max_new_tokens"] if local and {"answers", "head_to_head"} & set(config.suite) else []
    if isinstance(config, ShowMasking | CheckModel):
        return []
    found = ["evaluation.max_new_tokens"] if config.evaluation.enabled else []
    found += ["judge.max_new_tokens"] if config.evaluation.enabled and writes else []
    own = config.data.own_answers
    found += ["data.own_answers.max_new_tokens"] if own.used and own.model != "endpoint" else []
    found += ["evaluation.ifeval_max_new_tokens"] if config.evaluation.enabled and config.evaluation.ifeval else []
    if config.iteration >= 2 and not (config.judgements.path or config.pairs.path):
        found += ["candidates.max_new_tokens"]
        writes_prompts = not config.prompts.path and config.prompts.model != "endpoint"
        found += ["prompts.max_new_tokens"] if writes_prompts else []
    return found


def _check_objective(config: Config) -> None:
    """Refuse an objective that no evaluation measures."""
    known = [metric.key for metric in METRICS if metric.interval and "<" not in metric.key]
    found, end = find(config.objective), config.objective.rpartition("_")
    companion = end[2] in ("low", "high", "n") and find(end[0])  # the interval and the number of a metric
    if config.objective and (companion or not (found and found.interval)):
        near = [end[0]] if companion else difflib.get_close_matches(config.objective, known, 1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise ConfigError(f"objective={config.objective} is no metric of an evaluation (docs/metrics.md).{hint}")
    if config.objective and not config.evaluation.enabled:
        raise ConfigError(f"objective={config.objective} needs evaluation.enabled=true.")


def _check_data(config: Config, need: Need) -> None:
    """Check that there are data for all that is trained, and no training of a judge that needs others."""
    data, sft, last = config.data, config.sft, config.iteration
    own = any(option_value(config, name) for name in OWN_DATA)
    ift = {
        "on which the SFT baseline, which writes the EFT answers, is trained": data.own_answers.by_baseline,
        f"with sft.data={sft.data.name}": sft.uses_ift,
        "from which the examples for new prompts are drawn": last >= 2 and not own and config.evaluation.enabled,
        f"with recipe={config.recipe}": find_recipe(config.recipe).needs_ift,
        "with early_stopping.source.path=unused_ift": config.training.early_stopping.enabled
        and config.training.early_stopping.source.path == "unused_ift",
    }
    eft = {
        f"with sft.data={sft.data.name} and judge.scorer={config.judge.scorer}": sft_uses_eft(config),
        f"with judge.scorer={config.judge.scorer}": judge_of(config, 1).kind == "reward_model",
        f"with pairs.path={OWN_EFT}": config.pairs.path == OWN_EFT,
        f"whose prompts are answered with data.own_answers.labels={data.own_answers.labels}": data.own_answers.used,
    }
    place = "a file, hub:OWNER/NAME or builtin"
    for name, path, uses in (("ift", data.ift.path, ift), ("eft", data.eft.path, eft)):
        why = next((why for why, is_used in uses.items() if is_used), "")
        need(bool(path) or not why, f"data.{name}.path", f"{place}, {why}")
    need(bool(data.evaluation.path), "data.evaluation.path", place)
    learns = sft.data is not SFTData.eft or spec_of(config.judge).eft_in_sft
    need(learns, "sft.data", f"both, ift or none with judge.scorer={config.judge.scorer}, which learns nothing by SFT")


def _check_own_answers(config: Config, need: Need) -> None:
    """Check that EFT can be made of own answers, and that who labels them exists."""
    own, option = config.data.own_answers, "data.own_answers.labels"
    if not own.used:
        return
    need(option in find_recipe(config.recipe).own_data, option, f"empty with recipe={config.recipe}")
    if own.labels == ENDPOINT_LABELS:
        spec = spec_of(config.judge)
        scores = spec.runs_on == "text" and spec.eft == "scores" and spec.evidence is None
        need(
            scores, option, f"another source with judge.scorer={config.judge.scorer}, which gives no scores by a server"
        )
        if not (config.endpoint.base_url and config.endpoint.model):
            raise ConfigError(f"{option}=endpoint needs endpoint.base_url and endpoint.model.")
    if is_function(own.labels):
        need(callable(imported(option, own.labels)), option, "a function, module:function")


def _check_own_data(config: Config, need: Need) -> None:
    """Check own prompts, judgements and pairs: one of them, for a recipe that uses it."""
    given = [name for name in OWN_DATA if option_value(config, name)]
    for option in given:
        used = option in find_recipe(config.recipe).own_data
        need(used, option, f"empty with recipe={config.recipe}, which does not use it")
        need(option == given[-1], option, f"empty with {given[-1]}, which has the prompts, too")
    for group in ("judgements", "pairs"):
        if not option_value(config, f"{group}.path"):
            need(not option_value(config, f"{group}.count"), f"{group}.count", f"0 without {group}.path")
            continue
        need(not config.judge.meta, "judge.meta", f"false with {group}.path, because no judge compares judgements")
        several = config.iteration > 2 and run_at(option_value(config, f"{group}.path")) is None
        enough = not several or option_value(config, f"{group}.count") > 0
        need(enough, f"{group}.count", "1 or more with iteration=3 or more, so that each iteration has its own rows")


def _check_method(config: Config, need: Need) -> None:
    """Check that `method` trains M_t+1, and can learn from what the pair policy selects."""
    method, policy = method_of(config), policy_named(config.pairs.policy)
    need(issubclass(method.config, LoopConfig), "method", "a method that trains M_t+1, such as dpo")
    if method not in METHODS.values():
        method.check_options(config.training, group_of(method), config, need)
    own = f"empty with method={config.method}, whose options are {group_of(method)}.*"
    need(not config.method_options or method not in METHODS.values(), "method_options", own)
    if config.pairs.length_penalty is None:
        pairs = f"a number with pairs.policy={config.pairs.policy}, which gives no pairs to match in length"
        need(policy.gives is PreferencePair, "pairs.length_penalty", pairs)
    gives = policy.gives.__name__
    need(policy.gives in method.learns_from, "pairs.policy", f"another one: {method.name} does not learn from {gives}")
