"""`import srlm`: its functions return the results of runs and commands, and refuse invalid arguments.

Workers run in this process, on scripted engines; tests/e2e/test_api.py starts real ones.
"""

from __future__ import annotations

import ast
import asyncio
import importlib
import inspect
import json
import math
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

import srlm
from srlm.api import process
from srlm.api.arguments import pair_records
from srlm.api.runs import RECORDS
from srlm.config import Evaluate
from srlm.engines.base import Completion
from srlm.errors import ArgumentError, ConfigError, NoPairsError, PromptTooLongError, RunFolderError, TrainingError
from srlm.evaluation.config import EvaluationConfig
from srlm.io.progress import Bars, descriptor_for_workers
from srlm.io.record_file import read_records
from srlm.models.conversation import messages_of
from srlm.pipeline.artifacts import CANDIDATES, JUDGEMENTS, PROMPTS
from srlm.pipeline.worker import RESUME, WorkerCrashed
from srlm.pipeline.workspace import Workspace
from srlm.preferences.pairs import length_penalty
from srlm.preferences.pairs import select_pairs as select
from srlm.types import Judgement, PreferencePair, SeedExample
from tests.finished_run import make_run
from tests.helpers import ROOT, ScriptedEngine, generate_feedback, on_cpu, options
from tests.scripted import OrderedEngine

PROMPT, ANSWERS = "Name a river.", ["The Oder.", "A mountain."]
CHAT = [
    {"role": "user", "content": PROMPT},
    {"role": "assistant", "content": ANSWERS[0]},
    {"role": "user", "content": "Sure?"},
]


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Run workers in this process; return the list of their folders."""
    folders: list[Path] = []

    def run(target: str, workspace: Workspace, number: int, train: Any, name: str, group: str) -> None:
        folders.append(workspace.root)
        module, _, function = target.partition(":")
        getattr(importlib.import_module(module), function)(workspace, number)

    monkeypatch.setattr(process, "run_worker", run)
    return folders


@pytest.fixture
def engine_of(monkeypatch: pytest.MonkeyPatch, in_process: list[Path]) -> Callable[[Callable[[str], Any]], None]:
    """Replace the engine of each model by the one that the given function returns for its name."""

    def use(make: Callable[[str], Any]) -> None:
        @asynccontextmanager
        async def opened(config: Any, name: str) -> AsyncIterator[Any]:
            yield make(name)

        monkeypatch.setattr("srlm.judges.opening.open_named", opened)
        monkeypatch.setattr("srlm.engines.base.open_named", opened)

    return use


def verdicts(messages: Any, sampling: Any, prefill: str, place: int) -> Completion:
    """Score answers with "?" not at all, those with "e" 4, and others 1."""
    text = messages[-1]["content"].partition("<response>")[2].partition("</response>")[0]
    score = None if "?" in text else 4 if "e" in text else 1
    return Completion("no idea" if score is None else f"Fine.\nScore: {score}", 4, False)


class WithProbabilities(OrderedEngine):
    """An engine that also returns probabilities of the choices, which depend on the request."""

    async def generate(self, messages: Any, sampling: Any, prefill: str = "") -> list[Completion]:
        found = await super().generate(messages, sampling, prefill)
        draw = random.Random(messages[-1]["content"])
        logprobs = tuple(-5 * draw.random() for _ in sampling.choices)
        return [replace(one, choice_logprobs=logprobs) for one in found]


# import srlm


def test_import_is_fast_and_loads_no_heavy_library(tmp_path: Path) -> None:
    heavy = ("torch", "transformers", "vllm", "trl", "datasets", "pandas", "matplotlib", "hydra", "wandb")
    code = f"""
import sys, time
start = time.perf_counter()
import srlm
seconds = time.perf_counter() - start
print(seconds, [name for name in {heavy} if name in sys.modules])
[getattr(srlm, name) for name in srlm.__all__]
print([name for name in ("torch", "transformers", "vllm", "trl") if name in sys.modules])
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first.endswith(" []")
    assert float(first.split()[0]) < 5  # on a busy machine; otherwise a few hundredths
    assert second == "[]"


