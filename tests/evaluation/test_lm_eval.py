"""srlm.evaluation.lm_eval: results read from the harness's output, and stored answers on resume; without lm_eval."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from scipy import stats

from srlm.config import Evaluate
from srlm.engines.config import EngineConfig
from srlm.errors import BenchmarkError
from srlm.evaluation import lm_eval as harness
from srlm.evaluation.lm_eval import Response, against_first, keep_answers, own_files, result_of
from srlm.io.record_file import RecordFile


def raw(acc_one: list[float], acc_two: list[float], group: float) -> dict[str, Any]:
    """Return the harness's results of a group "both" of the tasks "one" and "two"."""

    def samples(values: list[float]) -> list[dict[str, Any]]:
        rows = [{"doc_id": i, "filter": "none", "acc": value, "parts": [1, 0]} for i, value in enumerate(values)]
        return rows[::-1]  # the harness guarantees no order

    def task(values: list[float], stderr: Any) -> dict[str, Any]:
        value = sum(values) / len(values)
        return {"name": "x", "alias": "x", "sample_len": len(values), "acc,none": value, "acc_stderr,none": stderr}

    return {
        "results": {
            "one": task(acc_one, 0.1) | {"f1,strict": 0.3, "f1_stderr,strict": "N/A"},
            "two": task(acc_two, 0.2),
            "both": {"alias": "both", "acc,none": group, "acc_stderr,none": 0.05},
        },
        "group_subtasks": {"both": ["one", "two"]},
        "versions": {"one": 1.0, "two": 2.0, "both": 3},
        "n-shot": {"one": 0, "two": 5},
        "higher_is_better": {"one": {"acc": True}},
        "n-samples": {
            "one": {"original": 100, "effective": len(acc_one)},
            "two": {"original": 50, "effective": len(acc_two)},
        },
        "samples": {"one": samples(acc_one), "two": samples(acc_two)},
    }


def test_results_have_exact_intervals_where_possible() -> None:
    tasks = result_of(raw([1, 0, 1, 1], [0, 1], 4 / 6))["tasks"]
    measure = tasks["one"]["measures"]["acc"]
    low, high = stats.binomtest(3, 4).proportion_ci(method="exact")  # not 0.75 +- 1.96 x 0.1
    assert measure == {
        "value": 0.75,
        "low": pytest.approx(low),
        "high": pytest.approx(high),
        "n": 4,
        "stderr": 0.1,
        "higher_is_better": True,
    }
    without = tasks["one"]["measures"]["f1 (strict)"]
    assert (without["value"], without["low"], without["high"], without["stderr"]) == (0.3, None, None, None)
    assert [(tasks[name]["version"], tasks[name]["shots"], tasks[name]["n"], tasks[name]["of"]) for name in tasks] == [
        (1.0, 0, 4, 100),
        (2.0, 5, 2, 50),
        (3, None, 6, 150),
    ]


def test_documents_are_stored_when_the_measure_is_their_mean() -> None:
    tasks = result_of(raw([1, 0, 1, 1], [0, 1], 4 / 6))["tasks"]
    assert tasks["one"]["documents"] == {"acc": [1, 0, 1, 1]}  # f1 has no value by document
    assert tasks["both"]["documents"] == {"acc": [1, 0, 1, 1, 0, 1]}
    tasks_unweighted = result_of(raw([1, 0, 1, 1], [0, 1], (0.75 + 0.5) / 2))["tasks"]
    assert tasks_unweighted["both"]["documents"] == {}


def test_differences_to_the_first_model_are_paired() -> None:
    first = result_of(raw([1, 0, 1, 0] * 10, [0, 1], 21 / 42))["tasks"]
    other = result_of(raw([1, 0, 1, 1] * 10, [0, 1, 1], 32 / 43))["tasks"]
    found = against_first(other, first, 500, "seed")
    assert found["one"]["acc"]["value"] == pytest.approx(0.25)
    assert found["one"]["acc"]["n"] == 40
    assert 0 < found["one"]["acc"]["low"] < 0.25 < found["one"]["acc"]["high"]
    assert found["two"] == found["both"] == {}  # other documents
    assert against_first(first, {}, 100, "seed") == {"one": {}, "two": {}, "both": {}}


