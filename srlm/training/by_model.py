"""Options that follow the model and the hardware: their values, and why.

An option of this table that is unset (null; `auto` for a precision) gets its value here, before anything else of a
command runs. A value that is set is kept. A run stores the values in its config.yaml, and continues with these, also
on other hardware.

- `learning_rate`: `LEARNING_RATES`, by parameters, and for LoRA or full fine-tuning; see below.
- `min_learning_rate`: a tenth of `learning_rate`.
- `epochs`: SFT 5 below 300M parameters, otherwise 3, which is TRL's default; a reward model 2 below 300M parameters,
  otherwise 1, because it overfits in a second epoch (arXiv 2203.02155, appendix C.2); DPO and KTO 1, but DPO of the
  last third of the layers 2.
- `batch_size`: 16, the paper's (arXiv 2401.10020, section 3.1.1); below 300M parameters 4 (KTO and the reward model 8),
  which gives a small model more steps.
- `micro_batch_size`: on a GPU as many examples as the memory holds; on a CPU `CPU_MICRO_BATCH`, because more are not
  faster there, and from 300M parameters on fewer if the memory requires it.
- `gradient_checkpointing`: on if less than a quarter of the batch fits into the memory without it (on a CPU: not one
  example); never below 300M parameters on a CPU.
- `max_length`: 1024 tokens on a CPU, 2048 on a GPU, at most the model's positions.
- `dtype`: bfloat16 if the hardware computes in it; otherwise float16 on a GPU, float32 on a CPU.
- `lora.last_n_layers`: all; below 300M parameters on a CPU, SFT, the reward model and DPO adapt the last third, because
  the layers below then run once per sequence. DPO's learning rate is then 2.5e-4 for two epochs: with 5e-4, the
  model becomes a worse judge. With `sft.eft_loss=ranking`, SFT adapts the last two thirds at half the
  learning rate: the judge then orders 88 % instead of 78 % of held-out answers (135M, the built-in set `facts`).
- `engine.max_model_len`: 2048 tokens on a CPU, 4096 on a GPU, at most the positions of every model that is used.
- `engine.max_concurrent`: 64 on a CPU; 256 on a GPU, vLLM's default.
- `engine.kv_cache_gib`: 16 sequences of `max_model_len`, at least 2 GiB, at most a quarter of the memory.
- `engine.dtype`: float16 on a GPU that does not compute in bfloat16. Otherwise `auto` stays, which has a meaning of
  its own: bfloat16 on a GPU, but float32 where likelihoods are compared, and on a CPU.
- `data.ift.limit`: 64 rows of the built-in set on a CPU, where training on more takes too long for a first run;
  otherwise all.

Sources of the learning rates. LoRA: those of the default run are measured (135M); 2e-4 for SFT up to 20B and 1e-4 above
are QLoRA's (arXiv 2305.14314, appendix B); 5e-6 for DPO is that of TRL's script and of Zephyr; between these sizes they
are interpolated, because the best learning rate of LoRA falls with the model's width. Full fine-tuning: 5.5e-6 and 1e-6
above 20B are the paper's (70B); 2e-5 for SFT, 1e-5 for reward models and 1e-6 for DPO and KTO are TRL's. LoRA is the
default at every size: it needs an eighth of the memory, and learns as much from data sets of this size.

The memory of a training is estimated from its weights (LoRA: 2 bytes per parameter on a GPU, 4 on a CPU, 1.1 with
lora.quantize=8bit, 0.6 with 4bit; full fine-tuning with AdamW: 16) and its activations: 34 bytes per token, layer and
unit of width in bfloat16 without checkpointing, 2 with it (arXiv 2205.05198, section 4), and 12 bytes per token and
logit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from srlm.config import C, Config
from srlm.engines.config import VllmConfig
from srlm.engines.hardware import Hardware
from srlm.models.facts import SMOLLM2_135M, ModelFacts
from srlm.training.config import TrainConfig
from srlm.training.methods import METHODS, OWN, group_of, method_of
from srlm.training.methods.sft import EFTLoss, SFTConfig

SIZES = (0.3e9, 1e9, 4e9, 20e9)  # parameters: below the first, up to the next, ..., from the last on
# method -> with LoRA, and of full fine-tuning -> by size
LEARNING_RATES: Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "sft": ((2e-3, 5e-4, 2e-4, 2e-4, 1e-4), (1e-4, 5e-5, 2e-5, 1e-5, 5.5e-6)),
    "reward_model": ((1e-3, 3e-4, 1e-4, 1e-4, 1e-4), (1e-5, 1e-5, 1e-5, 1e-5, 1e-5)),
    "dpo": ((2e-4, 5e-5, 2e-5, 5e-6, 5e-6), (1e-6, 1e-6, 1e-6, 1e-6, 1e-6)),
    "kto": ((2e-4, 5e-5, 2e-5, 5e-6, 5e-6), (1e-6, 1e-6, 1e-6, 1e-6, 1e-6)),
}
EPOCHS = {"sft": (5.0, 3.0), "reward_model": (2.0, 1.0), "dpo": (1.0, 1.0), "kto": (1.0, 1.0)}  # small, larger models
BATCH_SIZES = {"sft": (4, 16), "reward_model": (8, 16), "dpo": (4, 16), "kto": (8, 16)}
CPU_MICRO_BATCH = {"sft": 4, "reward_model": 8, "dpo": 2, "kto": 4}
SEQUENCES = {"sft": 1, "reward_model": 2, "dpo": 2, "kto": 2}  # of one example; KTO's answer also to another prompt
ON_LAST_LAYERS = ("sft", "reward_model", "dpo")
DPO_OF_LAST_LAYERS = (2.5e-4, 2.0)  # learning rate, epochs
LIKE = "dpo"  # the row of a method from outside the package with options of its own
_GIB = 2**30


@dataclass(frozen=True)
class Choice:
    """The values that were chosen for the unset options of one group.

    Attributes
    ----------
    group : str
        Such as "sft".
    values : mapping
        Option in the group -> value.
    reason : str
    """

    group: str
    values: Mapping[str, Any]
    reason: str

    def __str__(self) -> str:
        return f"{self.group}: {', '.join(f'{name}={_shown(value)}' for name, value in self.values.items())}"


def unset_options(config: Config) -> list[str]:
    """Return the dotted names of the options that follow the model and have no value."""
    groups = [*METHODS, *([OWN] if _own(config) else [])]
    found = [f"{group}.{name}" for group in groups for name in _unset(_options(config, group))]
    found += [f"engine.{name}" for name in _unset_in_engine(config) if name != "dtype"]  # `auto` is a value of it
    return found + (["data.ift.limit"] if config.data.ift.limit is None else [])


def resolve(
    config: C, models: Sequence[ModelFacts], hardware: Hardware, stored: Mapping[str, Any] | None = None
) -> tuple[C, list[Choice]]:
    """Return the options with a value for each that follows the model, and what was chosen.

    Parameters
    ----------
    models : sequence of ModelFacts
        The model that is trained first, then others that the command uses. Empty = not known: the values are those of
        a 7B model.
    stored : mapping, optional
        A run's config.yaml, as nested dicts; its values have priority over the table.
    """
    config = dataclasses.replace(config)
    trained = models[0] if models else ModelFacts(7_000_000_000, 32, 4096, 32_000, 65_536)
    choices = []
    for group in (*METHODS, *([OWN] if _own(config) else [])):
        options, unset = _options(config, group), _unset(_options(config, group))
        known, table = _still_valid(_stored(stored, group), options), TrainingTable(group, options, trained, hardware)
        values = {name: _first(known.get(name), value) for name, value in table.values(known) if name in unset}
        if values:
            choices.append(Choice(group, values, table.reason))
            if group == OWN:
                config.method_options = _nested_in(config.method_options, values)
            else:
                setattr(config, group, _with(options, values))
    known = _stored(stored, "engine")
    chosen = _engine_values(config, models or [trained], hardware)
    values = {name: _first(known.get(name), value) for name, value in chosen}
    if values:
        where = "GPU" if hardware.gpus else "CPU"
        choices.append(Choice("engine", values, f"{where}; {_size(trained)}"))
        config.engine = replace(config.engine, **values)
    if config.data.ift.limit is None:
        kept = _stored(stored, "data").get("ift.limit")
        few = config.data.ift.path == "builtin" and not hardware.gpus
        limit = _first(kept, 64 if few else 0)
        config.data = replace(config.data, ift=replace(config.data.ift, limit=limit))
        if limit:
            choices.append(Choice("data", {"ift.limit": limit}, "built-in data on a CPU"))
    return config, choices


def for_default_run(config: C) -> C:
    """Return the options with the values that the packaged model has on a CPU without bfloat16, for documentation."""
    return resolve(config, [SMOLLM2_135M], Hardware())[0]


def lines(choices: Sequence[Choice], groups: Sequence[str]) -> Iterator[str]:
    """Yield a line for each of these groups with what was chosen and why."""
    for choice in choices:
        if choice.group in groups:
            yield f"{choice} ({choice.reason})"


@dataclass(frozen=True)
class TrainingTable:
    """The values of one training's options, from this module's table."""

    group: str
    options: TrainConfig
    model: ModelFacts
    hardware: Hardware

    @property
    def row(self) -> str:
        return self.group if self.group in METHODS else LIKE

    @property
    def small(self) -> bool:
        return self.model.parameters < SIZES[0]

    @property
    def _ranks(self) -> bool:
        """Whether a small model learns to rank answers by LoRA on a CPU, for which the last third is too little."""
        return self._compares and self._on_last_layers

    @property
    def _compares(self) -> bool:
        """Whether the ranking loss compares answers, of which a micro-batch then has two or more."""
        return isinstance(self.options, SFTConfig) and self.options.eft_loss is EFTLoss.ranking

    @property
    def _on_last_layers(self) -> bool:
        """Whether LoRA adapts the last layers only."""
        return self.options.lora.enabled and self.small and not self.hardware.gpus and self.group in ON_LAST_LAYERS

    @property
    def reason(self) -> str:
        how = "LoRA" if self.options.lora.enabled else "full fine-tuning"
        return f"{how} of {_size(self.model)} on a {'GPU' if self.hardware.gpus else 'CPU'}"

    def values(self, known: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
        """Yield (option, value), in an order in which later values depend on earlier ones.

        `known` has the values that a run has stored.
        """
        options, model, on_gpu = self.options, self.model, bool(self.hardware.gpus)
        size = sum(model.parameters >= limit for limit in SIZES)

        def first(name: str, value: Any) -> Any:
            own = getattr(options, name)
            return _first(own, _first(known.get(name), value))

        rate = LEARNING_RATES[self.row][not options.lora.enabled][size] / (2 if self._ranks else 1)
        epochs = EPOCHS[self.row][not self.small]
        if self.group == "dpo" and self._on_last_layers and model.layers and options.lora.last_n_layers != 0:
            rate, epochs = DPO_OF_LAST_LAYERS
        rate = first("learning_rate", rate)
        yield "learning_rate", rate
        yield "min_learning_rate", float(f"{rate / 10:.6g}")
        yield "epochs", epochs
        max_length = first("max_length", min(2048 if on_gpu else 1024, model.positions or 2048))
        yield "max_length", max_length
        batch = first("batch_size", None)
        share = -(-(batch or BATCH_SIZES[self.row][not self.small]) // options.processes)
        fits = self._fits(max_length, checkpointing=False)
        least = max(1, share // 4) if on_gpu else 1
        checkpointing = first("gradient_checkpointing", fits < least and not (self.small and not on_gpu))
        yield "gradient_checkpointing", checkpointing
        most = self._fits(max_length, checkpointing) if on_gpu or not self.small else share
        most = max(1, most if on_gpu else min(most, CPU_MICRO_BATCH[self.row]))
        if self.row == "kto" or self._compares:  # KTO also pairs a prompt with another prompt's answer
            most = max(2, most)
        micro = first(
            "micro_batch_size", max(size for size in range(1, share + 1) if share % size == 0 and size <= most)
        )
        yield "micro_batch_size", micro
        yield "batch_size", batch or -(-share // micro) * micro * options.processes
        layers = max(1, round(model.layers * (2 if self._ranks else 1) / 3))
        yield "lora.last_n_layers", layers if self._on_last_layers and model.layers else 0
        yield "dtype", _dtype(self.hardware)

    def _fits(self, max_length: int, checkpointing: bool) -> int:
        """Return how many examples of a micro-batch fit into the memory; at least 0."""
        model, options, on_gpu = self.model, self.options, bool(self.hardware.gpus)
        if not (self.hardware.memory_gib and model.layers):
            return 1
        wide = 1 if self.hardware.bf16 or on_gpu else 2  # float32 takes twice the memory of bfloat16
        of_weights = {"4bit": 0.6, "8bit": 1.1}.get(options.lora.quantize, 2 if on_gpu else 4)
        of_weights = of_weights if options.lora.enabled else 16
        free = 0.85 * self.hardware.memory_gib * _GIB - of_weights * model.parameters
        layers = 2 * model.layers + 34 if checkpointing else 34 * model.layers
        each = max_length * SEQUENCES[self.row] * (wide * layers * model.hidden + 12 * model.vocabulary)
        return max(0, int(free // each))


def _engine_values(config: Config, models: Sequence[ModelFacts], hardware: Hardware) -> Iterator[tuple[str, Any]]:
    """Yield (option, value) of the engine's unset options."""
    unset, on_gpu = _unset_in_engine(config), bool(hardware.gpus)
    limits = [model.positions for model in models if model.positions]
    length = config.engine.max_model_len or min([4096 if on_gpu else 2048, *limits])
    # 4 bytes for each number: on a CPU, the engine computes in float32
    wanted = 16 * length * 4 * max(model.cached for model in models) / _GIB
    limit = hardware.memory_gib / 4 or wanted
    found = {
        **({"dtype": "float16"} if on_gpu and not hardware.bf16 else {}),
        "max_model_len": length,
        "max_concurrent": 256 if on_gpu else 64,
        "kv_cache_gib": float(max(2, round(min(wanted, limit)))),
    }
    yield from ((name, value) for name, value in found.items() if name in unset)


