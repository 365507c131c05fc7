"""Saving of trained models as full checkpoints, with a check of rounding errors.

LoRA on a GPU trains over weights in bfloat16. Merging these weights would round the sum of weight and update to
bfloat16, which loses most of a small update. Instead, the adapter is added in float32 to the weights of the checkpoint
that training started from. A run with float32 checkpoints (`save_dtype`, the default) therefore accumulates the exact
updates of all iterations, although each training rounds the weights below LoRA in memory.
`srlm.training.checkpoint_check` compares the result with the policy.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import Trainer

from srlm.io.progress import say
from srlm.training.checkpoint_check import Probe, Scores, agreement, change, float32_arithmetic, score

ADAPTER = "adapter"  # folder of the adapter in an unfinished checkpoint
_ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
LEAST_KEPT, MOST_KEPT = (
    0.9,
    1.1,
)  # fractions of the training's effect in a copy; outside this range, a message is logged


@dataclass(frozen=True)
class Saving:
    """Options for saving a trained model.

    Parameters
    ----------
    start : callable
        Loads the model that training started from, on the CPU, with weights of the given precision.
    probe : Probe
        Training examples on which policy and checkpoint are compared.
    dtype : torch.dtype
        Precision of the saved weights.
    served : torch.dtype
        Precision in which the run's engine loads them.
    tolerance : float
        Difference above which a warning is logged: nats per token (reward model: log-odds per answer).
    group : str
        The training's option group, such as "dpo".
    quantized : str
        `lora.quantize` of the training.
    keep_adapter : bool
        Whether the adapter is kept, in the folder `ADAPTER` of the checkpoint.
    """

    start: Callable[[torch.dtype], Any]
    probe: Probe
    dtype: torch.dtype
    served: torch.dtype
    tolerance: float
    group: str
    quantized: str = "none"
    keep_adapter: bool = False


def adapter_folder(model: Path) -> Path:
    """Return the folder of the adapter that was merged into a model, next to it."""
    return model.with_name(f"{model.name}_adapter")


def save(trainer: Trainer, saving: Saving, folder: Path) -> dict[str, Any]:
    """Write the trained model to `folder` as a full checkpoint and compare it with the policy in memory.

    All processes of a training call this. It frees the policy's memory, so `trainer` cannot continue training.

    Returns
    -------
    dict
        On the main process, for the stage's counts: saved_dtype, saved_difference, saved_kept, and the same for the
        engine's precision (served_...) if it differs. See `srlm.training.checkpoint_check.Agreement`.
    """
    sharded = trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled
    main = trainer.accelerator.is_main_process
    model: Any = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=sharded)
    lora = isinstance(model, PeftModel)
    trained_in = torch.bfloat16 if trainer.args.bf16 else torch.float16 if trainer.args.fp16 else torch.float32
    arithmetic = trained_in if sharded else torch.float32  # a sharded model cannot be widened module by module
    policy: Scores = []
    before: Scores = []
    problems: list[str] = []  # reasons why the comparison failed; the model is saved anyway
    if sharded or main:
        runs: Any = trainer.model_wrapped if sharded else model
        with _noting(problems), contextlib.nullcontext() if sharded else float32_arithmetic(model):
            policy = score(runs, saving.probe)
            if lora:
                with model.disable_adapter():
                    before = score(runs, saving.probe)
    written = folder / ADAPTER if lora else folder
    if sharded:
        trainer.save_model(str(written))  # gathers the shards; all processes take part
    elif main:
        (model if lora else model.to(saving.dtype)).save_pretrained(written)
    trainer.accelerator.wait_for_everyone()
    if not main:
        return {}
    base = model.get_base_model() if lora else model
    if not sharded:
        _free(trainer, model)
    start = _placed(saving.start(torch.float32))
    counts: dict[str, Any] = {"saved_dtype": _name(saving.dtype)}
    served = saving.served if saving.served not in (saving.dtype, torch.float32) else None
    exact: Scores = []
    rounded: Scores = []
    with _noting(problems):
        exact = _scores(start, saving.probe, arithmetic)
        rounded = _scores(start, saving.probe, arithmetic, served) if served else []
    if lora:
        merged: Any = PeftModel.from_pretrained(start, written).merge_and_unload()
        merged.config = base.config
        if hasattr(merged.config, "quantization_config"):  # of the weights in memory
            del merged.config.quantization_config
        if hasattr(base, "generation_config"):  # a classifier has none
            merged.generation_config = base.generation_config
        if saving.keep_adapter:
            for path in written.iterdir():  # a sharded trainer also writes its arguments, as a pickle
                if path.name not in _ADAPTER_FILES:
                    path.unlink()
        else:
            shutil.rmtree(written)
        merged.to(saving.dtype).save_pretrained(folder)
        del merged
    elif sharded and saving.dtype is not torch.float32:
        converted = type(start).from_pretrained(folder, dtype=saving.dtype, use_safetensors=True)
        shutil.rmtree(folder)
        converted.save_pretrained(folder)
    model_class = type(start)
    del start
    if not problems:
        with _noting(problems):
            of_policy = change(policy, before or exact)
            saved = _placed(model_class.from_pretrained(folder, dtype="auto", use_safetensors=True))
            of_saved = change(_scores(saved, saving.probe, arithmetic), exact)
            result = agreement(of_policy, of_saved, saving.probe.kind)
            compared: dict[str, Any] = {"saved_difference": result.difference, "saved_kept": result.kept}
            if served:
                of_served = change(_scores(saved, saving.probe, arithmetic, served), rounded)
                result = agreement(of_policy, of_served, saving.probe.kind)
                compared |= {"served_dtype": _name(served), "served_difference": result.difference}
                compared["served_kept"] = result.kept
            counts |= compared
    if problems:
        say(f"  WARNING: the model is saved, but could not be compared with the trained policy: {problems[0]}")
        return counts
    for message in messages(counts, saving):
        say(f"  {message}")
    return counts


@contextlib.contextmanager
def _noting(problems: list[str]) -> Iterator[None]:
    """Append a comparison's error (usually out of memory) to `problems`, so that the training does not fail."""
    try:
        yield
    except RuntimeError as error:  # torch.OutOfMemoryError is one
        problems.append(str(error).split("\n")[0])


