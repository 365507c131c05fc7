"""srlm.generation.own_answers, own_labels: a model's answers to EFT prompts, their labels, and the ranked prompts."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from srlm.config import Config
from srlm.data.prepare import PrepareData
from srlm.engines.base import Completion
from srlm.engines.session import GenerationStage
from srlm.errors import ConfigError, PromptTooLongError, SeedError
from srlm.generation.own_answers import AnswerOwnPrompts, RankAnswers, answers_to_label, report
from srlm.generation.own_labels import label_stage
from srlm.generation.pool import HeldOut, PreparePool, TakePrompts
from srlm.io.progress import Bars
from srlm.io.record_file import write_records
from srlm.judges.eft import examples_of_run
from srlm.pipeline.artifacts import (
    EFT,
    EFT_HELD_OUT,
    IFT,
    OWN_ANSWERS,
    OWN_HELD_OUT_PROMPTS,
    OWN_LABELS,
    OWN_PROMPTS,
    PROMPTS,
)
from srlm.pipeline.workspace import Workspace
from srlm.types import Candidate, Judgement
from tests.helpers import ScriptedEngine, Step, all_stages, judgement_from, options, run_step
from tests.own_answers import write_prompts

SERVER = ("endpoint.base_url=http://127.0.0.1:1/v1", "endpoint.model=big")
SERVED = ("data.own_answers.labels=endpoint", *SERVER, "judge=additive", "judge.count=2", "judge.min_valid=2")


def run_of(root: Path, labels: str, *overrides: str, **more: Any) -> tuple[Workspace, Config]:
    """Return a run whose data are read, with 12 prompts, of which 6 are held out."""
    path = write_prompts(root / "prompts.jsonl", **more)
    given = (f"runs_dir={root}", f"data.eft.path={path}", "data.eft_held_out=0.5", "data.own_answers.count=5")
    config = options(*given, f"data.own_answers.labels={labels}", *overrides)
    workspace = Workspace.of(config)
    run_step(PrepareData(workspace, config))
    return workspace, config


def generate(stage: Step, engine: Any) -> Any:
    assert isinstance(stage, GenerationStage)
    with Bars() as bars:
        asyncio.run(stage.generate(engine, bars))
    return engine


def words(messages: Any, sampling: Any, prefill: str, place: int) -> str:
    """Return texts of which some are empty and some repeated."""
    return ["", "k k k", "k k k", "k " * 20, "short", "x " * 20][place]


def answered(root: Path, labels: str, *overrides: str, **more: Any) -> tuple[Workspace, Config]:
    workspace, config = run_of(root, labels, *overrides, **more)
    generate(AnswerOwnPrompts(workspace, config, 1), ScriptedEngine(words))
    return workspace, config


def labelled(workspace: Workspace, config: Config) -> dict[str, float | None]:
    run_step(label_stage(workspace, config))
    return {row.candidate_id: row.score for row in OWN_LABELS.read(workspace, 1)}


def ranked(workspace: Workspace, config: Config) -> dict[str, Any]:
    stage = RankAnswers(workspace, config)
    run_step(stage)
    return stage.manifest().counts


def test_each_prompt_of_either_part_is_answered_and_answers_are_resumed(tmp_path: Path) -> None:
    workspace, config = run_of(tmp_path, "checkers", "data.own_answers.max_new_tokens=7", "data.own_answers.top_p=0.8")
    engine = generate(AnswerOwnPrompts(workspace, config, 1), ScriptedEngine(words))
    prompts = [row.prompt for one in (OWN_PROMPTS, OWN_HELD_OUT_PROMPTS) for row in one.read(workspace)]
    assert sorted(engine.contents) == sorted(prompts)
    assert len(prompts) == 12
    sampling = engine.calls[0][1]
    assert (sampling.temperature, sampling.top_p, sampling.max_new_tokens, sampling.n) == (1.0, 0.8, 7, 5)
    assert len({call[1].seed for call in engine.calls}) == 12
    rows = OWN_ANSWERS.read(workspace, 1)
    stage = AnswerOwnPrompts(workspace, config, 1)
    assert stage.complete()
    for path in (stage.path, stage.outputs[0]):
        path.unlink()
    stage.begin()
    write_records(stage.outputs[0], rows[:33])
    assert len(generate(AnswerOwnPrompts(workspace, config, 1), ScriptedEngine(words)).calls) == 6
    assert OWN_ANSWERS.read(workspace, 1) == rows


def test_empty_and_repeated_answers_are_not_labelled(tmp_path: Path) -> None:
    workspace, _ = answered(tmp_path, "checkers")
    for of_prompt in answers_to_label(workspace).values():
        assert [one.text for one in of_prompt] == ["k k k", "k " * 19 + "k", "short"]
        assert [one.id.rpartition("/")[2] for one in of_prompt] == ["c1", "c3", "c4"]


def test_prompts_without_an_answer_are_counted(tmp_path: Path) -> None:
    workspace, config = run_of(tmp_path, "checkers")
    refused = OWN_PROMPTS.read(workspace)[0]

    def reply(messages: Any, *rest: Any) -> str:
        if messages[-1]["content"] == refused.prompt:
            raise PromptTooLongError("too long")
        return words(messages, *rest)

    generate(AnswerOwnPrompts(workspace, config, 1), ScriptedEngine(reply))
    counts = AnswerOwnPrompts(workspace, config, 1).manifest().counts
    assert (counts["answers"], counts["unanswered"]) == (55, {"too long": 1})
    labelled(workspace, config)
    assert ranked(workspace, config)["prompts_unlabelled"] == 1
    assert refused.id not in {row.id for row in EFT.read(workspace)}


def test_checkers_label_and_rank_the_answers(tmp_path: Path) -> None:
    workspace, config = answered(tmp_path, "checkers")
    assert set(labelled(workspace, config).values()) == {2.5, 5.0, 0.0}
    counts = ranked(workspace, config)
    for row in (*EFT.read(workspace), *EFT_HELD_OUT.read(workspace)):
        assert [(answer.text, answer.rank, answer.score) for answer in row.answers] == [
            ("k " * 19 + "k", 0, 5.0),
            ("k k k", 1, 2.5),
            ("short", 2, 0.0),
        ]
    assert counts == {
        "prompts": 6,
        "held_out_prompts": 6,
        "answers": 36,
        "labels": {"0": 12, "3": 12, "5": 12},
        "prompts_with_different_labels": 12,
        "prompts_labelled": 12,
        "prompts_unlabelled": 0,
        "prompts_with_one_label": 0,
        "held_out_prompts_with_one_label": 0,
        "left_out": {"empty": 12, "repeated": 12},
        "constraints": {
            "keywords:letter_frequency": {"answers": 36, "followed": 24},
            "length_constraints:number_words": {"answers": 36, "followed": 12},
        },
    }
    assert report(counts) == [
        "Own EFT answers (label: answers): 0: 12, 3: 12, 5: 12; 36 answers to 12 prompts; left out: 12 empty, 12 "
        "repeated",
        "Own EFT answers: 100 % of the prompts have answers with different labels",
        "Own EFT answers that follow a constraint: the given frequency of a letter 24 of 36, the given number of words "
        "12 of 36",
    ]
    examples, _ = examples_of_run(config, EFT.read(workspace), [])
    assert {(example.response, example.score) for example in examples} == {
        ("k " * 19 + "k", 5.0),
        ("k k k", 3.0),
        ("short", 0.0),
    }


def test_prompts_without_constraints_are_left_out_for_the_checkers(tmp_path: Path) -> None:
    path = write_prompts(tmp_path / "prompts.jsonl")
    plain = {"prompt": "bodevo kilime tasoti muravo", "id": "plain"}
    path.write_text(path.read_text() + json.dumps(plain) + "\n")
    given = (f"runs_dir={tmp_path}", f"data.eft.path={path}")
    for labels, expected in (("checkers", 12), ("person", 13)):
        config = options(f"name={labels}", *given, f"data.own_answers.labels={labels}")
        workspace = Workspace.of(config)
        run_step(PrepareData(workspace, config))
        assert len(OWN_PROMPTS.read(workspace)) + len(OWN_HELD_OUT_PROMPTS.read(workspace)) == expected
        assert not EFT.path(workspace).exists()
    path.write_text(json.dumps(plain) + "\n")
    config = options("name=none", *given, "data.own_answers.labels=checkers")
    with pytest.raises(SeedError, match=r"has no prompt with constraints, which data\.own_answers\.labels=checkers"):
        run_step(PrepareData(Workspace.of(config), config))


def test_built_in_eft_prompts_are_answered_anew(tmp_path: Path) -> None:
    config = options(f"runs_dir={tmp_path}", "data.own_answers.labels=person")
    workspace = Workspace.of(config)
    run_step(PrepareData(workspace, config))
    rows = [*OWN_PROMPTS.read(workspace), *OWN_HELD_OUT_PROMPTS.read(workspace)]
    assert len(rows) > 20
    assert all(row.response for row in rows)  # the best answer, as a reference
    assert not {row.prompt for row in rows} & {row.prompt for row in IFT.read(workspace)}


def test_file_of_labels_is_asked_for_and_read(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    workspace, config = answered(tmp_path, str(path))
    with pytest.raises(SeedError, match=r"no such file\. The answers to label are in .*iteration_1/eft_answers\.jsonl"):
        run_step(label_stage(workspace, config))
    candidates = [one for of_prompt in answers_to_label(workspace).values() for one in of_prompt]
    path.write_text("".join(json.dumps({"id": one.id, "score": n % 6}) + "\n" for n, one in enumerate(candidates)))
    assert labelled(workspace, config) == {one.id: n % 6 for n, one in enumerate(candidates)}


def test_skipped_answers_and_tied_prompts(tmp_path: Path) -> None:
    """A prompt whose answers have one label is an example where scores are learnt, and is not held out."""
    path = tmp_path / "labels.jsonl"
    workspace, config = answered(tmp_path, str(path), "data.eft_max_score_fraction=1")
    tied, single, none = (row.id for row in OWN_PROMPTS.read(workspace)[:3])
    tied_held_out = OWN_HELD_OUT_PROMPTS.read(workspace)[0].id

    def score(one: Candidate) -> Any:
        if one.prompt_id == none or (one.prompt_id == single and one.id.endswith("c4")):
            return "skip"
        return 2 if one.prompt_id in (tied, single, tied_held_out) or one.id.endswith("c4") else 4

    candidates = [one for of_prompt in answers_to_label(workspace).values() for one in of_prompt]
    path.write_text("".join(json.dumps({"id": one.id, "score": score(one)}) + "\n" for one in candidates))
    labelled(workspace, config)
    counts = ranked(workspace, config)
    assert counts["left_out"] == {"empty": 12, "repeated": 12, "unlabelled": 4}
    assert (counts["prompts"], counts["held_out_prompts"], counts["prompts_unlabelled"]) == (5, 5, 1)
    assert (counts["prompts_with_different_labels"], counts["held_out_prompts_with_one_label"]) == (8, 1)
    assert report(counts)[1].endswith("73 % of the prompts have answers with different labels; left out: prompts "
                                      "with one label (1 held out)")  # fmt: skip
    train = {row.id: row for row in EFT.read(workspace)}
    assert [len(train[id].answers) for id in (tied, single)] == [3, 2]
    assert none not in train
    assert tied_held_out not in {row.id for row in EFT_HELD_OUT.read(workspace)}
    examples, _ = examples_of_run(config, EFT.read(workspace), [])
    assert {example.id.split("/")[0] for example in examples} >= {tied, single}
    rationales = options("data.own_answers.labels=checkers", "judge=additive")  # the baseline writes rationales
    judged = [
        judgement_from(f"{row.id}/a{n}", f"So.\nScore: {5 - answer.rank}")
        for row in EFT.read(workspace)
        for n, answer in enumerate(row.answers)
    ]
    examples, made = examples_of_run(rationales, EFT.read(workspace), judged)
    assert not {example.id.split("/")[0] for example in examples} & {tied, single}
    assert made["dropped: all answers tied"] == 2
    pairs = options("judge=pairwise")
    examples, made = examples_of_run(pairs, EFT.read(workspace), [])
    assert not {example.id.split("/")[0] for example in examples} & {tied, single}
    assert made["dropped: all answers tied"] == 2


def test_tied_prompts_can_be_left_out_of_training(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    workspace, config = answered(tmp_path, str(path), "data.own_answers.keep_tied=false")
    tied = {row.id for row in OWN_PROMPTS.read(workspace)[:2]}
    candidates = [one for of_prompt in answers_to_label(workspace).values() for one in of_prompt]
    scores = {one.id: 3 if one.prompt_id in tied else int(one.id[-1]) for one in candidates}
    path.write_text("".join(json.dumps({"id": id, "score": score}) + "\n" for id, score in scores.items()))
    labelled(workspace, config)
    counts = ranked(workspace, config)
    assert (counts["prompts"], counts["prompts_with_one_label"]) == (4, 2)
    assert report(counts)[1].endswith("left out: prompts with one label (2 training)")
    assert not tied & {row.id for row in EFT.read(workspace)}


def test_labels_without_an_order_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    workspace, config = answered(tmp_path, str(path))
    candidates = [one for of_prompt in answers_to_label(workspace).values() for one in of_prompt]
    path.write_text("".join(json.dumps({"id": one.id, "score": 2}) + "\n" for one in candidates))
    labelled(workspace, config)
    with pytest.raises(SeedError, match=r"6 EFT prompts for training and 0 held-out prompts .*At least 1 and 2"):
        run_step(RankAnswers(workspace, config))
    assert not EFT.path(workspace).exists()


def test_person_gets_a_file_to_fill(tmp_path: Path) -> None:
    workspace, config = answered(tmp_path, "person", history=[["Hello", "Hi"]])
    path = workspace.root / "labels.jsonl"
    with pytest.raises(SeedError, match=rf"{path} has the 36 answers to label .*from 0 to 5.*rerun the same command"):
        run_step(label_stage(workspace, config))
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(rows) == 36
    assert rows[0]["history"][0] == {"role": "user", "content": "Hello"}
    with pytest.raises(SeedError, match=r"36 rows: no `score` yet"):
        run_step(label_stage(workspace, config))
    path.write_text("".join(json.dumps(row | {"score": len(row["answer"]) % 6}) + "\n" for row in rows))
    assert labelled(workspace, config) == {row["id"]: len(row["answer"]) % 6 for row in rows}


FUNCTION = """
CALLS = []

