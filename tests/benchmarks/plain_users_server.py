"""The users API on plain uvicorn, one process, no Ray: what `lookups` compares the service with.

    python -m tests.benchmarks.plain_users_server PORT SETTINGS_JSON

Reads the same database as the service (SERVE_APP_DATA_DIR), with the same settings.
"""

import asyncio
import sys

import uvicorn
import uvloop

from serve_app.users.api import build_users_api
from serve_app.users.settings import UsersSettings, database_url
from serve_app.users.store import UserStore


async def serve(port: int, settings: UsersSettings) -> None:
    store = UserStore(database_url(), settings)
    await store.open()
    config = uvicorn.Config(
        build_users_api(store),
        host="127.0.0.1",
        port=port,
        http="httptools",
        access_log=False,
        log_level="warning",
    )
    await uvicorn.Server(config).serve()
    await store.close()


def main() -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(int(sys.argv[1]), UsersSettings.model_validate_json(sys.argv[2])))


if __name__ == "__main__":
    main()
