"""All that a model writes, in one start of its engine: its measures' raw text, and the feedback for the next model.

Requests run as coroutines against the engine's own scheduler, so that a candidate is judged as soon as it is written,
while others are still being written. Records are appended as they come; what is there already is not asked for again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from srlm import stages
from srlm.config import Config, ModelConfig
from srlm.engines import Engine, open_endpoint, open_engine
from srlm.evaluation.answers import answer
from srlm.evaluation.head_to_head import compare, load_template
from srlm.feedback.adaptive import Standing, undecided
from srlm.feedback.candidates import sample_candidates
from srlm.feedback.judge import judge
from srlm.feedback.prompts import write_prompts
from srlm.models import resolve
from srlm.progress import Bars
from srlm.records import Answer, Candidate, Comparison, Judgement, Prompt, RankedPrompt, SeedExample
from srlm.rubric import JudgeTemplate
from srlm.seeds.splits import Overlap
from srlm.workspace import RecordFile, Stage, Workspace, read_records

T = TypeVar("T")


async def together(jobs: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """All results; the first error cancels the rest and is raised as it is."""
    tasks = [asyncio.ensure_future(job) for job in jobs]
    try:
        return list(await asyncio.gather(*tasks))
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


def judged_by(workspace: Workspace, config: Config) -> int | None:
    """The iteration whose model is the fixed judge of head to heads; None where it is no model of this run."""
    return {"base": 0, "sft": 1}.get(config.evaluation.judge)


def held_out(workspace: Workspace, config: Config) -> list[RankedPrompt]:
    """The EFT prompts that judges are measured on."""
    rows = read_records(workspace.seeds / "eft_held_out.jsonl", RankedPrompt)
    return rows[: config.evaluation.eft_prompts or None]


def evaluation_prompts(workspace: Workspace, config: Config) -> list[SeedExample]:
    rows = read_records(workspace.seeds / "evaluation.jsonl", SeedExample)
    return rows[: config.evaluation.prompts or None]


# Workers: each runs in a process of its own (launch.py).


def text_worker(workspace: Workspace, t: int) -> None:
    """All text of M_t: measures, and feedback for M_t+1 where the run goes on."""
    asyncio.run(_text(workspace, t))


def prompts_worker(workspace: Workspace, t: int) -> None:
    """New prompts for iteration `t`, by a fixed local model."""
    asyncio.run(_prompts_alone(workspace, t))


def judgements_worker(workspace: Workspace, t: int) -> None:
    """Judgements of the candidates of iteration `t`, by a fixed local model."""
    asyncio.run(_judgements_alone(workspace, t))


def rationales_worker(workspace: Workspace, t: int) -> None:
    """The SFT baseline judges the EFT seeds."""
    asyncio.run(_rationales(workspace))


def head_to_head_worker(workspace: Workspace, t: int) -> None:
    """M_t against M_t-1 by the fixed judge."""
    asyncio.run(_head_to_head(workspace, t))


async def _text(workspace: Workspace, t: int) -> None:
    config = workspace.config()
    async with open_engine(config, workspace.model(t)) as engine:
        with Bars() as bars:
            jobs = [
                held_out_judgements(engine, workspace, config, t, bars),
                answers(engine, workspace, config, t, bars),
            ]
            if 1 <= t < config.iteration:
                jobs.append(_feedback(engine, workspace, config, t + 1, bars))
            await together(jobs)
            if t >= 1 and judged_by(workspace, config) == t:
                await head_to_head(engine, workspace, config, t, bars)


async def _feedback(engine: Engine, workspace: Workspace, config: Config, t: int, bars: Bars) -> None:
    """With M_t-1's engine; a server beside it where one is the writer or the judge."""
    async with contextlib.AsyncExitStack() as beside:
        writer = judging = engine
        if config.prompts.writer == "endpoint":
            writer = await beside.enter_async_context(open_endpoint(config))
        if config.judge.by == "endpoint":
            judging = await beside.enter_async_context(open_endpoint(config))
        await feedback(engine, writer, judging if judges_beside(config, t - 1) else None, workspace, config, t, bars)


