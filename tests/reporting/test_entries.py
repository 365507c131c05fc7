"""srlm.reporting.entries: the report's entries of each prompt, for a run with known records."""

from __future__ import annotations

from pathlib import Path

import pytest

from srlm.judges.config import PairwiseJudgeConfig
from srlm.preferences.pairs import TRUNCATED
from srlm.reporting.collect import collect
from srlm.reporting.entries import Entry, all_entries, cut, held_out_entries, row
from srlm.types import Answer, Comparison, Judgement, SeedExample, Turn
from tests.reporting.made_run import NO_COMMA, REFUSED, RIVERS, SILENT, TIE, make_run, write


@pytest.fixture(scope="module")
def entries(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Entry]:
    run = collect(make_run(tmp_path_factory.mktemp("runs") / "made"))
    return {entry.id: entry for entry in all_entries(run)}


def test_entries_include_rejected_prompts(entries: dict[str, Entry]) -> None:
    assert list(entries) == [RIVERS, TIE, SILENT, REFUSED, "eval-1", "eft-1"]


def test_chosen_and_rejected_are_marked_with_their_gap(entries: dict[str, Entry]) -> None:
    entry = entries[RIVERS]
    assert (entry.outcome, entry.gap, entry.iteration) == ("pair", 4.0, 2)
    assert [(answer.label, answer.mark, answer.score) for answer in entry.answers] == [
        ("c0", "chosen", 5.0),
        ("c1", "rejected", 1.0),
        ("c2", "", 3.0),
    ]
    assert [judged.text for judged in entry.answers[1].judgements] == ["Because of Rhine.\nScore: 1"]


@pytest.mark.parametrize(
    ("prompt", "outcome", "flags"),
    [
        (RIVERS, "pair", ["length_ratio"]),
        (TIE, "all scores equal", ["tie_share"]),
        (SILENT, TRUNCATED, ["parse_rate", "truncated"]),
        (REFUSED, "prompt rejected: keyword: map", []),
    ],
)
def test_entry_has_the_reason_for_no_pair_and_alarm_flags(
    entries: dict[str, Entry], prompt: str, outcome: str, flags: list[str]
) -> None:
    assert (entries[prompt].outcome, entries[prompt].flags) == (outcome, flags)


def test_judgement_without_score_is_kept_unscored(entries: dict[str, Entry]) -> None:
    answer = entries[SILENT].answers[0]
    assert (answer.score, answer.judgements[0].score, answer.judgements[0].problem) == (None, None, "no verdict")


def test_evaluation_prompts_have_one_marked_answer_per_model(entries: dict[str, Entry]) -> None:
    entry = entries["eval-1"]
    assert [(answer.label, answer.text) for answer in entry.answers] == [
        (f"M{t}", f"Rain, says M{t}.") for t in range(3)
    ]
    assert [answer.mark for answer in entry.answers] == ["", "won against M0", "won against M1"]
    assert [comparison["shown"] for comparison in entry.comparisons[:2]] == ["M1 then M0", "M0 then M1"]
    assert {comparison["winner"] for comparison in entry.comparisons} == {"M1", "M2"}
    assert (entry.constraints, [answer.checks for answer in entry.answers]) == (["no comma"], [[False]] * 3)
    assert entry.flags == ["not_followed"]
    assert entry.pairs == [("M1", "M0"), ("M2", "M1")]


def test_pairs_to_compare_do_not_show_which_candidate_is_chosen(entries: dict[str, Entry]) -> None:
    assert entries[RIVERS].pairs == [("c0", "c1")]
    assert entries[TIE].pairs == []


def test_pairs_with_a_persons_answer_are_not_offered_to_readers(tmp_path: Path) -> None:
    root = make_run(tmp_path / "made")
    path = root / "iteration_2/4_pairs.jsonl"
    path.write_text(path.read_text().replace(f'"chosen_id": "{RIVERS}/c0"', '"chosen_id": "ift-1"'))
    [entry, *_] = all_entries(collect(root))
    assert (entry.outcome, entry.pairs) == ("pair", [])


