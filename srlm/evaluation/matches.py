"""Head-to-head stage: a fixed judge compares M_t's answers with those of earlier models, in both orders."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

from srlm.config import Config, options_of
from srlm.engines.base import Engine, SequenceScorer, gather_or_cancel
from srlm.engines.dependencies import chat_template, generation_options, model_input
from srlm.engines.missing import count_missing, is_missing
from srlm.engines.session import GenerationStage, Generator
from srlm.evaluation.config import Opponents
from srlm.ids import ORDERS
from srlm.io.progress import Bars
from srlm.io.record_file import RecordFile
from srlm.judges.pairwise import compare, load_template, question
from srlm.pipeline.artifacts import ANSWERS, head_to_head
from srlm.pipeline.roles import match_judge
from srlm.pipeline.stage import recorded
from srlm.types import Answer, Comparison

LIMITS = {Opponents.all: None, Opponents.previous: 1, Opponents.none: 0}


def earlier_models(config: Config, t: int) -> list[int]:
    """Return the iterations of the models before M_t, latest first.

    Without SFT (`sft.data=none`), M_1 is M_0, so M_0 is left out.
    """
    first = 0 if config.sft.makes_m1 else 1
    return list(range(t - 1, first - 1, -1))


def opponents(config: Config, t: int) -> list[int]:
    """Return the iterations of the earlier models that M_t's answers are compared with, latest first."""
    return earlier_models(config, t)[: LIMITS[config.evaluation.opponents]]


async def play(
    engine: Engine,
    config: Config,
    first: Sequence[Answer],
    second: Sequence[Answer],
    store: RecordFile[Comparison],
    on_progress: Callable[[], None],
) -> None:
    """Compare two models' answers to the same prompts in both orders, except comparisons in `store`.

    Prompts that only one model answered are skipped.

    Parameters
    ----------
    on_progress : callable
        Called after each new comparison.
    """
    template = load_template(config.evaluation.judge_template, "evaluation.judge_template")
    second_texts = {answer.id: answer.text for answer in second}

    async def compare_answers(answer: Answer, order: str) -> None:
        if f"{answer.id}/{order}" not in store.records:
            prompt = question(template, answer.conversation, answer.text, second_texts[answer.id], order)
            store.append(await compare(engine, answer.id, answer.id, order, prompt))
            on_progress()

    await gather_or_cancel(
        compare_answers(answer, order) for answer in first if answer.id in second_texts for order in ORDERS
    )


def matches(first: Sequence[Answer], second: Sequence[Answer]) -> int:
    """Return the number of comparisons of a match: the prompts that both models answered, in both orders."""
    return len({answer.id for answer in first} & {answer.id for answer in second}) * len(ORDERS)


class HeadToHead(GenerationStage):
    """Compare M_t's answers with each opponent's, with the judge that `evaluation.judge` names."""

    name, place = "head_to_head", "evaluation"

    def writes(self) -> list[str]:
        return [head_to_head(u).file for u in opponents(self.config, self.t)]

    def depends_on(self) -> dict[str, Any]:
        options = options_of(self.config, "evaluation.judge") | generation_options(self.config, self.generator().model)
        template = load_template(self.config.evaluation.judge_template, "evaluation.judge_template")
        options["evaluation.judge_template"] = template.digest
        if self.t >= 2:  # M1 has one opponent with either value
            options |= options_of(self.config, "evaluation.opponents")
        return options

    def made_from(self) -> dict[str, str]:
        workspace, judge = self.workspace, self.generator().model
        answered = (ANSWERS.path(workspace, u) for u in (self.t, *opponents(self.config, self.t)))
        return recorded(workspace, *answered) | model_input(workspace, judge) | chat_template(self.config, judge)

    def generator(self) -> Generator:
        return Generator(match_judge(self.config))

    def caption(self) -> str:
        rivals = ", ".join(f"M{u}" for u in opponents(self.config, self.t))
        return f"M{self.t} against {rivals}, judged by {self.generator().model}"

    async def generate(self, engine: Engine | SequenceScorer, bars: Bars) -> None:
        if self.complete():
            return
        self.begin()
        workspace, rivals = self.workspace, opponents(self.config, self.t)
        stores = {u: RecordFile(path, Comparison) for u, path in zip(rivals, self.outputs, strict=True)}
        texts = {u: ANSWERS.read(workspace, u) for u in (self.t, *rivals)}
        for store in stores.values():
            store.forget(lambda comparison: is_missing(comparison.problem))
        done = sum(len(store.records) for store in stores.values())
        bars.add("head to head", sum(matches(texts[self.t], texts[u]) for u in rivals), done)

        def on_progress() -> None:
            bars.update("head to head", done=sum(len(store.records) for store in stores.values()))

        await gather_or_cancel(
            play(cast(Engine, engine), self.config, texts[self.t], texts[u], stores[u], on_progress) for u in rivals
        )
        rows = [row for store in stores.values() for row in store.finish()]
        counts: dict[str, Any] = {"comparisons": len(rows), "unparsable": sum(row.winner is None for row in rows)}
        counts |= count_missing("Head to head: answers to judge", rows)
        self.done({}, counts)
