"""srlm.judges.judging and .tournament: pairwise and sequence-scoring judges, from requests to scores, with resume."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace

import pytest

from srlm.config import Config
from srlm.engines.base import Completion, Usage
from srlm.errors import EngineError, PromptTooLongError
from srlm.io.record_file import read_records
from srlm.judges.bradley_terry import bradley_terry, shares_of_wins
from srlm.judges.config import SampledJudgeConfig, options_type
from srlm.judges.judging import Judging
from srlm.pipeline.stage import Stage
from srlm.pipeline.workspace import Workspace
from srlm.preferences.config import Truncated
from srlm.types import Comparison, Judgement, Rating
from tests.helpers import ScriptedEngine, candidates_of

NAMES = ("judgements.jsonl", "evidence.jsonl")


def config_of(scorer: str, **judge) -> Config:
    return Config(judge=options_type(scorer)(**judge))


def judged(engine, config, tmp_path, prompts: dict[str, list[str]], on_progress=lambda *_: None, truncated=()):
    """Judge all candidates of the prompts as a stage does."""
    workspace = Workspace(tmp_path)
    stage = Stage(workspace, tmp_path, "judgements", NAMES, {})

    async def run():
        judging = Judging(engine, config, stage, 1, on_progress)
        rows = {id: candidates_of(id, texts) for id, texts in prompts.items()}
        rows = {id: [replace(one, truncated=one.id in truncated) for one in row] for id, row in rows.items()}
        jobs = [judging.prompt(id, f"question {id}", row) for id, row in rows.items()]
        await asyncio.gather(*jobs)
        return judging, judging.finish()

    judging, judgements = asyncio.run(run())
    assert read_records(stage.outputs[0], Judgement) == judgements
    return judging, {judgement.candidate_id: judgement for judgement in judgements}


def prefers(*order: str, position_bias: float = 0.0):
    """Return a judge that prefers texts in this order, with a bias to the first position."""

    def reply(messages, *_):
        content = messages[0]["content"]
        a = content.split("<answer_a>")[1].split("</answer_a>")[0].strip()
        b = content.split("<answer_b>")[1].split("</answer_b>")[0].strip()
        margin = order.index(b) - order.index(a) + position_bias
        logprobs = (-math.log1p(math.exp(-margin)), -math.log1p(math.exp(margin)))
        return Completion(" A" if margin > 0 else " B", 1, False, 0, logprobs)

    return reply


TEXTS = ["rain", "snow", "hail", "sun"]


@pytest.mark.parametrize("position_bias", [0.0, 10.0, -10.0])
def test_all_pairs_are_compared_in_both_orders(tmp_path, position_bias):
    engine = ScriptedEngine(prefers("sun", "rain", "hail", "snow", position_bias=position_bias), scramble=1)
    pieces = []
    judging, found = judged(engine, config_of("pairwise"), tmp_path, {"p0": TEXTS}, lambda *t: pieces.append(t))
    assert len(engine.calls) == len(set(engine.contents)) == 12 == judging.pieces(4)
    assert sum(new for new, _ in pieces) == sum(tokens for _, tokens in pieces) == 12
    wins = {(0, 1): 1, (2, 1): 1, (0, 2): 1, (3, 0): 1, (3, 1): 1, (3, 2): 1}
    table = [[float(wins.get((i, j), 0)) for j in range(4)] for i in range(4)]
    import numpy as np

    strengths = bradley_terry(np.array(table)).tolist()
    assert [found[f"p0/c{n}"].strength for n in range(4)] == pytest.approx(strengths)
    assert [found[f"p0/c{n}"].score for n in range(4)] == pytest.approx(shares_of_wins(strengths, 5))
    assert sorted(found, key=lambda id: -found[id].score) == ["p0/c3", "p0/c0", "p0/c2", "p0/c1"]


def test_always_a_without_probabilities_ties_all_candidates(tmp_path):
    _, found = judged(ScriptedEngine(lambda *_: " A"), config_of("pairwise"), tmp_path, {"p0": TEXTS[:3]})
    assert [judgement.score for judgement in found.values()] == [2.5] * 3


def test_unparsed_comparisons_are_missing_not_losses(tmp_path):
    def reply(messages, *rest):
        content = messages[0]["content"]
        return " neither" if "snow" in content else prefers(*TEXTS)(messages, *rest)

    _, found = judged(ScriptedEngine(reply), config_of("pairwise"), tmp_path, {"p0": TEXTS[:3], "p1": ["snow", "sun"]})
    assert found["p0/c1"].score is None
    assert found["p0/c1"].problem == "nothing to compare it with"
    assert found["p0/c0"].score > 2.5 > found["p0/c2"].score
    assert found["p1/c0"].score is found["p1/c1"].score is None


def test_comparisons_too_long_for_the_judge_are_missing(tmp_path):
    def reply(messages, *rest):
        if "snow" in messages[0]["content"]:
            raise PromptTooLongError("9 tokens")
        return prefers(*TEXTS)(messages, *rest)

    judging, found = judged(ScriptedEngine(reply), config_of("pairwise"), tmp_path, {"p0": TEXTS[:3]})
    assert found["p0/c1"].score is None
    assert found["p0/c0"].score > 2.5 > found["p0/c2"].score  # and the position bias of the others is still removed
    problems = {c.problem for c in judging.evidence.file.records.values() if c.winner is None}
    assert problems == {"too long for the judge: 9 tokens"}


def test_comparison_budget_holds_and_rounds_are_reproducible(tmp_path):
    texts = [f"text {n}" for n in range(6)]
    config = config_of("pairwise", max_comparisons=7)
    asked = []
    for scramble in (1, 2):
        engine = ScriptedEngine(prefers(*texts), scramble=scramble)
        judged(engine, config, tmp_path / str(scramble), {"p0": texts, "p1": texts})
        assert len(engine.calls) == 2 * 2 * 7
        asked.append(sorted(engine.contents))
    assert asked[0] == asked[1]


@pytest.mark.parametrize("scorer", ["pairwise", "reward_model"])
def test_resume_requests_only_missing_judgements(tmp_path, scorer):
    """The first run is killed after some requests; the second requests only the rest and gives the same result."""
    config = config_of(scorer)
    prompts = {f"p{n}": TEXTS for n in range(3)}

    def breaks_after(calls):
        def count():
            nonlocal calls
            calls -= 1
            if calls < 0:
                raise EngineError("killed")

        return count

    def engine_of(tick):
        if scorer == "pairwise":
            return ScriptedEngine(lambda *request: (tick(), prefers(*TEXTS)(*request))[1])
        return ScriptedScorer(lambda *request: (tick(), float(len(request[1])))[1])

    whole = engine_of(lambda: None)
    _, expected = judged(whole, config, tmp_path / "whole", prompts)
    with pytest.raises(EngineError, match="killed"):
        judged(engine_of(breaks_after(7)), config, tmp_path / "cut", prompts)
    kind = Comparison if scorer == "pairwise" else Rating
    kept = len(read_records(tmp_path / "cut" / NAMES[1], kind))
    assert kept == 7
    again = engine_of(lambda: None)
    progress = []
    _, found = judged(again, config, tmp_path / "cut", prompts, lambda new, _: progress.append(new))
    assert found == expected
    assert len(again.calls) == len(whole.calls) - kept
    assert sum(progress) == len(whole.calls)  # stored judgements count as done


class ScriptedScorer:
    def __init__(self, strength):
        self.strength, self.calls, self.ended, self.usage = strength, [], [], Usage()

    async def score(self, prompt, answer, priority=0, ended=True):
        self.calls.append((prompt, answer))
        self.ended.append(ended)
        await asyncio.sleep(0)
        return self.strength(prompt, answer), 10 * len(answer)

    async def close(self): ...


def test_ratings_become_scores_within_the_prompt(tmp_path):
    rater = ScriptedScorer(lambda prompt, answer: {"rain": 2.0, "snow": 0.0, "hail": 1.0}[answer] + len(prompt))
    judging, found = judged(rater, config_of("reward_model"), tmp_path, {"p0": TEXTS[:3], "p10": TEXTS[:3]})
    for prompt_id in ("p0", "p10"):
        scores = [found[f"{prompt_id}/c{n}"].score for n in range(3)]
        assert scores == pytest.approx(shares_of_wins([2.0, 0.0, 1.0], 5))
    assert found["p10/c0"].strength == found["p0/c0"].strength + 1
    assert judging.counted == {"length_penalty": 0.0}
    assert ("question p0", "rain") in rater.calls


def test_ratings_of_too_long_answers_are_missing(tmp_path):
    def strength(_, answer):
        if answer == "snow":
            raise PromptTooLongError("too many")
        return float(len(answer))

    _, found = judged(ScriptedScorer(strength), config_of("implicit"), tmp_path, {"p0": ["rain", "snow", "hailstorm"]})
    assert (found["p0/c1"].score, found["p0/c1"].problem) == (None, "too long for the judge: too many")
    assert found["p0/c2"].score > found["p0/c0"].score


def test_length_penalty_is_subtracted_per_token(tmp_path):
    rater = ScriptedScorer(lambda _, answer: 0.1 * len(answer))  # 10 tokens per character
    _, found = judged(rater, config_of("implicit", length_penalty=0.02), tmp_path, {"p0": ["ab", "abcd"]})
    assert found["p0/c0"].strength == pytest.approx(0.2 - 0.02 * 20)
    assert found["p0/c0"].score > found["p0/c1"].score


def test_length_matching_penalty_is_computed_and_reported(tmp_path):
    rater = ScriptedScorer(lambda prompt, answer: 0.1 * len(answer) + (len(prompt) + len(answer)) % 3)
    prompts = {f"p{10**n}": ["a" * k for k in (2, 5, 9, 14)] for n in range(6)}
    judging, _ = judged(rater, config_of("implicit", length_penalty=None), tmp_path, prompts)
    assert judging.counted["length_penalty"] > 0
    plain, _ = judged(rater, config_of("implicit"), tmp_path / "plain", prompts)
    assert plain.counted["length_penalty"] == 0

    def gap(penalty):
        gaps = []
        for id, texts in prompts.items():
            s = [rater.strength(f"question {id}", text) - penalty * 10 * len(text) for text in texts]
            gaps.append(len(texts[s.index(max(s))]) - len(texts[s.index(min(s))]))
        return sum(gaps) / len(gaps)

    assert abs(gap(judging.counted["length_penalty"])) < abs(gap(0))


def test_truncated_answers_are_scored_without_end_of_turn(tmp_path):
    rater = ScriptedScorer(lambda _, answer: float(len(answer)))
    judged(rater, config_of("implicit"), tmp_path, {"p0": ["rain", "snowfall"]}, truncated=["p0/c1"])
    assert dict(zip([answer for _, answer in rater.calls], rater.ended, strict=True)) == {
        "rain": True,
        "snowfall": False,
    }


@pytest.mark.parametrize(("keep", "positive"), [("exclude", False), ("keep", True)])
def test_matching_penalty_uses_only_candidates_eligible_for_pairs(tmp_path, keep, positive):
    """Only the truncated answer is both long and strong."""
    rater = ScriptedScorer(lambda _, answer: {"long and cut off": 3.0, "good": 2.0, "poor": 1.0}[answer])
    config = config_of("implicit", length_penalty=None)
    config.pairs.truncated = Truncated[keep]
    texts = {f"p{n}": ["long and cut off", "good", "poor"] for n in range(3)}
    judging, _ = judged(rater, config, tmp_path, texts, truncated=[f"p{n}/c0" for n in range(3)])
    assert (judging.counted["length_penalty"] > 0) is positive


def test_early_stopping_uses_candidate_lengths_and_truncation(tmp_path):
    """Which candidate needs all judgements is decided by its score minus the penalty on its text."""
    scores = {"x" * 900: 5, "y" * 300: 4, "z" * 100: 5, "w" * 10: 0}
    engine = ScriptedEngine(
        lambda messages, *_: next(f"Score: {score}" for text, score in scores.items() if text in messages[0]["content"])
    )
    config = Config(judge=SampledJudgeConfig(count=8, min_valid=2, early_stopping=True, early_stopping_risk=0.0))
    config.pairs.length_penalty = 1.0
    stage = Stage(Workspace(tmp_path), tmp_path, "judgements", NAMES[:1], {})
    candidates = candidates_of("p0", list(scores))
    candidates[3] = replace(candidates[3], truncated=True)

    async def run():
        judging = Judging(engine, config, stage, 8, lambda *_: None, early_stopping=True)
        await judging.prompt("p0", "question", candidates)
        return judging

    judging = asyncio.run(run())
    asked = [len(judging.of(candidate.id)) for candidate in candidates]
    assert asked[0] == asked[2] == 8
    assert asked[1] < 8
    assert asked[3] == 0


def test_the_sampled_judge_stores_judgements_without_evidence(tmp_path):
    config = Config(judge=SampledJudgeConfig(count=2, min_valid=1))
    stage = Stage(Workspace(tmp_path), tmp_path, "judgements", NAMES[:1], {})
    judging = Judging(ScriptedEngine(lambda *_: "Score: 3"), config, stage, 2, lambda *_: None)
    asyncio.run(judging.prompt("p0", "q", candidates_of("p0", ["a", "b"])))
    assert [(j.id, j.score) for j in judging.finish()] == [(f"p0/c{c}/j{j}", 3.0) for c in range(2) for j in range(2)]
    assert [j.id for j in judging.of("p0/c1")] == ["p0/c1/j0", "p0/c1/j1"]
    assert replace(judging.of("p0/c1")[0], strength=None) == judging.of("p0/c1")[0]


@pytest.mark.parametrize("scorer", ["pairwise", "logprob_weighted"])
def test_candidate_whose_thought_was_cut_is_not_judged(tmp_path, scorer):
    workspace = Workspace(tmp_path)
    stage = Stage(workspace, tmp_path, "judgements", NAMES if scorer == "pairwise" else NAMES[:1], {})
    engine = ScriptedEngine(lambda *_: " A" if scorer == "pairwise" else "Score: 3")
    cut = {"text": "", "thought": "<think>I", "truncated": True}
    rows = [replace(one, **cut) if n else one for n, one in enumerate(candidates_of("p0", ["rain", "", ""]))]

    async def run():
        judging = Judging(engine, config_of(scorer), stage, 1, lambda *_: None)
        await judging.prompt("p0", "question", rows)
        await judging.prompt(
            "p1", "question", [replace(one, prompt_id="p1", id=f"p1/{one.id[-2:]}") for one in rows[1:]]
        )
        return judging.finish()

    found = asyncio.run(run())
    assert len(engine.calls) == (0 if scorer == "pairwise" else 1)
    assert {judgement.candidate_id for judgement in found} <= {"p0/c0"}
