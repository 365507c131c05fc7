"""srlm.evaluation.record: evaluation.json of a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from srlm.errors import RunFolderError
from srlm.evaluation.measures import Measure
from srlm.evaluation.record import Evaluation, evaluation_path, measures_of, read_evaluation, write_evaluation
from srlm.metrics import find
from srlm.pipeline.workspace import Workspace

ONE = {"value": 0.5, "low": None, "high": None, "n": 1}
MATCH = {"win": ONE, "types": {"role play": {"win": ONE}}}
PARTS: dict[str, Any] = {
    "iteration": 2,
    "judge": {"spearman": ONE},
    "judge_metrics": {
        "prompts": 3,
        "pairs": 4,
        "judgements": 8,
        "scores": {"histogram": {"0": 2, "5": 6}, "entropy_bits": 0.8},
        "length_penalty": 0.25,
        "mean_score_rank": {"0": ONE},
        "subsets": {"role play": {"pair_coverage": ONE}},
    },
    "contamination": {"prompts": 9, "excluded": 1, "exact": 1, "thirteen_gram": 0, "ids": ["e1"]},
    "answers": {"truncated": ONE},
    "drift": {"bold": ONE},
    "instructions": {"inst_level_strict_acc": ONE, "groups": {"keywords": {"strict": ONE, "loose": ONE}}},
    "ifeval": {"inst_level_strict_acc": ONE, "groups": {}, "excluded": 2},
    "head_to_heads": {"0": MATCH, "1": MATCH},
    "head_to_head": {"win": ONE},
    "head_to_head_judge": "Mé",
}


def test_evaluations_round_trip_through_json(tmp_path: Path) -> None:
    path = evaluation_path(Workspace(tmp_path), 2)
    assert path == tmp_path / "iteration_2/evaluation.json"
    path.parent.mkdir()
    evaluation = Evaluation.from_dict(PARTS)
    write_evaluation(path, evaluation)
    assert read_evaluation(path) == evaluation
    assert json.loads(path.read_text(encoding="utf-8")) == PARTS
    assert "Mé" in path.read_text(encoding="utf-8")  # non-ASCII text is not escaped


def test_unmeasured_parts_are_not_written() -> None:
    assert Evaluation.from_dict({"iteration": 0}).to_dict() == {"iteration": 0}


def test_parts_have_their_types() -> None:
    evaluation = Evaluation.from_dict(PARTS)
    assert evaluation.judge["spearman"] == Measure(0.5, None, None, 1)
    assert evaluation.part("ifeval") == measures_of({"inst_level_strict_acc": ONE})
    assert Evaluation(0).part("ifeval") == {}
    assert evaluation.ifeval
    assert evaluation.ifeval.excluded == 2
    assert evaluation.head_to_heads[0].types["role play"]["win"].n == 1


def test_all_metric_keys_are_in_the_metrics_table() -> None:
    evaluation = Evaluation.from_dict(PARTS)
    keys = [key for key, _ in [*evaluation.measures(), *evaluation.counts()]]
    assert len(keys) == len(set(keys)) == 26
    assert not [key for key in keys if find(key) is None]
    assert "head_to_heads/M1_types_role_play_win" in keys
    assert dict(evaluation.counts())["judge_metrics/scores_histogram_5"] == 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a_new_part": {}}, "unknown field 'a_new_part' for Evaluation"),
        ({"iteration": None}, r"Evaluation\.iteration: expected int"),
        ({"judge": {"spearman": {"value": 1}}}, r"Evaluation\.judge\.spearman: .*missing"),
        (
            {"judge": {"spearman": ONE | {"value": "high"}}},
            r"Evaluation\.judge\.spearman\.value: expected float, found str",
        ),
        (
            {"ifeval": {"groups": {"keywords": {"strict": 1}}}},
            r"expected an object for Evaluation\.ifeval\.groups\.keywords\.strict",
        ),
        ({"head_to_heads": {"0": {"win": 0.5}}}, r"expected an object for Evaluation\.head_to_heads\.0\.measures\.win"),
        ({"judge_metrics": {"cost": 1}}, r"'cost' for Evaluation\.judge_metrics"),
    ],
)
def test_damaged_files_are_refused_with_the_reason(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = tmp_path / "evaluation.json"
    path.write_text(json.dumps(PARTS | change))
    with pytest.raises(RunFolderError, match=rf"evaluation\.json is damaged or .*{message}.*delete it and "):
        read_evaluation(path)
