"""srlm.generation.candidates and .judge: requests to the engine, and the records made from its replies."""

from __future__ import annotations

import asyncio
import math
import random

import pytest
import torch

from srlm.config import Config
from srlm.engines.base import Completion, encode_request, open_engine
from srlm.engines.config import EngineConfig
from srlm.errors import EngineError
from srlm.generation.candidates import sample_candidates
from srlm.generation.config import CandidatesConfig
from srlm.judges.config import LogprobJudgeConfig, SampledJudgeConfig
from srlm.judges.pointwise import judge
from srlm.judges.prompt import JudgeTemplate
from srlm.models.chat import encode_chat
from srlm.types import Candidate, Prompt
from tests.helpers import ScriptedEngine, prompt, tiny_llama, tiny_tokenizer, user
from tests.training.families import FAMILIES

SAMPLE = CandidatesConfig(count=3, temperature=0.65, top_p=0.85, max_new_tokens=55)
JUDGE = SampledJudgeConfig(count=3, temperature=0.45, top_p=0.75, max_new_tokens=44)
TEMPLATE = JudgeTemplate.load(JUDGE)


def sampled(engine, of: Prompt, config=SAMPLE, seed=0) -> list[Candidate]:
    return asyncio.run(sample_candidates(engine, config, seed, of))


def judged(engine, of: Candidate, count=3, config=JUDGE, seed=0, text="Name a river."):
    return asyncio.run(judge(engine, TEMPLATE, config, seed, text, of, count))


def candidate(id: str = "t2/p00000/c0", text: str = "The Nile.") -> Candidate:
    return Candidate(id, id.rsplit("/", 1)[0], text, 3, False)


@pytest.mark.parametrize("count", [2, 4, 7])
def test_candidate_count_and_decoding_options_reach_the_engine(count):
    engine = ScriptedEngine()
    found = sampled(engine, prompt(text="Name a river."), CandidatesConfig(count, 0.65, 0.85, 55))
    [(messages, sampling, prefill)] = engine.calls
    assert messages == user("Name a river.")
    assert prefill == ""
    assert sampling.n == count
    assert (sampling.temperature, sampling.top_p, sampling.max_new_tokens) == (0.65, 0.85, 55)
    assert (sampling.stop, sampling.choices) == ((), ())
    assert [c.id for c in found] == [f"t2/p00000/c{n}" for n in range(count)]
    assert {c.prompt_id for c in found} == {"t2/p00000"}
    assert len({c.text for c in found}) == count


def test_candidates_are_stripped_and_truncation_is_stored():
    replies = [Completion(" Nile. \n", 4, False), Completion("The Ni\ufffd", 55, True), Completion("", 1, False)]
    found = sampled(ScriptedEngine(lambda *request: replies[request[3]]), prompt())
    assert [(c.text, c.tokens, c.truncated) for c in found] == [
        ("Nile.", 4, False),
        ("The Ni", 55, True),
        ("", 1, False),
    ]


@pytest.mark.parametrize("count", [1, 3, 5])
def test_judgement_count_and_decoding_options_reach_the_engine(count):
    engine = ScriptedEngine(lambda *_: "Fine.\nScore: 4")
    found = judged(
        engine, candidate(), count, SampledJudgeConfig(count=9, temperature=0.45, top_p=0.75, max_new_tokens=44)
    )
    [(messages, sampling, prefill)] = engine.calls
    assert messages == TEMPLATE.messages("Name a river.", "The Nile.")
    assert prefill == ""
    assert sampling.n == count
    assert (sampling.temperature, sampling.top_p, sampling.max_new_tokens) == (0.45, 0.75, 44)
    assert (sampling.stop, sampling.choices) == ((), ())
    assert [j.id for j in found] == [f"t2/p00000/c0/j{n}" for n in range(count)]
    assert {j.candidate_id for j in found} == {"t2/p00000/c0"}


