"""What only PostgreSQL can do to the users application: stop, hang, lock, refuse, be somebody else's."""

import asyncio
import functools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from sqlalchemy import NullPool
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from serve_app.errors import SetupError
from serve_app.users.settings import UsersSettings, database_url
from serve_app.users.store import UserStore, check_table, ensure_seeded
from tests.postgres import Postgres
from tests.serve_app.users.test_users import HANG_S, assert_error, client_of, users_client

LIMITS: dict[str, Any] = {"pool_wait_s": 3, "statement_timeout_s": 3}
"""Of a database that does not answer. They hold for the next request too, which a slow machine has to answer."""

WAITING_FOR_A_LOCK = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
)


@pytest.fixture
async def seeded_url(postgres_url: str) -> str:
    """Return the URL of a database with three demo users."""
    await ensure_seeded(postgres_url, 3)
    return postgres_url


@asynccontextmanager
async def owner_of(url: str) -> AsyncIterator[AsyncConnection]:
    """Yield a connection that may write, each statement at once."""
    engine = create_async_engine(database_url(url), isolation_level="AUTOCOMMIT", poolclass=NullPool)
    async with engine.connect() as connection:
        yield connection


@asynccontextmanager
async def table_lock(url: str) -> AsyncIterator[None]:
    """Hold the lock that ALTER TABLE takes: readers wait."""
    async with owner_of(url) as owner:
        await owner.exec_driver_sql("BEGIN")
        await owner.exec_driver_sql("LOCK TABLE users IN ACCESS EXCLUSIVE MODE")
        yield
        await owner.exec_driver_sql("ROLLBACK")


@pytest.fixture(scope="module")
def visitor(postgres: Postgres) -> str:
    """Return the name of a role that may do nothing but log in."""
    postgres.execute("CREATE ROLE visitor LOGIN")
    return "visitor"


TABLE = "CREATE TABLE users (id bigint, name text, email text, created_at timestamptz)"
VIEW = "CREATE VIEW users AS SELECT 1 AS id, 'a'::text AS name, 'b'::text AS email, now() AS created_at WHERE false"
NO_TABLE, EMPTY = "there is no table users, and this role may not make one", "is empty, and this role may not fill it"


@pytest.mark.parametrize(
    ("statements", "fault"),
    [
        ([], NO_TABLE),
        (["GRANT CREATE ON SCHEMA public TO visitor"], None),
        ([TABLE, "GRANT SELECT ON users TO visitor"], EMPTY),
        ([TABLE, "GRANT SELECT, INSERT ON users TO visitor"], None),
        ([TABLE, "GRANT SELECT ON users TO visitor", "INSERT INTO users VALUES (1)"], None),
        ([VIEW, "GRANT ALL ON users TO visitor"], EMPTY),
    ],
)
async def test_a_role_that_may_not_make_the_demo_users_is_told_before_the_start(
    postgres_url: str, visitor: str, statements: list[str], fault: str | None
) -> None:
    async with owner_of(postgres_url) as owner:
        for statement in ("REVOKE CREATE ON SCHEMA public FROM PUBLIC", *statements):
            await owner.exec_driver_sql(statement)
    url = postgres_url.replace("postgres@", f"{visitor}@")
    check = functools.partial(check_table, url, UsersSettings(**LIMITS))
    if fault is None:
        await asyncio.to_thread(check)
    else:
        with pytest.raises(SetupError, match=f"{fault}; let a user who may do so run `python -m serve_app.seed_users`"):
            await asyncio.to_thread(check)


async def test_a_stopped_database_is_a_503_and_heals(postgres: Postgres, seeded_url: str) -> None:
    """Same process, same pool: 200, stopped 503, started 200."""
    async with users_client(seeded_url) as client:
        await asyncio.gather(*(client.get("/") for _ in range(20)))
        await asyncio.to_thread(postgres.stop)  # so that the loop sees the sockets close, as a service would
        try:
            for path in ("/", "/1", "/ready"):
                answer = await client.get(path)
                assert_error(answer, 503, "database_unavailable")
                assert answer.headers["Retry-After"] == "1"
        finally:
            await asyncio.to_thread(postgres.start)
        answers = await asyncio.gather(*(client.get("/") for _ in range(20)))
        assert {answer.status_code for answer in answers} == {200}


