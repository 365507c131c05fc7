"""The examples of docs/extending.md run unchanged, from a folder outside the package."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from srlm.config import Config
from srlm.data.config import SourceConfig
from srlm.data.labels import called
from srlm.data.readers import read_ift, read_ranked
from srlm.engines.base import Completion, Sampling, open_engine
from srlm.errors import ConfigError, SeedError
from srlm.io.components import imported
from srlm.judges import make_judge
from srlm.judges.base import judge_answers
from srlm.judges.config import JudgeConfig
from srlm.pipeline.manifest import stage_manifest
from srlm.pipeline.workspace import Workspace
from srlm.preferences.config import PairsConfig
from srlm.preferences.pairs import select_pairs
from srlm.training.methods import method_of, training_options
from srlm.training.worker import train
from srlm.types import PreferencePair
from tests.extending import EXAMPLES, PAGE, write_examples
from tests.forked import run_forked
from tests.helpers import ROOT, ScriptedEngine, candidates_of, judgements_of, options, prompt, user

PARTS = {
    "my_judge": "judge",
    "my_pairs": "pairs.policy",
    "my_method": "method",
    "my_recipe": "recipe",
    "my_engine": "engine",
    "my_format": "data.eft.format",
    "my_labels": "data.own_answers.labels",
}


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder on Python's path with the modules of the page."""
    folder = write_examples(tmp_path_factory.mktemp("own"))
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))


def test_every_part_has_a_short_example_and_one_command() -> None:
    assert set(EXAMPLES) == set(PARTS)
    text = PAGE.read_text(encoding="utf-8")
    for module, option in PARTS.items():
        assert sum(bool(line.strip()) for line in EXAMPLES[module].splitlines()) <= 20, module
        assert len(re.findall(rf"^srlm run .*\b{re.escape(option)}={module}:\w+", text, re.M)) == 1


def test_example_judge_scores_by_the_reply() -> None:
    engine = ScriptedEngine(lambda messages, *_: "Yes" if "Paris" in messages[0]["content"] else "No")
    config = Config(judge=JudgeConfig(scorer="my_judge:YesOrNo"))
    found = asyncio.run(judge_answers(make_judge(config), engine, "Capital of France?", ["Paris.", "Rome."]))
    assert [(one.candidate_id, one.score) for one in found] == [("prompt/c0", 5), ("prompt/c1", 0)]
    assert {sampling.choices for _, sampling, _ in engine.calls} == {("Yes", "No")}


def test_example_pair_policy_selects_pairs_or_gives_a_reason() -> None:
    prompts = [prompt("t2/p00000"), prompt("t2/p00001"), prompt("t2/p00002")]
    texts = zip(prompts, ("abc", "xy", ""), strict=True)
    candidates = [one for p, letters in texts for one in candidates_of(p.id, list(letters))]
    judgements = [j for c, score in zip(candidates, (4, 2, 3, 1, 1), strict=True) for j in judgements_of(c.id, [score])]
    pairs, unpaired = select_pairs(prompts, candidates, judgements, PairsConfig(policy="my_pairs:BestAgainstEach"), 1)
    assert [(pair.chosen, pair.rejected) for pair in pairs] == [("a", "b"), ("a", "c")]
    assert [one.id for one in unpaired] == ["t2/p00001", "t2/p00002"]


def test_example_method_has_its_own_and_its_groups_options() -> None:
    config = options("method=my_method:Hinge", "++method_options.margin=2", "dpo.learning_rate=1e-4")
    found = training_options(config, method_of(config))
    assert (found.margin, found.learning_rate, found.beta) == (2, 1e-4, config.dpo.beta)  # type: ignore[attr-defined]
    assert config.training == found
    with pytest.raises(ConfigError, match=r"method_options\.marign: Hinge has no such option"):
        options("method=my_method:Hinge", "++method_options.marign=2")
    with pytest.raises(ConfigError, match=r"method_options=.*empty with method=dpo"):
        options("++method_options.margin=2")
    with pytest.raises(ConfigError, match=r"dpo\.batch_size=3 .*multiple of micro_batch_size"):
        options("method=my_method:Hinge", "dpo.batch_size=3", "dpo.micro_batch_size=2")


