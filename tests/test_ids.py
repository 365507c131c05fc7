"""srlm.ids: ids of records are built and parsed."""

from __future__ import annotations

import pytest

from srlm import ids


def test_ids_are_parsed_into_their_parts() -> None:
    prompt = ids.prompt_id(2, 3)
    candidate = ids.candidate_id(prompt, 12)
    judgement = ids.judgement_id(candidate, 0)
    assert (prompt, judgement) == ("t2/p00003", "t2/p00003/c12/j0")
    assert ids.parent(judgement) == candidate
    assert ids.parent(candidate) == prompt
    assert ids.ancestors(judgement) == [candidate, prompt, "t2"]
    assert (ids.label(candidate), ids.number_of(candidate)) == ("c12", 12)


@pytest.mark.parametrize("group", ["t2/p00003", "t2/p00003/c1", "file.jsonl:4", "owner/name/7"])
def test_comparison_id_has_members_and_order(group: str) -> None:
    comparison = ids.comparison_id(ids.match_id(group, 2, 10), "ba")
    match, order = ids.match_and_order(comparison)
    assert (ids.members(match), order, ids.parent(match)) == ((2, 10), "ba", group)


def test_answer_id_accepts_any_row_name() -> None:
    answer = ids.answer_id("a/b-c 1-2", 0)
    assert (ids.parent(answer), ids.label(answer)) == ("a/b-c 1-2", "a0")


def test_top_level_record_has_no_ancestors() -> None:
    assert (ids.ancestors("row"), ids.number_of("row"), ids.parent("row")) == ([], 0, "")
