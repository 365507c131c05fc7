"""How surprised a model is by answers that it did not write: the loss that SFT lowers, on answers of one's choice.

On the examples that it was trained on and on others, the difference is what it has learnt by heart (the overfitting gap
of arXiv 2405.14394, section 5). The loss is of the answer alone, whatever `sft.train_on` was, so that models trained on
different tokens compare.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from srlm.engines.base import SequenceScorer, gather_or_cancel
from srlm.engines.missing import RAISE, TOO_LONG, missing_counts, named, problem_of, report_missing
from srlm.errors import PromptTooLongError
from srlm.evaluation.intervals import by_cluster
from srlm.evaluation.measures import Measure, measure, table_terms
from srlm.io.progress import Bars
from srlm.io.record_file import RecordFile
from srlm.pipeline.stage import Stage
from srlm.types import AnswerLoss, SeedExample


async def answer_losses(
    rater: SequenceScorer, examples: Sequence[SeedExample], stage: Stage, bars: Bars, name: str
) -> None:
    """The loss of each example's answer, records of `AnswerLoss`; one that is too long for the engine has none."""
    stage.begin()
    store, before = RecordFile(stage.outputs[0], AnswerLoss), replace(rater.usage)
    store.forget(lambda row: row.nats is None)
    bars.add(name, len(examples), len(store.records))

    async def one(example: SeedExample) -> None:
        if example.id in store.records:
            return
        try:
            log_probability, tokens = await rater.score(example.prompt, example.response)
            new = AnswerLoss(example.id, -log_probability, tokens)
        except PromptTooLongError as error:
            new = AnswerLoss(example.id, None, 0, problem_of(error, TOO_LONG))
        store.append(new)
        bars.update(name, done=len(store.records), tokens=new.tokens)

    await gather_or_cancel(one(example) for example in examples)
    rows = store.finish()
    counts = {"examples": len(rows), "missing": sum(row.nats is None for row in rows)}
    sources = {example.id: example.source for example in examples}
    too_long = {named(row.id, sources.get(row.id, "")): row.problem for row in rows if row.problem}
    report_missing(f"{name}: examples", too_long, RAISE)
    stage.done({}, counts | missing_counts(too_long), sum(row.tokens for row in rows), rater.usage.since(before))


def loss(rows: Sequence[AnswerLoss], resamples: int, seed: str, prompts: Mapping[str, str] | None = None) -> Measure:
    """Return nats a token, over all tokens of all answers; the bootstrap draws prompts, `n` counts tokens.

    Parameters
    ----------
    prompts : mapping or None
        Example id -> prompt. Several answers to one prompt are drawn together. None = each example has its own prompt.
    """
    terms = table_terms(((row.nats, row.tokens) if row.nats is not None else (0, 0) for row in rows), None)
    return measure(by_cluster(terms, _clusters(rows, prompts)), resamples, seed)


def loss_difference(
    now: Sequence[AnswerLoss],
    other: Sequence[AnswerLoss],
    resamples: int,
    seed: str,
    prompts: Mapping[str, str] | None = None,
) -> Measure:
    """Return how much higher `now`'s loss is on the answers that both models have, nats a token; paired by prompt.

    Tokens are counted as the first model's: models of one family count alike. `prompts` as for `loss`.
    """
    of_other = {row.id: row.nats for row in other}
    both = [(row, theirs) for row in now if row.nats is not None and (theirs := of_other.get(row.id)) is not None]
    terms = table_terms((((row.nats or 0.0) - theirs, row.tokens) for row, theirs in both), None)
    return measure(by_cluster(terms, _clusters([row for row, _ in both], prompts)), resamples, seed)


def _clusters(rows: Sequence[AnswerLoss], prompts: Mapping[str, str] | None) -> list[str]:
    return [row.id if prompts is None else prompts[row.id] for row in rows]
