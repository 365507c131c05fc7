"""Options that all training methods share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar


@dataclass
class LoraConfig:
    enabled: bool = True  # false = full fine-tuning
    r: int = 16  # rank of the adapters
    alpha: int = 32  # scale of the adapters: they are multiplied by alpha / r
    dropout: float = 0.1  # of the adapters' inputs; [0, 1)
    last_n_layers: int = 0  # adapt only this many of the last layers, which takes less compute; 0 = all layers


@dataclass
class TrainConfig:
    """Options of every training method; a method's own options are added in a subclass next to its code."""

    trl_config: ClassVar[str] = ""  # the class of trl that takes the arguments in `extra`, such as "DPOConfig"

    epochs: float = 1.0  # passes over the data; > 0
    learning_rate: float = 5.5e-6  # peak
    min_learning_rate: float = 1.1e-6  # at the end of the cosine schedule; 0 to learning_rate
    warmup_ratio: float = 0.0  # share of all steps; [0, 1)
    batch_size: int = 16  # examples (DPO: pairs) per step, over all processes; >= 1
    micro_batch_size: int = 4  # examples per process and forward pass; divides batch_size
    max_length: int = 1024  # tokens of prompt and answer; longer examples are excluded and counted
    weight_decay: float = 0.0  # of AdamW
    max_grad_norm: float = 1.0  # gradients are clipped to this norm
    dropout: float = 0.1  # the model's own, where its architecture has such a setting; LoRA's is lora.dropout
    # Precision of the arithmetic: float32, bfloat16 or float16; auto = bfloat16 where the GPU or CPU supports it,
    # otherwise float32. Weights are kept in float32, except below LoRA on a GPU, where they have the same precision.
    dtype: str = "auto"
    gradient_checkpointing: bool = False  # less memory, more time
    # precision of the saved checkpoint: float32 keeps every update; bfloat16 and float16 take half the disk space and
    # lose part of the update, which is measured
    save_dtype: str = "float32"
    # warn if the saved checkpoint differs more from the trained policy: mean absolute difference, nats per token
    # (reward model: log-odds per answer); > 0
    save_tolerance: float = 0.001
    checkpoint_steps: int = 50  # save a checkpoint to resume from every so many steps; 0 = none
    processes: int = 1  # training processes (GPUs); more than 1 are started with torchrun
    accelerate_config: str = ""  # accelerate's yaml file (FSDP2, DeepSpeed); "" = plain data parallel
    lora: LoraConfig = field(default_factory=LoraConfig)
    # further arguments by name, of TRL's SFTConfig, DPOConfig or RewardConfig: {optim: adafactor},
    # {neftune_noise_alpha: 5}, {model_init_kwargs: {attn_implementation: flash_attention_2}}
    extra: dict[str, Any] = field(default_factory=dict)
