"""Options of the chosen judge and engine: Hydra refuses those of others, and the message names who has them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import hydra
import pytest
from hydra.errors import CompactHydraException

from srlm.cli.schemas import refused_option, register_external
from srlm.config import Config
from srlm.engines.base import LocalEngine
from srlm.engines.config import ENGINE_OPTIONS, EngineConfig
from srlm.engines.dependencies import generation_options
from srlm.errors import ConfigError
from srlm.judges.base import Judge, JudgeSpec
from srlm.judges.config import JUDGE_OPTIONS, JudgeConfig, PairwiseJudgeConfig, SampledJudgeConfig, default_judge
from srlm.pipeline.provenance import OptionChanges, option_changes
from srlm.pipeline.workspace import Workspace
from srlm.run import plain_options
from tests.forked import run_forked
from tests.helpers import ROOT, options

JUDGES = sorted(path.stem for path in (ROOT / "conf/judge").glob("*.yaml"))
OPTIONS = sorted({field.name for kind in JUDGE_OPTIONS.values() for field in fields(kind)})


@dataclass
class OwnOptions(JudgeConfig):
    """Options of an external judge."""

    margin: float = 0.5


class OwnJudge(Judge[OwnOptions]):
    options_type = OwnOptions
    spec = JudgeSpec(runs_on="program", fields=())

    async def judge(self, prompt, candidates, engine, known, emit): ...


OWN = f"{__name__}:OwnJudge"


@dataclass
class OwnEngineOptions(EngineConfig):
    """Options of an external engine."""

    beams: int = 4


class OwnEngine(LocalEngine):
    options_type = OwnEngineOptions

    async def generate(self, messages, sampling, prefill=""): ...


OWN_ENGINE = f"{__name__}:OwnEngine"


def refusal(*words: str) -> str:
    with pytest.raises((CompactHydraException, ConfigError)) as caught:
        options(*words)
    return refused_option(caught.value) or str(caught.value)


@pytest.mark.parametrize("judge", ["additive", "logprob", "pairwise", "implicit", "reward_model"])
def test_options_of_another_judge_are_refused(judge: str) -> None:
    own = {field.name for field in fields(options(f"judge={judge}").judge)}
    for option in [one for one in OPTIONS if one not in own][::4]:  # composing is slow
        message = refusal(f"judge={judge}", f"judge.{option}=1")
        assert f"judge.{option} is no option of the chosen judge, which has scorer, model, max_score" in message
        assert "Judges that have it: " in message


def test_the_message_names_the_judges_that_have_the_option() -> None:
    assert "Judges that have it: implicit. To choose" in refusal("judge=pairwise", "judge.reference=base")
    assert "Judges that have it: implicit, reward_model. To" in refusal("judge=pairwise", "judge.length_penalty=1")
    several = "Judges that have it: additive, logprob_weighted, meta, multiple_choice, verdict_only. To choose"
    assert several in refusal("judge=pairwise", "judge.temperature=1")
    assert several in refusal("judge=pairwise", "+judge.temperature=1")
    assert several in refusal("judge=pairwise", "experiment=qwen_1.5b_one_gpu", "~judge.max_new_tokens")


def test_mistyped_judge_options_get_a_suggestion() -> None:
    assert "Did you mean judge.max_comparisons?" in refusal("judge=pairwise", "judge.max_comparison=1")


@pytest.mark.parametrize(("scorer", "choice"), [("pairwise", "pairwise"), ("implicit", "implicit"), (OWN, OWN)])
def test_scorers_with_other_options_are_refused_with_the_fix(scorer: str, choice: str) -> None:
    assert f"Choose both with judge={choice}." in refusal(f"judge.scorer={scorer}")
    assert "Choose both with judge=additive." in refusal("judge=pairwise", "judge.scorer=sampled")


def test_scorers_with_the_same_options_are_accepted() -> None:
    assert options("judge=additive", "judge.scorer=logprob_weighted").judge.template == "additive"


@pytest.mark.parametrize("judge", JUDGES)
def test_every_judge_config_is_restored_with_its_type(judge: str, tmp_path: Path) -> None:
    config = options(f"judge={judge}")
    assert type(config.judge) is JUDGE_OPTIONS[config.judge.scorer]
    Workspace(tmp_path).save_config(config)
    restored = Workspace(tmp_path).config()
    assert type(restored.judge) is type(config.judge)
    assert restored == config


def test_external_judges_have_their_own_options(tmp_path: Path) -> None:
    register_external([f"judge={OWN}"])
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = plain_options(hydra.compose("config", [f"judge={OWN}", "judge.margin=0.25"]))
    assert config.judge == OwnOptions(scorer=OWN, margin=0.25)
    Workspace(tmp_path).save_config(config)
    assert Workspace(tmp_path).config() == config
    assert "judge.count is no option" in refusal(f"judge={OWN}", "judge.count=2")


def test_options_of_another_engine_are_refused() -> None:
    for option in ("kv_cache_gib", "gpu_memory_utilization", "tensor_parallel_size", "data_parallel_size", "compile"):
        message = refusal("engine=transformers", f"engine.{option}=1")
        assert f"engine.{option} is no option of the chosen engine, which has kind, dtype, max_model_len" in message
        assert "Engines that have it: vllm. To choose one: engine=NAME." in message
    assert "Did you mean engine.max_model_len?" in refusal("engine=transformers", "+engine.max_model_ln=1")
    for command in ("evaluate", "judge_bench", "show_masking", "side_by_side"):
        folder = hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3")
        with folder, pytest.raises(CompactHydraException) as caught:
            hydra.compose(command, ["engine=transformers", "engine.compile=true"])
        assert "Engines that have it: vllm." in str(refused_option(caught.value))


def test_kinds_of_engine_with_other_options_are_refused_with_the_fix() -> None:
    assert "Choose both with engine=transformers." in refusal("engine.kind=transformers")
    assert f"Choose both with engine={OWN_ENGINE}." in refusal(f"engine.kind={OWN_ENGINE}")


def test_external_engines_have_their_own_options(tmp_path: Path) -> None:
    """Each of them counts for what is generated."""
    register_external([f"engine={OWN_ENGINE}"])
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = plain_options(hydra.compose("config", [f"engine={OWN_ENGINE}", "engine.beams=2"]))
    assert config.engine == OwnEngineOptions(kind=OWN_ENGINE, beams=2)
    Workspace(tmp_path).save_config(config)
    assert Workspace(tmp_path).config() == config
    assert generation_options(config)["engine.beams"] == 2
    assert "engine.beams" not in generation_options(Config())


@pytest.mark.parametrize("engine", ["vllm", "transformers"])
def test_every_engine_config_is_restored_with_its_type(engine: str, tmp_path: Path) -> None:
    config = options(f"engine={engine}")
    assert type(config.engine) is ENGINE_OPTIONS[engine]
    Workspace(tmp_path).save_config(config)
    assert Workspace(tmp_path).config() == config


def test_options_of_other_engines_in_old_configs_are_ignored(tmp_path: Path, capsys) -> None:
    """Runs of older versions stored vLLM's options for every engine."""
    Workspace(tmp_path).config_path.write_text("{engine: {kind: transformers, threads: 1, tensor_parallel_size: 1}}")
    assert Workspace(tmp_path).config() == Config(engine=EngineConfig(threads=1))
    assert capsys.readouterr().err == ""


