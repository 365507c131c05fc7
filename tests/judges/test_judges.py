"""srlm.judges: judges by name, external judges, judging without a stage or files."""

from __future__ import annotations

import asyncio

import pytest

from srlm.config import Config
from srlm.errors import ConfigError, EngineError
from srlm.judges import JUDGES, judge_named, make_judge, spec_of
from srlm.judges.base import Judge, JudgeSpec, judge_answers
from srlm.judges.config import JUDGE_OPTIONS, LogprobJudgeConfig, PairwiseJudgeConfig, SampledJudgeConfig
from srlm.judges.pointwise import LogprobJudge
from srlm.types import Judgement
from tests.helpers import ScriptedEngine, candidates_of


class LongestWins(Judge):
    """An external judge that runs no model."""

    spec = JudgeSpec(runs_on="program", fields=())

    async def judge(self, prompt, candidates, engine, known, emit):
        emit(*(Judgement(f"{one.id}/j0", one.id, "", float(len(one.text))) for one in candidates))


NO_JUDGE = object()


@pytest.mark.parametrize("name", JUDGES)
def test_every_judge_has_its_spec(name):
    judge = judge_named(name)
    assert judge.options_type is JUDGE_OPTIONS[name]
    assert spec_of(JUDGE_OPTIONS[name](scorer=name)) is judge.spec
    assert isinstance(judge.spec, JudgeSpec)


def test_external_judges_are_named_by_module_and_class():
    judge = judge_named(f"{__name__}:LongestWins")
    found = asyncio.run(judge_answers(judge(Config()), None, "Why?", ["Because.", "So."]))
    assert [(one.candidate_id, one.score) for one in found] == [("prompt/c0", 8.0), ("prompt/c1", 3.0)]


@pytest.mark.parametrize("name", ["charm", "nowhere:Judge", f"{__name__}:Missing", f"{__name__}:NO_JUDGE"])
def test_names_that_are_no_judge_are_refused(name):
    with pytest.raises(ConfigError, match=f"^judge.scorer={name}"):
        judge_named(name)


class OwnLogprob(LogprobJudge):
    """An external judge that inherits score reading."""


def test_external_subclasses_read_probabilities_like_their_base():
    config = Config(judge=LogprobJudgeConfig())
    calls = []
    for kind in (LogprobJudge, OwnLogprob):
        config.judge.scorer = "logprob" if kind is LogprobJudge else f"{__name__}:OwnLogprob"
        engine = ScriptedEngine(lambda *_: "Score: 4")
        with pytest.raises(EngineError, match="returns no probabilities"):  # a scripted engine has none
            asyncio.run(judge_answers(kind(config), engine, "Why?", ["Because."]))
        calls.append([sampling.choices for _, sampling, _ in engine.calls])
    assert calls[0] == calls[1]
    assert calls[0][0]


def test_judging_needs_no_stage_and_no_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    engine = ScriptedEngine(lambda messages, *_: "Score: 4" if "rain" in messages[0]["content"] else "Score: 1")
    judge = make_judge(Config(judge=SampledJudgeConfig(count=2)))
    found = asyncio.run(judge_answers(judge, engine, "What falls?", ["rain", "sun"]))
    assert [one.score for one in found] == [4.0, 4.0, 1.0, 1.0]
    assert not list(tmp_path.iterdir())


def test_known_comparisons_are_not_requested_again():
    config = Config(judge=PairwiseJudgeConfig())
    judge, engine = make_judge(config), ScriptedEngine(lambda *_: " A")
    rows, known = candidates_of("p0", ["rain", "snow", "hail"]), {}

    def emit(*records):
        known.update((record.id, record) for record in records)

    asyncio.run(judge.judge("What falls?", rows, engine, known, emit))
    assert len(engine.calls) == judge.pieces(3) == 6
    asyncio.run(judge.judge("What falls?", rows, engine, dict(list(known.items())[:4]), lambda *_: None))
    assert len(engine.calls) == 8
