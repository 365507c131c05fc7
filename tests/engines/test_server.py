"""srlm.engines.server, .responses and .parameters: misbehaving servers, with the real client."""

from __future__ import annotations

import asyncio
import email.utils
import json
import math
import sqlite3
import time

import pytest

from srlm.engines import server as requests
from srlm.engines.cost import AnswerCache
from srlm.engines.parameters import refused
from srlm.engines.responses import BadResponseError, check_response, parse_response
from srlm.errors import EngineError, NoAnswerError, PromptTooLongError
from srlm.judges.config import SampledJudgeConfig
from srlm.judges.pairwise import compare
from srlm.judges.pointwise import judge
from srlm.judges.prompt import JudgeTemplate
from srlm.types import Candidate
from tests.engines.local_server import KEY, Raw, asked, completion, hello
from tests.helpers import options, user


def changed(**message_or_choice):
    """Return a response whose only choice or message has these values."""
    answer = completion("hi")
    choice = {**answer["choices"][0], "message": dict(answer["choices"][0]["message"])}
    for name, value in message_or_choice.items():
        target = choice["message"] if name in ("content", "refusal", "reasoning_content", "reasoning") else choice
        target[name] = value
    return answer | {"choices": [choice]}


def tops(logprob):
    return {"content": [{"token": "4", "logprob": -0.1, "top_logprobs": [{"token": "4", "logprob": logprob}]}]}


BAD = {
    "choices null": completion("hi") | {"choices": None},
    "choices empty": completion("hi") | {"choices": []},
    "choices missing": {"id": "x", "object": "chat.completion"},
    "choices an object": completion("hi") | {"choices": {"0": "hi"}},
    "choice null": completion("hi") | {"choices": [None]},
    "choice a string": completion("hi") | {"choices": ["hi"]},
    "message null": changed(message=None),
    "message a string": changed(message="hi"),
    "content null": changed(content=None),
    "content null after reasoning": changed(content=None, reasoning_content="Let me think."),
    "content a number": changed(content=4),
    "content an object": changed(content={"text": "hi"}),
    "content parts without text": changed(content=[{"type": "image_url", "image_url": "x"}]),
    "finish_reason null": changed(finish_reason=None),
    "finish_reason a number": changed(finish_reason=1),
    "the server gave up": changed(finish_reason="error"),
    "an error beside a text": completion("hi") | {"error": {"message": "the upstream server ended early"}},
    "an error in a choice": changed(error={"code": 502, "message": "upstream"}),
    "a probability that is NaN": changed(logprobs=tops(math.nan)),
    "a probability that is infinite": changed(logprobs=tops(math.inf)),
    "a probability that is null": changed(logprobs=tops(None)),
    "an error with status 200": {"error": {"message": "overloaded", "code": 503}},
    "a list": [completion("hi")],
    "a string": "hi",
    "null": None,
    "HTML": Raw(200, b"<html>Bad gateway</html>", {"Content-Type": "text/html"}),
    "half of the JSON": Raw(200, json.dumps(completion("hi")).encode()[:90]),
    "fewer bytes than announced": Raw(200, b'{"choices": [', missing=50),
    "nothing": Raw(200, b""),
    "deep nesting": Raw(200, b"[" * 100_000),
    "no UTF-8": Raw(200, b'{"choices": "\xff\xfe"}'),
    "status 500": Raw(500, b"oops"),
    "status 502 with HTML": Raw(502, b"<html>", {"Content-Type": "text/html"}),
    "status 429": Raw(429, {"error": {"message": "slow down"}}),
    "status 408": Raw(408, {}),
}


def rows(tmp_path) -> int:
    with sqlite3.connect(tmp_path / "cache/endpoint_answers.sqlite3") as database:
        return int(database.execute("SELECT count(*) FROM answers").fetchone()[0])


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
def test_unusable_responses_are_retried_and_not_cached(serve, tmp_path, bad):
    sent = []

    def reply(body):
        sent.append(body)
        return bad if len(sent) < 3 else completion("hi")

    server = serve(reply)
    [[answer]], _ = asked(server, tmp_path, hello())
    assert (answer.text, len(sent), rows(tmp_path)) == ("hi", 3, 1)
    [[answer]], engine = asked(server, tmp_path, hello())
    assert (answer.text, len(sent)) == ("hi", 3)
    assert engine.ledger.rows[-1].from_cache


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
def test_only_unusable_responses_raise_with_server_and_model(serve, tmp_path, bad):
    server = serve(lambda body: bad)
    with pytest.raises(EngineError) as caught:
        asked(server, tmp_path, hello())
    message = str(caught.value)
    assert not isinstance(caught.value, NoAnswerError)
    for part in (server.url, "endpoint.model=m", "3 tries", "endpoint.base_url", "Rerun the same command"):
        assert part in message
    assert len(message) < 900
    assert len(server.requests) == 4  # three tries, and a simple request to check the server
    assert rows(tmp_path) == 0


