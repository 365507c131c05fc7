"""What models say when they are measured, and the measures of it: held-out EFT answers judged, evaluation prompts
answered, head to heads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from srlm.config import C, Config
from srlm.engines import Engine, SequenceScorer, gather_or_cancel
from srlm.engines.missing import (
    RAISE,
    TOO_LONG,
    count_missing,
    is_missing,
    missing_counts,
    named,
    problem_of,
    report_missing,
)
from srlm.errors import NoAnswerError
from srlm.evaluation.agreement import answers_part, judge_parts
from srlm.evaluation.answers import answer
from srlm.evaluation.contamination import Contamination, contamination
from srlm.evaluation.head_to_head import by_type, head_to_head_part, played
from srlm.evaluation.instruction_following import check_answers, instructions_part
from srlm.evaluation.text_statistics import drift_part
from srlm.ids import ORDERS, answer_id
from srlm.io.progress import Bars
from srlm.io.record_file import RecordFile, read_records
from srlm.judges.judging import Judging
from srlm.judges.pairwise import compare, load_template, question
from srlm.pipeline.artifacts import EFT, EFT_HELD_OUT, EVALUATION_PROMPTS, IFEVAL_PROMPTS, IFT
from srlm.pipeline.roles import match_judge
from srlm.pipeline.stage import Stage
from srlm.pipeline.workspace import Workspace
from srlm.recipes import stages
from srlm.types import Answer, Candidate, Comparison, Judgement, Prompt, RankedPrompt, SeedExample


def held_out(workspace: Workspace, config: Config) -> list[RankedPrompt]:
    """The EFT prompts that judges are measured on."""
    rows = EFT_HELD_OUT.read(workspace)
    return rows[: config.evaluation.eft_prompts or None]


def evaluation_prompts(workspace: Workspace, config: Config) -> list[SeedExample]:
    rows = EVALUATION_PROMPTS.read(workspace)
    return rows[: config.evaluation.prompts or None]


def ifeval_prompts(workspace: Workspace, config: Config) -> list[SeedExample]:
    """IFEval's prompts; none where the run does without."""
    return IFEVAL_PROMPTS.read(workspace) if config.evaluation.ifeval else []


def greedy(config: C, max_new_tokens: int) -> C:
    """The same options, but that evaluation prompts are answered with the likeliest words, and so many tokens."""
    return replace(
        config,
        evaluation=replace(config.evaluation, temperature=0.0, top_p=1.0, max_new_tokens=max_new_tokens),
    )


def read_comparisons(stage: Stage) -> list[Comparison]:
    """What a judge that compares left beside its judgements; empty for others."""
    files = [path for path in stage.outputs if path.name.endswith("comparisons.jsonl")]
    return read_records(files[0], Comparison) if files else []


async def judge_ranked(
    engine: Engine | SequenceScorer,
    config: Config,
    ranked: Sequence[RankedPrompt],
    count: int,
    stage: Stage,
    bars: Bars,
    name: str,
) -> None:
    """`count` judgements of every answer of ranked prompts; candidate ids RANKED_PROMPT_ID/aN."""
    if stage.complete():
        return
    stage.begin()
    written = done = 0

    def told(new: int, tokens: int) -> None:
        nonlocal written, done
        written, done = written + tokens, done + new
        bars.update(name, done=done, tokens=tokens)

    before = replace(engine.usage)
    judge = Judging(engine, config, stage, count, told, priority=1)
    bars.add(name, sum(judge.pieces(len(prompt.answers)) for prompt in ranked))

    async def one(prompt: RankedPrompt) -> None:
        answers = enumerate(prompt.answers)
        candidates = [Candidate(answer_id(prompt.id, n), prompt.id, answer.text, 0, False) for n, answer in answers]
        await judge.prompt(prompt.id, prompt.prompt, candidates)

    await gather_or_cancel(one(prompt) for prompt in ranked)
    rows = judge.finish()
    counts: dict[str, Any] = {"judgements": len(rows), "valid": sum(row.score is not None for row in rows)}
    counts |= judge.counted | judge.count_missing(f"{name}: answers to judge", {one.id: one.source for one in ranked})
    stage.done({}, counts, written, engine.usage.since(before))


async def held_out_judgements(
    engine: Engine | SequenceScorer, workspace: Workspace, config: Config, t: int, bars: Bars
) -> None:
    """M_t judges the held-out EFT answers."""
    stage = stages.held_out_judgements(workspace, config, t)
    ranked = held_out(workspace, config)
    await judge_ranked(engine, config, ranked, config.evaluation.judgements, stage, bars, "held-out EFT")


