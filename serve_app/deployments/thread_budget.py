"""Whether the classifier replicas of a node fit its cores. Called by the launcher and by each replica."""


def thread_budget_fault(threads: int, replicas: int, cores: int) -> str | None:
    """Return a loud line if engine threads × replicas is not the number of cores, else None.

    Ray reserves CPUs on paper only; engines that together have more threads than cores take turns and all get slower.
    """
    if threads * replicas == cores:
        return None
    effect = "they will slow each other down" if threads * replicas > cores else "cores will stay idle"
    best = max(1, cores // replicas)
    return (
        f"THREADS: {replicas} classifier replica(s) × {threads} engine thread(s) on {cores} core(s): {effect}. "
        f"Set `threads: {best}` in the config."
    )
