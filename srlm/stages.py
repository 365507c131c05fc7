"""Every stage with its outputs and the options that its outcome depends on.

Options that change speed or memory alone (batch on one device, cores, concurrency) are not among them: a run may be
resumed on another machine.
"""

from __future__ import annotations

from typing import Any

from srlm.comparison import load_template as load_pairwise_template
from srlm.config import Config, EFTTarget, LossOn, Opponents, Scorer, SFTConfig
from srlm.feedback.meta import load_template as load_meta_template
from srlm.rubric import JudgeTemplate
from srlm.templating import Template
from srlm.workspace import Stage, Workspace, options_of

# Not engine.max_model_len: what fits does not depend on it, and what did not fit is counted (srlm/missing.py).
_ENGINE = ("engine.kind", "engine.dtype")
_SPEED = ("micro_batch_size", "gradient_checkpointing", "checkpoint_steps", "processes", "accelerate_config")
_CHECKS = ("save_tolerance",)


def load_writer_template() -> Template:
    return Template.load("new_prompt", "srlm.feedback", "prompts", ("count", "examples"))


def all_of(workspace: Workspace, config: Config) -> list[Stage]:
    """Every stage up to the run's last iteration, asked for or there already, in the order they are made."""
    there = [int(path.name.split("_")[1]) for path in workspace.root.glob("iteration_*")]
    ifeval = bool(config.evaluation.ifeval)
    of_run = (seeds, *((ifeval_prompts,) if ifeval else ()), base_model, sft_baseline, rationales, eft, sft)
    of_run += (reward_model,)
    meta = (meta_judgements,) if config.judge.meta else ()
    of_feedback = (prompts, candidates, judgements, *meta, pairs, preference)
    of_measures = (held_out_judgements, answers, *((ifeval_answers,) if ifeval else ()), head_to_head, measures)
    found = [make(workspace, config) for make in of_run]
    for t in range(max([config.iteration, *there]) + 1):
        found += [make(workspace, config, t) for make in of_feedback if t >= 2]
        found += [make(workspace, config, t) for make in of_measures]
    return found


def seeds(workspace: Workspace, config: Config) -> Stage:
    options = options_of(config, "seeds.ift", "seeds.eft", "seeds.evaluation", "seeds.eft_held_out", "seed")
    options |= options_of(config, "seeds.ift_answers")
    options |= options_of(config, "seeds.near_duplicate", "seeds.builtin_languages")
    return Stage(
        workspace,
        workspace.seeds,
        "seeds",
        ["ift.jsonl", "eft.jsonl", "eft_held_out.jsonl", "evaluation.jsonl"],
        options,
    )


def base_model(workspace: Workspace, config: Config) -> Stage:
    return Stage(workspace, workspace.iteration(0), "base_model", ["model.json"], options_of(config, "model"))


def sft_baseline(workspace: Workspace, config: Config) -> Stage:
    return Stage(
        workspace, workspace.iteration(1), "sft_baseline", ["sft_baseline"], _training(config, "sft", eft=False)
    )


def rationales(workspace: Workspace, config: Config) -> Stage:
    options = options_of(config, "seeds.rationale_tries", *_ENGINE, "seed") | judge_options(config)
    if config.seeds.rationale_hint:
        hint = Template.load("weaknesses", "srlm.feedback", "seeds.rationale_hint", ("better",))
        options["seeds.rationale_hint"] = hint.digest
    return Stage(workspace, workspace.iteration(1), "rationales", ["eft_judgements.jsonl"], options)


def eft(workspace: Workspace, config: Config) -> Stage:
    options = options_of(config, "seeds.rationales", "seeds.commonest_score_share", "seeds.eft_limit", "seed")
    options |= options_of(config, "seeds.eft_length_balance", "seeds.rationale_tries")
    if config.judge.learns_pairs:
        options["judge.learns_pairs"] = True
    return Stage(
        workspace, workspace.iteration(1), "eft", ["eft.jsonl"], options | options_of(config, "judge.max_score")
    )


