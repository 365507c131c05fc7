"""A small run folder to M2 with hand-written records, so that tests can check every number."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from srlm.config import Config
from srlm.generation.pairs import SelectPairs
from srlm.io import serialization
from srlm.judges.config import JudgeConfig, SampledJudgeConfig
from srlm.pipeline.workspace import Workspace
from srlm.preferences.alarms import feedback_statistics
from srlm.preferences.pairs import count_reasons, select_pairs
from srlm.types import (
    Answer,
    Candidate,
    Comparison,
    Constraint,
    Judgement,
    Prompt,
    RankedAnswer,
    RankedPrompt,
    SeedExample,
)

NO_COMMA = Constraint("punctuation:no_comma")
RIVERS, TIE, SILENT, REFUSED = "t2/p00000", "t2/p00001", "t2/p00002", "t2/p00003"


def measure(value: float | None, low: float | None = None, high: float | None = None, n: int = 24) -> dict[str, Any]:
    return {"value": value, "low": low, "high": high, "n": n}


def evaluation(t: int, accuracy: tuple[float, float, float], net: tuple[float, float, float] | None) -> dict[str, Any]:
    """Return evaluation.json of M_t with these measures of its judge and its answers."""
    found: dict[str, Any] = {
        "iteration": t,
        "judge": {
            "pairwise_accuracy_imputed": measure(*accuracy),
            "pairwise_accuracy": measure(*accuracy),
            "length_baseline_accuracy": measure(0.46, 0.39, 0.52),
            "length_baseline_accuracy_scored": measure(0.46, 0.39, 0.52),
            "parse_rate": measure(0.99, 0.97, 1.0),
            "pairwise_accuracy_imputed_gain": measure(accuracy[0] - 0.5, accuracy[1] - 0.5, accuracy[2] - 0.5),
        },
        "judge_metrics": {"scores": {"histogram": {"0": 1, "3": 2, "5": 1}}},
        "answers": {"mean_characters": measure(300.0, 250.0, 350.0), "truncated": measure(0.25, 0.1, 0.4)},
    }
    if net:
        win, loss = max(0.0, net[0]), max(0.0, -net[0])
        match = {
            "win": measure(win, 0.0, 0.5),
            "tie": measure(1 - win - loss, 0.3, 1.0),
            "loss": measure(loss, 0.0, 0.5),
        }
        found["head_to_head"] = match | {"net_win": measure(*net), "first_position_win_rate": measure(0.8, 0.7, 0.9)}
        found["head_to_heads"] = {str(t - 1): found["head_to_head"]}
        found["head_to_head_judge"] = "M1"
    return found


def make_run(root: Path, hostile: Iterable[str] = (), judge: JudgeConfig | None = None) -> Path:
    """Make a run to M2: a pair, a tie, an unscored prompt, a rejected prompt, and a prompt for each hostile text."""
    config = Config(name=root.name, runs_dir=str(root.parent), judge=judge or SampledJudgeConfig(count=1, min_valid=1))
    workspace = Workspace(root)
    workspace.save_config(config)
    workspace.update_run(name=root.name, seed=0, python="3.12.0", packages={"torch": "2.13.0"})
    texts = {
        RIVERS: ("Name three rivers of Asia.", {"Yangtze, Mekong, Indus.": 5.0, "Rhine.": 1.0, "Three rivers.": 3.0}),
        TIE: ("What is a fjord?", {"A narrow inlet.": 3.0, "A sea arm.": 3.0}),
        SILENT: ("Sing a song.", {"La la la.": None, "No.": None}),
    }
    for n, text in enumerate(hostile):
        texts[f"t2/p{n + 10:05}"] = (text, {text: 4.0, f"harmless {n}": 2.0})
    prompts, candidates, judgements = [], [], []
    for id, (prompt, answers) in texts.items():
        prompts.append(Prompt(id, prompt, ()))
        for c, (answer, score) in enumerate(answers.items()):
            candidate = Candidate(f"{id}/c{c}", id, answer, 7, truncated=id == SILENT)
            said = f"Because of {answer}\nScore: {score:g}" if score is not None else "no idea"
            problem = "" if score is not None else "no verdict"
            candidates.append(candidate)
            judgements.append(Judgement(f"{candidate.id}/j0", candidate.id, said, score, problem))
    pairs, unpaired = select_pairs(prompts, candidates, judgements, config.pairs, config.judge.min_valid)
    prompts.append(Prompt(REFUSED, "Draw a map.", (), "keyword: map"))
    feedback = {"1_prompts": prompts, "2_candidates": candidates, "3_judgements": judgements, "4_pairs": pairs}
    feedback["4_unpaired"] = unpaired
    for name, rows in feedback.items():
        write(workspace.iteration(2) / f"{name}.jsonl", rows)
    found = feedback_statistics(candidates, judgements, pairs, config.judge.max_score, None)
    counts = {
        "pairs": len(pairs),
        "dropped": count_reasons(unpaired),
        "alarms": found,
        "score_mean": measure(3.0, 2.5, 3.5),
    }
    SelectPairs(workspace, config, 2).done({}, counts)

    write(
        workspace.data / "evaluation.jsonl",
        [SeedExample("eval-1", "Describe rain.", "", type="creative", constraints=(NO_COMMA,))],
    )
    answers = (RankedAnswer("It falls.", 0), RankedAnswer("Rain is.", 1))
    write(workspace.data / "eft_held_out.jsonl", [RankedPrompt("eft-1", "What does rain do?", answers, type="facts")])
    for t in range(3):
        folder = workspace.evaluation(t)
        write(folder / "answers.jsonl", [Answer("eval-1", "Describe rain.", f"Rain, says M{t}.", 4, False)])
        held_out = [Judgement(f"eft-1/a{n}/j0", f"eft-1/a{n}", "Score", float(n + t)) for n in range(2)]
        write(folder / "held_out_judgements.jsonl", held_out)
        if t:
            both = [Comparison(f"eval-1/{order}", "eval-1", " A", "first") for order in ("ab", "ba")]
            write(folder / f"head_to_head_M{t - 1}.jsonl", both)
    write_measures(root, [evaluation(0, (0.5, 0.5, 0.5), None)])
    write_measures(root, [evaluation(1, (0.68, 0.6, 0.76), (0.1, -0.1, 0.2))], start=1)
    write_measures(root, [evaluation(2, (0.7, 0.62, 0.78), (0.3, 0.1, 0.5))], start=2)
    log = [{"loss": 2.0, "step": 1}, {"loss": 1.0, "step": 2}, {"train_loss": 1.5, "step": 2}]
    (workspace.iteration(1) / "sft_log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    return root


def write(path: Path, rows: Iterable[object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(serialization.to_json(row) + "\n" for row in rows), encoding="utf-8")


def write_measures(root: Path, models: list[dict[str, Any]], start: int = 0) -> None:
    for t, measures in enumerate(models, start):
        folder = root / f"iteration_{t}"
        folder.mkdir(exist_ok=True)
        (folder / "evaluation.json").write_text(json.dumps(measures))
