"""Own judgements and own pairs: formats, slices, another run's, and the stages that they replace."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from srlm.cli.export import preference_rows, unpaired_rows
from srlm.config import Config
from srlm.data.prepare import PrepareData
from srlm.errors import AlarmError, ConfigError, RunFolderError, SeedError
from srlm.evaluation.feedback_checks import FeedbackChecks
from srlm.generation.own_feedback import OwnStage, TakeJudgements, TakePairs
from srlm.generation.pairs import CheckFeedback, SelectPairs
from srlm.io.record_file import write_records
from srlm.pipeline.artifacts import CANDIDATES, EFT, EVALUATION_PROMPTS, JUDGEMENTS, LABELLED, PAIRS, PROMPTS
from srlm.pipeline.run_reader import stage_with
from srlm.pipeline.workspace import Workspace
from srlm.preferences.config import AlarmAction
from srlm.reporting.collect import RunNumbers
from srlm.reporting.entries import feedback_entries
from srlm.reporting.summary import pair_lines
from srlm.training.stages import Train
from srlm.types import LabelledAnswer, PreferencePair, RankedAnswer, RankedPrompt, Turn
from tests.generation.test_pool import texts, written
from tests.helpers import all_stages, options, run_step

WORDS = texts(20)


def run_of(root: Path, *overrides: str, name: str = "run") -> tuple[Workspace, Config]:
    """Return a run whose data are read."""
    config = options(f"name={name}", f"runs_dir={root}", *overrides)
    workspace = Workspace.of(config)
    workspace.save_config(config)
    workspace.update_run(name=name)
    run_step(PrepareData(workspace, config))
    return workspace, config


def pair(n: int, **more: Any) -> PreferencePair:
    values = {"chosen_id": "a", "rejected_id": "b", "chosen_score": 4.5, "rejected_score": 1.0} | more
    return PreferencePair(f"pair-{n}", WORDS[n], f"good {n}", f"bad {n}", **values)  # type: ignore[arg-type]


def names(workspace: Workspace, config: Config, t: int = 2) -> list[str]:
    return [one.name for one in all_stages(workspace, config) if one.t == t and one.folder == workspace.iteration(t)]


def scored(n: int, *scores: float | None) -> dict[str, Any]:
    return {"prompt": WORDS[n], "candidates": [{"text": f"answer {i}", "score": s} for i, s in enumerate(scores)]}


def test_a_stage_that_reads_nothing_cannot_be_made(tmp_path: Path) -> None:
    class Unfinished(OwnStage):
        name = "pairs"
        made = ()

    with pytest.raises(TypeError, match=r"abstract method '?read"):
        Unfinished(*run_of(tmp_path), 2)  # type: ignore[abstract]


# Pairs


def test_exported_pairs_come_back_as_they_were(tmp_path: Path) -> None:
    pairs = [pair(0, chosen_truncated=True, rejected_truncated=True), pair(1, weight=0.5, target=0.75)]
    workspace, config = run_of(tmp_path, f"pairs.path={written(tmp_path / 'x.jsonl', preference_rows(pairs))}")
    run_step(TakePairs(workspace, config, 2))
    found = {one.prompt: one for one in PAIRS.read(workspace, 2)}
    fields = ("prompt", "chosen", "rejected", "chosen_score", "rejected_score", "chosen_truncated", "weight", "target")
    assert [[getattr(found[one.prompt], name) for name in fields] for one in pairs] == [
        [getattr(one, name) for name in fields] for one in pairs
    ]
    assert {one.id for one in PROMPTS.read(workspace, 2)} == {one.id for one in found.values()}
    assert {one.chosen_id for one in found.values()} <= {one.id for one in CANDIDATES.read(workspace, 2)}
    counts = TakePairs(workspace, config, 2).manifest().counts
    assert (counts["prompts"], counts["pairs"], counts["alarms"]) == (2, 2, {})
    CheckFeedback(workspace, config, 2).run()


@pytest.mark.parametrize(
    ("row", "scores"),
    [
        ({"prompt": WORDS[0], "chosen": "good", "rejected": "bad"}, (1, 0)),
        ({"prompt": WORDS[0], "responses": [{"text": t, "score": s} for t, s in (("bad", 7), ("so", 8), ("good", 9))]},
         (9, 7)),
        ({k: f"\n\nHuman: {WORDS[0]}\n\nAssistant: {text}" for k, text in (("chosen", "good"), ("rejected", "bad"))},
         (1, 0)),
    ],
)  # fmt: skip
def test_pairs_of_every_preference_format_are_read(tmp_path: Path, row: dict[str, Any], scores: Any) -> None:
    workspace, config = run_of(tmp_path, f"pairs.path={written(tmp_path / 'x.jsonl', [row])}")
    run_step(TakePairs(workspace, config, 2))
    [found] = PAIRS.read(workspace, 2)
    assert (found.prompt, found.chosen, found.rejected) == (WORDS[0], "good", "bad")
    assert (found.chosen_score, found.rejected_score) == scores


def test_rows_that_are_left_out_are_counted_with_reasons_and_shown(tmp_path: Path) -> None:
    rows = [
        {"prompt": WORDS[0], "chosen": "good", "rejected": "bad"},
        {"prompt": WORDS[0], "chosen": "good", "rejected": "bad"},
        {"prompt": WORDS[1], "chosen": "", "rejected": "bad"},
        {"prompt": WORDS[2], "chosen": "same", "rejected": "same"},
        {"prompt": WORDS[3], "chosen": "good", "rejected": "bad"},
    ]
    workspace, config = run_of(tmp_path, f"pairs.path={written(tmp_path / 'x.jsonl', rows)}")
    run_step(TakePairs(workspace, config, 2))
    counts = TakePairs(workspace, config, 2).manifest().counts
    why = {
        "repeated": 1,
        "fewer than two ranked answers (empty)": 1,
        "fewer than two ranked answers (repeated)": 1,
    }
    assert (counts["pairs"], counts["left_out"]) == (2, why)
    [line] = pair_lines({2: counts})
    assert line == f"Pairs for M2: 2 from 2 prompts (rows left out: {', '.join(f'1 {one}' for one in why)})"
    steps = RunNumbers(workspace, config, 1, {}, {}, {}, {}, [], []).charts()["funnel"]
    assert [(one["step"], one["count"], one["lost"]) for one in steps] == [
        ("rows of pairs.path", 5, {}),
        ("accepted prompts", 2, why),
        ("pairs", 2, {}),
    ]


def test_an_answer_with_both_labels_is_named_and_scores_are_kept(tmp_path: Path) -> None:
    rows = [
        {"prompt": WORDS[0], "completion": "a", "label": True, "score": 2.64},
        {"prompt": WORDS[0], "completion": "a", "label": False},
        {"prompt": WORDS[0], "completion": "a", "label": True},
        {"prompt": WORDS[1], "completion": "b", "label": False},
    ]
    file = written(tmp_path / "x.jsonl", rows)
    workspace, config = run_of(tmp_path, f"pairs.path={file}", "method=kto")
    run_step(TakePairs(workspace, config, 2))
    assert {one.prompt: (one.label, one.score) for one in LABELLED.read(workspace, 2)} == {
        WORDS[0]: (True, 2.64),
        WORDS[1]: (False, 0.0),
    }
    counts = TakePairs(workspace, config, 2).manifest().counts
    assert counts["left_out"] == {"repeated with the other label": 1, "repeated": 1}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"label": True}, {"label": 2}], r"x\.jsonl:2: the label is 2, which is neither true nor false"),
        ([{"label": 0.7}, {"label": True}], r"x\.jsonl:1: the label is 0\.7, which is neither true nor false"),
        ([{}, {"label": True}], r"x\.jsonl:1: no `label`, which says whether the answer is desirable"),
        ([{}, {}], r"pairs\.path needs them; or, for method=kto, single answers with a `label`, true or false"),
    ],
)
def test_labels_that_are_missing_or_wrong_are_named(tmp_path: Path, rows: list[dict[str, Any]], message: str) -> None:
    rows = [{"prompt": WORDS[n], "completion": "a"} | row for n, row in enumerate(rows)]
    workspace, config = run_of(tmp_path, f"pairs.path={written(tmp_path / 'x.jsonl', rows)}", "method=kto")
    with pytest.raises(SeedError, match=message):
        run_step(TakePairs(workspace, config, 2))


def test_judgements_that_are_left_out_are_counted(tmp_path: Path) -> None:
    rows = [scored(0, 4, 1), scored(0, 4, 1), scored(1, 3), scored(2, 5, 2)]
    workspace, config = run_of(tmp_path, f"judgements.path={written(tmp_path / 'x.jsonl', rows)}")
    run_step(TakeJudgements(workspace, config, 2))
    counts = TakeJudgements(workspace, config, 2).manifest().counts
    assert counts["prompts"] == 2
    assert counts["left_out"] == {"repeated": 1, "fewer than two ranked answers": 1}


def test_pairs_are_sliced_by_iteration_and_kept_away_from_evaluation(tmp_path: Path) -> None:
    known = EVALUATION_PROMPTS.read(run_of(tmp_path, name="first")[0])[0].prompt
    rows = preference_rows([*(pair(n) for n in range(8)), PreferencePair("x", known, "a", "b", "c", "d", 1, 0)])
    file = written(tmp_path / "x.jsonl", rows)
    workspace, config = run_of(tmp_path, f"pairs.path={file}", "pairs.count=4", "iteration=3")
    for t in (2, 3):
        run_step(TakePairs(workspace, config, t))
    used = [{one.prompt for one in PAIRS.read(workspace, t)} for t in (2, 3)]
    assert [len(one) for one in used] == [4, 4]
    assert used[0] | used[1] == set(WORDS[:8])
    assert TakePairs(workspace, config, 3).manifest().counts["left_out"] == {"near an evaluation prompt": 1}
    config.iteration, config.pairs.count = 4, 3
    with pytest.raises(
        SeedError, match=r"8 usable rows, 1 of 9 are near .* needs 9: pairs\.count=3 for each of M2 to M4"
    ):
        TakePairs(workspace, config, 4).run()


def test_stages_before_own_pairs_do_not_exist(tmp_path: Path) -> None:
    file = written(tmp_path / "x.jsonl", preference_rows([pair(n) for n in range(8)]))
    workspace, config = run_of(tmp_path, f"pairs.path={file}")
    assert names(workspace, config) == ["pairs", "dpo", "evaluation"]
    run_step(TakePairs(workspace, config, 2))
    assert len(Train(workspace, config, 2).rows()) == 8
    assert stage_with(workspace, 2, "prompts", PROMPTS.file) == "pairs"
    file.write_text(json.dumps(preference_rows([pair(0)])[0]))
    with pytest.raises(RunFolderError, match=r"input .*x\.jsonl has changed"):
        TakePairs(workspace, config, 2).complete()


def test_kto_learns_from_labelled_answers_and_pairs(tmp_path: Path) -> None:
    answers = [LabelledAnswer(f"a{n}", WORDS[n], f"answer {n}", n % 2 == 0, 1.0, truncated=n == 1) for n in range(4)]
    file = written(tmp_path / "x.jsonl", unpaired_rows(answers))
    workspace, config = run_of(tmp_path, f"pairs.path={file}", "method=kto")
    run_step(TakePairs(workspace, config, 2))
    found = {one.prompt: (one.completion, one.label, one.truncated) for one in LABELLED.read(workspace, 2)}
    assert found == {one.prompt: (one.completion, one.label, one.truncated) for one in answers}
    assert TakePairs(workspace, config, 2).manifest().counts["desirable_answers"] == 2
    workspace, config = run_of(tmp_path, f"pairs.path={file}", name="dpo")
    with pytest.raises(SeedError, match="single answers with labels, from which method=dpo does not learn"):
        run_step(TakePairs(workspace, config, 2))
    file = written(tmp_path / "y.jsonl", preference_rows([pair(0), pair(1)]))
    workspace, config = run_of(tmp_path, f"pairs.path={file}", "method=kto", name="kto_of_pairs")
    run_step(TakePairs(workspace, config, 2))
    assert (len(PAIRS.read(workspace, 2)), LABELLED.read(workspace, 2)) == (2, [])


# Judgements


def test_own_scores_select_pairs(tmp_path: Path) -> None:
    rows = [scored(0, 2.5, 8.0, None), scored(1, 3, 3), scored(2, -1, 0)]
    workspace, config = run_of(tmp_path, f"judgements.path={written(tmp_path / 'x.jsonl', rows)}")
    assert names(workspace, config) == ["judgements", "pairs", "dpo", "evaluation"]
    run_step(TakeJudgements(workspace, config, 2))
    run_step(SelectPairs(workspace, config, 2))
    found = {one.prompt: (one.chosen, one.rejected, one.chosen_score) for one in PAIRS.read(workspace, 2)}
    assert found == {WORDS[0]: ("answer 1", "answer 0", 8.0), WORDS[2]: ("answer 1", "answer 0", 0.0)}
    counts = SelectPairs(workspace, config, 2).manifest().counts
    assert counts["dropped"] == {"all scores equal": 1}
    CheckFeedback(workspace, config, 2).run()


def checkable(n: int, *answers: tuple[str, float]) -> dict[str, Any]:
    """Return scored answers to a prompt that asks for no commas."""
    candidates = [{"text": text, "score": score} for text, score in answers]
    return {"prompt": WORDS[n], "candidates": candidates, "constraints": [{"id": "punctuation:no_comma"}]}


@pytest.mark.parametrize("method", ["dpo", "kto"])
def test_own_scores_are_checked_by_programs(tmp_path: Path, method: str) -> None:
    """The scores of 4 prompts prefer the answer with a comma, and those of one the other answer."""
    rows = [checkable(n, ("so", 2), ("so, so", 4)) for n in range(4)] + [checkable(4, ("so", 4), ("so, so", 2))]
    rows.append(scored(5, 1, 2))  # without constraints
    file = written(tmp_path / "x.jsonl", rows)
    given = ("method=kto", "pairs=above_mean") if method == "kto" else ()
    workspace, config = run_of(tmp_path, f"judgements.path={file}", *given)
    run_step(TakeJudgements(workspace, config, 2))
    run_step(SelectPairs(workspace, config, 2))
    counts = SelectPairs(workspace, config, 2).manifest().counts
    checks = FeedbackChecks.from_counts(counts)
    assert checks
    assert (checks.judge_accuracy.value, checks.judge_accuracy.n, checks.judge_accuracy.prompts) == (0.2, 5, 5)
    results = (checks.pairs_confirmed, checks.pairs_tied, checks.pairs_contradicted)
    assert [(one.value, one.n) for one in results] == [(0.2, 5), (0.0, 5), (0.8, 5)]
    assert counts["alarms"]["judge_accuracy"] == 0.2
    entries = feedback_entries(RunNumbers(workspace, config, 1, {}, {}, {}, {}, [], []), 2)
    flagged = [entry.outcome for entry in entries if "contradicted" in entry.flags]
    assert flagged == (["pair"] * 4 if method == "dpo" else [])  # labelled answers are no pairs
    config.alarms.judge_accuracy.action = AlarmAction.stop
    with pytest.raises(AlarmError, match=r"judgements\.path's .* accuracy on own candidates: 20 % \[\d+, \d+\], below"):
        CheckFeedback(workspace, config, 2).run()
    config.alarms.judge_accuracy.action = AlarmAction.off
    CheckFeedback(workspace, config, 2).run()


def test_own_pairs_are_checked_by_programs(tmp_path: Path) -> None:
    constraints = {"constraints": [{"id": "punctuation:no_comma"}]}
    rows = [preference_rows([pair(n)])[0] | constraints for n in range(2)]
    rows.append({"prompt": WORDS[2], "chosen": "bad, bad", "rejected": "good"} | constraints)
    workspace, config = run_of(tmp_path, f"pairs.path={written(tmp_path / 'x.jsonl', rows)}")
    run_step(TakePairs(workspace, config, 2))
    checks = FeedbackChecks.from_counts(TakePairs(workspace, config, 2).manifest().counts)
    assert checks
    results = (checks.pairs_confirmed, checks.pairs_tied, checks.pairs_contradicted)
    assert [one.value for one in results] == pytest.approx([0, 2 / 3, 1 / 3])
    assert checks.judge_accuracy.value is None  # no scores
    CheckFeedback(workspace, config, 2).run()


def test_report_shows_references_and_followed_constraints(tmp_path: Path) -> None:
    rows = [scored(0, 1, 2) | {"constraints": [{"id": "punctuation:no_comma"}], "reference": "7"}]
    workspace, config = run_of(tmp_path, f"judgements.path={written(tmp_path / 'x.jsonl', rows)}")
    run_step(TakeJudgements(workspace, config, 2))
    run_step(SelectPairs(workspace, config, 2))
    [entry] = feedback_entries(RunNumbers(workspace, config, 1, {}, {}, {}, {}, [], []), 2)
    assert entry.constraints == ["no comma"]
    assert [(answer.label, answer.mark, answer.checks) for answer in entry.answers] == [
        ("reference", "", [True]),
        ("c0", "rejected", [True]),
        ("c1", "chosen", [True]),
    ]


def test_another_runs_feedback_enters_the_same_iteration(tmp_path: Path) -> None:
    file = written(tmp_path / "x.jsonl", [scored(n, 1, n + 2) for n in range(6)])
    first, config = run_of(tmp_path, f"judgements.path={file}", "judgements.count=3", "iteration=3", name="first")
    for t in (2, 3):
        run_step(TakeJudgements(first, config, t))
        run_step(SelectPairs(first, config, t))
    second, config = run_of(tmp_path, f"judgements.path={first.root}", "iteration=3", name="second")
    for t in (2, 3):
        run_step(TakeJudgements(second, config, t))
        run_step(SelectPairs(second, config, t))
        assert JUDGEMENTS.read(second, t) == JUDGEMENTS.read(first, t)
        assert PAIRS.read(second, t) == PAIRS.read(first, t)
    third, config = run_of(tmp_path, f"pairs.path={first.root}", "iteration=4", name="third")
    run_step(TakePairs(third, config, 3))
    assert PAIRS.read(third, 3) == PAIRS.read(first, 3)
    assert JUDGEMENTS.read(third, 3) == JUDGEMENTS.read(first, 3)
    with pytest.raises(SeedError, match=r"has no pairs for M4; it has some for M2, M3"):
        run_step(TakePairs(third, config, 4))
    write_records(PAIRS.path(first, 3), PAIRS.read(first, 3)[:1])
    with pytest.raises(RunFolderError, match="has changed"):
        TakePairs(third, config, 3).complete()
    shutil.rmtree(first.root)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("pairs.path=x.jsonl", "iteration=3"), r"pairs\.count=0 .*1 or more with iteration=3"),
        (("pairs.count=3",), r"pairs\.count=3 .*0 without pairs\.path"),
        (("pairs.path=x.jsonl", "prompts.path=y.jsonl"), r"prompts\.path='y\.jsonl' .*empty with pairs\.path"),
        (("judgements.path=x.jsonl", "judge=meta"), r"judge\.meta=True .*false with judgements\.path"),
        (("pairs.path=x.jsonl", "experiment=spin"), r"pairs\.path='x\.jsonl' .*empty with recipe=spin"),
    ],
)
def test_invalid_combinations_are_refused(given: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        options(*given)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": WORDS[0], "responses": ["a", "b"]}, "no answer has a score"),
        ({"prompt": WORDS[0], "response": "a"}, "no ranked answers"),
    ],
)
def test_judgements_without_scores_are_refused(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    workspace, config = run_of(tmp_path, f"judgements.path={written(tmp_path / 'x.jsonl', [row])}")
    with pytest.raises(SeedError, match=message):
        run_step(TakeJudgements(workspace, config, 2))


# The run's own EFT labels


def labelled(number: int, *ranks: int, **more: Any) -> RankedPrompt:
    answers = tuple(RankedAnswer(f"answer {rank}/{n}", rank) for n, rank in enumerate(ranks))
    return RankedPrompt(f"e{number}", WORDS[number], answers, **more)


def test_eft_pairs_are_the_best_against_the_worst_answer_of_the_training_split(tmp_path: Path) -> None:
    workspace, config = run_of(tmp_path, "pairs.path=eft")
    rows = [labelled(0, 2, 0, 1), labelled(1, 1, 1), labelled(2, 0, 3, 0, history=(Turn("system", "Be brief."),))]
    write_records(EFT.path(workspace), rows)
    assert names(workspace, config) == ["pairs", "dpo", "evaluation"]
    run_step(TakePairs(workspace, config, 2))
    found = {one.prompt: (one.chosen, one.rejected, one.history) for one in PAIRS.read(workspace, 2)}
    assert found == {
        WORDS[0]: ("answer 0/1", "answer 2/0", ()),
        WORDS[2]: ("answer 0/0", "answer 3/1", (Turn("system", "Be brief."),)),
    }
    CheckFeedback(workspace, config, 2).run()
    assert "data/eft.jsonl" in TakePairs(workspace, config, 2).manifest().inputs


def test_eft_pairs_are_for_one_iteration_unless_they_are_counted(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"pairs\.count=0 .* 1 or more with iteration=3"):
        options("pairs.path=eft", "iteration=3")
    workspace, config = run_of(tmp_path, "pairs.path=eft", "pairs.count=2", "iteration=3")
    write_records(EFT.path(workspace), [labelled(n, 0, 1) for n in range(5)])
    for t in (2, 3):
        run_step(TakePairs(workspace, config, t))
    used = [{one.prompt for one in PAIRS.read(workspace, t)} for t in (2, 3)]
    assert [len(one) for one in used] == [2, 2]
    assert not used[0] & used[1]


def test_eft_pairs_need_eft_data() -> None:
    with pytest.raises(ConfigError, match=r"data\.eft\.path='' .* with pairs\.path=eft"):
        options("pairs.path=eft", "data.eft.path=", "sft.data=ift")