class FakeModel:
    """A harness model that calls its cache hook after each answer and may stop early."""

    def __init__(self, stop_after: int | None = None):
        self.cache_hook: Any = None
        self.asked: list[Any] = []
        self.stop_after = stop_after

    def set_cache_hook(self, hook: Any) -> None:
        self.cache_hook = hook

    def loglikelihood(self, requests: list[Any]) -> list[Any]:
        return [self._answer("loglikelihood", r.args, r.args, (-float(len(r.args[1])), False)) for r in requests]

    def loglikelihood_rolling(self, requests: list[Any]) -> list[Any]:
        return [self._answer("loglikelihood_rolling", r.args, r.args, -float(len(r.args[0]))) for r in requests]

    def generate_until(self, requests: list[Any]) -> list[Any]:
        # The hook gets other options than the request, as in the harness's vLLM model.
        hook_arguments = [(r.args[0], {"until": ["end"], "max_gen_toks": 8}) for r in requests]
        return [
            self._answer("generate_until", r.args, t, r.args[0][::-1])
            for r, t in zip(requests, hook_arguments, strict=True)
        ]

    def _answer(self, kind: str, arguments: Any, hook_arguments: Any, answer: Any) -> Any:
        if len(self.asked) == self.stop_after:
            raise KeyboardInterrupt
        self.asked.append(arguments)
        self.cache_hook.add_partial(kind, hook_arguments, answer)
        return answer


def requests(*arguments: Any) -> list[Any]:
    return [SimpleNamespace(args=one) for one in arguments]


CHOICES = requests(("Q: 1", " a"), ("Q: 1", " bb"), ("Q: 2 \u2028 好", " c"))
TEXTS = requests(("one", {"until": ["\n"]}), ("two", {"until": ["\n"]}), ("three", {"until": ["\n"]}))


@pytest.mark.parametrize("kind", ["loglikelihood", "loglikelihood_rolling", "generate_until"])
def test_resumed_benchmarks_request_only_missing_answers(kind: str, tmp_path: Path) -> None:
    asked = TEXTS if kind == "generate_until" else CHOICES
    whole = getattr(FakeModel, kind)
    plain = FakeModel()
    plain.cache_hook = SimpleNamespace(add_partial=lambda *_: None)
    expected = whole(plain, asked)

    stopped = FakeModel(stop_after=2)
    with (
        pytest.raises(KeyboardInterrupt),
        keep_answers(stopped, RecordFile(tmp_path / "answers.jsonl", Response), lambda *_: None),
    ):
        getattr(stopped, kind)(asked)
    with (tmp_path / "answers.jsonl").open("a") as file:
        file.write('{"id": "torn')

    progress = []
    second = FakeModel()
    store = RecordFile(tmp_path / "answers.jsonl", Response)
    with keep_answers(second, store, lambda done, wanted: progress.append((done, wanted))):
        answers = getattr(second, kind)(asked)
    assert [request.args for request in asked[2:]] == second.asked
    assert [list(a) if isinstance(a, tuple) else a for a in expected] == [
        list(a) if isinstance(a, tuple) else a for a in answers
    ]
    assert progress[0] == (2, 3)
    assert progress[-1] == (3, 3)
    assert getattr(second, kind).__func__ is whole  # the original method is restored
    assert second.cache_hook is None


def test_sampled_texts_are_not_cached(tmp_path: Path) -> None:
    drawn = requests(("one", {"do_sample": True}), ("one", {"do_sample": True}))
    store = RecordFile(tmp_path / "answers.jsonl", Response)
    for _ in range(2):
        model = FakeModel()
        with keep_answers(model, store, lambda *_: None):
            assert model.generate_until(drawn) == ["eno", "eno"]
        assert len(model.asked) == 2
    assert store.records == {}


def test_a_missing_harness_raises_with_the_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(harness.metadata, "version", missing)
    with pytest.raises(BenchmarkError, match=r"pip install 'srlm\[eval\]'"):
        harness.version()
    assert harness.backend(Evaluate()) == "hf"


def test_backend_is_vllm_only_for_installed_vllm_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness.metadata, "version", lambda name: "0.32.0")
    options = Evaluate()
    assert harness.backend(options) == "vllm"
    options.engine = EngineConfig()
    assert harness.backend(options) == "hf"


def test_own_task_files_are_found_by_yaml_task_name(tmp_path: Path) -> None:
    (tmp_path / "sums.yaml").write_text("task: own_sums\n")
    (tmp_path / "sums.jsonl").write_text("{}\n")
    assert [path.name for path in own_files("own_sums", str(tmp_path))] == ["sums.jsonl", "sums.yaml"]
    assert own_files("arc_easy", str(tmp_path)) == []
    assert own_files("arc_easy", "") == []