def test_slow_responses_time_out(serve, tmp_path):
    slow = Raw(200, completion("hi"), pause=0.05)
    server = serve(lambda body: slow if len(server.requests) == 1 else completion("in time"))
    [[answer]], _ = asked(server, tmp_path, hello(), timeout_s=0.5)
    assert (answer.text, len(server.requests), rows(tmp_path)) == ("in time", 2, 1)
    server = serve(lambda body: slow)
    with pytest.raises(EngineError, match=r"no complete response in endpoint\.timeout_s=0\.3"):
        asked(server, tmp_path, hello(seed=1), timeout_s=0.3, retries=0)


def test_errors_show_the_response_without_the_key(serve, tmp_path):
    server = serve(lambda body: Raw(200, f"<html>Hello {KEY}, {'long ' * 500}</html>".encode()))
    with pytest.raises(EngineError, match=r"Hello \*\*\*, long") as caught:
        asked(server, tmp_path, hello(), retries=0)
    assert KEY not in str(caught.value)


def of_judge(text):
    """Return a job that judges a candidate with this text twice."""
    config = SampledJudgeConfig(count=2)
    candidate = Candidate(f"p/{text}", "p", text, 3, False)
    return lambda engine: judge(engine, JudgeTemplate.load(config), config, 0, "Name a river.", candidate, 2)


def test_unusable_responses_to_one_request_give_missing_judgements(serve, tmp_path):
    """The run continues, since the server answers a simple request."""

    def reply(body):
        poisoned = "Poison" in body["messages"][0]["content"]
        return BAD["choices null"] if poisoned else completion("Good.\nScore: 4", n=body["n"])

    server = serve(reply)
    [bad, good], _ = asked(server, tmp_path, of_judge("Poison"), of_judge("Nile"))
    assert [j.score for j in good] == [4.0, 4.0]
    assert [(j.id, j.score) for j in bad] == [("p/Poison/j0", None), ("p/Poison/j1", None)]
    assert bad[0].problem.startswith("no answer: no usable response in 3 tries from m: no list of choices")
    [bad], _ = asked(server, tmp_path, of_judge("Poison"))
    assert [j.score for j in bad] == [None, None]


def test_comparisons_without_a_usable_response_are_missing(serve, tmp_path):
    server = serve(lambda body: completion("hi") if "Say yes." in str(body) else BAD["HTML"])
    [found], _ = asked(server, tmp_path, lambda engine: compare(engine, "m", "p", "ab", user("Which?")))
    assert (found.winner, found.problem.split(":")[0]) == (None, "no answer")


@pytest.mark.parametrize(
    "withheld",
    [
        changed(finish_reason="content_filter"),
        changed(finish_reason="content_filter", content=None),
        Raw(400, {"error": {"message": "filtered", "code": "content_filter"}}),
    ],
)
def test_filtered_texts_are_missing_without_a_retry(serve, tmp_path, withheld):
    server = serve(lambda body: withheld)
    [judged], _ = asked(server, tmp_path, of_judge("Nile"))
    assert [j.score for j in judged] == [None, None]
    assert "content filter" in judged[0].problem
    assert (len(server.requests), rows(tmp_path)) == (1, 0)


def test_refusals_are_answers(serve, tmp_path):
    [[answer]], _ = asked(serve(lambda body: changed(content=None, refusal="I cannot.")), tmp_path, hello())
    assert (answer.text, answer.truncated) == ("I cannot.", False)


