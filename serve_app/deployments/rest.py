"""Serve's REST API on the dashboard, with Ray's token: deploys a config, reads what runs. For launcher and tests.

https://docs.ray.io/en/latest/serve/api/index.html#serve-rest-api
"""

import http.client
import json
import urllib.request
from typing import Any

from serve_app.deployments.ray_token import read_token

TIMEOUT_S = 10
# Past any http_proxy of the environment: both ends are this machine, and the token is for nobody else.
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
PATH = "/api/serve/applications/"


class ServeRest:
    """A client for the dashboard at `url` (http://host:port)."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/") + PATH

    def deploy(self, config: dict[str, Any]) -> None:
        """Make `config` the wanted state. Raises OSError; an HTTPError carries the dashboard's reason."""
        self._request("PUT", json.dumps(config).encode())

    def applications(self) -> dict[str, Any]:
        """Return the applications by name with `status`, `message` and `deployments`. Raises OSError."""
        applications: dict[str, Any] = self.instance()["applications"]
        return applications

    def instance(self) -> dict[str, Any]:
        """Return all that Serve tells of itself; values are None where no Serve runs. Raises OSError."""
        told: dict[str, Any] = json.loads(self._request("GET"))
        return told

    def running_replicas(self, application: str, deployment: str) -> int:
        """Return how many replicas of a deployment are running now. Raises OSError."""
        found = self.applications()[application]["deployments"][deployment]
        return sum(replica["state"] == "RUNNING" for replica in found["replicas"])

    def _request(self, method: str, body: bytes | None = None) -> bytes:
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {read_token()}"}
        request = urllib.request.Request(self._url, body, headers, method=method)
        try:
            with DIRECT.open(request, timeout=TIMEOUT_S) as response:
                answer: bytes = response.read()
        except http.client.HTTPException as exc:
            raise ConnectionError(f"no whole answer ({type(exc).__name__})") from exc
        return answer
