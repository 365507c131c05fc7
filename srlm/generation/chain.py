"""Chain of streaming stages: candidates are judged while others are still being sampled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import cast

from srlm.engines.base import Engine, SequenceScorer
from srlm.engines.session import Engines, GenerationStage
from srlm.io.progress import Bars
from srlm.pipeline.artifacts import PROMPTS
from srlm.types import Candidate, Judgement, Prompt


@dataclass
class Feedback:
    """One accepted prompt that passes through a chain; each stage adds its records."""

    prompt: Prompt
    candidates: list[Candidate] = field(default_factory=list)
    judgements: list[Judgement] = field(default_factory=list)


class SourceStage(GenerationStage):
    """First stage of a chain, which yields prompts as soon as they are accepted."""

    def items(self, engine: Engine, bars: Bars) -> AsyncIterator[Prompt]:
        """Yield every accepted prompt, including stored ones; the stage is complete after the last one."""
        raise NotImplementedError

    async def generate(self, engine: Engine | SequenceScorer, bars: Bars) -> None:
        async for _ in self.items(cast(Engine, engine), bars):
            pass


class ItemStage(GenerationStage):
    """Later stage of a chain, which processes one prompt at a time.

    `open` is called once before all items. `close` is called once after all items if the stage was not complete.
    """

    unit: str  # name of the items that the progress bar counts

    def open(self, engine: Engine | SequenceScorer, bars: Bars) -> None:
        """Open the record files, and begin the stage if it is not complete."""
        raise NotImplementedError

    async def process(self, item: Feedback) -> bool:
        """Add this stage's records to the item; return whether the item continues to the next stage."""
        raise NotImplementedError

    def planned(self, items: int) -> int | None:
        """Return the number of units for this many items; None if it depends on the items."""
        raise NotImplementedError

    def close(self) -> None:
        """Sort the records and write the manifest."""
        raise NotImplementedError

    async def generate(self, engine: Engine | SequenceScorer, bars: Bars) -> None:
        await Chain((self,)).process({self: engine}, None, bars)


@dataclass(frozen=True)
class Chain:
    """Consecutive stages of one iteration's feedback that run in the same session.

    Parameters
    ----------
    parts : tuple of GenerationStage
        A SourceStage, if the session writes the prompts, and ItemStages.
    """

    parts: tuple[GenerationStage, ...]

    def stages(self) -> Sequence[GenerationStage]:
        return self.parts

    async def run(self, engines: Engines, bars: Bars) -> None:
        source = next((part for part in self.parts if isinstance(part, SourceStage)), None)
        rest = {part: engines.of(part) for part in self.parts if isinstance(part, ItemStage)}
        if all(part.complete() for part in rest):
            if source and not source.complete():  # its output was deleted; the later stages' outputs are kept
                await source.generate(engines.of(source), bars)
            return
        prompts = source.items(cast(Engine, engines.of(source)), bars) if source else None
        await self.process(rest, prompts, bars)

    async def process(
        self,
        engines: dict[ItemStage, Engine | SequenceScorer],
        prompts: AsyncIterator[Prompt] | None,
        bars: Bars,
    ) -> None:
        """Pass all prompts through the stages, each prompt as soon as it is accepted.

        Parameters
        ----------
        engines : dict
            Stage -> its engine, in the order of the chain.
        prompts : async iterator of Prompt or None
            None = the stored prompts of the iteration.

        Raises
        ------
        SrlmError
            The first error of an item. Other items are cancelled; their finished records are kept.
        """
        stages = list(engines)
        unfinished = [stage for stage in stages if not stage.complete()]
        if not unfinished:
            return
        for stage in stages:
            stage.open(engines[stage], bars)
            bars.add(stage.unit, stage.planned(stage.config.prompts.count) or 0)

        reached = dict.fromkeys(stages, 0)  # number of items that each stage received

        async def pass_through(item: Feedback) -> None:
            for stage in stages:
                reached[stage] += 1
                if not await stage.process(item):
                    return

        tasks: list[asyncio.Task[None]] = []
        try:
            async for prompt in prompts or _stored(stages[0]):
                tasks.append(asyncio.create_task(pass_through(Feedback(prompt))))
                for stage in stages:
                    bars.update(stage.unit)
                if any(task.done() and task.exception() for task in tasks):
                    break
            for stage in stages:
                bars.update(stage.unit, total=stage.planned(len(tasks)))
            await asyncio.gather(*tasks)
            for stage in stages:
                bars.update(stage.unit, total=stage.planned(reached[stage]))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for stage in stages:
            if stage in unfinished:
                stage.close()


async def _stored(stage: GenerationStage) -> AsyncIterator[Prompt]:
    for prompt in PROMPTS.read(stage.workspace, stage.t):
        if not prompt.rejected:
            yield prompt
