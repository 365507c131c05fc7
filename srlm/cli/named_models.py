"""The models that a command names, and their check before the command does anything else.

The check runs in a process of its own, because it imports transformers. Its result is stored until the model's files,
the options or the libraries change.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, fields, replace
from pathlib import Path

from srlm.cli.evaluate.arms import expand
from srlm.config import CheckModel, Config, Evaluate, JudgeBench, ShowMasking
from srlm.io.progress import say
from srlm.judges import spec_of
from srlm.judges.roles import judge_reference
from srlm.models.checkpoint import Use
from srlm.models.checkpoint_checks import raise_problems
from srlm.models.config import ModelConfig
from srlm.models.model_check import NamedModel, Report, check_key, is_checked, remember, report_of
from srlm.models.resolve import PACKAGED, TINY, label
from srlm.pipeline.roles import resolve_role
from srlm.pipeline.worker import run_worker
from srlm.pipeline.workspace import Workspace
from srlm.ranges import MODEL, ranges_of

_MODELS, _REPORTS = "models.json", "reports.json"


def named_models(config: Config) -> list[NamedModel]:
    """Return the local models that the options of a command name, each once."""
    found: dict[str, NamedModel] = {}
    for model in _named(config):
        external = resolve_role(model.name, 0).kind == "external"
        if external and model.name != "first":
            found.setdefault(model.name, model)
    return list(found.values())


def _named(config: Config) -> Iterator[NamedModel]:
    spec = spec_of(config.judge)
    judges: Use | None = {"classifier": "classify", "program": None}.get(spec.runs_on, "generate")  # type: ignore[assignment]
    reference = judge_reference(config.judge)

    def fixed(option: str, name: str, use: Use, own_template: bool = False) -> NamedModel:
        """Return a model that is not `model.name`, whose revision and trusted code are not the other model's."""
        given = config.model
        other = replace(given, name=name, revision="", trust_remote_code=False)
        return NamedModel(option, given if name == given.name else other, use, own_template and name != given.name)

    if isinstance(config, CheckModel):
        for name in expand(config.models):
            yield NamedModel("models", replace(config.model, name=name), config.use)  # type: ignore[arg-type]
    elif isinstance(config, ShowMasking):
        yield NamedModel("model.name", config.model, "tokenize")
    elif isinstance(config, Evaluate | JudgeBench):
        bench = isinstance(config, JudgeBench)
        use: Use | None = judges if bench else "generate"
        for name in expand(config.models) if use else []:
            yield fixed("models", name, use)  # type: ignore[arg-type]
        if use and not config.models:
            yield NamedModel("model.name", config.model, use)
        if bench and reference:
            yield fixed("judge.reference", config.model.name if reference == "base" else reference, "generate")
        if isinstance(config, Evaluate) and "head_to_head" in config.suite:
            yield fixed("evaluation.judge", config.evaluation.judge, "generate")
    else:
        yield NamedModel("model.name", config.model, "train")
        own = config.data.own_answers
        unnamed = () if own.used and not own.by_baseline else ("data.own_answers.model",)  # unused, or made by the run
        for option, value, range_ in ranges_of(config):
            use = judges if option == "judge.model" else "generate"
            if range_ is MODEL and use and option not in unnamed:
                yield fixed(option, value, use, own_template=True)
        if reference:
            yield fixed("judge.reference", reference, "generate", own_template=True)


def check_named_models(config: Config) -> None:
    """Check the models that a command names.

    Raises
    ------
    ModelError
        With all problems of all models, and their remedies.
    """
    if isinstance(config, CheckModel):
        return  # it reports them itself
    models = [model for model in named_models(config) if model.name not in (TINY, *PACKAGED)]  # these are tested
    unchecked = [model for model in models if not is_checked(check_key(config, model))]
    if not unchecked:
        return
    say(f"Checking the files of {', '.join(label(model.name) for model in unchecked)}")
    reports = reports_of(config, unchecked)
    raise_problems([f"{report.model}: {problem}" for report in reports for problem in report.problems])
    remember([check_key(config, model) for model in unchecked])


def reports_of(config: Config, models: list[NamedModel]) -> list[Report]:
    """Check models in a process of its own, and return a report for each."""
    with tempfile.TemporaryDirectory(prefix="srlm-") as folder:
        workspace = Workspace(Path(folder).resolve())
        workspace.save_config(Config(**{one.name: getattr(config, one.name) for one in fields(Config)}))
        (workspace.root / _MODELS).write_text(json.dumps([asdict(model) for model in models]), encoding="utf-8")
        run_worker("srlm.cli.named_models:worker", workspace, 0, name="check_models")
        rows = json.loads((workspace.root / _REPORTS).read_text(encoding="utf-8"))
    return [Report(model, *row) for model, row in zip(models, rows, strict=True)]


def worker(workspace: Workspace, iteration: int) -> None:
    """Check the models that `reports_of` names."""
    config = workspace.config()
    rows = json.loads((workspace.root / _MODELS).read_text(encoding="utf-8"))
    models = [NamedModel(**row | {"options": ModelConfig(**row["options"])}) for row in rows]
    reports = [report_of(config, model) for model in models]
    text = json.dumps([[report.problems, report.notes] for report in reports])
    (workspace.root / _REPORTS).write_text(text, encoding="utf-8")
