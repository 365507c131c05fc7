"""`srlm evaluate` with tiny models: answers, head to heads, and the harness on small tasks."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import math
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from srlm.config import Evaluate
from srlm.engines.base import Sampling, open_engine
from srlm.engines.config import EngineConfig
from srlm.errors import BenchmarkError, ConfigError
from srlm.evaluation.lm_eval import Response, keep_answers, load_tasks, open_model
from srlm.io.record_file import RecordFile, read_records
from srlm.models.config import ModelConfig
from srlm.models.resolve import resolve
from srlm.types import Answer, Comparison
from tests.forked import run_forked
from tests.helpers import options, user

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.variant]
needs_harness = pytest.mark.skipif(
    importlib.util.find_spec("lm_eval") is None, reason="lm-evaluation-harness is not installed (extra eval)"
)
AT_MOST_A_HUNDRED_WORDS = {"relation": "less than", "num_words": 101}
QUESTIONS = [f"Name the river number {n}, please." for n in range(6)]


def evaluate(folder: Path, *given: str) -> subprocess.CompletedProcess[str]:
    command = ("srlm", "evaluate", "model=tiny_random", "engine=transformers", f"runs_dir={folder}/runs")
    small = ("engine.max_model_len=1024", "evaluation.bootstrap=100", "evaluation.max_new_tokens=12")
    return run_forked(*command, *small, *given)


def nearly_equal(one: Any, other: Any) -> bool:
    """Return whether both values are equal, with a tolerance of 1e-5 for floats."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(nearly_equal(one[name], other[name]) for name in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(nearly_equal, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, abs_tol=1e-5)
    return type(one) is type(other) and one == other


def other_model(folder: Path) -> Path:
    """Save tiny-random with a little noise on its weights and return its folder."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = resolve(ModelConfig(name="tiny-random"))
    model = AutoModelForCausalLM.from_pretrained(path)
    torch.manual_seed(1)
    with torch.no_grad():
        for weights in model.parameters():
            weights.add_(0.02 * torch.randn_like(weights))
    model.save_pretrained(folder / "other")
    AutoTokenizer.from_pretrained(path).save_pretrained(folder / "other")
    return folder / "other"


def test_evaluate_generates_answers_and_head_to_heads_and_resumes(tmp_path: Path) -> None:
    data = tmp_path / "prompts.jsonl"
    rows = [
        {"prompt": question, "id": f"p{n}", "category": "rivers" if n else "one"}
        for n, question in enumerate(QUESTIONS)
    ]
    rows[0] |= {"instruction_id_list": ["length_constraints:number_words"], "kwargs": [AT_MOST_A_HUNDRED_WORDS]}
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    other = other_model(tmp_path)
    given = (f"models=[tiny-random,{other}]", f"dataset={data}")
    result = evaluate(tmp_path, *given)
    assert result.returncode == 0, result.stderr[-3000:]
    folder = tmp_path / "runs" / "evaluate"
    results = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    for row in results["answers"]["rows"]:  # twelve tokens are fewer than a hundred words
        assert (
            row["measures"]["prompt_level_strict_acc"]["value"],
            row["measures"]["prompt_level_strict_acc"]["n"],
        ) == (1.0, 1)
    assert results["answers"]["rows"][1]["against_first"]["prompt_level_strict_acc"]["value"] == 0.0
    [match] = results["head_to_head"]["matches"]
    assert results["head_to_head"]["judge"] == "tiny-random"
    assert {match["first"], match["second"]} == {"tiny-random", str(other)}
    shares = [match["measures"][name]["value"] for name in ("win", "tie", "loss")]
    assert sum(shares) == pytest.approx(1)
    assert list(match["types"]) == ["rivers"]
    one, two = (row["measures"] for row in results["answers"]["rows"])
    gap = results["answers"]["rows"][1]["against_first"]["mean_characters"]
    assert gap["value"] == pytest.approx(two["mean_characters"]["value"] - one["mean_characters"]["value"])
    assert gap["n"] == len(QUESTIONS)
    for words in ("difference to tiny-random", "Prompts that the row wins", "length-controlled"):
        assert words in result.stderr

    # Half of the verdicts and of one model's answers are lost, as by a kill: the rerun gives equal ones.
    [verdicts] = folder.glob("head_to_head/*.jsonl")
    answered = folder / "answers" / "tiny-random.jsonl"
    assert len(read_records(verdicts, Comparison)) == 2 * len(QUESTIONS)
    assert [answer.id for answer in read_records(answered, Answer)] == [row["id"] for row in rows]
    made = {path: path.read_bytes() for path in (verdicts, answered)}
    for path, content in made.items():
        path.write_bytes(b"".join(content.splitlines(keepends=True)[:3]) + b'{"id": "to')
        manifest = path.parent / "manifests" / f"{path.stem}.json"
        manifest.rename(manifest.with_suffix(".begun.json"))
    result = evaluate(tmp_path, *given)
    assert result.returncode == 0, result.stderr[-3000:]
    # Requests are in other batches now, in which some processors round probabilities differently.
    for path, content in made.items():
        again = [json.loads(line) for line in path.read_bytes().splitlines()]
        assert nearly_equal(again, [json.loads(line) for line in content.splitlines()])
    assert nearly_equal(json.loads((folder / "evaluation.json").read_text(encoding="utf-8")), results)

    for changed, message in (
        ("evaluation.temperature=0.1", "evaluation.temperature was 0.7, now 0.1"),
        (f"evaluation.judge={other}", "evaluation.judge was 'tiny-random', now"),
        ("limit=2", "limit was 0, now 2"),
    ):
        result = evaluate(tmp_path, *given, changed)
        assert result.returncode == 1
        assert message in result.stderr
        assert "name=" in result.stderr
        assert "Traceback" not in result.stderr


async def ask(questions: list[str]) -> list[tuple[str, str]]:
    """Return tiny-random's greedy reply to each question and the likelier first letter, A or B."""
    config = options("experiment=smoke", "engine=transformers")
    greedy = {"temperature": 0.0, "top_p": 1.0, "seed": 0}
    found = []
    async with open_engine(config, resolve(config.model)) as engine:
        for question in questions:
            [text] = await engine.generate(user(question), Sampling(max_new_tokens=8, **greedy))
            [letter] = await engine.generate(user(question), Sampling(max_new_tokens=8, choices=("A", "B"), **greedy))
            found.append((text.text.strip(), letter.text))
    return found


