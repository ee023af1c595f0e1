"""What Serve is told of each deployment where the config says nothing. Imports no Ray."""

from typing import Any

from pydantic import BaseModel, Field

USERS_NAME = "Users"
CLASSIFIER_NAME = "Classifier"
ENGINE_NAME = "Engine"
"""With `shared_engine`."""


class DeploymentOptions(BaseModel, extra="forbid", frozen=True):
    """Options for which Serve's own defaults do not fit; an item of `deployments` in the config overrides each."""

    max_ongoing_requests: int = Field(
        description="Requests that one replica works on at a time.", json_schema_extra={"unit": "requests"}
    )
    max_queued_requests: int = Field(
        description="Requests that may wait for a replica; beyond: 503.", json_schema_extra={"unit": "requests"}
    )
    backpressure_config: dict[str, int] = Field(
        description="Status of a refused request, and its Retry-After in seconds. Given as a whole."
    )
    max_surge_percent: int = Field(
        description="Replicas of a new config that start before old ones stop, of num_replicas. 100: all at once; "
        "50: half of them at a time, because each new replica takes CPU from those that still answer."
    )
    health_check_timeout_s: float = Field(description="A replica whose event loop is silent this long is replaced.")
    graceful_shutdown_timeout_s: float = Field(
        description="A replica that is to stop has this long for what it has accepted."
    )
    ray_actor_options: dict[str, Any] = Field(
        description="`num_cpus` is what Ray subtracts from the node's CPUs when it places a replica: on paper only, it "
        "limits nothing. Given as a whole."
    )


USERS = DeploymentOptions(
    max_ongoing_requests=200,
    max_queued_requests=2000,
    backpressure_config={"status_code": 503, "retry_after_s": 1},
    max_surge_percent=100,
    health_check_timeout_s=30,
    graceful_shutdown_timeout_s=35,
    ray_actor_options={"num_cpus": 0.1},
)
CLASSIFIER = DeploymentOptions(
    max_ongoing_requests=1000,  # above max_queue, so that the queue's own bound decides
    max_queued_requests=1000,
    backpressure_config={"status_code": 503, "retry_after_s": 2},
    max_surge_percent=50,
    health_check_timeout_s=60,
    graceful_shutdown_timeout_s=35,
    ray_actor_options={"num_cpus": 0.1},
)
ENGINE = CLASSIFIER.model_copy(
    update={
        "max_surge_percent": 100,
        "graceful_shutdown_timeout_s": 300,  # the replicas that use it are replaced meanwhile
    }
)
