"""The built-in seed set keeps what it promises."""

import itertools
import re
from collections import Counter

import pytest

from srlm.config import SourceConfig
from srlm.seeds.readers import read_ift, read_prompts, read_ranked
from srlm.seeds.splits import Overlap, rouge_l, split_eft

TYPES = {"single_task", "multi_step", "role_play", "fixed_format", "constrained_length", "reasoning", "creative"}
IFT, EFT, EVALUATION = read_ift(SourceConfig()), read_ranked(SourceConfig()), read_prompts(SourceConfig())
SETS = {"ift": IFT, "eft": EFT, "evaluation": EVALUATION}


def test_it_is_large_enough_and_no_row_is_left_out():
    assert len(IFT) >= 240
    assert len(EFT) >= 80
    assert len(EVALUATION) >= 80
    assert {len(row.answers) for row in EFT} == {4}
    for name, rows in SETS.items():
        assert [row.source for row in rows] == [f"{name}.jsonl:{n}" for n in range(1, len(rows) + 1)]


@pytest.mark.parametrize("name", SETS)
def test_every_type_and_chinese_are_present_and_labelled(name):
    rows = SETS[name]
    assert {row.type for row in rows} == TYPES
    assert {row.language for row in rows} == {"en", "zh"}
    for row in rows:
        assert (row.language == "zh") <= bool(re.search("[\u4e00-\u9fff]", row.prompt)), row.id
    assert {row.type for row in rows if row.language == "zh"} == TYPES


def test_no_two_prompts_are_near_duplicates():
    seen = Overlap()
    rows = [*IFT, *EFT, *EVALUATION]
    for row in rows:
        similarity, index = seen.most_similar(row.prompt)
        assert similarity < 0.7, f"{row.id} and {rows[index].id}: {row.prompt}"
        seen.add(row.prompt)
    ids = [row.id for row in rows]
    assert len(set(ids)) == len(ids)


def test_no_answer_is_a_copy_of_another_rows():
    texts = [row.response for row in IFT] + [answer.text for row in EFT for answer in row.answers]
    assert [text for text, count in Counter(texts).items() if count > 1] == []


def test_the_split_drops_nothing():
    split = split_eft(EFT, 0.25, IFT, EVALUATION, 0.7, seed=0)
    assert set(split.dropped.values()) == {0}


def test_ranks_and_scores_agree():
    for row in EFT:
        scores = [answer.score for answer in row.answers]
        assert [answer.rank for answer in row.answers] == [0, 1, 2, 3], row.id
        assert scores == sorted(set(scores), reverse=True), row.id
        assert set(scores) <= set(range(6)), row.id
        assert all(answer.rationale and answer.rationale.strip() for answer in row.answers), row.id


def test_scores_are_spread():
    scores = Counter(answer.score for row in EFT for answer in row.answers)
    assert set(scores) == {0, 1, 2, 3, 4, 5}
    assert max(scores.values()) <= 0.3 * scores.total()


def test_length_does_not_give_the_better_answer_away():
    pairs = [pair for row in EFT for pair in itertools.combinations(row.answers, 2)]  # the better one first
    longer = sum(len(better.text) > len(worse.text) for better, worse in pairs)
    assert longer <= 0.6 * len(pairs)
    assert longer >= 0.4 * len(pairs), "nor may the shorter one be the better one"


def test_rationales_are_not_one_sentence_over_and_over():
    rationales = [answer.rationale for row in EFT for answer in row.answers]
    seen = Overlap(rationales[:1])
    worst = 0.0
    for rationale in rationales[1:]:
        worst = max(worst, seen.most_similar(rationale)[0])
        seen.add(rationale)
    assert worst < 0.9
    assert rouge_l(rationales[0], rationales[0]) == 1.0
