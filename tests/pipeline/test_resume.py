"""A run that is killed at any moment resumes to the same files: no record is lost, repeated or incomplete.

The loop runs on a scripted engine in a separate process (tests/scripted_text.py), which kills itself with SIGKILL
before, in the middle of, or after one write to disk.
"""

from __future__ import annotations

import json
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from srlm.data.prepare import PrepareData, PrepareIFEval, prepare_seeds
from srlm.errors import RunFolderError
from srlm.evaluation.answers import AnswerIFEval
from srlm.evaluation.matches import HeadToHead
from srlm.generation.candidates import SampleCandidates
from srlm.generation.judgements import JudgeCandidates
from srlm.generation.pairs import SelectPairs
from srlm.generation.prompts import WritePrompts
from srlm.io.record_file import read_records
from srlm.io.serialization import from_json
from srlm.pipeline.workspace import CARD, Workspace
from srlm.types import Answer, Candidate, Comparison, Judgement, PreferencePair, Prompt
from tests.forked import run_job
from tests.helpers import ROOT, all_stages
from tests.scripted_text import small_config

# Every file with text of a model -> the type of its records.
RECORD_FILES = {
    "iteration_0/evaluation/held_out_judgements.jsonl": Judgement,
    "iteration_0/evaluation/answers.jsonl": Answer,
    "iteration_1/eft_judgements.jsonl": Judgement,
    "iteration_1/evaluation/held_out_judgements.jsonl": Judgement,
    "iteration_1/evaluation/answers.jsonl": Answer,
    "iteration_1/evaluation/head_to_head_M0.jsonl": Comparison,
    "iteration_2/1_prompts.jsonl": Prompt,
    "iteration_2/2_candidates.jsonl": Candidate,
    "iteration_2/3_judgements.jsonl": Judgement,
    "iteration_2/evaluation/held_out_judgements.jsonl": Judgement,
    "iteration_2/evaluation/answers.jsonl": Answer,
    "iteration_2/evaluation/head_to_head_M1.jsonl": Comparison,
    "iteration_2/evaluation/head_to_head_M0.jsonl": Comparison,
}
MANIFESTS = {
    "iteration_0/evaluation/manifests/answers.json",
    "iteration_1/manifests/rationales.json",
    "iteration_1/evaluation/manifests/head_to_head.json",
    "iteration_2/manifests/prompts.json",
    "iteration_2/manifests/candidates.json",
    "iteration_2/manifests/judgements.json",
}
Job = Callable[..., int]
pytestmark = pytest.mark.process

STAGES = {stage.name: stage for stage in (WritePrompts, SampleCandidates, JudgeCandidates, SelectPairs)}


