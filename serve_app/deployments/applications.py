"""What a Serve config says about our applications: settings, replicas, address. What is not valid is skipped."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from pydantic import ValidationError
from ray.serve._private.config import handle_num_replicas_auto
from ray.serve.config import AutoscalingConfig
from ray.serve.schema import HTTPOptionsSchema, gRPCOptionsSchema

from serve_app.classifier.settings import ClassifierSettings
from serve_app.deployments.config_text import MODEL, USERS
from serve_app.deployments.cores import usable_cores
from serve_app.deployments.options import (
    CLASSIFIER,
    CLASSIFIER_NAME,
    ENGINE,
    ENGINE_NAME,
    USERS_NAME,
    DeploymentOptions,
)
from serve_app.deployments.thread_budget import Classifier, Replicas, threads_of
from serve_app.entrance.keys import KeySource
from serve_app.users.settings import UsersSettings

Settings = UsersSettings | ClassifierSettings

BUILDER_ARGS: dict[str, type[Settings]] = {USERS: UsersSettings, MODEL: ClassifierSettings}
SERVE_CPUS = 1
"""What Serve counts for a replica whose ray_actor_options have no num_cpus."""
DEPLOYMENT_NAMES = {USERS: (USERS_NAME,), MODEL: (CLASSIFIER_NAME, ENGINE_NAME)}


def our_settings(config: dict[str, Any]) -> Iterator[tuple[str, Settings]]:
    """Yield name and settings of each application of ours whose settings are valid."""
    for application in dicts(config.get("applications")):
        schema = BUILDER_ARGS.get(str(application.get("import_path")))
        if schema is not None:
            with suppress(ValidationError):
                yield str(application.get("name")), schema.model_validate(application.get("args") or {})


def classifiers(config: dict[str, Any]) -> Iterator[Classifier]:
    """Yield the engines of each application that has any."""
    yield from (engines for _, engines in models(config))


def models(config: dict[str, Any]) -> Iterator[tuple[ClassifierSettings, Classifier]]:
    """Yield of each application that has engines its settings, with their number of threads, and the engines."""
    settings_of = dict(our_settings(config))
    for application in dicts(config.get("applications")):
        settings = settings_of.get(str(application.get("name")))
        if isinstance(settings, ClassifierSettings):
            name = ENGINE_NAME if settings.shared_engine else CLASSIFIER_NAME
            [deployment, *_] = [*items_of(application, name), {}]
            replicas, cpus = replicas_of(deployment).at_most(most_per_node(deployment)), cpus_of(deployment)
            threads = threads_of(settings.threads, num_cpus=cpus, replicas=replicas.most, cores=usable_cores())
            engines = Classifier(
                str(application.get("name")),
                threads,
                replicas,
                is_shared=settings.shared_engine,
                gpu_share=gpu_share_of(deployment),
                max_surge_percent=surge_of(deployment, ENGINE if settings.shared_engine else CLASSIFIER),
            )
            yield settings.model_copy(update={"threads": threads}), engines


def items_of(application: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """Return the items of an application's `deployments` that have a name."""
    return [each for each in dicts(application.get("deployments")) if each.get("name") == name]


def cpus_of(deployment: dict[str, Any]) -> float:
    """Return what Ray counts for each replica of an item of `deployments` of ours."""
    given = deployment.get("ray_actor_options")
    options = given if isinstance(given, dict) else CLASSIFIER.ray_actor_options
    cpus = options.get("num_cpus", SERVE_CPUS)
    return cpus if isinstance(cpus, int | float) else SERVE_CPUS


def replicas_of(deployment: dict[str, Any]) -> Replicas:
    """Return how many replicas an item of `deployments` asks for, as Serve reads it."""
    count, autoscaling = deployment.get("num_replicas"), deployment.get("autoscaling_config")
    if isinstance(count, int):
        return Replicas(count, count)
    if isinstance(autoscaling, dict) or (count == "auto" and autoscaling is None):
        with suppress(ValidationError, TypeError):  # the latter: a key that is no text
            if count == "auto":
                _, bounds = handle_num_replicas_auto(CLASSIFIER.max_ongoing_requests, autoscaling)
            else:
                bounds = AutoscalingConfig.model_validate(autoscaling)
            return Replicas(bounds.min_replicas, bounds.max_replicas)
    return Replicas(1, 1)


def most_per_node(deployment: dict[str, Any]) -> int | None:
    """Return how many replicas of an item of `deployments` one machine may have, if that is bounded."""
    most = deployment.get("max_replicas_per_node")
    return most if isinstance(most, int) and most > 0 else None


def gpu_share_of(deployment: dict[str, Any]) -> float:
    """Return how much of a GPU an item of `deployments` asks for, for each replica."""
    [options, *_] = [*dicts([deployment.get("ray_actor_options")]), {}]
    share = options.get("num_gpus")
    return float(share) if isinstance(share, int | float) and not isinstance(share, bool) else 0.0


def surge_of(deployment: dict[str, Any], usual: DeploymentOptions) -> int:
    """Return `max_surge_percent` of an item of `deployments`, or the one that is `usual`."""
    given = deployment.get("max_surge_percent")
    return given if isinstance(given, int) else usual.max_surge_percent


def key_sources(config: dict[str, Any]) -> dict[str, KeySource]:
    """Return where the API keys stand, by the name of each application of ours that asks for any."""
    return {name: settings.auth for name, settings in our_settings(config) if isinstance(settings.auth, KeySource)}


def http_host(config: dict[str, Any]) -> str:
    """Return the address that the service listens on; Serve's own default is every interface."""
    options = config.get("http_options")
    return str((options.get("host") if isinstance(options, dict) else None) or HTTPOptionsSchema().host)


def api_port(config: dict[str, Any]) -> int:
    """Return the port that the service listens on, of a config that was checked."""
    given = given_port(config)
    return int(HTTPOptionsSchema().port if given is None else given)


def grpc_port(config: dict[str, Any]) -> int | None:
    """Return the port of the gRPC ingress, of a config that was checked; None where it has none."""
    options = config.get("grpc_options")
    if not isinstance(options, dict) or not options.get("grpc_servicer_functions"):
        return None
    given = options.get("port")
    return int(gRPCOptionsSchema().port if given is None else given)


def given_port(config: dict[str, Any]) -> Any:
    """Return the port that the config names, of whatever kind, or None."""
    options = config.get("http_options")
    return options.get("port") if isinstance(options, dict) else None


def dicts(value: object) -> list[dict[str, Any]]:
    """Return the mappings in a list; none where there is something else."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