@pytest.mark.parametrize("content", [None, ""])
def test_answers_with_only_reasoning_are_empty_and_truncated(serve, tmp_path, content):
    server = serve(lambda body: changed(content=content, finish_reason="length", reasoning_content="Hm"))
    [[answer]], _ = asked(server, tmp_path, hello())
    assert (answer.text, answer.truncated, rows(tmp_path)) == ("", True, 1)


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_reasoning_is_stored_as_the_thought_of_an_answer(serve, tmp_path, name):
    server = serve(lambda body: changed(content="4", **{name: "2 and 2"}))
    for _ in range(2):  # the second answer is from the cache
        [[answer]], _ = asked(server, tmp_path, hello())
        assert (answer.text, answer.thought) == ("4", "<think>2 and 2</think>\n\n")
    assert len(server.requests) == 1


def test_content_parts_are_joined_and_their_thinking_is_the_thought(serve, tmp_path):
    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": "2 and 2"}]}
    texts = [{"type": "text", "text": "It is "}, {"type": "text", "text": "4"}]
    [[answer]], _ = asked(serve(lambda body: changed(content=[thinking, *texts])), tmp_path, hello())
    assert (answer.text, answer.thought) == ("It is 4", "<think>2 and 2</think>\n\n")


def test_a_thought_in_the_text_is_split_unless_the_server_returns_reasoning(serve, tmp_path):
    [[answer]], _ = asked(serve(lambda body: changed(content="<think>Hm</think>4")), tmp_path, hello())
    assert (answer.text, answer.thought) == ("4", "<think>Hm</think>")
    server = serve(lambda body: changed(content="<think>Hm</think>4", reasoning="No"))
    [[answer]], _ = asked(server, tmp_path, hello())
    assert answer.text == "<think>Hm</think>4"


def test_reasoning_without_an_answer_is_an_unfinished_thought(serve, tmp_path):
    server = serve(lambda body: changed(content=None, finish_reason="length", reasoning="Hm"))
    [[answer]], _ = asked(server, tmp_path, hello())
    assert (answer.text, answer.thought, answer.truncated) == ("", "<think>Hm", True)


@pytest.mark.parametrize("old", ['{"choices": null, "usage": null}', '{"choices": []}', "[]", "null", "{", '{"a": 1}'])
def test_invalid_cached_answers_are_replaced(serve, tmp_path, old):
    server = serve(lambda body: completion("hi"))
    asked(server, tmp_path, hello())
    with sqlite3.connect(tmp_path / "cache/endpoint_answers.sqlite3") as database:
        database.execute("UPDATE answers SET answer = ?", (old,))
    for _ in range(2):
        [[answer]], _ = asked(server, tmp_path, hello())
        assert answer.text == "hi"
    assert len(server.requests) == 2


def test_cached_answers_with_too_few_choices_are_replaced(serve, tmp_path):
    """Older versions cached such answers for servers that ignore n."""
    server = serve(lambda body: completion("hi", n=body["n"]))
    asked(server, tmp_path, hello(n=3))
    with sqlite3.connect(tmp_path / "cache/endpoint_answers.sqlite3") as database:
        database.execute("UPDATE answers SET answer = ?", (json.dumps(completion("old")),))
    for _ in range(2):
        [answers], _ = asked(server, tmp_path, hello(n=3))
        assert [answer.text for answer in answers] == ["hi"] * 3
    assert len(server.requests) == 2


def test_valid_cached_answers_of_older_versions_are_used(serve, tmp_path):
    server = serve(lambda body: completion("hi"))
    asked(server, tmp_path, hello())
    old = {
        "choices": [{"finish_reason": "stop", "index": 0, "logprobs": None, "message": {"content": "old"}}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 2}},
    }
    with sqlite3.connect(tmp_path / "cache/endpoint_answers.sqlite3") as database:
        database.execute("UPDATE answers SET answer = ?", (json.dumps(old),))
    [[answer]], engine = asked(server, tmp_path, hello())
    assert (answer.text, answer.tokens, answer.prompt_tokens) == ("old", 5, 7)
    assert engine.ledger.rows[0].cached_tokens == 2


# Number of answers


def counting(body):
    """Return a reply that ignores `n`."""
    return completion(f"seed {body['seed']}")


