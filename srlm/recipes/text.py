"""All that a model writes, in one start of its engine: its measures' raw text, and the feedback for the next model.

Requests run as coroutines against the engine's own scheduler, so that a candidate is judged as soon as it is written,
while others are still being written. Records are appended as they come; what is there already is not asked for again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

from srlm.config import Config, ModelConfig, Scorer
from srlm.data.eft import agrees
from srlm.data.splits import Overlap
from srlm.engines import Engine, SequenceScorer, gather_or_cancel, open_endpoint, open_engine, open_sequence_scorer
from srlm.engines.missing import (
    RAISE,
    TOO_LONG,
    count_missing,
    is_missing,
    missing_counts,
    named,
    problem_of,
    refuse_without_any,
    report_missing,
)
from srlm.errors import NoAnswerError
from srlm.generation.candidates import sample_candidates
from srlm.generation.prompts import has_no_answer, write_prompts
from srlm.ids import answer_id, candidate_id, judgement_id
from srlm.io.progress import Bars, say
from srlm.io.record_file import RecordFile, read_records
from srlm.judges.judging import Judging
from srlm.judges.meta import MetaJudging
from srlm.judges.pointwise import judge
from srlm.judges.prompt import JudgeTemplate
from srlm.models.resolve import external_options, resolve
from srlm.models.templating import Template
from srlm.pipeline.artifacts import EFT, EFT_HELD_OUT, EVALUATION_PROMPTS, IFT, PROMPTS, SFT_BASELINE
from srlm.pipeline.roles import (
    ENDPOINT,
    ModelRef,
    iteration,
    judge_of,
    match_judge,
    measured_judge,
    reference_of_judge,
    resolve_role,
)
from srlm.pipeline.workspace import Workspace
from srlm.recipes import stages
from srlm.recipes.measured import answers, head_to_head, held_out_judgements, ifeval_answers
from srlm.types import Candidate, Judgement, Prompt, RankedPrompt

# Workers: each runs in a process of its own (launch.py).


def text_worker(workspace: Workspace, t: int) -> None:
    """All text of M_t: measures, and feedback for M_t+1 where the run goes on."""
    asyncio.run(_text(workspace, t))


def prompts_worker(workspace: Workspace, t: int) -> None:
    """New prompts for iteration `t`, by a fixed local model."""
    asyncio.run(_prompts_alone(workspace, t))


def judgements_worker(workspace: Workspace, t: int) -> None:
    """Judgements of the candidates of iteration `t`, by a fixed local model or a judge that rates."""
    asyncio.run(_judgements_alone(workspace, t))


def held_out_worker(workspace: Workspace, t: int) -> None:
    """Judgements of the held-out EFT answers, by a judge that rates."""
    asyncio.run(_held_out_alone(workspace, t))


def rationales_worker(workspace: Workspace, t: int) -> None:
    """The SFT baseline judges the EFT seeds."""
    asyncio.run(_rationales(workspace))


def head_to_head_worker(workspace: Workspace, t: int) -> None:
    """M_t against its opponents by the fixed judge."""
    asyncio.run(_head_to_head(workspace, t))


async def _text(workspace: Workspace, t: int) -> None:
    config = workspace.config()
    async with open_engine(config, workspace.model(t)) as engine:
        with Bars() as bars:
            jobs = [answers(engine, workspace, config, t, bars)]
            if config.evaluation.ifeval:
                jobs.append(ifeval_answers(engine, workspace, config, t, bars))
            if not config.judge.rates:
                jobs.append(held_out_judgements(engine, workspace, config, t, bars))
            if 1 <= t < config.iteration:
                jobs.append(_feedback(engine, workspace, config, t + 1, bars))
            await gather_or_cancel(jobs)
            if t >= 1 and match_judge(config).of_run == t:
                await head_to_head(engine, workspace, config, t, bars)
        read = engine.usage
        if read.cached_tokens:
            share = read.cached_tokens / read.prompt_tokens
            say(f"  prefix cache: {100 * share:.0f} % of {read.prompt_tokens:,} prompt tokens were not read anew")


async def _feedback(engine: Engine, workspace: Workspace, config: Config, t: int, bars: Bars) -> None:
    """With M_t-1's engine; a server beside it where one is the writer or the judge."""
    async with contextlib.AsyncExitStack() as beside:
        writer = judging = engine
        if not resolve_role(config.prompts.model, t - 1).local:
            writer = await beside.enter_async_context(open_endpoint(config))
        if not judge_of(config, t - 1).local:
            judging = await beside.enter_async_context(open_endpoint(config))
        await feedback(engine, writer, judging if judges_beside(config, t - 1) else None, workspace, config, t, bars)


