"""What one model generates, as sessions: its evaluation outputs, and the feedback for the next model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from srlm.config import Config
from srlm.engines.session import GenerationStage, Generator, Job, Session, Single
from srlm.evaluation.answers import AnswerIFEval, AnswerPrompts
from srlm.evaluation.held_out import JudgeHeldOut, judge_is_measured
from srlm.evaluation.matches import HeadToHead
from srlm.generation.candidates import SampleCandidates
from srlm.generation.chain import Chain
from srlm.generation.judgements import JudgeCandidates, MetaJudge
from srlm.generation.prompts import WritePrompts
from srlm.pipeline.roles import iteration
from srlm.pipeline.workspace import Workspace


def generate(
    workspace: Workspace, config: Config, t: int, feedback: bool, further: Sequence[Job] = ()
) -> Iterator[Session]:
    """Yield the sessions of M_t, so that each model's engine starts once.

    M_t's own session holds everything that M_t, the server or a judge without an engine makes. Other writers and judges
    have sessions of their own: a writer before it, judges after it.

    Parameters
    ----------
    feedback : bool
        Whether M_t generates prompts and candidates for M_t+1.
    further : sequence of Job
        Further jobs of M_t's own session, of other recipes.
    """
    own = Generator(iteration(t))
    jobs: list[Job] = [Single(AnswerPrompts(workspace, config, t))]
    if config.evaluation.ifeval:
        jobs.append(Single(AnswerIFEval(workspace, config, t)))
    held_out = JudgeHeldOut(workspace, config, t) if judge_is_measured(config, t) else None
    if held_out and _shares(held_out, own):
        jobs.append(Single(held_out))
    judges: list[GenerationStage] = []
    if feedback:
        writer = WritePrompts(workspace, config, t + 1)
        judges = [JudgeCandidates(workspace, config, t + 1)]
        judges += [MetaJudge(workspace, config, t + 1)] if config.judge.meta else []
        if not _shares(writer, own):
            yield _alone("prompts", t + 1, Single(writer))
        chain = [*([writer] if _shares(writer, own) else []), SampleCandidates(workspace, config, t + 1)]
        jobs.append(Chain((*chain, *(judge for judge in judges if _shares(judge, own)))))
    jobs += further
    match = HeadToHead(workspace, config, t) if t else None
    steps = [tuple(jobs), *([(Single(match),)] if match and match.generator() == own else [])]
    names = (stage.name.replace("_", " ") for job in jobs for stage in job.stages())
    yield Session("generation", t, own, tuple(steps), f"M{t} generates: {', '.join(names)}")
    if held_out and not _shares(held_out, own):
        yield _alone("held_out", t, Single(held_out))
    if judges and not _shares(judges[0], own):
        yield _alone("judgements", t + 1, Chain(tuple(judges)))
    if match and match.generator() != own:
        yield _alone("head_to_head", t, Single(match))


def _shares(stage: GenerationStage, own: Generator) -> bool:
    """Return whether a stage runs in M_t's session: on its engine, on the server, or without an engine."""
    return stage.generator() == own or not stage.generator().model.local


def _alone(name: str, t: int, job: Job) -> Session:
    first = job.stages()[0]
    return Session(name, t, first.generator(), ((job,),), first.caption())
