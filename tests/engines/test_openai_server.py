"""srlm.engines.openai_server and .cost, with a local HTTP server: requests, parsing, cache and cost."""

from __future__ import annotations

import json
import math
import re

import pytest

from srlm.engines.base import Place, Sampling
from srlm.engines.cost import AnswerCache
from srlm.engines.openai_server import choice_at, choice_logprobs
from srlm.errors import EngineError, RunFolderError
from srlm.judges.config import LogprobJudgeConfig, SampledJudgeConfig
from srlm.judges.pairwise import compare
from srlm.judges.parsing import find_letter, find_score
from srlm.judges.pointwise import judge, score_logprobs
from srlm.judges.prompt import JudgeTemplate
from srlm.types import Candidate
from tests.engines.local_server import KEY, asked, completion, hello
from tests.helpers import user


def test_repeated_requests_are_answered_from_the_cache(serve, tmp_path):
    server = serve(lambda body: completion(f"seed {body['seed']}", n=body["n"]))
    ([first], _), ([again], engine) = (asked(server, tmp_path, hello(1, n=2)) for _ in range(2))
    assert [c.text for c in first] == [c.text for c in again] == ["seed 1"] * 2
    assert len(server.requests) == 1
    assert [row.from_cache for row in engine.ledger.rows] == [True]
    asked(server, tmp_path, hello(2), cache=True)
    assert len(server.requests) == 2  # another seed gives another request
    asked(server, tmp_path, hello(2), cache=False)
    assert len(server.requests) == 3
    kept = b"".join(path.read_bytes() for path in (tmp_path / "cache").iterdir())
    assert KEY.encode() not in kept
    assert b"Hello" not in kept  # prompts are not stored


def test_the_ledger_persists_between_processes(serve, tmp_path):
    server = serve(lambda body: completion("hi"))
    prices = {"input_price": 2.0, "output_price": 10.0}
    _, engine = asked(server, tmp_path, hello(1), hello(2), hello(1), **prices)
    each = (100 * 2 + 10 * 10) / 1e6
    assert 2 * each <= engine.ledger.spent <= 3 * each + 1e-12  # two equal concurrent requests may both be sent
    spent = engine.ledger.spent
    _, engine = asked(server, tmp_path, hello(1), hello(3), **prices)
    assert engine.ledger.spent == pytest.approx(spent + each)
    rows = [json.loads(line) for line in (tmp_path / "ledger.jsonl").read_text().splitlines()]
    assert sum(row["cost"] for row in rows) == pytest.approx(engine.ledger.spent)
    assert {row["cached_tokens"] for row in rows} == {64}
    assert "1 requests, 1 more from our cache" in engine.ledger.summary()
    assert f"has spent {engine.ledger.spent:.4f}" in engine.ledger.summary()


def test_a_spent_budget_stops_further_requests(serve, tmp_path):
    server = serve(lambda body: completion("hi"))
    options = {"input_price": 1e4, "budget": 1.5, "max_concurrent": 1}  # each costs 1
    asked(server, tmp_path, hello(1), **options)
    asked(server, tmp_path, hello(2), **options)
    with pytest.raises(EngineError, match=r"has spent 2\.0000 on m, and endpoint\.budget=1\.5"):
        asked(server, tmp_path, hello(3), **options)
    assert len(server.requests) == 2
    asked(server, tmp_path, hello(1), **options)  # cached answers cost nothing


def test_incomplete_ledger_lines_are_ignored(serve, tmp_path):
    (tmp_path / "ledger.jsonl").write_text('{"cost": 0.5}\n{"cost": 0.')
    _, engine = asked(serve(lambda body: completion("hi")), tmp_path, hello())
    assert engine.ledger.before == 0.5


def test_a_damaged_cache_raises_with_its_path(tmp_path):
    (tmp_path / "cache.sqlite3").write_text("no database at all, but longer than a header would be")
    with pytest.raises(RunFolderError, match=r"cache\.sqlite3, cannot be used .*endpoint\.cache=false"):
        AnswerCache(tmp_path / "cache.sqlite3")


def test_requests_to_a_busy_server_are_retried(serve, tmp_path):
    server = serve(lambda body: completion("hi"))
    server.broken = 2
    ([[answer]], _) = asked(server, tmp_path, hello())
    assert answer.text == "hi"
    assert len(server.requests) == 3
    server.broken = 9
    with pytest.raises(EngineError, match=r"InternalServerError.*Check endpoint\.base_url") as caught:
        asked(server, tmp_path, hello(5), retries=0)
    assert KEY not in str(caught.value)
    assert all(headers["authorization"] == f"Bearer {KEY}" for headers in server.headers)