def judges_beside(config: Config, t: int) -> bool:
    """Whether M_t's candidates are judged while M_t's engine runs: by M_t itself or by a server."""
    return not config.judge.rates and judge_of(config, t) in (iteration(t), ENDPOINT)


async def _judgements_alone(workspace: Workspace, t: int) -> None:
    config = workspace.config()
    async with contextlib.AsyncExitStack() as open_judge:
        judging: Engine | SequenceScorer
        if config.judge.rates:
            judging = await open_judge.enter_async_context(_rater(workspace, config, judge_of(config, t - 1)))
        else:
            judging = await open_judge.enter_async_context(open_model(workspace, config, judge_of(config, t - 1)))
        with Bars() as bars:
            await feedback(None, None, judging, workspace, config, t, bars)


async def _held_out_alone(workspace: Workspace, t: int) -> None:
    config = workspace.config()
    async with _rater(workspace, config, measured_judge(config, t)) as rater:
        with Bars() as bars:
            await held_out_judgements(rater, workspace, config, t, bars)


@contextlib.asynccontextmanager
async def _rater(workspace: Workspace, config: Config, judge: ModelRef) -> AsyncIterator[SequenceScorer]:
    """Open the sequence scoring of a judge: of a reward model, or of likelihoods against those of its reference."""
    folder, model = model_files(workspace, config, judge)
    reference = None
    if config.judge.scorer is Scorer.implicit:
        reference, _ = model_files(workspace, config, reference_of_judge(config, judge))
    async with open_sequence_scorer(config, folder, reference, model) as rater:
        yield rater


def model_files(workspace: Workspace, config: Config, ref: ModelRef) -> tuple[Path, ModelConfig]:
    """Return the folder of a local model and the options that it is loaded with."""
    if ref.kind == "reward_model":
        return workspace.reward_model, config.model
    if ref.kind == "iteration":
        return workspace.model(ref.iteration), config.model
    folder = resolve(ModelConfig(name=ref.name))
    return folder, external_options(config, ref.name, folder)


async def _prompts_alone(workspace: Workspace, t: int) -> None:
    config = workspace.config()
    async with open_model(workspace, config, resolve_role(config.prompts.model, t - 1)) as engine:
        with Bars() as bars:
            async for _ in new_prompts(engine, workspace, config, t, bars):
                pass


async def _rationales(workspace: Workspace) -> None:
    config = workspace.config()
    ranked = EFT.read(workspace)
    async with open_engine(config, workspace.iteration(1) / SFT_BASELINE) as engine:
        with Bars() as bars:
            await rationales(engine, workspace, config, ranked, bars)


async def _head_to_head(workspace: Workspace, t: int) -> None:
    config = workspace.config()
    async with open_model(workspace, config, match_judge(config)) as engine:
        with Bars() as bars:
            await head_to_head(engine, workspace, config, t, bars)


@contextlib.asynccontextmanager
async def open_model(workspace: Workspace, config: Config, ref: ModelRef) -> AsyncIterator[Engine]:
    """Open the engine of a model, or the client of the server."""
    if not ref.local:
        async with open_endpoint(config) as engine:
            yield engine
        return
    async with open_engine(config, *model_files(workspace, config, ref)) as engine:
        yield engine