def test_servers_that_ignore_n_get_further_requests_with_other_seeds(serve, tmp_path, capfd):
    server = serve(counting)
    prices = {"input_price": 1e4, "output_price": 1e5}  # a prompt costs 1, a completion 1
    [first, second], engine = asked(server, tmp_path, hello(10, n=4), hello(50, n=2), **prices)
    assert [c.text for c in first] == ["seed 10", "seed 11", "seed 12", "seed 13"]
    assert [c.text for c in second] == ["seed 50", "seed 51"]
    assert len(server.requests) == 6
    assert engine.ledger.spent == pytest.approx(12)
    assert engine.usage.prompt_tokens == 600
    assert capfd.readouterr().err.count("requested one by one") == 1
    [first], engine = asked(server, tmp_path, hello(10, n=4), max_concurrent=1)
    assert [c.text for c in first] == ["seed 10", "seed 11", "seed 12", "seed 13"]
    assert len(server.requests) == 7  # the rest is cached


def test_servers_that_cap_n_get_further_requests(serve, tmp_path):
    server = serve(lambda body: completion(f"seed {body['seed']}", n=min(body["n"], 2)))
    [answers], _ = asked(server, tmp_path, hello(10, n=5))
    assert [c.text for c in answers] == ["seed 10", "seed 10", "seed 12", "seed 13", "seed 14"]
    assert [c.tokens for c in answers] == [10] * 5


def test_surplus_answers_are_dropped(serve, tmp_path):
    [answers], _ = asked(serve(lambda body: completion("hi", n=5)), tmp_path, hello(10, n=2))
    assert [(c.text, c.tokens) for c in answers] == [("hi", 10)] * 2


def test_judgements_are_complete_when_servers_ignore_n(serve, tmp_path):
    [judged], _ = asked(serve(lambda body: completion("Fine.\nScore: 3")), tmp_path, of_judge("Nile"))
    assert [(j.id, j.score) for j in judged] == [("p/Nile/j0", 3.0), ("p/Nile/j1", 3.0)]


def test_single_answers_are_cached_when_others_fail(serve, tmp_path):
    server = serve(lambda body: BAD["choices null"] if body["seed"] == 12 else counting(body))
    with pytest.raises(EngineError):
        asked(server, tmp_path, hello(10, n=3))
    assert rows(tmp_path) == 2  # answers 0 and 1, each under its own request


# Temporary errors


def test_retry_pauses_grow_up_to_a_limit(serve, tmp_path, monkeypatch):
    pauses = []
    sleep = asyncio.sleep

    async def slept(seconds):
        pauses.append(seconds)
        await sleep(0)

    monkeypatch.setattr(requests.asyncio, "sleep", slept)
    monkeypatch.setattr(requests, "PAUSE", 1.0)
    with pytest.raises(EngineError):
        asked(serve(lambda body: BAD["HTML"]), tmp_path, hello(), retries=8)
    grown = [pause for pause in pauses if pause]
    assert len(grown) == 8
    expected = [1, 2, 4, 8, 16, 32, 60, 60]
    assert all(0.75 * e <= pause <= 1.25 * e for pause, e in zip(grown, expected, strict=True))


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_honoured(serve, tmp_path, monkeypatch, status):
    pauses = []
    sleep = asyncio.sleep

    async def slept(seconds):
        pauses.append(seconds)
        await sleep(0)

    monkeypatch.setattr(requests.asyncio, "sleep", slept)
    date = email.utils.formatdate(time.time() + 120, usegmt=True)
    waits = iter(["7", "not a time", date, "-3", "nan"])

    def reply(body):
        wait = next(waits, None)
        return completion("hi") if wait is None else Raw(status, {}, {"Retry-After": wait})

    [[answer]], _ = asked(serve(reply), tmp_path, hello(), retries=5)
    assert answer.text == "hi"
    waited = [pause for pause in pauses if pause]
    assert (waited[0], waited[1] < 1, 100 < waited[2] <= 120) == (7, True, True)
    assert all(pause < 1 for pause in waited[3:])


def test_long_retry_after_values_raise(serve, tmp_path):
    server = serve(lambda body: Raw(429, {}, {"Retry-After": "3600"}))
    with pytest.raises(EngineError, match=r"asks to wait 3600 seconds .*Rerun the same command"):
        asked(server, tmp_path, hello())
    assert len(server.requests) == 1


