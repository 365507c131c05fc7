"""What M1 is trained on (`sft.data`): IFT, EFT, both, or nothing, when M1 is M0."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from srlm import open_run
from srlm.cli.check import check
from srlm.cli.push import plan
from srlm.config import Config
from srlm.data.prepare import PrepareData
from srlm.errors import ConfigError, PushError, RunFolderError, SeedError
from srlm.evaluation.evaluate import trained_on
from srlm.evaluation.record import evaluation_path, read_evaluation
from srlm.generation.eft import BuildEFT
from srlm.models.base_model import StartFromBase
from srlm.pipeline.artifacts import ANSWERS, EFT, EFT_HELD_OUT, HELD_OUT_JUDGEMENTS, IFT, PROMPTS
from srlm.pipeline.manifest import Manifest
from srlm.pipeline.run_reader import model_manifest
from srlm.pipeline.workspace import Workspace
from srlm.reporting.summary import verdict
from srlm.training.methods.sft import SFT, repeated
from srlm.training.stages import TrainSFT, TrainSFTBaseline
from srlm.types import JudgeExample, SeedExample
from tests.forked import run_job
from tests.generation.test_pool import texts, written
from tests.helpers import all_stages, options, run_step, tiny_tokenizer


def run_of(root: Path, *overrides: str) -> tuple[Workspace, Config]:
    """Return a run whose data are read."""
    config = options("name=run", f"runs_dir={root}", *overrides)
    workspace = Workspace.of(config)
    workspace.save_config(config)
    run_step(PrepareData(workspace, config))
    return workspace, config


def kinds(rows: Any) -> set[type]:
    return {type(row) for row in rows}


def test_sft_on_ift_alone_needs_and_reads_no_eft(tmp_path: Path) -> None:
    workspace, config = run_of(tmp_path, "sft.data=ift", "data.eft.path=")
    assert (EFT.read(workspace), EFT_HELD_OUT.read(workspace)) == ([], [])
    assert not BuildEFT(workspace, config, 1).wanted()
    assert not TrainSFTBaseline(workspace, config, 1).wanted()
    assert kinds(TrainSFT(workspace, config, 1).rows()) == {SeedExample}
    names = [str(stage) for stage in all_stages(workspace, config)]
    assert not [name for name in names if "held_out" in name]
    assert TrainSFT(workspace, config, 1).caption().endswith("SFT on IFT")


def test_sft_on_eft_alone_needs_and_reads_no_ift(tmp_path: Path) -> None:
    workspace, config = run_of(tmp_path, "sft.data=eft", "data.ift.path=", "iteration=1")
    run_step(BuildEFT(workspace, config, 1))
    assert IFT.read(workspace) == []
    assert kinds(TrainSFT(workspace, config, 1).rows()) == {JudgeExample}
    assert next(iter(TrainSFT(workspace, config, 1).made_from())) == "iteration_1/eft.jsonl"
    ranked = [{"prompt": text, "responses": ["good", "bad"]} for text in texts(12)]
    file = written(tmp_path / "ranked.jsonl", ranked)
    given = ("sft.data=eft", "data.ift.path=", "iteration=1", f"data.eft.path={file}", "judge=additive")
    workspace, config = run_of(tmp_path / "b", *given)
    with pytest.raises(SeedError, match=r"has no rationales, .*data\.rationales=none"):
        TrainSFTBaseline(workspace, config, 1).wanted()


def test_eft_is_read_to_measure_a_judge_that_is_not_trained(tmp_path: Path) -> None:
    workspace, config = run_of(tmp_path, "sft.data=ift")
    assert EFT_HELD_OUT.read(workspace)
    assert not BuildEFT(workspace, config, 1).wanted()
    assert not [row for row in TrainSFT(workspace, config, 1).rows() if isinstance(row, JudgeExample)]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("data.ift.path=",), r"data\.ift\.path='' .*with sft\.data=both"),
        (("data.eft.path=",), r"data\.eft\.path='' .*with sft\.data=both and judge\.scorer=logprob_weighted"),
        (
            ("sft.data=none", "data.ift.path="),
            r"data\.ift\.path='' .*from which the examples for new prompts",
        ),
        (("experiment=spin", "sft.data=none", "data.ift.path="), r"data\.ift\.path='' "),
        (("sft.data=none", "data.eft.path=", "judge=reward_model"), r"data\.eft\.path='' .*judge\.scorer=reward_model"),
        (("sft.data=ift", "experiment=eft_ranking"), r"sft\.eft_loss=.*score with sft\.data=ift, which has no EFT"),
        (("sft.data=eft", "judge=implicit"), r"sft\.data='eft' .*both, ift or none with judge\.scorer=implicit"),
    ],
)
def test_missing_data_are_refused_with_what_needs_them(given: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        options(*given)


def test_reward_model_can_be_trained_without_sft() -> None:
    assert check(options("sft.data=none", "judge=reward_model"))


def test_repeats_are_times_in_a_pass() -> None:
    assert repeated([1, 1]) == [(0, 0), (1, 0)]
    assert repeated([1, 3, 2]) == [(0, 0), (1, 0), (2, 0), (1, 1), (2, 1), (1, 2)]
    assert repeated([]) == []


@pytest.mark.parametrize("ranking", [False, True])
def test_examples_are_repeated_by_kind(ranking: bool) -> None:
    rows: list[Any] = [SeedExample("i", "Name a river.", "The Rhine.")]
    rows += [JudgeExample(f"e/a{n}", "Name a lake.", f"Lake {n}.", "", 5.0 - n, "seed", rank=n) for n in range(2)]
    config = options("judge=logprob", *(["sft.eft_loss=ranking"] if ranking else []))
    config.sft.max_length, config.sft.eft_repeats = 4096, 3
    encoded = SFT().encode(tiny_tokenizer(), rows, config.sft, config)
    assert {len(values) for values in encoded.columns.values()} == {1 + 3 * 2}
    assert encoded.counts["examples_with_repeats"] == 7
    assert encoded.batches is not None
    of_groups = Counter(encoded.batches.groups)
    assert sorted(of_groups.values()) == [1, 2, 2, 2]  # the answers of a prompt stay together, once per repeat
    config.sft.eft_repeats = 1
    assert "examples_with_repeats" not in SFT().encode(tiny_tokenizer(), rows, config.sft, config).counts


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Return a run to M3 without SFT and with a pool of prompts, with a scripted engine; the second job resumes it."""
    root = tmp_path_factory.mktemp("start") / "run"
    given = {"sft.data": "none", "data.ift.path": "", "prompts.path": "builtin", "iteration": 3}
    for log in ({}, {"log": str(root.parent / "log")}):
        ended = run_job(root, options=given, **log)
        assert ended.returncode == 0, ended.stderr[-4000:]
    return Workspace(root)


