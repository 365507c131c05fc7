"""Check the groups' `extra`, such as `engine.extra` and `dpo.extra`: arguments passed on to the libraries.

The names are read from the libraries' source, so that a wrong one is refused at once and without importing them. For
the engine they are those of vLLM's AsyncEngineArgs, or of transformers' from_pretrained; for training, those of TRL's
config class that the group names. An argument that srlm sets itself is refused as well, with the option that sets it.
The fields that a server accepts (`endpoint.extra`) are not known here.
"""

from __future__ import annotations

import ast
import difflib
import importlib.util
from collections.abc import Iterable, Mapping
from dataclasses import fields
from functools import cache
from pathlib import Path

from srlm.config import Config
from srlm.errors import ConfigError
from srlm.training.config import TrainConfig

FROM_PRETRAINED = ("attn_implementation",)  # allowed arguments of transformers' from_pretrained
MODEL_ARGUMENTS = "model_init_kwargs"  # TRL's name for arguments of from_pretrained

_ENGINE_CLASSES = (("vllm/engine/arg_utils.py", "EngineArgs"), ("vllm/engine/arg_utils.py", "AsyncEngineArgs"))
_TRAINING_CLASSES = (
    ("transformers/training_args.py", "TrainingArguments"),
    ("trl/trainer/base_config.py", "_BaseConfig"),
)

# Arguments that srlm sets itself -> the option that sets them, "" = none.
SET_BY_SRLM: Mapping[str, Mapping[str, str]] = {
    "engine": {
        "model": "model.name",
        "tokenizer": "model.name",
        "revision": "model.revision",
        "trust_remote_code": "model.trust_remote_code",
        "dtype": "engine.dtype",
        "max_model_len": "engine.max_model_len",
        "max_num_seqs": "engine.max_concurrent",
        "enforce_eager": "engine.compile",
        "gpu_memory_utilization": "engine.gpu_memory_utilization",
        "tensor_parallel_size": "engine.tensor_parallel_size",
        "data_parallel_size": "engine.data_parallel_size",
        "generation_config": "",
        "scheduling_policy": "",
        "disable_log_stats": "",
    },
    "endpoint": {
        "model": "endpoint.model",
        "temperature": "endpoint.temperature",
        "logprobs": "endpoint.logprobs",
        "top_logprobs": "endpoint.logprobs",
        "continue_final_message": "endpoint.prefill",
        "add_generation_prompt": "endpoint.prefill",
        **dict.fromkeys(
            ("messages", "n", "top_p", "seed", "stop", "stream", "max_tokens", "max_completion_tokens"), ""
        ),
    },
    "training": {
        "num_train_epochs": "epochs",
        "learning_rate": "learning_rate",
        "lr_scheduler_kwargs": "min_learning_rate",
        "lr_scheduler_type": "min_learning_rate",
        "warmup_steps": "warmup_ratio",
        "warmup_ratio": "warmup_ratio",
        "per_device_train_batch_size": "micro_batch_size",
        "gradient_accumulation_steps": "batch_size",
        "max_length": "max_length",
        "weight_decay": "weight_decay",
        "max_grad_norm": "max_grad_norm",
        "gradient_checkpointing": "gradient_checkpointing",
        "bf16": "dtype",
        "fp16": "dtype",
        "disable_dropout": "dropout",
        "save_strategy": "checkpoint_steps",
        "save_steps": "checkpoint_steps",
        "save_total_limit": "checkpoint_steps",
        **dict.fromkeys(
            (
                *("output_dir", "use_cpu", "logging_steps", "logging_strategy", "report_to", "disable_tqdm"),
                *("seed", "data_seed", "dataloader_num_workers", "remove_unused_columns"),
                *("precompute_ref_log_probs", "max_steps", "resume_from_checkpoint", "eval_strategy"),
            ),
            "",
        ),
    },
}


@cache
def argument_names(library: str) -> frozenset[str]:
    """Return the arguments of vLLM ("engine"), or of a config class of TRL, such as "DPOConfig".

    Empty where the library is not installed.
    """
    file = f"trl/trainer/{library.removesuffix('Config').lower()}_config.py"
    classes = _ENGINE_CLASSES if library == "engine" else (*_TRAINING_CLASSES, (file, library))
    return frozenset(name for file, of_class in classes for name in _fields(file, of_class))


def check_extra(config: Config) -> Config:
    """Return `config` itself if the library knows every name in its groups' `extra`.

    Raises
    ------
    ConfigError
        With the argument and similar ones of the library, or the option of srlm that sets it.
    """
    engine = config.engine
    if engine.kind == "transformers":
        _check("engine", engine.extra, FROM_PRETRAINED, {}, "transformers' from_pretrained")
    elif engine.kind == "vllm" and engine.extra:
        known = argument_names("engine")
        _check("engine", engine.extra, known, SET_BY_SRLM["engine"], "vLLM's AsyncEngineArgs")
    own = SET_BY_SRLM["endpoint"]
    _check("endpoint", config.endpoint.extra, {*config.endpoint.extra, *own}, own, "the server")
    for group, options in vars(config).items():
        if not isinstance(options, TrainConfig):
            continue
        extra, library = options.extra, options.trl_config
        own = {field.name: f"{group}.{field.name}" for field in fields(options)}
        own |= {name: f"{group}.{option}" if option else "" for name, option in SET_BY_SRLM["training"].items()}
        if extra:
            _check(group, extra, argument_names(library), own, f"trl.{library}")
        model = extra.get(MODEL_ARGUMENTS) or {}
        _check(group, model, FROM_PRETRAINED, {}, "transformers' from_pretrained", f"{MODEL_ARGUMENTS}.")
    return config


def _check(
    group: str,
    given: Mapping[str, object],
    known: Iterable[str],
    set_by_srlm: Mapping[str, str],
    library: str,
    prefix: str = "",
) -> None:
    known = sorted(known)
    for name in given:
        where = f"{group}.extra.{prefix}{name}"
        if name in set_by_srlm and name in known:
            other = f"Use {set_by_srlm[name]} instead." if set_by_srlm[name] else "It has no option."
            raise ConfigError(f"{where} cannot be set: srlm sets this argument itself. {other}")
        if known and name not in known:
            near = difflib.get_close_matches(name, known, 3)
            names = near or known[:20]
            hint = f"Did you mean {' or '.join(names)}?" if near else f"It takes {', '.join(names)}."
            raise ConfigError(f"{where}: {library} has no argument {name}. {hint}")


def _fields(file: str, of_class: str) -> list[str]:
    """Return the annotated fields of a class in a library's source file; none where the library is not installed."""
    package, _, below = file.partition("/")
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        return []
    tree = ast.parse((Path(found.submodule_search_locations[0]) / below).read_text(encoding="utf-8"))
    [body] = [node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == of_class]
    fields = [node.target.id for node in body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)]
    return [name for name in fields if not name.startswith("_")]
