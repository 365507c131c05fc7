"""Sessions: the generation stages of one model, run in one start of its engine.

The requests of all stages are coroutines, which the engine schedules. Records are appended as they arrive, and a
resumed session requests only the missing ones.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from srlm.config import Config
from srlm.engines.base import (
    Engine,
    NoEngine,
    SequenceScorer,
    gather_or_cancel,
    open_endpoint,
    open_engine,
    open_sequence_scorer,
)
from srlm.engines.dependencies import engine_libraries
from srlm.io.progress import Bars, say
from srlm.models.config import ModelConfig
from srlm.models.resolve import external_options, resolve
from srlm.pipeline.roles import ENDPOINT, PROGRAM, ModelRef
from srlm.pipeline.stage import RunStage
from srlm.pipeline.workspace import Workspace


@dataclass(frozen=True)
class Generator:
    """The model that a generation stage uses, as an engine or, with `scores`, as a sequence scorer."""

    model: ModelRef
    scores: bool = False
    reference: ModelRef | None = None


class GenerationStage(RunStage):
    """A stage that generates, or scores sequences, with an engine."""

    def generator(self) -> Generator:
        """Return what the stage runs on."""
        raise NotImplementedError

    def depends_on_libraries(self) -> tuple[str, ...]:
        """Return the libraries of the engine."""
        runs_on = self.generator()
        return engine_libraries(self.config, runs_on.model, runs_on.scores)

    async def generate(self, engine: Engine | SequenceScorer, bars: Bars) -> None:
        """Generate the missing records and write the manifest; do nothing if the stage is complete."""
        raise NotImplementedError


class Job(Protocol):
    """Part of a session: one generation stage, or a chain of them."""

    def stages(self) -> Sequence[GenerationStage]: ...

    async def run(self, engines: Engines, bars: Bars) -> None: ...


@dataclass(frozen=True)
class Single:
    """A job of one generation stage."""

    stage: GenerationStage

    def stages(self) -> Sequence[GenerationStage]:
        return (self.stage,)

    async def run(self, engines: Engines, bars: Bars) -> None:
        await self.stage.generate(engines.of(self.stage), bars)


@dataclass(frozen=True)
class Session:
    """Jobs that share one start of an engine.

    Parameters
    ----------
    name : str
        The name of the worker process and its log, logs/iteration_T_NAME.log.
    t : int
        The iteration, for the log's name.
    generator : Generator
        The model to start, unless all its stages are complete. Stages whose model is the server use its client instead,
        and a judge that is a program uses no engine.
    steps : sequence of sequence of Job
        The jobs of a step run concurrently; a step starts when the step before it has ended.
    caption : str
        The session's description for the terminal.
    """

    name: str
    t: int
    generator: Generator
    steps: tuple[tuple[Job, ...], ...]
    caption: str

    def stages(self) -> Iterator[GenerationStage]:
        for step in self.steps:
            for job in step:
                yield from job.stages()

    async def run(self, workspace: Workspace, config: Config) -> None:
        """Start the engine, if it is needed, and run the stages that are not complete."""
        own = (stage for stage in self.stages() if stage.generator() == self.generator)
        needed = not all(stage.complete() for stage in own)
        async with (
            open_generator(workspace, config, self.generator if needed else Generator(PROGRAM)) as engine,
            Engines(config, self, engine) as engines,
        ):
            with Bars() as bars:
                for step in self.steps:
                    await gather_or_cancel(job.run(engines, bars) for job in step)
            read = engine.usage
            if read.cached_tokens:
                share = read.cached_tokens / read.prompt_tokens
                say(f"  prefix-cache hit rate: {100 * share:.0f} % of {read.prompt_tokens:,} prompt tokens")


class Engines:
    """The engine of a session, and the client of the server, opened when a stage needs it."""

    def __init__(self, config: Config, session: Session, engine: Engine | SequenceScorer):
        self._config, self._own, self._engine = config, session.generator, engine
        self._clients = contextlib.AsyncExitStack()
        self._needs_client = any(
            self._is_remote(stage) and stage.generator().model == ENDPOINT for stage in session.stages()
        )
        self._client: Engine | None = None

    def _is_remote(self, stage: GenerationStage) -> bool:
        return stage.generator() != self._own and not stage.generator().model.local

    async def __aenter__(self) -> Engines:
        if self._needs_client:
            self._client = await self._clients.enter_async_context(open_endpoint(self._config))
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._clients.aclose()

    def of(self, stage: GenerationStage) -> Engine | SequenceScorer:
        """Return the engine that a stage of the session runs on."""
        if self._is_remote(stage):
            if stage.generator().model.kind == "program":
                return NoEngine()
            assert self._client is not None
            return self._client
        assert stage.generator() == self._own, f"{stage} does not run on {self._own.model}"
        return self._engine


@contextlib.asynccontextmanager
async def open_generator(
    workspace: Workspace, config: Config, generator: Generator
) -> AsyncIterator[Engine | SequenceScorer]:
    """Open an engine, a sequence scorer, or the client of the server, as far as the generator needs one."""
    if generator.scores:
        folder, model = model_files(workspace, config, generator.model)
        reference = model_files(workspace, config, generator.reference)[0] if generator.reference else None
        async with open_sequence_scorer(config, folder, reference, model) as scorer:
            yield scorer
        return
    async with open_model(workspace, config, generator.model) as engine:
        yield engine


@contextlib.asynccontextmanager
async def open_model(workspace: Workspace, config: Config, ref: ModelRef) -> AsyncIterator[Engine]:
    """Open the engine of a model, or the client of the server; for a program there is nothing to open."""
    if ref.kind == "program":
        yield NoEngine()
        return
    if not ref.local:
        async with open_endpoint(config) as engine:
            yield engine
        return
    async with open_engine(config, *model_files(workspace, config, ref)) as engine:
        yield engine


def model_files(workspace: Workspace, config: Config, ref: ModelRef) -> tuple[Path, ModelConfig]:
    """Return the folder of a local model and the options that it is loaded with."""
    if ref.kind == "sft_baseline":
        return workspace.sft_baseline, config.model
    if ref.kind == "reward_model":
        return workspace.reward_model, config.model
    if ref.kind == "iteration":
        return workspace.model(ref.iteration), config.model
    folder = resolve(ModelConfig(name=ref.name))
    return folder, external_options(config, ref.name, folder)
