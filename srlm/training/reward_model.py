"""A reward model from M1 on the ranked seeds: the frozen judge of RLHF (arXiv 2203.02155, section 3.4).

The model's output layer gives way to one number; the loss is -log sigmoid(r(chosen) - r(rejected)) over the pairs of
answers that people order, of the EFT seeds that a judge that writes would learn from. It is trained once and stays as
it is, while the models it judges move on: what self-rewarding is compared with.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from srlm.config import Config, TrainConfig
from srlm.engines.extra import MODEL_ARGUMENTS
from srlm.errors import TrainingError
from srlm.ids import derive_seed
from srlm.io.progress import Bars, say
from srlm.models.chat import encode_turn
from srlm.pipeline.artifacts import EFT_EXAMPLES, training_counts, training_log
from srlm.pipeline.workspace import Workspace
from srlm.types import JudgeExample

if TYPE_CHECKING:
    import torch


def encode_examples(
    tokenizer: Any, examples: list[JudgeExample], max_length: int
) -> tuple[dict[str, list[list[int]]], int]:
    """Token ids of pairs as TRL's RewardTrainer wants them, as an engine that rates encodes them.

    Parameters
    ----------
    examples : list of JudgeExample
        Comparisons: `score` 1 where the first response is the better one.

    Returns
    -------
    columns : dict
        chosen_ids, rejected_ids: prompt and answer, one list of ids a pair.
    too_long : int
        Pairs left out because one of the two exceeds `max_length` tokens.
    """
    columns: dict[str, list[list[int]]] = {"chosen_ids": [], "rejected_ids": []}
    too_long = 0
    for example in examples:
        assert example.other is not None
        answers = [example.response, example.other]
        encoded = [encode_turn(tokenizer, [{"role": "user", "content": example.prompt}], text) for text in answers]
        whole = [prompt + answer for prompt, answer in encoded]
        if max(map(len, whole)) > max_length:
            too_long += 1
            continue
        for name, ids in zip(columns, whole if example.score == 1 else whole[::-1], strict=True):
            columns[name].append(ids)
    return columns, too_long


def load_classifier(folder: Path, train: TrainConfig, config: Config, dtype: torch.dtype | None = None) -> Any:
    """A causal model's checkpoint with one number in place of its output layer, drawn with the run's seed.

    That layer is float32 whatever the other weights are.
    """
    from transformers import AutoModelForSequenceClassification, set_seed

    from srlm.training import common

    settings = common.settings_of(folder, train, config, num_labels=1)
    model = AutoModelForSequenceClassification.from_pretrained(
        folder,
        config=settings,
        dtype=dtype or common.model_dtype(train),
        trust_remote_code=config.model.trust_remote_code,
        use_safetensors=True,
        **train.extra.get(MODEL_ARGUMENTS, {}),
    )
    # The new layer is trained as a whole: in bfloat16 most of its small steps would be lost. It is drawn in float32,
    # so that it is the same whatever precision the other weights have.
    model.score.float()
    set_seed(derive_seed(config.seed, 1, "reward_model"))
    model.score.weight.data.normal_(std=settings.get_text_config().initializer_range)
    return model


def reward_model_worker(workspace: Workspace, iteration: int) -> None:
    """Train iteration_1/reward_model from M1 and iteration_1/eft.jsonl."""
    from datasets import Dataset
    from trl import RewardConfig, RewardTrainer

    from srlm.training import common
    from srlm.training.batching import Steps
    from srlm.training.checkpoint_check import probe_of_rewards

    config = workspace.config()
    train, folder = config.reward_model, workspace.iteration(1)
    tokenizer = common.tokenizer_of(workspace.model(1), config)
    examples = EFT_EXAMPLES.read(workspace, 1)
    columns, too_long = encode_examples(tokenizer, examples, train.max_length)
    kept = len(columns["chosen_ids"])
    if not kept:
        raise TrainingError(
            f"All {len(examples)} pairs are longer than reward_model.max_length={train.max_length} tokens. Raise it."
        )
    if too_long:
        say(f"  {too_long} of {len(examples)} pairs are longer than reward_model.max_length and left out")
    lengths = [max(len(chosen), len(rejected)) for chosen, rejected in zip(*columns.values(), strict=True)]
    checkpoints = folder / "checkpoints" / "reward_model"
    arguments = common.trainer_arguments(train, config, checkpoints, derive_seed(config.seed, 1, "reward_model"))
    model = load_classifier(workspace.model(1), train, config)
    lora = common.peft_config(train.lora, model)
    if lora is not None:
        lora.task_type, lora.modules_to_save = "SEQ_CLS", ["score"]  # the new output layer is trained as a whole
    with Bars() as bars:
        trainer = RewardTrainer(
            model=model,
            args=RewardConfig(
                **arguments,
                max_length=None,
                disable_dropout=train.dropout == train.lora.dropout == 0,
            ),
            train_dataset=Dataset.from_dict(columns),
            processing_class=tokenizer,
            peft_config=lora,
            callbacks=[common.Watch(bars, "reward_model", folder / training_log("reward_model"))],
        )
        sampler = Steps(range(kept), lengths, train.batch_size, arguments["data_seed"])
        trainer._get_train_sampler = lambda *_: sampler
        probe = probe_of_rewards(columns["chosen_ids"], columns["rejected_ids"])
        saving = common.saving_of(config, "reward_model", workspace.model(1), probe, load_classifier)
        saved = common.train_and_save(trainer, checkpoints, workspace.reward_model, tokenizer, saving)
    tokens = sum(len(ids) for side in columns.values() for ids in side)
    counts = {"pairs": kept, "too_long": too_long, "tokens": tokens}
    common.write_counts(folder / training_counts("reward_model"), counts | saved)