async def answer_prompts(
    engine: Engine,
    config: Config,
    prompts: Sequence[SeedExample],
    stage: Stage,
    bars: Bars,
    name: str,
    length_option: str = "evaluation.max_new_tokens",
) -> None:
    """A model's answer to every prompt; one without an answer, most often for its length, has no record."""
    if stage.complete():
        return
    stage.begin()
    store = RecordFile(stage.outputs[0], Answer)
    bars.add(name, len(prompts), len(store.records))
    unanswered: dict[str, str] = {}

    async def one(prompt: SeedExample) -> None:
        if prompt.id not in store.records:
            try:
                new = await answer(engine, config.evaluation, config.seed, prompt)
            except NoAnswerError as error:
                unanswered[named(prompt.id, prompt.source)] = problem_of(error, TOO_LONG)
                return
            store.append(new)
            bars.update(name, done=len(store.records), tokens=new.tokens)

    await gather_or_cancel(one(prompt) for prompt in prompts)
    rows = store.finish()
    bars.update(name, total=len(rows))
    counts = {"answers": len(rows), "truncated": sum(row.truncated for row in rows)}
    report_missing(f"{name}: prompts", unanswered, f"{RAISE}; or lower {length_option}")
    stage.done({}, counts | missing_counts(unanswered), sum(row.tokens for row in rows))


async def answers(engine: Engine, workspace: Workspace, config: Config, t: int, bars: Bars) -> None:
    """M_t answers the evaluation prompts."""
    stage, prompts = stages.answers(workspace, config, t), evaluation_prompts(workspace, config)
    await answer_prompts(engine, config, prompts, stage, bars, "evaluation answers")


async def ifeval_answers(engine: Engine, workspace: Workspace, config: Config, t: int, bars: Bars) -> None:
    """M_t answers IFEval's prompts, greedily, as IFEval has it."""
    stage, prompts = stages.ifeval_answers(workspace, config, t), ifeval_prompts(workspace, config)
    config = greedy(config, config.evaluation.ifeval_max_new_tokens)
    option = "evaluation.ifeval_max_new_tokens"
    await answer_prompts(engine, config, prompts, stage, bars, "IFEval answers", option)


async def play(
    engine: Engine,
    config: Config,
    first: Sequence[Answer],
    second: Sequence[Answer],
    store: RecordFile[Comparison],
    tell: Callable[[], None],
) -> None:
    """The judge compares two models' answers to the same prompts, in both orders, but for what `store` holds already.

    A prompt that one of them has no answer to is not compared.

    Parameters
    ----------
    tell : callable
        Called after each new comparison.
    """
    template = load_template(config.evaluation.judge_template, "evaluation.judge_template")
    others = {answer.id: answer.text for answer in second}

    async def one(answer: Answer, order: str) -> None:
        if f"{answer.id}/{order}" not in store.records:
            shown = question(template, answer.prompt, answer.text, others[answer.id], order)
            store.append(await compare(engine, answer.id, answer.id, order, shown))
            tell()

    await gather_or_cancel(one(answer, order) for answer in first if answer.id in others for order in ORDERS)


def matches(first: Sequence[Answer], second: Sequence[Answer]) -> int:
    """Return how many comparisons a match takes: the prompts that both have answered, in both orders."""
    return len({answer.id for answer in first} & {answer.id for answer in second}) * len(ORDERS)


async def head_to_head(engine: Engine, workspace: Workspace, config: Config, t: int, bars: Bars) -> None:
    """The fixed judge compares M_t's answers with those of each of its opponents, in both orders."""
    stage = stages.head_to_head(workspace, config, t)
    if stage.complete():
        return
    stage.begin()
    rivals = stages.opponents(config, t)
    stores = {u: RecordFile(path, Comparison) for u, path in zip(rivals, stage.outputs, strict=True)}
    answered = {u: stages.answers(workspace, config, u) for u in (t, *rivals)}
    texts = {u: read_records(source.outputs[0], Answer) for u, source in answered.items()}
    for store in stores.values():
        store.forget(lambda comparison: is_missing(comparison.problem))
    done = sum(len(store.records) for store in stores.values())
    bars.add("head to head", sum(matches(texts[t], texts[u]) for u in rivals), done)

    def tell() -> None:
        bars.update("head to head", done=sum(len(store.records) for store in stores.values()))

    await gather_or_cancel(play(engine, config, texts[t], texts[u], stores[u], tell) for u in rivals)
    rows = [row for store in stores.values() for row in store.finish()]
    counts: dict[str, Any] = {"comparisons": len(rows), "unparsable": sum(row.winner is None for row in rows)}
    counts |= count_missing("Head to head: answers to judge", rows)
    stage.done({}, counts)


