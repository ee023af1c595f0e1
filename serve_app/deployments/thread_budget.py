"""Whether the classifier replicas of a node fit its cores. Called by the launcher and by each replica."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Literal, NamedTuple

from serve_app.classifier.settings import MOST_THREADS
from serve_app.deployments.options import CLASSIFIER_NAME, ENGINE_NAME


class Replicas(NamedTuple):
    """How many replicas a deployment may have: the same number twice unless it is autoscaled."""

    least: int
    most: int

    def at_most(self, most: int | None) -> "Replicas":
        """Return as many, but no more than `most`, if that is given."""
        return self if most is None else Replicas(min(self.least, most), min(self.most, most))

    def __str__(self) -> str:
        return f"{self.most} replica(s)" if self.least == self.most else f"{self.least} to {self.most} replica(s)"


@dataclass(frozen=True)
class Classifier:
    """The engines of one application: threads of each, and of how many replicas there may be one."""

    application: str
    threads: int
    replicas: Replicas
    is_shared: bool = False
    """Whether one engine computes for other replicas, which have none."""
    gpu_share: float = 0.0
    """Of a GPU, for each replica. With one, its engine threads only hand over pictures and count for nothing."""
    max_surge_percent: int = 0
    """Of the replicas, how many more a redeploy starts before it stops old ones."""

    @property
    def deployment(self) -> str:
        """Return the name of the deployment that has the engines."""
        return ENGINE_NAME if self.is_shared else CLASSIFIER_NAME

    @property
    def engines(self) -> str:
        """Return how many engines there may be, and the threads of each, in words."""
        return f"{'one engine for all replicas' if self.is_shared else self.replicas} × {self.threads} thread(s)"

    @property
    def most_in_redeploy(self) -> int:
        """Return how many replicas, old and new, a redeploy runs at a time."""
        return self.replicas.most + ceil(self.max_surge_percent * self.replicas.most / 100)

    @property
    def most_threads(self) -> int:
        """Return the engine threads of all its replicas."""
        return self.threads * self.replicas.most


def threads_of(given: int | Literal["auto"], *, num_cpus: float, replicas: int, cores: int) -> int:
    """Return the engine threads of one replica: what is `given`, or for `auto` what fits.

    `num_cpus` is what Ray counts for the replica, `replicas` how many share the `cores` of its node. `auto` is
    MOST_THREADS at most.
    """
    if given != "auto":
        return given
    fitting = int(num_cpus) if num_cpus >= 1 else max(1, cores // max(1, replicas))
    return min(fitting, MOST_THREADS)


def thread_budget_fault(classifiers: Sequence[Classifier], cores: int) -> str | None:
    """Return one loud line if the engine threads of all `classifiers` do not fit the number of cores, else None.

    Ray reserves CPUs on paper only; engines that together have more threads than cores take turns and all get slower.
    Autoscaled replicas count at their most: with fewer, cores are idle on purpose. `cores` are those that affinity mask
    and quotas leave. What the line recommends fits.
    """
    classifiers = [each for each in classifiers if each.replicas.most and not each.gpu_share]
    wanted = sum(each.most_threads for each in classifiers)
    replicas = sum(each.replicas.most for each in classifiers)
    if not classifiers or 0 <= cores - wanted < replicas:  # with one thread more for each, there would be too many
        return None
    summands = " + ".join(f"{each.replicas} × {each.threads}" for each in classifiers)
    judgement = "they will slow each other down" if wanted > cores else "cores will stay idle"
    return (
        f"THREADS: {summands} engine thread(s) = {wanted} on {cores} core(s) (by CPU affinity and quota): {judgement}. "
        f"{_recommend(classifiers, replicas, cores)}"
    )


def _recommend(classifiers: Sequence[Classifier], replicas: int, cores: int) -> str:
    names = ", ".join(each.application for each in classifiers)
    if len(classifiers) == 1:
        fitting = min(replicas, cores)
        keys = f"{_replica_keys(classifiers[0].replicas, fitting)} and `threads: {cores // fitting}`"
        return f"Set {keys} in the config."
    if replicas <= cores:
        return f"Set `threads: {cores // replicas}` for each of {names} in the config."
    if len(classifiers) <= cores:
        return f"Set `threads: 1` for each of {names}, and {cores} replica(s) for all of them together, in the config."
    return f"Serve at most {cores} of {names} on this machine, each with `num_replicas: 1` and `threads: 1`."


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
