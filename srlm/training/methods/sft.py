"""SFT: M0 to M1 on IFT and EFT data, or to the SFT baseline on IFT data alone (arXiv 2401.10020, section 2.1).

`sft.train_on` selects the tokens that are trained (`srlm.training.masking`). `sft.eft_loss=ranking` adds a ranking loss
over the judge's scores (`srlm.training.ranking`).

Different from the paper: an EFT example's verdict is the human score where the data has one, so that the judge learns
from people and not from the baseline's guess.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from srlm.errors import TrainingError
from srlm.ranges import Range, above, at_least, below, resolved
from srlm.training.config import TrainConfig
from srlm.training.method import Batches, Columns, Context, Encoded, Method, Need
from srlm.types import JudgeExample, SeedExample

if TYPE_CHECKING:
    from srlm.config import Config
    from srlm.training.encoding import Samples
    from srlm.training.ranking import RankingLoss


class TrainOn(Enum):
    completion = "completion"
    all = "all"
    no_shared_text = "no_shared_text"
    weighted = "weighted"


class Turns(Enum):
    all = "all"
    last = "last"


class SFTData(Enum):
    both = "both"
    ift = "ift"
    eft = "eft"
    none = "none"


class EFTLoss(Enum):
    score = "score"
    ranking = "ranking"


def _is_pattern(text: str) -> bool:
    try:
        re.compile(text)
    except re.error:
        return False
    return True


@dataclass
class SFTConfig(TrainConfig):
    """M0 to M1 on IFT and EFT."""

    trl_config: ClassVar[str] = "SFTConfig"

    # What M1 is trained on. both = IFT and EFT; ift, eft = one of them; none = M1 is M0, as for an instruct model.
    # Without EFT, the judge is not trained
    data: SFTData = SFTData.both
    # times that each IFT example, and each EFT example, is in a pass over the data (`epochs`)
    ift_repeats: Annotated[int, at_least(1)] = 1
    eft_repeats: Annotated[int, at_least(1)] = 1
    warmup_ratio: Annotated[float, below(1)] = 0.02  # share of all steps
    # Which tokens are trained. completion = answers with their ends of turn; all = the text of system and user
    # messages, too; no_shared_text = as all, without the text that all IFT prompts share, or all EFT prompts;
    # weighted = as all, with a weight for prompt tokens. Roles and control tokens never are.
    train_on: TrainOn = TrainOn.completion
    # weighted: of a prompt token, where an answer's token has 1
    prompt_weight: Annotated[float, Range(lambda weight: 0 <= weight <= 1, "0 to 1")] = 0.1
    # no_shared_text: a regular expression that matches it in prompts; "" = find it in the data
    shared_text: Annotated[str, Range(_is_pattern, "a regular expression")] = ""
    # Which answers of a conversation are trained: all, or the last one (earlier ones are then part of the prompt)
    turns: Turns = Turns.all
    # What an EFT example teaches about the verdict. score = the token of the score; ranking = which of a prompt's
    # answers scores higher, by the probabilities of the scores (srlm/training/ranking.py); then
    # data.eft_max_score_fraction=1 keeps all pairs
    eft_loss: EFTLoss = EFTLoss.score
    # ranking: weight of the mean over pairs, where the mean over tokens has 1
    eft_ranking_weight: Annotated[float, above(0)] = 1.0
    # ranking: share of the effect of length on people's choices that is taken out of the loss; [0, 1]
    eft_length_control: float = 0.0
    # several examples in a row of max_length tokens, separated by attention and positions: less padding; batch_size
    # then counts rows
    packing: bool = False

    @property
    def makes_m1(self) -> bool:
        """Whether M1 is trained; otherwise it is M0."""
        return self.data is not SFTData.none

    @property
    def uses_ift(self) -> bool:
        """Whether M1 is trained on IFT."""
        return self.data in (SFTData.both, SFTData.ift)

    @property
    def uses_eft(self) -> bool:
        """Whether M1 is trained on EFT, if its judge learns from it."""
        return self.data in (SFTData.both, SFTData.eft)

    @property
    def weighs_tokens(self) -> bool:
        """Whether rows have a weight per token, as `srlm.training.batching.weighted_trainer` expects."""
        return self.packing or self.train_on is TrainOn.weighted


@dataclass(frozen=True, kw_only=True)
class EncodedSamples(Encoded):
    """SFT's data: the trainer's columns, and the samples that they are made of."""

    samples: Samples
    ranking: RankingLoss | None  # with sft.eft_loss=ranking


def repeated(times: Sequence[int]) -> list[tuple[int, int]]:
    """Return (index, time) of every example in a pass over the data, where example i occurs `times[i]` times."""
    return [(i, time) for time in range(max(times, default=0)) for i, count in enumerate(times) if time < count]


class SFT(Method[SFTConfig, EncodedSamples]):
    name = "sft"
    config = SFTConfig
    learns_from = (SeedExample, JudgeExample)
    metrics = ("mean_token_accuracy", "entropy", "num_tokens")

    def encode(
        self, tokenizer: Any, rows: Sequence[SeedExample | JudgeExample], options: SFTConfig, config: Config
    ) -> EncodedSamples:
        """Return IFT rows (SeedExample) and EFT rows (JudgeExample) as token ids; report what is excluded."""
        from srlm.io.progress import say
        from srlm.judges.prompt import JudgeTemplate
        from srlm.training import batching, encoding
        from srlm.training.checkpoint_check import probe_of_answers
        from srlm.training.ranking import RankingLoss

        judged = [row for row in rows if isinstance(row, JudgeExample)]
        template = JudgeTemplate.load(config.judge) if judged else None
        samples = encoding.encode(tokenizer, encoding.chats_of(rows, template), options)
        if not samples.input_ids:
            raise TrainingError(
                f"None of {len(rows)} SFT examples is left: {samples.too_long} are longer than sft.max_length="
                f"{options.max_length} tokens. Raise it."
            )
        if samples.too_long:
            say(f"  {samples.too_long} of {len(rows)} SFT examples are longer than sft.max_length and excluded")
        if samples.cut:
            say(
                f"  {samples.cut} of {len(rows)} SFT examples are conversations whose last turns are excluded, because "
                "they end after sft.max_length tokens"
            )
        if samples.without_target:
            say(f"  {samples.without_target} of {len(rows)} SFT examples have no token to train on and are excluded")
        counts: dict[str, Any] = samples.counts()
        columns: Columns = {"input_ids": samples.input_ids, "labels": samples.labels}
        if options.weighs_tokens:
            columns["weights"] = samples.weights
        if len({kind for kind, _ in samples.places}) > 1:
            kinds = [batching.SOURCES.index(kind) for kind, _ in samples.places]
            columns["sources"] = [[kind] * len(ids) for kind, ids in zip(kinds, samples.input_ids, strict=True)]
        ranking = None
        if template is not None and options.eft_loss is EFTLoss.ranking:
            control = options.eft_length_control
            ranking = RankingLoss.of(tokenizer, template, samples, judged, config.judge.max_score, control)
            columns |= ranking.columns()
            counts |= {"pairs": ranking.pairs, "length_slope": ranking.slope}
            say(f"  {ranking.summary()}")
        times = {"ift": options.ift_repeats, "eft": options.eft_repeats}
        order = repeated([times[kind] for kind, _ in samples.places])
        if len(order) > len(samples.places):
            columns = {name: [values[i] for i, _ in order] for name, values in columns.items()}
            counts["examples_with_repeats"] = len(order)
        batches = None
        if options.packing:
            columns = batching.pack(columns, resolved(options.max_length))
            counts["rows"] = len(columns["input_ids"])
        else:
            placed = [(*samples.places[i], time) for i, time in order]
            groups = [(kind, judged[i].conversation if kind == "eft" else i, time) for kind, i, time in placed]
            size = resolved(options.micro_batch_size if ranking else options.batch_size)
            batches = Batches(groups, [len(ids) for ids in columns["input_ids"]], size)
        probe = probe_of_answers(samples.input_ids, samples.labels)
        return EncodedSamples(columns, counts, probe, batches, samples=samples, ranking=ranking)

    def trainer(self, model: Any, encoded: EncodedSamples, context: Context[SFTConfig]) -> Any:
        from trl import SFTConfig as Arguments
        from trl import SFTTrainer

        from srlm.training import batching, ranking
        from srlm.training.shared_prompts import can_share

        kind, collate = SFTTrainer, None
        if context.options.weighs_tokens:
            kind, collate = batching.weighted_trainer(), batching.collate
        if loss := encoded.ranking:
            kind = ranking.ranking_trainer(loss, context.options.eft_ranking_weight)
            collate = ranking.collate_ranked
        mixed = "sources" in encoded.columns
        if mixed:
            kind = batching.by_source(kind)
        # TRL would remove the columns that it does not use itself.
        keep = mixed or collate is not None
        arguments = Arguments(**context.arguments, max_length=None, remove_unused_columns=not keep)
        trainer = context.build(kind, arguments, model, encoded.columns)
        if collate is not None:
            trainer.data_collator = partial(collate, pad_token_id=context.tokenizer.pad_token_id)
        if mixed:
            trainer.data_collator = batching.with_sources(trainer.data_collator)
        if encoded.ranking and can_share(model):
            of_rows = trainer.data_collator
            trainer.data_collator = lambda rows: of_rows(ranking.with_shared_prompts(rows))
        return trainer

    def check(self, trainer: Any, encoded: EncodedSamples, context: Context[SFTConfig]) -> dict[str, Any]:
        from srlm.training import batching, ranking

        if context.options.weighs_tokens or encoded.ranking:
            batching.check_whole(trainer)
        if encoded.ranking:
            ranking.check_not_sharded(trainer)
        if context.options.packing:
            batching.check_apart(trainer.model, trainer.train_dataset, context.tokenizer.pad_token_id)
        return {}

    @classmethod
    def check_options(cls, options: SFTConfig, group: str, config: Config, need: Need) -> None:
        from srlm.judges import spec_of

        super().check_options(options, group, config, need)
        if options.eft_loss is not EFTLoss.ranking:
            need(options.eft_length_control == 0, "sft.eft_length_control", "0 with sft.eft_loss=score")
            need(options.eft_ranking_weight == 1, "sft.eft_ranking_weight", "1 with sft.eft_loss=score")
            return
        if spec_of(config.judge).eft == "none" or spec_of(config.judge).trains:
            return  # the judge does not learn by SFT, which then has no EFT examples
        ranking = "with sft.eft_loss=ranking"
        need(options.uses_eft, "sft.eft_loss", f"score with sft.data={options.data.name}, which has no EFT examples")
        learns_scores = spec_of(config.judge).eft == "scores"
        need(learns_scores, "sft.eft_loss", f"score with judge.scorer={config.judge.scorer}, which learns no scores")
        need(config.judge.max_score <= 9, "judge.max_score", f"at most 9 {ranking}: a score must be one digit")
        need(options.train_on is TrainOn.completion, "sft.train_on", f"completion {ranking}")
        need(not options.packing, "sft.packing", f"false {ranking}")
        need(options.micro_batch_size != 1, "sft.micro_batch_size", f"2 or more {ranking}: answers are compared")
        need(0 <= options.eft_length_control <= 1, "sft.eft_length_control", "0 to 1")