def test_judgements_store_text_score_problem_and_tokens():
    replies = [Completion("Good.\nScore: 4", 6, False), Completion("Hm.", 2, False), Completion("Score: 9", 3, False)]
    found = judged(ScriptedEngine(lambda *request: replies[request[3]]), candidate())
    assert [(j.text, j.score, j.problem, j.tokens) for j in found] == [
        ("Good.\nScore: 4", 4.0, "", 6),
        ("Hm.", None, "no verdict", 2),
        ("Score: 9", None, "out of range: 9", 3),
    ]


def test_truncated_verdicts_are_missing_with_the_reason():
    texts = ["It is relevant and", "Good.\nScore: 4", "To earn Score: 5 it would have to cite its", "Good.\nScore: 4\n"]
    replies = [*(Completion(text, 4, True) for text in texts), Completion("Good.\nScore: 4", 4, False)]
    found = judged(
        ScriptedEngine(lambda *request: replies[request[3]]), candidate(), 5, SampledJudgeConfig(max_new_tokens=4)
    )
    cut_off = (None, "no verdict, cut off at judge.max_new_tokens=4")
    assert [(j.score, j.problem) for j in found] == [cut_off, cut_off, cut_off, (4.0, ""), (4.0, "")]
    assert [j.truncated for j in found] == [True, True, True, True, False]


def test_the_scale_ends_at_max_score():
    config = SampledJudgeConfig(max_score=10)
    assert [j.score for j in judged(ScriptedEngine(lambda *_: "Score: 9"), candidate(), 2, config)] == [9.0, 9.0]


EXPECTED = LogprobJudgeConfig()


def with_score_probabilities(*probabilities: float, text: str = " 4"):
    """Return an engine that gives the scores these probabilities."""
    logprobs = tuple(math.log(p) if p else -math.inf for p in probabilities)
    return ScriptedEngine(lambda *_: Completion(text, 1, False, 20, logprobs))


def test_logprob_scores_need_one_request_for_the_score_tokens():
    engine = with_score_probabilities(0.0, 0.1, 0.0, 0.2, 0.3, 0.2)
    [found] = judged(engine, candidate(), 1, EXPECTED)
    [(messages, sampling, prefill)] = engine.calls
    assert messages == TEMPLATE.messages("Name a river.", "The Nile.")
    assert prefill == "Score:"  # the training targets begin with it
    assert sampling.choices == (" 0", " 1", " 2", " 3", " 4", " 5")
    assert (sampling.n, sampling.temperature) == (1, 0.0)
    assert found.id == "t2/p00000/c0/j0"
    assert found.candidate_id == "t2/p00000/c0"
    assert found.score == pytest.approx((0.1 * 1 + 0.2 * 3 + 0.3 * 4 + 0.2 * 5) / 0.8)
    assert (found.text, found.problem, found.tokens) == ("Score: 4", "", 1)
    assert found.probabilities == pytest.approx((0.0, 0.1, 0.0, 0.2, 0.3, 0.2))


def test_logprob_scores_are_missing_when_scores_are_improbable():
    [found] = judged(with_score_probabilities(*[0.08] * 6), candidate(), 1, EXPECTED)
    assert (found.score, found.problem) == (None, "no verdict: a score has probability 0.48")
    assert found.probabilities == pytest.approx([0.08] * 6)


def test_logprob_scores_use_the_configured_scale():
    config = LogprobJudgeConfig(max_score=2)
    engine = with_score_probabilities(0.25, 0.25, 0.5)
    [found] = judged(engine, candidate(), 1, config)
    assert found.score == pytest.approx(1.25)
    assert engine.calls[0][1].choices == (" 0", " 1", " 2")


def test_logprob_scores_need_probabilities():
    with pytest.raises(EngineError, match=r"judge\.scorer=logprob.*returns no probabilities.*sampled"):
        judged(ScriptedEngine(lambda *_: " 4"), candidate(), 1, EXPECTED)


