"""Plan of an evaluation: models, judge and stages, and the data that are read before an engine starts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

from srlm import errors
from srlm.cli.evaluate.arms import OWN, run_of, settings
from srlm.config import Config, Evaluate, JudgeBench, options_of
from srlm.data.config import SourceConfig
from srlm.engines.dependencies import chat_template, engine_libraries, generation_options, model_options
from srlm.io.files import files_by_name, hash_of_files
from srlm.io.progress import say
from srlm.io.record_file import write_records
from srlm.judges.pairwise import load_template
from srlm.models.resolve import identity, slug
from srlm.pipeline.artifacts import IFT
from srlm.pipeline.provenance import TRANSFORMERS, VLLM
from srlm.pipeline.roles import by_name
from srlm.pipeline.stage import Stage, outputs_of
from srlm.pipeline.workspace import Workspace

SUITE = ("answers", "head_to_head", "loss", "benchmarks")


def _place(model: str, file: str) -> str | None:
    """Return the path of a file of examples; None for "train" if the model has no run."""
    if file != OWN:
        return file
    run = run_of(model)
    return str(IFT.path(run)) if run else None


def data_stage(workspace: Workspace, options: Evaluate | JudgeBench, name: str, option: str, path: str) -> Stage:
    """Return the stage that reads a command's data from `path`, the value of `option`, into data/NAME.jsonl."""
    made_with = options_of(options, "split", "limit", "seed", "data.builtin_languages") | {option: path}
    folder, inputs = workspace.root / "data", partial(files_by_name, [path])
    return Stage(workspace, folder, name, [f"{name}.jsonl"], made_with, inputs, config=options)


def read_data(
    stage: Stage,
    options: Evaluate | JudgeBench,
    path: str,
    read: Callable[[SourceConfig, int], tuple[Sequence[Any], str, dict[str, Any]]],
) -> None:
    """Write the rows of a `data_stage`, unless it is complete. What the reader notes is printed.

    Parameters
    ----------
    read : callable
        Reads a source with the run's seed; returns the rows, a message about them, and the counts of the manifest.
    """
    from srlm.run import show_notes

    if stage.complete():
        return
    show_notes()
    languages = options.data.builtin_languages if path == "builtin" else []
    source = SourceConfig(path=path, split=options.split, limit=options.limit, languages=languages)
    rows, message, counts = read(source, options.seed)
    say(f"  {message}")
    stage.begin(in_pieces=False)
    write_records(stage.outputs[0], rows)
    stage.done({}, counts)


def model_inputs(options: Config, name: str) -> dict[str, str]:
    """Return the fingerprints of a named model and of its chat template."""
    return {} if name == "endpoint" else identity(name, options=options.model) | chat_template(options)


def model_dependencies(options: Config, name: str) -> dict[str, Any]:
    """Return the options that a named model's texts depend on, including its name and the seed."""
    return (
        {"model": name}
        | generation_options(options, by_name(name))
        | options_of(options, "model.chat_template", "seed")
    )


@dataclass(frozen=True)
class Match:
    """Two models, in alphabetical order, and the stage of their comparisons."""

    first: str
    second: str
    comparisons: Stage


