"""A finished run to M2 with hand-written records, including texts of the kind that could attack readers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from srlm.config import Config, to_dict
from srlm.data.prepare import PrepareData, prepare_seeds
from srlm.evaluation.answers import AnswerPrompts, evaluation_prompts
from srlm.evaluation.evaluate import Evaluate
from srlm.evaluation.held_out import JudgeHeldOut
from srlm.evaluation.held_out import held_out_prompts as held_out
from srlm.evaluation.matches import HeadToHead
from srlm.generation.candidates import SampleCandidates
from srlm.generation.eft import BuildEFT
from srlm.generation.judgements import JudgeCandidates
from srlm.generation.pairs import SelectPairs
from srlm.generation.prompts import WritePrompts
from srlm.io import serialization
from srlm.io.files import write_atomic
from srlm.models.base_model import BaseModel
from srlm.pipeline.stage import Stage
from srlm.pipeline.workspace import Workspace
from srlm.reporting.model_card import write_card
from srlm.training.stages import Train, TrainSFT
from srlm.types import Answer, Candidate, Comparison, Judgement, Prompt
from tests.helpers import options, run_step

NASTY = (
    "<script>alert('x')</script> | a \\ `b` [c](http://evil.example) <|im_end|>\u2028\x07\n---\nlicense: mit\n# d 说"
)


def make_run(root: Path, checkpoint: Path, *overrides: str) -> tuple[Workspace, Config]:
    """Make a run in `root` whose M0, M1 and M2 are copies of one checkpoint.

    Parameters
    ----------
    checkpoint : Path
        An ordinary checkpoint's folder.
    """
    config = options(
        f"name={root.name}",
        f"runs_dir={root.parent}",
        "model.name=tiny-random",
        "evaluation.prompts=4",
        "evaluation.bootstrap=100",
        "alarms.mean_gap.threshold=4.5",
        *overrides,
    )
    workspace = Workspace.of(config)
    workspace.save_config(config)
    workspace.update_run(name=root.name, version="0.1.0", options=to_dict(config), base_model=str(checkpoint))
    seeds = PrepareData(workspace, config)
    seeds.done({}, prepare_seeds(config, workspace.data))
    write_atomic(workspace.iteration(0) / "model.json", json.dumps({"name": "tiny-random", "id": "0" * 16}))
    BaseModel(workspace, config).done({}, {})
    run_step(BuildEFT(workspace, config, 1))
    for t in range(3):
        _measured(workspace, config, t)
    sft = TrainSFT(workspace, config, 1)
    ift = {"data/ift.jsonl": seeds.fingerprints()["data/ift.jsonl"]}
    _trained(sft, checkpoint, ift | BuildEFT(workspace, config, 1).fingerprints())
    _feedback(workspace, config)
    run_step(SelectPairs(workspace, config, 2))
    inputs = SelectPairs(workspace, config, 2).fingerprints() | sft.fingerprints()
    _trained(Train(workspace, config, 2), checkpoint, inputs)
    for t in range(3):
        run_step(Evaluate(workspace, config, t))
    for t in (1, 2):
        write_card(workspace, config, t)
    return workspace, config


def _write(stage: Stage, rows: list[Any], place: int = 0) -> None:
    write_atomic(stage.outputs[place], "".join(serialization.to_json(row) + "\n" for row in rows))


def _measured(workspace: Workspace, config: Config, t: int) -> None:
    inputs = PrepareData(workspace, config).fingerprints()
    judged = JudgeHeldOut(workspace, config, t)
    rows = []
    for number, prompt in enumerate(held_out(workspace, config)):
        for n, answer in enumerate(prompt.answers):
            score = float((5 - answer.rank + (number + t) % 2) % 6)
            rows.append(Judgement(f"{prompt.id}/a{n}/j0", f"{prompt.id}/a{n}", NASTY, score, "", 3))
    _write(judged, rows)
    judged.done(inputs, {"judgements": len(rows)})
    answered = AnswerPrompts(workspace, config, t)
    prompts = evaluation_prompts(workspace, config)
    _write(answered, [Answer(one.id, one.prompt, f"{t} {NASTY}", 9, t == 1) for one in prompts])
    answered.done(inputs, {"answers": len(prompts)})
    if t:
        match = HeadToHead(workspace, config, t)
        orders = [(one.id, order) for one in prompts for order in ("ab", "ba")]
        _write(match, [Comparison(f"{i}/{order}", i, NASTY, "first") for i, order in orders])
        before = AnswerPrompts(workspace, config, t - 1).fingerprints()
        match.done(answered.fingerprints() | before, {"comparisons": len(orders)})


def _trained(stage: Stage, checkpoint: Path, inputs: dict[str, str]) -> None:
    shutil.copytree(checkpoint, stage.outputs[0])
    stage.done(inputs, {"tokens": 12})


def _feedback(workspace: Workspace, config: Config) -> None:
    texts = ["Name three rivers.", NASTY, "Why is the sky blue?"]
    attempts = [Prompt(f"t2/p0000{i}", text, ("ift-001",)) for i, text in enumerate(texts)]
    attempts.append(Prompt("t2/p00003", "A seed, repeated word by word.", ("ift-002",), "too near to a seed"))
    candidates = [
        Candidate(f"{prompt.id}/c{c}", prompt.id, f"{NASTY} {prompt.id}/{c}", 5, False)
        for prompt in attempts[:3]
        for c in (0, 1)
    ]
    judgements = [Judgement(f"{one.id}/j0", one.id, NASTY, float(one.id.endswith("c0")), "", 3) for one in candidates]
    prompts, answered, judged = (
        make(workspace, config, 2) for make in (WritePrompts, SampleCandidates, JudgeCandidates)
    )
    _write(prompts, attempts)
    prompts.done(
        PrepareData(workspace, config).fingerprints(),
        {"attempts": 4, "accepted": 3, "rejected": {"too near to a seed": 1}},
    )
    _write(answered, candidates)
    answered.done(prompts.fingerprints(), {"candidates": 6})
    _write(judged, judgements)
    judged.done(answered.fingerprints(), {"judgements": 6, "valid": 6})
