"""SPIN: human answers are chosen, the model's own samples are rejected, and there is no judge."""

from __future__ import annotations

import pytest

from srlm.pipeline.artifacts import CANDIDATES, IFT, JUDGEMENTS, PAIRS, UNPAIRED
from srlm.pipeline.manifest import stage_manifest
from srlm.pipeline.workspace import Workspace
from tests.forked import run_job


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Return a run to M3 with a scripted engine."""
    root = tmp_path_factory.mktemp("spin") / "run"
    ended = run_job(root, options={"recipe": "spin", "iteration": 3})
    assert ended.returncode == 0, ended.stderr[-4000:]
    return Workspace(root)


def test_human_answer_is_chosen_and_own_sample_is_rejected(run: Workspace) -> None:
    human = {row.prompt: row.response for row in IFT.read(run)}
    own = {one.id: one.text for one in CANDIDATES.read(run, 2)}
    pairs = PAIRS.read(run, 2)
    assert len(pairs) + len(UNPAIRED.read(run, 2)) == len(human) == len(own)
    assert len(pairs) > 20
    for pair in pairs:
        assert (pair.chosen, pair.rejected) == (human[pair.prompt], own[pair.rejected_id])


def test_pairs_of_the_previous_iteration_are_included(run: Workspace) -> None:
    now = PAIRS.read(run, 3)
    assert [pair.id.split("/")[0] for pair in now].count("t2") == len(PAIRS.read(run, 2))
    assert stage_manifest(run.iteration(3), "pairs").counts["new_pairs"] + len(PAIRS.read(run, 2)) == len(now)  # type: ignore[union-attr]


def test_models_are_trained_without_judgements(run: Workspace) -> None:
    assert not JUDGEMENTS.path(run, 2).exists()
    for t in (2, 3):
        assert stage_manifest(run.iteration(t), "dpo")
        assert (run.iteration(t) / "evaluation.json").exists()
