"""Computation of evaluation.json from the records of an evaluation."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

from srlm.cli.evaluate.arms import OWN, Of, answers, arms_results, losses
from srlm.cli.evaluate.plan import Match, Plan
from srlm.evaluation.record import to_dicts
from srlm.io.record_file import read_records
from srlm.models.conversation import dialogue
from srlm.types import Answer, AnswerLoss, Comparison, SeedExample


def results_of(plan: Plan) -> dict[str, Any]:
    """Return the content of evaluation.json; differences are to the first model, on the same prompts or documents."""
    results: dict[str, Any] = {"models": plan.models, "suite": plan.suite}
    if "answers" in plan.suite:
        results["answers"] = _answers_results(plan)
    if plan.matches:
        results["head_to_head"] = {
            "judge": plan.judge,
            "matches": [_head_to_head_results(plan, match) for match in plan.matches],
        }
    if "loss" in plan.suite:
        results["loss"] = _loss_results(plan)
    if plan.benchmarks:
        results["benchmarks"] = _benchmarks_results(plan)
    if plan.arms:
        results["arms"] = arms_results(plan.options, plan.arms, _measures(plan))
    return results


def _measures(plan: Plan) -> list[Of]:
    """Return the measures of arms."""

    def losses_of(model: str, file: str) -> list[AnswerLoss]:
        stage = plan.losses[model].get(file)
        return read_records(stage.outputs[0], AnswerLoss) if stage else []

    def answers_of(model: str) -> list[Answer]:
        return read_records(plan.answers[model].outputs[0], Answer)

    measures = losses(plan.options.examples, losses_of, partial(_prompts_of, plan)) if "loss" in plan.suite else []
    if "answers" in plan.suite:
        measures += answers(read_records(plan.prompts.outputs[0], SeedExample), answers_of)
    return measures


def _prompts_of(plan: Plan, model: str, file: str) -> dict[str, str]:
    """Return example id -> prompt, for the examples that a model's loss was measured on."""
    return {
        row.id: dialogue(row.conversation)
        for row in read_records(plan.examples_of(model, file).outputs[0], SeedExample)
    }


def _answers_results(plan: Plan) -> dict[str, Any]:
    from srlm.evaluation.agreement import answers_part
    from srlm.evaluation.behaviours import behaviours_part
    from srlm.evaluation.instruction_following import MEASURES, check_answers, instructions_part
    from srlm.evaluation.text_statistics import drift_part, facts_part

    given = (plan.options.evaluation.bootstrap, f"{plan.options.seed}/evaluate")
    answers = {model: read_records(stage.outputs[0], Answer) for model, stage in plan.answers.items()}
    first = answers[plan.models[0]]
    prompts = read_records(plan.prompts.outputs[0], SeedExample)
    rows = []
    for model, own in answers.items():
        others = None if model == plan.models[0] else first
        row: dict[str, Any] = {"model": model} | facts_part(prompts, own, others, *given)
        measures = answers_part(own, *given) | drift_part(own, *given)
        if checked := check_answers(prompts, own):
            before = None if others is None else check_answers(prompts, others)
            followed = instructions_part(checked, before, *given).measures
            measures |= {name: followed[name] for name in MEASURES}
            if before:
                row["against_first"] |= {name: followed[f"{name}_gain"].to_dict() for name in MEASURES}
            behaviours = behaviours_part(prompts, own, others, *given)
            row["behaviours"] = {name: to_dicts(of_behaviour) for name, of_behaviour in behaviours.items()}
        row["measures"] |= to_dicts(measures)
        rows.append(row)
    return {"data": plan.options.dataset, "prompts": len(prompts), "rows": rows}


def _head_to_head_results(plan: Plan, match: Match) -> dict[str, Any]:
    from srlm.evaluation.head_to_head import by_type, head_to_head_part, match_results

    given = (plan.options.evaluation.bootstrap, f"{plan.options.seed}/evaluate")
    first, second = (read_records(plan.answers[side].outputs[0], Answer) for side in (match.first, match.second))
    types = {prompt.id: prompt.type for prompt in read_records(plan.prompts.outputs[0], SeedExample)}
    result = match_results(read_records(match.comparisons.outputs[0], Comparison), first, second)
    return {
        "first": match.first,
        "second": match.second,
        "measures": to_dicts(head_to_head_part(result, *given)),
        "types": {name: to_dicts(measures) for name, measures in by_type(result, types, *given).items()},
    }


def _loss_results(plan: Plan) -> list[dict[str, Any]]:
    """By model and file; `gap` is to the first file, by the intervals of both, since their answers are others."""
    from srlm.evaluation.loss import loss, loss_difference
    from srlm.evaluation.reward_hacking import change

    given = (plan.options.evaluation.bootstrap, f"{plan.options.seed}/evaluate")
    first_model, first_file = plan.models[0], plan.options.examples[0]
    rows = []
    for file in plan.options.examples:
        found = {
            model: read_records(stages[file].outputs[0], AnswerLoss)
            for model, stages in plan.losses.items()
            if file in stages
        }
        for model, own in found.items():
            prompts = _prompts_of(plan, model, file)
            row: dict[str, Any] = {"model": model, "examples": file, "n": len(own)}
            row["loss"] = loss(own, *given, prompts).to_dict()
            row["missing"] = sum(one.nats is None for one in own)
            if model != first_model and file != OWN:
                row["against_first"] = loss_difference(own, found[first_model], *given, prompts).to_dict()
            if file != first_file and first_file in plan.losses[model]:
                before = read_records(plan.losses[model][first_file].outputs[0], AnswerLoss)
                of_before = loss(before, *given, _prompts_of(plan, model, first_file))
                gap = change(of_before, loss(own, *given, prompts))
                row["gap"] = gap.to_dict() if gap else None
            rows.append(row)
    return rows


def _benchmarks_results(plan: Plan) -> list[dict[str, Any]]:
    from srlm.evaluation.lm_eval import against_first

    rows = []
    for name in plan.options.benchmarks:
        stored = [json.loads(tasks[name].outputs[0].read_text(encoding="utf-8")) for tasks in plan.benchmarks.values()]
        for model, result in zip(plan.models, stored, strict=True):
            row = {"model": model, "benchmark": name} | result
            if model != plan.models[0]:
                resamples, seed = plan.options.evaluation.bootstrap, f"{plan.options.seed}/evaluate"
                row["against_first"] = against_first(result["tasks"], stored[0]["tasks"], resamples, seed)
            rows.append(row)
    for row in rows:
        row["tasks"] = {name: _without(part, "documents") for name, part in row["tasks"].items()}
    return rows


def _without(part: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in part.items() if key != name}