def test_requests_per_minute_limits_the_request_rate(serve, tmp_path):
    server = serve(lambda body: completion("hi"))
    asked(server, tmp_path, *(hello(seed) for seed in range(5)), requests_per_minute=600)
    assert len(server.times) == 5
    assert max(server.times) - min(server.times) >= 4 * 0.1 - 0.05  # a busy machine may be slower


# Choices


@pytest.mark.parametrize(
    ("tokens", "after", "place"),
    [
        (["Score", ":", " 4"], "Score:", 2),
        (["4"], "Score:", 0),
        ([" 4", " of", " 5"], "Score:", 0),
        (["Give", " 2", " points", ".\n", "Score", ":", " ", "3"], "Score:", 7),
        (["Score", ":", " 4", " out of", " 5"], "Score:", 2),  # not the last digit
        (["Score: 1", "\n", "Score:", " 5"], "Score:", 3),
        (["no", " idea"], "Score:", None),
        (["Score", ":", " none"], "Score:", None),
        ([], "Score:", None),
        (["5"], "", 0),
        (["4", "/", "5"], "Score:", 0),
        (["Score", ":", " **", "4", "**"], "Score:", 3),
        (["Score", ":", " 4", "/", "10"], "Score:", None),
        (["Score", ":", " 3", "-", "4"], "Score:", None),
        (["Score", ":", " 3", " or", " 4"], "Score:", None),
        (["3", " or", " 4"], "Score:", None),
        (["I", " see", " 3", " facts"], "Score:", None),
    ],
)
def test_choice_at_finds_the_score_of_a_reply(tokens, after, place):
    choices = tuple(f" {n}" for n in range(6))
    assert choice_at(tokens, Sampling(0, 1, 8, 0, choices=choices, find_choice=find_score), after) == place


@pytest.mark.parametrize(
    ("tokens", "place"),
    [
        (["A"], 0),
        (["The better", " answer is", " **", "B", "**"], 3),
        (["A", " is", " better", " than", " B", "."], None),
        (["B", " is", " better", " than", " A", "."], None),
        (["Between", " A", " and", " B", ",", " B", " is", " better"], None),
        (["The better answer is", " B", ",", " A", " is too short"], 1),
        (["A", " is", " worse", "."], None),
        (["Answer", " B", " is better"], 1),
        (["neither"], None),
    ],
)
def test_choice_at_finds_the_better_answer_of_a_reply(tokens, place):
    sampling = Sampling(0, 1, 8, 0, choices=(" A", " B"), find_choice=find_letter)
    assert choice_at(tokens, sampling, "The better answer is") == place


@pytest.mark.parametrize(
    ("tokens", "choices", "place"),
    [
        ([" A", ", because it is better than B"], " A, B", 0),
        ([" ", "4", "\n"], " 3, 4", 1),
        (["4", "/5"], "3,4", 0),
        ([" not A"], " A, B", None),
        ([" Alice"], " A, B", None),
        ([], " A, B", None),
    ],
)
def test_continued_replies_must_begin_with_the_choice(tokens, choices, place):
    sampling = Sampling(0, 1, 8, 0, choices=tuple(choices.split(",")), find_choice=find_letter)
    assert choice_at(tokens, sampling, "Score:", continued=True) == place


def test_choice_logprobs_ignore_whitespace_and_use_the_generated_spelling():
    top = [{"token": " 3", "logprob": -0.1}, {"token": "3", "logprob": -3.0}, {"token": " ten", "logprob": -0.5}]
    assert choice_logprobs(top, (" 2", " 3")) == (-math.inf, -0.1)
    top = [{"token": "A.", "logprob": -0.1}, {"token": "A", "logprob": -0.2}, {"token": "B.", "logprob": -3.0}]
    assert choice_logprobs(top, (" A", " B"), "A.") == (-0.1, -3.0)


EXPECTED = LogprobJudgeConfig()


def score(server, tmp_path, config=EXPECTED, **options):
    candidate = Candidate("p/c0", "p", "The Nile.", 3, False)

    def job(engine):
        return judge(engine, JudgeTemplate.load(config), config, 0, "Name a river.", candidate, 1)

    [[judgement]], _ = asked(server, tmp_path, job, **options)
    return judgement


def test_expected_scores_are_read_at_the_generated_score(serve, tmp_path):
    places = [("Score", {}), (":", {}), (" 4", {" 4": 0.5, " 5": 0.25, "3": 0.2, " ten": 0.05})]
    server = serve(lambda body: completion("Score: 4", places))
    judgement = score(server, tmp_path)
    assert judgement.score == pytest.approx((4 * 0.5 + 5 * 0.25 + 3 * 0.2) / 0.95)
    [request] = server.requests
    assert (request["logprobs"], request["top_logprobs"]) == (True, 20)
    assert request["messages"][-1]["role"] == "user"


