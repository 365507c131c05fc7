"""Reward model: M1 with one number instead of its output layer, trained on ranked answers (arXiv 2203.02155, 3.4).

The loss is -log sigmoid(r(chosen) - r(rejected)), over the pairs of answers that people ordered. They come from the
EFT data that a generative judge would learn from. The reward model is trained once and judges all later models: the
frozen judge of RLHF, which self-rewarding is compared with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from srlm.errors import TrainingError
from srlm.ranges import below, resolved
from srlm.training.config import TrainConfig
from srlm.training.method import Batches, Columns, Context, Encoded, Method
from srlm.types import JudgeExample

if TYPE_CHECKING:
    import torch

    from srlm.config import Config


@dataclass
class RewardModelConfig(TrainConfig):
    """M1 to a reward model, on ranked answers (judge=reward_model; arXiv 2203.02155, section 3.4)."""

    trl_config: ClassVar[str] = "RewardConfig"

    warmup_ratio: Annotated[float, below(1)] = 0.05  # share of all steps


class RewardModel(Method[RewardModelConfig, Encoded]):
    name = "reward_model"
    config = RewardModelConfig
    learns_from = (JudgeExample,)
    metrics = ("accuracy", "margin", "mean_reward", "min_reward", "max_reward")
    new_head = "score"

    def encode(
        self, tokenizer: Any, rows: Sequence[JudgeExample], options: RewardModelConfig, config: Config
    ) -> Encoded:
        from srlm.io.progress import say
        from srlm.training.checkpoint_check import probe_of_rewards

        columns, too_long = encode_comparisons(tokenizer, rows, resolved(options.max_length))
        chosen, rejected = columns["chosen_ids"], columns["rejected_ids"]
        if not chosen:
            raise TrainingError(
                f"All {len(rows)} pairs are longer than reward_model.max_length={options.max_length} tokens. Raise it."
            )
        if too_long:
            say(f"  {too_long} of {len(rows)} pairs are longer than reward_model.max_length and excluded")
        lengths = [max(map(len, pair)) for pair in zip(chosen, rejected, strict=True)]
        tokens = sum(map(len, [*chosen, *rejected]))
        counts = {"pairs": len(chosen), "too_long": too_long, "tokens": tokens}
        batches = Batches(range(len(chosen)), lengths, resolved(options.batch_size))
        return Encoded(columns, counts, probe_of_rewards(chosen, rejected), batches)

    def trainer(self, model: Any, encoded: Encoded, context: Context[RewardModelConfig]) -> Any:
        from trl import RewardConfig, RewardTrainer

        arguments = RewardConfig(**context.arguments, max_length=None, disable_dropout=context.no_dropout)
        return context.build(RewardTrainer, arguments, model, encoded.columns)

    def load(self, folder: Path, options: TrainConfig, config: Config, dtype: torch.dtype | None = None) -> Any:
        return load_classifier(folder, options, config, dtype)


def encode_comparisons(tokenizer: Any, rows: Sequence[JudgeExample], max_length: int) -> tuple[Columns, int]:
    """Return the token ids of pairs as TRL's RewardTrainer expects them, encoded as for a sequence scorer.

    Parameters
    ----------
    rows : sequence of JudgeExample
        Comparisons: `score` is 1 where the first response is better.

    Returns
    -------
    columns : dict
        chosen_ids, rejected_ids: prompt and answer, one list of ids per pair.
    too_long : int
        Pairs that are excluded because a side exceeds `max_length` tokens.
    """
    from srlm.models.chat import encode_turn
    from srlm.models.conversation import messages_of

    columns: Columns = {"chosen_ids": [], "rejected_ids": []}
    too_long = 0
    for row in rows:
        assert row.other is not None
        encoded = [encode_turn(tokenizer, messages_of(row.conversation), text) for text in (row.response, row.other)]
        sides = [prompt + answer for prompt, answer in encoded]
        if max(map(len, sides)) > max_length:
            too_long += 1
            continue
        for name, ids in zip(columns, sides if row.score == 1 else sides[::-1], strict=True):
            columns[name].append(ids)
    return columns, too_long


def load_classifier(folder: Path, options: TrainConfig, config: Config, dtype: torch.dtype | None = None) -> Any:
    """Return a causal model's checkpoint with one number instead of its output layer, drawn with the run's seed.

    The new layer is float32, whatever precision the other weights have. It is trained as a whole, and bfloat16 would
    lose most of its small steps. Drawing it in float32 makes it the same for every precision.
    """
    from transformers import AutoModelForSequenceClassification, set_seed

    from srlm.engines.extra import MODEL_ARGUMENTS
    from srlm.ids import derive_seed
    from srlm.training import loading

    settings = loading.settings_of(folder, options, config, num_labels=1)
    model = AutoModelForSequenceClassification.from_pretrained(
        folder,
        config=settings,
        dtype=dtype or loading.model_dtype(options),
        trust_remote_code=config.model.trust_remote_code,
        use_safetensors=True,
        **loading.quantization(options, dtype),
        **options.extra.get(MODEL_ARGUMENTS, {}),
    )
    model.score.float()
    set_seed(derive_seed(config.seed, 1, "reward_model"))
    model.score.weight.data.normal_(std=settings.get_text_config().initializer_range)
    return model
