"""DPO: M_t to M_t+1 on the preference pairs M_t made (arXiv 2305.18290; arXiv 2401.10020, section 2.4).

The reference is M_t itself (`previous`), M_1 (`sft`) or M_0 (`base`). With LoRA a fresh adapter is trained on the
merged M_t, so that M_t is the same weights with the adapter off; an adapter on an older base would compare the policy
with the wrong model. Reference log-probabilities are computed once, before the first step.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from srlm.config import Reference
from srlm.errors import NoPairsError, TrainingError
from srlm.ids import derive_seed
from srlm.io.progress import Bars, say
from srlm.models.chat import encode_turn
from srlm.pipeline.artifacts import JUDGEMENT_PAIRS, MODEL, PAIRS, training_counts, training_log
from srlm.pipeline.workspace import Workspace, early_stopping_folder
from srlm.types import PreferencePair


def encode_pairs(
    tokenizer: Any, pairs: Sequence[PreferencePair], max_length: int
) -> tuple[dict[str, list[list[int]]], int, int]:
    """Return the token ids of pairs as TRL's DPO expects them.

    Answers end with the end of turn, except those that a pair marks as truncated.

    Returns
    -------
    columns : dict
        prompt_ids, chosen_ids, rejected_ids: one list of ids a pair.
    too_long : int
        Pairs left out because prompt and longer answer exceed `max_length` tokens.
    trl_drops : int
        Those among them whose prompt alone fills `max_length`: TRL would leave them out without a word, and cut the
        others' answers.
    """
    columns: dict[str, list[list[int]]] = {"prompt_ids": [], "chosen_ids": [], "rejected_ids": []}
    too_long = trl_drops = 0
    for pair in pairs:
        messages = [{"role": "user", "content": pair.prompt}]
        prompt, chosen = encode_turn(tokenizer, messages, pair.chosen, ended=not pair.chosen_truncated)
        _, rejected = encode_turn(tokenizer, messages, pair.rejected, ended=not pair.rejected_truncated)
        if len(prompt) + max(len(chosen), len(rejected)) > max_length:
            too_long += 1
            trl_drops += len(prompt) >= max_length
            continue
        for name, ids in zip(columns, (prompt, chosen, rejected), strict=True):
            columns[name].append(ids)
    return columns, too_long, trl_drops


def reference_iteration(reference: Reference, t: int) -> int:
    """Which M is the reference when M_t is trained to M_t+1."""
    return {Reference.previous: t, Reference.sft: 1, Reference.base: 0}[reference]


def check_step0(difference: float, same_model: bool, tolerance: float, reference: str) -> None:
    """Before the first step policy and reference must agree if they are the same model, and differ if they are not.

    Parameters
    ----------
    difference : float
        Largest absolute difference of a sequence's log-probability, in nats a token.
    same_model : bool
        Whether the reference is the model that training starts from.
    tolerance : float
        dpo.reference_check_tolerance, nats a token.

    Raises
    ------
    TrainingError
        Training would pull towards the wrong reference model.
    """
    if same_model and not difference <= tolerance:
        raise TrainingError(
            f"Before the first step policy and reference ({reference}) differ by {difference:.4f} nats a token, more "
            "than "
            f"dpo.reference_check_tolerance={tolerance}: the reference is not the model that training starts from. "
            "Was model/ of the "
            "iteration before changed? (In low precision a difference can be rounding: then raise the tolerance.)"
        )
    if not same_model and not difference > 0:
        raise TrainingError(
            f"dpo.reference={reference} is another model than the one training starts from, but both give the same "
            "log-probabilities: the policy itself was taken as reference."
        )


def dpo_worker(workspace: Workspace, iteration: int) -> None:
    """Train M_iteration from the pairs in its folder."""
    import torch
    from trl import DPOConfig, DPOTrainer

    from srlm.training import common
    from srlm.training.checkpoint_check import probe_of_pairs

    class PairTrainer(DPOTrainer):
        """TRL's trainer on pairs that are token ids already, so that training sees what the engine saw."""

        def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
            return dataset

    config = workspace.config()
    train, t = config.dpo, iteration - 1
    folder = workspace.iteration(iteration)
    previous = workspace.model(t)
    tokenizer = common.tokenizer_of(previous, config)
    pairs = PAIRS.read(workspace, iteration)
    if config.judge.meta:
        pairs += JUDGEMENT_PAIRS.read(workspace, iteration)
    columns, too_long, trl_drops = encode_pairs(tokenizer, pairs, train.max_length)
    if too_long:
        say(
            f"  {too_long} of {len(pairs)} pairs are longer than dpo.max_length={train.max_length} and left out "
            f"({trl_drops} by their prompt alone)"
        )
    kept = len(columns["prompt_ids"])
    if kept < config.pairs.min_pairs:
        raise NoPairsError(
            f"Only {kept} of {len(pairs)} pairs fit into dpo.max_length={train.max_length} tokens. Raise it, or lower "
            "candidates.max_new_tokens."
        )
    reference = reference_iteration(train.reference, t)
    same_model = reference == t
    seed = derive_seed(config.seed, iteration, "dpo")
    checkpoints = folder / "checkpoints" / "dpo"
    arguments = common.trainer_arguments(train, config, checkpoints, seed)
    target, stop_at = folder / MODEL, None
    if train.early_stopping.enabled:
        target, stop_at = next_checkpoint(early_stopping_folder(workspace, iteration), train.early_stopping.every_steps)
        arguments["save_total_limit"] = 2  # a kill while the last one's model is saved goes on from the one before
    needs_reference = not same_model
    model = common.load_model(previous, train, config)
    with Bars() as bars:
        trainer = PairTrainer(
            model=model,
            ref_model=common.load_model(workspace.model(reference), train, config) if needs_reference else None,
            args=DPOConfig(
                **arguments,
                beta=train.beta,
                max_length=None,
                disable_dropout=train.dropout == 0 and train.lora.dropout == 0,
                precompute_ref_log_probs=True,
            ),
            train_dataset=_on_disk(columns, checkpoints / "pairs"),
            processing_class=tokenizer,
            peft_config=common.peft_config(train.lora, model),
            callbacks=[common.Watch(bars, "dpo", folder / training_log("dpo"))],
        )
        trainer.ref_model = None  # its log-probabilities are in the data set now
        difference = _step0_difference(trainer, torch)
        check_step0(difference, same_model, train.reference_check_tolerance, train.reference.name)
        probe = probe_of_pairs(columns["prompt_ids"], columns["chosen_ids"], columns["rejected_ids"])
        saving = common.saving_of(config, "dpo", previous, probe)
        saved = common.train_and_save(trainer, checkpoints, target, tokenizer, saving, stop_at)
    lengths = [len(p) * 2 + len(c) + len(r) for p, c, r in zip(*columns.values(), strict=True)]
    counts: dict[str, Any] = {"pairs": kept, "too_long": too_long, "trl_would_drop": trl_drops, "tokens": sum(lengths)}
    counts |= {"reference_check_difference": difference} | saved
    if stop_at is None:
        common.write_counts(folder / training_counts("dpo"), counts)
    else:
        steps = {"step": trainer.state.global_step, "steps": trainer.state.max_steps}
        common.write_counts(target.with_suffix(".json"), counts | steps)


