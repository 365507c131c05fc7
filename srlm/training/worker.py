"""Train a model with any method: from a checkpoint and records to the next full checkpoint.

Methods differ in their data, their loss and their checks (`srlm.training.method`). They share the code in this module:
tokenizer, model, LoRA, TRL's common arguments, order of steps, resuming, step log, saving and its check.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback

from srlm.config import Config
from srlm.engines.extra import MODEL_ARGUMENTS
from srlm.io.files import write_atomic
from srlm.io.progress import Bars
from srlm.models.chat_template import load_tokenizer, write_stop_tokens
from srlm.ranges import resolved
from srlm.training.activation_cache import Activations, frozen_once
from srlm.training.batching import Steps
from srlm.training.config import TrainConfig
from srlm.training.loading import engine_dtype, peft_config, precision
from srlm.training.method import Context, Method
from srlm.training.methods import group_of, training_options
from srlm.training.saving import ADAPTER, Saving, adapter_folder, save


def train(
    method: Method[Any, Any],
    rows: Sequence[Any],
    start: Path,
    target: Path,
    config: Config,
    *,
    options: TrainConfig | None = None,
    seed: int = 0,
    name: str = "",
    log: Path | None = None,
    checkpoints: Path | None = None,
    reference: Path | None = None,
    stop_at: int | None = None,
) -> dict[str, Any]:
    """Train a model, and write it to `target` as a full checkpoint (LoRA merged).

    The folder appears complete or not at all. A training that was stopped resumes from its last checkpoint.

    Parameters
    ----------
    rows : sequence
        Records of the kinds that the method learns from.
    start : Path
        Checkpoint that training starts from.
    options : TrainConfig, optional
        The method's options; by default, those in `config`.
    seed : int
        Seeds the order of the data and dropout.
    name : str
        Name in progress bars; by default, the method's.
    log : Path, optional
        File of the step log, one JSON object per line; by default, next to `target`.
    checkpoints : Path, optional
        Folder of the checkpoints to resume from, which is removed at the end; by default, next to `target`.
    reference : Path, optional
        Checkpoint of the reference model, for methods that need one; by default, `start`.
    stop_at : int, optional
        Stop after this optimizer step and keep the checkpoints, so that another call resumes there on the same
        schedule. `target` is then the model at that step, or at the end if training is shorter.

    Returns
    -------
    dict
        The stage's counts: the method's, those of `srlm.training.saving.save`, and, with `stop_at`, "step" and
        "steps". Processes other than the main one return only some of them.

    Raises
    ------
    SrlmError
        If the data are too few, or a check of the method or of the options fails.
    """
    group = group_of(type(method))
    options = options or training_options(config, type(method))
    name = name or method.name
    checkpoints = checkpoints or target.parent / "checkpoints" / name
    tokenizer = load_tokenizer(start, config.model)
    encoded = method.encode(tokenizer, rows, options, config)
    arguments = trainer_arguments(options, config, checkpoints, seed)
    if stop_at is not None:
        arguments["save_total_limit"] = 2  # if a kill interrupts the last one, training resumes from the previous one
    model = method.load(start, options, config)
    with Bars() as bars:
        context = Context(
            options=options,
            group=group,
            config=config,
            tokenizer=tokenizer,
            arguments=arguments,
            checkpoints=checkpoints,
            peft_config=peft_config(options.lora, model, method.new_head),
            callbacks=[StepLog(bars, name, log or target.parent / f"{name}_log.jsonl")],
            load=lambda folder: method.load(folder, options, config),
            start=start,
            reference=reference or start,
        )
        trainer = method.trainer(model, encoded, context)
        if batches := encoded.batches:
            steps = Steps(batches.groups, batches.lengths, batches.size, seed)
            trainer._get_train_sampler = lambda *_: steps
        counts = encoded.counts | method.check(trainer, encoded, context)
        saving = Saving(
            start=partial(method.load, start, options, config),
            probe=encoded.probe,
            dtype=getattr(torch, options.save_dtype),
            served=engine_dtype(config),
            tolerance=options.save_tolerance,
            group=group,
            quantized=options.lora.quantize if options.lora.enabled else "none",
            keep_adapter=options.lora.keep_adapter,
        )
        counts |= train_and_save(trainer, checkpoints, target, tokenizer, saving, stop_at)
    if stop_at is not None:
        counts |= {"step": trainer.state.global_step, "steps": trainer.state.max_steps}
    return counts


def trainer_arguments(options: TrainConfig, config: Config, checkpoints: Path, seed: int) -> dict[str, Any]:
    """Return the arguments that all of TRL's config classes take."""
    on_gpu = torch.cuda.is_available()
    dtype = precision(options)
    micro_batch = resolved(options.micro_batch_size)
    if not on_gpu:
        _project_only_targets()
        _use_cores(config.engine.threads, options)
    return {
        "output_dir": str(checkpoints),
        "use_cpu": not on_gpu,
        "bf16": dtype == "bfloat16",
        "fp16": dtype == "float16",
        "num_train_epochs": resolved(options.epochs),
        "per_device_train_batch_size": micro_batch,
        "gradient_accumulation_steps": resolved(options.batch_size) // (micro_batch * options.processes),
        "learning_rate": resolved(options.learning_rate),
        "lr_scheduler_type": "cosine_with_min_lr",
        "lr_scheduler_kwargs": {"min_lr": resolved(options.min_learning_rate)},
        "warmup_steps": options.warmup_ratio,
        "weight_decay": options.weight_decay,
        **({} if options.optimizer == "adamw" else {"optim": options.optimizer}),
        "max_grad_norm": options.max_grad_norm,
        "gradient_checkpointing": resolved(options.gradient_checkpointing),
        "save_strategy": "steps" if options.checkpoint_steps else "no",
        "save_steps": options.checkpoint_steps or 1,
        "save_total_limit": 1,
        "logging_steps": 1,
        "logging_strategy": "steps",
        "report_to": "none",
        "disable_tqdm": True,
        "seed": seed,
        "data_seed": seed,
        "dataloader_num_workers": 0,
        **{name: value for name, value in options.extra.items() if name != MODEL_ARGUMENTS},
    }