def test_public_functions_are_listed_and_documented() -> None:
    assert set(srlm.__all__) <= set(dir(srlm))
    functions = ("compose", "score", "select_pairs", "dpo", "open_run", "compare")
    for name in functions:
        text = getattr(srlm, name).__doc__
        assert all(f"{head}\n    ---" in text for head in ("Parameters", "Raises", "Examples")), name
    with pytest.raises(AttributeError, match="module 'srlm' has no attribute 'scores'"):
        srlm.scores  # noqa: B018


# compose


def test_compose_returns_the_options_of_the_run_command(tmp_path: Path) -> None:
    words = ("experiment=smoke", "judge=pairwise", "name=2026_11_28", "dpo.extra.loss_type=[ipo]")
    assert srlm.compose() == srlm.compose("experiment=facts")
    assert on_cpu(srlm.compose("~experiment")) == options()
    config = srlm.compose(*words)
    words = ("experiment=smoke", "judge=pairwise", "name='2026_11_28'", "++dpo.extra.loss_type=[ipo]")
    assert on_cpu(config) == options(*words)
    (tmp_path / "judge").mkdir()
    (tmp_path / "judge/mine.yaml").write_text("defaults: [sampled_options, _self_]\ncount: 7\n")
    assert srlm.compose("judge=mine", config_dir=tmp_path).judge.count == 7


