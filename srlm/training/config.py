"""Options that all training methods share."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Annotated, Any, ClassVar

from srlm.data.config import SourceConfig
from srlm.ranges import DTYPES, MODEL, SAVE_DTYPES, above, at_least, below, one_of

QUANTIZE = ("none", "8bit", "4bit")
OPTIMIZERS = ("adamw", "adamw_8bit", "paged_adamw_8bit", "paged_adamw_32bit", "adafactor")


class Reference(Enum):
    previous = "previous"
    sft = "sft"
    base = "base"


@dataclass
class LoraConfig:
    enabled: bool = True  # false = full fine-tuning
    r: Annotated[int, at_least(1)] = 16  # rank of the adapters
    alpha: int = 32  # scale of the adapters: they are multiplied by alpha / r
    dropout: Annotated[float, below(1)] = 0.0  # of the adapters' inputs
    # adapt only this many of the last layers, which takes less compute; 0 = all layers; unset = by the model
    last_n_layers: Annotated[int | None, at_least(0)] = None
    # names of the layers that are adapted, such as q_proj; empty = every linear layer except the output layer
    targets: list[str] = field(default_factory=list)
    # precision of the weights below the adapters while they are trained: none = that of the arithmetic (on a CPU
    # float32); 8bit; 4bit = QLoRA (arXiv 2305.14314). Both need bitsandbytes. Adapters are merged into the full weights
    quantize: Annotated[str, one_of(*QUANTIZE)] = "none"
    keep_adapter: bool = False  # keep the adapter, unmerged, in a folder next to the model (MODEL_adapter), too


@dataclass
class TrainConfig:
    """Options of every training method; a method's own options are added in a subclass next to its code.

    Options that are unset (null) follow the model and the hardware: `srlm.training.by_model` has the table.
    """

    trl_config: ClassVar[str] = ""  # the class of trl that takes the arguments in `extra`, such as "DPOConfig"

    epochs: Annotated[float | None, above(0)] = None  # passes over the data; unset = by the model
    learning_rate: Annotated[float | None, above(0)] = None  # peak; unset = by the model, and LoRA or not
    # at the end of the cosine schedule; 0 to learning_rate; unset = a tenth of learning_rate
    min_learning_rate: float | None = None
    warmup_ratio: Annotated[float, below(1)] = 0.0  # share of all steps
    # examples (DPO: pairs) per step, over all processes; unset = by the model
    batch_size: Annotated[int | None, at_least(1)] = None
    # examples per process and forward pass; divides batch_size; unset = by the model and the memory
    micro_batch_size: Annotated[int | None, at_least(1)] = None
    # tokens of prompt and answer; longer examples are excluded and counted; unset = by the model and the hardware
    max_length: Annotated[int | None, at_least(16)] = None
    # adamw; adamw_8bit, paged_adamw_8bit and paged_adamw_32bit need less GPU memory, and bitsandbytes; adafactor.
    # Others that transformers knows: extra.optim
    optimizer: Annotated[str, one_of(*OPTIMIZERS)] = "adamw"
    weight_decay: Annotated[float, at_least(0)] = 0.0  # of AdamW
    max_grad_norm: float = 1.0  # gradients are clipped to this norm
    # the model's own, where its architecture has such a setting; LoRA's is lora.dropout
    dropout: Annotated[float, below(1)] = 0.0
    # Precision of the arithmetic: auto = bfloat16 where the GPU or CPU supports it, otherwise float16 on a GPU and
    # float32 on a CPU. Weights are kept in float32, except below LoRA on a GPU, where they have the same precision.
    dtype: Annotated[str, one_of(*DTYPES)] = "auto"
    gradient_checkpointing: bool | None = None  # less memory, more time; unset = by the model and the memory
    # precision of the saved checkpoint: float32 keeps every update; bfloat16 and float16 take half the disk space and
    # lose part of the update, which is measured
    save_dtype: Annotated[str, one_of(*SAVE_DTYPES)] = "float32"
    # warn if the saved checkpoint differs more from the trained policy: mean absolute difference, nats per token
    # (reward model: log-odds per answer)
    save_tolerance: Annotated[float, above(0)] = 0.001
    checkpoint_steps: Annotated[int, at_least(0)] = 50  # save a checkpoint to resume from every so many steps; 0 = none
    processes: Annotated[int, at_least(1)] = 1  # training processes (GPUs); more than 1 are started with torchrun
    accelerate_config: str = ""  # accelerate's yaml file (FSDP2, DeepSpeed); "" = plain data parallel
    lora: LoraConfig = field(default_factory=LoraConfig)
    # further arguments by name, of the method's config class in TRL, such as DPOConfig: {optim: adafactor},
    # {neftune_noise_alpha: 5}, {model_init_kwargs: {attn_implementation: flash_attention_2}}
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass
class EarlyStoppingConfig:
    """Compare a training's checkpoints and stop when one is no better than the one before (arXiv 2401.10020, 3.1).

    Answers are sampled and compared with evaluation.temperature, top_p, max_new_tokens and judge_template.
    """

    enabled: bool = False  # false = train on all data to the end
    every_steps: Annotated[int, at_least(1)] = 200  # optimizer steps from one checkpoint to the next
    prompts: Annotated[int, at_least(2)] = 253  # validation prompts that each checkpoint answers
    # where validation prompts come from: unused_ift = rows of data.ift that this run does not train on; a file, or
    # hub:OWNER/NAME. Prompts near those of training and evaluation are excluded
    source: SourceConfig = field(default_factory=lambda: SourceConfig(path="unused_ift"))
    judge: Annotated[str, MODEL] = "self"  # self = M_t; sft = M1; base = M0; endpoint; or any model name
    # a checkpoint is better if its wins minus losses, as a share of the judged prompts, exceed this
    min_net_win: Annotated[float, below(1)] = 0.0


@dataclass
class LoopConfig(TrainConfig):
    """Options of every method that trains M_t+1 on the feedback of M_t (`method`)."""

    reference: Reference = Reference.previous  # previous = M_t; sft = M1; base = M0
    # nats per token that policy and reference may differ by before the first step
    reference_check_tolerance: Annotated[float, above(0)] = 0.05
    early_stopping: EarlyStoppingConfig = field(default_factory=EarlyStoppingConfig)
