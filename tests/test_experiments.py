"""The data of the studies: the scripts run, their files can be read, and their reference answers are correct."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from srlm.cli.judge_bench import rows as judge_rows
from srlm.config import JudgeBench
from srlm.data.checkers import follows, validate
from srlm.data.config import IFTAnswers, SourceConfig
from srlm.data.readers import read_ift, read_prompts, read_ranked
from srlm.io.files import write_atomic
from srlm.io.serialization import to_json
from srlm.pipeline.workspace import Workspace
from srlm.types import RankedAnswer, RankedPrompt, SeedExample
from tests.helpers import ROOT, judgement_from


def make(study: str, to: Path, *given: str) -> str:
    command = [sys.executable, str(ROOT / "experiments" / study / "make_data.py"), "--to", str(to), *given]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def assert_answers_are_right(evaluation: list[SeedExample], path: Path) -> None:
    answers = {row["id"]: row["response"] for row in rows(path)}
    for prompt in evaluation:
        assert prompt.constraints, prompt.id
        for constraint in prompt.constraints:
            validate(constraint)
            assert follows(constraint, answers[prompt.id]), prompt
            assert not follows(constraint, "I do not know."), prompt


def test_templates_data_share_answers_and_hold_out_types(tmp_path: Path) -> None:
    make("templates", tmp_path)
    ways = [
        read_ift(SourceConfig(path=str(tmp_path / f"{way}.jsonl")))
        for way in ("no_template", "task_name", "instruction")
    ]
    bare, named, instructed = ways
    assert [[one.response for one in way] for way in ways] == [[one.response for one in bare]] * 3
    for without, name, instruction in zip(bare, named, instructed, strict=True):
        assert name.prompt == f"[{without.type}] {without.prompt}"
        assert without.prompt in instruction.prompt
        assert len(instruction.prompt) > len(without.prompt)
    evaluation = read_prompts(SourceConfig(path=str(tmp_path / "evaluation.jsonl")))
    assert_answers_are_right(evaluation, tmp_path / "evaluation.jsonl")
    trained = {one.prompt for way in ways for one in way}
    assert not trained & {one.prompt for one in evaluation}
    kinds = {one.type for one in evaluation}
    assert kinds == {"held-out types, instruction", "held-out types, name", "trained types, instruction"}
    types = {one.type for one in bare}
    held_out = {one.id.rpartition("-")[0] for one in evaluation if one.type == "held-out types, instruction"}
    assert len(types) == 8
    assert not types & held_out
    again = tmp_path / "again"
    make("templates", again)
    assert (again / "instruction.jsonl").read_bytes() == (tmp_path / "instruction.jsonl").read_bytes()


def test_chain_of_thought_data_have_correct_steps(tmp_path: Path) -> None:
    make("chain_of_thought", tmp_path, "--train", "80", "--evaluation", "40")
    shares = {share: rows(tmp_path / f"share_{share:02}.jsonl") for share in (0, 10, 25, 50)}
    before: set[str] = set()
    for share, examples in shares.items():
        stepwise = {row["id"] for row in examples if not row["response"].startswith("Answer: ")}
        assert len(stepwise) == share / 100 * len(examples)
        assert before <= stepwise
        before = stepwise
        assert all(("step by step" in row["prompt"]) == (row["id"] in stepwise) for row in examples)
    sums = 0
    for row in shares[50]:
        for a, sign, b, c in re.findall(r"(\d+) ([-+*]) (\d+) = (\d+)", row["response"]):
            sums += 1
            assert {"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b)}[sign] == int(c), row
    assert sums > 30
    evaluation = read_prompts(SourceConfig(path=str(tmp_path / "evaluation.jsonl")))
    assert len(evaluation) == 80
    assert_answers_are_right(evaluation, tmp_path / "evaluation.jsonl")
    problems = {re.split(r" (?:Give only|Think step)", one.prompt)[0] for one in evaluation}
    assert len(problems) == 40
    assert not problems & {re.split(r" (?:Give only|Think step)", row["prompt"])[0] for row in shares[0]}


def test_reasoning_steps_end_with_the_answer(tmp_path: Path) -> None:
    make("chain_of_thought", tmp_path, "--train", "200", "--evaluation", "2")
    for row in rows(tmp_path / "share_50.jsonl")[:100]:
        steps, answer = row["response"].split(" Answer: ")
        last = steps.rstrip(".").split()[-1]
        if "Is the lamp on" in row["prompt"]:
            assert answer == {"on": "yes", "off": "no"}[last]
        elif "Who is the" in row["prompt"]:
            assert answer == last
        else:
            assert answer == re.findall(r"= (\d+)", steps)[-1]


def test_loss_over_instructions_data_have_long_and_short_answers(tmp_path: Path) -> None:
    reported = make("loss_over_instructions", tmp_path, "builtin")
    assert "long_instructions: " in reported
    long, short = (
        read_ift(SourceConfig(path=str(tmp_path / f"long_{kind}.jsonl"))) for kind in ("instructions", "answers")
    )
    assert len(long) == len(short)
    assert all(len(one.prompt) >= len(one.response) for one in long)
    assert all(4 * len(one.prompt) <= len(one.response) for one in short)
    held_out = read_ift(SourceConfig(path=str(tmp_path / "held_out_long_answers.jsonl")))
    assert not {one.id for one in short} & {one.id for one in held_out}


def test_seed_quality_data_have_best_all_and_worst_answers(tmp_path: Path) -> None:
    make("seed_quality", tmp_path, "builtin", "--held-out", "20")
    source = SourceConfig(path=str(tmp_path / "ranked.jsonl"))
    prompts = read_ranked(source)
    held_out = read_ift(SourceConfig(path=str(tmp_path / "held_out_best.jsonl")))
    assert len(held_out) == 20
    assert not {one.id for one in prompts} & {one.id for one in held_out}
    best, every, worst = (read_ift(source, 0, kept) for kept in (IFTAnswers.best, IFTAnswers.all, IFTAnswers.worst))
    assert len(best) == len(worst) == len(prompts)
    assert len(every) >= 3 * len(prompts)


@pytest.mark.parametrize("study", ["templates", "chain_of_thought", "loss_over_instructions", "seed_quality"])
def test_output_folder_is_required(study: str) -> None:
    maker = ROOT / "experiments" / study / "make_data.py"
    result = subprocess.run([sys.executable, str(maker)], capture_output=True, text=True, check=False, cwd=ROOT)
    assert result.returncode == 2
    assert "--to" in result.stderr


def test_judge_measures_are_pooled_over_seeds(tmp_path: Path) -> None:
    """The longer answer is better for two prompts and worse for a third; the judges prefer long or short answers."""
    ranked = [
        RankedPrompt(f"p{n}", "Name a river.", [RankedAnswer("The Elbe" * better, 0), RankedAnswer("The Elbe" * 2, 1)])
        for n, better in enumerate((3, 4, 1))
    ]
    for seed, held_out in enumerate((ranked, ranked[1:])):
        options = JudgeBench(models=["likes_long", "likes_short"], datasets=["builtin"], runs_dir=str(tmp_path))
        options.name = f"judges_{seed}"
        workspace = Workspace.of(options)
        workspace.save_config(options)
        for row in judge_rows(workspace, options):
            write_atomic(row.prompts, "".join(to_json(prompt) + "\n" for prompt in held_out))
            sign = 1 if row.model == "likes_long" else -1
            scores = {
                f"{prompt.id}/a{n}": 2 + sign * (len(answer.text) > 16) - sign * (len(answer.text) < 16)
                for prompt in held_out
                for n, answer in enumerate(prompt.answers)
            }
            judged = [judgement_from(candidate, f"Score: {score}") for candidate, score in scores.items()]
            write_atomic(row.judgements.outputs[0], "".join(to_json(judgement) + "\n" for judgement in judged))
    command = [sys.executable, str(ROOT / "experiments" / "eft_length_balance" / "pool.py")]
    result = subprocess.run(
        [*command, *(str(tmp_path / f"judges_{seed}") for seed in (0, 1))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    long, short = (part.splitlines() for part in result.stdout.strip().split("\n\n"))
    assert long[0] == "likes_long, likes_long"
    reported = {line[2:46].strip(): line[47:].strip() for line in long[1:]}
    assert reported["accuracy"].startswith("60 [")
    assert reported["accuracy"].endswith("seeds 67, 50; 5 pairs of 3 prompts")
    assert reported["accuracy, shorter preferred"] == "0              seeds 0, 0; 2 pairs of 1 prompts"
    assert reported["length bias, points"].startswith("100 ")
    assert reported["length-balanced accuracy"].startswith("50 ")
    reported = {line[2:46].strip(): line[47:].strip() for line in short[1:]}
    assert reported["accuracy"].startswith("40 [")
    less = next(line for line in short if line.startswith("  length bias, points, minus the first"))
    assert less.split()[-1] == "-200"


def test_readout_finds_the_layer_with_information(capsys: pytest.CaptureFixture[str]) -> None:
    """Of 12 layers only the last indicates the better answer; length is uninformative."""
    module = _script("eft_length_balance", "readout")
    number = torch.Generator().manual_seed(0)
    prompts, states = [], {}
    for place in range(60):
        longer = place % 2 == 0  # whether the better answer is longer
        texts = ("the longer one", "short")[:: 1 if longer else -1]
        prompts.append(RankedPrompt(f"p{place}", f"q{place}", (RankedAnswer(texts[0], 0), RankedAnswer(texts[1], 1))))
        for answer in (0, 1):
            layers = torch.randn(12, 8, generator=number)
            layers[-1, 3] += 3.0 * (answer == 0)
            states[place, answer] = layers
    module.show(prompts, states)
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "60 pairs of 60 prompts"
    assert len(lines) == 2 + 3 * 3 * 3
    right = {line.split("  ")[0].strip(): float(line.split()[-4]) for line in lines[1:-1]}
    assert right["last"] > 85
    shorter = [float(line.split()[-2]) for line in lines[1:-1] if line.startswith("last  ")]
    assert min(shorter) > 75
    for key in states:
        states[key][-1] = torch.randn(8, generator=number)
    module.show(prompts, states)
    lines = capsys.readouterr().out.splitlines()
    assert all(20 < float(line.split()[-4]) < 80 for line in lines[1:-1])


def _script(study: str, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "experiments" / study / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
