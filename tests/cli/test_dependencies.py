"""Dependencies of every output of judge_bench and evaluate; see tests/recipes/test_dependencies.py."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from srlm.cli.evaluate.plan import Plan
from srlm.cli.judge_bench import _prompts, rows
from srlm.config import Config, Evaluate, JudgeBench
from srlm.engines.config import EngineConfig
from srlm.errors import RunFolderError
from srlm.io.files import write_atomic
from srlm.judges.config import ImplicitJudgeConfig, SampledJudgeConfig
from srlm.pipeline.stage import Stage
from srlm.pipeline.workspace import Workspace
from tests.recipes.test_dependencies import SPEED, edit, files_at, flip, refused, remake, set_to

Change = Callable[[Workspace, Config], Config | None]
WRITTEN = {
    "seed",
    "engine.kind",
    "engine.dtype",
    "chat template",
    "chat template text",
    "template date",
    "thought mark",
}
SERVER = {"base_url", "endpoint.model", "prefill", "logprobs", "temperature of the server", "fields of the server"}
SERVER |= {"seed", "thought mark"}
JUDGED = {"judge template", "judge.temperature", "evaluation.judgements"}
SPOKEN = {"evaluation.temperature", "evaluation.max_new_tokens"}
# The model "endpoint" is the server; "base" and "writer" are folders.
EVALUATE = {
    "prompts": {"data file", "seed", "limit"},
    "examples": {"examples file", "seed", "limit"},
    "answers of base": WRITTEN | SPOKEN | {"prompts", "base"},
    "answers of writer": WRITTEN | SPOKEN | {"prompts", "writer"},
    "match": WRITTEN | {"judge", "answers of base", "pairwise template"},
    "loss of base": (WRITTEN - {"seed", "engine.kind"}) | {"examples", "base", "engine.max_model_len"},
    "benchmark of base": WRITTEN | {"base", "task file", "task folder", "benchmark_limit", "engine.max_model_len"},
}
BY_SERVER = {
    "answers of endpoint": (SERVER | SPOKEN | {"prompts", "chat template"}),
    "answers of base": WRITTEN | SPOKEN | {"prompts", "base"},
    "match": SERVER | {"answers of base", "pairwise template", "chat template"},
}
BENCH = {
    "data": {"data file", "seed", "limit"},
    "base": WRITTEN | JUDGED | {"data", "base"},
    "endpoint": SERVER | JUDGED | {"data", "chat template", "engine.kind", "engine.dtype"},
}
IMPLICIT = {
    "base": (WRITTEN | {"data", "base", "reference", "dpo.beta", "evaluation.judgements"}),
}
IMPLICIT_BASE = {
    "base": (WRITTEN | {"data", "base", "reference", "model.name", "dpo.beta", "evaluation.judgements"}),
}


def stages_of(workspace: Workspace, config: Config) -> dict[str, Stage]:
    """Return every stage of a command by its name in the tables."""

    def name_of(model: str) -> str:
        return Path(model).name

    if isinstance(config, JudgeBench):
        found = {"data": _prompts(workspace, config, config.datasets[0])}
        return found | {name_of(row.model): row.judgements for row in rows(workspace, config)}
    assert isinstance(config, Evaluate)
    plan = Plan(workspace, config)
    found = {"prompts": plan.prompts} | dict(zip(["examples"], plan.examples.values(), strict=False))
    found |= {f"answers of {name_of(model)}": stage for model, stage in plan.answers.items()}
    found |= dict(zip(["match"], (match.comparisons for match in plan.matches), strict=False))
    found |= {f"loss of {name_of(m)}": stage for m, of_model in plan.losses.items() for stage in of_model.values()}
    return found | {
        f"benchmark of {name_of(m)}": stage for m, of_model in plan.benchmarks.items() for stage in of_model.values()
    }


def changed_output(name: str) -> Change:
    return lambda workspace, config: remake(lambda *given: stages_of(*given)[name])(workspace, config)


CHANGES: dict[str, Change] = {
    "seed": set_to("seed", 7),
    "limit": set_to("limit", 3),
    "data file": edit("ift.jsonl"),
    "examples file": edit("ifeval.jsonl"),
    "task file": edit("tasks/mine.yaml"),
    "task folder": lambda workspace, config: set_to("include_path", f"{workspace.root.parent}/tasks_2")(
        workspace, config
    ),
    "model.name": lambda workspace, config: set_to("model.name", f"{workspace.root.parent}/writer")(workspace, config),
    "prompts": changed_output("prompts"),
    "examples": changed_output("examples"),
    "data": changed_output("data"),
    "answers of base": changed_output("answers of base"),
    "base": edit("base/model.safetensors"),
    "writer": edit("writer/tokenizer.json"),
    "judge": edit("judge/generation_config.json"),
    "reference": edit("reference/model.safetensors"),
    "chat template": set_to("model.chat_template", "chatml"),
    "chat template text": edit("chat.jinja"),
    "template date": set_to("model.template_date", "2025-01-01"),
    "thought mark": set_to("model.thought_end", "</reasoning>"),
    "judge template": edit("judge.txt"),
    "pairwise template": edit("pairwise.txt"),
    "engine.kind": set_to("engine", EngineConfig()),
    "engine.dtype": set_to("engine.dtype", "bfloat16"),
    "engine.max_model_len": set_to("engine.max_model_len", 4096),
    "base_url": set_to("endpoint.base_url", "http://127.0.0.1:2/v1"),
    "endpoint.model": set_to("endpoint.model", "bigger"),
    "prefill": flip("endpoint.prefill"),
    "logprobs": flip("endpoint.logprobs"),
    "temperature of the server": set_to("endpoint.temperature", 1.0),
    "fields of the server": set_to("endpoint.extra", {"reasoning_effort": "low"}),
    "judge.temperature": set_to("judge.temperature", 0.1),
    "dpo.beta": set_to("dpo.beta", 0.5),
    "benchmark_limit": set_to("benchmark_limit", 3),
    "evaluation.judgements": set_to("evaluation.judgements", 2),
    "evaluation.temperature": set_to("evaluation.temperature", 0.1),
    "evaluation.max_new_tokens": set_to("evaluation.max_new_tokens", 9),
} | {
    f"speed: {name}": set_to(name, value)
    for name, value in SPEED.items()
    if name.startswith(("engine.", "endpoint.")) and name != "engine.max_model_len"
}


def evaluate(root: Path) -> Config:
    suite, models = ["answers", "head_to_head", "loss", "benchmarks"], [str(root / name) for name in ("base", "writer")]
    config = Evaluate(
        models=models, suite=suite, dataset=str(root / "ift.jsonl"), examples=[str(root / "ifeval.jsonl")]
    )
    config.benchmarks, config.include_path = ["mine"], str(root / "tasks")
    config.evaluation.judge = str(root / "judge")
    return config


def evaluate_server(root: Path) -> Config:
    config = Evaluate(models=["endpoint", str(root / "base")], dataset=str(root / "ift.jsonl"))
    config.evaluation.judge = "endpoint"
    return config


def judge_bench(root: Path) -> Config:
    return JudgeBench(
        judge=SampledJudgeConfig(), models=[str(root / "base"), "endpoint"], datasets=[str(root / "ift.jsonl")]
    )


def judge_bench_implicit(root: Path) -> Config:
    config = JudgeBench(models=[str(root / "base")], datasets=[str(root / "ift.jsonl")])
    config.judge = ImplicitJudgeConfig(reference=str(root / "reference"))
    return config


def judge_bench_implicit_base(root: Path) -> Config:
    """Return options whose reference is model.name."""
    config = judge_bench_implicit(root)
    config.judge, config.model.name = ImplicitJudgeConfig(), str(root / "reference")
    return config


COMMANDS: dict[str, tuple[Callable[[Path], Config], dict[str, set[str]]]] = {
    "evaluate": (evaluate, EVALUATE),
    "evaluate, server": (evaluate_server, BY_SERVER),
    "judge_bench": (judge_bench, BENCH),
    "judge_bench, implicit": (judge_bench_implicit, IMPLICIT),
    "judge_bench, implicit, base": (judge_bench_implicit_base, IMPLICIT_BASE),
}
REMADE = ("prompts", "examples", "data", "answers of base")


def applies(command: str, name: str, config: Config) -> bool:
    outputs = COMMANDS[command][1]
    if name == "judge.temperature":
        return isinstance(config.judge, SampledJudgeConfig)
    if name == "task folder":
        return hasattr(config, "include_path")
    return hasattr(config, name) if name in ("limit", "benchmark_limit") else (name not in REMADE or name in outputs)


@pytest.fixture(params=COMMANDS)
def made(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Config]:
    """Return a command and its options, with a folder in which every stage is complete."""
    files_at(tmp_path)
    for folder, more in (("tasks", ""), ("tasks_2", "# another")):
        write_atomic(tmp_path / folder / "mine.yaml", f"task: mine{more}")
    config = COMMANDS[request.param][0](tmp_path)
    config.runs_dir, config.model.chat_template = str(tmp_path), str(tmp_path / "chat.jinja")
    config.evaluation.judge_template = str(tmp_path / "pairwise.txt")
    if isinstance(config.judge, SampledJudgeConfig):
        config.judge.template = str(tmp_path / "judge.txt")
    config.endpoint.base_url, config.endpoint.model = "http://127.0.0.1:1/v1", "big"
    workspace = Workspace.of(config)
    for name, stage in stages_of(workspace, config).items():
        for output in stage.outputs:
            write_atomic(output, name)
        stage.done({}, {})
    return request.param, config


def test_a_change_makes_exactly_the_dependent_stages_refuse(made: tuple[str, Config]) -> None:
    command, given = made
    workspace, table = Workspace.of(given), COMMANDS[command][1]
    kept = {path: path.read_bytes() for path in workspace.root.parent.rglob("*") if path.is_file()}
    for name, change in CHANGES.items():
        config = copy.deepcopy(given)
        if not applies(command, name, config):
            continue
        config = change(workspace, config) or config
        outputs = stages_of(workspace, config)
        refusing = {output for output in table if refused(outputs[output], begun=False)}
        assert refusing == {output for output, depends in table.items() if name in depends}, name
        for output in table:
            if output not in ("prompts", "examples", "data"):  # written in one step
                assert bool(refused(outputs[output], begun=True)) == (output in refusing), (name, output)
        for path, content in kept.items():
            path.write_bytes(content)


def test_the_tables_contain_every_change() -> None:
    known = {name for _, table in COMMANDS.values() for depends in table.values() for name in depends}
    assert known == {name for name in CHANGES if not name.startswith("speed: ")}


def test_options_missing_in_a_manifest_have_their_defaults(made: tuple[str, Config]) -> None:
    """This holds for the manifests of every command."""
    _, config = made
    workspace = Workspace.of(config)
    for name, stage in stages_of(workspace, config).items():
        manifest: dict[str, Any] = json.loads(stage.path.read_text())
        if "seed" not in manifest["options"]:
            continue
        del manifest["options"]["seed"]
        stage.path.write_text(json.dumps(manifest))
        assert stage.complete()
        changed = copy.deepcopy(config)
        changed.seed = 3
        with pytest.raises(RunFolderError, match="seed was 0, now 3"):
            stages_of(workspace, changed)[name].complete()
