"""DPO: M_t to M_t+1 on the preference pairs that M_t generated (arXiv 2305.18290; arXiv 2401.10020, section 2.4).

The reference is M_t itself (`previous`), M_1 (`sft`) or M_0 (`base`). With LoRA a fresh adapter is trained on the
merged M_t, so that the model with the adapter off is M_t. An adapter on an older base would compare the policy with
the wrong model. Reference log-probabilities are computed once, before the first step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from srlm.errors import NoPairsError, TrainingError
from srlm.ranges import above, resolved
from srlm.training.config import LoopConfig
from srlm.training.method import Columns, Context, Encoded, Method, Need
from srlm.types import PreferencePair

if TYPE_CHECKING:
    from srlm.config import Config


@dataclass
class DPOConfig(LoopConfig):
    """M_t to M_t+1 on preference pairs, AIFT(M_t) (arXiv 2305.18290)."""

    trl_config: ClassVar[str] = "DPOConfig"

    beta: Annotated[float, above(0)] = 0.1  # strength of the pull to the reference model


class DPO(Method[DPOConfig, Encoded]):
    name = "dpo"
    config = DPOConfig
    learns_from = (PreferencePair,)
    needs = frozenset({"reference"})
    metrics = (
        *("rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins"),
        *("logps/chosen", "logps/rejected", "logits/chosen", "logits/rejected", "entropy", "mean_token_accuracy"),
    )

    @classmethod
    def check_options(cls, options: DPOConfig, group: str, config: Config, need: Need) -> None:
        super().check_options(options, group, config, need)
        losses, weights = (options.extra.get(name) for name in ("loss_type", "loss_weights"))
        count = len(losses) if isinstance(losses, list) else 1  # TRL pairs them strictly, in the first step
        several = f"a list of {count}, one for each of {group}.extra.loss_type={losses or 'sigmoid'}"
        need(not weights or len(weights) == count, f"{group}.extra.loss_weights", several)

    def encode(self, tokenizer: Any, rows: Sequence[PreferencePair], options: DPOConfig, config: Config) -> Encoded:
        from srlm.io.progress import say
        from srlm.training.checkpoint_check import probe_of_pairs

        _refuse_weights(rows)
        columns, too_long, trl_drops = encode_pairs(tokenizer, rows, resolved(options.max_length))
        if too_long:
            say(
                f"  {too_long} of {len(rows)} pairs are longer than dpo.max_length={options.max_length} and excluded "
                f"({trl_drops} because of their prompt alone)"
            )
        prompts, chosen, rejected = columns.values()
        if len(prompts) < config.pairs.min_pairs:
            raise NoPairsError(
                f"Only {len(prompts)} of {len(rows)} pairs fit into dpo.max_length={options.max_length} tokens. Raise "
                "it, or lower candidates.max_new_tokens."
            )
        tokens = sum(len(p) * 2 + len(c) + len(r) for p, c, r in zip(prompts, chosen, rejected, strict=True))
        counts = {"pairs": len(prompts), "too_long": too_long, "trl_would_drop": trl_drops, "tokens": tokens}
        return Encoded(columns, counts, probe_of_pairs(prompts, chosen, rejected))

    def trainer(self, model: Any, encoded: Encoded, context: Context[DPOConfig]) -> Any:
        from trl import DPOConfig as Arguments
        from trl import DPOTrainer

        from srlm.training.activation_cache import Activations, frozen_once

        class PairTrainer(DPOTrainer):
            """TRL's trainer on pairs that are already token ids, so that training gets what the engine generated.

            Without a reference model of its own, the pass that computes the reference's log-probabilities runs the
            frozen layers of the policy, and `train_and_save` takes their outputs from `activations`.
            """

            def __init__(self, *arguments: Any, **others: Any) -> None:
                self.activations: Activations = {}
                super().__init__(*arguments, **others)

            def _precompute_ref_logps(self, *arguments: Any) -> Any:
                own = self.ref_model is None
                with frozen_once(self.model, passes=2 if own else 0, made=self.activations):
                    return super()._precompute_ref_logps(*arguments)

            def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
                return dataset

        other = context.reference != context.start
        trainer = context.build(
            PairTrainer,
            Arguments(
                **context.arguments,
                beta=context.options.beta,
                max_length=None,
                disable_dropout=context.no_dropout,
                precompute_ref_log_probs=True,
            ),
            model,
            context.on_disk(encoded.columns),
            ref_model=context.load(context.reference) if other else None,
        )
        trainer.ref_model = None  # its log-probabilities are in the dataset now
        return trainer

    def check(self, trainer: Any, encoded: Encoded, context: Context[DPOConfig]) -> dict[str, Any]:
        from srlm.training.reference import check_trainer

        return check_trainer(trainer, context, ("ref_chosen_logps", "ref_rejected_logps"))


def _refuse_weights(pairs: Sequence[PreferencePair]) -> None:
    """Raise TrainingError if a pair has a weight or a target other than 1, which the loss does not use."""
    if pair := next((pair for pair in pairs if (pair.weight, pair.target) != (1, 1)), None):
        raise TrainingError(
            f"The preference pair {pair.id} has weight={pair.weight:g} and target={pair.target:g}, and the method dpo "
            "uses neither. Choose a pair policy that gives every pair weight 1 and target 1 (pairs.policy), or remove "
            "these fields from your own pairs."
        )


def encode_pairs(tokenizer: Any, pairs: Sequence[PreferencePair], max_length: int) -> tuple[Columns, int, int]:
    """Return the token ids of pairs as TRL's DPO expects them.

    Answers end with the end of turn, except those that a pair marks as truncated.

    Returns
    -------
    columns : dict
        prompt_ids, chosen_ids, rejected_ids: one list of ids per pair.
    too_long : int
        Pairs that are excluded because prompt and longer answer exceed `max_length` tokens.
    trl_drops : int
        Those among them whose prompt alone fills `max_length`. TRL would exclude them without a message, and truncate
        the answers of the others.
    """
    from srlm.models.chat import encode_turn
    from srlm.models.conversation import messages_of

    columns: Columns = {"prompt_ids": [], "chosen_ids": [], "rejected_ids": []}
    too_long = trl_drops = 0
    for pair in pairs:
        messages = messages_of(pair.conversation)
        prompt, chosen = encode_turn(tokenizer, messages, pair.chosen, ended=not pair.chosen_truncated)
        _, rejected = encode_turn(tokenizer, messages, pair.rejected, ended=not pair.rejected_truncated)
        if len(prompt) + max(len(chosen), len(rejected)) > max_length:
            too_long += 1
            trl_drops += len(prompt) >= max_length
            continue
        for name, ids in zip(columns, (prompt, chosen, rejected), strict=True):
            columns[name].append(ids)
    return columns, too_long, trl_drops
