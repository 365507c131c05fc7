"""srlm.data.readers.read_benchmark: published formats become ranked prompts, and errors name file and line."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from srlm.data.config import SourceConfig
from srlm.data.readers import read_benchmark
from srlm.errors import SeedError

ROWS = {
    "plain": {"prompt": "Q?", "response_a": "good", "response_b": "bad", "human_preference": "a", "subset": "Natural"},
    "llmbar": {"input": "Q?", "output_1": "bad", "output_2": "good", "label": 2},
    "pandalm": {
        "idx": 3,
        "instruction": "Q?",
        "input": "",
        "response1": "good",
        "response2": "bad",
        "annotator1": 1,
        "annotator2": 0,
        "annotator3": 1,
    },
    "rewardbench": {"prompt": "Q?", "chosen": "good", "rejected": "bad", "subset": "refusals", "id": 7},
    "judgebench": {
        "pair_id": "x",
        "question": "Q?",
        "response_A": "bad",
        "response_B": "good",
        "label": "B>A",
        "source": "mmlu-pro-law",
    },
    "reader_verdict": {
        "prompt": "Q?",
        "first_id": "c0",
        "first": "good",
        "second": "bad",
        "verdict": "first",
    },
    "ranked": {"prompt": "Q?", "responses": [{"text": "bad", "rank": 1}, {"text": "good", "rank": 0}]},
}


@pytest.fixture
def write(tmp_path):
    def write(*rows: object, **options: object) -> SourceConfig:
        path = tmp_path / "bench.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return SourceConfig(path=str(path), **options)

    return write


@pytest.mark.parametrize("form", ROWS)
def test_published_formats_become_ranked_prompts(write, form):
    [prompt], excluded = read_benchmark(write(ROWS[form]))
    assert prompt.prompt == "Q?"
    assert {answer.text: answer.rank for answer in prompt.answers} == {"good": 0, "bad": 1}
    assert not excluded
    assert prompt.source == "bench.jsonl:1"
    assert prompt.type == ROWS[form].get("subset", "")


def test_the_order_of_answers_is_kept(write):
    [prompt], _ = read_benchmark(write(ROWS["llmbar"]))
    assert [(answer.text, answer.rank) for answer in prompt.answers] == [("bad", 1), ("good", 0)]


def test_ties_are_kept_and_votes_without_majority_dropped(write):
    votes = [(0, 0, 1), (2, 1, 2), (0, 1, 2)]
    names = ("annotator1", "annotator2", "annotator3")
    rows = [ROWS["pandalm"] | dict(zip(names, vote, strict=True)) | {"idx": n} for n, vote in enumerate(votes)]
    prompts, excluded = read_benchmark(write(*rows))
    assert [[answer.rank for answer in prompt.answers] for prompt in prompts] == [[0, 0], [1, 0]]
    assert excluded == {"no majority": 1}


def test_skipped_verdicts_of_readers_are_left_out_and_ties_kept(write):
    rows = [ROWS["reader_verdict"] | {"verdict": verdict, "prompt_id": verdict} for verdict in ("tie", "skip")]
    prompts, excluded = read_benchmark(write(*rows))
    assert [[answer.rank for answer in prompt.answers] for prompt in prompts] == [[0, 0]]
    assert excluded == {"skipped by the reader": 1}


def test_instruction_and_input_form_the_prompt(write):
    [prompt], _ = read_benchmark(write(ROWS["pandalm"] | {"instruction": "Sum up.", "input": "A text."}))
    assert prompt.prompt == "Sum up.\n\nA text."


def test_empty_answers_are_kept(write):
    """A judge can encounter empty answers, too."""
    [prompt], _ = read_benchmark(write(ROWS["plain"] | {"response_b": ""}))
    assert [answer.text for answer in prompt.answers] == ["good", ""]


@pytest.mark.parametrize(
    ("form", "change", "message"),
    [
        (
            "plain",
            {"human_preference": "c"},
            r"bench\.jsonl:2: 'human_preference' is 'c'\. Write one of 'a', 'b', 'tie'",
        ),
        ("llmbar", {"label": 3}, r"bench\.jsonl:2: 'label' is 3\. Write one of 1, 2"),
        ("llmbar", {"label": True}, r"'label' is True"),
        ("judgebench", {"label": "A"}, r"'label' is 'A'\. Write one of 'A>B'"),
        ("plain", {"prompt": " "}, r"bench\.jsonl:2: the prompt is empty"),
        ("plain", {"response_a": 3}, r"'response_a' is of type int"),
    ],
)
def test_invalid_values_are_refused_with_their_line(write, form, change, message):
    with pytest.raises(SeedError, match=message):
        read_benchmark(write(ROWS[form], ROWS[form] | change))


def test_invalid_rows_are_refused_with_their_line(write):
    short = {key: value for key, value in ROWS["pandalm"].items() if key != "annotator3"}
    with pytest.raises(SeedError, match=r"bench\.jsonl:2: no field 'annotator3'"):
        read_benchmark(write(ROWS["pandalm"], short))
    with pytest.raises(SeedError, match=r"bench\.jsonl:2: expected an object, found list"):
        read_benchmark(write(ROWS["plain"], [1]))
    with pytest.raises(SeedError, match=r"duplicate id '7', also in bench\.jsonl:1"):
        read_benchmark(write(ROWS["rewardbench"], ROWS["rewardbench"]))


def test_unknown_formats_and_missing_files_are_refused(write, tmp_path):
    with pytest.raises(SeedError, match="no known format has the fields"):
        read_benchmark(write({"left": "a", "right": "b"}))
    with pytest.raises(SeedError, match="no such file"):
        read_benchmark(SourceConfig(path=str(tmp_path / "none.jsonl")))
    with pytest.raises(SeedError, match=r"0 read, 1 left out: 1 no majority\. No row is left"):
        read_benchmark(write(ROWS["pandalm"] | {"annotator1": 2, "annotator2": 0}))


def test_a_limit_samples_all_subsets_proportionally(write):
    rows = [ROWS["plain"] | {"prompt": f"Q{n}?", "subset": "rare" if n % 4 == 0 else "common"} for n in range(80)]
    source = write(*rows, limit=20)
    prompts, excluded = read_benchmark(source, seed=1)
    assert Counter(prompt.type for prompt in prompts) == {"rare": 5, "common": 15}
    assert excluded == {"beyond limit": 60}
    assert prompts == read_benchmark(source, seed=1)[0]
    assert prompts != read_benchmark(source, seed=2)[0]
    assert [prompt.source for prompt in prompts] == sorted(
        (prompt.source for prompt in prompts), key=lambda source: int(source.split(":")[1])
    )


def test_the_builtin_set_has_four_answers_each():
    prompts, _ = read_benchmark(SourceConfig(path="builtin", languages=["en"]))
    assert len(prompts) == 106
    assert all(len(prompt.answers) == 4 for prompt in prompts)


@pytest.mark.parametrize(
    ("name", "rows", "ties"), [("judge_bench_llmbar.jsonl", 419, 0), ("judge_bench_pandalm.jsonl", 999, 105)]
)
def test_published_benchmarks_are_read_completely(shared_data: Path, name: str, rows: int, ties: int) -> None:
    prompts, excluded = read_benchmark(SourceConfig(path=str(shared_data / name)))
    assert len(prompts) == rows
    assert sum(prompt.answers[0].rank == prompt.answers[1].rank for prompt in prompts) == ties
    assert not excluded
    if "llmbar" in name:
        assert len({prompt.type for prompt in prompts}) == 5
