"""Whether this machine has what the replicas of a config ask Ray for: Ray itself would wait for it, without end."""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from ray._private.resource_and_label_spec import ResourceAndLabelSpec

from serve_app.deployments.applications import DEPLOYMENT_NAMES, SERVE_CPUS, dicts, replicas_of
from serve_app.deployments.options import CLASSIFIER
from serve_app.errors import Fault

_KEYS = {"num_cpus": "CPU", "num_gpus": "GPU", "memory": "memory"}
_ROUNDING = 1e-6


def find_placement_faults(config: dict[str, Any]) -> Iterator[Fault]:
    """Yield a fault for each resource of which one replica, or all that a start needs, ask for more than there is."""
    found: Any = ResourceAndLabelSpec().resolve(is_head=True, node_ip_address="127.0.0.1")
    there: dict[str, float] = found.to_resource_dict()
    together: defaultdict[str, float] = defaultdict(float)
    is_told = False
    for where, deployment, options in _deployments(config):
        for key, name, wanted in _wanted(options):
            together[name] += wanted * max(1, replicas_of(deployment).least, _initial_replicas(deployment))
            if wanted > there.get(name, 0):
                is_told = True
                what = f"{wanted:g} for each replica, and this machine has {there.get(name, 0):g}"
                remedy = f"write {there[name]:g} or less" if there.get(name) else "remove the key"
                yield Fault(f"{where}.ray_actor_options.{key}", what, remedy)
    for name, wanted in together.items():
        if not is_told and wanted > there.get(name, 0) + _ROUNDING:
            what = f"all replicas together ask for {wanted:g} {name}, and this machine has {there.get(name, 0):g}"
            yield Fault("applications", what, "lower num_replicas, or what each of them asks for in ray_actor_options")


def _deployments(config: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Yield of each deployment in the config its place, its item and its options."""
    for application in dicts(config.get("applications")):
        is_ours = str(application.get("import_path")) in DEPLOYMENT_NAMES
        for deployment in dicts(application.get("deployments")):
            usual = CLASSIFIER.ray_actor_options if is_ours else {}  # the same for users
            where = f"applications[{application.get('name')}].deployments[{deployment.get('name')}]"
            given = deployment.get("ray_actor_options")
            yield where, deployment, given if isinstance(given, dict) else usual


def _initial_replicas(deployment: dict[str, Any]) -> int:
    given = [each.get("initial_replicas") for each in dicts([deployment.get("autoscaling_config")])]
    return max((count for count in given if isinstance(count, int)), default=0)


def _wanted(options: dict[str, Any]) -> Iterator[tuple[str, str, float]]:
    """Yield key, Ray's name and amount of each resource that one replica asks for."""
    named = {"num_cpus": SERVE_CPUS, **options}
    asked = [(key, name, named.get(key)) for key, name in _KEYS.items()]
    for resources in dicts([named.get("resources")]):
        asked += [(f"resources.{name}", name, amount) for name, amount in resources.items()]
    for key, name, amount in asked:
        if isinstance(amount, int | float) and not isinstance(amount, bool):
            yield key, name, amount