def test_replies_without_a_score_are_missing(serve, tmp_path):
    judgement = score(serve(lambda body: completion("I cannot", [("I", {"I": 0.9}), (" cannot", {})])), tmp_path)
    assert judgement.score is None
    assert judgement.problem.startswith("no verdict")


def test_missing_probabilities_raise_with_the_scorer_option(serve, tmp_path):
    with pytest.raises(EngineError, match=r"judge\.scorer=logprob, but the judge's engine returns no probabilities"):
        score(serve(lambda body: completion("Score: 4")), tmp_path)


def test_weighted_scores_continue_the_judges_text(serve, tmp_path):
    def reply(body):
        begun = body["messages"][-1]["role"] == "assistant"
        return completion("2", [(" 2", {" 2": 0.5, " 3": 0.5})]) if begun else completion("Thin.\nScore: 2")

    server = serve(reply)
    config = SampledJudgeConfig(scorer="logprob_weighted", count=1, min_valid=1)
    judgement = score(server, tmp_path, config, prefill=True)
    assert (judgement.score, judgement.text) == (2.5, "Thin.\nScore: 2")
    second = server.requests[1]
    assert second["messages"][-1] == {"role": "assistant", "content": "Thin.\nScore:"}
    assert (second["continue_final_message"], second["add_generation_prompt"]) == (True, False)


WEIGHTED = SampledJudgeConfig(scorer="logprob_weighted", count=1, min_valid=1)


@pytest.mark.parametrize(
    ("text", "tokens", "own", "others"),
    [
        ("Thin.\nScore: 2", ["Thin.", "\n", "Score", ":"], " 2", [" 3"]),
        ("Score: **2**", ["Score", ":", " **"], "2", ["3"]),
        ("Score:\n2", ["Score", ":", "\n"], "2", ["3"]),
        ("Score: 2", ["Score", ":", " "], "2", ["3"]),
        ("Score:2", ["Score"], ":2", [":3"]),
    ],
)
def test_weighted_scores_are_read_from_the_judgements_tokens(serve, tmp_path, text, tokens, own, others):
    otherwise = {f"{before}{n}": 0.05 for before in ("", " ", "\t") for n in (4, 5) if before != own[:-1]}
    own_logprobs = {own: 0.5} | dict.fromkeys(others, 0.3)
    end = [text[len("".join([*tokens, own])) :]] if len(text) > len("".join([*tokens, own])) else []
    content = [
        *((token, {token: 0.9, "5": 0.1}) for token in tokens),
        (own, otherwise | own_logprobs),
        *((t, {}) for t in end),
    ]
    server = serve(lambda body: completion(text, content))
    judgement = score(server, tmp_path, WEIGHTED)
    [request] = server.requests
    assert (request["logprobs"], request["top_logprobs"]) == (True, 20)
    assert judgement.score == pytest.approx((2 * 0.5 + 3 * 0.3) / 0.8)
    assert judgement.text == text


@pytest.mark.parametrize("reported", ["the answer's tokens", "all tokens", "other tokens"])
def test_weighted_scores_are_read_after_the_servers_reasoning(serve, tmp_path, reported):
    """Some servers report the probabilities of the answer alone, others those of the reasoning before it as well."""
    answer = [("Score", {"Score": 1.0}), (":", {":": 1.0}), (" 2", {" 2": 0.5, " 3": 0.5}), ("<end>", {"<end>": 1.0})]
    reasoning = [("Score", {}), (":", {}), (" 5", {" 5": 1.0}), ("</think>", {})]
    content = {"the answer's tokens": answer, "all tokens": [*reasoning, *answer], "other tokens": reasoning}[reported]

    def reply(body):
        begun = body["messages"][-1]["role"] == "assistant"
        found = completion("2", [(" 2", {" 2": 0.5, " 3": 0.5})]) if begun else completion("Score: 2", content)
        if not begun:
            found["choices"][0]["message"]["reasoning_content"] = "Score: 5"
        return found

    server = serve(reply)
    judgement = score(server, tmp_path, WEIGHTED, prefill=True)
    assert (judgement.score, judgement.text) == (2.5, "Score: 2")
    assert judgement.thought == "<think>Score: 5</think>\n\n"
    assert len(server.requests) == (2 if reported == "other tokens" else 1)


