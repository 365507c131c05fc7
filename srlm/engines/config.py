"""Options of engines and of OpenAI-compatible servers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

from srlm.ranges import DTYPES, SHARE, TEMPERATURE, Range, above, at_least, one_of


@dataclass
class EngineConfig:
    """The engine that generates text with the models of the run. These are the options that every engine has."""

    kind: str = "transformers"  # `engine` sets it: vllm, transformers or module:Class
    # auto = float32 on a CPU, bfloat16 on a GPU (float16 on one without bfloat16)
    dtype: Annotated[str, one_of(*DTYPES)] = "auto"
    # tokens, prompt and completion together; unset = by the model and the hardware
    max_model_len: Annotated[int | None, at_least(64)] = None
    max_concurrent: Annotated[int | None, at_least(1)] = None  # sequences decoded at once; unset = by the hardware
    threads: Annotated[int, at_least(0)] = 0  # CPU threads for engine and trainer; 0 = OMP_NUM_THREADS, or all cores
    # further arguments by name: of vLLM's AsyncEngineArgs ({kv_cache_dtype: fp8}), or of transformers' from_pretrained
    # ({attn_implementation: sdpa})
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass
class VllmConfig(EngineConfig):
    """vLLM, which generates fastest and uses several GPUs."""

    kind: str = "vllm"  # `engine` sets it
    # CPU only: memory for the key-value cache, GiB; unset = by the model and the memory
    kv_cache_gib: Annotated[float | None, above(0, " GiB")] = None
    gpu_memory_utilization: Annotated[float, SHARE] = 0.9  # GPU only: share of memory that the engine may take
    tensor_parallel_size: Annotated[int, at_least(1)] = 1  # GPUs that a model is split over
    data_parallel_size: Annotated[int, at_least(1)] = 1  # copies of the model
    # torch.compile and CUDA graphs; unset = off on a CPU (the start takes minutes), on on a GPU
    compile: bool | None = None


# `engine.kind` -> its options. The yaml files in conf/engine name a dataclass by NAME_options.
ENGINE_OPTIONS: dict[str, type[EngineConfig]] = {"vllm": VllmConfig, "transformers": EngineConfig}


def options_type(kind: str) -> type[EngineConfig]:
    """Return the dataclass of the options of the engine that `engine.kind` names.

    Raises
    ------
    ConfigError
        If there is no such engine.
    """
    from srlm.engines import external_engine

    external = external_engine(kind)
    return external.options_type if external else ENGINE_OPTIONS[kind]


@dataclass
class EndpointConfig:
    """An OpenAI-compatible server, as prompt writer (`prompts.model`) or judge (`judge.model`, `evaluation.judge`)."""

    base_url: str = ""  # such as http://127.0.0.1:8000/v1
    model: str = ""  # the server's name for the model
    api_key_env: str = "OPENAI_API_KEY"  # environment variable that holds the key; the key itself is never stored
    max_concurrent: Annotated[int, at_least(1)] = 16  # concurrent requests
    timeout_s: Annotated[float, above(0, " seconds")] = 120.0  # seconds for one request
    retries: Annotated[int, at_least(0)] = 5  # retries after the first try, with growing pauses
    requests_per_minute: Annotated[float, at_least(0)] = 0.0  # 0 = as fast as it answers
    cache: bool = True  # answers are stored, and a request that was answered once is not sent again
    # sent instead of each request's own, for models that accept one value only; unset = as requested
    temperature: Annotated[float | None, Range(TEMPERATURE.holds, f"{TEMPERATURE.allowed}, or null")] = None
    logprobs: bool = True  # the server returns probabilities (top_logprobs); false: verdicts are read from the text
    # the server passes variables to its chat template (vLLM's and llama.cpp's chat_template_kwargs): it gets those of
    # model.chat_template_kwargs, and model.template_date as date_string
    template_variables: bool = False
    prefill: bool = False  # the server continues a begun reply (vLLM's continue_final_message)
    # further fields of each request by name: {reasoning_effort: low}, {chat_template_kwargs: {enable_thinking: false}}
    extra: dict[str, Any] = field(default_factory=dict)
    input_price: Annotated[float, at_least(0)] = 0.0  # of a million prompt tokens, in your currency, for the run's log
    output_price: Annotated[float, at_least(0)] = 0.0  # of a million completion tokens
    budget: Annotated[float, at_least(0)] = 0.0  # stop when the run has spent this much; 0 = no limit