def by_length(prompt, answers):
    CALLS.append(prompt)
    if len(CALLS) == FAIL_AT:
        raise RuntimeError("stopped")
    return [None if answer == "short" else len(answer) % 6 for answer in answers]

FAIL_AT = 0
"""


def test_function_labels_the_answers_and_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "labels_by_length.py").write_text(FUNCTION)
    monkeypatch.syspath_prepend(tmp_path)
    workspace, config = answered(tmp_path, "labels_by_length:by_length", reference="yes")
    module = sys.modules["labels_by_length"]  # the check of the options has imported it
    module.FAIL_AT = 5
    with pytest.raises(RuntimeError, match="stopped"):
        run_step(label_stage(workspace, config))
    assert len(OWN_LABELS.peek(workspace, 1)) == 12
    found = labelled(workspace, config)
    assert len(module.CALLS) == 5 + 8
    assert set(found.values()) == {5 % 6, 39 % 6, None}
    assert (module.CALLS[0].reference, len(module.CALLS[0].constraints)) == ("yes", 2)
    assert label_stage(workspace, config).manifest().counts["problems"] == {"no label by the function": 12}
    assert ranked(workspace, config)["answers"] == 24


def test_server_labels_with_the_judge_of_the_run(tmp_path: Path) -> None:
    workspace, config = answered(tmp_path, "endpoint", *SERVED[1:])

    def reply(messages: Any, sampling: Any, prefill: str, place: int) -> str:
        answer = re.search(r"<response>\n?(.*?)\n?</response>", messages[-1]["content"], re.DOTALL)[1]
        if answer == "short" and place:
            return "I cannot say."
        score = 4 if answer == "k k k" else 1
        return f"Because {place}.\nScore: {score + place}"

    stage = label_stage(workspace, config)
    engine = generate(stage, ScriptedEngine(reply))
    assert len(engine.calls) == 36
    assert len(OWN_LABELS.read(workspace, 1)) == 72
    assert not generate(label_stage(workspace, config), ScriptedEngine(reply)).calls
    rows = OWN_LABELS.read(workspace, 1)  # a run that was killed has some of them
    for path in (stage.path, stage.outputs[0]):
        path.unlink()
    stage.begin()
    write_records(stage.outputs[0], rows[:20])
    assert len(generate(label_stage(workspace, config), ScriptedEngine(reply)).calls) == 26
    assert OWN_LABELS.read(workspace, 1) == rows
    counts = ranked(workspace, config)
    assert counts["labels"] == {"2": 12, "5": 12}
    assert counts["left_out"]["unlabelled"] == 12
    [row, *_] = EFT.read(workspace)
    assert [(answer.text, answer.score, answer.rationale) for answer in row.answers] == [
        ("k k k", 5.0, "Because 1."),
        ("k " * 19 + "k", 2.0, "Because 1."),
    ]
    examples, _ = examples_of_run(config, EFT.read(workspace), [])  # judge=additive learns rationales
    assert {(example.rationale, example.written_by) for example in examples} == {("Because 1.", "seed")}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("data.own_answers.labels=endpoint",), "needs endpoint.base_url and endpoint.model"),
        (("data.own_answers.labels=endpoint", *SERVER, "judge=pairwise"), "gives no scores by a server"),
        (("data.own_answers.labels=missing_module:score",), "missing_module:score cannot be imported"),
        (("data.own_answers.labels=checkers", "recipe=spin"), "empty with recipe=spin"),
        (("data.own_answers.labels=checkers", "data.eft.path="), "data.eft.path='' is invalid"),
        (("data.own_answers.labels=checkers", "data.ift.path=", "sft.data=eft", "prompts.path=gsm8k"), "SFT baseline"),
        (("data.own_answers.labels=checkers", "data.own_answers.model=sft"), "M1 is trained on the answers"),
        (("data.own_answers.labels=checkers", "data.own_answers.model=endpoint"), "needs endpoint.base_url"),
        (("data.own_answers.temperature=0",), "above 0, or all answers are the same text"),
        (
            ("data.own_answers.labels=checkers", "data.own_answers.max_new_tokens=4096", "engine.max_model_len=2048"),
            "data.own_answers.max_new_tokens=4096 is invalid",
        ),
    ],
)
def test_impossible_combinations_are_refused(overrides: Sequence[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        options(*overrides)


@pytest.mark.parametrize(("model", "trains"), [("sft_baseline", True), ("base", False), ("endpoint", False)])
def test_model_that_answers_and_order_of_the_stages(tmp_path: Path, model: str, trains: bool) -> None:
    config = options(
        f"runs_dir={tmp_path}", "data.own_answers.labels=checkers", f"data.own_answers.model={model}", *SERVER
    )
    stages = [stage.name for stage in all_stages(Workspace.of(config), config)]
    first = ["data", "base_model", *(["sft_baseline"] if trains else []), "eft_answers", "eft_labels", "own_answers"]
    assert stages[: len(first)] == first
    assert stages.count("sft_baseline") == 1
    answers = AnswerOwnPrompts(Workspace.of(config), config, 1)
    names = {"sft_baseline": "the SFT baseline", "base": "M0", "endpoint": "endpoint"}
    assert str(answers.generator().model) == names[model]
    assert ("endpoint.model" in answers.depends_on()) == (model == "endpoint")


def test_pairs_of_own_eft_are_taken_after_the_labels(tmp_path: Path) -> None:
    config = options(f"runs_dir={tmp_path}", "data.own_answers.labels=checkers", "pairs.path=eft")
    stages = [str(stage) for stage in all_stages(Workspace.of(config), config)]
    assert stages.index("data/own_answers") < stages.index("iteration_2/pairs")
    assert stages.count("iteration_2/pairs") == 1
    config = options(f"runs_dir={tmp_path}", "pairs.path=eft")
    assert str(all_stages(Workspace.of(config), config)[1]) == "iteration_2/pairs"  # before any model runs


def test_built_in_facts_can_be_answered_and_checked(tmp_path: Path) -> None:
    config = options(f"runs_dir={tmp_path}", "experiment=own_answers")
    workspace = Workspace.of(config)
    run_step(PrepareData(workspace, config))
    rows = [*OWN_PROMPTS.read(workspace), *OWN_HELD_OUT_PROMPTS.read(workspace)]
    assert len(rows) > 200
    assert all(row.constraints for row in rows)


def test_without_own_answers_nothing_depends_on_them(tmp_path: Path) -> None:
    config = options(f"runs_dir={tmp_path}")
    for stage in all_stages(Workspace.of(config), config):
        assert not [name for name in stage.options if "own_answers" in name]


def test_prompts_near_held_out_ones_are_left_out_before_there_are_answers(tmp_path: Path) -> None:
    workspace, config = run_of(tmp_path, "checkers", f"prompts.path={tmp_path}/prompts.jsonl", "prompts.count=6")
    held_out = OWN_HELD_OUT_PROMPTS.read(workspace)
    assert HeldOut(workspace, []).near(held_out[0].conversation, 0.7)
    run_step(PreparePool(workspace, config))
    run_step(TakePrompts(workspace, config, 2))
    taken = {row.text for row in PROMPTS.read(workspace, 2) if not row.rejected}
    assert taken == {row.prompt for row in OWN_PROMPTS.read(workspace)}
    assert any("eft_held_out_prompts" in name for name in TakePrompts(workspace, config, 2).manifest().inputs)


def test_thoughts_are_not_judged(tmp_path: Path) -> None:
    workspace, config = run_of(tmp_path, "checkers")

    def think(messages: Any, sampling: Any, prefill: str, place: int) -> Completion:
        return Completion("k k k" if place else "", 5, not place, thought="<think>so</think>")

    generate(AnswerOwnPrompts(workspace, config, 1), ScriptedEngine(think))
    for of_prompt in answers_to_label(workspace).values():
        assert [one.text for one in of_prompt] == ["k k k"]
    assert {row.score for row in labelled_rows(workspace, config)} == {2.5}


def labelled_rows(workspace: Workspace, config: Config) -> list[Judgement]:
    labelled(workspace, config)
    return OWN_LABELS.read(workspace, 1)
