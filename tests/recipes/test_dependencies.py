"""Dependencies of every output: a change of each dependency makes exactly the listed stages refuse.

A synthetic run has every stage, with models of a few bytes, and templates, seeds and external models as files. A stage
that depends on another stage's output refuses after that stage was recomputed with another result.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from srlm.config import Config, option_value
from srlm.data.prepare import PrepareData, PrepareIFEval
from srlm.engines.config import EngineConfig
from srlm.errors import RunFolderError
from srlm.evaluation.answers import AnswerPrompts
from srlm.generation import prompts as prompts_module
from srlm.generation.candidates import SampleCandidates
from srlm.generation.eft import BuildEFT, WriteRationales
from srlm.generation.judgements import JudgeCandidates, MetaJudge
from srlm.generation.own_answers import AnswerOwnPrompts, RankAnswers
from srlm.generation.own_labels import label_stage
from srlm.generation.pairs import SelectPairs
from srlm.generation.prompts import WritePrompts, load_writer_template
from srlm.io.files import write_atomic
from srlm.judges.pairwise import load_template as load_pairwise
from srlm.models.base_model import BaseModel
from srlm.models.resolve import identity, model_id
from srlm.pipeline.stage import Stage, check_stages
from srlm.pipeline.workspace import Workspace
from srlm.training.stages import Train, TrainRewardModel, TrainSFT, TrainSFTBaseline
from tests.helpers import all_stages, options

Change = Callable[[Workspace, Config], Config | None]
FILES = ("model.safetensors", "config.json", "generation_config.json", "tokenizer.json", "chat_template.jinja")
PACKAGED = Path(load_pairwise.__code__.co_filename).parent / "templates"
SEEDS = {"data", "seed"}  # all seed data files, and the random seed of the run
TRAINED = {"chat template text", "chat template kwargs", "template date", "thought mark", "seed"}
ENGINE = {"engine.kind", "engine.dtype"}
WRITTEN = TRAINED | ENGINE
JUDGED = {"judge template", "judge.temperature", "judge.max_score"}

# Output -> its dependencies, for a run that judges, generates and compares with its own models.
OWN_MODELS = {
    "data": {"seed", "IFT file", "data.ift_answers"},
    "ifeval": {"seed", "IFEval file"},
    "base_model": {"M0 in its place", "chat template kwargs", "template date", "thought mark"},
    "sft_baseline": TRAINED | {"data", "M0", "sft.learning_rate"},
    "rationales": WRITTEN | JUDGED | {"data", "baseline"},
    "eft": {"data", "seed", "rationales", "judge.max_score"},
    "sft": TRAINED | {"data", "M0", "sft.learning_rate", "EFT examples", "judge template"},
    "2 prompts": WRITTEN | {"data", "M1", "prompt template", "prompts.temperature"},
    "2 candidates": WRITTEN | {"M1", "prompts of 2", "candidates.temperature"},
    "2 judgements": WRITTEN | JUDGED | {"M1", "candidates of 2", "judge.count", "judge.model"},
    "2 meta_judgements": WRITTEN | {"M1", "candidates of 2", "judgements of 2", "meta template", "judge.model"},
    "2 pairs": {"prompts of 2", "candidates of 2", "judgements of 2", "meta of 2", "judge template", "pairs.min_gap"},
    "2 dpo": TRAINED | {"M1", "M0", "pairs of 2", "dpo.beta"},
    "3 prompts": WRITTEN | {"data", "M2", "prompts of 2", "prompt template", "prompts.temperature"},
    "3 candidates": WRITTEN | {"M2", "candidates.temperature"},
    "3 judgements": WRITTEN | JUDGED | {"M2", "judge.count", "judge.model"},
    "3 meta_judgements": WRITTEN | {"M2", "meta template", "judge.model"},
    "3 dpo": TRAINED | {"M2", "M0", "dpo.beta"},
    "0 held_out_judgements": WRITTEN | JUDGED | {"data", "M0"},
    "2 held_out_judgements": WRITTEN | JUDGED | {"data", "M2"},
    "0 answers": WRITTEN | {"data", "M0", "evaluation.temperature"},
    "2 answers": WRITTEN | {"data", "M2", "evaluation.temperature"},
    "2 ifeval_answers": WRITTEN | {"IFEval prompts", "M2"},
    "2 head_to_head": (WRITTEN - {"seed"}) | {"M1", "answers of M2", "answers of M0", "pairwise template"},
    "2 evaluation": {
        "data",
        "seed",
        "answers of M2",
        "answers of M0",
        "IFEval prompts",
        "prompts of 2",
        "judge.max_score",
    },
}
# With external models as judge and as generator of prompts, each in a folder.
EXTERNAL = {
    "2 prompts": {"writer"},
    "2 candidates": {"M1"},
    "2 judgements": {"judge"},
    "2 held_out_judgements": {"M2"},
    "2 head_to_head": {"match judge"},
}
# A model writes the EFT answers, and programs label them.
OWN_EFT = {
    "data": {"seed", "IFT file", "data.ift_answers"},
    "sft_baseline": TRAINED | {"data", "M0", "sft.learning_rate"},
    "1 eft_answers": WRITTEN | {"data", "baseline", "data.own_answers.count"},
    "1 eft_labels": {"data", "EFT answers", "judge.max_score"},
    "data own_answers": {"data", "EFT answers", "EFT labels"},
    "rationales": WRITTEN | JUDGED | {"data", "own EFT", "baseline"},
    "eft": {"data", "own EFT", "seed", "rationales", "judge.max_score"},
    "sft": TRAINED | {"data", "M0", "sft.learning_rate", "EFT examples", "judge template"},
    "0 held_out_judgements": WRITTEN | JUDGED | {"data", "own EFT", "M0"},
    "2 prompts": WRITTEN | {"data", "own EFT", "M1", "prompt template", "prompts.temperature"},
}
SERVER = {f"endpoint.{name}" for name in ("base_url", "model", "prefill", "logprobs", "temperature", "extra")}
ENDPOINT = {
    "2 prompts": SERVER | {"thought mark"},
    "2 candidates": ENGINE | {"thought mark", "chat template text", "M1"},
    "2 judgements": SERVER | {"thought mark"},
    "2 head_to_head": SERVER | {"thought mark"},
}
OWN_EFT_ENDPOINT = {
    "1 eft_answers": SERVER | {"thought mark"},
    "1 eft_labels": SERVER | {"thought mark", "judge template", "judge.count", "EFT answers"},
    "data own_answers": {"EFT answers", "EFT labels", "judge.min_valid"},
}
IMPLICIT = {
    "2 judgements": {"M1", "M0", "dpo.beta"},
    "3 judgements": {"M2", "M0", "dpo.beta"},
    "2 held_out_judgements": {"M2", "M0", "dpo.beta"},
    "sft": {"M0"},
}
IMPLICIT_KTO = {
    "2 judgements": {"kto.beta"},
    "3 judgements": {"kto.beta"},
    "2 held_out_judgements": {"kto.beta"},
}
PREVIOUS = {
    "2 judgements": {"M1", "M0"},
    "3 judgements": {"M2", "M1"},
    "2 held_out_judgements": {"M2", "M1"},
}
REFERENCE = {
    "2 judgements": {"M1", "reference"},
    "3 judgements": {"M2", "reference"},
    "2 held_out_judgements": {"M2", "reference"},
}
REWARD_MODEL = {
    "reward_model": TRAINED | {"M1", "EFT examples"},
    "2 judgements": (TRAINED - {"seed"}) | {"reward model"},
    "3 judgements": (TRAINED - {"seed"}) | {"reward model"},
    "2 held_out_judgements": (TRAINED - {"seed"}) | {"reward model"},
}
# DPO with early stopping: checkpoints answer validation prompts and a judge compares the answers.
_COMPARED = TRAINED | ENGINE | {"M1", "M0", "pairs of 2", "dpo.beta", "data", "prompts of 2", "IFEval prompts"}
_COMPARED |= {"pairwise template", "evaluation.temperature", "dpo.early_stopping.every_steps"}
UNUSED_IFT = {"IFT file", "data.ift_answers"}
EARLY_STOPPING = {
    "2 dpo": _COMPARED | UNUSED_IFT,
    "3 dpo": (_COMPARED | UNUSED_IFT | {"M2"}) - {"M1", "pairs of 2"},
    "2 pairs": {"pairs.min_gap", "prompts of 2"},
}
EARLY_STOPPING_BY_SFT = {"2 dpo": {"M1", "M0"}, "3 dpo": {"M1", "M2", "M0"}}
EARLY_STOPPING_EXTERNAL = {
    "2 dpo": _COMPARED | {"validation file", "match judge"},
    "3 dpo": (_COMPARED | {"M2", "validation file", "match judge"}) - {"M1", "pairs of 2"},
}
EARLY_STOPPING_ENDPOINT = {"2 dpo": SERVER | ENGINE | {"thought mark", "validation file"}}
REWARD_MODEL_OUTSIDE = {
    "2 judgements": {"judge", "judge.model"},
    "1 held_out_judgements": {"judge", "judge.model"},
    "2 held_out_judgements": {"judge", "judge.model"},
}
FOLDER = {"data": {"seed", "seeds folder"}, "2 prompts": set()}
SPEED = {
    "engine.max_model_len": 4096,  # too long requests are counted, and sent again with a longer context
    "engine.max_concurrent": 3,
    "engine.kv_cache_gib": 1.0,
    "engine.gpu_memory_utilization": 0.5,
    "engine.tensor_parallel_size": 2,
    "engine.data_parallel_size": 2,
    "engine.compile": True,
    "engine.threads": 1,
    "sft.micro_batch_size": 1,
    "sft.gradient_checkpointing": True,
    "sft.checkpoint_steps": 7,
    "sft.processes": 2,
    "dpo.micro_batch_size": 1,
    "endpoint.max_concurrent": 2,
    "endpoint.timeout_s": 3.0,
    "endpoint.retries": 1,
    "endpoint.cache": False,
    "endpoint.budget": 9.0,
    "endpoint.api_key_env": "OTHER",
    "tracking.sample_rows": 3,
    "iteration": 2,
}


def set_to(name: str, value: Any) -> Change:
    """Return a change that sets an option to another value."""

    def change(workspace: Workspace, config: Config) -> Config:
        *groups, option = name.split(".")
        place: Any = config
        for group in groups:
            place = getattr(place, group)
        known = getattr(place, option)
        assert known != value
        setattr(place, option, type(known)[value] if hasattr(known, "name") else value)
        return config

    return change


def flip(name: str) -> Change:
    return lambda workspace, config: set_to(name, not option_value(config, name))(workspace, config)


def edit(file: str) -> Change:
    """Return a change that edits a file outside the run."""

    def change(workspace: Workspace, config: Config) -> None:
        path = workspace.root.parent / file
        path.write_bytes(path.read_bytes() + b" x")

    return change


def remake(stage: Callable[[Workspace, Config], Stage], file: str = "") -> Change:
    """Return a change that recomputes an earlier stage with another output (`file` of its folder if it is a model)."""

    def change(workspace: Workspace, config: Config) -> None:
        made = stage(workspace, config)
        for output in made.outputs:
            path = output / file if file else output
            path.write_bytes(path.read_bytes() + b" ")
        made.done({}, {})

    return change


def of(make: Callable[..., Stage], *t: int) -> Callable[[Workspace, Config], Stage]:
    return lambda workspace, config: make(workspace, config, *t)


def new_base(workspace: Workspace, config: Config) -> None:
    edit("base/model.safetensors")(workspace, config)
    base_is(workspace, workspace.root.parent / "base")
    BaseModel(workspace, config).done({}, {})


def new_prompt_template(workspace: Workspace, config: Config) -> None:
    """The template for new prompts is packaged, so another version of the package can change it."""
    prompts_module.load_writer_template = lambda: load_pairwise("pairwise", "x")  # undone by the test


CHANGES: dict[str, Change] = {
    "seed": set_to("seed", 7),
    "IFT file": edit("ift.jsonl"),
    "seeds folder": edit("rows/train.jsonl"),
    "IFEval file": edit("ifeval.jsonl"),
    "M0 in its place": edit("base/tokenizer.json"),
    "M0": new_base,
    "M1": remake(of(TrainSFT, 1), "model.safetensors"),
    "M2": remake(of(Train, 2), "chat_template.jinja"),
    "baseline": remake(of(TrainSFTBaseline, 1), "config.json"),
    "reward model": remake(of(TrainRewardModel, 1), "model.safetensors"),
    "data": remake(PrepareData),
    "IFEval prompts": remake(PrepareIFEval),
    "rationales": remake(of(WriteRationales, 1)),
    "EFT examples": remake(of(BuildEFT, 1)),
    "EFT answers": remake(of(AnswerOwnPrompts, 1)),
    "EFT labels": remake(label_stage),
    "own EFT": remake(RankAnswers),
    "prompts of 2": remake(of(WritePrompts, 2)),
    "candidates of 2": remake(of(SampleCandidates, 2)),
    "judgements of 2": remake(of(JudgeCandidates, 2)),
    "meta of 2": remake(of(MetaJudge, 2)),
    "pairs of 2": remake(of(SelectPairs, 2)),
    "answers of M2": remake(of(AnswerPrompts, 2)),
    "answers of M0": remake(of(AnswerPrompts, 0)),
    "chat template text": edit("chat.jinja"),
    "chat template kwargs": set_to("model.chat_template_kwargs", {"enable_thinking": False}),
    "template date": set_to("model.template_date", "2025-01-01"),
    "thought mark": set_to("model.thought_end", "</reasoning>"),
    "judge template": edit("judge.txt"),
    "meta template": edit("meta.txt"),
    "pairwise template": edit("pairwise.txt"),
    "prompt template": new_prompt_template,
    "writer": edit("writer/model.safetensors"),
    "judge": edit("judge/tokenizer.json"),
    "match judge": edit("match_judge/generation_config.json"),
    "reference": edit("reference/config.json"),
    "validation file": edit("validation.jsonl"),
    "data.ift_answers": set_to("data.ift_answers", "best"),
    "dpo.early_stopping.every_steps": set_to("dpo.early_stopping.every_steps", 7),
    "engine.kind": set_to("engine", EngineConfig()),
    "engine.dtype": set_to("engine.dtype", "bfloat16"),
    "endpoint.base_url": set_to("endpoint.base_url", "http://127.0.0.1:2/v1"),
    "endpoint.model": set_to("endpoint.model", "bigger"),
    "endpoint.prefill": flip("endpoint.prefill"),
    "endpoint.logprobs": flip("endpoint.logprobs"),
    "endpoint.temperature": set_to("endpoint.temperature", 1.0),
    "endpoint.extra": set_to("endpoint.extra", {"reasoning_effort": "low"}),
    "sft.learning_rate": set_to("sft.learning_rate", 1e-3),
    "dpo.beta": set_to("dpo.beta", 0.5),
    "kto.beta": set_to("kto.beta", 0.5),
    "data.own_answers.count": set_to("data.own_answers.count", 7),
    "judge.temperature": set_to("judge.temperature", 0.1),
    "judge.min_valid": set_to("judge.min_valid", 1),
    "judge.count": set_to("judge.count", 5),
    "judge.model": lambda workspace, config: set_to("judge.model", f"{workspace.root.parent}/writer")(
        workspace, config
    ),
    "judge.max_score": set_to("judge.max_score", 4),
    "pairs.min_gap": set_to("pairs.min_gap", 1.5),
    "prompts.temperature": set_to("prompts.temperature", 0.1),
    "candidates.temperature": set_to("candidates.temperature", 0.1),
    "evaluation.temperature": set_to("evaluation.temperature", 0.1),
    "speed": lambda workspace, config: [set_to(name, value)(workspace, config) for name, value in SPEED.items()][-1],
}
SERVER_OPTIONS = ("endpoint.base_url=http://127.0.0.1:1/v1", "endpoint.model=big", "endpoint.prefill=true")
BY_SERVER = ("prompts.model=endpoint", "judge.model=endpoint", "evaluation.judge=endpoint", *SERVER_OPTIONS)
EARLY, OTHER_PROMPTS = "dpo.early_stopping.enabled=true", "dpo.early_stopping.source.path=ROOT/validation.jsonl"
VARIANTS: dict[str, tuple[tuple[str, ...], dict[str, set[str]]]] = {
    "own models": ((), OWN_MODELS),
    "external": (
        ("prompts.model=ROOT/writer", "judge.model=ROOT/judge", "evaluation.judge=ROOT/match_judge"),
        EXTERNAL,
    ),
    "endpoint": (BY_SERVER, ENDPOINT),
    "own EFT": (("data.own_answers.labels=checkers",), OWN_EFT),
    "own EFT, endpoint": (
        ("data.own_answers.labels=endpoint", "data.own_answers.model=endpoint", *SERVER_OPTIONS),
        OWN_EFT_ENDPOINT,
    ),
    "implicit": (("judge=implicit",), IMPLICIT),
    "implicit, kto": (("judge=implicit", "method=kto"), IMPLICIT_KTO),
    "previous": (("judge=implicit", "judge.reference=previous"), PREVIOUS),
    "reference": (("judge=implicit", "judge.reference=ROOT/reference"), REFERENCE),
    "reward model": (("judge=reward_model",), REWARD_MODEL),
    "early stopping": ((EARLY,), EARLY_STOPPING),
    "early stopping by sft": ((EARLY, "dpo.early_stopping.judge=sft"), EARLY_STOPPING_BY_SFT),
    "early stopping, external": (
        (EARLY, OTHER_PROMPTS, "dpo.early_stopping.judge=ROOT/match_judge"),
        EARLY_STOPPING_EXTERNAL,
    ),
    "early stopping, endpoint": (
        (EARLY, OTHER_PROMPTS, "dpo.early_stopping.judge=endpoint", *SERVER_OPTIONS),
        EARLY_STOPPING_ENDPOINT,
    ),
    "reward model outside": (("judge=reward_model", "judge.model=ROOT/judge"), REWARD_MODEL_OUTSIDE),
    "seeds in a folder": (("data.ift.path=hub:ROOT/rows",), FOLDER),
}
AT_ONCE = (
    "data",
    "ifeval",
    "base_model",
    "eft",
    "2 pairs",
    "2 evaluation",
    "1 eft_labels",
    "data own_answers",
)  # no records or checkpoints to resume from
# The tables of the other variants contain only their differences from the first.
OF_OWN_EFT = {"EFT answers", "EFT labels", "own EFT", "data.own_answers.count"}
CHECKED_CHANGES = {
    "own models": set(CHANGES) - OF_OWN_EFT - {"judge.min_valid"},
    "own EFT": OF_OWN_EFT | set().union(*OWN_EFT.values()),
    "own EFT, endpoint": SERVER | {"speed", "EFT answers", "EFT labels"} | set().union(*OWN_EFT_ENDPOINT.values()),
    "external": {"M0", "M1", "M2", "writer", "judge", "match judge", "reference"},
    "endpoint": SERVER | ENGINE | {"speed", "thought mark", "chat template text", "M1", "M2"},
    "implicit": {"M0", "M1", "M2", "dpo.beta", "EFT examples", "judge template"},
    "implicit, kto": {"dpo.beta", "kto.beta"},
    "previous": {"M0", "M1", "M2"},
    "reference": {"M0", "M1", "M2", "reference"},
    "reward model": TRAINED - {"seed"} | {"M0", "M1", "M2", "reward model", "EFT examples"},
    "early stopping": _COMPARED | UNUSED_IFT | {"M2", "speed", "pairs.min_gap", "judge", "validation file"},
    "early stopping by sft": {"M0", "M1", "M2", "judge", "match judge"},
    "early stopping, external": _COMPARED | UNUSED_IFT | {"M2", "match judge", "judge", "validation file"},
    "early stopping, endpoint": SERVER | ENGINE | {"speed", "thought mark", "validation file", "match judge"},
    "reward model outside": {"M0", "M1", "judge", "judge.model"},
    "seeds in a folder": {"IFT file", "seeds folder"},
}


def base_is(workspace: Workspace, folder: Path) -> None:
    write_atomic(workspace.iteration(0) / "model.json", json.dumps({"name": str(folder), "id": model_id(folder)}))
    workspace.update_run(base_model=str(folder))


def model_at(folder: Path) -> None:
    folder.mkdir(parents=True)
    for file in FILES:
        (folder / file).write_text(f"{folder.name} {file}")


def config_of(root: Path, *overrides: str) -> Config:
    """Return the options of a run in `root`/run whose templates, seeds and models are files in `root`."""
    given = [
        *("name=run", f"runs_dir={root}", "iteration=3"),
        *(f"model.name={root}/base", f"model.chat_template={root}/chat.jinja", "dpo.reference=base"),
        *(f"evaluation.judge_template={root}/pairwise.txt", f"evaluation.ifeval={root}/ifeval.jsonl"),
        *(f"data.ift.path={root}/ift.jsonl", "data.ift_answers=all", "engine.kind=vllm"),
        *(override.replace("ROOT", str(root)) for override in overrides),
    ]
    if not any(override.startswith("judge=") for override in overrides):
        given += ["judge=meta", "judge.count=4", "judge.max_comparisons=2"]
        given += [f"judge.template={root}/judge.txt", f"judge.meta_template={root}/meta.txt"]
    return options(*given)


def files_at(root: Path) -> None:
    for name in ("base", "writer", "judge", "match_judge", "reference"):
        model_at(root / name)
    (root / "judge.txt").write_text('End with "Score: N". {{instruction}} {{response}}')  # names no judge.max_score
    shutil.copy(PACKAGED / "meta.txt", root / "meta.txt")
    shutil.copy(PACKAGED / "pairwise.txt", root / "pairwise.txt")
    (root / "rows").mkdir()
    for name in ("chat.jinja", "ift.jsonl", "ifeval.jsonl", "validation.jsonl", "rows/train.jsonl"):
        (root / name).write_text(name)


def outputs_of(workspace: Workspace, config: Config) -> dict[str, Stage]:
    """Return every stage by its name in the tables."""
    found = {}
    for stage in all_stages(workspace, config):
        place = workspace.relative(stage.folder).split("/")[0].removeprefix("iteration_")
        in_iteration = stage.name not in ("data", "ifeval", "base_model", "sft_baseline", "rationales", "eft", "sft")
        found[f"{place} {stage.name}" if in_iteration and stage.name != "reward_model" else stage.name] = stage
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Config]]:
    """Return a function that makes the complete run of a variant and returns it with its options."""

    @cache
    def make(variant: str) -> tuple[Path, Config]:
        root = tmp_path_factory.mktemp("made") / "here"
        root.mkdir()
        files_at(root)
        config = config_of(root, *VARIANTS[variant][0])
        workspace = Workspace.of(config)
        workspace.save_config(config)
        base_is(workspace, root / "base")
        for stage in all_stages(workspace, config):
            for output in stage.outputs:
                if output.name in ("model", "sft_baseline", "reward_model"):
                    model_at(output)
                elif not output.exists():
                    write_atomic(output, f"{stage}")
            stage.done({}, {})
        return root, config

    return make


def refused(stage: Stage, begun: bool) -> str:
    """Return the message with which a stage refuses, or "" if it does not refuse."""
    note = stage.path.with_suffix(".begun.json")
    if begun:
        os.rename(stage.path, note)
    try:
        assert stage.complete() is not begun
        return ""
    except RunFolderError as error:
        return str(error)
    finally:
        if begun:
            os.rename(note, stage.path)


@pytest.mark.parametrize("file", FILES)
def test_every_checkpoint_file_changes_the_models_hash(tmp_path: Path, file: str) -> None:
    model_at(tmp_path / "base")
    before = identity(str(tmp_path / "base")), Workspace(tmp_path).fingerprint(tmp_path / "base")
    edit(f"base/{file}")(Workspace(tmp_path / "run"), Config())
    after = identity(str(tmp_path / "base")), Workspace(tmp_path).fingerprint(tmp_path / "base")
    assert before[0] != after[0]
    assert before[1] != after[1]


@pytest.mark.parametrize(
    ("variant", "name"),
    [(variant, name) for variant in VARIANTS for name in sorted(CHECKED_CHANGES.get(variant, CHANGES))],
)
def test_exactly_the_dependent_stages_refuse(
    made: Callable[[str], tuple[Path, Config]], variant: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, given = made(variant)
    table, backup = VARIANTS[variant][1], tmp_path / "backup"
    monkeypatch.setattr(prompts_module, "load_writer_template", load_writer_template)
    shutil.copytree(root, backup)  # the options contain paths, so the run is changed in place
    try:
        workspace, config = Workspace.of(given), copy.deepcopy(given)
        config = CHANGES[name](workspace, config) or config
        outputs = outputs_of(workspace, config)
        messages = {output: refused(outputs[output], begun=False) for output in table}
        assert {output for output in table if messages[output]} == {
            o for o, depends in table.items() if name in depends
        }
        for output, message in messages.items():
            assert not message or ("changed since this stage ran" in message and "To continue: re" in message)
            if output not in AT_ONCE:
                assert bool(refused(outputs[output], begun=True)) == bool(message), output
    finally:
        shutil.rmtree(root)
        shutil.move(backup, root)


def test_dependency_tables_contain_every_change() -> None:
    tables = [table for _, table in VARIANTS.values()]
    known = {name for table in tables for depends in table.values() for name in depends}
    assert known == set(CHANGES) - {"speed"}
    assert {*OWN_MODELS, *OWN_EFT} >= {output for table in tables for output in table} - {
        "reward_model",
        "1 held_out_judgements",
    }


# Deleted stages


UNMADE = {  # M3 is not trained yet
    "iteration_3/model",
    "iteration_3/manifests/dpo.json",
    "iteration_3/evaluation",
    "iteration_3/evaluation.json",
    "iteration_3/manifests/evaluation.json",
}


@pytest.mark.parametrize(
    ("deleted", "changes", "stage", "input_name", "details"),
    [
        ({"iteration_1"}, ["sft.learning_rate"], "iteration_2/prompts", "iteration_1/model", "sft.learning_rate was"),
        (
            {"iteration_1"},
            ["data.eft_limit"],
            "iteration_2/prompts",
            "iteration_1/model",
            "data.eft_limit was 0, now 9",
        ),
        (
            {"iteration_1/model", "iteration_1/manifests"},
            ["sft.learning_rate"],
            "iteration_1/evaluation/answers",
            "iteration_1/model",
            "sft.learning_rate",
        ),
        (
            {"iteration_1", "iteration_2"},
            ["sft.learning_rate"],
            "iteration_3/prompts",
            "iteration_2/1_prompts.jsonl",
            "sft.learning_rate",
        ),
        (
            {"iteration_2"} | UNMADE,
            ["dpo.beta"],
            "iteration_3/prompts",
            "iteration_2/model",
            "dpo.beta was 0.1, now 0.5",
        ),
        ({"iteration_2"} | UNMADE, ["pairs.min_gap"], "iteration_3/prompts", "iteration_2/model", "pairs.min_gap"),
        ({"data"}, ["IFT file"], "iteration_0/evaluation/answers", "data/ift.jsonl", "ift.jsonl has changed"),
        (
            {"iteration_0"},
            ["M0 in its place"],
            "iteration_1/sft_baseline",
            "iteration_0/model.json",
            "/base has changed",
        ),
    ],
)
def test_dependent_stages_refuse_if_a_deleted_input_would_differ(
    made: Callable[[str], tuple[Path, Config]],
    deleted: set[str],
    changes: list[str],
    stage: str,
    input_name: str,
    details: str,
    tmp_path: Path,
) -> None:
    with run_without(made("own models"), deleted, tmp_path) as (workspace, config):
        for name in changes:
            config = (CHANGES | SIBLINGS)[name](workspace, config) or config
        with pytest.raises(RunFolderError) as refusal:
            check_stages(all_stages(workspace, config))
        message = str(refusal.value)
        assert f"The stage {stage} in" in message
        assert (
            f"input {input_name} has changed since this stage ran (it was deleted and would be recomputed with changes"
            in message
        )
        assert details in message
        assert "To continue: re" in message
        assert f"start a new run with name=..., or delete {workspace.root}/{stage.split('/')[0]}" in message


@pytest.mark.parametrize(
    ("deleted", "changes"),
    [
        ({"iteration_1"}, []),
        ({"iteration_1"}, ["speed"]),
        ({"iteration_2"}, []),
        ({"iteration_1", "iteration_2", "iteration_3"}, ["sft.learning_rate", "dpo.beta"]),
        ({"iteration_2", "iteration_3"}, ["dpo.beta", "pairs.min_gap"]),
        ({"data"}, []),
        (
            {"iteration_1", "lineage"},
            ["sft.learning_rate"],
        ),  # an older version has no lineage: contents are compared later
    ],
)
def test_deleted_stage_may_be_recomputed_without_conflicts(
    made: Callable[[str], tuple[Path, Config]], deleted: set[str], changes: list[str], tmp_path: Path
) -> None:
    with run_without(made("own models"), deleted, tmp_path) as (workspace, config):
        for name in changes:
            config = CHANGES[name](workspace, config) or config
        check_stages(all_stages(workspace, config))


def test_begun_stage_refuses_a_changed_input(made: Callable[[str], tuple[Path, Config]], tmp_path: Path) -> None:
    with run_without(made("own models"), {"iteration_1", "iteration_3"}, tmp_path) as (workspace, config):
        prompts = WritePrompts(workspace, config, 2)
        for path in workspace.iteration(2).iterdir():
            if path.name not in ("manifests", "1_prompts.jsonl"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        for path in prompts.path.parent.iterdir():
            os.rename(path, path.with_suffix(".begun.json")) if path == prompts.path else path.unlink()
        check_stages(all_stages(workspace, config))
        config = set_to("sft.learning_rate", 1e-3)(workspace, config) or config
        with pytest.raises(
            RunFolderError, match=r"prompts .* input iteration_1/model has changed since this stage began"
        ):
            check_stages(all_stages(workspace, config))


@pytest.mark.parametrize("file", ["model", "1_prompts.jsonl"])
def test_single_deleted_output_is_refused(
    made: Callable[[str], tuple[Path, Config]], file: str, tmp_path: Path
) -> None:
    with (
        run_without(made("own models"), {f"iteration_2/{file}"}, tmp_path) as (workspace, config),
        pytest.raises(RunFolderError, match=f"output iteration_2/{file} is missing or has changed"),
    ):
        check_stages(all_stages(workspace, config))


SIBLINGS: dict[str, Change] = {"data.eft_limit": set_to("data.eft_limit", 9)}


@contextmanager
def run_without(run: tuple[Path, Config], deleted: set[str], tmp_path: Path) -> Iterator[tuple[Workspace, Config]]:
    """Delete these files and folders of the run; restore them afterwards."""
    root, config = run
    shutil.copytree(root, tmp_path / "backup")
    try:
        for name in deleted:
            path = root / "run" / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        yield Workspace.of(config), copy.deepcopy(config)
    finally:
        shutil.rmtree(root)
        shutil.move(tmp_path / "backup", root)