def _dtype(hardware: Hardware) -> str:
    return "bfloat16" if hardware.bf16 else "float16" if hardware.gpus else "float32"


def _own(config: Config) -> bool:
    """Return whether `method` has options in no group of the package."""
    return group_of(method_of(config)) == OWN


def _options(config: Config, group: str) -> TrainConfig:
    found: TrainConfig = config.training if group == OWN else getattr(config, group)
    return found


_FOLLOWING = (
    *("learning_rate", "min_learning_rate", "epochs", "max_length", "gradient_checkpointing", "micro_batch_size"),
    *("batch_size", "lora.last_n_layers", "dtype"),
)


def _unset(options: TrainConfig) -> list[str]:
    def value(name: str) -> Any:
        return options.lora.last_n_layers if name == "lora.last_n_layers" else getattr(options, name)

    return [name for name in _FOLLOWING if value(name) in (None, "auto")]


def _unset_in_engine(config: Config) -> list[str]:
    names = ["dtype", "max_model_len", "max_concurrent"]
    names += ["kv_cache_gib"] if isinstance(config.engine, VllmConfig) else []
    return [name for name in names if getattr(config.engine, name) in (None, "auto")]


def _with(options: Any, values: Mapping[str, Any]) -> Any:
    own = {name: value for name, value in values.items() if "." not in name}
    if "lora.last_n_layers" in values:
        own["lora"] = replace(options.lora, last_n_layers=values["lora.last_n_layers"])
    return replace(options, **own)