def test_choices_are_read_after_the_servers_reasoning(serve, tmp_path):
    tokens = [("A", {"A": 1.0}), ("</think>", {}), ("B", {"B": 0.8, "A": 0.1})]
    answer = completion("B", tokens)
    answer["choices"][0]["message"]["reasoning"] = "A"
    [found], _ = asked(
        serve(lambda body: answer), tmp_path, lambda engine: compare(engine, "m", "p", "ab", user("Which?"))
    )
    assert (found.winner, found.margin) == ("second", pytest.approx(math.log(0.1 / 0.8)))


def test_weighted_scores_skip_scores_in_reasoning():
    tokens = ["[", "Score", ":", " 5", "\n", "]", "Thin", ".\n", "Score", ":", " 2"]
    places = [Place(token, {token: 0.0}) for token in tokens]
    found = score_logprobs(places, 5, len("[Score: 5\n]"))
    assert found == (-math.inf, -math.inf, 0.0, -math.inf, -math.inf, -math.inf)


def test_tokens_that_differ_from_the_text_give_no_score(serve, tmp_path):
    judgement = score(serve(lambda body: completion("Score: 2", [("2", {"2": 1.0})])), tmp_path, WEIGHTED)
    assert (judgement.score, judgement.problem) == (None, "no verdict: a score has probability 0.00")


def test_weighted_scores_are_read_after_a_leading_blank_token(serve, tmp_path):
    def reply(body):
        begun = body["messages"][-1]["role"] == "assistant"
        content = [(" ", {" ": 1.0}), ("2", {"2": 0.5, "3": 0.5})]
        return completion(" 2", content) if begun else completion("Thin.\nScore: 2")

    server = serve(reply)
    assert score(server, tmp_path, WEIGHTED, prefill=True).score == 2.5
    assert server.requests[1]["max_tokens"] >= 2


@pytest.mark.parametrize(
    ("reply", "winner"),
    [
        ("A is better than B.", None),
        ("B is better than A.", None),
        ("Between A and B, A is the clearer one.", None),
        ("The better answer is A. B misses a point.", "first"),
        ("A", "first"),
        ("**B**", "second"),
    ],
)
@pytest.mark.parametrize("logprobs", [True, False])
def test_verdicts_in_sentences_are_not_inverted(serve, tmp_path, reply, winner, logprobs):
    tokens = re.findall(r" ?[A-Za-z]+|[^A-Za-z ]+", reply)
    content = [(t, {" A": 0.6, "A": 0.6, " B": 0.3, "B": 0.3}) for t in tokens] if logprobs else []
    both = {}
    for order in ("ab", "ba"):

        def job(engine, order=order):
            return compare(engine, "m", "p", order, user(f"Which? {order}"))

        [both[order]], _ = asked(serve(lambda body: completion(reply, content)), tmp_path, job, logprobs=logprobs)
    other = {"first": "second", "second": "first", None: None}
    assert (both["ab"].winner, both["ba"].winner) == (winner, other[winner])
    assert {one.problem for one in both.values()} == {"" if winner else "no verdict"}


@pytest.mark.parametrize("logprobs", [True, False])
def test_truncated_verdicts_in_sentences_are_missing(serve, tmp_path, logprobs):
    tokens = ["I", " prefer", " A", "."]
    answer = completion("I prefer A.", [(t, {t: 0.6}) for t in tokens] if logprobs else [])
    answer["choices"][0]["finish_reason"] = "length"

    def job(engine):
        return compare(engine, "m", "p", "ab", user("Which?"))

    [found], _ = asked(serve(lambda body: answer), tmp_path, job, logprobs=logprobs)
    assert (found.winner, found.problem) == (None, "no verdict")


def test_letters_have_margins_from_their_logprobs(serve, tmp_path):
    def job(engine):
        return compare(engine, "m", "p", "ab", user("Which?"))

    places = [("The better answer is", {}), (" B", {" B": 0.8, " A": 0.1})]
    [found], _ = asked(serve(lambda body: completion("The better answer is B", places)), tmp_path, job)
    assert (found.winner, found.margin) == ("second", pytest.approx(math.log(0.1 / 0.8)))
    [found], _ = asked(serve(lambda body: completion("B", [("B", {"B": 0.9})])), tmp_path, job)
    assert found.margin == pytest.approx(-30 - math.log(0.9))  # A is not among the top logprobs
    [found], _ = asked(serve(lambda body: completion("I think B")), tmp_path, job, logprobs=False)
    assert (found.winner, found.margin) == ("second", None)
    [found], _ = asked(serve(lambda body: completion("neither", [("neither", {})])), tmp_path, job)
    assert (found.winner, found.margin) == (None, None)
