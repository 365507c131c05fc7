"""What SFT and DPO share: loading, LoRA, TRL's arguments, progress, saving."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig as PeftLoraConfig
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedTokenizerBase, Trainer, TrainerCallback

from srlm.config import Config, LoraConfig, TrainConfig
from srlm.engines.extra import MODEL_ARGUMENTS
from srlm.errors import ConfigError
from srlm.io.files import write_atomic
from srlm.io.progress import Bars
from srlm.models.chat_template import load_tokenizer, write_stop_tokens
from srlm.training.activation_cache import frozen_once, layer_stack
from srlm.training.checkpoint_check import Probe
from srlm.training.saving import Saving, save

_DROPOUTS = ("attention_dropout", "hidden_dropout", "resid_pdrop", "embd_pdrop", "attn_pdrop", "resid_dropout")


def settings_of(folder: Path, train: TrainConfig, config: Config, **others: Any) -> Any:
    """A checkpoint's own settings, with the asked dropout where its architecture has one, and `others`."""
    from transformers import AutoConfig

    settings = AutoConfig.from_pretrained(folder, trust_remote_code=config.model.trust_remote_code, **others)
    for name in _DROPOUTS:
        if hasattr(settings, name):
            setattr(settings, name, train.dropout)
    return settings


def load_model(folder: Path, train: TrainConfig, config: Config, dtype: torch.dtype | None = None) -> Any:
    """A checkpoint for training, its weights in the precision that `model_dtype` says or in `dtype`."""
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        config=settings_of(folder, train, config),
        dtype=dtype or model_dtype(train),
        trust_remote_code=config.model.trust_remote_code,
        use_safetensors=True,
        **train.extra.get(MODEL_ARGUMENTS, {}),
    )
    model.generation_config = savable(model.generation_config)
    return model