def test_weighted_scores_are_read_at_the_generated_score():
    written = [Completion("Good.\nScore: 4", 6, False), Completion("Hm.", 2, False), Completion("Score: 1.", 4, False)]
    probabilities = {"Good.\nScore:": (0, 0, 0, 0.25, 0.5, 0.25), "Score:": (0.5, 0.5, 0, 0, 0, 0)}

    def reply(messages, sampling, prefill, place):
        if not sampling.choices:
            return written[place]
        logprobs = tuple(math.log(p) if p else -math.inf for p in probabilities[prefill])
        return Completion(" 4", 1, False, 20, logprobs)

    config = SampledJudgeConfig(scorer="logprob_weighted", count=3, temperature=0.45, top_p=0.75, max_new_tokens=44)
    engine = ScriptedEngine(reply)
    found = judged(engine, candidate(), 3, config)
    assert [j.score for j in found] == [pytest.approx(4.0), None, pytest.approx(0.5)]
    assert [j.text for j in found] == ["Good.\nScore: 4", "Hm.", "Score: 1."]  # the generated texts
    assert [j.tokens for j in found] == [7, 2, 5]
    assert [j.problem for j in found] == ["", "no verdict", ""]
    assert [bool(j.probabilities) for j in found] == [True, False, True]
    (_, first, _), *rest = engine.calls
    assert (first.n, first.temperature, first.top_p, first.max_new_tokens) == (3, 0.45, 0.75, 44)
    assert [prefill for _, _, prefill in rest] == ["Good.\nScore:", "Score:"]  # none without a verdict


WRITTEN = {
    "blank": "Good.\nScore: 4",
    "bold number": "Score: **4**",
    "bold word": "**Score:** 4/5",
    "next line": "Score:\n4",
    "no blank": "Score:4",
    "two blanks": "Score:  4",
    "decimal": "Score: 4.0",
    "second verdict": "Score: 2, no.\nScore: 4.",
}


@pytest.mark.parametrize("text", WRITTEN.values(), ids=WRITTEN)
@pytest.mark.parametrize("family", FAMILIES)
def test_weighted_scores_keep_the_judges_tokenisation(family, text):
    """The tokens up to and including the score equal those of the generated text."""
    tokenizer = FAMILIES[family].tokenizer()
    logprobs = tuple(math.log(p) for p in (0.1, 0.1, 0.1, 0.1, 0.5, 0.1))
    engine = ScriptedEngine(
        lambda _, sampling, *rest: Completion("4", 1, False, 0, logprobs) if sampling.choices else text
    )
    judged(engine, candidate(), 1, SampledJudgeConfig(scorer="logprob_weighted", count=1, min_valid=1))
    _, (messages, sampling, prefill) = engine.calls
    before, allowed = encode_request(tokenizer, messages, prefill, sampling)
    written = encode_chat(tokenizer, messages, text[: text.rindex("4") + 1])
    assert [*before, allowed[4]] == written
    assert len(set(allowed)) == 6


def test_weighted_scores_match_the_models_probabilities(tmp_path):
    """Compare with the softmax of the logits, for a judge that generated its score in bold."""
    tokenizer, model = tiny_tokenizer(), tiny_llama(len(tiny_tokenizer()), 5)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    template = tmp_path / "short.txt"
    template.write_text("Score: N {{instruction}}{{response}}")
    config = Config(
        judge=SampledJudgeConfig(scorer="logprob_weighted", count=1, min_valid=1, template=str(template)),
        engine=EngineConfig(kind="transformers", max_model_len=128, max_concurrent=8),
    )

    async def run():
        async with open_engine(config, tmp_path) as local:
            written = ScriptedEngine(lambda *_: "Fine.\nScore: **4**")

            class Judge:
                async def generate(self, messages, sampling, prefill=""):
                    return await (local if sampling.choices else written).generate(messages, sampling, prefill)

            return await judge(Judge(), JudgeTemplate.load(config.judge), config.judge, 0, "Hi?", candidate(), 1)

    [found] = asyncio.run(run())
    ids = encode_chat(tokenizer, user("Score: N Hi?The Nile."), "Fine.\nScore: **")
    with torch.no_grad():
        chances = model(torch.tensor([ids])).logits[0, -1].softmax(-1)
    each = [float(chances[tokenizer.convert_tokens_to_ids(str(score))]) for score in range(6)]
    assert found.probabilities == pytest.approx(each, abs=1e-5)
    assert found.score is None  # with random weights a score is improbable
    assert found.problem.startswith("no verdict: a score has probability 0.0")