# Stages: records in, records out, an engine beside them.


async def new_prompts(
    engine: Engine, workspace: Workspace, config: Config, t: int, bars: Bars
) -> AsyncIterator[Prompt]:
    """Accepted new prompts of iteration `t` as they are decided; the stage is complete when the last one is out."""
    stage = stages.prompts(workspace, config, t)
    complete = stage.complete()
    store = RecordFile(stage.outputs[0], Prompt)
    seeds = IFT.read(workspace)
    ift = {row.id: row.prompt for row in seeds}
    earlier = {
        prompt.id: prompt.text for u in range(2, t) for prompt in PROMPTS.read(workspace, u) if not prompt.rejected
    }
    seen = Overlap()
    for artifact in (EFT, EFT_HELD_OUT, EVALUATION_PROMPTS):
        for row in artifact.read(workspace):
            seen.add(row.prompt)
    for text in [*ift.values(), *earlier.values()]:
        seen.add(text)
    if not complete:
        stage.begin()
        bars.add("new prompts", config.prompts.count)
        if all(attempt.rejected for attempt in store.records.values()):  # else later attempts were drawn from these
            store.forget(has_no_answer)
    accepted = written = 0

    def tell(attempts: int, tokens: int) -> None:
        nonlocal written
        written += tokens
        if not complete:
            bars.update("new prompts", done=accepted, tokens=tokens)

    template = stages.load_writer_template()
    async for prompt in write_prompts(
        engine, template, config.prompts, config.seed, t, ift, earlier, seen, store, tell
    ):
        accepted += 1
        tell(len(store.records), 0)
        yield prompt
    if not complete:
        rows = store.finish()
        reasons = Counter(row.rejected.split(":")[0] for row in rows if row.rejected)
        counts = {"attempts": len(rows), "accepted": accepted, "rejected": dict(reasons.most_common())}
        counts |= _examples_too_long(rows, {row.id: row.source for row in seeds})
        stage.done({}, counts, written)
        bars.update("new prompts", total=accepted)


def _examples_too_long(attempts: Sequence[Prompt], sources: Mapping[str, str]) -> dict[str, Any]:
    """Log and count the examples in whose place others were drawn, because the writer's request was too long."""
    passed_over = Counter(shot for attempt in attempts for shot in attempt.too_long)
    problems = {
        named(shot, sources.get(shot, "")): f"{TOO_LONG}: left out of the examples of {times} requests for new prompts"
        for shot, times in passed_over.items()
    }
    options = "prompts.shots_ift, prompts.shots_generated or prompts.max_new_tokens"
    report_missing("Examples for new prompts", problems, f"{RAISE}; or lower {options}")
    return missing_counts(problems)


