"""srlm.cli.named_models and `srlm check-model`: which models a command names, and their check before anything else."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from srlm.cli import named_models as module
from srlm.cli.check_model import run
from srlm.cli.named_models import check_named_models, named_models
from srlm.cli.overrides import with_positionals
from srlm.config import CheckModel, Config, Evaluate, JudgeBench, ShowMasking
from srlm.engines.config import VllmConfig
from srlm.errors import ConfigError, ModelError
from srlm.judges.config import ImplicitJudgeConfig, RewardModelJudgeConfig
from srlm.models import model_check
from srlm.models.config import ModelConfig
from srlm.models.model_check import report_of
from srlm.pipeline.workspace import Workspace
from tests.forked import run_forked
from tests.helpers import options


def named(config: Config) -> list[tuple[str, str, str]]:
    return [(model.option, model.name, model.use) for model in named_models(config)]


def test_a_run_names_its_base_model_and_the_external_models_of_its_roles() -> None:
    assert named(options("model.name=m0")) == [("model.name", "m0", "train")]
    words = ("prompts.model=writer", "judge.model=judge", "evaluation.judge=arbiter", "dpo.early_stopping.judge=other")
    assert set(named(options("model.name=m0", *words))) == {
        ("model.name", "m0", "train"),
        ("prompts.model", "writer", "generate"),
        ("judge.model", "judge", "generate"),
        ("evaluation.judge", "arbiter", "generate"),
        ("dpo.early_stopping.judge", "other", "generate"),
    }
    roles = ("prompts.model=base", "judge.model=sft", "evaluation.judge=base", "dpo.early_stopping.judge=self")
    assert named(options("model.name=m0", *roles)) == [("model.name", "m0", "train")]
    own = ("data.own_answers.labels=checkers", "data.own_answers.model")
    assert named(options("model.name=m0", own[0])) == [("model.name", "m0", "train")]
    answers = named(options("model.name=m0", own[0], f"{own[1]}=writer"))
    assert answers == [("model.name", "m0", "train"), ("data.own_answers.model", "writer", "generate")]
    assert named(options("model.name=m0", f"{own[1]}=writer")) == [("model.name", "m0", "train")]  # not used
    server = ("prompts.model=endpoint", "endpoint=vllm", "endpoint.model=big")
    assert named(options("model.name=m0", *server)) == [("model.name", "m0", "train")]


def test_judges_name_classifiers_and_reference_models() -> None:
    config = Config(model=ModelConfig(name="m0"), judge=RewardModelJudgeConfig(scorer="reward_model", model="rm"))
    assert ("judge.model", "rm", "classify") in named(config)
    config.judge = ImplicitJudgeConfig(scorer="implicit", reference="before")
    assert ("judge.reference", "before", "generate") in named(config)


def test_other_commands_name_their_models(tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / f"iteration_{number}").mkdir()
    pattern, own = str(tmp_path / "iteration_*"), ModelConfig(name="own")
    folders = [("models", str(tmp_path / f"iteration_{number}"), "generate") for number in (1, 2)]
    assert named(Evaluate(models=[pattern, "endpoint"])) == folders
    evaluate = Evaluate(model=own, suite=["head_to_head"])
    assert named(evaluate) == [("model.name", "own", "generate")]
    evaluate.evaluation.judge = "arbiter"
    assert named(evaluate) == [("model.name", "own", "generate"), ("evaluation.judge", "arbiter", "generate")]
    reward = RewardModelJudgeConfig(scorer="reward_model")
    assert named(JudgeBench(models=["rm"], judge=reward)) == [("models", "rm", "classify")]
    assert named(ShowMasking(model=own)) == [("model.name", "own", "tokenize")]
    assert named(CheckModel(models=["a", "b"], use="classify")) == [("models", name, "classify") for name in "ab"]


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Path]:
    """Make checks in this process; return the folder of each worker that was started."""
    started: list[Path] = []

    def run_worker(target: str, workspace: Workspace, iteration: int, name: str) -> None:
        assert target == "srlm.cli.named_models:worker"
        started.append(workspace.root)
        module.worker(workspace, iteration)

    monkeypatch.setattr(module, "run_worker", run_worker)
    monkeypatch.setenv("SRLM_CACHE", str(tmp_path / "cache"))
    return started


@pytest.fixture
def copy(tiny_checkpoint: Path, tmp_path: Path) -> Callable[[str], Path]:
    return lambda name: Path(shutil.copytree(tiny_checkpoint, tmp_path / name))


def change(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_all_problems_of_all_models_are_in_one_message(workers: list[Path], copy: Callable[[str], Path]) -> None:
    base, judge = copy("base"), copy("judge")
    (base / "model.safetensors").write_bytes(b"")
    change(judge, model_type="t5")
    config = options(f"model.name={base}", f"judge.model={judge}", "prompts.model=/no/such/folder/writer")
    with pytest.raises(ModelError) as caught:
        check_named_models(config)
    first, *lines = str(caught.value).splitlines()
    assert first == "There are 3 problems:"
    assert sorted(line.split(": ")[0] for line in lines) == sorted(
        [f"- model.name={base}", f"- judge.model={judge}", "- prompts.model=/no/such/folder/writer"]
    )
    assert len(workers) == 1


def test_a_check_without_problems_is_made_once(workers: list[Path], copy: Callable[[str], Path]) -> None:
    base = copy("base")
    config = options(f"model.name={base}")
    for _ in range(2):
        check_named_models(config)
    assert len(workers) == 1
    check_named_models(options(f"model.name={base}", "engine.max_model_len=512"))
    assert len(workers) == 2
    change(base, quantization_config={"quant_method": "gptq"})
    for _ in range(2):  # problems are not stored
        with pytest.raises(ModelError, match=rf"model\.name={base}: The weights are quantised"):
            check_named_models(config)
    assert len(workers) == 4


def test_packaged_models_need_no_process(workers: list[Path]) -> None:
    check_named_models(options())
    check_named_models(options("model=tiny_random", "judge.model=smollm2-135m-instruct"))
    assert not workers


def test_fixed_models_have_their_own_template_code_and_revision(
    workers: list[Path], copy: Callable[[str], Path]
) -> None:
    base, judge = copy("base"), copy("judge")
    given = ("model.revision=abc", "model.trust_remote_code=true", f"judge.model={judge}", "prompts.model=owner/writer")
    models = {model.option: model for model in named_models(options(f"model.name={base}", *given))}
    assert (models["model.name"].options.revision, models["model.name"].options.trust_remote_code) == ("abc", True)
    for option in ("judge.model", "prompts.model"):
        assert (models[option].options.revision, models[option].options.trust_remote_code) == ("", False)
    broken = base.parent / "broken.jinja"
    broken.write_text("{% if %}")
    (base / "chat_template.jinja").unlink()
    config = options(f"model.name={base}", f"model.chat_template={broken}", f"judge.model={judge}")
    with pytest.raises(ModelError, match=r"model\.name=.*syntax error") as caught:
        check_named_models(config)
    assert "judge.model" not in str(caught.value)
    (judge / "chat_template.jinja").unlink()  # without a template of its own, a fixed model uses that of the run
    with pytest.raises(ModelError, match=r"(?s)There are 2 problems.*judge\.model=.*syntax error"):
        check_named_models(config)


def test_hub_models_are_checked_before_their_weights_are_downloaded(
    copy: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, asked = copy("snapshot"), []
    (folder / "model.safetensors").unlink()

    def snapshot_download(name: str, **given: Any) -> str:
        asked.append((name, given["revision"], given["ignore_patterns"]))
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    config = CheckModel(model=ModelConfig(revision="v2"), models=["owner/model"])
    [model] = named_models(config)
    for listed, problems in (
        (("config.json", "model.safetensors"), 0),
        (("config.json", "pytorch_model.bin"), 1),
        (None, 0),  # the list cannot be had; the download reports what is missing
    ):
        monkeypatch.setattr(model_check, "files_on_hub", lambda options, listed=listed: listed)
        assert len(report_of(config, model).problems) == problems
    assert asked == [("owner/model", "v2", ["*.safetensors"])] * 3


def test_the_command_reports_each_model(
    workers: list[Path], copy: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = copy("good"), copy("bad")
    run(CheckModel(models=[str(good)]))
    change(bad, max_position_embeddings=100)
    with pytest.raises(ModelError, match=rf"1 of 2 models cannot be used: {bad}\."):
        run(CheckModel(models=[str(good), str(bad)], engine=VllmConfig(max_model_len=2048)))
    shown = capsys.readouterr().err
    assert shown.count(f"{good}: can be used as the base model") == 2
    assert f"{bad}: cannot be used as the base model\n  Problem: The model has 100 positions" in shown
    with pytest.raises(ConfigError, match="check-model NAME"):
        run(CheckModel())


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["a", "b"], ['models=["a","b"]']),
        (["o/n", "use=generate"], ["use=generate", 'models=["o/n"]']),
        (["runs/seed=1/iteration_1/model"], ['models=["runs/seed=1/iteration_1/model"]']),
        (["--config-dir", "mine", "a"], ["--config-dir", "mine", 'models=["a"]']),
        (["--cfg", "job"], ["--cfg", "job"]),
        (["model.chat_template=a/b.jinja", "x y"], ["model.chat_template=a/b.jinja", 'models=["x y"]']),
    ],
)
def test_words_without_an_option_are_models(words: list[str], expected: list[str]) -> None:
    assert with_positionals(words, "models") == expected


@pytest.mark.variant
@pytest.mark.process
def test_check_model_runs_from_the_command_line(copy: Callable[[str], Path], tmp_path: Path) -> None:
    folder = copy("seed=1")
    environment = {"SRLM_CACHE": str(tmp_path / "cache")}

    def checked(*words: str) -> subprocess.CompletedProcess[str]:
        return run_forked("srlm", "check-model", "seed=1", *words, cwd=tmp_path, environment=environment)

    good = checked()
    assert (good.returncode, good.stderr) == (0, "seed=1: can be used as the base model\n")
    bad = checked("engine.max_model_len=4096")
    assert bad.returncode == 1
    assert "Set engine.max_model_len=2048 or lower." in bad.stderr
    assert {path.name for path in tmp_path.iterdir()} <= {folder.name, "cache"}
