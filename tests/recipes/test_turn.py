"""srlm.recipes.turn: the generation sessions of one model, and which of them start an engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from srlm.config import Config
from srlm.engines import session
from srlm.engines.session import Session
from srlm.evaluation.held_out import JudgeHeldOut
from srlm.generation.candidates import SampleCandidates
from srlm.generation.judgements import JudgeCandidates
from srlm.generation.prompts import WritePrompts
from srlm.io.record_file import read_records, write_records
from srlm.judges.base import Judge, JudgeSpec
from srlm.judges.config import JudgeConfig
from srlm.pipeline.artifacts import EFT_HELD_OUT
from srlm.pipeline.roles import PROGRAM
from srlm.pipeline.workspace import Workspace
from srlm.recipes.turn import generate
from srlm.types import Judgement
from tests.helpers import ScriptedEngine, candidates_of, prompt, ranked


class LongestWins(Judge):
    """A judge that is a program: its score is the answer's length."""

    spec = JudgeSpec(runs_on="program", fields=())

    async def judge(self, prompt, candidates, engine, known, emit):
        emit(*(Judgement(f"{one.id}/j0", one.id, "", float(len(one.text))) for one in candidates))


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the list of models whose engines are started."""
    found: list[str] = []

    @asynccontextmanager
    async def open_engine(config: Config, folder: Path, model: Any = None) -> AsyncIterator[ScriptedEngine]:
        found.append(folder.parent.name)
        yield ScriptedEngine()

    monkeypatch.setattr(session, "open_engine", open_engine)
    return found


def judged_by_program(root: Path) -> tuple[Workspace, Config]:
    config = Config(name="run", runs_dir=str(root), judge=JudgeConfig(scorer=f"{__name__}:LongestWins"))
    workspace = Workspace.of(config)
    write_records(EFT_HELD_OUT.path(workspace), [ranked("e0", (0, 1))])
    return workspace, config


def own_session(workspace: Workspace, config: Config) -> Session:
    [own] = [one for one in generate(workspace, config, 1, feedback=True) if one.name == "generation"]
    return own


def test_program_judge_needs_no_session_and_no_model_options(tmp_path: Path) -> None:
    workspace, config = judged_by_program(tmp_path)
    sessions = list(generate(workspace, config, 1, feedback=True))
    assert [one.name for one in sessions] == ["generation"]
    judging = [one for one in sessions[0].stages() if isinstance(one, JudgeCandidates | JudgeHeldOut)]
    assert [stage.generator().model for stage in judging] == [PROGRAM, PROGRAM]
    for stage in judging:
        assert not [name for name in stage.options if name.startswith(("engine.", "model.", "endpoint."))]
        assert not stage.libraries


@pytest.mark.parametrize("missing", [[], ["2_candidates.jsonl"]])
def test_engine_starts_only_if_a_stage_is_missing(tmp_path: Path, opened: list[str], missing: list[str]) -> None:
    workspace, config = judged_by_program(tmp_path)
    config.prompts.count, config.candidates.count = 1, 2
    own = own_session(workspace, config)
    records = {WritePrompts: [prompt("t2/p00000")], SampleCandidates: candidates_of("t2/p00000", ["long one", "short"])}
    for stage in own.stages():
        if not isinstance(stage, JudgeCandidates | JudgeHeldOut) and stage.outputs[0].name not in missing:
            for output in stage.outputs:
                write_records(output, records.get(type(stage), []))
            stage.done({}, {})
    asyncio.run(own.run(workspace, config))
    assert opened == (["iteration_1"] if missing else [])
    for stage in own.stages():
        assert stage.complete()
    judgements = read_records(JudgeCandidates(workspace, config, 2).outputs[0], Judgement)
    assert len(judgements) == 2
    assert missing or [one.score for one in judgements] == [8.0, 5.0]
