"""How many requests a replica works on at a time."""

from ray import serve


def most_requests_of_replica() -> int:
    """Return `max_ongoing_requests` of the deployment that this replica belongs to."""
    config = vars(serve.get_replica_context())["_deployment_config"]  # Serve tells it in no other way
    return int(config.max_ongoing_requests)