@pytest.mark.e2e
def test_example_method_trains_with_its_own_loss(tiny_checkpoint: Path, tmp_path: Path) -> None:
    rows = [PreferencePair(f"p{n}", f"Say {n}.", f"{n}.", "No.", f"p{n}/c0", f"p{n}/c1", 5.0, 1.0) for n in range(4)]
    config = options(
        "experiment=smoke", "method=my_method:Hinge", "++method_options.margin=1000", "dpo.epochs=1",
        "dpo.batch_size=2", "dpo.dtype=float32",
    )  # fmt: skip
    counts = train(method_of(config)(), rows, tiny_checkpoint, tmp_path / "model", config)
    log = [json.loads(line) for line in (tmp_path / "hinge_log.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in log if "loss" in row]
    assert len(losses) == 2
    assert all(900 < loss < 1100 for loss in losses)  # close to the margin, which no random model reaches
    assert counts["saved_kept"] == pytest.approx(1, abs=0.05)


@pytest.mark.process
def test_example_recipe_runs(folder: Path, tmp_path: Path) -> None:
    job = {"root": str(tmp_path / "run"), "options": {"recipe": "my_recipe:FineTuneOnly", "iteration": 1}}
    ended = run_forked("tests.scripted_text", json.dumps(job), environment={"PYTHONPATH": str(folder)})
    assert ended.returncode == 0, ended.stderr[-4000:]
    made = Workspace(tmp_path / "run")
    assert stage_manifest(made.iteration(1), "sft")
    assert [(made.iteration(t) / "evaluation.json").exists() for t in (0, 1)] == [True, True]


@pytest.mark.e2e
def test_example_engine_generates(tiny_checkpoint: Path) -> None:
    config = options("engine=my_engine:Pipeline")
    sampling = Sampling(temperature=1.0, top_p=0.9, max_new_tokens=6, seed=3, n=2)

    async def generate() -> list[Completion]:
        async with open_engine(config, tiny_checkpoint) as engine:
            return await engine.generate(user("Name a river."), sampling)

    first, second = asyncio.run(generate()), asyncio.run(generate())
    assert len(first) == 2
    assert all(0 < one.tokens <= 12 for one in first)
    assert first == second


def test_example_format_reads_a_file(tmp_path: Path) -> None:
    path = tmp_path / "votes.jsonl"
    rows = [{"question": "Name a river.", "answers": [["No.", 1], ["The Nile.", 7]]}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = SourceConfig(path=str(path), format="my_format:votes")
    [ranked] = read_ranked(source)
    assert [(answer.text, answer.rank) for answer in ranked.answers] == [("The Nile.", 0), ("No.", 1)]
    assert [(row.prompt, row.response) for row in read_ift(source)] == [("Name a river.", "The Nile.")]
    path.write_text('{"question": "Name a river."}\n')
    with pytest.raises(SeedError, match=r"votes\.jsonl:1: votes fails with KeyError: 'answers'"):
        read_ranked(source)
    with pytest.raises(ConfigError, match=r"format=my_format:vote cannot be imported"):
        read_ranked(SourceConfig(path=str(path), format="my_format:vote"))


def test_example_labeller_scores_answers() -> None:
    config = options("data.own_answers.labels=my_labels:closeness")  # it exists, or the check would refuse it
    function = imported("data.own_answers.labels", config.data.own_answers.labels)
    one = replace(prompt(), reference="The Nile")
    rows = called(function, "my_labels:closeness", one, candidates_of(one.id, ["No.", "the Nile", "Nile"]), 5)
    assert [row.score for row in rows] == [0.0, 5.0, 2.0]
    [row] = called(function, "my_labels:closeness", prompt(), candidates_of(one.id, ["No."]), 5)
    assert (row.score, row.problem) == (None, "no label by the function")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("engine=my_engine:Missing", r"engine\.kind=my_engine:Missing cannot be imported"),
        ("engine=my_judge:YesOrNo", r"engine\.kind=my_judge:YesOrNo does not exist.*subclass of .*LocalEngine"),
        ("method=no_such_module:Loss", r"method=no_such_module:Loss cannot be imported"),
        ("method=my_pairs:BestAgainstEach", r"method=my_pairs:BestAgainstEach does not exist. Use one of sft, dpo"),
    ],
)
def test_unusable_components_are_refused_by_option(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        options(override)


def test_module_in_the_current_folder_is_importable(folder: Path) -> None:
    """For the installed command srlm, Python does not search the current folder by default."""
    code = "from srlm.io.components import imported; print(imported('x', 'my_pairs:BestAgainstEach'))"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1"}
    ran = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, env=environment)
    assert "BestAgainstEach" in ran.stdout, ran.stderr