@pytest.fixture(scope="module")
def job() -> Job:
    """Return a function that runs one job of tests/scripted_text.py and returns its exit code."""
    return lambda root, **rest: run_job(root, **rest).returncode


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run folder that contains only its seed data."""
    config = small_config(tmp_path_factory.mktemp("prepared") / "run")
    workspace = Workspace.of(config)
    stage = PrepareData(workspace, config)
    stage.begin()
    stage.done({}, prepare_seeds(config, workspace.data))
    return workspace.root


@pytest.fixture(scope="module")
def uninterrupted(job: Job, prepared: Path) -> tuple[dict[str, Any], list[str]]:
    """Return the files of an uninterrupted run and its writes in order: "write FILE" or "replace FILE"."""
    root = prepared.with_name("uninterrupted")
    log = prepared.with_name("log")
    shutil.copytree(prepared, root)
    assert job(root, log=str(log)) == 0
    return files(root), log.read_text(encoding="utf-8").splitlines()


@pytest.fixture(scope="module")
def whole(uninterrupted: Any, prepared: Path) -> Path:
    """Return the folder of the uninterrupted run; it must not change."""
    return prepared.with_name("uninterrupted")


def files(root: Path) -> dict[str, Any]:
    """Return the files of a run without times, paths and process ids."""
    found: dict[str, Any] = {}
    for path in root.rglob("*"):
        name = str(path.relative_to(root))
        # A kill may leave a temporary file or a begin record; neither is read as a result.
        if path.is_dir() or path.name.endswith((".tmp", ".begun.json")) or name in ("config.yaml", "run.json", ".lock"):
            continue
        found[name] = path.read_bytes() if name != "report.html" else "is there"  # contains times
        if path.name == CARD:  # contains the run's name
            found[name] = re.sub(rf"\b{re.escape(root.name)}(-M\d|: self)".encode(), rb"RUN\1", found[name])
        if path.parent.name == "manifests":
            manifest = json.loads(found[name])
            found[name] = {
                key: manifest[key] for key in manifest if key not in ("seconds", "finished", "tokens", "read")
            }
    return found


def assert_same(got: dict[str, Any], expected: dict[str, Any], where: str) -> None:
    assert got.keys() == expected.keys(), where
    different = [name for name in expected if got[name] != expected[name]]
    assert not different, f"{where}: {different}"


def test_uninterrupted_run_has_records_of_every_kind(uninterrupted):
    """Every stage has unique records, and filters and parsers reject some of them."""
    found, steps = uninterrupted
    for name, kind in RECORD_FILES.items():
        rows = [from_json(kind, line) for line in found[name].decode().split("\n")[:-1]]
        ids = [row.id for row in rows]
        assert ids == sorted(set(ids))
        assert steps.count(f"write {name}") >= 4
    counts = {
        name: found[f"iteration_2/manifests/{name}.json"]["counts"] for name in ("prompts", "judgements", "pairs")
    }
    assert counts["prompts"]["accepted"] == 6
    assert counts["prompts"]["attempts"] > 8
    assert sum(counts["prompts"]["rejected"].values()) == counts["prompts"]["attempts"] - 6
    assert counts["judgements"]["judgements"] == 6 * 4 * 3
    assert 0 < counts["judgements"]["valid"] < 72
    assert counts["pairs"]["pairs"] > 0
    assert found["iteration_0/evaluation/answers.jsonl"] != found["iteration_1/evaluation/answers.jsonl"]


def test_manifests_are_written_after_their_outputs(uninterrupted):
    """Except a model's card, which contains its measures and is not part of its fingerprint."""
    found, steps = uninterrupted
    manifests = {name: found[name] for name in found if "/manifests/" in name and not name.startswith("data/")}
    assert len(manifests) > 12
    for name, manifest in manifests.items():
        at = steps.index(f"replace {name}")
        for output in manifest["outputs"]:
            of_output = [
                i
                for i, step in enumerate(steps)
                if (path := step.split()[1]).startswith(output) and Path(path).name != CARD
            ]
            assert max(of_output, default=-1) < at, f"{output} was written after its manifest {name}"