def savable(found: GenerationConfig) -> GenerationConfig:
    """Return a model's generation_config so that transformers saves it.

    It refuses to save what Llama 2 and others were published with: a temperature without do_sample, and pad_token_id
    -1. A training would end with that error. What makes no sense with sampling either is left out.
    """
    tokens = {name: getattr(found, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    known = {name: value for name, value in tokens.items() if not (isinstance(value, int) and value < 0)}
    sampling = copy.deepcopy(found)
    sampling.update(do_sample=True, **{name: known.get(name) for name in tokens})
    for option in (found, sampling):
        with contextlib.suppress(ValueError):
            option.validate(strict=True)
            return option
    return GenerationConfig(**known)


def precision(train: TrainConfig) -> str:
    """What the arithmetic of training is done in: float32, bfloat16 or float16."""
    if train.dtype != "auto":
        return train.dtype
    cpu = {} if torch.cuda.is_available() else torch.cpu.get_capabilities()
    return "bfloat16" if torch.cuda.is_available() or cpu.get("avx512_bf16") or cpu.get("amx_bf16") else "float32"


def model_dtype(train: TrainConfig) -> torch.dtype:
    """What the weights are kept in.

    Full fine-tuning in pure bfloat16 loses small updates, so its weights stay in float32 and autocast does the
    arithmetic; so do LoRA's on a CPU, where they are small.
    """
    lower = train.lora.enabled and torch.cuda.is_available()
    dtype: torch.dtype = getattr(torch, precision(train)) if lower else torch.float32
    return dtype


def peft_config(lora: LoraConfig, model: torch.nn.Module) -> PeftLoraConfig | None:
    """LoRA on all linear layers but the output head, or on the topmost layers alone; None for full fine-tuning.

    Experts that are stacked in one parameter keep their weights (`_linear_layers_around_experts`).

    Raises
    ------
    ConfigError
        If the model has fewer layers than `last_n_layers`.
    """
    if not lora.enabled:
        return None
    target: str | list[str] = _linear_layers_around_experts(model) or "all-linear"
    if lora.last_n_layers:
        name, layers = layer_stack(model)
        if lora.last_n_layers > len(layers):
            raise ConfigError(
                f"lora.last_n_layers={lora.last_n_layers}, but the model has {len(layers)} layers. Lower it."
            )
        target = [
            f"{name}.{place}.{below}"
            for place in range(len(layers) - lora.last_n_layers, len(layers))
            for below, part in layers[place].named_modules()
            if isinstance(part, torch.nn.Linear)
        ]
    return PeftLoraConfig(
        r=lora.r, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=target, task_type="CAUSAL_LM"
    )


def _use_cores(threads: int, train: TrainConfig) -> None:
    """Share out the threads among the training processes: more threads than cores would wait for each other.

    OMP_NUM_THREADS holds where `engine.threads` is 0, except under a launcher, which sets it to 1 for its ranks.
    """
    launched = train.processes > 1 or train.accelerate_config
    if threads or launched or "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, (threads or os.cpu_count() or 1) // train.processes))


def _linear_layers_around_experts(model: Any) -> list[str]:
    """Return the linear layers of a mixture of experts whose experts are stacked in one parameter; else nothing.

    peft would add updates to such a parameter itself, in its own precision: in bfloat16 small ones would be lost. It
    also refuses dropout there.
    """
    if not any(weight.ndim == 3 and ".experts." in name for name, weight in model.named_parameters()):
        return []
    head = model.get_output_embeddings()
    return [name for name, part in model.named_modules() if isinstance(part, torch.nn.Linear) and part is not head]


def trainer_arguments(train: TrainConfig, config: Config, checkpoints: Path, seed: int) -> dict[str, Any]:
    """Arguments that SFTConfig and DPOConfig of TRL take alike."""
    on_gpu = torch.cuda.is_available()
    dtype = precision(train)
    if not on_gpu:
        _project_targets_alone()
        _use_cores(config.engine.threads, train)
    return {
        "output_dir": str(checkpoints),
        "use_cpu": not on_gpu,
        "bf16": dtype == "bfloat16",
        "fp16": dtype == "float16",
        "num_train_epochs": train.epochs,
        "per_device_train_batch_size": train.micro_batch_size,
        "gradient_accumulation_steps": train.batch_size // (train.micro_batch_size * train.processes),
        "learning_rate": train.learning_rate,
        "lr_scheduler_type": "cosine_with_min_lr",
        "lr_scheduler_kwargs": {"min_lr": train.min_learning_rate},
        "warmup_steps": train.warmup_ratio,
        "weight_decay": train.weight_decay,
        "max_grad_norm": train.max_grad_norm,
        "gradient_checkpointing": train.gradient_checkpointing,
        "save_strategy": "steps" if train.checkpoint_steps else "no",
        "save_steps": train.checkpoint_steps or 1,
        "save_total_limit": 1,
        "logging_steps": 1,
        "logging_strategy": "steps",
        "report_to": "none",
        "disable_tqdm": True,
        "seed": seed,
        "data_seed": seed,
        "dataloader_num_workers": 0,
        **{name: value for name, value in train.extra.items() if name != MODEL_ARGUMENTS},
    }


def _project_targets_alone() -> None:
    """On a CPU TRL projects all positions to the vocabulary, although the prompt's are masked in the loss: of a small
    model with long prompts that is most of the work. On a GPU it leaves them out; have it do so here, too."""
    import trl.trainer.utils as trl_utils

    if hasattr(trl_utils, "_use_triton"):
        trl_utils._use_triton = lambda device: True


class Watch(TrainerCallback):
    """Shows the steps' progress and keeps what was logged, one JSON line a step."""

    def __init__(self, bars: Bars, name: str, log: Path):
        self.bars, self.name, self.log = bars, name, log
        self.rows: list[dict[str, Any]] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.bars.add(self.name, state.max_steps, state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.bars.update(self.name, done=state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if state.is_world_process_zero:
            # Trainer state holds the rows before a resume, too.
            write_atomic(self.log, "".join(json.dumps(row) + "\n" for row in state.log_history))


class StopAt(TrainerCallback):
    """Ends training after an optimizer step, with a checkpoint to resume from."""

    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step >= self.step:
            control.should_save = control.should_training_stop = True


def train_and_save(
    trainer: Trainer,
    checkpoints: Path,
    target: Path,
    tokenizer: PreTrainedTokenizerBase,
    saving: Saving,
    stop_at: int | None = None,
) -> dict[str, Any]:
    """Train, from the last checkpoint where there is one, and leave a full checkpoint (LoRA merged) in `target`.

    The folder appears at once and complete; the checkpoints to resume from are removed after it.

    Parameters
    ----------
    stop_at : int, optional
        Stop after this optimizer step and keep the checkpoints, so that another call resumes from it on the same
        schedule. `target` is then the model as of that step, or of the end if training is shorter.

    Returns
    -------
    dict
        How the checkpoint agrees with the policy, for the stage's counts (`srlm.training.saving.save`); empty on
        other processes than the main one.
    """
    unfinished = sorted(checkpoints.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    complete = [path for path in unfinished if (path / "trainer_state.json").is_file()]
    if stop_at is not None:
        trainer.add_callback(StopAt(stop_at))
        # From an earlier step: a checkpoint of `stop_at` itself may be there, of a call that was killed while it saved.
        complete = [path for path in complete if int(path.name.split("-")[1]) < stop_at]
    # NEFTune adds other noise to the embeddings in each epoch.
    epochs = 1.0 if trainer.args.neftune_noise_alpha else trainer.args.num_train_epochs
    with frozen_once(trainer.model, epochs):
        trainer.train(resume_from_checkpoint=str(complete[-1]) if complete else None)
    temporary = target.with_name(f".{target.name}.partial")
    if trainer.accelerator.is_main_process:
        shutil.rmtree(temporary, ignore_errors=True)
    counts = save(trainer, saving, temporary)
    if trainer.accelerator.is_main_process:
        tokenizer.save_pretrained(temporary)
        write_stop_tokens(temporary, tokenizer)
        shutil.rmtree(target, ignore_errors=True)
        os.replace(temporary, target)
        if stop_at is None:
            shutil.rmtree(checkpoints, ignore_errors=True)
    return counts


def saving_of(config: Config, group: str, start: Path, probe: Probe, load: Callable[..., Any] | None = None) -> Saving:
    """How the training of an option group ("sft", "dpo" or "reward_model") saves its model.

    Parameters
    ----------
    start : Path
        Checkpoint that training starts from.
    load : callable, default `load_model`
        Loads it, as `load_model` does.
    """
    train: TrainConfig = getattr(config, group)
    loader = load or load_model
    return Saving(
        start=lambda dtype: loader(start, train, config, dtype),
        probe=probe,
        dtype=getattr(torch, train.save_dtype),
        served=engine_dtype(config),
        tolerance=train.save_tolerance,
        group=group,
    )


def engine_dtype(config: Config) -> torch.dtype:
    """The precision in which the run's engine loads a checkpoint (`engine.dtype`)."""
    auto = "bfloat16" if torch.cuda.is_available() else "float32"
    dtype: torch.dtype = getattr(torch, auto if config.engine.dtype == "auto" else config.engine.dtype)
    return dtype


def tokenizer_of(folder: Path, config: Config) -> PreTrainedTokenizerBase:
    return load_tokenizer(folder, config.model)


def write_counts(path: Path, counts: dict[str, Any]) -> None:
    """What a trainer counted, for the stage's manifest."""
    if int(os.environ.get("RANK", "0")) == 0:
        write_atomic(path, json.dumps(counts, indent=1))
