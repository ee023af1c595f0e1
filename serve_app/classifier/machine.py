"""On what this machine computes: its processor, and its GPUs. Asked without any framework; Linux only."""

import os
from pathlib import Path

PROCESSOR = Path("/proc/cpuinfo")
GPUS = Path("/proc/driver/nvidia/gpus")
_BFLOAT16 = {"avx512_bf16", "amx_bf16", "bf16"}  # of x86, and of Arm

MEMORY_OF_SHARE = 0.9
"""Of a replica's share of a GPU; the rest is for CUDA itself."""
_MEMORY_VARIABLES = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")
"""The second is the older name; JAX takes only one of the two."""


def has_bfloat16(processor: Path = PROCESSOR) -> bool:
    """Tell whether a processor's flags, as in /proc/cpuinfo, name an instruction for bfloat16."""
    return not _BFLOAT16.isdisjoint(_read(processor).split())


def describe_processor(processor: Path = PROCESSOR) -> str:
    """Return everything of a processor that decides what can be compiled for it: its name and its flags."""
    facts = dict(line.partition(":")[::2] for line in _read(processor).splitlines())
    told = {key.strip(): " ".join(value.split()) for key, value in facts.items()}
    return "; ".join(
        told[key] for key in ("model name", "flags", "CPU implementer", "CPU part", "Features") if key in told
    )


def find_gpus(folder: Path = GPUS) -> list[str]:
    """Return the names of the NVIDIA GPUs that the driver lists, one for each."""
    facts = [line for file in sorted(folder.glob("*/information")) for line in _read(file).splitlines()]
    return [value.strip() for key, _, value in (line.partition(":") for line in facts) if key.strip() == "Model"]


def bound_of_gpu_memory(gpu_share: float) -> dict[str, str]:
    """Return the variable that bounds what JAX takes of a GPU's memory; none without a GPU, or if the user set one."""
    if not gpu_share or any(name in os.environ for name in _MEMORY_VARIABLES):
        return {}
    return {_MEMORY_VARIABLES[0]: f"{MEMORY_OF_SHARE * min(1.0, gpu_share):.3f}"}


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii", errors="replace")
    except OSError:  # no Linux, or no such driver: nothing tells
        return ""
