"""The hardware of this machine, as far as options depend on it, found without importing torch in this process."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

# torch is asked in a process of its own, because it initialises CUDA.
_ASK_TORCH = """
import json, torch
gpus = [torch.cuda.get_device_properties(i).total_memory for i in range(torch.cuda.device_count())]
print(json.dumps([gpus, bool(gpus) and torch.cuda.is_bf16_supported(including_emulation=False)]))
"""
_GPU_TOOLS = ("nvidia-smi", "rocm-smi", "amd-smi")


@dataclass(frozen=True)
class Hardware:
    """What the options that follow the hardware depend on.

    Attributes
    ----------
    gpus : int
        Number of GPUs that torch can use; 0 = training and generation are on the CPU.
    memory_gib : float
        Memory of the smallest of these GPUs, or the main memory, in GiB; 0 = not known.
    bf16 : bool
        Whether the GPU, or the CPU, computes in bfloat16.
    """

    gpus: int = 0
    memory_gib: float = 0.0
    bf16: bool = False

    def __str__(self) -> str:
        number = "CPU" if not self.gpus else "GPU" if self.gpus == 1 else f"{self.gpus} GPUs"
        each = " each" if self.gpus > 1 else ""
        memory = f" with {self.memory_gib:.0f} GiB{each}" if self.memory_gib else ""
        return f"{number}{memory}, {'bfloat16' if self.bf16 else 'no bfloat16'}"


@cache
def hardware() -> Hardware:
    """Return the hardware of this machine."""
    if any(map(shutil.which, _GPU_TOOLS)) and not _installed_torch().endswith("+cpu"):
        asked = subprocess.run([sys.executable, "-c", _ASK_TORCH], capture_output=True, text=True)
        if asked.returncode == 0:
            memory, bf16 = json.loads(asked.stdout.strip().splitlines()[-1])
            if memory:
                return Hardware(len(memory), min(memory) / 2**30, bf16)
    return Hardware(0, _main_memory() / 2**30, _cpu_has_bf16())


def _installed_torch() -> str:
    try:
        return metadata.version("torch")
    except metadata.PackageNotFoundError:
        return "+cpu"


def _main_memory() -> int:
    """Return the main memory in bytes, or the limit of this process's control group if that is lower."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.is_file() else ""
    return min(total, int(text)) if text.isdigit() else total


def _cpu_has_bf16() -> bool:
    """Return whether the CPU has instructions for bfloat16, as `torch.cpu.get_capabilities` reports them."""
    file = Path("/proc/cpuinfo")
    flags = re.search(r"^flags\s*:(.*)$", file.read_text(errors="replace"), re.MULTILINE) if file.is_file() else None
    return bool(flags and {"avx512_bf16", "amx_bf16"} & set(flags[1].split()))
