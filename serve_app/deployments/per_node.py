"""As many replicas as the cluster has nodes for them: an autoscaling policy of Serve, which runs it in its controller.

Named in configs/cluster.yaml as `serve_app.deployments.per_node:ReplicasPerNode`.
"""

import time
from collections.abc import Mapping
from typing import Any

import ray
from ray._raylet import IMPLICIT_RESOURCE_PREFIX  # type: ignore[attr-defined]
from ray.serve._private.common import DeploymentID
from ray.serve.config import AutoscalingContext

LOOK_EVERY_S = 1.0


class ReplicasPerNode:
    """Asks for `per_node` replicas for each living node that can hold one; `max_replicas_per_node` spreads them."""

    def __init__(self, per_node: int = 1) -> None:
        self._per_node = per_node
        self._nodes = 0
        self._looked_s = -LOOK_EVERY_S

    def __call__(self, context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
        """Return how many replicas there should be, and no state."""
        if time.monotonic() - self._looked_s >= LOOK_EVERY_S:
            needed = _needed_by_replica(context.deployment_id)
            self._nodes, self._looked_s = count_nodes(all_nodes(), needed), time.monotonic()
        return self._per_node * self._nodes or context.target_num_replicas, {}


def all_nodes() -> list[dict[str, Any]]:
    """Return the nodes that this cluster has or had, as Ray tells them."""
    found: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return found


def most_on_node(given: Mapping[str, float]) -> int | None:
    """Return `max_replicas_per_node` of a replica that Ray has `given` these resources; None where it has none.

    Serve has Ray keep it by a resource of which each node has 1 and each replica takes its part.
    """
    taken = [part for name, part in given.items() if IMPLICIT_RESOURCE_PREFIX in name and part > 0]
    return round(1 / taken[0]) if taken else None


def count_nodes(nodes: list[dict[str, Any]], needed: Mapping[str, float]) -> int:
    """Return how many of `nodes` live and have, all told, the resources that Ray counts for one replica."""
    own = {name: amount for name, amount in needed.items() if IMPLICIT_RESOURCE_PREFIX not in name}
    return sum(
        node["Alive"] and all(node["Resources"].get(name, 0) >= amount for name, amount in own.items())
        for node in nodes
    )


def _needed_by_replica(deployment: DeploymentID) -> dict[str, float]:
    """Return the resources that Ray counts for each replica. Serve tells a policy in no other way."""
    from ray._private.worker import global_worker  # at the top, it would be pickled with the policy

    controller = global_worker.actors[global_worker.actor_id]
    info = controller.deployment_state_manager.get_deployment(deployment)
    needed: dict[str, float] = info.replica_config.resource_dict
    return needed