def test_paid_unusable_responses_count_against_the_budget(serve, tmp_path):
    server = serve(lambda body: BAD["choices null"])  # its usage: 100 prompt tokens, 10 completion tokens
    with pytest.raises(EngineError, match=r"endpoint\.budget=2"):
        asked(server, tmp_path, hello(), input_price=1e4, budget=2, retries=9)
    assert len(server.requests) == 2


# Permanent errors


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (401, {"error": {"message": f"bad key {KEY}"}}, r"refuses access .*OPENAI_API_KEY"),
        (403, {"error": {"message": "no"}}, r"refuses access .*OPENAI_API_KEY"),
        (404, {"detail": "Not Found"}, r"was not found .*endpoint\.base_url .*endpoint\.model"),
        (400, {"error": {"message": "the messages are wrong"}}, r"answered, but refused .*the messages are wrong"),
        (422, {"detail": [{"msg": "Field required"}]}, r"answered, but refused .*Field required"),
        (429, {"error": {"code": "insufficient_quota", "message": "pay"}}, r"no quota left .*Rerun the same command"),
    ],
)
def test_permanent_errors_are_not_retried(serve, tmp_path, status, body, words):
    server = serve(lambda _: Raw(status, body))
    with pytest.raises(EngineError, match=words) as caught:
        asked(server, tmp_path, hello())
    assert len(server.requests) == 1
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"code": "context_length_exceeded", "message": "too long"}},
        {"error": {"message": "This model's maximum context length is 2048 tokens. However, you requested 5000"}},
        {"error": {"message": "the request exceeds the available context size", "type": "exceed_context_size_error"}},
    ],
)
def test_context_length_errors_give_too_long_judgements(serve, tmp_path, body):
    server = serve(lambda _: Raw(400, body))
    with pytest.raises(PromptTooLongError, match="does not fit into the context of m"):
        asked(server, tmp_path, hello())
    [judged], _ = asked(server, tmp_path, of_judge("Nile"))
    assert judged[0].problem.startswith("too long for the judge")


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_redirects_never_send_key_or_prompt_to_another_host(serve, tmp_path, status):
    other = serve(lambda body: completion("hi"))
    server = serve(lambda body: Raw(status, b"", {"Location": f"{other.url}/chat/completions"}))
    with pytest.raises(EngineError, match=rf"redirects to {other.url}.*endpoint\.base_url"):
        asked(server, tmp_path, hello())
    assert not other.headers


@pytest.mark.parametrize(
    ("name", "variable"),
    [
        ("vllm", "VLLM_API_KEY"),
        ("llama_cpp", "LLAMA_API_KEY"),
        ("ollama", "OLLAMA_API_KEY"),
        ("openai", "OPENAI_API_KEY"),
        ("openrouter", "OPENROUTER_API_KEY"),
    ],
)
def test_named_servers_get_only_their_own_key(name, variable, serve, tmp_path, monkeypatch):
    server = serve(lambda body: completion("hi"))
    config = options(f"endpoint={name}", "endpoint.model=m").endpoint
    assert config.base_url.endswith("/v1")
    config.base_url = server.url
    if name != "openai":
        monkeypatch.delenv(variable, raising=False)
    asked(server, tmp_path, hello(), **vars(config))
    monkeypatch.setenv(variable, "sk-of-this-server")
    asked(server, tmp_path, hello(1), **vars(config))
    first = KEY if name == "openai" else "none"
    sent = [headers["authorization"] for headers in server.headers]
    assert sent == [f"Bearer {first}", "Bearer sk-of-this-server"]


def test_further_fields_are_sent_with_every_request(serve, tmp_path):
    server = serve(lambda body: completion("B"))
    extra = {"reasoning_effort": "low", "chat_template_kwargs": {"enable_thinking": False}}
    compared = lambda engine: compare(engine, "m", "p", "ab", user("Which?"))  # noqa: E731
    asked(server, tmp_path, hello(), compared, extra=extra, prefill=True, logprobs=False)
    assert [{name: request[name] for name in extra} for request in server.requests] == [extra, extra]
    assert [request.get("continue_final_message") for request in server.requests] == [None, True]
    asked(server, tmp_path, hello())  # another request, which the cache does not contain
    assert len(server.requests) == 3


# Parameters that a model refuses


