"""Whether the classifier replicas of a node fit its cores. Called by the launcher and by each replica."""

from typing import NamedTuple


class Replicas(NamedTuple):
    """How many replicas a deployment may have: the same number twice unless it is autoscaled."""

    least: int
    most: int

    def __str__(self) -> str:
        return f"{self.most} replica(s)" if self.least == self.most else f"{self.least} to {self.most} replica(s)"


def thread_budget_fault(threads: int, replicas: Replicas, cores: int, *, other_threads: int = 0) -> str | None:
    """Return a loud line if the engine threads of all replicas do not fit the number of cores, else None.

    Ray reserves CPUs on paper only; engines that together have more threads than cores take turns and all get slower.
    Autoscaled replicas count at their most: with fewer, cores are idle on purpose. `cores` are those that affinity mask
    and quotas leave, `other_threads` those of other classifiers on the same cores. What the line recommends fits.
    """
    left = max(1, cores - other_threads)
    wanted = threads * replicas.most
    is_too_much = wanted + other_threads > cores
    fitting = min(replicas.most, left)
    if threads == left // replicas.most and not is_too_much:
        return None
    beside = f", beside {other_threads} of other classifiers," if other_threads else ""
    return (
        f"THREADS: {replicas} × {threads} engine thread(s) = {wanted}{beside} on {cores} core(s) "
        f"(by CPU affinity and quota): {'they will slow each other down' if is_too_much else 'cores will stay idle'}. "
        f"Set {_replica_keys(replicas, fitting)} and `threads: {left // fitting}` in the config."
    )


def _replica_keys(replicas: Replicas, fitting: int) -> str:
    if replicas.least == replicas.most:
        return f"`num_replicas: {fitting}`"
    least = f"min_replicas: {fitting}, " if replicas.least > fitting else ""
    return f"`autoscaling_config: {{{least}max_replicas: {fitting}}}`"


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
