"""Starts the one service that the quick tests of this folder share. Those that break or stop it come last."""

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.conftest import Fitted
from tests.ports import free_port
from tests.postgres import Postgres
from tests.redis_server import running_redis
from tests.serve_app.running.shared import HEADER_TIMEOUT_S, KEY, PASSWORDS, SECOND_KEY, config_of, with_grpc
from tests.service import QUICK_METRICS, START_S, Service, launcher, own_environment, service, write_config

LAST = ("test_starts_and_stops.py", "test_stopping.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put those last that stop the shared service, and then those that start others: one at a time."""
    items.sort(key=lambda item: LAST.index(item.path.name) + 1 if item.path.name in LAST else 0)


@pytest.fixture(scope="session")
def keys_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "keys"
    path.write_text(f"# of the tests\nfirst: {KEY}\n{SECOND_KEY}  # to be withdrawn\n")
    return path


@pytest.fixture(scope="session")
def addresses(tmp_path_factory: pytest.TempPathFactory, postgres: Postgres) -> Iterator[dict[str, str]]:
    """Yield the addresses of a Redis that asks for a password, and of a PostgreSQL that takes any."""
    of_redis, of_database = (f"{PASSWORDS}-{name}/@" for name in ("REDIS_URL", "DATABASE_URL"))
    login = f"//postgres:{quote(of_database, safe='')}@"
    with running_redis(tmp_path_factory.mktemp("redis"), "--requirepass", of_redis) as redis:
        yield {
            "REDIS_URL": redis.url.replace("//", f"//:{quote(of_redis, safe='')}@"),
            "DATABASE_URL": postgres.new_database().replace("//postgres@", login),
        }


@pytest.fixture(scope="session")
def running(
    tmp_path_factory: pytest.TempPathFactory, fitted: Fitted, keys_file: Path, addresses: dict[str, str]
) -> Iterator[Service]:
    """`make serve` with one_replica.yaml, gRPC, API keys, passwords in addresses, behind a proxy that is not there."""
    folder = tmp_path_factory.mktemp("service")
    port = free_port()
    config = write_config(folder, with_grpc(config_of("one_replica.yaml", port, fitted, keys_file)))
    environment = own_environment(folder) | QUICK_METRICS | addresses | {"http_proxy": "http://127.0.0.1:9"}
    environment["RAY_SERVE_FALLBACK_PROXY_GRPC_PORT"] = str(free_port())
    environment["SERVE_APP_HEADER_TIMEOUT_S"] = str(HEADER_TIMEOUT_S)
    del environment["no_proxy"]
    with service([*launcher(config), "--drain-s", str(START_S)], environment, folder, port) as started:
        started.wait_until_ready()
        started.wait_for_ready_block()
        yield started
