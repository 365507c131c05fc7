"""Base class of training methods: options, encoding, trainer. `srlm.training.worker.train` does everything else.

A method is one file in `srlm/training/methods/` and a line in `METHODS` there. `srlm.config` imports these files for
their options, so their module level imports only the standard library, `srlm.types`, `srlm.errors` and option modules;
everything else is imported inside functions.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from srlm.training.config import LoopConfig, TrainConfig

if TYPE_CHECKING:
    import torch

    from srlm.config import Config
    from srlm.training.checkpoint_check import Probe

Columns = dict[str, list[Any]]  # a dataset: column name -> one value per row
Need = Callable[[bool, str, str], None]  # (condition, option, allowed values): raises ConfigError if it does not hold


@dataclass(frozen=True)
class Batches:
    """How rows are put into steps (`srlm.training.batching.Steps`).

    Parameters
    ----------
    groups : sequence of hashable
        One value per row; rows with the same value share a step.
    lengths : sequence of int
        Tokens per row; rows of similar length share a step.
    size : int
        Rows that are drawn together.
    """

    groups: Sequence[Hashable]
    lengths: Sequence[int]
    size: int


@dataclass(frozen=True)
class Encoded:
    """A method's training data as token ids.

    Parameters
    ----------
    columns : dict
        Columns of the trainer's dataset.
    counts : dict
        Counts for the stage's manifest; at least "tokens" and "too_long".
    probe : Probe
        Training examples on which the saved checkpoint is compared with the trained policy.
    batches : Batches, optional
        How rows are put into steps; None = in the trainer's random order.
    """

    columns: Columns
    counts: dict[str, Any]
    probe: Probe
    batches: Batches | None = None


O = TypeVar("O", bound=TrainConfig)  # noqa: E741
E = TypeVar("E", bound=Encoded)


@dataclass(frozen=True)
class Context(Generic[O]):
    """The arguments that the worker provides for building a trainer.

    Parameters
    ----------
    options : TrainConfig
        The method's options.
    group : str
        The name of their option group.
    config : Config
        The whole configuration.
    tokenizer : PreTrainedTokenizerBase
    arguments : dict
        Arguments that all of TRL's config classes take.
    checkpoints : Path
        Folder of the checkpoints and the dataset, which is deleted when training has finished.
    peft_config : peft.LoraConfig or None
        None for full fine-tuning.
    callbacks : list of TrainerCallback
    load : callable
        Loads a checkpoint for training.
    start, reference : Path
        The checkpoints that training starts from and that the policy is compared with. They are equal, unless the
        method needs a reference and it is another model.
    """

    options: O
    group: str
    config: Config
    tokenizer: Any
    arguments: dict[str, Any]
    checkpoints: Path
    peft_config: Any
    callbacks: list[Any]
    load: Callable[[Path], Any]
    start: Path
    reference: Path

    @property
    def no_dropout(self) -> bool:
        """Return whether training uses no dropout."""
        return self.options.dropout == 0 and self.options.lora.dropout == 0

    def build(self, trainer: type, arguments: Any, model: Any, data: Columns | Any, **others: Any) -> Any:
        """Return a trainer of TRL with the dataset, tokenizer, LoRA and callbacks of this training.

        Parameters
        ----------
        arguments : instance of TRL's config class
        data : dict of columns or Dataset
        others : further arguments of the trainer
        """
        from datasets import Dataset

        built = trainer(
            model=model,
            args=arguments,
            train_dataset=Dataset.from_dict(data) if isinstance(data, dict) else data,
            processing_class=self.tokenizer,
            peft_config=self.peft_config,
            callbacks=self.callbacks,
            **others,
        )
        if self.options.lora.quantize != "none":
            # TRL rounds adapters over quantised weights to bfloat16, which loses small steps.
            for weight in built.model.parameters():
                if weight.requires_grad:
                    weight.data = weight.data.float()
        return built

    def on_disk(self, columns: Columns) -> Any:
        """Return columns as a dataset that all training processes read from one folder.

        TRL's first process writes the reference log-probabilities next to the dataset's file, for the others to read.
        A dataset in memory has no such place. A resumed training finds them there and does not compute them again.
        """
        import torch
        from accelerate import PartialState
        from datasets import Dataset, load_from_disk

        folder = self.checkpoints / "dataset"
        state = PartialState(cpu=not torch.cuda.is_available())
        digest = hashlib.sha256(json.dumps(columns).encode()).hexdigest()
        written = folder / "columns.sha256"
        if state.is_main_process and not (written.is_file() and written.read_text() == digest):
            shutil.rmtree(folder, ignore_errors=True)
            Dataset.from_dict(columns).save_to_disk(str(folder))
            written.write_text(digest)
        state.wait_for_everyone()
        return load_from_disk(str(folder))


class Method(ABC, Generic[O, E]):
    """A way to train a model. One that trains M_t+1 can be named "module:Class" (`method`).

    Attributes
    ----------
    name : str
        Name of the stage, the log file and the W&B section, such as "dpo", and of a registered method also of the
        option group. Letters, digits and underscores.
    config : type
        The dataclass of the options. It is a subclass of LoopConfig if the method trains M_t+1.
    learns_from : tuple of type
        Kinds of records that `encode` accepts.
    needs : frozenset of str
        "reference": a model that the policy is compared with.
    metrics : tuple of str
        Metrics that the trainer logs at each step, in addition to loss, grad_norm and learning_rate.
    new_head : str
        Name of an output layer that the starting checkpoint lacks. LoRA trains it as a whole. "" = none.
    """

    name: ClassVar[str]
    config: ClassVar[type[TrainConfig]]
    learns_from: ClassVar[tuple[type, ...]]
    needs: ClassVar[frozenset[str]] = frozenset()
    metrics: ClassVar[tuple[str, ...]] = ()
    new_head: ClassVar[str] = ""

    @abstractmethod
    def encode(self, tokenizer: Any, rows: Sequence[Any], options: O, config: Config) -> E:
        """Return records as token ids, and log how many were excluded.

        Raises
        ------
        TrainingError
            If too few records are left.
        """

    @abstractmethod
    def trainer(self, model: Any, encoded: E, context: Context[O]) -> Any:
        """Return the trainer of `model`, ready to train."""

    def check(self, trainer: Any, encoded: E, context: Context[O]) -> dict[str, Any]:
        """Check the trainer before its first step; return counts for the stage's manifest.

        Raises
        ------
        SrlmError
            If training would differ from the options.
        """
        return {}

    @classmethod
    def check_options(cls, options: O, group: str, config: Config, need: Need) -> None:
        """Check combinations of options, within the group and with other groups; ranges are checked already.

        Parameters
        ----------
        group : str
            The option group, for the names in errors.
        need : callable
            (condition, option, allowed values): raises ConfigError if the condition does not hold.
        """
        check_together(options, group, need)

    def load(self, folder: Path, options: TrainConfig, config: Config, dtype: torch.dtype | None = None) -> Any:
        """Return a checkpoint for training, with weights in the precision of `options`, or in `dtype`."""
        from srlm.training.loading import load_model

        return load_model(folder, options, config, dtype)


_NO_BITSANDBYTES = "bitsandbytes is not installed (pip install bitsandbytes)"


def _has_bitsandbytes() -> bool:
    return importlib.util.find_spec("bitsandbytes") is not None


def check_together(options: TrainConfig, group: str, need: Need) -> None:
    """Check the ranges of the options that all methods share."""
    if options.min_learning_rate is not None:
        rate = options.learning_rate
        need(options.min_learning_rate >= 0, f"{group}.min_learning_rate", "0 or more")
        highest = f"0 to {group}.learning_rate={rate}"
        need(rate is None or options.min_learning_rate <= rate, f"{group}.min_learning_rate", highest)
    if options.batch_size is not None:  # what is unset follows
        step = (options.micro_batch_size or 1) * options.processes
        multiple = f"a multiple of micro_batch_size x processes = {step}"
        need(options.batch_size % step == 0, f"{group}.batch_size", multiple)
    lora, optimizer = options.lora, options.optimizer
    if lora.quantize != "none":
        need(lora.enabled, f"{group}.lora.quantize", f"none with {group}.lora.enabled=false: only adapters are trained")
        plain = f"none with {group}.accelerate_config: quantised weights cannot be sharded"
        need(not options.accelerate_config, f"{group}.lora.quantize", plain)
        need(_has_bitsandbytes(), f"{group}.lora.quantize", f"none: {_NO_BITSANDBYTES}")
    if "8bit" in optimizer or "paged" in optimizer:
        need(_has_bitsandbytes(), f"{group}.optimizer", f"adamw or adafactor: {_NO_BITSANDBYTES}")
    need(optimizer == "adamw" or "optim" not in options.extra, f"{group}.optimizer", f"adamw with {group}.extra.optim")
    if isinstance(options, LoopConfig):
        once = f"false with {group}.early_stopping.enabled=true"
        need(not (lora.keep_adapter and options.early_stopping.enabled), f"{group}.lora.keep_adapter", once)
        source, place = options.early_stopping.source, f"{group}.early_stopping"
        other = "unused_ift, a file or hub:OWNER/NAME: validation prompts are no evaluation prompts"
        need(source.path not in ("", "builtin"), f"{place}.source.path", other)
        need(source.limit == 0, f"{place}.source.limit", f"0: {place}.prompts sets the number")