def messages(counts: Mapping[str, Any], saving: Saving) -> list[str]:
    """Return warnings and notes about `save`'s counts; none if the checkpoint equals the trained policy."""
    unit = "log-odds per answer" if saving.probe.kind.name == "rewards" else "nats per token"
    changed = saving.probe.kind.value
    lines = []
    if saving.quantized != "none":
        lines.append(
            f"Note: the adapter was trained over {saving.quantized} weights and is merged into the full ones. The "
            f"checkpoint differs from the trained policy by {counts['saved_difference']:.2g} {unit}"
            f"{_left(counts['saved_kept'], changed)}."
        )
    elif not counts["saved_difference"] <= saving.tolerance or not _is_whole(counts["saved_kept"]):
        remedy = (
            f"Set {saving.group}.save_dtype=float32 to save it exactly."
            if saving.dtype is not torch.float32
            else "The checkpoint is not the model that was trained. Check whether files of the previous model changed."
        )
        lines.append(
            f"WARNING: the saved checkpoint ({counts['saved_dtype']}) differs from the trained policy by "
            f"{counts['saved_difference']:.2g} {unit} ({saving.group}.save_tolerance={saving.tolerance:g})"
            f"{_left(counts['saved_kept'], changed)}. {remedy}"
        )
    kept = counts.get("served_kept")
    if kept is not None and not _is_whole(kept):
        lines.append(
            f"Note: in an engine with {counts['served_dtype']}, this checkpoint keeps {100 * kept:.0f} % of the "
            f"{changed} gained by training; with engine.dtype=float32 it keeps all of it (docs/precision.md)."
        )
    return lines


def _is_whole(kept: float | None) -> bool:
    return kept is None or LEAST_KEPT <= kept <= MOST_KEPT


def _left(kept: float | None, changed: str) -> str:
    return "" if kept is None else f" and keeps {100 * kept:.0f} % of the {changed} gained by training"


def _scores(model: Any, probe: Probe, arithmetic: torch.dtype, rounding: torch.dtype | None = None) -> Scores:
    with float32_arithmetic(model, rounding):
        if arithmetic is torch.float32:
            return score(model, probe)
        with torch.autocast(next(model.parameters()).device.type, dtype=arithmetic):
            return score(model, probe)


def _free(trainer: Trainer, model: torch.nn.Module) -> None:
    """Free the memory of policy, gradients and optimizer, because two more models are loaded next."""
    trainer.model_wrapped = trainer.model
    trainer.optimizer = trainer.lr_scheduler = None
    trainer.callback_handler.optimizer = trainer.callback_handler.lr_scheduler = None
    trainer.accelerator.free_memory()
    if not getattr(model, "is_quantized", False):
        model.to("meta")
        return
    for module in model.modules():  # quantised weights cannot be moved to the device `meta`
        module._parameters.clear()
        if hasattr(module, "state"):  # where bitsandbytes keeps 8-bit weights
            module.state = None


def _placed(model: Any) -> Any:
    """Return `model` on the GPU if it has enough free memory, otherwise on the CPU."""
    if torch.cuda.is_available():
        needed = sum(weight.numel() * weight.element_size() for weight in model.parameters())
        if torch.cuda.mem_get_info()[0] > 1.3 * needed + 2**30:
            return model.cuda()
    return model


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