def test_m1_is_m0_without_a_copy(run: Workspace) -> None:
    assert run.model(1) == run.model(0)
    assert not (run.iteration(1) / "model").exists()
    made = model_manifest(run, 1)
    assert made
    assert made.stage == "iteration_1/start_from_base"
    assert "iteration_1/model.json" in Manifest.load(run.iteration(2) / "manifests/dpo.json").inputs
    assert not list(run.model(0).glob("README.md"))
    assert open_run(run.root).model(1) == run.model(0)
    assert open_run(run.root).iterations == [0, 1, 2, 3]


def test_evaluation_of_m1_is_that_of_m0(run: Workspace) -> None:
    for artifact in (ANSWERS, HELD_OUT_JUDGEMENTS):
        assert artifact.read(run, 1) == artifact.read(run, 0) != []
    zero, one, two = (read_evaluation(evaluation_path(run, t)) for t in range(3))
    value = "pairwise_accuracy_imputed"
    assert one.judge[value] == zero.judge[value]
    assert f"{value}_gain" not in one.judge
    assert f"{value}_gain" in two.judge
    assert (one.head_to_heads, list(two.head_to_heads)) == ({}, [1])
    assert not (run.evaluation(1) / "head_to_head_M0.jsonl").exists()
    lines = verdict({0: zero, 1: one, 2: two}, run.is_base(1))
    assert lines[0] == "M1 is M0, without SFT."
    assert lines[1].startswith("M2 against M1: ")


def test_iterations_have_the_pools_prompts(run: Workspace) -> None:
    accepted = [{one.text for one in PROMPTS.read(run, t) if not one.rejected} for t in (2, 3)]
    assert [len(one) for one in accepted] == [6, 6]
    assert not accepted[0] & accepted[1]
    assert all(one.reference and one.source for one in PROMPTS.read(run, 2))
    assert trained_on(run, run.config(), 1).excluded == ()


def test_finished_run_without_sft_is_skipped(run: Workspace) -> None:
    log = (run.root.parent / "log").read_text() if (run.root.parent / "log").exists() else ""
    assert "jsonl" not in log.replace("tracking", "")
    assert (run.root / "report.html").exists()


def test_m1_cannot_be_trained_later_or_pushed(run: Workspace) -> None:
    config = run.config()
    with pytest.raises(PushError, match="M1 is M0"):
        plan(run, "owner/name", 1, False, False)
    config.sft.data = type(config.sft.data)["both"]
    with pytest.raises(
        RunFolderError, match=r"made by the stage iteration_1/start_from_base, not by sft \(sft\.data=both"
    ):
        TrainSFT(run, config, 1).complete()
    assert StartFromBase(run, run.config(), 1).complete()