def write_tasks(folder: Path) -> tuple[float, float]:
    """Write a task of texts and one of choices; return tiny-random's accuracy on each."""
    replies = asyncio.run(ask(QUESTIONS))
    folder.mkdir()
    right = [n < 4 for n in range(len(replies))], [n % 3 == 0 for n in range(len(replies))]
    rows: list[dict[str, Any]] = []
    for n, (text, letter) in enumerate(replies):
        place = "AB".index(letter)
        rows.append(
            {
                "question": QUESTIONS[n],
                "answer": text if right[0][n] else f"{text} no",
                "choices": ["A", "B"],
                "label": place if right[1][n] else 1 - place,
            }
        )
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    common = f"""dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/rows.jsonl}}}}
test_split: test
doc_to_text: "{{{{question}}}}"
"""
    texts = """task: own_texts
output_type: generate_until
doc_to_target: "{{answer}}"
generation_kwargs: {until: [], do_sample: false, max_gen_toks: 8}
filter_list: [{name: stripped, filter: [{function: remove_whitespace}, {function: take_first}]}]
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
metadata: {version: 2.0}
"""
    choices = """task: own_choices
output_type: multiple_choice
doc_to_target: label
doc_to_choice: choices
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
metadata: {version: 1.0}
"""
    (folder / "own_texts.yaml").write_text(texts + common, encoding="utf-8")
    (folder / "own_choices.yaml").write_text(choices + common, encoding="utf-8")
    return sum(right[0]) / len(rows), sum(right[1]) / len(rows)


