"""On what this machine computes: its processor, and its GPUs. Asked without any framework; Linux only."""

from pathlib import Path

PROCESSOR = Path("/proc/cpuinfo")
GPUS = Path("/proc/driver/nvidia/gpus")
_BFLOAT16 = {"avx512_bf16", "amx_bf16", "bf16"}  # of x86, and of Arm


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


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii", errors="replace")
    except OSError:  # no Linux, or no such driver: nothing tells
        return ""
