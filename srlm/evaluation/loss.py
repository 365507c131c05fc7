"""Cross-entropy loss of a model on given answers, such as training and held-out examples.

The difference between held-out and training examples is the overfitting gap (arXiv 2405.14394, section 5). The loss
covers the answer's tokens only, whatever `sft.train_on` was, so that models trained on different tokens are comparable.
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
    """Compute the loss of each example's answer as `AnswerLoss` records; `nats` is None for too long examples."""
    stage.begin()
    store, before = RecordFile(stage.outputs[0], AnswerLoss), replace(rater.usage)
    store.forget(lambda row: row.nats is None)
    bars.add(name, len(examples), len(store.records))

    async def score_example(example: SeedExample) -> None:
        if example.id in store.records:
            return
        try:
            log_probability, tokens = await rater.score(example.conversation, example.response)
            new = AnswerLoss(example.id, -log_probability, tokens)
        except PromptTooLongError as error:
            new = AnswerLoss(example.id, None, 0, problem_of(error, TOO_LONG))
        store.append(new)
        bars.update(name, done=len(store.records), tokens=new.tokens)

    await gather_or_cancel(score_example(example) for example in examples)
    rows = store.finish()
    counts = {"examples": len(rows), "missing": sum(row.nats is None for row in rows)}
    sources = {example.id: example.source for example in examples}
    too_long = {named(row.id, sources.get(row.id, "")): row.problem for row in rows if row.problem}
    report_missing(f"{name}: examples", too_long, RAISE)
    stage.done({}, counts | missing_counts(too_long), sum(row.tokens for row in rows), rater.usage.since(before))


def loss(rows: Sequence[AnswerLoss], resamples: int, seed: str, prompts: Mapping[str, str] | None = None) -> Measure:
    """Return the loss in nats per token over all answers; the bootstrap resamples prompts, `n` counts tokens.

    Parameters
    ----------
    prompts : mapping or None
        Example id -> prompt. Answers to one prompt form one cluster. None = each example is a cluster.
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
    """Return `now`'s loss minus `other`'s in nats per token, on the answers that both scored, paired by prompt.

    Tokens are counted with the first model's tokenizer. `prompts` as for `loss`.
    """
    of_other = {row.id: row.nats for row in other}
    both = [(row, theirs) for row in now if row.nats is not None and (theirs := of_other.get(row.id)) is not None]
    terms = table_terms((((row.nats or 0.0) - theirs, row.tokens) for row, theirs in both), None)
    return measure(by_cluster(terms, _clusters([row for row, _ in both], prompts)), resamples, seed)


def _clusters(rows: Sequence[AnswerLoss], prompts: Mapping[str, str] | None) -> list[str]:
    return [row.id if prompts is None else prompts[row.id] for row in rows]
