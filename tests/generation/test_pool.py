"""The pool of prompts: disjoint slices, filters with reasons, and what a row's prompt keeps."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from srlm.config import Config
from srlm.data.config import SourceConfig
from srlm.data.prepare import PrepareData
from srlm.data.readers import read_pool
from srlm.errors import ConfigError, RunFolderError, SeedError
from srlm.generation.pool import NEAR_ADDED, NEAR_EVALUATION, PreparePool, TakePrompts
from srlm.pipeline.artifacts import EVALUATION_PROMPTS, POOL, PROMPTS
from srlm.pipeline.workspace import Workspace
from srlm.types import Constraint, Prompt
from tests.helpers import WORDS, all_stages, options, run_step


def texts(count: int) -> list[str]:
    draw = random.Random(0)
    return [" ".join(draw.choices(WORDS, k=10)) for _ in range(count)]


def written(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run_of(root: Path, path: Path | str, *overrides: str, name: str = "run") -> tuple[Workspace, Config]:
    """Return a run with this pool whose data are read."""
    config = options(f"name={name}", f"runs_dir={root}", f"prompts.path={path}", "prompts.count=4", *overrides)
    workspace = Workspace.of(config)
    workspace.save_config(config)
    workspace.update_run(name=name)
    run_step(PrepareData(workspace, config))
    return workspace, config


def take(workspace: Workspace, config: Config, *iterations: int) -> list[list[Prompt]]:
    """Return the accepted prompts of these iterations."""
    run_step(PreparePool(workspace, config))
    for t in iterations:
        run_step(TakePrompts(workspace, config, t))
    return [[prompt for prompt in PROMPTS.read(workspace, t) if not prompt.rejected] for t in iterations]


def test_iterations_take_disjoint_slices_that_later_iterations_do_not_change(tmp_path: Path) -> None:
    pool = written(tmp_path / "pool.jsonl", [{"prompt": text} for text in texts(12)])
    short, long = (run_of(tmp_path, pool, f"iteration={n}", name=f"to_{n}") for n in (2, 4))
    slices = take(*long, 2, 3, 4)
    assert [len(taken) for taken in slices] == [4, 4, 4]
    assert len({prompt.text for taken in slices for prompt in taken}) == 12
    assert [prompt.id for prompt in slices[1]] == [f"t3/p{n:05d}" for n in range(4)]
    [first] = take(*short, 2)
    assert first == slices[0]
    workspace, config = short
    config.iteration = 3
    assert take(workspace, config, 2, 3) == slices[:2]


def test_near_duplicates_and_evaluation_prompts_are_left_out_with_the_reason(tmp_path: Path) -> None:
    own = texts(8)
    evaluated = run_of(tmp_path, "gsm8k", name="other")[0]
    known = EVALUATION_PROMPTS.read(evaluated)[0].prompt
    passage = max((row.prompt for row in EVALUATION_PROMPTS.read(evaluated)), key=len)
    near = " ".join([*own[0].split()[:-1], "else"])
    long = f"{' '.join(texts(9)[8].split() * 6)} {passage}"
    pool = written(tmp_path / "pool.jsonl", [{"prompt": text} for text in [*own, near, known, long]])
    workspace, config = run_of(tmp_path, pool, "prompts.count=8")
    with pytest.raises(
        SeedError, match=r"has 8 usable prompts \(of 11, .*iteration=3 needs 16: prompts.count=8 for each"
    ):
        take(workspace, options("iteration=3", f"runs_dir={tmp_path}", "name=run", f"prompts.path={pool}",
                                "prompts.count=8"), 2)  # fmt: skip
    assert not PROMPTS.path(workspace, 2).exists()
    [taken] = take(workspace, config, 2)
    assert len(taken) == 8
    reasons = {prompt.text: prompt.rejected for prompt in PROMPTS.read(workspace, 2) if prompt.rejected}
    assert set(reasons.values()) <= {NEAR_ADDED, NEAR_EVALUATION}
    assert reasons.get(known, NEAR_EVALUATION) == reasons.get(long, NEAR_EVALUATION) == NEAR_EVALUATION
    counts = TakePrompts(workspace, config, 2).manifest().counts
    assert counts["attempts"] == 8 + sum(counts["rejected"].values())


def test_constraints_and_references_of_rows_are_kept(tmp_path: Path) -> None:
    one, two, three, four = texts(4)
    rows = [
        {"question": one, "answer": "2 + 2 = 4\n#### 4"},
        {"question": two, "answer": "No number", "constraints": [{"id": "punctuation:no_comma", "kwargs": {}}]},
        {"question": three, "answer": "", "reference": "Blue", "category": "colour"},
        {"question": four, "answer": "7"},
    ]
    workspace, config = run_of(tmp_path, written(tmp_path / "pool.jsonl", rows))
    [taken] = take(workspace, config, 2)
    found = {prompt.text: prompt for prompt in taken}
    assert found[one].constraints == (Constraint("final_answer:number", {"number": 4}),)
    assert found[one].reference == rows[0]["answer"]
    assert found[two].constraints == (Constraint("punctuation:no_comma", {}),)
    assert (found[three].reference, found[three].constraints, found[three].type) == ("Blue", (), "colour")
    assert found[four].constraints == (Constraint("final_answer:number", {"number": 7}),)
    assert found[four].source == "pool.jsonl:4"
    assert PreparePool(workspace, config).manifest().counts == {
        "prompts": 4, "with_constraints": 3, "with_reference": 4,
    }  # fmt: skip


def test_multiple_choice_rows_are_checked_by_the_label(tmp_path: Path) -> None:
    rows = [
        {"id": str(n), "question": text, "choices": {"text": ["x", "y"], "label": ["A", "B"]}, "answerKey": "B"}
        for n, text in enumerate(texts(4))
    ]
    [taken] = take(*run_of(tmp_path, written(tmp_path / "arc.jsonl", rows)), 2)
    assert {prompt.constraints for prompt in taken} == {
        (Constraint("final_answer:label", {"answer": "B", "labels": ["A", "B"]}),)
    }
    assert taken[0].text.endswith("\n\nA. x\nB. y")


def test_another_runs_prompts_are_a_pool(tmp_path: Path) -> None:
    pool = written(tmp_path / "pool.jsonl", [{"prompt": text, "reference": "yes"} for text in texts(8)])
    first, config = run_of(tmp_path, pool, "iteration=3", name="first")
    known = {prompt.text for taken in take(first, config, 2, 3) for prompt in taken}
    second, config = run_of(tmp_path, first.root, name="second")
    [taken] = take(second, config, 2)
    assert {prompt.text for prompt in taken} < known
    assert {prompt.reference for prompt in taken} == {"yes"}
    assert len(PreparePool(second, config).manifest().inputs) == 2
    empty, config = run_of(tmp_path, run_of(tmp_path, pool, name="empty")[0].root, name="third")
    with pytest.raises(SeedError, match="no prompts yet"):
        take(empty, config, 2)


def test_conversations_of_a_pool_come_through(tmp_path: Path) -> None:
    asked = texts(5)
    turns = [
        ("system", "Be brief."),
        ("user", asked[4]),
        ("assistant", "Yes."),
        ("user", asked[0]),
        ("assistant", "No."),
    ]
    rows: list[dict[str, Any]] = [{"messages": [{"role": role, "content": text} for role, text in turns]}]
    rows += [{"messages": [{"role": "user", "content": text}]} for text in asked[1:4]]
    [taken] = take(*run_of(tmp_path, written(tmp_path / "pool.jsonl", rows)), 2)
    [prompt] = [one for one in taken if one.text == asked[0]]
    assert [(turn.role, turn.content) for turn in prompt.history] == turns[:3]
    assert prompt.reference == "No."


def test_an_answer_to_an_earlier_question_is_no_reference(tmp_path: Path) -> None:
    first, *asked = texts(5)
    rows: list[dict[str, Any]] = [
        {
            "messages": [
                {"role": role, "content": text} for role, text in zip(("user", "assistant") * 2, turns, strict=False)
            ]
        }
        for turns in ([first, "Yes.", asked[0]], [first, "Yes.", asked[1], "No."], [asked[2]])
    ]
    rows.append({"messages": [{"role": "user", "content": asked[3]}], "reference": "Blue"})
    path = written(tmp_path / "pool.jsonl", rows)
    found = {row.prompt: row.response for row in read_pool(SourceConfig(path=str(path)))}
    assert found == {asked[0]: "", asked[1]: "No.", asked[2]: "", asked[3]: "Blue"}


def test_changed_pool_is_noticed(tmp_path: Path) -> None:
    pool = written(tmp_path / "pool.jsonl", [{"prompt": text} for text in texts(8)])
    workspace, config = run_of(tmp_path, pool)
    take(workspace, config, 2)
    written(pool, [{"prompt": text} for text in texts(9)])
    with pytest.raises(RunFolderError, match=r"input .*pool\.jsonl has changed"):
        PreparePool(workspace, config).complete()
    config.prompts.path = ""
    with pytest.raises(RunFolderError, match=r"prompts\.path was"):
        next(stage for stage in all_stages(workspace, config) if stage.name == "prompts").complete()


def test_recipe_takes_the_pool_before_any_model_and_writes_no_prompts(tmp_path: Path) -> None:
    pool = written(tmp_path / "pool.jsonl", [{"prompt": text} for text in texts(8)])
    workspace, config = run_of(tmp_path, pool, "iteration=3")
    names = [str(stage) for stage in all_stages(workspace, config)]
    assert names[:4] == ["data/data", "data/pool", "iteration_2/prompts", "iteration_3/prompts"]
    assert [type(one) for one in all_stages(workspace, config) if one.name == "prompts"] == [TakePrompts] * 2
    assert len(POOL.read(workspace)) == 0
    with pytest.raises(ConfigError, match=r"prompts\.path=.* empty with recipe=spin"):
        options("experiment=spin", f"prompts.path={pool}")