def test_evaluate_computes_the_loss_on_answer_files(tmp_path: Path) -> None:
    data = tmp_path / "pairs.jsonl"
    rows = [{"prompt": question, "response": f"River {n}."} for n, question in enumerate(QUESTIONS)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    given = (f"models=[tiny-random,{other_model(tmp_path)}]", "suite=[loss]", f"examples=[{data},builtin]", "limit=5")
    result = evaluate(tmp_path, *given)
    assert result.returncode == 0, result.stderr[-3000:]
    folder = tmp_path / "runs" / "evaluate"
    results = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))["loss"]
    assert [(row["n"], row["missing"]) for row in results] == [(5, 0)] * 4
    # With random weights the loss is that of a uniform distribution over the vocabulary.
    for row in results:
        assert row["loss"]["value"] == pytest.approx(math.log(_vocabulary()), rel=0.1)
    apart = results[1]["loss"]["value"] - results[0]["loss"]["value"]
    assert results[1]["against_first"]["value"] == pytest.approx(apart, abs=1e-6)
    assert "gap" in results[2]
    assert evaluate(tmp_path, *given).stderr.count(": loss") == 0  # all losses are stored


def test_sweeps_without_evaluation_are_compared_by_arm(tmp_path: Path) -> None:
    """Two seeds of a setting form one arm, with one loss of both M1 on their training data."""
    smoke = ("experiment=smoke", "judge=implicit", "evaluation=none", "data.ift.limit=8", "sft.epochs=8")
    made = run_forked("srlm.run", "-m", *smoke, f"runs_dir={tmp_path}/runs", "name=sweep", "seed=0,1")
    assert made.returncode == 0, made.stderr[-3000:]
    assert made.stderr.count("M1, not measured: ") == 2
    assert not list(tmp_path.rglob("evaluation")) + list(tmp_path.rglob("report.html"))
    folders = sorted(path for path in (tmp_path / "runs").iterdir() if path.is_dir())
    assert [folder.name for folder in folders] == ["sweep-seed=0", "sweep-seed=1"]
    one, other = ((folder / "iteration_1/model/model.safetensors").read_bytes() for folder in folders)
    assert one != other
    models = f"models=[tiny-random,{tmp_path}/runs/sweep-*/iteration_1/model]"
    given = ("suite=[loss]", "examples=[train,builtin]", "group_by=[sft.learning_rate]", "limit=6")
    result = evaluate(tmp_path, "name=arms", models, *given)
    assert result.returncode == 0, result.stderr[-3000:]
    assert "By sft.learning_rate" in result.stderr
    folder = tmp_path / "runs" / "arms"
    arms = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))["arms"]
    assert [(arm["name"], len(arm["models"])) for arm in arms["arms"]] == [("tiny-random", 1), ("0.005", 2)]
    rows = {(row["measure"], row["of"]): row["arms"] for row in arms["measures"]}
    untrained, trained = rows["loss", "train"]
    assert untrained["value"]["value"] is None  # without a run it has no training examples
    assert trained["value"]["value"] < math.log(_vocabulary()) - 0.5
    assert len(set(trained["runs"])) == 2
    assert rows["loss", "builtin"][0]["value"]["value"] == pytest.approx(math.log(_vocabulary()), rel=0.1)
    assert (folder / "arms.png").is_file()


def _vocabulary() -> int:
    from transformers import AutoConfig

    return int(AutoConfig.from_pretrained(resolve(ModelConfig(name="tiny-random"))).vocab_size)


@needs_harness
def test_evaluate_runs_benchmarks_with_the_harness(tmp_path: Path) -> None:
    """The harness gives the same chat and the same texts as srlm's own engine."""
    texts, choices = write_tasks(tmp_path / "tasks")
    given = (f"include_path={tmp_path}/tasks", "suite=[benchmarks]", "benchmarks=[own_texts,own_choices]")
    result = evaluate(tmp_path, *given)
    assert result.returncode == 0, result.stderr[-3000:]
    folder = tmp_path / "runs" / "evaluate"
    one, two = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))["benchmarks"]
    assert (one["chat_template"], one["backend"]) == (True, "hf")
    task, measure = one["tasks"]["own_texts"], one["tasks"]["own_texts"]["measures"]["exact_match (stripped)"]
    assert (task["version"], task["shots"], task["n"], task["of"]) == (2.0, 0, 6, 6)
    assert measure["value"] == pytest.approx(texts)
    assert measure["low"] < texts < measure["high"]
    assert two["tasks"]["own_choices"]["measures"]["acc"]["value"] == pytest.approx(choices)
    assert "own_choices (6 documents, 0 shots)" in result.stderr

    result = evaluate(tmp_path, *given, "benchmark_limit=2")
    assert result.returncode == 1
    assert "benchmark_limit was 0, now 2" in result.stderr
    (tmp_path / "tasks" / "rows.jsonl").write_text('{"question": "another"}\n')
    result = evaluate(tmp_path, *given)
    assert result.returncode == 1
    assert "has changed since this stage ran" in result.stderr