class Plan:
    """Models, judge and stages of an evaluation.

    Raises
    ------
    ConfigError
        If the options are not compatible.
    """

    def __init__(self, workspace: Workspace, options: Evaluate):
        self.workspace, self.options, self.suite = workspace, options, options.suite
        self.models = options.models or [options.model.name]
        first = options.evaluation.judge == "first"
        self.judge = self.models[0] if first else options.evaluation.judge
        self._check()
        self.prompts = data_stage(workspace, options, "prompts", "dataset", options.dataset)
        answered = "answers" in self.suite or "head_to_head" in self.suite
        self.answers = {model: self._answers(model) for model in self.models} if answered else {}
        pairs = combinations(sorted(self.models), 2) if "head_to_head" in self.suite else ()
        self.matches = [Match(first, second, self._match(first, second)) for first, second in pairs]
        # The judge is last, because it needs the answers; it also answers if it is one of the models.
        others = [model for model in self.answers if model != self.judge]
        self.generators = [*others, self.judge] if self.matches or self.judge in self.answers else others
        asked = self.options.examples if "loss" in self.suite else []
        # Path of each model and file of `examples`: the file, or the training examples of the model's run.
        self.read = {model: {file: path for file in asked if (path := _place(model, file))} for model in self.models}
        self.examples = {
            path: data_stage(workspace, options, f"examples_{slug(path)}", "examples", path)
            for files in self.read.values()
            for path in files.values()
        }
        self.losses = {model: {file: self._loss(model, file) for file in self.read[model]} for model in self.models}
        if asked and not all(self.losses.values()):
            raise errors.ConfigError(
                "examples=[train] needs models of runs, such as runs/NAME/iteration_1/model. Add a file to examples."
            )
        self.arms = settings(self.models, options.group_by) if options.group_by else []
        self.benchmarks = self._benchmarks() if "benchmarks" in self.suite else {}

    def stages(self) -> list[Stage]:
        """Return all stages, each after the stages that it depends on."""
        stages = [*([self.prompts] if self.answers else []), *self.examples.values(), *self.answers.values()]
        stages += [match.comparisons for match in self.matches]
        for by_model in (self.losses, self.benchmarks):
            stages += [stage for of_model in by_model.values() for stage in of_model.values()]
        return stages

    def examples_of(self, model: str, file: str) -> Stage:
        """Return the stage that reads a model's examples of one file."""
        return self.examples[self.read[model][file]]

    def is_done(self, generator: str) -> bool:
        """Return whether a model has generated all its answers and comparisons."""
        answers = self.answers.get(generator)
        if answers and not answers.complete():
            return False
        return generator != self.judge or all(
            all(self.answers[side].complete() for side in (match.first, match.second)) and match.comparisons.complete()
            for match in self.matches
        )

    def _check(self) -> None:
        options = self.options
        if unknown := sorted(set(self.suite) - set(SUITE)):
            raise errors.ConfigError(f"suite contains {unknown[0]!r}. Use only {', '.join(SUITE)}.")
        if not self.suite:
            raise errors.ConfigError(f"suite=[] is empty. Use some of {', '.join(SUITE)}.")
        if len(set(self.models)) < len(self.models):
            raise errors.ConfigError(f"models=[{','.join(self.models)}] contains a model twice. Use each model once.")
        if self.judge in ("sft", "base") and "head_to_head" in self.suite:
            raise errors.ConfigError(
                f"evaluation.judge={self.judge} is for runs, which have an M0 and an M1. Use a model's name, first "
                "(the first of the models), or endpoint."
            )
        if self.suite == ["head_to_head"] and len(self.models) < 2:
            raise errors.ConfigError("suite=[head_to_head] needs at least two models: models=[a,b].")
        asked = [*self.models, *([self.judge] if "head_to_head" in self.suite else [])]
        if "endpoint" in asked and not (options.endpoint.base_url and options.endpoint.model):
            raise errors.ConfigError("endpoint as a model or judge needs endpoint.base_url and endpoint.model.")
        for name in ("limit", "num_shown", "benchmark_limit", "benchmark_shots"):
            if (getattr(options, name) or 0) < 0:
                raise errors.ConfigError(f"{name}={getattr(options, name)} is invalid: it must be 0 or more.")
        if "loss" in self.suite and not options.examples:
            raise errors.ConfigError(
                "suite=[loss] needs prompts with answers: examples=[runs/default/data/ift.jsonl,others.jsonl]."
            )
        if len(set(options.examples)) < len(options.examples):
            raise errors.ConfigError(f"examples=[{','.join(options.examples)}] contains a file twice. Use it once.")
        if "loss" in self.suite and "endpoint" in self.models:
            raise errors.ConfigError("suite=[loss] needs local models and cannot be used with models=[endpoint].")
        if "benchmarks" not in self.suite:
            return
        if not options.benchmarks:
            raise errors.ConfigError(
                "suite=[benchmarks] needs the names of benchmarks, such as benchmarks=[arc_easy,hellaswag,gsm8k,mmlu,"
                "ifeval]. To list those of lm-evaluation-harness: lm-eval ls tasks."
            )
        if "endpoint" in self.models:
            raise errors.ConfigError("suite=[benchmarks] needs local models and cannot be used with models=[endpoint].")

    def _answers(self, model: str) -> Stage:
        def inputs() -> dict[str, str]:
            return model_inputs(self.options, model) | outputs_of(self.prompts)

        names = ("temperature", "top_p", "max_new_tokens")
        options = options_of(self.options, *(f"evaluation.{name}" for name in names)) | model_dependencies(
            self.options, model
        )
        libraries = engine_libraries(self.options, by_name(model))
        return self._stage("answers", slug(model), [f"{slug(model)}.jsonl"], options, inputs, libraries)

    def _loss(self, model: str, file: str) -> Stage:
        def inputs() -> dict[str, str]:
            return model_inputs(self.options, model) | outputs_of(self.examples_of(model, file))

        options = options_of(self.options, "engine.dtype", "engine.max_model_len", "model.chat_template")
        options |= model_options(self.options) | {"model": model, "examples": file}
        outputs = [f"{slug(file)}.jsonl"]
        return self._stage(f"loss/{slug(model)}", slug(file), outputs, options, inputs, TRANSFORMERS)

    def _match(self, first: str, second: str) -> Stage:
        def inputs() -> dict[str, str]:
            return model_inputs(self.options, self.judge) | outputs_of(self.answers[first], self.answers[second])

        template = load_template(self.options.evaluation.judge_template, "evaluation.judge_template")
        options = model_dependencies(self.options, self.judge) | {"evaluation.judge_template": template.digest}
        options |= {"evaluation.judge": self.judge}
        name, libraries = f"{slug(first)}--{slug(second)}", engine_libraries(self.options, by_name(self.judge))
        return self._stage("head_to_head", name, [f"{name}.jsonl"], options, inputs, libraries)

    def _benchmarks(self) -> dict[str, dict[str, Stage]]:
        """Return model -> benchmark -> stage."""
        return {
            model: {name: self._benchmark(model, name) for name in self.options.benchmarks} for model in self.models
        }

    def _benchmark(self, model: str, name: str) -> Stage:
        from srlm.evaluation.lm_eval import backend, own_files, version

        def inputs() -> dict[str, str]:
            files, folder = own_files(name, self.options.include_path), Path(self.options.include_path).expanduser()
            tasks = {"include_path": hash_of_files(folder, files)} if files else {}
            return model_inputs(self.options, model) | tasks

        # The harness truncates requests that are longer than the context.
        names = ("benchmark_limit", "benchmark_shots", "evaluation.bootstrap", "engine.max_model_len")
        options = options_of(self.options, *names) | model_dependencies(self.options, model)
        options |= {"lm_eval": version(), "backend": backend(self.options), "benchmark": name}
        outputs = [f"{slug(name)}.json", f"{slug(name)}.answers.jsonl"]
        libraries = VLLM if options["backend"] == "vllm" else TRANSFORMERS
        return self._stage(f"benchmarks/{slug(model)}", slug(name), outputs, options, inputs, libraries)

    def _stage(
        self,
        folder: str,
        name: str,
        outputs: Sequence[str],
        options: Mapping[str, Any],
        inputs: Callable[[], Mapping[str, str]],
        libraries: Sequence[str] = (),
    ) -> Stage:
        path = self.workspace.root / folder
        return Stage(self.workspace, path, name, outputs, options, inputs, libraries, self.options)


def read_asked(plan: Plan) -> None:
    """Read the prompts that every model answers."""

    def read(source: SourceConfig, seed: int) -> tuple[Sequence[Any], str, dict[str, Any]]:
        from srlm.data.readers import read_prompts

        prompts = read_prompts(source, seed)
        return prompts, f"{source.path}: {len(prompts)} prompts", {"prompts": len(prompts)}

    read_data(plan.prompts, plan.options, plan.options.dataset, read)


def read_examples(plan: Plan) -> None:
    """Read the examples whose loss is measured."""

    def read(source: SourceConfig, seed: int) -> tuple[Sequence[Any], str, dict[str, Any]]:
        from srlm.data.readers import read_ift

        examples, parts = read_ift(source, seed), Path(source.path).parts
        own = parts[-2:] == ("data", IFT.file) and len(parts) > 2
        name = f"{parts[-3]}, training examples" if own else source.path
        return examples, f"{name}: {len(examples)} examples", {"examples": len(examples)}

    for path, stage in plan.examples.items():
        read_data(stage, plan.options, path, read)