async def feedback(
    engine: Engine | None,
    writer: Engine | None,
    judging: Engine | SequenceScorer | None,
    workspace: Workspace,
    config: Config,
    t: int,
    bars: Bars,
) -> None:
    """Prompts, candidates and judgements of iteration `t`, overlapping.

    Parameters
    ----------
    engine, writer : Engine or None
        Who answers, and who writes the prompts; None where prompts and candidates are complete.
    judging : Engine, SequenceScorer or None
        Who judges; None where another model does later.
    """
    candidate_stage, judgement_stage = (
        stages.candidates(workspace, config, t),
        stages.judgements(workspace, config, t),
    )
    meta_stage = stages.meta_judgements(workspace, config, t) if judging and config.judge.meta else None
    wanted = [candidate_stage, *([judgement_stage] if judging else []), *([meta_stage] if meta_stage else [])]
    unfinished = [stage for stage in wanted if not stage.complete()]
    if not unfinished:
        if writer and not stages.prompts(workspace, config, t).complete():  # they were deleted: what follows is kept
            async for _ in new_prompts(writer, workspace, config, t, bars):
                pass
        return
    candidate_store = RecordFile(candidate_stage.outputs[0], Candidate)
    for stage in unfinished:
        stage.begin()
    n, k = config.candidates.count, config.judge.count
    before = replace(judging.usage) if judging else None
    counts = Counter[str]()
    written = Counter[str]()

    def told(name: str, new: int, tokens: int) -> None:
        counts[name] += new
        written[name] += tokens
        total = meta.planned if meta and name == "meta-judgements" else None  # known as prompts come
        bars.update(name, done=counts[name], tokens=tokens, total=total)

    judge = meta = None
    per_prompt = {"candidates": n} if engine else {}
    if judging:
        name = config.judge.evidence or "judgements"
        adaptive = config.judge.early_stopping
        judge = Judging(judging, config, judgement_stage, k, partial(told, name), adaptive=adaptive)
        per_prompt[name] = judge.pieces(n)
    for name, each in per_prompt.items():
        bars.add(name, config.prompts.count * each)
    if judging and meta_stage:
        meta = MetaJudging(cast(Engine, judging), config, meta_stage, partial(told, "meta-judgements"))
        bars.add("meta-judgements", 0)

    unanswered: dict[str, str] = {}  # accepted prompts that are too long to answer -> why

    async def answer_one(prompt: Prompt) -> None:
        ids = [candidate_id(prompt.id, i) for i in range(n)]
        tokens = 0
        if engine and any(i not in candidate_store.records for i in ids):
            try:
                new = await sample_candidates(engine, config.candidates, config.seed, prompt)
            except NoAnswerError as error:
                unanswered[prompt.id] = problem_of(error, TOO_LONG)
                return
            candidate_store.append(*new)
            tokens = sum(candidate.tokens for candidate in new)
        candidates = [candidate_store.records[i] for i in ids if i in candidate_store.records]
        if engine:
            told("candidates", len(candidates), tokens)
        if judge and candidates:
            await judge.prompt(prompt.id, prompt.text, candidates)
            if meta:
                judged = [judgement for i in ids for judgement in judge.of(i)]
                await meta.prompt(prompt.text, candidates, judged)

    async def all_prompts() -> None:
        tasks: list[asyncio.Task[None]] = []
        prompts = new_prompts(writer, workspace, config, t, bars) if writer else _written(workspace, config, t)
        try:
            async for prompt in prompts:
                tasks.append(asyncio.create_task(answer_one(prompt)))
                for name in per_prompt:
                    bars.update(name)
                failed = next((task for task in tasks if task.done() and task.exception()), None)
                if failed:
                    break
            for name, each in per_prompt.items():
                bars.update(name, total=len(tasks) * each)
            await asyncio.gather(*tasks)
            for name, each in per_prompt.items():
                saved = judge.saved if judge and name != "candidates" else 0
                bars.update(name, total=(len(tasks) - len(unanswered)) * each - saved)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    await all_prompts()
    candidates = candidate_store.finish()
    if candidate_stage in unfinished:
        answered = {"candidates": len(candidates), "truncated": sum(candidate.truncated for candidate in candidates)}
        report_missing("Accepted prompts", unanswered, f"{RAISE}; or lower candidates.max_new_tokens")
        missing = missing_counts(unanswered)
        refuse_without_any("accepted prompt could be answered", len(candidates), missing)
        candidate_stage.done({}, answered | missing, written["candidates"])
    if not judge:
        return
    if judgement_stage in unfinished:
        judgements = judge.finish()
        problems = Counter(judgement.problem.split(":")[0] for judgement in judgements if judgement.score is None)
        counted: dict[str, Any] = {
            "judgements": len(judgements),
            "saved": len(candidates) * k - len(judgements),
            "valid": len(judgements) - problems.total(),
            "candidates_judged_validly": valid_candidates(judgements, config.judge.min_valid),
            "candidates": len(candidates),
            "problems": dict(problems.most_common()),
        }
        missing = judge.count_missing("Candidates to judge")
        refuse_without_any("candidate could be judged", counted["valid"], missing)
        counted |= judge.counted | missing
        read = judging.usage.since(before) if judging and before else {}  # be it to judge or to answer
        tokens = written[config.judge.evidence or "judgements"]
        judgement_stage.done({}, counted, tokens, read)
    if meta and meta_stage in unfinished:
        comparisons = meta.store.finish()
        unread = sum(comparison.winner is None for comparison in comparisons)
        compared = {"comparisons": len(comparisons), "unparsable": unread} | count_missing("Meta-judge", comparisons)
        meta_stage.done({}, compared, written["meta-judgements"])


