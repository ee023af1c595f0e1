"""Whether the classifier replicas of a node fit its cores. Called by the launcher and by each replica."""


def thread_budget_fault(threads: int, replicas: int, cores: int, *, other_threads: int = 0) -> str | None:
    """Return a loud line if engine threads × replicas does not fit the number of cores, else None.

    Ray reserves CPUs on paper only; engines that together have more threads than cores take turns and all get slower.
    `other_threads` are those of other classifiers on the same cores.
    """
    left = cores - other_threads
    best = max(1, left // replicas)
    if threads == best and threads * replicas <= left:
        return None
    effect = "they will slow each other down" if threads * replicas > left else "cores will stay idle"
    remedy = f"num_replicas: {max(1, left)}" if replicas > left else f"threads: {best}"
    beside = f", beside {other_threads} of other classifiers," if other_threads else ""
    return (
        f"THREADS: {replicas} classifier replica(s) × {threads} engine thread(s){beside} on {cores} core(s): {effect}. "
        f"Set `{remedy}` in the config."
    )


def pinning_fault(threads: int, replicas: int, held: frozenset[int], cores: int) -> str | None:
    """Return a loud line if the engine holds its threads on so few of the `cores` that several replicas take turns.

    Each replica's engine chooses without knowing of the others, so all choose the same ones.
    """
    if not held or len(held) >= cores or threads * replicas <= len(held):
        return None
    return (
        f"THREADS: the engine holds its threads on core(s) {', '.join(map(str, sorted(held)))} of {cores}, and each of "
        f"the {replicas} replicas does the same: they will slow each other down. Run one replica, or an engine that "
        "leaves its threads to the system."
    )
