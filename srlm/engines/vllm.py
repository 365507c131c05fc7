"""The engine for vLLM.

On a GPU it is `AsyncLLM`, whose scheduler has a separate process; tensor and data parallelism are vLLM's. On a CPU
such a process would compete for the cores (on 2 cores: 30 % fewer tokens per second, twice the start-up time). So one
thread steps the engine in this process, unless vLLM's environment variable VLLM_ENABLE_V1_MULTIPROCESSING is 1 or there
are several copies of the model.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from srlm.engines.base import (
    Completion,
    Engine,
    Sampling,
    Usage,
    check_length,
    cut_to_limits,
    encode_request,
    with_thought,
)
from srlm.engines.config import VllmConfig
from srlm.errors import EngineError
from srlm.models.chat import Message, thought_marks
from srlm.models.chat_template import load_tokenizer, stop_token_ids
from srlm.models.config import ModelConfig
from srlm.ranges import resolved


async def start(config: VllmConfig, folder: Path, model: ModelConfig) -> Engine:
    """Start vLLM on a checkpoint.

    Raises
    ------
    EngineError
        If vLLM is not installed or cannot start with these options.
    """
    if importlib.util.find_spec("vllm") is None:
        raise EngineError(
            "engine=vllm, but vLLM is not installed. Install it (make setup EXTRA=cpu or EXTRA=cuda), or use "
            "engine=transformers, which is slower on a GPU."
        )
    import torch

    on_cpu = not torch.cuda.is_available()
    if on_cpu:
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", str(max(1, round(resolved(config.kv_cache_gib)))))
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        os.environ.setdefault("OMP_NUM_THREADS", str(config.threads or os.cpu_count() or 1))
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "1" if config.data_parallel_size > 1 else "0")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    options = _options(config, folder, model.trust_remote_code, on_cpu)
    try:
        if on_cpu and os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0":
            return _SteppedEngine(options, folder, model, resolved(config.max_model_len))
        return _AsyncEngine(options, folder, model, resolved(config.max_model_len))
    except (ValueError, RuntimeError) as error:
        if "memory" in str(error).lower():
            raise  # the worker reports it as "out of memory", with options to lower
        raise EngineError(f"vLLM could not start on {folder}: {error}") from error


def _options(config: VllmConfig, model: Path, trust_remote_code: bool, on_cpu: bool) -> dict[str, Any]:
    compiled = config.compile if config.compile is not None else not on_cpu
    return {
        "model": str(model),
        "tokenizer": str(model),
        "dtype": ("float32" if on_cpu else "bfloat16") if config.dtype == "auto" else config.dtype,
        "max_model_len": resolved(config.max_model_len),
        "max_num_seqs": resolved(config.max_concurrent),
        "enforce_eager": not compiled,
        "trust_remote_code": trust_remote_code,
        "disable_log_stats": True,
        "gpu_memory_utilization": config.gpu_memory_utilization,
        "tensor_parallel_size": config.tensor_parallel_size,
        "data_parallel_size": config.data_parallel_size,
        "generation_config": "vllm",  # ignore the checkpoint's sampling defaults
        "scheduling_policy": "priority",
        **(
            {
                "enable_chunked_prefill": False,  # seeded requests with chunked prefill fail on a CPU
                "max_num_batched_tokens": max(resolved(config.max_model_len), 4096),
                # A shared prefix is cached in whole blocks. With vLLM's 128 tokens for CPUs, judging was half as fast,
                # because each judgement recomputed the rest of its prompt. 32 is the smallest size.
                "block_size": 32,
            }
            if on_cpu
            else {}
        ),
        **config.extra,
    }


def check_finished(output: Any) -> None:
    """Raise an error if vLLM aborted a request, for example because its engine core was asked to end.

    Raises
    ------
    EngineError
        If a completion was aborted or failed. Its text, often empty, is not the model's answer.
    """
    reasons = {one.finish_reason for one in output.outputs} & {"abort", "error", None}
    if reasons:
        raise EngineError(
            f"vLLM ended a request before it was finished (finish_reason={reasons.pop()}): it was stopped "
            "or failed. Completed stages are saved. Rerun the same command to resume."
        )


class _VllmEngine:
    """The common part of both ways to run vLLM: convert requests and outputs."""

    def __init__(self, folder: Path, model: ModelConfig, max_model_len: int):
        self.tokenizer: Any = load_tokenizer(folder, model)
        self.stop_token_ids = stop_token_ids(self.tokenizer, folder)
        self.thoughts, self.max_model_len = thought_marks(self.tokenizer, model), max_model_len
        self._requests = 0
        self.failed = False  # whether vLLM ended or was stopped
        self.usage = Usage()

    async def generate(self, messages: Sequence[Message], sampling: Sampling, prefill: str = "") -> list[Completion]:
        from vllm import SamplingParams, TokensPrompt

        ids, allowed = encode_request(self.tokenizer, messages, prefill, sampling)
        thinks = not (prefill or allowed)
        longest = with_thought(sampling, self.thoughts) if thinks else sampling
        check_length(ids, longest, self.max_model_len)
        params = SamplingParams(
            n=sampling.n,
            temperature=sampling.temperature,
            top_p=sampling.top_p if sampling.temperature > 0 else 1.0,
            max_tokens=1 if allowed else longest.max_new_tokens,
            seed=sampling.seed,
            stop=list(sampling.stop) or None,
            stop_token_ids=self.stop_token_ids,  # by itself, vLLM uses only those of the checkpoint
            allowed_token_ids=allowed or None,
            logprob_token_ids=allowed or None,
        )
        self._requests += 1
        prompt = TokensPrompt(prompt_token_ids=ids)
        output = await self._run(str(self._requests), prompt, params, sampling.priority)
        try:
            check_finished(output)
        except EngineError:
            self.failed = True
            raise
        # Of several completions, vLLM reports the last one's cached tokens; the first may have had none.
        cached = output.num_cached_tokens or 0
        self.usage.add(len(ids) * sampling.n, cached * max(sampling.n - 1, 1))
        outputs = sorted(output.outputs, key=lambda one: one.index)
        completions = [
            Completion(
                text=one.text,
                tokens=len(one.token_ids),
                truncated=one.finish_reason == "length" and not allowed,
                prompt_tokens=len(ids),
                choice_logprobs=tuple(one.logprobs[0][token].logprob for token in allowed),
            )
            for one in outputs
        ]
        if not thinks:
            return completions
        return [
            cut_to_limits(completion, one.token_ids, self._decode, sampling, self.thoughts)
            for completion, one in zip(completions, outputs, strict=True)
        ]

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    async def _run(self, request_id: str, prompt: Any, params: Any, priority: int) -> Any:
        raise NotImplementedError


class _AsyncEngine(_VllmEngine):
    def __init__(self, options: dict[str, Any], folder: Path, model: ModelConfig, max_model_len: int):
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        super().__init__(folder, model, max_model_len)
        self._engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**options))

    async def _run(self, request_id: str, prompt: Any, params: Any, priority: int) -> Any:
        from vllm.sampling_params import RequestOutputKind
        from vllm.v1.engine.exceptions import EngineDeadError

        params.output_kind = RequestOutputKind.FINAL_ONLY
        try:
            outputs = [output async for output in self._engine.generate(prompt, params, request_id, priority=priority)]
        except EngineDeadError as error:
            self.failed = True
            raise EngineError(
                "vLLM ended, most likely out of memory. Lower engine.max_concurrent or engine.gpu_memory_utilization. "
                "Finished records are saved. Rerun the same command to resume."
            ) from error
        return outputs[-1]

    async def close(self) -> None:
        # If one engine has failed, vLLM waits for the others' requests. The coordinator kills them instead.
        if not self.failed:
            self._engine.shutdown()


class _SteppedEngine(_VllmEngine):
    """`LLMEngine` in this process: one thread steps it, and requests are coroutines."""

    def __init__(self, options: dict[str, Any], folder: Path, model: ModelConfig, max_model_len: int):
        import torch
        from vllm.engine.arg_utils import EngineArgs
        from vllm.v1.engine.llm_engine import LLMEngine

        super().__init__(folder, model, max_model_len)
        # On a CPU, vLLM replaces this function by one that does nothing, also for code that runs after the engine.
        set_num_threads = torch.set_num_threads
        try:
            self._engine = LLMEngine.from_engine_args(EngineArgs(**options))
        finally:
            torch.set_num_threads = set_num_threads
        self._waiting: dict[str, tuple[asyncio.Future[Any], asyncio.AbstractEventLoop]] = {}
        self._arrived: list[tuple[str, Any, Any, int]] = []
        self._wake = threading.Condition()
        self._failure: BaseException | None = None
        self._closing = False
        self._thread = threading.Thread(target=self._step_forever, daemon=True, name="vllm-step")
        self._thread.start()

    async def _run(self, request_id: str, prompt: Any, params: Any, priority: int) -> Any:
        from vllm.sampling_params import RequestOutputKind

        params.output_kind = RequestOutputKind.FINAL_ONLY
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        with self._wake:
            if self._failure is not None:
                raise self._failure
            self._waiting[request_id] = (future, loop)
            self._arrived.append((request_id, prompt, params, priority))
            self._wake.notify()
        return await future

    def _step_forever(self) -> None:
        try:
            while True:
                with self._wake:
                    while not (self._arrived or self._waiting or self._closing):
                        self._wake.wait()
                    if self._closing:
                        return
                    arrived, self._arrived = self._arrived, []
                for request_id, prompt, params, priority in arrived:
                    self._engine.add_request(request_id, prompt, params, priority=priority)
                for output in self._engine.step():
                    if output.finished:
                        self._resolve(output.request_id, output, None)
        except BaseException as error:
            with self._wake:
                self._failure = error
                waiting = list(self._waiting)
            for request_id in waiting:
                self._resolve(request_id, None, error)

    def _resolve(self, request_id: str, output: Any, error: BaseException | None) -> None:
        with self._wake:
            future, loop = self._waiting.pop(request_id)

        def settle() -> None:
            if not future.done():
                future.set_exception(error) if error else future.set_result(output)

        loop.call_soon_threadsafe(settle)

    async def close(self) -> None:
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join(timeout=30)