def next_checkpoint(folder: Path, every_steps: int) -> tuple[Path, int]:
    """Return where early stopping's next checkpoint goes, and the optimizer step to train to."""
    number = 1
    while (folder / f"checkpoint_{number}.json").exists():
        number += 1
    return folder / f"checkpoint_{number}", number * every_steps


def _on_disk(columns: dict[str, list[list[int]]], folder: Path) -> Any:
    """The pairs as a data set that all training processes read from one place.

    TRL has the first process write the reference log-probabilities beside the data set's file, for the others to read;
    a data set in memory has no such place in common.
    """
    import torch
    from accelerate import PartialState
    from datasets import Dataset, load_from_disk

    state = PartialState(cpu=not torch.cuda.is_available())
    # The same pairs as before are left with their reference log-probabilities, which are then not computed again.
    digest = hashlib.sha256(json.dumps(columns).encode()).hexdigest()
    mark = folder / "pairs.sha256"
    if state.is_main_process and not (mark.is_file() and mark.read_text() == digest):
        shutil.rmtree(folder, ignore_errors=True)
        Dataset.from_dict(columns).save_to_disk(str(folder))
        mark.write_text(digest)
    state.wait_for_everyone()
    return load_from_disk(str(folder))


def _step0_difference(trainer: Any, torch: Any) -> float:
    """Largest difference between policy and reference over the first batch, in nats a token."""
    rows = [
        trainer.train_dataset[i]
        for i in range(min(trainer.args.per_device_train_batch_size, len(trainer.train_dataset)))
    ]
    batch = {name: value.to(trainer.model.device) for name, value in trainer.data_collator(rows).items()}
    mask = batch["completion_mask"]
    labels = batch["input_ids"].masked_fill(mask == 0, -100)
    was_training = trainer.model.training
    trainer.model.eval()
    with torch.no_grad(), trainer.accelerator.autocast():
        output = trainer.model(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            labels=labels,
            use_cache=False,
            fused_lm_head=True,
        )
    trainer.model.train(was_training)
    policy = output.log_probs.sum(dim=1).float().cpu()
    reference = torch.cat([batch["ref_chosen_logps"], batch["ref_rejected_logps"]]).float().cpu()
    return float(((policy - reference).abs() / mask.sum(dim=1).cpu()).max())
