"""srlm.judges.controls: random scores, and scores from a prompt's constraints, instead of a judge of candidates."""

from __future__ import annotations

import asyncio
import json
import statistics
from pathlib import Path

import pytest

import srlm
from srlm.cli.check import check
from srlm.config import Config, JudgeBench
from srlm.engines.base import NoEngine
from srlm.engines.session import Generator, Session
from srlm.errors import ConfigError, SeedError
from srlm.evaluation.held_out import JudgeHeldOut, judge_is_measured
from srlm.generation.judgements import JudgeCandidates
from srlm.generation.pairs import SelectPairs
from srlm.generation.pool import PreparePool
from srlm.io.progress import Bars
from srlm.io.record_file import write_records
from srlm.judges import make_judge
from srlm.judges.base import judge_candidates
from srlm.judges.eft import sft_uses_eft
from srlm.judges.roles import feedback_config, judge_of
from srlm.pipeline.artifacts import CANDIDATES, JUDGEMENTS, PAIRS, PROMPTS
from srlm.pipeline.roles import iteration
from srlm.pipeline.workspace import Workspace
from srlm.recipes.turn import generate
from srlm.types import Constraint, Judgement, Prompt
from tests.helpers import all_stages, candidates_of, options, run_step

NO_COMMA = Constraint("punctuation:no_comma")
FORTY_TWO = Constraint("final_answer:number", {"number": 42})
CHECKED = Prompt("t2/p00000", "What is 6 times 7? Use no comma.", constraints=(NO_COMMA, FORTY_TWO))
PLAIN = Prompt("t2/p00001", "Name a river.")
ANSWERS = ["Answer: 42", "Well, it is 42", "Well, 41", "So it is 41"]
SCORES = [5.0, 2.5, 0.0, 2.5]  # half of 5 for each constraint that is followed


def control(name: str, *overrides: str) -> Config:
    return options(f"judge.model={name}", "prompts.path=builtin", *overrides)


def judgements(config: Config, *prompts: Prompt, answers: list[str] = ANSWERS) -> list[Judgement]:
    records = {one.id: one for one in prompts}
    candidates = {one.id: candidates_of(one.id, answers) for one in prompts}
    texts = {one.id: one.conversation for one in prompts}
    judge = make_judge(feedback_config(config))
    return asyncio.run(judge_candidates(judge, NoEngine(), texts, candidates, records=records))


def test_program_scores_the_share_of_followed_constraints() -> None:
    assert [one.score for one in judgements(control("program"), CHECKED)] == SCORES
    assert [one.score for one in judgements(control("program", "judge.max_score=2"), CHECKED)] == [2.0, 1.0, 0.0, 1.0]


def test_program_has_no_judgement_of_prompts_without_constraints() -> None:
    found = judgements(control("program"), PLAIN)
    assert {(one.score, one.problem) for one in found} == {
        (None, "the prompt has no constraint that a program can check")
    }


def test_random_scores_follow_from_seed_and_id_only() -> None:
    answers = [str(n) for n in range(400)]
    scores = [one.score for one in judgements(control("random"), PLAIN, answers=answers)]
    again = [one.score for one in judgements(control("random"), PLAIN, answers=answers[::-1])]
    other = [one.score for one in judgements(control("random", "seed=1"), PLAIN, answers=answers)]
    assert scores == again != other
    assert 0 <= min(scores) < 0.1 < 4.9 < max(scores) <= 5
    assert abs(statistics.mean(scores) - 2.5) < 4 * 5 / (12 * 400) ** 0.5  # four standard errors
    assert abs(statistics.correlation(scores, other)) < 4 / 400**0.5