def _lately(t: int) -> tuple[int, ...]:
    """M_t and the model before it."""
    return (t, t - 1) if t else (t,)


def trained_on(
    workspace: Workspace, config: Config, t: int, prompts: Sequence[SeedExample] | None = None
) -> Contamination:
    """The evaluation prompts among M_t's training prompts: the IFT and EFT seeds', and the new ones up to iteration t.

    M0 has none. An earlier model's are among M_t's, so that their match needs no more than these left out. `prompts`
    are looked for where they are given, in the evaluation prompts' place.
    """

    def training() -> Iterator[str]:
        if t:
            yield from (row.prompt for row in IFT.read(workspace))
            yield from (row.prompt for row in EFT.read(workspace))
        for u in range(2, t + 1):
            rows = read_records(stages.prompts(workspace, config, u).outputs[0], Prompt)
            yield from (row.text for row in rows if not row.rejected)

    return contamination(evaluation_prompts(workspace, config) if prompts is None else prompts, training())


def ifeval_part(workspace: Workspace, config: Config, t: int, resamples: int, seed: str) -> dict[str, Any]:
    """What M_t follows of IFEval's instructions; "excluded" counts prompts that it was trained on."""
    prompts = ifeval_prompts(workspace, config)
    excluded = set(trained_on(workspace, config, t, prompts).excluded)
    of_both = [
        check_answers(prompts, [row for row in read_records(source.outputs[0], Answer) if row.id not in excluded])
        for source in (stages.ifeval_answers(workspace, config, u) for u in _lately(t))
    ]
    part = instructions_part(of_both[0], of_both[1] if t else None, resamples, seed)
    return part | {"excluded": len(excluded)}


def measures(workspace: Workspace, config: Config, t: int, seen: Contamination) -> dict[str, Any]:
    """What evaluation.json of M_t holds, from the records of `stages.measure_sources`, without prompts in `seen`."""
    resamples, seed = config.evaluation.bootstrap, f"{config.seed}/measures"
    found: dict[str, Any] = {"iteration": t}
    if stages.judge_is_measured(config, t):
        judged = [
            stages.held_out_judgements(workspace, config, u) for u in (t, t - 1) if stages.judge_is_measured(config, u)
        ]
        now, *before = [read_records(source.outputs[0], Judgement) for source in judged]
        comparisons, ranked = read_comparisons(judged[0]), held_out(workspace, config)
        found |= judge_parts(ranked, now, before[0] if before else None, comparisons, config.judge, resamples, seed)
    rivals = stages.opponents(config, t)
    found["contamination"], excluded = seen.to_dict(), set(seen.excluded)
    answered = {
        u: [row for row in read_records(source.outputs[0], Answer) if row.id not in excluded]
        for u in (t, *rivals)
        for source in [stages.answers(workspace, config, u)]
    }
    found["answers"] = answers_part(answered[t], resamples, seed)
    found["drift"] = drift_part(answered[t], resamples, seed, answered.get(t - 1))
    prompts = evaluation_prompts(workspace, config)
    if any(prompt.constraints for prompt in prompts):
        of_both = [check_answers(prompts, answered[u]) for u in _lately(t)]
        found["instructions"] = instructions_part(of_both[0], of_both[1] if t else None, resamples, seed)
    if config.evaluation.ifeval:
        found["ifeval"] = ifeval_part(workspace, config, t, resamples, seed)
    if t:
        types = {prompt.id: prompt.type for prompt in prompts}
        found["head_to_heads"] = {}
        for u, path in zip(rivals, stages.head_to_head(workspace, config, t).outputs, strict=True):
            compared = [row for row in read_records(path, Comparison) if row.prompt_id not in excluded]
            match = played(compared, answered[t], answered[u])
            part = head_to_head_part(match, resamples, seed)
            if u == t - 1:
                found["head_to_head"] = part
            found["head_to_heads"][str(u)] = part | {"types": by_type(match, types, resamples, seed)}
        found["head_to_head_judge"] = str(match_judge(config))
    return found