def test_ifeval_prompts_have_the_answers_and_checks_of_each_model(tmp_path: Path) -> None:
    root = make_run(tmp_path / "made")
    prompt = SeedExample("if-1", "Name rivers.", "", constraints=(NO_COMMA,), history=(Turn("user", "Hi"),))
    write(root / "data/ifeval.jsonl", [prompt])
    for t, text in enumerate(("Rhine, Elbe", "Rhine", "Elbe")):
        answers = [Answer("if-1", "Name rivers.", text, 2, False, thought="Hm. ")]
        write(root / f"iteration_{t}/evaluation/ifeval_answers.jsonl", answers)
    [entry] = [entry for entry in all_entries(collect(root)) if entry.source == "ifeval"]
    assert [(answer.text, answer.thought, answer.checks) for answer in entry.answers] == [
        ("Rhine, Elbe", "Hm. ", [False]),
        ("Rhine", "Hm. ", [True]),
        ("Elbe", "Hm. ", [True]),
    ]
    assert (entry.flags, entry.history) == ([], [Turn("user", "Hi")])


def test_held_out_answers_have_scores_of_each_model(entries: dict[str, Entry]) -> None:
    entry = entries["eft-1"]
    assert (entry.type, entry.outcome, entry.gap) == ("facts", "M2 orders best and worst against people", -1.0)
    assert [(judged.by, judged.score) for judged in entry.answers[1].judgements] == [("M0", 1), ("M1", 2), ("M2", 3)]


def test_held_out_answers_of_a_model_are_ranked_by_labels(tmp_path: Path) -> None:
    run = collect(make_run(tmp_path / "made"))
    run.config.data.own_answers.labels = "checkers"
    [outcome] = {entry.outcome for entry in held_out_entries(run) if entry.id == "eft-1"}
    assert outcome == "M2 orders best and worst against the labels"


def test_judgements_are_in_numeric_order(tmp_path: Path) -> None:
    root = make_run(tmp_path / "made")
    judgements = [Judgement(f"{RIVERS}/c0/j{n}", f"{RIVERS}/c0", f"{n}", 1.0) for n in (10, 2, 1)]
    write(root / "iteration_2/3_judgements.jsonl", judgements)
    [entry, *_] = all_entries(collect(root))
    assert [judged.text for judged in entry.answers[0].judgements] == ["1", "2", "10"]


def test_pairwise_judge_entries_have_comparisons(tmp_path: Path) -> None:
    root = make_run(tmp_path / "made", judge=PairwiseJudgeConfig())
    ids = [f"{RIVERS}/c0-c1/ab", f"{RIVERS}/c0-c1/ba"]
    rows = [Comparison(ids[0], RIVERS, " A", "first"), Comparison(ids[1], RIVERS, " ?", None, "no verdict")]
    write(root / "iteration_2/3_comparisons.jsonl", rows)
    [entry, *_] = all_entries(collect(root))
    assert [(c["shown"], c["winner"], c["problem"]) for c in entry.comparisons] == [
        ("c0 then c1", "c0", ""),
        ("c1 then c0", "", "no verdict"),
    ]


def test_unfinished_record_file_is_read_and_not_changed(tmp_path: Path) -> None:
    root = make_run(tmp_path / "made")
    path = root / "iteration_2/3_judgements.jsonl"
    torn = path.read_bytes()[:-20]
    path.write_bytes(torn)
    assert all_entries(collect(root))
    assert path.read_bytes() == torn


def test_cut_shortens_texts_and_appends_the_omitted_length() -> None:
    plain = {
        "prompt": "p" * 100,
        "history": [{"role": "user", "content": "h" * 100}],
        "answers": [{"text": "a" * 100, "thought": "t" * 100, "judgements": [{"text": "j" * 100, "score": 1.0}]}],
        "comparisons": [{"text": "c" * 100}],
    }
    short = cut(plain, 80)
    assert short["prompt"] == "p" * 80 + " […20 more]"
    assert short["answers"][0]["text"] == "a" * 80 + " […20 more]"
    assert short["answers"][0]["thought"] == "t" * 80 + " […20 more]"
    assert short["history"] == [{"role": "user", "content": "h" * 80 + " […20 more]"}]
    assert short["answers"][0]["judgements"] == [{"text": "j" * 10 + " […90 more]", "score": 1.0}]
    assert short["comparisons"][0]["text"] == "c" * 10 + " […90 more]"
    assert cut(plain, 800) == plain


def test_row_has_the_prompts_beginning_on_one_line() -> None:
    names = ("id", "source", "iteration", "type", "outcome", "gap", "flags", "pairs")
    answers = [{"score": score, "characters": n} for score, n in ((None, 7), (2.0, 9), (3.5, 1))]
    plain = dict.fromkeys(names) | {"prompt": "one\n\ttwo  three " * 40, "answers": answers}
    assert row(plain)[-3:-1] == [3.5, 9]  # the best score, and the longest answer
    assert row(plain)[-1].startswith("one two three one")
    assert len(row(plain)[-1]) == 96