def candidates_judge(config: Config, t: int) -> str:
    """Who judges M_t's candidates, by name."""
    return {"self": f"M{t}", "base": "M0", "sft": "M1"}.get(config.judge.by, config.judge.by)


def judges_beside(config: Config, t: int) -> bool:
    """Whether M_t's candidates are judged while M_t's engine runs: by M_t itself or by a server."""
    return config.judge.by in ("self", "endpoint") or {"base": 0, "sft": 1}.get(config.judge.by) == t


async def _judgements_alone(workspace: Workspace, t: int) -> None:
    config = workspace.config()
    async with _fixed_engine(workspace, config, config.judge.by) as engine:
        with Bars() as bars:
            await feedback(None, None, engine, workspace, config, t, bars)


async def _prompts_alone(workspace: Workspace, t: int) -> None:
    config = workspace.config()
    async with _fixed_engine(workspace, config, config.prompts.writer) as engine:
        with Bars() as bars:
            async for _ in new_prompts(engine, workspace, config, t, bars):
                pass


async def _rationales(workspace: Workspace) -> None:
    config = workspace.config()
    folder = workspace.iteration(1)
    ranked = read_records(workspace.seeds / "eft.jsonl", RankedPrompt)
    async with open_engine(config, folder / "sft_baseline") as engine:
        with Bars() as bars:
            stage, seeds = stages.rationales(workspace, config), stages.seeds(workspace, config).fingerprints()
            await judge_ranked(engine, config, ranked, 1, stage, bars, "EFT rationales", seeds)


async def _head_to_head(workspace: Workspace, t: int) -> None:
    config = workspace.config()
    async with _fixed_engine(workspace, config, config.evaluation.judge) as engine:
        with Bars() as bars:
            await head_to_head(engine, workspace, config, t, bars)


@contextlib.asynccontextmanager
async def _fixed_engine(workspace: Workspace, config: Config, which: str) -> AsyncIterator[Engine]:
    """The engine of a model that is not in training: sft, base, endpoint, or any model name."""
    if which == "endpoint":
        async with open_endpoint(config) as engine:
            yield engine
        return
    known = {"base": 0, "sft": 1}
    model = workspace.model(known[which]) if which in known else resolve(ModelConfig(name=which))
    async with open_engine(config, model) as engine:
        yield engine


# Stages: records in, records out, an engine beside them.


async def new_prompts(
    engine: Engine, workspace: Workspace, config: Config, t: int, bars: Bars
) -> AsyncIterator[Prompt]:
    """Accepted new prompts of iteration `t` as they are decided; the stage is complete when the last one is out."""
    stage = stages.prompts(workspace, config, t)
    complete = stage.complete()
    store = RecordFile(stage.outputs[0], Prompt)
    ift = {row.id: row.prompt for row in read_records(workspace.seeds / "ift.jsonl", SeedExample)}
    earlier = {
        prompt.id: prompt.text
        for u in range(2, t)
        for prompt in read_records(workspace.iteration(u) / "1_prompts.jsonl", Prompt)
        if not prompt.rejected
    }
    seen = Overlap()
    for name, kind in (("eft", RankedPrompt), ("eft_held_out", RankedPrompt), ("evaluation", SeedExample)):
        for row in read_records(workspace.seeds / f"{name}.jsonl", kind):
            seen.add(row.prompt)  # type: ignore[attr-defined]
    for text in [*ift.values(), *earlier.values()]:
        seen.add(text)
    if not complete:
        stage.begin()
        bars.add("new prompts", config.prompts.count)
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
        stage.done(stages.seeds(workspace, config).fingerprints(), counts, written)
        bars.update("new prompts", total=accepted)