@needs_harness
def test_answers_of_the_harness_are_stored_after_each_batch(tmp_path: Path) -> None:
    """Stopping a benchmark loses at most a batch."""
    from lm_eval.api.instance import Instance

    given = Evaluate(engine=EngineConfig(kind="transformers", max_model_len=256, max_concurrent=2))
    ask = {
        "loglikelihood": [(f"Is {n} odd?", answer) for n in range(3) for answer in (" yes", " no")],
        "generate_until": [(f"Name {n}", {"until": ["\n"], "max_gen_toks": 4}) for n in range(6)],
    }
    with open_model(given, resolve(ModelConfig(name="tiny-random"))) as (lm, chat):
        assert chat
        for kind, arguments in ask.items():
            requests = [Instance(request_type=kind, doc={}, arguments=one, idx=0) for one in arguments]
            plain = getattr(lm, kind)(requests)
            progress: list[tuple[int, int]] = []
            store = RecordFile(tmp_path / f"{kind}.jsonl", Response)
            with keep_answers(lm, store, lambda *counts, progress=progress: progress.append(counts)):
                kept = getattr(lm, kind)(requests)
                assert [done for done, _ in progress][:7] == list(range(7)), "one by one"
                progress.clear()
                again = getattr(lm, kind)(requests)
                assert progress == [(6, 6), (6, 6)], "nothing was asked again"
            assert kept == plain
            assert [list(one) if isinstance(one, tuple) else one for one in kept] == again


@needs_harness
def test_unavailable_benchmarks_raise_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import lm_eval.tasks

    # Without the harness's 14,000 tasks, which take long to list.
    monkeypatch.setattr(lm_eval.tasks, "TaskManager", partial(lm_eval.tasks.TaskManager, include_defaults=False))
    task = "task: nowhere\ndataset_path: json\ndataset_kwargs: {data_files: {test: gone.jsonl}}\ntest_split: test\n"
    (tmp_path / "nowhere.yaml").write_text(task + "output_type: generate_until\ndoc_to_text: q\ndoc_to_target: a\n")
    with pytest.raises(ConfigError, match=r"benchmarks=nowere: .*Did you mean nowhere\?"):
        load_tasks(["nowere"], str(tmp_path))
    with pytest.raises(ConfigError, match=r"include_path=/no/where: no such folder"):
        load_tasks(["nowhere"], "/no/where")
    with pytest.raises(BenchmarkError, match=r"benchmarks=nowhere: its data could not be loaded .*HF_HUB_OFFLINE"):
        load_tasks(["nowhere"], str(tmp_path))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["suite=[benchmarks]"], "ConfigError: suite=[benchmarks] needs the names"),
        (["evaluation.judge=sft"], "ConfigError: evaluation.judge=sft is for runs"),
        (["dataset=nowhere.jsonl"], "SeedError: nowhere.jsonl: no such file"),
        (["models=[no/such/model]"], "ModelError: models=no/such/model: no such folder"),
        (["+bechmarks=[mmlu]"], "There is no option bechmarks. Did you mean benchmarks?"),
    ],
)
def test_user_errors_have_a_message_without_traceback(given: list[str], message: str, tmp_path: Path) -> None:
    result = evaluate(tmp_path, *given)
    assert result.returncode == 1
    assert message in result.stderr
    assert "Traceback" not in result.stderr
