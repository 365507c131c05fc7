"""The loop and judge-bench with pairwise and sequence-scoring judges: a two-layer model, real trainers."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from srlm.engines.config import EngineConfig
from srlm.engines.scoring import ImplicitReward, RewardModel
from srlm.io.record_file import read_records
from srlm.models.config import ModelConfig
from srlm.models.resolve import resolve
from srlm.types import Candidate, Comparison, JudgeExample, Judgement, PreferencePair, Rating
from tests.forked import run_forked

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.variant]
KINDS = {"pairwise": Comparison, "reward_model": Rating}


def run(module: str, *options: str) -> str:
    result = run_forked(module, "engine=transformers", *options)
    assert result.returncode == 0, result.stderr[-4000:]
    return result.stderr


@pytest.fixture(scope="module", params=KINDS)
def finished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, str]:
    """Return a finished run to M2: its judge, its folder and its output."""
    judge, runs = request.param, tmp_path_factory.mktemp("runs")
    options = ["experiment=smoke", f"judge={judge}", f"runs_dir={runs}", "data.eft_limit=48", "prompts.count=3"]
    options += ["evaluation.prompts=2"]
    return judge, runs / "smoke", run("srlm.run", *options)


def test_scores_follow_evidence_and_pairs_follow_scores(finished: tuple[str, Path, str]) -> None:
    judge, folder, printed = finished
    name = "comparisons" if judge == "pairwise" else "ratings"
    evidence = read_records(folder / f"iteration_2/3_{name}.jsonl", KINDS[judge])
    candidates = read_records(folder / "iteration_2/2_candidates.jsonl", Candidate)
    judgements = read_records(folder / "iteration_2/3_judgements.jsonl", Judgement)
    assert len(candidates) == 3 * 4
    assert len(evidence) == (3 * 12 if judge == "pairwise" else 3 * 4)
    assert [judgement.candidate_id for judgement in judgements] == [candidate.id for candidate in candidates]
    of_prompt: dict[str, list[float]] = defaultdict(list)
    for judgement in judgements:
        assert judgement.strength is not None
        assert judgement.score is not None
        of_prompt[judgement.candidate_id.rsplit("/", 1)[0]].append(judgement.score)
    for scores in of_prompt.values():  # each match has a winner
        assert sum(scores) / len(scores) == pytest.approx(2.5)
    by_id = {judgement.candidate_id: judgement.score for judgement in judgements}
    for pair in read_records(folder / "iteration_2/4_pairs.jsonl", PreferencePair):
        scores = of_prompt[pair.id]
        assert (by_id[pair.chosen_id], by_id[pair.rejected_id]) == (max(scores), min(scores))
    for t in range(3):
        measures = json.loads((folder / f"iteration_{t}/evaluation.json").read_text())
        assert ("judge" in measures) == (t > 0 or judge != "reward_model")
    assert (measures["judge"]["position_consistency"]["value"] is not None) == (judge == "pairwise")
    assert "Traceback" not in printed
    assert "M2" in printed


def test_each_judge_trains_on_its_own_data(finished: tuple[str, Path, str]) -> None:
    judge, folder, _ = finished
    eft = folder / "iteration_1/eft.jsonl"
    sft = json.loads((folder / "iteration_1/manifests/sft.json").read_text())
    assert ("iteration_1/eft.jsonl" in sft["inputs"]) == (judge == "pairwise")  # otherwise M1 is trained on IFT only
    examples = read_records(eft, JudgeExample)
    assert all(example.other is not None for example in examples)
    assert sum(example.score for example in examples) == len(examples) / 2
    if judge == "reward_model":
        stage = json.loads((folder / "iteration_1/manifests/reward_model.json").read_text())
        assert stage["counts"]["pairs"] + stage["counts"]["too_long"] == len(examples)
        assert "iteration_1/model" in stage["inputs"]
        judged = json.loads((folder / "iteration_2/manifests/judgements.json").read_text())
        assert judged["inputs"]["iteration_1/reward_model"] == stage["outputs"]["iteration_1/reward_model"]
        engine = EngineConfig(max_model_len=1024, max_concurrent=8)
        RewardModel(engine, folder / "iteration_1/reward_model", ModelConfig())


def test_the_same_command_changes_no_records(finished: tuple[str, Path, str]) -> None:
    judge, folder, _ = finished
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.jsonl")}
    options = [f"judge={judge}", f"runs_dir={folder.parent}", "data.eft_limit=48", "prompts.count=3"]
    options += ["evaluation.prompts=2"]
    printed = run("srlm.run", "experiment=smoke", *options)
    assert "writes" not in printed
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.jsonl") if path in before} == before


def test_dpo_raises_the_implicit_reward_of_the_chosen(finished: tuple[str, Path, str]) -> None:
    """On the training pairs, M2's implicit reward relative to M1 is higher for chosen than for rejected answers."""
    _, folder, _ = finished
    pairs = read_records(folder / "iteration_2/4_pairs.jsonl", PreferencePair)
    models = (folder / "iteration_2/model", folder / "iteration_1/model")
    rater = ImplicitReward(EngineConfig(max_model_len=1024, max_concurrent=8), *models, 0.1, ModelConfig())

    async def margins() -> list[float]:
        found = []
        for pair in pairs:
            (chosen, _), (rejected, _) = [await rater.score(pair.prompt, text) for text in (pair.chosen, pair.rejected)]
            found.append(chosen - rejected)
        await rater.close()
        return found

    found = asyncio.run(margins())
    assert sum(found) / len(found) > 0


def test_judge_bench_works_with_every_judge(tmp_path: Path) -> None:
    base = resolve(ModelConfig(name="tiny-random"))
    torch.manual_seed(0)
    reward_model = tmp_path / "reward_model"
    AutoModelForSequenceClassification.from_pretrained(base, num_labels=1).save_pretrained(reward_model)
    AutoTokenizer.from_pretrained(base).save_pretrained(reward_model)
    other = tmp_path / "other"
    model = AutoModelForCausalLM.from_pretrained(base)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.02)
    model.save_pretrained(other)
    AutoTokenizer.from_pretrained(base).save_pretrained(other)
    common = ["model=tiny_random", f"runs_dir={tmp_path}/runs", "limit=6", "evaluation.bootstrap=100"]
    common += ["engine.max_model_len=1024"]
    for judge, judged in (("pairwise", "tiny-random"), ("implicit", other), ("reward_model", reward_model)):
        printed = run("srlm.cli.judge_bench", *common, f"name={judge}", f"judge={judge}", f"models=[{judged}]")
        [row] = json.loads((tmp_path / "runs" / judge / "judge_metrics.json").read_text())["rows"]
        assert row["measures"]["pair_coverage"]["value"] == 1.0
        assert row["judgements"] == row["cost"]["judgements"]
        assert ("position consistency, %" in printed) == (judge == "pairwise")
        assert {path.suffix for path in (tmp_path / "runs" / judge / "plots").iterdir()} == {".png", ".svg"}