async def feedback(
    engine: Engine | None,
    writer: Engine | None,
    judging: Engine | None,
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
    judging : Engine or None
        Who judges; None where another model does later.
    """
    candidate_stage, judgement_stage = (
        stages.candidates(workspace, config, t),
        stages.judgements(workspace, config, t),
    )
    wanted = [candidate_stage, *([judgement_stage] if judging else [])]
    unfinished = [stage for stage in wanted if not stage.complete()]
    if not unfinished:
        return
    candidate_store = RecordFile(candidate_stage.outputs[0], Candidate)
    judgement_store = RecordFile(judgement_stage.outputs[0], Judgement)
    for stage in unfinished:
        stage.begin()
    template = JudgeTemplate.load(config.judge)
    n, k = config.candidates.count, config.judge.count
    per_prompt = ({"candidates": n} if engine else {}) | ({"judgements": n * k} if judging else {})
    for name in per_prompt:
        bars.add(name, config.prompts.count * per_prompt[name])
    counts = Counter[str]()
    written = Counter[str]()

    def told(name: str, new: int, tokens: int) -> None:
        counts[name] += new
        written[name] += tokens
        bars.update(name, done=counts[name], tokens=tokens)

    async def judge_one(prompt: Prompt, candidate: Candidate, count: int, first: int = 0) -> None:
        ids = [f"{candidate.id}/j{j}" for j in range(first, first + count)]
        tokens = 0
        if judging and any(i not in judgement_store.records for i in ids):
            new = await judge(judging, template, config.judge, config.seed, prompt.text, candidate, count, first=first)
            judgement_store.append(*new)
            tokens = sum(judgement.tokens for judgement in new)
        told("judgements", count, tokens)

    async def judge_at_once(prompt: Prompt, candidates: list[Candidate]) -> None:
        await together(judge_one(prompt, candidate, k) for candidate in candidates)

    async def judge_in_rounds(prompt: Prompt, candidates: list[Candidate]) -> None:
        asked: dict[str, list[Judgement]] = {candidate.id: [] for candidate in candidates}
        for j in range(k):
            matter = undecided([Standing.of(asked[candidate.id], k) for candidate in candidates], config.judge)
            still = [candidate for candidate, matters in zip(candidates, matter, strict=True) if matters]
            await together(judge_one(prompt, candidate, 1, j) for candidate in still)
            for candidate in still:
                asked[candidate.id].append(judgement_store.records[f"{candidate.id}/j{j}"])
        told("judgements", k * len(candidates) - sum(map(len, asked.values())), 0)  # those that nobody needs

    async def answer_one(prompt: Prompt) -> None:
        ids = [f"{prompt.id}/c{i}" for i in range(n)]
        tokens = 0
        if engine and any(i not in candidate_store.records for i in ids):
            new = await sample_candidates(engine, config.candidates, config.seed, prompt)
            candidate_store.append(*new)
            tokens = sum(candidate.tokens for candidate in new)
        if engine:
            told("candidates", n, tokens)
        if not judging:
            return
        judge_them = judge_in_rounds if config.judge.adaptive else judge_at_once
        await judge_them(prompt, [candidate_store.records[i] for i in ids])

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
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    await all_prompts()
    prompt_hash = stages.prompts(workspace, config, t).fingerprints()
    candidates = candidate_store.finish()
    if candidate_stage in unfinished:
        truncated = sum(candidate.truncated for candidate in candidates)
        candidate_stage.done(
            prompt_hash, {"candidates": len(candidates), "truncated": truncated}, written["candidates"]
        )
    if not judging:
        return
    judgements = judgement_store.finish()
    problems = Counter(judgement.problem.split(":")[0] for judgement in judgements if judgement.score is None)
    counted = {
        "judgements": len(judgements),
        "saved": len(candidates) * k - len(judgements),
        "valid": len(judgements) - problems.total(),
        "candidates_judged_validly": valid_candidates(judgements, config.judge.min_valid),
        "candidates": len(candidates),
        "problems": dict(problems.most_common()),
    }
    judgement_stage.done(candidate_stage.fingerprints(), counted, written["judgements"])


async def _written(workspace: Workspace, config: Config, t: int) -> AsyncIterator[Prompt]:
    """The accepted prompts of an iteration whose prompts are complete."""
    for prompt in read_records(stages.prompts(workspace, config, t).outputs[0], Prompt):
        if not prompt.rejected:
            yield prompt


def valid_candidates(judgements: Sequence[Judgement], min_valid: int) -> int:
    """How many candidates have at least `min_valid` valid judgements."""
    valid = Counter(judgement.candidate_id for judgement in judgements if judgement.score is not None)
    return sum(count >= min_valid for count in valid.values())


async def judge_ranked(
    engine: Engine,
    config: Config,
    ranked: Sequence[RankedPrompt],
    count: int,
    stage: Stage,
    bars: Bars,
    name: str,
    inputs: Mapping[str, str],
) -> None:
    """`count` judgements of every answer of ranked prompts; candidate ids RANKED_PROMPT_ID/aN."""
    if stage.complete():
        return
    stage.begin()
    store = RecordFile(stage.outputs[0], Judgement)
    template = JudgeTemplate.load(config.judge)
    total = sum(len(prompt.answers) for prompt in ranked) * count
    bars.add(name, total, len(store.records))
    written = 0

    async def one(prompt: RankedPrompt, place: int) -> None:
        nonlocal written
        candidate = Candidate(f"{prompt.id}/a{place}", prompt.id, prompt.answers[place].text, 0, False)
        if all(f"{candidate.id}/j{j}" in store.records for j in range(count)):
            return
        new = await judge(engine, template, config.judge, config.seed, prompt.prompt, candidate, count, priority=1)
        store.append(*new)
        tokens = sum(judgement.tokens for judgement in new)
        written += tokens
        bars.update(name, done=len(store.records), tokens=tokens)

    await together(one(prompt, place) for prompt in ranked for place in range(len(prompt.answers)))
    rows = store.finish()
    counts = {"judgements": len(rows), "valid": sum(row.score is not None for row in rows)}
    stage.done(inputs, counts, written)


async def held_out_judgements(engine: Engine, workspace: Workspace, config: Config, t: int, bars: Bars) -> None:
    """M_t judges the held-out EFT answers."""
    stage = stages.held_out_judgements(workspace, config, t)
    ranked = held_out(workspace, config)
    seeds = stages.seeds(workspace, config).fingerprints()
    await judge_ranked(engine, config, ranked, config.evaluation.judgements, stage, bars, "held-out EFT", seeds)


async def answers(engine: Engine, workspace: Workspace, config: Config, t: int, bars: Bars) -> None:
    """M_t answers the evaluation prompts."""
    stage = stages.answers(workspace, config, t)
    if stage.complete():
        return
    stage.begin()
    store = RecordFile(stage.outputs[0], Answer)
    prompts = evaluation_prompts(workspace, config)
    bars.add("evaluation answers", len(prompts), len(store.records))

    async def one(prompt: SeedExample) -> None:
        if prompt.id not in store.records:
            new = await answer(engine, config.evaluation, config.seed, prompt)
            store.append(new)
            bars.update("evaluation answers", done=len(store.records), tokens=new.tokens)

    await together(one(prompt) for prompt in prompts)
    rows = store.finish()
    counts = {"answers": len(rows), "truncated": sum(row.truncated for row in rows)}
    stage.done(stages.seeds(workspace, config).fingerprints(), counts, sum(row.tokens for row in rows))


async def head_to_head(engine: Engine, workspace: Workspace, config: Config, t: int, bars: Bars) -> None:
    """The fixed judge compares M_t's answers with M_t-1's, in both orders."""
    stage = stages.head_to_head(workspace, config, t)
    if stage.complete():
        return
    stage.begin()
    store = RecordFile(stage.outputs[0], Comparison)
    template = load_template(config.evaluation)
    first, second = (RecordFile(stages.answers(workspace, config, u).outputs[0], Answer).records for u in (t, t - 1))
    orders = [(i, order) for i in first for order in ("ab", "ba")]
    bars.add("head to head", len(orders), len(store.records))

    async def one(i: str, order: str) -> None:
        if f"{i}/{order}" not in store.records:
            store.append(await compare(engine, template, first[i], second[i], order))
            bars.update("head to head", done=len(store.records))

    await together(one(i, order) for i, order in orders)
    rows = store.finish()
    counts = {"comparisons": len(rows), "unparsable": sum(row.winner is None for row in rows)}
    inputs = (
        stages.answers(workspace, config, t).fingerprints() | stages.answers(workspace, config, t - 1).fingerprints()
    )
    stage.done(inputs, counts)