def test_compose_works_inside_a_program_that_uses_hydra() -> None:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        assert srlm.compose("seed=3").seed == 3
        assert GlobalHydra.instance().is_initialized()
        assert compose("config").seed == 0
    assert not GlobalHydra.instance().is_initialized()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("judge=none_such", "There is no judge=none_such."),
        ("judg.count=2", "There is no option judg.count. Did you mean judge.count?"),
        ("judge=additive judge.count=x", "judge.count=x is invalid: it must be a whole number."),
        ("judge=additive judge.count=0", "judge.count=0 is invalid: it must be 1 or more"),
    ],
)
def test_compose_refuses_what_the_command_refuses(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        srlm.compose(*override.split())


# score


def test_scores_are_means_of_valid_judgements_or_none(engine_of: Any, in_process: list[Path]) -> None:
    engine = ScriptedEngine(verdicts)
    engine_of({"tiny-random": engine}.__getitem__)
    config = srlm.compose("judge=verdict_only", "judge.count=2", "judge.min_valid=2", "model=tiny_random")
    scores = srlm.score([PROMPT, "Why?"], [ANSWERS, ["?", "Yes", "no"]], config=config)
    assert scores.means == [[4.0, 1.0], [None, 4.0, 1.0]]
    assert [one.candidate_id for one in scores.judgements[::2]] == [
        f"p0000{p}/c{c}" for p, c in ((0, 0), (0, 1), (1, 0), (1, 1), (1, 2))
    ]
    assert scores.judgements[4].problem
    assert len(engine.calls) == 5
    assert not any(folder.exists() for folder in in_process)


def test_too_long_answer_has_no_score(engine_of: Any) -> None:
    def refuses(messages: Any, *rest: Any) -> Completion:
        if "long" in messages[-1]["content"]:
            raise PromptTooLongError("a prompt of 9999 tokens")
        return verdicts(messages, *rest)

    engine_of(lambda name: ScriptedEngine(refuses))
    scores = srlm.score([PROMPT], [["long", "Oder"]], config=srlm.compose("judge=verdict_only"))
    assert scores.means == [[None, 4.0]]
    assert scores.judgements[0].problem.startswith("too long for the judge")


@pytest.mark.parametrize("judge", ["verdict_only", "pairwise", "logprob"])
def test_score_returns_the_scores_of_a_runs_stage(
    engine_of: Any, tmp_path: Path, tiny_checkpoint: Path, judge: str
) -> None:
    """With the same prompts, answers and seed, this also holds for judges that sample."""

    workspace, _ = make_run(tmp_path / "run", tiny_checkpoint, f"judge={judge}")
    for file in ("1_prompts", "2_candidates", "3_judgements", "3_comparisons"):
        (workspace.iteration(2) / f"{file}.jsonl").unlink(missing_ok=True)
        (workspace.iteration(2) / f"manifests/{file[2:]}.json").unlink(missing_ok=True)
    config = replace(workspace.config(), seed=5)
    engine = WithProbabilities("m")
    with Bars() as bars:
        asyncio.run(generate_feedback(engine, workspace, config, 2, bars))
    prompts, candidates = PROMPTS.read(workspace, 2), CANDIDATES.read(workspace, 2)
    stored = JUDGEMENTS.read(workspace, 2)
    assert len({one.score for one in stored}) > 2
    engine_of(lambda name: WithProbabilities("m", order=3))
    scores = srlm.score(prompts, candidates, config=config)
    assert sorted(scores.judgements, key=lambda one: one.id) == stored
    selection = srlm.select_pairs(prompts, candidates, scores.judgements, config=config)
    assert selection.pairs
    assert srlm.select_pairs(prompts, candidates, stored, config=config) == selection
    assert srlm.select_pairs(prompts, candidates, scores.means, config=config) == selection


def test_score_works_inside_a_running_event_loop(engine_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """In Jupyter an event loop is running; the worker has its own loop in a separate process (here, a thread)."""
    engine_of(lambda name: ScriptedEngine(verdicts))
    here = process.run_worker

    def in_thread(*arguments: Any, **others: Any) -> None:
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(1) as pool:
            pool.submit(here, *arguments, **others).result()

    monkeypatch.setattr(process, "run_worker", in_thread)
    config = srlm.compose("judge=verdict_only")

    async def main() -> tuple[Any, Any]:
        blocking = srlm.score([PROMPT], [ANSWERS], config=config)
        return blocking, await asyncio.to_thread(srlm.score, [PROMPT], [ANSWERS], config=config)

    one, other = asyncio.run(main())
    assert one == other
    assert one.means == [[4.0, 1.0]]


def test_judge_model_is_the_argument_or_the_option(engine_of: Any) -> None:
    named: list[str] = []

    def make(name: str) -> Any:
        named.append(name)
        return ScriptedEngine(verdicts)

    engine_of(make)
    srlm.score([PROMPT], [ANSWERS], model=Path("runs/a/model"), config=srlm.compose("judge=verdict_only"))
    srlm.score([PROMPT], [ANSWERS], config=srlm.compose("judge=verdict_only", "model=tiny_random"))
    srlm.score([PROMPT], [ANSWERS], config=srlm.compose("judge=verdict_only", "judge.model=some/model"))
    assert named == ["runs/a/model", "tiny-random", "some/model"]


# select_pairs


def test_select_pairs_returns_the_pairs_of_a_run(finished_run: Path) -> None:
    run = srlm.open_run(finished_run)
    for override in ((), ("pairs=length_controlled",), ("pairs.min_gap=9",)):
        config = srlm.compose(*override) if override else run.config
        selection = srlm.select_pairs(run.prompts(2), run.candidates(2), run.judgements(2), config=config)
        records = [one for one in run.prompts(2) if not one.rejected], run.candidates(2), run.judgements(2)
        given = (config.pairs, config.judge.min_valid)
        penalty = length_penalty(*records, *given)
        assert (selection.pairs, selection.unpaired) == select(*records, *given, penalty)
        assert selection.length_penalty == penalty
        if not override:
            assert selection.pairs == run.pairs(2)
            assert selection.unpaired == run.unpaired(2)


def test_select_pairs_accepts_own_scores() -> None:
    prompts = [PROMPT, "Equal?", "Missing?", "One?"]
    answers = [[*ANSWERS, "The Rhine."], ["a", "b"], ["a", "b"], ["a"]]
    scores = [[3, -1.5, 2], [1.0, 1.0], [2.0, None], [math.nan]]
    selection = srlm.select_pairs(prompts, answers, scores)
    [pair] = selection.pairs
    assert (pair.prompt, pair.chosen, pair.rejected) == (PROMPT, "The Oder.", "A mountain.")
    assert (pair.chosen_score, pair.rejected_score) == (3.0, -1.5)
    fewer = "fewer than two candidates with enough valid judgements"
    assert [one.reason for one in selection.unpaired] == ["all scores equal", fewer, fewer]
    assert selection.reasons == {"all scores equal": 1, fewer: 2}
    config = srlm.compose("method=kto", "pairs=above_mean")
    labelled = srlm.select_pairs(prompts, answers, scores, config=config).labelled_answers
    assert [(one.completion, one.label) for one in labelled][:2] == [("The Oder.", True), ("A mountain.", False)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], [], []), "There are no prompts"),
        ((PROMPT, [ANSWERS], [[1, 2]]), "prompts: 'Name a river.' is not a list"),
        (([PROMPT], ANSWERS[:1], [[1]]), r"answers: 'The Oder.' is not a list. Give a list for each prompt"),
        (([PROMPT], [ANSWERS, ANSWERS], [[1, 2]]), "There are 1 prompts and 2 rows of answers"),
        (([PROMPT], [ANSWERS], [1, 2]), "There are 1 prompts and 2 rows of scores"),
        (([PROMPT], [ANSWERS], [1]), "scores: 1 is not a list"),
        (([PROMPT], [ANSWERS], [[1]]), "Prompt p00000 has 2 answers and 1 scores"),
        (([PROMPT], [ANSWERS], [[1, math.inf]]), "the score of p00000/c1 is infinite"),
        ((CHAT, [ANSWERS], [[1, 2]]), r"prompts: number 0 is one message. Give a list of conversations"),
        (([CHAT[:2]], [ANSWERS], [[1, 2]]), "prompts: number 0 has messages of user, assistant. Give a system prompt"),
        (([[]], [ANSWERS], [[1, 2]]), "prompts: number 0 has messages of nobody"),
        (([[{"role": "user"}]], [ANSWERS], [[1, 2]]), "prompts: number 0 is no list of messages"),
    ],
)
def test_inconsistent_arguments_are_refused(arguments: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        srlm.select_pairs(*arguments)
    assert issubclass(ArgumentError, ValueError)


def test_prompts_and_pairs_may_be_conversations(engine_of: Any) -> None:
    [pair] = srlm.select_pairs([CHAT], [ANSWERS], [[1, 2]]).pairs
    assert messages_of(pair.conversation) == CHAT
    row = {"prompt": CHAT, "chosen": [{"role": "assistant", "content": "Yes."}], "rejected": "No."}
    [pair] = pair_records([row])
    assert (messages_of(pair.conversation), pair.chosen, pair.rejected) == (CHAT, "Yes.", "No.")
    engine = ScriptedEngine(verdicts)
    engine_of(lambda name: engine)
    srlm.score([CHAT], [ANSWERS], config=srlm.compose("judge=verdict_only"))
    assert all("<user>\nSure?\n</user>" in content for content in engine.contents)


def test_records_with_missing_prompt_or_duplicate_id_are_refused(finished_run: Path) -> None:
    run = srlm.open_run(finished_run)
    with pytest.raises(ArgumentError, match="The prompt of candidate t2/p00000/c0 is not among the prompts"):
        srlm.select_pairs(run.prompts(2)[1:], run.candidates(2), run.judgements(2))
    with pytest.raises(ArgumentError, match="answers: the id t2/p00000/c0 occurs twice"):
        srlm.select_pairs(run.prompts(2), run.candidates(2) * 2, run.judgements(2))


# dpo


PAIR = {"prompt": PROMPT, "chosen": "The Oder.", "rejected": "A mountain."}


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch, in_process: list[Path]) -> list[dict[str, Any]]:
    """Replace the trainer by one that writes a file; return the list of its calls."""
    calls: list[dict[str, Any]] = []

    def train(method: Any, rows: Any, start: Path, target: Path, config: Any, **others: Any) -> dict[str, Any]:
        calls.append({"method": method.name, "rows": rows, "start": start, "config": config, **others})
        if "fail" in rows[0].prompt:
            target.mkdir()
            raise TrainingError("the check failed")
        target.mkdir()
        (target / "config.json").write_text("{}")
        others["log"].write_text('{"step": 1, "loss": 0.7}\n')
        return {"pairs": len(rows)}

    monkeypatch.setattr("srlm.training.worker.train", train)
    return calls


