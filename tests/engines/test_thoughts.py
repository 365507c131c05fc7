"""Thoughts have a budget of tokens of their own (`model.max_thought_tokens`), in every engine."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from srlm.cli.check import check
from srlm.engines.base import Completion, Sampling, cut_to_limits
from srlm.engines.config import EndpointConfig, EngineConfig
from srlm.engines.dependencies import generation_options
from srlm.engines.openai_server import EndpointEngine
from srlm.engines.transformers import TransformersEngine
from srlm.errors import ConfigError, PromptTooLongError
from srlm.models.chat import ThoughtMarks
from srlm.models.chat_template import template_variables
from srlm.models.config import ModelConfig
from srlm.pipeline.roles import ENDPOINT
from tests.engines.local_server import completion
from tests.helpers import options, user

MARKS = ThoughtMarks(budget=6)
ANSWER = Sampling(0.0, 1.0, 4, seed=0)


def cut(text: str, marks: ThoughtMarks = MARKS, sampling: Sampling = ANSWER, truncated: bool = False) -> Completion:
    """Cut a completion with one token per character of `text`, and one for each mark."""
    tokens, rest = [], text
    while rest:
        token = next((mark for mark in ("<think>", "</think>") if rest.startswith(mark)), rest[0])
        tokens.append(token)
        rest = rest.removeprefix(token)
    whole = Completion(text, len(tokens), truncated)
    return cut_to_limits(whole, range(len(tokens)), lambda ids: "".join(tokens[i] for i in ids), sampling, marks)


@pytest.mark.parametrize(("text", "thought", "answer", "truncated"), [
    ("<think>abcd</think>efgh", "<think>abcd</think>", "efgh", False),  # exactly both limits
    ("<think>abcd</think>efghi", "<think>abcd</think>", "efgh", True),  # the answer is too long
    ("<think></think>efghijkl", "<think></think>", "efgh", True),  # unused tokens of the thought are not the answer's
    ("<think>abcde</think>fg", "<think>abcde", "", True),  # the thought is too long
    ("<think>abcdefghijk", "<think>abcde", "", True),  # and does not end
    ("abcdefgh", "", "abcd", True),  # no thought
    ("abc", "", "abc", False),
], ids=str)  # fmt: skip
def test_thought_and_answer_have_their_own_limits(text: str, thought: str, answer: str, truncated: bool) -> None:
    found = cut(text)
    assert (found.thought, found.text, found.truncated) == (thought, answer, truncated)
    assert found.tokens <= MARKS.budget + ANSWER.max_new_tokens


def test_thought_that_the_model_ends_without_an_answer_is_not_cut() -> None:
    found = cut("<think>abc")
    assert (found.thought, found.text, found.truncated) == ("<think>abc", "", False)


def test_without_a_budget_one_limit_holds_for_both() -> None:
    found = cut("<think>abcdefghijk</think>lmnopqr", ThoughtMarks(), truncated=True)
    assert (found.thought, found.text, found.truncated) == ("<think>abcdefghijk</think>", "lmnopqr", True)


def test_stop_within_the_limit_ends_the_answer() -> None:
    found = cut("<think>a</think>b\nxyzuvw", sampling=Sampling(0.0, 1.0, 4, seed=0, stop=("\n",)))
    assert (found.text, found.truncated) == ("b", False)


def test_opened_thought_and_own_marks() -> None:
    assert cut("abcd</think>ef", ThoughtMarks(opened=True, budget=6)).text == "ef"
    assert cut("abcdefg</think>ef", ThoughtMarks(opened=True, budget=6)).thought == "abcdef"


def test_local_engine_generates_thought_and_answer(tiny_checkpoint: Path) -> None:
    def texts(limit: int, thought: int, length: int = 512) -> list[Completion]:
        async def ask() -> list[Completion]:
            given = ModelConfig(max_thought_tokens=thought)
            engine = TransformersEngine(EngineConfig(max_model_len=length, max_concurrent=4), tiny_checkpoint, given)
            try:
                return await engine.generate(user("Name a river."), Sampling(0.7, 1.0, limit, seed=1, n=2))
            finally:
                await engine.close()

        return asyncio.run(ask())

    without = texts(6, 0)
    assert [one.text for one in texts(6, 20)] == [one.text for one in without], "the model does not think"
    with pytest.raises(PromptTooLongError):
        texts(6, 500)


def answers_of(server: Any, tmp_path: Path, prefill: str = "", **given: Any) -> list[Completion]:
    async def run() -> list[Completion]:
        config = EndpointConfig(base_url=server.url, model="m", **given)
        model = ModelConfig(max_thought_tokens=30, chat_template_kwargs={"enable_thinking": True})
        variables = template_variables(model)
        engine = EndpointEngine(config, tmp_path / "ledger.jsonl", ThoughtMarks(budget=30), variables)
        try:
            return await engine.generate(user("Hello"), Sampling(0.7, 1.0, 20, seed=0), prefill)
        finally:
            await engine.close()

    return asyncio.run(run())


def test_server_gets_both_limits_and_the_variables_of_its_template(serve: Any, tmp_path: Path) -> None:
    server = serve(lambda body: completion(f"{body['max_tokens']} {body['chat_template_kwargs']}"))
    [found] = answers_of(server, tmp_path)
    assert found.text == "50 {'date_string': '26 Jul 2024', 'enable_thinking': True}"
    [found] = answers_of(server, tmp_path, extra={"chat_template_kwargs": {"enable_thinking": False}})
    assert "'enable_thinking': False" in found.text, "endpoint.extra has priority"
    [found] = answers_of(server, tmp_path, "Score:")
    assert found.text.startswith("20 "), "a begun reply has no thought"


def test_text_depends_on_the_variables_that_a_server_gets() -> None:
    server = ("endpoint.base_url=http://127.0.0.1:1/v1", "endpoint.model=m")
    plain = generation_options(options(*server), ENDPOINT)
    assert "model.template_date" not in plain
    found = generation_options(options(*server, "endpoint=vllm", "model.max_thought_tokens=9"), ENDPOINT)
    assert found["endpoint.template_variables"] is True
    assert found["model.template_date"] == "2024-07-26"
    assert found["model.max_thought_tokens"] == 9


def test_context_must_hold_thought_and_answer() -> None:
    config = options()
    config.model.max_thought_tokens = 1919
    check(config)
    config.model.max_thought_tokens = 1920
    with pytest.raises(ConfigError, match=r"=128 is invalid: .* and model\.max_thought_tokens=1920"):
        check(config)
