"""Whether this machine has what the replicas of a config ask Ray for: Ray itself would wait for it, without end."""

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ray._private.resource_and_label_spec import ResourceAndLabelSpec

from serve_app.classifier.machine import GPUS, find_gpus
from serve_app.classifier.model_cache import CUDA_PLUGINS
from serve_app.classifier.settings import ClassifierSettings
from serve_app.deployments.applications import (
    DEPLOYMENT_NAMES,
    SERVE_CPUS,
    classifiers,
    dicts,
    gpu_share_of,
    items_of,
    our_settings,
    replicas_of,
)
from serve_app.deployments.options import CLASSIFIER, CLASSIFIER_NAME, ENGINE_NAME
from serve_app.deployments.thread_budget import Classifier
from serve_app.errors import Fault

_KEYS = {"num_cpus": "CPU", "num_gpus": "GPU", "memory": "memory"}
_ROUNDING = 1e-6


def find_placement_faults(config: dict[str, Any], driver: Path = GPUS) -> Iterator[Fault]:
    """Yield a fault for each resource of which one replica, or all that a start needs, ask for more than there is.

    `driver` is where NVIDIA's driver lists its GPUs.
    """
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
                if name == "GPU" and not there.get(name) and (listed := find_gpus(driver)):
                    what += f" for Ray, though NVIDIA's driver lists {len(listed)}"
                    remedy = "make nvidia-smi list it, which asks NVML as Ray does"
                    remedy += ", or unset CUDA_VISIBLE_DEVICES" if "CUDA_VISIBLE_DEVICES" in os.environ else ""
                yield Fault(f"{where}.ray_actor_options.{key}", what, remedy)
    for name, wanted in together.items():
        if not is_told and wanted > there.get(name, 0) + _ROUNDING:
            what = f"all replicas together ask for {wanted:g} {name}, and this machine has {there.get(name, 0):g}"
            yield Fault("applications", what, "lower num_replicas, or what each of them asks for in ray_actor_options")


def find_gpu_faults(config: dict[str, Any], gpus: int | None = None) -> Iterator[Fault]:
    """Yield a fault for each classifier that could not use the GPU it asks for, and a warning for GPUs left idle.

    `gpus` are those of this machine, which Ray counts; that there is none is what `find_placement_faults` tells.
    """
    if gpus is None:
        found: Any = ResourceAndLabelSpec().resolve(is_head=True, node_ip_address="127.0.0.1")
        gpus = int(found.to_resource_dict().get("GPU", 0))
    settings_of = {name: each for name, each in our_settings(config) if isinstance(each, ClassifierSettings)}
    served = list(classifiers(config))
    for each in served:
        key = f"applications[{each.application}].deployments[{each.deployment}].ray_actor_options.num_gpus"
        settings = settings_of[each.application]
        engine = settings.engine
        if each.is_shared and _asks_for_gpu(config, each.application, CLASSIFIER_NAME):
            what = "with shared_engine: true, the replicas have no engine"
            wrong = key.replace(each.deployment, CLASSIFIER_NAME)
            yield Fault(wrong, what, f"write num_gpus below the deployment {ENGINE_NAME}")
        if each.gpu_share > 1:
            what = f"{each.gpu_share:g}, and a replica computes on one GPU"
            yield Fault(key, what, "write 1, or a part of one, and one replica or more for each GPU in num_replicas")
        elif gpus and each.gpu_share and settings.is_onnx:
            what = "every engine that computes .onnx files does so on the CPU"
            yield Fault(key, what, "remove the key, or serve a Keras file with `engine: jax`")
        elif gpus and each.gpu_share and engine not in ("jax", "auto"):
            yield Fault(key, f"engine: {engine} computes on the CPU", "write `engine: jax`, or remove the key")
        elif gpus and each.gpu_share and not any(map(find_spec, CUDA_PLUGINS)):
            remedy = "install it: .venv/bin/uv pip install -c requirements.lock -e '.[gpu]'"
            yield Fault(key, "jax is not installed with CUDA", remedy)
        elif gpus and engine in ("jax", "auto") and not settings.is_onnx and not each.gpu_share:
            what = f"engine: {engine} computes on the CPU, and this machine has {gpus} GPU(s)"
            yield Fault(key, what, "write `num_gpus: 1` below ray_actor_options", is_warning=True)
    yield from _surge_faults(served, gpus)
    used = sum(each.gpu_share * each.replicas.most for each in served)
    if 0 < used <= gpus - 1:
        what = f"the engines use {used:g} of {gpus} GPUs"
        more = "serve without shared_engine" if any(each.is_shared for each in served) else "raise num_replicas"
        yield Fault("applications", what, f"{more}, or hide GPUs with CUDA_VISIBLE_DEVICES", is_warning=True)


def _surge_faults(served: Sequence[Classifier], gpus: int) -> Iterator[Fault]:
    """Yield a warning for each classifier whose redeploy would wait without end for a GPU that its old replicas have.

    Serve stops an old replica only when a new one runs.
    """
    used = sum(each.gpu_share * each.replicas.most for each in served)
    in_redeploy = sum(each.gpu_share * each.most_in_redeploy for each in served)
    if used > gpus + _ROUNDING or in_redeploy <= gpus + _ROUNDING:  # the first is told by find_placement_faults
        return
    for each in served:
        if each.gpu_share and each.most_in_redeploy > each.replicas.most:
            key = f"applications[{each.application}].deployments[{each.deployment}].max_surge_percent"
            what = (
                f"a redeploy needs {in_redeploy:g} GPU(s) for old and new engines, and would wait without end for them"
            )
            yield Fault(key, what, "write `max_surge_percent: 0`, with which old ones end first", is_warning=True)


def _asks_for_gpu(config: dict[str, Any], application: str, deployment: str) -> bool:
    return any(
        gpu_share_of(item) > 0
        for each in dicts(config.get("applications"))
        if str(each.get("name")) == application
        for item in items_of(each, deployment)
    )


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
