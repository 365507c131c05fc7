"""Whole runs on a scripted engine give the results that are recorded in tests/golden.json.xz.

After an intended change of results: `python -m tests.golden record tests/golden.json.xz --scripted`, and state in the
commit what has changed and why.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.golden import RECORDED, SCRIPTED, TOLERANCE, differences, load, make_run, read_results, renamed

pytestmark = pytest.mark.process


def test_every_scripted_run_is_recorded() -> None:
    assert set(load(RECORDED)) == set(SCRIPTED)


@pytest.mark.parametrize("name", SCRIPTED)
def test_results_equal_the_recorded_ones(name: str, tmp_path: Path) -> None:
    found = list(differences(load(RECORDED)[name], read_results(make_run(name, tmp_path)), TOLERANCE[True]))
    assert not found, "\n".join(found[:20])


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ({"a": 1.0}, {"a": 1.0 + 1e-12}, []),
        ({"a": 1.0}, {"a": 1.1}, ["a: 1.0, now 1.1"]),
        ({"a": 1}, {"a": 2}, ["a: 1, now 2"]),
        ({"a": None}, {"a": 0.0}, ["a: None, now 0.0"]),
        ({"a": True}, {"a": 1.0}, ["a: True, now 1.0"]),
        ({"a": "x"}, {"b": "x"}, ["a: only in the old recording", "b: only in the new recording"]),
        ({"a": [1, 2]}, {"a": [1, 3, 4]}, ["a: 2 entries, now 3", "a[1]: 2, now 3"]),
    ],
)
def test_differences_are_listed(old: object, new: object, expected: list[str]) -> None:
    assert list(differences(old, new, 1e-9)) == expected


def test_renames_apply_to_files_keys_and_values() -> None:
    old = {"iteration_1/evaluation.json": {"judge": {"model": "self", "n": 3}}}
    renames = {"files": {r"measures\.json$": "evaluation.json"}, "keys": {"model": "model"}, "values": {"self": "own"}}
    assert renamed(old, renames) == {"iteration_1/evaluation.json": {"judge": {"model": "own", "n": 3}}}
