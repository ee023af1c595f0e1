"""The service that the quick tests of this folder share, see conftest: its settings, its keys and its clients."""

from pathlib import Path
from typing import Any

import httpx

from tests.conftest import Fitted
from tests.service import PATIENT_MODEL, PATIENT_USERS, Service, adapted

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


def client_of(running: Service) -> httpx.AsyncClient:
    """Return a client that sends a valid key."""
    return httpx.AsyncClient(base_url=running.url, timeout=ANSWER_S, headers={"X-API-Key": KEY})
