"""What one model generates, as sessions: its evaluation outputs, the feedback for the next model, EFT answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from srlm.config import Config
from srlm.engines.session import GenerationStage, Generator, Job, Session, Single
from srlm.evaluation.answers import AnswerIFEval, AnswerPrompts
from srlm.evaluation.evaluate import CopyEvaluation
from srlm.evaluation.held_out import JudgeHeldOut, judge_is_measured
from srlm.evaluation.matches import HeadToHead, opponents
from srlm.generation.candidates import SampleCandidates
from srlm.generation.chain import Chain
from srlm.generation.judgements import JudgeCandidates, MetaJudge
from srlm.generation.own_answers import AnswerOwnPrompts, RankAnswers
from srlm.generation.own_labels import label_stage
from srlm.generation.prompts import WritePrompts
from srlm.models.base_model import StartFromBase
from srlm.pipeline.roles import iteration
from srlm.pipeline.stage import RunStage
from srlm.pipeline.workspace import Workspace
from srlm.training.stages import TrainSFT, TrainSFTBaseline


def generate(
    workspace: Workspace, config: Config, t: int, feedback: bool, further: Sequence[Job] = ()
) -> Iterator[Session | RunStage]:
    """Yield the sessions of M_t, so that each model's engine starts once.

    M1 that is M0 (`sft.data=none`) is not evaluated again: M0's outputs are copied.

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
    is_base = t == 1 and not config.sft.makes_m1
    evaluated: list[type[GenerationStage]] = [AnswerPrompts, *([AnswerIFEval] if config.evaluation.ifeval else [])]
    evaluated += [JudgeHeldOut] if judge_is_measured(config, t) else []
    copied = [one for one in evaluated if is_base and (one is not JudgeHeldOut or judge_is_measured(config, 0))]
    for stage in copied:
        yield CopyEvaluation(stage(workspace, config, 0))
    made = [one(workspace, config, t) for one in evaluated if one not in copied]
    jobs: list[Job] = [Single(one) for one in made if _shares(one, own)]
    judges: list[GenerationStage] = []
    if feedback:
        writer = None if config.prompts.path else WritePrompts(workspace, config, t + 1)
        judges = [JudgeCandidates(workspace, config, t + 1)]
        judges += [MetaJudge(workspace, config, t + 1)] if config.judge.meta else []
        if writer and not _shares(writer, own):
            yield _alone("prompts", t + 1, Single(writer))
        chain: list[GenerationStage] = [writer] if writer and _shares(writer, own) else []
        chain.append(SampleCandidates(workspace, config, t + 1))
        jobs.append(Chain((*chain, *(judge for judge in judges if _shares(judge, own)))))
    jobs += further
    match = HeadToHead(workspace, config, t) if opponents(config, t) else None
    steps = [tuple(jobs), *([(Single(match),)] if match and match.generator() == own else [])]
    names = (stage.name.replace("_", " ") for job in jobs for stage in job.stages())
    if jobs:
        yield Session("generation", t, own, tuple(steps), f"M{t} generates: {', '.join(names)}")
    for one in made:
        if not _shares(one, own):
            yield _alone("held_out", t, Single(one))
    if judges and not _shares(judges[0], own):
        yield _alone("judgements", t + 1, Chain(tuple(judges)))
    if match and match.generator() != own:
        yield _alone("head_to_head", t, Single(match))


def own_eft(workspace: Workspace, config: Config) -> Iterator[Session | RunStage]:
    """Yield the steps that make EFT of a model's own answers (`data.own_answers`): answers, labels, ranked prompts."""
    if config.data.own_answers.by_baseline:
        yield TrainSFTBaseline(workspace, config, 1)
    yield _alone("eft_answers", 1, Single(AnswerOwnPrompts(workspace, config, 1)))
    labels = label_stage(workspace, config)
    yield _alone("eft_labels", 1, Single(labels)) if isinstance(labels, GenerationStage) else labels
    yield RankAnswers(workspace, config)


def first_model(workspace: Workspace, config: Config) -> RunStage:
    """Return the stage that makes M1: SFT, or without it (`sft.data=none`) M0 as it is."""
    return (TrainSFT if config.sft.makes_m1 else StartFromBase)(workspace, config, 1)


def _shares(stage: GenerationStage, own: Generator) -> bool:
    """Return whether a stage runs in M_t's session: on its engine, on the server, or without an engine."""
    return stage.generator() == own or not stage.generator().model.local


def _alone(name: str, t: int, job: Job) -> Session:
    first = job.stages()[0]
    return Session(name, t, first.generator(), ((job,),), first.caption())