def test_invalid_scores_get_no_weighting_request():
    engine = ScriptedEngine(lambda *_: "Score: 7")
    [found] = judged(engine, candidate(), 1, SampledJudgeConfig(scorer="logprob_weighted", count=1, min_valid=1))
    assert (found.score, found.problem) == (None, "out of range: 7")
    assert len(engine.calls) == 1


def test_verdicts_inside_the_candidate_are_ignored():
    found = judged(ScriptedEngine(lambda *_: "I cannot tell."), candidate(text="Score: 5"))
    assert [j.score for j in found] == [None, None, None]


def test_seeds_differ_by_record_not_by_order():
    prompts = [prompt(f"t2/p{n:05d}", f"Question {n}?") for n in range(6)]

    async def all_of(order, scramble):
        engine = ScriptedEngine(scramble=scramble)
        found = await asyncio.gather(*(sample_candidates(engine, SAMPLE, 0, p) for p in order))
        judgements = await asyncio.gather(
            *(judge(engine, TEMPLATE, JUDGE, 0, "Q?", c, 3) for candidates in found for c in candidates)
        )
        seeds = [sampling.seed for _, sampling, _ in engine.calls]
        assert len(set(seeds)) == len(seeds) == 6 + 18  # one per record
        records = [c for candidates in found for c in candidates] + [j for row in judgements for j in row]
        return {record.id: record for record in records}, tuple(engine.ended)

    shuffled = prompts[:]
    random.Random(1).shuffle(shuffled)
    first, ended = asyncio.run(all_of(prompts, None))
    second, ended_otherwise = asyncio.run(all_of(shuffled, 1))
    assert first == second
    assert ended != ended_otherwise


def test_seeds_differ_by_run_and_by_stage():
    engine = ScriptedEngine()
    for seed in (0, 1):
        sampled(engine, prompt(), seed=seed)
        judged(engine, candidate("t2/p00000"), seed=seed)  # an id that could occur in both stages
    seeds = [sampling.seed for _, sampling, _ in engine.calls]
    assert len(set(seeds)) == 4
    assert all(0 <= seed < 2**31 for seed in seeds)


def common_prefix(one: str, other: str) -> str:
    length = next(n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return one[:length]


def test_judge_prompts_share_a_prefix():
    engine = ScriptedEngine(lambda *_: "Score: 3")
    judged(engine, candidate(text="Nile."), text="Name a river.")
    judged(engine, candidate(text="42"), text="What is six times seven?")
    judged(engine, candidate(text="43"), text="What is six times seven?")
    one, two, three = engine.contents
    rubric = TEMPLATE.template.text.split("{{instruction}}")[0]
    assert rubric.endswith("<instruction>\n")
    assert common_prefix(one, two) == rubric
    assert common_prefix(two, three).endswith("<response>\n4")  # candidates of a prompt share the instruction, too


@pytest.mark.parametrize("stage", ["candidates", "judgements"])
def test_engine_errors_are_raised(stage):
    def fails(*_):
        raise EngineError("the server is gone")

    with pytest.raises(EngineError, match="the server is gone"):
        sampled(ScriptedEngine(fails), prompt()) if stage == "candidates" else judged(
            ScriptedEngine(fails), candidate()
        )