def sft(workspace: Workspace, config: Config) -> Stage:
    options = _training(config, "sft") | {"judge.template": judge_options(config).get("judge.template")}
    return Stage(workspace, workspace.iteration(1), "sft", ["model"], options)


def reward_model(workspace: Workspace, config: Config) -> Stage:
    options = _training(config, "reward_model")
    return Stage(workspace, workspace.iteration(1), "reward_model", ["reward_model"], options)


def of_judge(workspace: Workspace, config: Config) -> dict[str, str]:
    """What judgements are made from beside the texts: the run's reward model, where that judges; else nothing."""
    own = config.judge.scorer is Scorer.reward_model and config.judge.by == "self"
    return reward_model(workspace, config).fingerprints() if own else {}


def prompts(workspace: Workspace, config: Config, t: int) -> Stage:
    options = options_of(config, "prompts", *_ENGINE, "seed") | {"prompts.template": load_writer_template().digest}
    if config.prompts.writer == "endpoint":
        options |= endpoint_options(config)
    return Stage(workspace, workspace.iteration(t), "prompts", ["1_prompts.jsonl"], options)


def candidates(workspace: Workspace, config: Config, t: int) -> Stage:
    options = options_of(config, "candidates", *_ENGINE, "seed")
    return Stage(workspace, workspace.iteration(t), "candidates", ["2_candidates.jsonl"], options)


def judgements(workspace: Workspace, config: Config, t: int) -> Stage:
    names = ("judge.count", "judge.by", "judge.adaptive", "judge.adaptive_risk")
    options = options_of(config, *names, *_ENGINE, "seed") | judge_options(config)
    if config.judge.adaptive:  # whether a judgement is needed depends on what makes a pair
        options |= options_of(config, "judge.min_valid", "pairs.length_penalty", "pairs.truncated")
    if config.judge.rates and config.judge.length_penalty is None:
        options |= options_of(config, "pairs.truncated")
    if config.judge.by == "endpoint":
        options |= endpoint_options(config)
    return Stage(workspace, workspace.iteration(t), "judgements", _judged(config, "3_judgements.jsonl"), options)


def meta_judgements(workspace: Workspace, config: Config, t: int) -> Stage:
    options = options_of(config, "judge.matches", "judge.by", *_ENGINE, "seed")
    options["judge.meta_template"] = load_meta_template(config.judge).digest
    outputs = ["3_meta_comparisons.jsonl"]
    return Stage(workspace, workspace.iteration(t), "meta_judgements", outputs, options)


def pairs(workspace: Workspace, config: Config, t: int) -> Stage:
    options = options_of(config, "pairs.min_gap", "pairs.length_penalty", "judge.min_valid", "judge.meta")
    options |= options_of(config, "pairs.truncated")
    outputs = ["4_pairs.jsonl"]
    if config.judge.meta:
        options |= options_of(config, "judge.meta_longest")
        outputs.append("4_judgement_pairs.jsonl")
    return Stage(workspace, workspace.iteration(t), "pairs", outputs, options)


def preference(workspace: Workspace, config: Config, t: int) -> Stage:
    return Stage(workspace, workspace.iteration(t), "preference", ["model"], _training(config, "dpo"))


def held_out_judgements(workspace: Workspace, config: Config, t: int) -> Stage:
    options = options_of(config, "evaluation.eft_prompts", "evaluation.judgements", *_ENGINE, "seed")
    options |= judge_options(config)
    outputs = _judged(config, "held_out_judgements.jsonl")
    return Stage(workspace, workspace.evaluation(t), "held_out_judgements", outputs, options)


def answers(workspace: Workspace, config: Config, t: int) -> Stage:
    names = ("prompts", "temperature", "top_p", "max_new_tokens")
    options = options_of(config, *(f"evaluation.{name}" for name in names), *_ENGINE, "seed")
    return Stage(workspace, workspace.evaluation(t), "answers", ["answers.jsonl"], options)


def ifeval_prompts(workspace: Workspace, config: Config) -> Stage:
    options = options_of(config, "evaluation.ifeval", "evaluation.ifeval_prompts", "seed")
    return Stage(workspace, workspace.seeds, "ifeval", ["ifeval.jsonl"], options)