async def _written(workspace: Workspace, config: Config, t: int) -> AsyncIterator[Prompt]:
    """The accepted prompts of an iteration whose prompts are complete."""
    for prompt in read_records(stages.prompts(workspace, config, t).outputs[0], Prompt):
        if not prompt.rejected:
            yield prompt


def valid_candidates(judgements: Sequence[Judgement], min_valid: int) -> int:
    """How many candidates have at least `min_valid` valid judgements."""
    valid = Counter(judgement.candidate_id for judgement in judgements if judgement.score is not None)
    return sum(count >= min_valid for count in valid.values())


async def rationales(
    engine: Engine, workspace: Workspace, config: Config, ranked: Sequence[RankedPrompt], bars: Bars
) -> None:
    """The SFT baseline judges the EFT seeds, each prompt until its scores order the answers as people did.

    At most `data.rationale_attempts` times; judgement N of an answer is of try N. With `data.rationale_reference` it
    sees a better answer beside a worse one, and is to name what the worse one lacks; what is learnt later has no such
    hint.
    """
    stage = stages.rationales(workspace, config)
    if stage.complete():
        return
    stage.begin()
    store = RecordFile(stage.outputs[0], Judgement)
    store.forget(lambda judgement: is_missing(judgement.problem))
    template = JudgeTemplate.load(config.judge)
    hint = Template.load("weaknesses", "srlm.judges", "data.rationale_reference", ("better",))
    bars.add("EFT rationales", len(ranked))
    done = written = agreed = 0

    async def answer(prompt: RankedPrompt, place: int, attempt: int) -> Judgement:
        nonlocal written
        candidate = Candidate(answer_id(prompt.id, place), prompt.id, prompt.answers[place].text, 0, False)
        if judgement_id(candidate.id, attempt) not in store.records:
            best = min(prompt.answers, key=lambda other: other.rank)
            worse = config.data.rationale_reference and prompt.answers[place].rank > best.rank
            note = "\n\n" + hint.fill(better=best.text) if worse else ""
            new = await judge(
                engine, template, config.judge, config.seed, prompt.prompt, candidate, 1, first=attempt, note=note
            )
            store.append(*new)
            written += sum(judgement.tokens for judgement in new)
        return store.records[judgement_id(candidate.id, attempt)]

    async def one(prompt: RankedPrompt) -> None:
        nonlocal done, agreed
        before = written
        for attempt in range(config.data.rationale_attempts):
            judged = await gather_or_cancel(answer(prompt, place, attempt) for place in range(len(prompt.answers)))
            if agrees(prompt, [judgement.score for judgement in judged]):
                agreed += 1
                break
        done += 1
        bars.update("EFT rationales", done=done, tokens=written - before)

    await gather_or_cancel(one(prompt) for prompt in ranked)
    rows = store.finish()
    counts: dict[str, Any] = {"judgements": len(rows), "valid": sum(row.score is not None for row in rows)}
    missing = count_missing("EFT answers to judge", rows, {prompt.id: prompt.source for prompt in ranked})
    refuse_without_any("EFT prompt has judgements that order its answers as people did", agreed, missing)
    counts |= missing
    stage.done({}, counts, written)