def test_dpo_trains_with_the_options_and_seed_of_a_run(
    trained: list[dict[str, Any]], tmp_path: Path, tiny_checkpoint: Path
) -> None:
    config = srlm.compose("dpo.beta=0.3", "seed=4")
    made = srlm.dpo([PAIR], model=tiny_checkpoint, output=tmp_path / "new/my_model", config=config)
    assert made == srlm.TrainedModel(tmp_path / "new/my_model", [{"step": 1, "loss": 0.7}], {"pairs": 1})
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["my_model"]
    assert [path.name for path in made.folder.iterdir()] == ["config.json"]
    [call] = trained
    from srlm.cli.by_model import resolve_options
    from srlm.ids import derive_seed

    assert call["method"] == "dpo"
    assert call["seed"] == derive_seed(4, 2, "dpo")
    assert call["start"] == call["reference"] == tiny_checkpoint.resolve()
    assert call["config"].dpo == resolve_options(config, model=str(tiny_checkpoint)).dpo
    assert call["config"].dpo.beta == 0.3
    [pair] = call["rows"]
    assert (pair.prompt, pair.chosen, pair.rejected) == tuple(PAIR.values())


def test_dpo_never_overwrites_and_removes_output_after_a_failure(
    trained: list[dict[str, Any]], tmp_path: Path, tiny_checkpoint: Path
) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(ArgumentError, match=r"output=.*there exists. Give the name of a new folder"):
        srlm.dpo([PAIR], model=tiny_checkpoint, output=tmp_path / "there")
    with pytest.raises(TrainingError, match="the check failed"):
        srlm.dpo([PAIR | {"prompt": "fail"}], model=tiny_checkpoint, output=tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
    assert not list((tmp_path / "there").iterdir())


@pytest.mark.parametrize(
    ("pairs", "override", "error", "message"),
    [
        ([], "seed=0", NoPairsError, "There are no pairs"),
        ([{"prompt": PROMPT}], "seed=0", ArgumentError, "pair 0 has no text 'chosen'"),
        ([PreferencePair("a", "p", "c", "r", "", "", 1, 0)] * 2, "seed=0", ArgumentError, "the id a occurs twice"),
        ([PAIR], "dpo.early_stopping.enabled=true", ConfigError, "early_stopping.enabled=true is for runs"),
        ([PAIR], "dpo.reference=base", ConfigError, r"dpo.reference=base is for runs. Give the model as reference"),
    ],
)
def test_dpo_refuses_invalid_pairs_and_options(
    tmp_path: Path, pairs: Any, override: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        srlm.dpo(pairs, output=tmp_path / "new", config=srlm.compose(override))
    assert not list(tmp_path.iterdir())


# open_run


def test_run_is_read_as_records_and_data_frames(finished_run: Path) -> None:
    run = srlm.open_run(finished_run)
    assert repr(run) == "Run('rivers', models M0, M1, M2)"
    assert run.iterations == [0, 1, 2]
    assert run.config.name == "rivers"
    folder = finished_run / "iteration_2"
    assert run.judgements(2) == read_records(folder / "3_judgements.jsonl", Judgement)
    assert [len(rows) for rows in (run.prompts(2), run.candidates(2), run.pairs(2), run.answers(2))] == [4, 6, 3, 4]
    assert run.evaluation(2).head_to_head["win"].value == 1.0
    assert run.model(2) == folder / "model"
    assert (run.model(0) / "config.json").is_file()
    frame = run.frame("judgements", 2)
    assert list(frame.score) == [one.score for one in run.judgements(2)]
    assert list(frame.columns) == list(Judgement.__dataclass_fields__)
    empty = run.frame("unpaired", 2)
    assert (len(empty), list(empty.columns)) == (0, ["id", "reason"])
    measures = run.frame("evaluation", 2)
    assert measures.loc["head_to_head/win", "value"] == 1.0
    assert list(measures.columns) == ["value", "low", "high", "n"]


def test_every_record_kind_of_a_run_can_be_read(finished_run: Path) -> None:
    run = srlm.open_run(finished_run)
    absent = {"comparisons", "ratings", "labelled_answers", "eft_answers", "eft_labels"}  # of other options
    for kind in set(RECORDS) - absent:
        assert len(run.frame(kind, 2)) == len(run.records(kind, 2))
    assert run.records("eft_held_out")
    with pytest.raises(ArgumentError, match=r"There are no records 'judgments'\. Give one of ift, eft"):
        run.frame("judgments", 2)


def test_unfinished_or_changed_records_are_refused(own_run: Path, tmp_path: Path) -> None:
    run = srlm.open_run(own_run)
    with pytest.raises(RunFolderError, match=r"no finished judgements in iteration 3; it is finished in: 2"):
        run.judgements(3)
    with pytest.raises(RunFolderError, match=r"3_comparisons.jsonl does not exist: the stage judgements has no such"):
        run.records("comparisons", 2)
    path = own_run / "iteration_2/3_judgements.jsonl"
    path.write_text(path.read_text().replace("1.0", "2.0"))
    with pytest.raises(RunFolderError, match=r"3_judgements.jsonl is missing or has changed"):
        run.judgements(2)
    with pytest.raises(RunFolderError, match="is not a run"):
        srlm.open_run(tmp_path)


def test_training_log_is_read(own_run: Path) -> None:
    (own_run / "iteration_2/dpo_log.jsonl").write_text('{"loss": 0.69, "step": 1}\n{"train_loss": 0.69}\n')
    run = srlm.open_run(own_run)
    assert run.training_log(2) == [{"loss": 0.69, "step": 1}, {"train_loss": 0.69}]
    assert list(run.frame("training_log", 2).loss.dropna()) == [0.69]


# compare


def repeat_prompt_or_prefer_longer(messages: Any, sampling: Any, prefill: str, place: int) -> Completion:
    """As a judge, prefer the longer answer; as a model, repeat the prompt."""
    content = messages[-1]["content"]
    if "<answer_a>" not in content:
        return Completion(content, 3, False)
    a, b = (content.split(f"<answer_{one}>")[1].split(f"</answer_{one}>")[0] for one in "ab")
    logprobs = (-0.1, -2.0) if len(a) > len(b) else (-2.0, -0.1) if len(b) > len(a) else (-0.6, -0.7)
    return Completion(" A" if logprobs[0] > logprobs[1] else " B", 1, False, 0, logprobs)


def repeating_engine(name: str) -> ScriptedEngine:
    """Return an engine that repeats the prompt and, for the name "long", adds a word; each can judge."""

    def reply(messages: Any, *rest: Any) -> Completion:
        found = repeat_prompt_or_prefer_longer(messages, *rest)
        longer = name == "long" and "<answer_a>" not in messages[-1]["content"]
        return replace(found, text=f"{found.text} indeed") if longer else found

    return ScriptedEngine(reply)


def test_wins_are_counted_for_the_first_model_in_either_order(engine_of: Any, in_process: list[Path]) -> None:
    engine_of(repeating_engine)
    prompts = [f"{'x' * n} prompt {n}".strip() for n in range(5)]
    one = srlm.compare("long", "brief", prompts, judge="brief")
    other = srlm.compare("brief", "long", prompts, judge="brief")
    assert (one.judge, other.judge) == ("brief", "brief")
    assert (one.measures["win"].value, one.measures["loss"].value, one.measures["win"].n) == (1.0, 0.0, 5)
    assert (other.measures["win"].value, other.measures["loss"].value) == (0.0, 1.0)
    assert one.measures["net_win"].low == -(other.measures["net_win"].high or 0)
    assert one.lengths == other.lengths[::-1]
    assert (one.lengths[0].value or 0) - (one.lengths[1].value or 0) == pytest.approx(len(" indeed"))
    assert one.answers[0] == other.answers[1]
    assert {row.winner for row in one.comparisons} == {"first"}
    assert {row.winner for row in other.comparisons} == {"second"}
    assert sorted(row.id for row in one.comparisons) == sorted(row.id for row in other.comparisons)
    text = str(one)
    assert text.startswith("long against brief, judged by brief on 5 prompts: wins 5, ties 0, losses 0, wins minus")
    assert "+100 points [" in text
    assert not any(folder.exists() for folder in in_process)


def test_compare_returns_the_measures_of_the_command(
    engine_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from srlm.cli.evaluate import main
    from srlm.pipeline import worker

    engine_of(lambda name: OrderedEngine(name))
    prompts = [SeedExample(f"e{n}", f"Question number {n}?", "") for n in range(6)]
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps({"id": one.id, "prompt": one.prompt}) + "\n" for one in prompts))
    run_worker = process.run_worker
    monkeypatch.setattr(worker, "run_worker", lambda target, ws, n, name: run_worker(target, ws, n, None, name, ""))
    config = srlm.compose("evaluation.bootstrap=100", f"runs_dir={tmp_path}")
    given = {name: getattr(config, name) for name in ("seed", "runs_dir", "engine", "model")}
    evaluation = replace(config.evaluation, judge="first", prompts=EvaluationConfig.prompts)
    options = Evaluate(models=["a", "b"], dataset=str(file), evaluation=evaluation, **given)
    [match] = main.run(options)["head_to_head"]["matches"]
    rows = read_records(tmp_path / "evaluate/data/prompts.jsonl", SeedExample)
    found = srlm.compare("a", "b", rows, config=config)
    assert {name: one.to_dict() for name, one in found.measures.items()} == match["measures"]
    assert found.judge == "a"


def test_default_prompts_are_the_built_in_english_ones(engine_of: Any) -> None:
    engine_of(repeating_engine)
    assert len(srlm.compare("a", "b").answers[0]) == 84  # in English
    with pytest.raises(ArgumentError, match="There are no prompts"):
        srlm.compare("a", "b", [])
    with pytest.raises(ConfigError, match="contains a model twice"):
        srlm.compare("a", "a", [PROMPT])


# docs/python_api.md


def test_documented_snippets_run(
    engine_of: Any, trained: Any, finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The snippets run in order in one namespace, like notebook cells, and may use `async with`."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished_run, "runs/default")
    engine_of(WithProbabilities)
    text = (ROOT / "docs/python_api.md").read_text(encoding="utf-8")
    snippets = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert len(snippets) > 6
    names: dict[str, Any] = {}
    for snippet in snippets:
        code = compile(snippet, "docs/python_api.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        result = eval(code, names)
        if inspect.iscoroutine(result):
            asyncio.run(result)
    assert all(re.search(rf"srlm\.{name}\(", text) for name in srlm.__all__ if name.islower() and name[0] != "_")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["my_model", "runs"]


# processes


def test_worker_errors_do_not_mention_resuming(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def crash(*_: Any, **__: Any) -> None:
        raise WorkerCrashed(f"The dpo process ended with code 1.\n{RESUME}")

    monkeypatch.setattr(process, "run_worker", crash)
    with pytest.raises(WorkerCrashed, match=r"^The dpo process ended with code 1\.$"):
        process.work("module:function", Workspace(tmp_path))


def test_worker_lines_are_printed_if_stderr_is_not_a_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class CellOutput:  # of Jupyter
        def write(self, text: str) -> None: ...

    monkeypatch.setattr(sys, "stderr", CellOutput())
    with descriptor_for_workers() as descriptor:
        os.write(descriptor, b"  dpo: 1 of 2\n  dpo: 2 of 2\n")
    assert capsys.readouterr().out == "  dpo: 1 of 2\n  dpo: 2 of 2\n"
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