def ifeval_answers(workspace: Workspace, config: Config, t: int) -> Stage:
    options = options_of(config, "evaluation.ifeval_max_new_tokens", *_ENGINE, "seed")
    return Stage(workspace, workspace.evaluation(t), "ifeval_answers", ["ifeval_answers.jsonl"], options)


def opponents(config: Config, t: int) -> list[int]:
    """The earlier models whose answers M_t's are compared with, the last one first."""
    return list(range(t - 1, -1, -1))[: 1 if config.evaluation.opponents is Opponents.previous else None]


def head_to_head(workspace: Workspace, config: Config, t: int) -> Stage:
    options = options_of(config, "evaluation.judge", *_ENGINE)
    options |= {
        "evaluation.judge_template": load_pairwise_template(
            config.evaluation.judge_template, "evaluation.judge_template"
        ).digest
    }
    if config.evaluation.judge == "endpoint":
        options |= endpoint_options(config)
    if t >= 2:  # before that there is one opponent anyway
        options |= options_of(config, "evaluation.opponents")
    outputs = [f"head_to_head_M{u}.jsonl" for u in opponents(config, t)]
    return Stage(workspace, workspace.evaluation(t), "head_to_head", outputs, options)


def measures(workspace: Workspace, config: Config, t: int) -> Stage:
    options = options_of(config, "evaluation.bootstrap", "judge.max_score", "judge.scorer", "seed")
    if config.evaluation.ifeval:
        options |= options_of(config, "evaluation.ifeval")
    return Stage(workspace, workspace.iteration(t), "measures", ["evaluation.json"], options)


def _training(config: Config, group: str, eft: bool = True) -> dict[str, Any]:
    options = options_of(config, group, "seed")
    by_order = group == "sft" and eft and config.sft.eft_target is EFTTarget.order
    unused = _unused_masking(config.sft) if group == "sft" else set()
    if not by_order:
        unused |= {"sft.eft_target", "sft.eft_length_offset"}
    kept = {
        name: value for name, value in options.items() if not name.endswith(_SPEED + _CHECKS) and name not in unused
    }
    # Answers are compared within a micro-batch: there its size is no matter of speed alone.
    return kept | (options_of(config, "sft.micro_batch_size") if by_order else {})


def _unused_masking(sft: SFTConfig) -> set[str]:
    """Options of masking that this training does not look at: they are not among those it was made with."""
    used = {
        "sft.loss_on": sft.loss_on is not LossOn.completion,
        "sft.prompt_weight": sft.loss_on is LossOn.weighted,
        "sft.boilerplate": sft.loss_on is LossOn.without_boilerplate,
        "sft.packing": sft.packing,
    }
    return {name for name, looked_at in used.items() if not looked_at}


def judge_options(config: Config) -> dict[str, Any]:
    """What one judgement depends on, beside model and engine; only what its scorer looks at."""
    scorer = config.judge.scorer
    names = ["scorer", "max_score"]
    if not config.judge.evidence:
        names += ["temperature", "top_p", "max_new_tokens"]
    names += {Scorer.pairwise: ["matches"], Scorer.implicit: ["reference", "length_penalty"]}.get(scorer, [])
    names += ["length_penalty"] if scorer is Scorer.reward_model else []
    options = options_of(config, *(f"judge.{name}" for name in names))
    if scorer is Scorer.implicit:
        options |= options_of(config, "dpo.beta")
    return (
        options
        if config.judge.rates
        else options | {"judge.template": JudgeTemplate.load(config.judge).template.digest}
    )


def endpoint_options(config: Config) -> dict[str, Any]:
    """Return the options of a server that its answers depend on, at least in what is asked of it."""
    options = options_of(config, "endpoint.model")
    return options | ({} if config.endpoint.temperature is None else options_of(config, "endpoint.temperature"))


def _judged(config: Config, name: str) -> list[str]:
    """The files of a stage that judges: judgements, and what they are made of where the judge compares or rates."""
    evidence = config.judge.evidence
    return [name, name.replace("judgements", evidence)] if evidence else [name]