def points(steps: list[str], name: str) -> list[tuple[int, str]]:
    """Return the writes of a file to be killed at: within a line, and after the last line or before sorting."""
    writes = [i for i, step in enumerate(steps) if step == f"write {name}"]
    moves = [i for i, step in enumerate(steps) if step == f"replace {name}"]
    assert len(moves) == 1
    late = (writes[-1], "after") if "evaluation" in name else (moves[0], "before")
    return [(writes[len(writes) // 2], "half"), late]


@pytest.mark.variant
@pytest.mark.parametrize("name", RECORD_FILES)
def test_run_killed_while_writing_records_resumes(job, prepared, uninterrupted, tmp_path, name):
    expected, steps = uninterrupted
    for at, when in points(steps, name):
        root = tmp_path / f"{at}_{when}"
        shutil.copytree(prepared, root)
        assert job(root, kill={"at": at, "when": when}) == -signal.SIGKILL
        if when == "half":
            assert not (root / name).read_bytes().endswith(b"\n"), "the kill was meant to tear a line"
        assert job(root, order=at) == 0  # the remaining requests may end in another order
        assert_same(files(root), expected, f"killed {when} step {at}, {steps[at]}")


@pytest.mark.variant
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("name", sorted(MANIFESTS))
def test_run_killed_before_or_after_a_manifest_resumes(job, prepared, uninterrupted, tmp_path, name, when):
    expected, steps = uninterrupted
    shutil.copytree(prepared, tmp_path / "run")
    assert job(tmp_path / "run", kill={"at": steps.index(f"replace {name}"), "when": when}) == -signal.SIGKILL
    assert (tmp_path / "run" / name).exists() == (when == "after")
    assert job(tmp_path / "run") == 0
    assert_same(files(tmp_path / "run"), expected, f"killed {when} {name}")


def test_run_killed_repeatedly_resumes(job, prepared, uninterrupted, tmp_path):
    """Each attempt is killed at about its twelfth write, as on a preemptible machine."""
    expected, _ = uninterrupted
    shutil.copytree(prepared, tmp_path / "run")
    ends = [-signal.SIGKILL]
    while ends[-1] == -signal.SIGKILL:
        assert len(ends) < 40, "no progress from attempt to attempt"
        ends.append(job(tmp_path / "run", order=len(ends), kill={"at": 11 + len(ends), "when": "after"}))
    assert ends[-1] == 0
    assert len(ends) > 6
    assert_same(files(tmp_path / "run"), expected, "killed again and again")


@pytest.mark.parametrize("order", [1, 2])
def test_order_of_completion_does_not_change_results(job, prepared, uninterrupted, tmp_path, order):
    expected, steps = uninterrupted
    shutil.copytree(prepared, tmp_path / "run")
    assert job(tmp_path / "run", order=order, log=str(tmp_path / "log")) == 0
    assert (tmp_path / "log").read_text(encoding="utf-8").splitlines() != steps, "the order was meant to differ"
    assert_same(files(tmp_path / "run"), expected, f"order {order}")


def test_finished_run_writes_only_its_config(job, whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    assert job(tmp_path / "run") == 0  # report and model cards contain the run's name
    before = {name: (tmp_path / "run" / name).stat().st_mtime_ns for name in files(tmp_path / "run")}
    assert job(tmp_path / "run", log=str(tmp_path / "log")) == 0
    assert (tmp_path / "log").read_text().split() == ["replace", "config.yaml"]
    assert {name: (tmp_path / "run" / name).stat().st_mtime_ns for name in files(tmp_path / "run")} == before


@pytest.mark.variant
@pytest.mark.parametrize("stage", ["prompts", "candidates", "judgements", "pairs", "evaluation/answers", "evaluation"])
def test_deleted_stage_is_computed_again_with_equal_results(job, whole, uninterrupted, tmp_path, stage):
    """Stages that depend on it are kept and stay valid, because the results are the same."""
    root = shutil.copytree(whole, tmp_path / "run")
    config = small_config(root)
    [deleted] = [one for one in all_stages(Workspace.of(config), config) if str(one) == f"iteration_2/{stage}"]
    for path in (deleted.path, *deleted.outputs):
        path.unlink()
    assert job(root) == 0
    assert_same(files(root), uninterrupted[0], f"deleted {stage}")


@pytest.mark.parametrize("stage", ["prompts", "candidates", "judgements"])
def test_records_without_their_manifest_are_refused(job, whole, tmp_path, stage):
    root = shutil.copytree(whole, tmp_path / "run")
    (root / f"iteration_2/manifests/{stage}.json").unlink()
    assert job(root) == 1
    config = small_config(root)
    with pytest.raises(RunFolderError, match="exists, but no manifest says how it was made"):
        STAGES[stage](Workspace.of(config), config, 2).begin()


@pytest.mark.variant
# Prompts and judgements by a fixed model are generated in a separate process; those of iteration 3 build on those of
# iteration 2; early stopping decides about the next round of judgements from the previous one.
@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"prompts.model": "sft"}, "iteration_2/1_prompts.jsonl"),
        ({"iteration": 3}, "iteration_3/1_prompts.jsonl"),
        ({"iteration": 3}, "iteration_3/3_judgements.jsonl"),
        ({"judge.early_stopping": True, "judge.early_stopping_risk": 0.3}, "iteration_2/3_judgements.jsonl"),
        ({"judge.model": "base"}, "iteration_2/3_judgements.jsonl"),
        ({"judge.model": "sft", "iteration": 3}, "iteration_3/3_judgements.jsonl"),
    ],
)
def test_killed_run_with_other_options_resumes(job, prepared, tmp_path, options, name):
    for root in ("whole", "killed"):
        shutil.copytree(prepared, tmp_path / root)
    assert job(tmp_path / "whole", options=options, log=str(tmp_path / "log")) == 0
    steps = (tmp_path / "log").read_text(encoding="utf-8").splitlines()
    writes = [i for i, step in enumerate(steps) if step == f"write {name}"]
    kill = {"at": writes[len(writes) // 2], "when": "half"}
    assert job(tmp_path / "killed", options=options, kill=kill) == -signal.SIGKILL
    assert job(tmp_path / "killed", options=options, order=5) == 0
    whole = files(tmp_path / "whole")
    assert_same(files(tmp_path / "killed"), whole, f"killed in {name}")
    if "iteration" in options:
        assert b'"t2/p' in whole["iteration_3/1_prompts.jsonl"], "no example came from the iteration before"


def counts_of(root: Path, t: int) -> dict[str, Any]:
    return json.loads((root / f"iteration_{t}" / "manifests" / "judgements.json").read_text())["counts"]


def test_early_stopping_of_the_judge_counts_saved_judgements(job, prepared, tmp_path):
    shutil.copytree(prepared, tmp_path / "run")
    assert job(tmp_path / "run", options={"judge.early_stopping": True, "judge.early_stopping_risk": 0.3}) == 0
    counts = counts_of(tmp_path / "run", 2)
    lines = (tmp_path / "run" / "iteration_2" / "3_judgements.jsonl").read_text(encoding="utf-8").count("\n")
    assert 0 < counts["saved"] == counts["candidates"] * 3 - lines


@pytest.mark.variant
def test_judge_model_changes_only_the_scores(job, prepared, uninterrupted, tmp_path):
    """Prompts and candidates come from M1 whichever model judges."""
    read = {}
    for by in ("self", "sft", "base", "random"):
        shutil.copytree(prepared, tmp_path / by)
        assert job(tmp_path / by, options={"judge.model": by}) == 0
        folder = tmp_path / by / "iteration_2"
        read[by] = [(folder / name).read_bytes() for name in ("2_candidates.jsonl", "3_judgements.jsonl")]
    assert read["self"] == read["sft"]  # M1 is both
    assert read["base"][0] == read["self"][0]
    assert read["base"][1] != read["self"][1]
    assert read["random"][0] == read["self"][0]
    assert read["random"][1].count(b"\n") == read["random"][0].count(b"\n")  # one judgement of each candidate
    judged = [
        (tmp_path / by / "iteration_1/evaluation/held_out_judgements.jsonl").read_bytes() for by in ("self", "random")
    ]
    assert judged[0] == judged[1]  # the held-out judgements are still M1's


# Other judges and the meta-judge

PAIRWISE = {"judge.scorer": "pairwise"}
VARIANTS = {
    "pairwise": (
        PAIRWISE | {"judge.max_comparisons": 4},
        ["iteration_2/3_comparisons.jsonl", "iteration_1/evaluation/held_out_comparisons.jsonl"],
    ),
    "meta": ({"judge.meta": True, "judge.max_comparisons": 2}, ["iteration_2/3_meta_comparisons.jsonl"]),
    "every opponent": (
        {"iteration": 3},
        ["iteration_3/evaluation/head_to_head_M2.jsonl", "iteration_3/evaluation/head_to_head_M0.jsonl"],
    ),
    "previous opponent": (
        {"iteration": 3, "evaluation.opponents": "previous"},
        ["iteration_3/evaluation/head_to_head_M2.jsonl"],
    ),
    "ifeval": (
        {"evaluation.ifeval": str(ROOT / "tests/verifiable_prompts.jsonl")},
        ["iteration_0/evaluation/ifeval_answers.jsonl", "iteration_2/evaluation/ifeval_answers.jsonl"],
    ),
    "tries": ({"data.rationale_attempts": 3}, ["iteration_1/eft_judgements.jsonl"]),
}


@pytest.mark.variant
@pytest.mark.parametrize("variant", VARIANTS)
def test_killed_run_with_other_judges_resumes(job, prepared, tmp_path, variant):
    options, names = VARIANTS[variant]
    whole = tmp_path / "whole"
    shutil.copytree(prepared, whole)
    assert job(whole, log=str(tmp_path / "log"), options=options) == 0
    expected, steps = files(whole), (tmp_path / "log").read_text(encoding="utf-8").splitlines()
    for name in names:
        assert steps.count(f"write {name}") >= 3
        kind = Judgement if "judgements" in name else Answer if "answers" in name else Comparison
        ids = [from_json(kind, line).id for line in expected[name].decode().split("\n")[:-1]]
        assert ids == sorted(set(ids))
        at, when = points(steps, name)[0]
        root = tmp_path / f"{name.replace('/', '_')}_{at}_{when}"
        shutil.copytree(prepared, root)
        assert job(root, kill={"at": at, "when": when}, options=options) == -signal.SIGKILL
        assert job(root, order=at, options=options) == 0
        assert_same(files(root), expected, f"{variant}: killed {when} step {at}, {steps[at]}")


@pytest.mark.variant
def test_each_model_is_compared_with_earlier_models(job, prepared, tmp_path):
    """evaluation.json also has the match with the previous model; evaluation.opponents limits the matches."""
    for opponents, expected in (("all", [["0"], ["1", "0"], ["2", "1", "0"]]), ("previous", [["0"], ["1"], ["2"]])):
        root = tmp_path / opponents
        shutil.copytree(prepared, root)
        assert job(root, options={"iteration": 3, "evaluation.opponents": opponents}) == 0
        for t, rivals in enumerate(expected, 1):
            measures = json.loads((root / f"iteration_{t}/evaluation.json").read_text())
            matches = measures["head_to_heads"]
            assert list(matches) == rivals
            assert matches[str(t - 1)] == measures["head_to_head"] | {"types": matches[str(t - 1)]["types"]}
            files = sorted(path.name for path in (root / f"iteration_{t}/evaluation").glob("head_to_head*"))
            assert files == sorted(f"head_to_head_M{u}.jsonl" for u in rivals)
            assert measures["head_to_head_judge"] == "M1"
        assert "head_to_head" not in json.loads((root / "iteration_0/evaluation.json").read_text())


def test_changed_opponents_are_refused_from_m2(job, prepared, tmp_path):
    """M1 has only one earlier model, so its stages do not depend on the option."""
    shutil.copytree(prepared, tmp_path / "run")
    assert job(tmp_path / "run", options={"iteration": 1}) == 0
    assert job(tmp_path / "run", options={"iteration": 2, "evaluation.opponents": "previous"}) == 0
    config = small_config(tmp_path / "run")
    with pytest.raises(RunFolderError, match=r"evaluation\.opponents was 'previous', now 'all'"):
        HeadToHead(Workspace.of(config), config, 2).complete()


def test_ifeval_is_measured_for_each_model_and_refuses_changed_options(job, prepared, tmp_path):
    """Each model has its measures and its gain; a changed option is refused by name."""
    root = tmp_path / "run"
    shutil.copytree(prepared, root)
    options = VARIANTS["ifeval"][0] | {"evaluation.ifeval_prompts": 4}
    assert job(root, options=options) == 0
    for t in range(3):
        assert len(read_records(root / f"iteration_{t}/evaluation/ifeval_answers.jsonl", Answer)) == 4
        found = json.loads((root / f"iteration_{t}/evaluation.json").read_text())["ifeval"]
        assert found["prompt_level_strict_acc"]["n"] == 4
        assert ("inst_level_strict_acc_gain" in found) == (t > 0)
        assert found["excluded"] == 0
    for name, value in (("ifeval_prompts", 3), ("ifeval", "other.jsonl")):
        config = small_config(root, options | {f"evaluation.{name}": value})
        with pytest.raises(RunFolderError, match=rf"evaluation\.{name} was .* now {value!r}"):
            PrepareIFEval(Workspace.of(config), config).complete()
    config = small_config(root, options | {"evaluation.ifeval_max_new_tokens": 64})
    with pytest.raises(RunFolderError, match=r"evaluation\.ifeval_max_new_tokens was 1280, now 64"):
        AnswerIFEval(Workspace.of(config), config, 1).complete()


def test_meta_judge_pairs_are_training_data_of_the_next_model(job, prepared, tmp_path):
    root = tmp_path / "run"
    shutil.copytree(prepared, root)
    assert job(root, options=VARIANTS["meta"][0]) == 0
    counts = json.loads((root / "iteration_2/manifests/pairs.json").read_text())["counts"]
    pairs = read_records(root / "iteration_2/4_judgement_pairs.jsonl", PreferencePair)
    assert len(pairs) == counts["judgement_pairs"] > 0
    judgements = {row.id: row for row in read_records(root / "iteration_2/3_judgements.jsonl", Judgement)}
    for pair in pairs:
        assert judgements[pair.chosen_id].text == pair.chosen != pair.rejected == judgements[pair.rejected_id].text
        assert "<response>" in pair.prompt
    assert 0 <= counts["alarms"]["meta_higher_share"] <= 1


# A retrained model


@pytest.mark.parametrize("state", ["complete", "begun"])
def test_feedback_of_a_retrained_model_is_refused(job, prepared, uninterrupted, tmp_path, state):
    """M1 is retrained with another learning rate; feedback of the previous M1 is refused until deleted."""
    root = tmp_path / "run"
    shutil.copytree(prepared, root)
    at = uninterrupted[1].index("write iteration_2/2_candidates.jsonl")
    kill = {"at": at, "when": "after"} if state == "begun" else None
    assert job(root, kill=kill) == (-signal.SIGKILL if kill else 0)
    stage = "prompts" if state == "complete" else "candidates"
    record = root / f"iteration_2/manifests/{stage}{'' if state == 'complete' else '.begun'}.json"
    assert record.exists(), "the kill was meant to fall into the feedback"
    shutil.rmtree(root / "iteration_1")
    before = files(root)
    changed = {"sft.learning_rate": 1e-4, "sft.min_learning_rate": 1e-5}
    assert job(root, options=changed) == 1
    left = files(root)
    assert {name: left[name] for name in before if name.startswith("iteration_2")} == {
        name: before[name] for name in before if name.startswith("iteration_2")
    }
    config = small_config(root, changed)
    since = "ran" if state == "complete" else "began"
    with pytest.raises(
        RunFolderError, match=rf"input iteration_1/model has changed since this stage {since}.*iteration_2"
    ):
        STAGES[stage](Workspace.of(config), config, 2).complete()
    shutil.rmtree(root / "iteration_2")  # as the message says
    assert job(root, options=changed) == 0