def refusing(*names, words="Unsupported parameter: '{name}' is not supported with this model.", status=400, param=True):
    """Return replies that refuse these parameters and accept max_completion_tokens."""

    def reply(body):
        for name in names:
            if body.get(name) is not None:
                error = {"message": words.format(name=name), "type": "invalid_request_error"}
                return Raw(status, {"error": error | ({"param": name} if param else {})})
        return completion("hi", n=body.get("n", 1))

    return reply


@pytest.mark.parametrize("param", [True, False])
def test_max_completion_tokens_replaces_a_refused_max_tokens(serve, tmp_path, param, capfd):
    words = "Unsupported parameter: '{name}' is not supported with this model. Use 'max_completion_tokens' instead."
    server = serve(refusing("max_tokens", words=words, param=param))
    asked(server, tmp_path, hello(1), *(hello(seed) for seed in range(2, 6)))
    assert [r["max_completion_tokens"] for r in server.requests if "max_tokens" not in r] == [20] * 5
    asked(server, tmp_path, hello(7), max_concurrent=1)
    assert capfd.readouterr().err.count("max_completion_tokens is sent instead") == 2  # once per session
    asked(server, tmp_path, hello(1))
    assert len(server.requests) <= 5 + 5 + 2  # the cache key is the original request


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("seed", "Unrecognized request argument supplied: {name}"),
        ("seed", "body.{name}: Extra inputs are not permitted"),
        ("stop", "Unsupported parameter: '{name}' is not supported with this model."),
        ("n", "Unsupported value: '{name}' does not support 3 with this model. Only the default (1) is supported."),
    ],
)
@pytest.mark.parametrize("param", [True, False])
@pytest.mark.parametrize("status", [400, 422])
def test_refused_optional_parameters_are_dropped(serve, tmp_path, name, words, param, status):
    server = serve(refusing(name, words=words, status=status, param=param))
    [answers], _ = asked(server, tmp_path, hello(1, n=3, stop=("\nAnswer",)))
    assert len(answers) == 3
    assert name not in server.requests[-1]


def test_single_choice_servers_get_one_request_per_answer(serve, tmp_path):
    def reply(body):
        several = body.get("n", 1) > 1
        return Raw(400, {"error": {"message": "Only one completion choice is allowed"}}) if several else counting(body)

    [answers], _ = asked(serve(reply), tmp_path, hello(10, n=3))
    assert [c.text for c in answers] == ["seed 10", "seed 11", "seed 12"]


def test_refused_stop_strings_are_applied_to_the_text(serve, tmp_path):
    refuse = refusing("stop")
    server = serve(lambda body: refuse(body) if body.get("stop") else changed(content="Why?\nAnswer: x"))
    [[answer]], _ = asked(server, tmp_path, hello(stop=("\nAnswer",)))
    assert answer.text == "Why?"


def test_refused_temperature_raises_with_the_option(serve, tmp_path):
    words = "Unsupported value: '{name}' does not support 0.7 with this model. Only the default (1) value is supported."
    server = serve(refusing("temperature", words=words))
    with pytest.raises(EngineError, match=r"refuses temperature=0\.7\. Set .*judge\.temperature"):
        asked(server, tmp_path, hello())
    assert len(server.requests) == 1


def test_endpoint_temperature_overrides_request_temperatures(serve, tmp_path):
    server = serve(lambda body: completion("B"))
    compared = lambda engine: compare(engine, "m", "p", "ab", user("Which?"))  # noqa: E731
    asked(server, tmp_path, compared, hello(), temperature=1.0)
    assert [request["temperature"] for request in server.requests] == [1.0, 1.0]


@pytest.mark.parametrize("name", ["temperature", "top_p"])
def test_refused_parameters_with_default_values_are_dropped(serve, tmp_path, name):
    server = serve(refusing(name))
    [[answer]], _ = asked(server, tmp_path, hello(temperature=1.0, top_p=1.0))
    assert (answer.text, name in server.requests[-1]) == ("hi", False)


def test_refused_top_p_raises_with_the_option(serve, tmp_path):
    with pytest.raises(EngineError, match=r"refuses top_p=0\.9\. Set .*judge\.top_p"):
        asked(serve(refusing("top_p")), tmp_path, hello())