def test_options_of_other_judges_in_old_configs_are_ignored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Runs of older versions stored all options of all judges."""
    text = "{judge: {scorer: pairwise, template: pairwise, count: 1, temperature: 0.7, max_comparisons: 4}}"
    Workspace(tmp_path).config_path.write_text(text)
    assert Workspace(tmp_path).config() == Config(judge=PairwiseJudgeConfig(max_comparisons=4))
    assert capsys.readouterr().err == ""


def test_options_of_other_judges_in_old_manifests_are_ignored() -> None:
    """Manifests of older versions hold options that the judge never read."""
    config = Config(judge=PairwiseJudgeConfig())
    unread = {"judge.early_stopping": False, "judge.early_stopping_risk": 0.02, "judge.temperature": 0.3}
    then = {"judge.scorer": "pairwise", "judge.count": 1, "judge.max_comparisons": 0, **unread}
    now = {"judge.scorer": "pairwise", "judge.max_comparisons": 0}
    assert option_changes(then, now, config, dict) == OptionChanges({}, {})
    other = option_changes(then | {"judge.scorer": "sampled"}, now, config, dict)
    assert other == OptionChanges({"judge.scorer": ("sampled", "pairwise")}, {})
    assert option_changes({}, now, config, dict).changed == {"judge.scorer": ("logprob_weighted", "pairwise")}


def test_python_and_command_line_have_the_same_judge_defaults() -> None:
    assert options().judge == Config().judge == default_judge()
    assert options("judge=additive").judge == SampledJudgeConfig()


@pytest.mark.process
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["judge=pairwise", "judge.temperature=1"], "Judges that have it: additive,"),
        (["judge=nowhere:Judge"], "judge.scorer=nowhere:Judge cannot be imported"),
        (["judge=nothing"], "There is no judge=nothing."),
        ([f"judge={OWN}", "judge.margn=1"], "Did you mean judge.margin?"),
        (["engine=transformers", "engine.compile=true"], "Engines that have it: vllm."),
        (["engine=nowhere:Engine"], "engine.kind=nowhere:Engine cannot be imported"),
    ],
)
def test_the_command_fails_with_the_message(words: list[str], message: str, tmp_path: Path) -> None:
    ended = run_forked("srlm.run", f"runs_dir={tmp_path}", *words)
    assert ended.returncode == 1
    assert message in " ".join(ended.stderr.split())
    assert "Traceback" not in ended.stderr
