"""KTO: M_t to M_t+1 on single answers, each desirable or undesirable by itself (arXiv 2402.01306, section 4.1).

With the reward r = log pi(y | x) - log pi_ref(y | x) of an answer y to a prompt x, in nats, its loss is

    lambda_D (1 - sigmoid(beta (r - z0)))    if y is desirable
    lambda_U (1 - sigmoid(beta (z0 - r)))    if y is undesirable

z0 estimates the divergence of the policy from the reference: the mean reward of answers to other prompts of the
micro-batch, or 0 if that is negative. No gradient flows through it. A preference pair counts as a desirable and an
undesirable answer, as in the paper's comparison with DPO.

Changed from the paper: z0 pairs each prompt with the next answer to another prompt. The next answer alone may belong
to the same prompt, because the answers of M_t come several per prompt.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from srlm.errors import NoPairsError, TrainingError
from srlm.ranges import above, resolved
from srlm.training.config import LoopConfig
from srlm.training.method import Columns, Context, Encoded, Method, Need
from srlm.types import LabelledAnswer, PreferencePair

if TYPE_CHECKING:
    from srlm.config import Config
    from srlm.training.checkpoint_check import Probe


@dataclass
class KTOConfig(LoopConfig):
    """M_t to M_t+1 on labelled answers, AIFT(M_t) (method=kto; arXiv 2402.01306)."""

    trl_config: ClassVar[str] = "KTOConfig"

    beta: Annotated[float, above(0)] = 0.1  # strength of the pull to the reference model
    # factor of a desirable answer's loss; unset = 1, or more if such answers are few: `weights_of`
    desirable_weight: Annotated[float | None, above(0)] = None
    undesirable_weight: Annotated[float | None, above(0)] = None  # the same of an undesirable answer


class KTO(Method[KTOConfig, Encoded]):
    name = "kto"
    config = KTOConfig
    learns_from = (LabelledAnswer, PreferencePair)
    needs = frozenset({"reference"})
    metrics = (
        *("kl", "rewards/chosen", "rewards/rejected", "rewards/margins"),
        *("logps/chosen", "logps/rejected", "logits/chosen", "logits/rejected", "entropy"),
    )

    def encode(
        self, tokenizer: Any, rows: Sequence[LabelledAnswer | PreferencePair], options: KTOConfig, config: Config
    ) -> Encoded:
        from srlm.io.progress import say

        answers = [one for row in rows for one in answers_of(row)]
        columns, too_long = encode_answers(tokenizer, answers, resolved(options.max_length))
        prompts, completions, labels = columns.values()
        desirable, undesirable = sum(labels), len(labels) - sum(labels)
        if too_long:
            say(f"  {too_long} of {len(answers)} answers are longer than kto.max_length and excluded")
        if min(desirable, undesirable) < 1 or len(labels) < config.pairs.min_pairs:
            few = f"{desirable} desirable and {undesirable} undesirable ones"
            few += f", and {too_long} longer than kto.max_length={options.max_length} tokens: raise it" * bool(too_long)
            raise NoPairsError(
                f"KTO needs at least {config.pairs.min_pairs} answers (pairs.min_pairs), one of them desirable and one "
                f"undesirable; there are {few}."
            )
        weights = weights_of(desirable, undesirable, options)
        counts = {
            "answers": len(labels),
            "desirable": desirable,
            "too_long": too_long,
            "tokens": sum(map(len, [*prompts, *completions])),
            "desirable_weight": weights[0],
            "undesirable_weight": weights[1],
        }
        return Encoded(columns, counts, probe_of_labels(columns))

    def trainer(self, model: Any, encoded: Encoded, context: Context[KTOConfig]) -> Any:
        from trl import KTOConfig as Arguments
        from trl import KTOTrainer

        class AnswerTrainer(KTOTrainer):
            """TRL's trainer on answers that are already token ids, with the mismatched answers of z0."""

            def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
                return dataset

        options, other = context.options, context.reference != context.start
        columns = shuffled(encoded.columns, context.arguments["seed"])  # TRL keeps the order that z0 depends on
        columns["KL_completion_ids"] = mismatched_answers(columns, resolved(options.micro_batch_size))
        trainer = context.build(
            AnswerTrainer,
            Arguments(
                **context.arguments,
                beta=options.beta,
                desirable_weight=encoded.counts["desirable_weight"],
                undesirable_weight=encoded.counts["undesirable_weight"],
                max_length=None,
                disable_dropout=context.no_dropout,
                precompute_ref_log_probs=True,
            ),
            model,
            context.on_disk(columns),
            ref_model=context.load(context.reference) if other else None,
        )
        trainer.ref_model = None  # its log-probabilities are in the dataset now
        return trainer

    def check(self, trainer: Any, encoded: Encoded, context: Context[KTOConfig]) -> dict[str, Any]:
        from srlm.training.reference import check_trainer

        return check_trainer(trainer, context, ("ref_logps",))

    @classmethod
    def check_options(cls, options: KTOConfig, group: str, config: Config, need: Need) -> None:
        super().check_options(options, group, config, need)
        borrowed = "2 or more: each prompt is also paired with another prompt's answer"
        need(options.micro_batch_size != 1, f"{group}.micro_batch_size", borrowed)
        ordered = "train_sampling_strategy" not in options.extra
        need(ordered, f"{group}.extra", "without train_sampling_strategy: the data are shuffled with the run's seed")