async def test_a_hanging_database_is_a_503_within_the_bound_and_heals(postgres: Postgres, seeded_url: str) -> None:
    """Sockets stay open and nothing answers, neither on a pooled connection nor on a new one.

    The bound is the settings': who has a long one waits on.
    """
    unconnected = UserStore(seeded_url, UsersSettings(**LIMITS))
    async with (
        users_client(seeded_url, pool_size=2, **LIMITS) as client,
        client_of(unconnected) as newcomer,
        users_client(seeded_url) as patient,
    ):
        await asyncio.gather(*(client.get("/") for _ in range(5)))
        postgres.freeze()
        try:
            waiting = asyncio.create_task(patient.get("/"))
            answers = await asyncio.gather(newcomer.get("/"), *(client.get("/") for _ in range(5)))
            assert not waiting.done()
        finally:
            postgres.thaw()
        for answer in answers:
            assert_error(answer, 503, "database_unavailable")
        assert (await waiting).status_code == 200
        for each in (client, newcomer):
            assert (await each.get("/")).status_code == 200
        await unconnected.close()


class Firewall:
    """Passes TCP on to PostgreSQL's socket until told to let the open connections fall silent."""

    def __init__(self, folder: str) -> None:
        self._socket = f"{folder}/.s.PGSQL.5432"
        self._pipes: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []

    async def admit(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Connect one client to the server."""
        server_reader, server_writer = await asyncio.open_unix_connection(self._socket)
        self._writers += [writer, server_writer]
        for source, sink in [(reader, server_writer), (server_reader, writer)]:
            self._pipes.add(asyncio.create_task(self._pass_on(source, sink)))

    def silence(self) -> None:
        """Drop what the open connections send from now on, in both directions, and tell neither side."""
        for pipe in self._pipes:
            pipe.cancel()

    async def close(self) -> None:
        """Close every connection."""
        self.silence()
        for writer in self._writers:
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for writer in self._writers), return_exceptions=True)

    async def _pass_on(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(65536):
            sink.write(data)


async def test_a_connection_that_fell_silent_costs_one_request(seeded_url: str) -> None:
    """A firewall forgets idle connections: the first request on such a one waits in vain, the next has a new one."""
    address, _, folder = seeded_url.partition("?host=")
    firewall = Firewall(folder)
    server = await asyncio.start_server(firewall.admit, "127.0.0.1", 0)
    url = f"{address}?host=127.0.0.1&port={server.sockets[0].getsockname()[1]}"
    async with server:
        async with users_client(url, pool_size=1, **LIMITS) as client:
            assert (await client.get("/")).status_code == 200
            firewall.silence()
            assert_error(await client.get("/"), 503, "database_unavailable")
            assert (await client.get("/")).status_code == 200
        await firewall.close()


async def test_a_slow_statement_is_cancelled_by_the_server(seeded_url: str) -> None:
    """Its own limit ends it and not that of the whole request; the connection that waited is not leaked."""
    async with users_client(seeded_url, pool_size=1, **LIMITS) as client:
        async with table_lock(seeded_url):
            detail = assert_error(await client.get("/"), 503, "database_unavailable")
            assert "QueryCanceledError" in detail
        assert (await client.get("/")).status_code == 200


async def test_an_exhausted_pool_is_a_503_within_the_wait(seeded_url: str) -> None:
    """Two stuck statements hold both connections; the third request waits 0.2 s, and they wait on."""
    async with users_client(seeded_url, pool_size=2, pool_wait_s=0.2) as client, owner_of(seeded_url) as owner:
        async with table_lock(seeded_url):
            stuck = [asyncio.create_task(client.get("/")) for _ in range(2)]
            async with asyncio.timeout(HANG_S):
                while (await owner.exec_driver_sql(WAITING_FOR_A_LOCK)).scalar() != 2:  # noqa: ASYNC110
                    await asyncio.sleep(0.005)
            assert "busy for 0.2 s" in assert_error(await client.get("/"), 503, "database_unavailable")
            assert not any(each.done() for each in stuck)
        assert [answer.status_code for answer in await asyncio.gather(*stuck)] == [200, 200]


async def test_a_table_made_by_somebody_else_is_read_and_never_altered(postgres_url: str) -> None:
    """Narrower ids, times without a zone, one column more, gaps between the ids."""
    async with owner_of(postgres_url) as owner:
        await owner.exec_driver_sql(
            "CREATE TABLE users (id int PRIMARY KEY, name text, email text, created_at timestamp, age int)"
        )
        await owner.exec_driver_sql(
            "INSERT INTO users SELECT n * 10, 'Zoë', 'z' || n, '2024-05-06 07:08:09', 30 FROM generate_series(1, 9) n"
        )
        assert await ensure_seeded(postgres_url, 100) == 0
        async with users_client(postgres_url) as client:
            page = (await client.get("/", params={"limit": 3, "after": 15})).json()
        assert page["next"] == 40
        assert page["users"][0] == {
            "id": 20,
            "name": "Zoë",
            "email": "z2",
            "created_at": "2024-05-06T07:08:09Z",
        }
        assert (await owner.exec_driver_sql("SELECT sum(age) FROM users")).scalar() == 9 * 30


async def test_a_table_dropped_and_made_again_is_read_without_a_restart(seeded_url: str) -> None:
    """The prepared statement of the old table must not outlive it."""
    async with users_client(seeded_url, pool_size=1) as client, owner_of(seeded_url) as owner:
        await owner.exec_driver_sql("DROP TABLE users")
        assert "UndefinedTable" in assert_error(await client.get("/"), 503, "database_unavailable")
        await ensure_seeded(seeded_url, 4)
        assert len((await client.get("/")).json()["users"]) == 4


async def test_a_reader_without_the_right_to_write_can_start(seeded_url: str) -> None:
    """A seeded database asks its replicas for SELECT and nothing more."""
    reader_url = seeded_url.replace("//postgres@", "//reader@", 1)
    assert reader_url != seeded_url
    async with owner_of(seeded_url) as owner:
        await owner.exec_driver_sql("CREATE ROLE reader LOGIN")
        await owner.exec_driver_sql("GRANT SELECT ON users TO reader")
        assert await ensure_seeded(reader_url, 3) == 0
        async with users_client(reader_url) as client:
            assert (await client.get("/ready")).status_code == 200
        await owner.exec_driver_sql("DROP OWNED BY reader")
        await owner.exec_driver_sql("DROP ROLE reader")


@pytest.mark.parametrize(
    "change",
    [
        lambda url: url.replace("test_", "absent_", 1),
        lambda url: url.replace("host=", "host=/nowhere", 1),
        lambda url: f"{url}&sslmode=require",
        lambda url: f"{url}&port=1",
        lambda _url: "postgresql://u:s3cret@host.invalid/x",
    ],
    ids=["no database", "no socket", "no encryption", "no port", "no host"],
)
async def test_an_address_that_leads_nowhere_is_a_503(postgres_url: str, change: Callable[[str], str]) -> None:
    """Without a word of the address, which may hold the password."""
    async with users_client(change(postgres_url)) as client:
        detail = assert_error(await client.get("/"), 503, "database_unavailable")
    assert "s3cret" not in detail


async def test_a_server_that_is_no_postgresql_is_a_503() -> None:
    """It answers every byte with HTTP."""

    async def answer_http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(answer_http, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, users_client(f"postgresql://u:p@127.0.0.1:{port}/x", **LIMITS) as client:
        assert_error(await client.get("/"), 503, "database_unavailable")
