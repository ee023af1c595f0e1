"""Whether the classifier replicas of a node fit its cores. Called by the launcher and by each replica."""

import os
import sys


def usable_cores() -> int:
    """Return the number of cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def thread_budget_fault(threads: int, replicas: int, cores: int) -> str | None:
    """Return a loud line if engine threads × replicas does not fit the number of cores, else None.

    Ray reserves CPUs on paper only; engines that together have more threads than cores take turns and all get slower.
    """
    best = max(1, cores // replicas)
    if threads == best and threads * replicas <= cores:
        return None
    effect = "they will slow each other down" if threads * replicas > cores else "cores will stay idle"
    remedy = f"num_replicas: {cores}" if replicas > cores else f"threads: {best}"
    return (
        f"THREADS: {replicas} classifier replica(s) × {threads} engine thread(s) on {cores} core(s): {effect}. "
        f"Set `{remedy}` in the config."
    )