def answers_of(row: LabelledAnswer | PreferencePair) -> list[LabelledAnswer]:
    """Return a labelled answer itself, or the two that a preference pair stands for.

    Raises
    ------
    TrainingError
        If the record has a weight or a target other than 1, which the loss does not use.
    """
    target = row.target if isinstance(row, PreferencePair) else 1.0
    if (row.weight, target) != (1, 1):
        raise TrainingError(
            f"{row.id} has weight={row.weight:g} and target={target:g}, and the method kto uses neither. Choose a pair "
            "policy that gives weight 1 and target 1 (pairs.policy), or remove these fields from your own data."
        )
    if isinstance(row, LabelledAnswer):
        return [row]
    return [
        LabelledAnswer(name, row.prompt, text, label, score, truncated, history=row.history)
        for name, text, label, score, truncated in (
            (row.chosen_id, row.chosen, True, row.chosen_score, row.chosen_truncated),
            (row.rejected_id, row.rejected, False, row.rejected_score, row.rejected_truncated),
        )
    ]


def encode_answers(tokenizer: Any, answers: Sequence[LabelledAnswer], max_length: int) -> tuple[Columns, int]:
    """Return the token ids of answers as TRL's KTO expects them.

    Answers end with the end of turn, except truncated ones.

    Returns
    -------
    columns : dict
        prompt_ids, completion_ids: one list of ids per answer. label: True if it is desirable.
    too_long : int
        Answers that are excluded because prompt and answer exceed `max_length` tokens.
    """
    from srlm.models.chat import encode_turn
    from srlm.models.conversation import messages_of

    columns: Columns = {"prompt_ids": [], "completion_ids": [], "label": []}
    too_long = 0
    for one in answers:
        messages = messages_of(one.conversation)
        prompt, completion = encode_turn(tokenizer, messages, one.completion, ended=not one.truncated)
        if len(prompt) + len(completion) > max_length:
            too_long += 1
            continue
        for name, value in zip(columns, (prompt, completion, one.label), strict=True):
            columns[name].append(value)
    return columns, too_long


def weights_of(desirable: int, undesirable: int, options: KTOConfig) -> tuple[float, float]:
    """Return lambda_D and lambda_U for these numbers of answers; both are >= 1 if neither is set.

    Section 4.2 of the paper asks for a ratio of lambda_D n_D to lambda_U n_U between 1 and 4/3. If the numbers alone
    have another ratio, the rarer kind gets the least weight that brings it there. A weight that is set is used, and
    then the other one is 1 unless it is set, too.
    """
    if options.desirable_weight is not None or options.undesirable_weight is not None:
        return options.desirable_weight or 1.0, options.undesirable_weight or 1.0
    ratio = desirable / undesirable
    return max(1.0, 1 / ratio), max(1.0, ratio * 3 / 4)


def shuffled(columns: Columns, seed: int) -> Columns:
    """Return the rows of `columns` in a random order."""
    rows = list(zip(*columns.values(), strict=True))
    random.Random(seed).shuffle(rows)
    return {name: list(values) for name, values in zip(columns, zip(*rows, strict=True), strict=True)}


def mismatched_answers(columns: Columns, size: int) -> list[list[int]]:
    """Return for each prompt the answer to another prompt that z0 is computed with.

    It is the next one of the micro-batch of `size` rows (after the last row comes the first), or of all rows if the
    micro-batch has only one prompt.
    """
    prompts, answers, count = columns["prompt_ids"], columns["completion_ids"], len(columns["prompt_ids"])
    found = []
    for place, prompt in enumerate(prompts):
        first = place - place % size
        last = min(first + size, count)
        following = [*range(place + 1, last), *range(first, place), *range(last, count), *range(first)]
        other = next((one for one in following if prompts[one] != prompt), following[0] if following else place)
        found.append(answers[other])
    return found


def probe_of_labels(columns: Columns) -> Probe:
    """Return a probe of some desirable and as many undesirable answers."""
    from srlm.training.checkpoint_check import Kind, Probe, evenly_spaced
    from srlm.training.masking import IGNORED

    rows = list(zip(*columns.values(), strict=True))
    sides = [[row for row in rows if row[2] is label] for label in (True, False)]
    drawn = [side[i] for i in evenly_spaced(min(map(len, sides))) for side in sides]
    return Probe(
        Kind.pairs,
        [[*prompt, *answer] for prompt, answer, _ in drawn],
        [[*[IGNORED] * len(prompt), *answer] for prompt, answer, _ in drawn],
    )