@pytest.mark.parametrize("name", ["logprobs", "top_logprobs"])
def test_refused_logprobs_raise_with_the_option(serve, tmp_path, name):
    with pytest.raises(EngineError, match=rf"refuses {name}=.*endpoint\.logprobs=false"):
        asked(serve(refusing(name)), tmp_path, lambda engine: compare(engine, "m", "p", "ab", user("Which?")))


def test_refused_prefill_raises_with_the_option(serve, tmp_path):
    server = serve(refusing("continue_final_message"))
    with pytest.raises(EngineError, match=r"refuses continue_final_message=True\. Set endpoint\.prefill=false"):
        asked(
            server,
            tmp_path,
            lambda engine: compare(engine, "m", "p", "ab", user("Which?")),
            prefill=True,
            logprobs=False,
        )


SENT = {"max_tokens": 20, "n": 3, "seed": 1, "temperature": 0.7, "top_p": 0.9, "stop": None}


@pytest.mark.parametrize(
    ("message", "param", "found"),
    [
        ("Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.", None, "max_tokens"),
        ("n must be 1", None, "n"),
        ("`n` is not supported", None, "n"),
        ("Unknown field seed", None, "seed"),
        ("'stop' is not supported", "stop", None),  # the request does not contain it
        ("messages: Extra inputs are not permitted", None, None),
        ("The model is not loaded", None, None),
        ("Invalid role in messages", "messages", None),
    ],
)
def test_the_refused_parameter_is_read_from_the_error(message, param, found):
    assert refused(SENT, param, message) == found


# Parsing of responses


def test_responses_are_reduced_to_their_used_fields():
    answer = completion("hi", [("hi", {"hi": 0.5})]) | {"usage": {"prompt_tokens": "7", "completion_tokens": -1}}
    found = check_response(answer)
    assert found["usage"] == {"prompt_tokens": 0, "completion_tokens": 0, "cached_tokens": 0}
    assert found["choices"][0]["logprobs"]["content"][0]["token"] == "hi"
    assert parse_response(json.dumps(found)) == found


@pytest.mark.parametrize(
    "logprobs",
    [
        {"content": [None]},
        {"content": [{"token": 1}]},
        {"content": 4},
        {"content": [{"logprob": 0.1}]},
        {"content": [{"token": "4", "top_logprobs": {"4": None}}]},
        {"tokens": ["4", "."], "top_logprobs": [{"4": -0.5}]},
        {"tokens": [4], "top_logprobs": [{"4": -0.5}]},
        "-0.5",
    ],
)
def test_malformed_logprobs_raise_with_the_option(logprobs):
    with pytest.raises(BadResponseError, match=r"endpoint\.logprobs=false"):
        check_response(changed(logprobs=logprobs))


OTHER_LOGPROBS = {
    "OpenAI's": {"content": [{"token": "4", "logprob": -0.5, "top_logprobs": [{"token": "4", "logprob": -0.5}]}]},
    "a list": [{"token": "4", "logprob": -0.5, "top_logprobs": [{"token": "4", "logprob": -0.5}]}],
    "likely tokens in an object": {"content": [{"token": "4", "top_logprobs": {"4": -0.5}}]},
    "parallel lists": {"tokens": ["4"], "token_logprobs": [-0.5], "top_logprobs": [{"4": -0.5}]},
}


@pytest.mark.parametrize("logprobs", OTHER_LOGPROBS.values(), ids=OTHER_LOGPROBS.keys())
def test_logprobs_are_read_in_every_form(logprobs):
    [choice] = check_response(changed(content="4", logprobs=logprobs))["choices"]
    assert choice["logprobs"]["content"] == [{"token": "4", "top_logprobs": [{"token": "4", "logprob": -0.5}]}]
    assert parse_response(json.dumps({"choices": [choice]}))["choices"] == [choice]  # as it is cached


@pytest.mark.parametrize(
    "logprobs", [None, {}, {"content": None}, {"content": []}, {"content": [{"token": "hi", "logprob": -1.0}]}]
)
def test_missing_logprobs_are_omitted(logprobs):
    [choice] = check_response(changed(logprobs=logprobs))["choices"]
    assert not choice.get("logprobs", {}).get("content")


def test_the_cache_returns_stored_answers(tmp_path):
    cache = AnswerCache(tmp_path / "answers.sqlite3")
    cache.put("key", {"choices": []})
    assert cache.get("key") == '{"choices": []}'
    assert cache.get("other") is None
