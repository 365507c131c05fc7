"""The built-in set `facts`: its answers follow their constraints, and its parts share no topic."""

from __future__ import annotations

import itertools
import logging
from collections import Counter

import pytest

from srlm.data import facts
from srlm.data.checkers import follows
from srlm.data.config import SourceConfig
from srlm.data.readers import read_ift, read_pool, read_prompts
from srlm.errors import SeedError
from srlm.types import Constraint


def test_answers_follow_their_constraints() -> None:
    rows = list(facts.rows("ift"))
    assert [row["response"] for row in rows] == [one.response for one in read_ift(SourceConfig(path="facts:ift"), 0)]
    assert len(rows) == 150
    for row in rows:
        assert row["kwargs"]
        for id, kwargs in zip(row["instruction_id_list"], row["kwargs"], strict=True):
            assert follows(Constraint(id, kwargs), row["response"]), row


def test_reading_names_no_field_of_the_set_itself(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "srlm.data")
    read_ift(SourceConfig(path="facts:ift"), 0)
    assert caplog.messages == ["facts:ift: 150 read, 0 left out"]


@pytest.mark.parametrize(("part", "count"), [("eft", 255), ("pool", 390), ("development", 150), ("test", 300)])
def test_prompts_have_constraints_of_every_kind(part: str, count: int) -> None:
    rows = read_pool(SourceConfig(path=f"facts:{part}"), seed=0)
    assert len(rows) == len({row.prompt for row in rows}) == count
    assert read_prompts(SourceConfig(path=f"facts:{part}"), seed=0)[0].constraints
    kinds = Counter(constraint.id for row in rows for constraint in row.constraints)
    assert set(kinds) == {kind.id for kind in facts.KINDS.values()}
    assert min(kinds.values()) > count / 20
    assert {len(row.constraints) for row in rows} == {1, 2}


def test_parts_share_no_topic() -> None:
    topics = [{topic for topic, *_ in facts._topics(part)} for part in facts.PARTS]
    assert sum(map(len, topics)) == 50 + 365
    assert not any(one & other for one, other in itertools.combinations(topics, 2))


def test_constraints_of_one_group_are_not_combined() -> None:
    groups = {kind.id: kind.group for kind in facts.KINDS.values()}
    for row in itertools.chain.from_iterable(map(facts.rows, facts.PARTS)):
        found = [groups[id] for id in row["instruction_id_list"]]
        assert len(set(found)) == len(found), row


def test_unknown_part_is_refused() -> None:
    with pytest.raises(SeedError, match=r"facts:train: no such part .*Use one of ift, eft, pool, development, test\."):
        read_ift(SourceConfig(path="facts:train"), seed=0)
