"""srlm.pipeline.provenance: which recorded options count as changed."""

from __future__ import annotations

import pytest

from srlm.config import Config
from srlm.pipeline.provenance import option_changes

LEARNS_PAIRS = {"judge.learns_pairs": True}


@pytest.mark.parametrize(
    ("then", "now", "changed"),
    [
        (LEARNS_PAIRS, {}, {"judge.learns_pairs": (True, False)}),
        ({}, LEARNS_PAIRS, {"judge.learns_pairs": (False, True)}),
        (LEARNS_PAIRS, LEARNS_PAIRS, {}),
        ({}, {}, {}),
    ],
)
def test_changed_training_data_of_the_judge_is_a_changed_option(then, now, changed):
    found = option_changes(then, now, Config(), dict)
    assert found.changed == changed
    assert not found.removed