def _nested_in(given: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    found = dict(given)
    for name, value in values.items():
        group, _, last = name.rpartition(".")
        if group:
            found[group] = dict(found.get(group) or {}) | {last: value}
        else:
            found[last] = value
    return found


def _stored(stored: Mapping[str, Any] | None, group: str) -> dict[str, Any]:
    """Return the values of a group in a run's config.yaml, with the names of inner groups."""
    found: dict[str, Any] = {}
    for name, value in ((stored or {}).get(group) or {}).items():
        found |= (
            {f"{name}.{last}": inner for last, inner in value.items()} if isinstance(value, dict) else {name: value}
        )
    return found


def _first(value: Any, other: Any) -> Any:
    return other if value is None else value


def _still_valid(known: dict[str, Any], options: TrainConfig) -> dict[str, Any]:
    """Return a run's values without those that follow from one which is set to another value now."""

    def changed(name: str) -> bool:
        value = getattr(options, name)
        return name in known and value is not None and value != known[name]

    follow = {"min_learning_rate"} if changed("learning_rate") else set()
    follow |= {"micro_batch_size"} if changed("batch_size") or changed("processes") else set()
    return {name: value for name, value in known.items() if name not in follow}


def _size(model: ModelFacts) -> str:
    number = model.parameters
    return f"{number / 1e9:.3g}B parameters" if number >= 1e9 else f"{number / 1e6:.3g}M parameters"


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)