def _use_cores(threads: int, options: TrainConfig) -> None:
    """Divide the threads among the training processes, because more threads than cores would wait for each other.

    OMP_NUM_THREADS is used if `engine.threads` is 0, except under a launcher, which sets it to 1 for its ranks.
    """
    launched = options.processes > 1 or options.accelerate_config
    if threads or launched or "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, (threads or os.cpu_count() or 1) // options.processes))


def _project_only_targets() -> None:
    """Make TRL project only the trained positions to the vocabulary on a CPU, as it does on a GPU.

    For a small model with long prompts, projecting the masked prompt would be most of the computation.
    """
    import trl.trainer.utils as trl_utils

    if hasattr(trl_utils, "_use_triton"):
        trl_utils._use_triton = lambda device: True


class StepLog(TrainerCallback):
    """Show the progress of the steps and write the training log, one JSON object per line and step."""

    def __init__(self, bars: Bars, name: str, log: Path):
        self.bars, self.name, self.log = bars, name, log

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.bars.add(self.name, state.max_steps, state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.bars.update(self.name, done=state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if state.is_world_process_zero:
            # The trainer's state also holds the rows from before a resume.
            write_atomic(self.log, "".join(json.dumps(row) + "\n" for row in state.log_history))


class StopAt(TrainerCallback):
    """End training after an optimizer step, with a checkpoint to resume from."""

    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step >= self.step:
            control.should_save = control.should_training_stop = True


def train_and_save(
    trainer: Trainer, checkpoints: Path, target: Path, tokenizer: Any, saving: Saving, stop_at: int | None = None
) -> dict[str, Any]:
    """Train, from the last checkpoint if there is one, and write a full checkpoint (LoRA merged) to `target`.

    Returns
    -------
    dict
        The counts of `srlm.training.saving.save`: how far the checkpoint agrees with the policy. Empty in all processes
        except the main one.
    """
    started = sorted(checkpoints.glob("checkpoint-*"), key=_step_of)
    complete = [path for path in started if (path / "trainer_state.json").is_file()]
    if stop_at is not None:
        trainer.add_callback(StopAt(stop_at))
        # A checkpoint of `stop_at` itself may be from a call that was killed while it saved.
        complete = [path for path in complete if _step_of(path) < stop_at]
    made: Activations = getattr(trainer, "activations", {})
    # NEFTune adds different noise to the embeddings in each epoch.
    passes = 0.0 if trainer.args.neftune_noise_alpha else trainer.args.num_train_epochs + bool(made)
    with frozen_once(trainer.model, passes, made):
        trainer.train(resume_from_checkpoint=str(complete[-1]) if complete else None)
    made.clear()
    temporary = target.with_name(f".{target.name}.partial")
    if trainer.accelerator.is_main_process:
        shutil.rmtree(temporary, ignore_errors=True)
    counts = save(trainer, saving, temporary)
    if trainer.accelerator.is_main_process:
        tokenizer.save_pretrained(temporary)
        write_stop_tokens(temporary, tokenizer)
        adapter = adapter_folder(target)
        shutil.rmtree(adapter, ignore_errors=True)
        if (temporary / ADAPTER).is_dir():
            os.replace(temporary / ADAPTER, adapter)
        shutil.rmtree(target, ignore_errors=True)
        os.replace(temporary, target)
        if stop_at is None:
            shutil.rmtree(checkpoints, ignore_errors=True)
    return counts


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.split("-")[1])
