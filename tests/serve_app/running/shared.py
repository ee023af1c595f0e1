"""The service that the quick tests of this folder share, see conftest: its settings, its keys and its clients."""

import re
from pathlib import Path
from typing import Any

import httpx

from tests.conftest import Fitted
from tests.ports import free_port
from tests.service import PATIENT_MODEL, PATIENT_USERS, START_S, Service, adapted

KEY, SECOND_KEY, LATER_KEY = (f"{word}-key-of-these-tests" for word in ("first", "second", "third"))
"""The first is valid all the time, the second at first, the last one later."""
PASSWORDS = "pl4nted-in"
"""How the passwords in the addresses of Redis and the database begin."""
HEADER_TIMEOUT_S = UPLOAD_TIMEOUT_S = 10
ANSWER_S = 120


def config_of(name: str, port: int, fitted: Fitted, keys_file: Path) -> dict[str, Any]:
    """Return a shipped config with fitted weights, API keys, and short limits for slow clients only."""
    auth: dict[str, object] = {"auth": {"keys_file": str(keys_file)}}
    no_cache: dict[str, object] = {"cache": {"store": "off"}}  # the same picture is to be computed each time
    model_args = {
        **fitted.args,
        **PATIENT_MODEL,
        "upload_timeout_s": UPLOAD_TIMEOUT_S,
        **no_cache,
        **auth,
    }
    return adapted(name, port=port, model_args=model_args, users_args={**PATIENT_USERS, **auth})


def two_replicas(port: int, fitted: Fitted, keys_file: Path) -> dict[str, Any]:
    """Return the config to which the running service is updated: half-sent uploads may wait in it for a stop."""
    config = config_of("two_replicas.yaml", port, fitted, keys_file)
    config["applications"][1]["args"]["upload_timeout_s"] = START_S
    return config


def with_grpc(config: dict[str, Any]) -> dict[str, Any]:
    """Return a config with the Open Inference Protocol over gRPC, on a free port."""
    servicer = "serve_app.open_inference.grpc_service:add_inference_service"
    options = {"port": free_port(), "grpc_servicer_functions": [servicer], "enable_reflection": False}
    return {**config, "grpc_options": options}


def grpc_port_of(running: Service) -> int:
    """Return the port of the service's gRPC, as the ready block names it."""
    named = re.search(r"gRPC (\d+)", running.printed())
    assert named, running.printed()
    return int(named[1])


def client_of(running: Service) -> httpx.AsyncClient:
    """Return a client that sends a valid key."""
    return httpx.AsyncClient(base_url=running.url, timeout=ANSWER_S, headers={"X-API-Key": KEY})
