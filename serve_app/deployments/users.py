"""The Serve application `users`: GET /user/. Named in configs/*.yaml as `serve_app.deployments.users:build`.

No `from __future__ import annotations` here: Serve reads the builder's annotation at run time to type its args.
What only a replica needs is imported there: the builder runs in a process of its own, which every start waits for.
"""

import asyncio
import logging

from fastapi import FastAPI
from ray import serve
from ray.serve import Application

from serve_app.deployments.grpc_methods import InferenceMethods
from serve_app.deployments.http_host import running_http_host
from serve_app.deployments.logs import send_logs_to_serve
from serve_app.deployments.ongoing import most_requests_of_replica
from serve_app.deployments.options import USERS, USERS_NAME
from serve_app.entrance.gate import GATE
from serve_app.entrance.guard import Guard
from serve_app.entrance.read_ahead import tell_what_is_taken
from serve_app.errors import DatabaseUnavailable, SetupError
from serve_app.users.settings import UsersSettings, database_url

logger = logging.getLogger(__name__)

SEED_RETRY_S = 5.0


@serve.deployment(name=USERS_NAME, **USERS.model_dump())
@serve.ingress()
class UsersDeployment(InferenceMethods):
    """One lookup replica. It starts, and stays, also while its database is down: it then answers 503."""

    def __init__(self, settings: UsersSettings) -> None:
        self._settings = settings
        self._seeding: asyncio.Task[None] | None = None

    async def __serve_build_asgi_app__(self) -> FastAPI:
        from serve_app.deployments.metrics import ServeMetrics
        from serve_app.users.api import build_users_api
        from serve_app.users.store import UserStore

        send_logs_to_serve()
        guard = await Guard.of(self._settings.auth, running_http_host, most_requests_of_replica, ServeMetrics())
        self._store = UserStore(database_url(), self._settings)
        if not await _try_to_seed(self._settings.demo_users):
            self._seeding = asyncio.create_task(_seed_when_possible(self._settings.demo_users))
        await self._store.open()
        GATE.enter = guard.enter
        return tell_what_is_taken(guard.protect(build_users_api(self._store)))

    async def check_health(self) -> None:
        """Return at all: a database that is down is no reason to replace replicas."""

    async def __del__(self) -> None:
        if self._seeding is not None:
            self._seeding.cancel()
        if hasattr(self, "_store"):
            await self._store.close()


def build(args: UsersSettings) -> Application:
    """Return the application; `args` are those of the YAML. Raises SetupError, once, before any replica starts."""
    database_url()
    application: Application = UsersDeployment.bind(args)  # type: ignore[attr-defined]
    return application


async def _seed_when_possible(count: int) -> None:
    while True:
        await asyncio.sleep(SEED_RETRY_S)
        try:
            if await _try_to_seed(count):
                return
        except SetupError as exc:  # requests are told the same until somebody mends the table
            logger.error("%s", exc)  # noqa: TRY400 the message is all there is to say


async def _try_to_seed(count: int) -> bool:
    from serve_app.users.store import ensure_seeded

    try:
        added = await ensure_seeded(database_url(), count)
    except DatabaseUnavailable as exc:
        logger.info("%s; tried again every %g s", exc.detail, SEED_RETRY_S)
        return False
    if added:
        logger.info("made %d demo users", added)
    return True
