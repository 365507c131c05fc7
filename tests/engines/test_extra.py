"""Further arguments for vLLM, transformers and TRL: known names are passed on, and unknown ones are refused."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from srlm.config import Config
from srlm.engines.config import EngineConfig
from srlm.engines.extra import SET_BY_SRLM, argument_names, check_extra
from srlm.errors import ConfigError, RunFolderError
from srlm.generation.candidates import SampleCandidates
from srlm.pipeline.workspace import Workspace
from srlm.training import loading, worker
from srlm.training.activation_cache import frozen_once
from srlm.training.methods import METHODS
from srlm.training.methods.sft import SFTConfig
from srlm.training.stages import Train, TrainSFT
from tests.helpers import ROOT, options


@pytest.mark.parametrize("method", METHODS)
def test_argument_names_are_those_of_trl(method: str) -> None:
    import trl

    library = METHODS[method].config.trl_config
    fields = {field.name for field in dataclasses.fields(getattr(trl, library)) if field.init}
    assert argument_names(library) >= fields
    assert {"optim", "neftune_noise_alpha", "model_init_kwargs"} <= argument_names(library)


@pytest.mark.variant
@pytest.mark.process
def test_argument_names_are_those_of_vllm() -> None:
    pytest.importorskip("vllm")
    code = "import dataclasses, json; from vllm.engine.arg_utils import AsyncEngineArgs as A\n"
    code += "print(json.dumps([field.name for field in dataclasses.fields(A) if field.init]))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    public = {name for name in json.loads(ran.stdout.splitlines()[-1]) if not name.startswith("_")}
    assert public == argument_names("engine")


def test_arguments_that_srlm_sets_exist() -> None:
    assert set(SET_BY_SRLM["engine"]) <= argument_names("engine")
    known = argument_names("SFTConfig") | argument_names("DPOConfig")
    assert set(SET_BY_SRLM["training"]) - known <= {"warmup_ratio"}


@pytest.mark.parametrize(
    ("group", "extra", "message"),
    [
        ("sft", {"neftune_noise": 5}, "sft.extra.neftune_noise: .*Did you mean neftune_noise_alpha"),
        ("dpo", {"los_type": ["ipo"]}, "dpo.extra.los_type: .*Did you mean loss_type"),
        ("endpoint", {"max_tokens": 9}, "endpoint.extra.max_tokens cannot be set.*It has no option"),
        ("endpoint", {"temperature": 1}, "endpoint.extra.temperature cannot be set.*Use endpoint.temperature instead"),
        ("sft", {"learning_rate": 1e-4}, "sft.extra.learning_rate cannot be set.*Use sft.learning_rate instead"),
        ("dpo", {"beta": 0.2}, "dpo.extra.beta cannot be set.*Use dpo.beta instead"),
        ("reward_model", {"output_dir": "x"}, "srlm sets this argument itself. It has no option"),
        ("sft", {"model_init_kwargs": {"atn_implementation": "eager"}}, "Did you mean attn_implementation"),
        ("engine", {"kv_cache_dtyp": "fp8"}, "engine.extra.kv_cache_dtyp: .*Did you mean .*kv_cache_dtype"),
        ("engine", {"max_num_seqs": 8}, "Use engine.max_concurrent instead"),
    ],
)
def test_unknown_or_reserved_names_are_refused(group: str, extra: dict[str, Any], message: str) -> None:
    config = Config()
    getattr(config, group).extra = extra
    with pytest.raises(ConfigError, match=message):
        check_extra(config)


def test_transformers_engine_accepts_from_pretrained_arguments() -> None:
    config = Config()
    config.engine = EngineConfig()
    config.engine.extra = {"attn_implementation": "eager"}
    assert check_extra(config) is config
    config.engine.extra = {"kv_cache_dtype": "fp8"}
    with pytest.raises(
        ConfigError, match=r"engine\.extra\.kv_cache_dtype: transformers' from_pretrained has no argument"
    ):
        check_extra(config)


def test_arguments_reach_the_trainer_and_the_model(tiny_checkpoint: Path, tmp_path: Path) -> None:
    from trl import SFTConfig as Arguments

    config = options()
    config.sft.extra = {
        "optim": "adafactor",
        "neftune_noise_alpha": 5,
        "model_init_kwargs": {"attn_implementation": "eager"},
    }
    arguments = Arguments(**worker.trainer_arguments(check_extra(config).sft, config, tmp_path, 0))
    assert (arguments.optim, arguments.neftune_noise_alpha) == ("adafactor", 5)
    model = loading.load_model(tiny_checkpoint, config.sft, config)
    assert model.config._attn_implementation == "eager"
    assert loading.load_model(tiny_checkpoint, SFTConfig(), config).config._attn_implementation != "eager"


def test_arguments_reach_vllm() -> None:
    from srlm.engines.vllm import _options

    config = options()
    config.engine.extra = {"kv_cache_dtype": "fp8", "block_size": 64}
    found = _options(config.engine, Path("model"), False, on_cpu=True)
    assert (found["kv_cache_dtype"], found["block_size"]) == ("fp8", 64)


def test_outputs_depend_on_extra_arguments(tmp_path: Path) -> None:
    config = Config(name="run", runs_dir=str(tmp_path))
    workspace = Workspace.of(config)
    TrainSFT(workspace, config, 1).begin()
    config.sft.extra = {"optim": "adafactor"}
    assert TrainSFT(workspace, config, 1).options["sft.extra.optim"] == "adafactor"
    with pytest.raises(RunFolderError, match=r"sft\.extra\.optim"):
        TrainSFT(workspace, config, 1).complete()
    SampleCandidates(workspace, config, 2).begin()
    config.engine.extra = {"kv_cache_dtype": "fp8"}
    with pytest.raises(RunFolderError, match=r"engine\.extra\.kv_cache_dtype"):
        SampleCandidates(workspace, config, 2).complete()


def test_removing_an_extra_argument_is_a_change(tmp_path: Path) -> None:
    config = Config(name="run", runs_dir=str(tmp_path))
    config.dpo.extra = {"loss_type": ["ipo"]}
    workspace = Workspace.of(config)
    Train(workspace, config, 2).begin()
    config.dpo.extra = {}
    with pytest.raises(RunFolderError, match=r"dpo\.extra\.loss_type"):
        Train(workspace, config, 2).complete()


def test_embedding_noise_disables_activation_caching(tiny_checkpoint: Path) -> None:
    """With NEFTune the inputs of frozen layers differ in each epoch, so `train_and_save` passes one epoch."""
    config = Config()
    config.sft.dropout, config.sft.lora.dropout = 0.0, 0.0
    model = loading.load_model(tiny_checkpoint, config.sft, config)
    for parameter in model.parameters():
        parameter.requires_grad = False
    model.model.layers[-1].self_attn.q_proj.weight.requires_grad = True
    with frozen_once(model, 3.0) as below:
        assert below == len(model.model.layers) - 1
    with frozen_once(model, 1.0) as below:
        assert below == 0


@pytest.mark.variant
@pytest.mark.process
@pytest.mark.parametrize(
    "word", ["sft.extra={neftune_noise: 5}", "sft.extra.neftune_noise=5", "+sft.extra.neftune_noise=5"]
)
def test_command_line_accepts_all_spellings_of_extra(word: str, tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "srlm.run", f"runs_dir={tmp_path}", word],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert ran.returncode == 1
    assert "Did you mean neftune_noise_alpha" in " ".join((ran.stdout + ran.stderr).split())