@pytest.mark.parametrize("judge", ["additive", "pairwise", "implicit", "logprob_weighted"])
def test_control_replaces_only_the_judge_of_candidates(tmp_path: Path, judge: str) -> None:
    arms = {name: control(name, f"judge={judge}", f"runs_dir={tmp_path}") for name in ("self", "random", "program")}
    made: dict[str, dict[str, dict[str, object]]] = {}
    for name, config in arms.items():
        config.name = "run"
        stages = all_stages(Workspace.of(config), config)
        made[name] = {f"{one.t} {one.name} {one.place}": dict(one.options) for one in stages}
        assert (judge_of(config, 1) == iteration(1)) == (name == "self")
        assert sft_uses_eft(config) == (judge != "implicit")
        assert JudgeHeldOut(Workspace.of(config), config, 1).generator().model == iteration(1)
    for name in ("random", "program"):
        different = {key for key in made["self"] if made[name].get(key) != made["self"][key]}
        assert {"2 judgements iteration"} <= different <= {"2 judgements iteration", "2 pairs iteration"}
        assert set(made[name]) == set(made["self"])
        assert made[name]["2 judgements iteration"] == {"judge.max_score": 5, "judge.model": name, "seed": 0}


def test_control_needs_no_reward_model(tmp_path: Path) -> None:
    config = control("random", "judge=reward_model", f"runs_dir={tmp_path}")
    names = [one.name for one in all_stages(Workspace.of(config), config) if one.wanted()]
    assert "judgements" in names
    assert not {"reward_model", "held_out_judgements"} & set(names)
    assert not judge_is_measured(config, 2)


def test_program_judges_in_a_run_and_gives_pairs_by_one_judgement(tmp_path: Path) -> None:
    config = control("program", "judge=additive", f"runs_dir={tmp_path}", "candidates.count=4", "name=run")
    assert config.judge.min_valid == 2
    workspace = Workspace.of(config)
    write_records(PROMPTS.path(workspace, 2), [CHECKED, PLAIN])
    write_records(CANDIDATES.path(workspace, 2), [c for p in (CHECKED, PLAIN) for c in candidates_of(p.id, ANSWERS)])
    [own] = [one for one in generate(workspace, config, 1, feedback=True) if one.name == "generation"]
    assert isinstance(own, Session)
    [stage] = [one for one in own.stages() if isinstance(one, JudgeCandidates)]
    assert stage.generator() == Generator(judge_of(config, 1))
    with Bars() as bars:
        asyncio.run(stage.generate(NoEngine(), bars))
    found = {one.candidate_id: one.score for one in JUDGEMENTS.read(workspace, 2)}
    assert [found[f"{CHECKED.id}/c{n}"] for n in range(4)] == SCORES
    counts = stage.manifest().counts
    assert (counts["judgements"], counts["valid"], counts["saved"]) == (8, 4, 0)
    assert counts["problems"] == {"the prompt has no constraint that a program can check": 4}
    run_step(SelectPairs(workspace, config, 2))
    [pair] = PAIRS.read(workspace, 2)
    assert (pair.chosen, pair.rejected) == (ANSWERS[0], ANSWERS[2])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("judge.model=program",), r"prompts\.path='' .* prompts with constraints with judge\.model=program"),
        (("judge=meta", "judge.model=random"), r"judge\.meta=True .* false with judge\.model=random"),
        (("prompts.model=random",), r"prompts\.model='random' .* random is a program, which only judges candidates"),
        (("evaluation.judge=program",), r"evaluation\.judge='program' .* program is a program"),
    ],
)
def test_combinations_that_cannot_work_are_refused(overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        options("iteration=2", *overrides)


def test_pool_without_constraints_is_refused_before_training(tmp_path: Path) -> None:
    config = control("program", f"runs_dir={tmp_path}", "name=run")
    with pytest.raises(SeedError, match=r"prompts\.path=builtin has no prompts with constraints"):
        PreparePool(Workspace.of(config), config).run()


def test_score_of_the_python_interface_uses_the_prompts_constraints() -> None:
    prompts = [CHECKED, PLAIN]
    scores = srlm.score(prompts, [ANSWERS, ANSWERS], config=control("program", "judge=additive"))
    assert scores.means == [SCORES, [None] * 4]


def test_commands_without_candidates_refuse_a_control() -> None:
    bench = JudgeBench()
    bench.judge.model = "random"
    with pytest.raises(ConfigError, match=r"judge\.model='random' .* judges the candidates of a run"):
        check(bench)


def test_control_is_stored_in_the_manifest_by_its_role(tmp_path: Path) -> None:
    config = control("random", f"runs_dir={tmp_path}")
    stored = json.dumps(JudgeCandidates(Workspace.of(config), config, 2).options)
    assert "random" in stored
    assert "controls" not in stored  # a moved module must not invalidate old runs
