"""The users application over HTTP, on real SQLite files and, where the claim is about both, on PostgreSQL."""

import asyncio
import re
import shutil
import sqlite3
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from pydantic import ValidationError
from sqlalchemy import Engine, QueuePool, event, text
from sqlalchemy.exc import DBAPIError

from serve_app.errors import DatabaseUnavailable, SetupError
from serve_app.users.api import build_users_api
from serve_app.users.demo import demo_user, demo_users
from serve_app.users.settings import UsersSettings, database_url, without_password
from serve_app.users.store import UserStore, check_table, ensure_seeded, serving_engine

USERS = 250
HANG_S = 60.0
UNHURRIED: dict[str, Any] = {"pool_wait_s": 60, "statement_timeout_s": 60}
"""The longest limits there are: where they are not what is tested, a slow machine must not meet them."""


@asynccontextmanager
async def opened_store(url: str, **settings: Any) -> AsyncIterator[UserStore]:
    """Yield a store over the database at `url`; what `settings` do not say is unhurried."""
    store = UserStore(url, UsersSettings(**UNHURRIED | settings))
    await store.open()
    try:
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def client_of(store: UserStore, *, root_path: str = "") -> AsyncIterator[httpx.AsyncClient]:
    """Yield an HTTP client of the users API over `store`."""
    transport = httpx.ASGITransport(build_users_api(store), root_path=root_path)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


@asynccontextmanager
async def users_client(url: str, *, root_path: str = "", **settings: Any) -> AsyncIterator[httpx.AsyncClient]:
    """Yield an HTTP client of the users API over the database at `url`."""
    async with opened_store(url, **settings) as store, client_of(store, root_path=root_path) as client:
        yield client


def assert_error(answer: httpx.Response, status: int, code: str) -> str:
    """Check that `answer` has the error shape with this status and code, and return its detail."""
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert set(answer.json()) == {"code", "detail", "request_id"}
    return str(answer.json()["detail"])


@pytest.fixture
def sqlite_file(tmp_path: Path) -> Path:
    """Return where an SQLite database may be made; the name is one that an address must not misread."""
    return tmp_path / "50% off & more.sqlite3"


@pytest.fixture
def sqlite_url(sqlite_file: Path) -> str:
    """Return the URL of a SQLite database that does not exist yet."""
    return f"sqlite:///{sqlite_file}"


@pytest.fixture(params=["sqlite", "postgres"])
def empty_url(request: pytest.FixtureRequest) -> str:
    """Return the URL of an empty database of each kind."""
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
async def seeded_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the URL of a database of each kind with USERS demo users; tests only read it."""
    url = f"sqlite:///{tmp_path_factory.mktemp('users')}/users.sqlite3"
    if request.param == "postgres":
        url = request.getfixturevalue("postgres").new_database()
    await ensure_seeded(url, USERS)
    return url


@pytest.fixture
async def client(seeded_url: str) -> AsyncIterator[httpx.AsyncClient]:
    """Return an HTTP client of the users API over USERS demo users."""
    async with users_client(seeded_url) as client:
        yield client


async def read_pages(client: httpx.AsyncClient, limit: int) -> list[list[dict[str, Any]]]:
    """Follow `next` from the first page to the last and return the users of every page."""
    pages, after = [], 0
    while after is not None:
        answer = await client.get("/", params={"limit": limit, "after": after})
        assert answer.status_code == 200, answer.text
        pages.append(answer.json()["users"])
        after = answer.json()["next"]
    return pages


@pytest.mark.parametrize("limit", [1, 7, 50, 100])
async def test_paging_visits_every_user_exactly_once(client: httpx.AsyncClient, limit: int) -> None:
    """Also where the last page is full (250 is five times 50): no empty page follows it."""
    pages = await read_pages(client, limit)
    assert [user["id"] for page in pages for user in page] == list(range(1, USERS + 1))
    assert all(len(page) == limit for page in pages[:-1])
    assert pages[-1]


async def test_a_page_has_twenty_users_unless_asked(client: httpx.AsyncClient) -> None:
    """The bare path is the hot one."""
    answer = await client.get("/")
    assert [user["id"] for user in answer.json()["users"]] == list(range(1, 21))
    assert answer.json()["next"] == 20


async def test_beyond_the_last_user_the_page_is_empty(client: httpx.AsyncClient) -> None:
    """An id at the end of the range is a fair cursor."""
    answer = await client.get("/", params={"after": 2**63 - 1})
    assert answer.json() == {"users": [], "next": None}


async def test_a_user_is_what_the_demo_function_says(client: httpx.AsyncClient) -> None:
    """The name keeps its accents and the time its zone through either database."""
    answer = await client.get("/12")
    found = answer.json()
    assert found["created_at"].endswith("Z")
    assert {**found, "created_at": datetime.fromisoformat(found["created_at"])} == demo_user(12)
    assert found in (await client.get("/")).json()["users"]


@pytest.mark.parametrize("user_id", [-(2**63), -1, 0, USERS + 1, 2**63 - 1])
async def test_an_unknown_user_is_a_404(client: httpx.AsyncClient, user_id: int) -> None:
    """The detail names the id."""
    detail = assert_error(await client.get(f"/{user_id}"), 404, "not_found")
    assert str(user_id) in detail


GARBAGE = [
    "-",
    "--1",
    "-1.0",
    "1.0",
    "1e3",
    "+5",
    "%205",
    "0x10",
    "1_000",
    "NaN",
    "null",
    "%00",
    "7%00",
    "%ff%fe",
    "%D9%A3",
    "1%3BDROP%20TABLE%20users",
    "1%27%20OR%20%271%27%3D%271",
    str(2**63),
    str(-(2**63) - 1),
    "9" * 5000,
    "%F0%9F%92%A9",
]


@pytest.mark.parametrize("garbage", GARBAGE)
async def test_garbage_is_refused_by_name(client: httpx.AsyncClient, garbage: str) -> None:
    """Never a 500, and the detail says which parameter it was."""
    for url, name in [
        (f"/?limit={garbage}", "limit"),
        (f"/?after={garbage}", "after"),
        (f"/{garbage}", "user_id"),
    ]:
        detail = assert_error(await client.get(url), 422, "invalid_parameter")
        assert re.fullmatch(rf"(query|path)\.{name}: [^;]+", detail)


@pytest.mark.parametrize("query", ["limit=0", "limit=-1", "limit=101", "limit=", "after=", "limit=20&limit=x"])
async def test_a_limit_outside_its_range_is_refused(client: httpx.AsyncClient, query: str) -> None:
    """An empty value is not a missing one."""
    assert_error(await client.get(f"/?{query}"), 422, "invalid_parameter")


async def test_unknown_parameters_are_refused(client: httpx.AsyncClient) -> None:
    """Who misspells `limit` would otherwise get a page of another size."""
    detail = assert_error(await client.get("/?utm_source=x&%00=%ff&limits=2"), 422, "invalid_parameter")
    assert "query.limits: unknown parameter (did you mean limit?)" in detail


async def test_the_paths_hold_behind_a_mount_point(seeded_url: str) -> None:
    """Ray Serve calls the app with root_path=/user and the full path, with or without the last slash."""
    async with users_client(seeded_url, root_path="/user") as client:
        pages = [(await client.get(path)).json() for path in ("/user", "/user/")]
        assert pages[0] == pages[1]
        assert len(pages[0]["users"]) == 20
        assert (await client.get("/user/7")).json()["id"] == 7
        assert (await client.get("/user/ready")).json() == {"ready": True}
        assert_error(await client.get("/user/1/2"), 404, "not_found")


async def test_the_pages_of_documentation_show_users_and_errors(client: httpx.AsyncClient) -> None:
    """The cursor is a number and every refusal has the error shape."""
    paths = (await client.get("/openapi.json")).json()["paths"]
    assert set(paths) == {"/", "/{user_id}", "/ready"}
    assert set(paths["/"]["get"]["responses"]) == {"200", "422", "500", "503"}
    limit, after = paths["/"]["get"]["parameters"]
    assert (limit["schema"]["maximum"], after["schema"]["type"]) == (100, "integer")


async def test_an_unseeded_database_is_not_ready(empty_url: str) -> None:
    """503 before the table exists, 200 after, without a restart."""
    async with users_client(empty_url) as client:
        assert_error(await client.get("/ready"), 503, "database_unavailable")
        assert_error(await client.get("/"), 503, "database_unavailable")
        await ensure_seeded(empty_url, 3)
        assert (await client.get("/ready")).status_code == 200
        assert len((await client.get("/")).json()["users"]) == 3


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO users (id) VALUES (0)",
        "UPDATE users SET name = ''",
        "DELETE FROM users",
        "DROP TABLE users",
    ],
)
async def test_writes_through_the_serving_engine_are_refused(seeded_url: str, statement: str) -> None:
    """By the database itself: read-only transactions, read-only file."""
    engine = serving_engine(seeded_url, UsersSettings())
    async with engine.connect() as connection:
        with pytest.raises(DBAPIError, match=r"read-?\s?only"):
            await connection.execute(text(statement))
    await engine.dispose()


async def test_many_readers_share_a_small_pool(seeded_url: str) -> None:
    """More requests than connections wait for their turn."""
    async with users_client(seeded_url, pool_size=2) as client:
        answers = await asyncio.gather(*(client.get("/", params={"after": n}) for n in range(100)))
    assert [answer.json()["users"][0]["id"] for answer in answers] == list(range(1, 101))


async def test_seeding_again_changes_nothing(seeded_url: str) -> None:
    """Whatever the count."""
    assert await ensure_seeded(seeded_url, 10) == 0
    async with users_client(seeded_url) as client:
        assert sum(map(len, await read_pages(client, 100))) == USERS


async def test_ten_thousand_demo_users_are_one_statement_in_one_transaction(sqlite_file: Path, sqlite_url: str) -> None:
    """So they take 0.2 s and not the minutes of a transaction for each."""
    inserts: list[bool] = []

    def note(_c: object, _cursor: object, statement: str, _p: object, _context: object, executemany: bool) -> None:  # noqa: FBT001
        if statement.startswith("INSERT"):
            inserts.append(executemany)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        assert await ensure_seeded(sqlite_url, 10_000) == 10_000
    finally:
        event.remove(Engine, "before_cursor_execute", note)
    assert inserts == [True]
    changes = int.from_bytes(sqlite_file.read_bytes()[24:28])  # SQLite's file format, section 1.3.7
    assert changes == 1


def test_demo_users_are_a_function_of_their_ids() -> None:
    """No two share an email."""
    users = list(demo_users(1000))
    assert users == [demo_user(user_id) for user_id in range(1, 1001)]
    assert len({user["email"] for user in users}) == 1000
    assert all(user["email"].endswith("@example.com") for user in users)
    assert all(user["created_at"].utcoffset() == timedelta(0) for user in users)


# --- SQLite as a dependency that fails ---


async def wait_until_in_use(store: UserStore, connections: int) -> None:
    """Return when requests hold so many of the pool's connections."""
    pool = store._engine.pool
    assert isinstance(pool, QueuePool)
    async with asyncio.timeout(HANG_S):
        while pool.checkedout() != connections:  # noqa: ASYNC110 the pool tells nobody
            await asyncio.sleep(0.005)


@contextmanager
def write_lock(file: Path) -> Iterator[None]:
    """Hold the lock of a writer that lets nobody read."""
    writer = sqlite3.connect(file, isolation_level=None)
    writer.execute("BEGIN EXCLUSIVE")
    try:
        yield
    finally:
        writer.close()


async def test_a_locked_sqlite_file_is_a_503_and_heals(sqlite_file: Path, sqlite_url: str) -> None:
    """The busy timeout ends the wait, and only of those who have a short one; after the writer all succeed."""
    await ensure_seeded(sqlite_url, 3)
    async with users_client(sqlite_url, statement_timeout_s=0.2) as client, users_client(sqlite_url) as patient:
        with write_lock(sqlite_file):
            waiting = asyncio.create_task(patient.get("/"))
            assert_error(await client.get("/"), 503, "database_unavailable")
            assert not waiting.done()
        assert (await client.get("/")).status_code == 200
        assert (await waiting).status_code == 200


async def test_an_exhausted_sqlite_pool_is_a_503_within_the_wait(sqlite_file: Path, sqlite_url: str) -> None:
    """One connection is stuck behind the lock, so the second request may only wait pool_wait_s."""
    await ensure_seeded(sqlite_url, 3)
    async with opened_store(sqlite_url, pool_size=1, pool_wait_s=0.2) as store, client_of(store) as client:
        with write_lock(sqlite_file):
            stuck = asyncio.create_task(client.get("/"))
            await wait_until_in_use(store, 1)
            assert "busy for 0.2 s" in assert_error(await client.get("/"), 503, "database_unavailable")
            assert not stuck.done()
        assert (await stuck).status_code == 200


async def test_a_client_that_goes_away_gives_its_connection_back(sqlite_file: Path, sqlite_url: str) -> None:
    """Three cancelled requests on a pool of one leave it usable."""
    await ensure_seeded(sqlite_url, 3)
    async with opened_store(sqlite_url, pool_size=1) as store, client_of(store) as client:
        with write_lock(sqlite_file):
            for _ in range(3):
                gone = asyncio.create_task(client.get("/"))
                await wait_until_in_use(store, 1)
                gone.cancel()
                await asyncio.wait([gone])
        assert (await client.get("/")).status_code == 200


async def test_a_deleted_sqlite_file_is_a_503_until_it_is_back(sqlite_file: Path, sqlite_url: str) -> None:
    """An open descriptor would go on answering from the deleted file; a new file is read at once."""
    await ensure_seeded(sqlite_url, 3)
    async with users_client(sqlite_url) as client:
        assert len((await client.get("/")).json()["users"]) == 3
        sqlite_file.unlink()
        assert_error(await client.get("/"), 503, "database_unavailable")
        assert_error(await client.get("/1"), 503, "database_unavailable")
        await ensure_seeded(sqlite_url, 5)
        assert len((await client.get("/")).json()["users"]) == 5


async def test_a_statement_that_takes_too_long_is_ended(sqlite_file: Path, sqlite_url: str) -> None:
    """And does not go on in its thread, beside those of later requests."""
    await ensure_seeded(sqlite_url, 3)
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
    before = set(threading.enumerate())
    async with users_client(sqlite_url, pool_wait_s=0.2, statement_timeout_s=0.2) as client:
        with closing(sqlite3.connect(sqlite_file)) as database:
            database.execute("ALTER TABLE users RENAME TO kept")
            database.execute(f"CREATE VIEW users AS SELECT * FROM kept WHERE id <= ({endless})")
        assert_error(await client.get("/"), 503, "database_unavailable")
        async with asyncio.timeout(HANG_S):
            while any("_connection_worker" in each.name for each in set(threading.enumerate()) - before):  # noqa: ASYNC110
                await asyncio.sleep(0.01)


async def test_a_corrupted_sqlite_file_is_a_503_until_it_is_restored(sqlite_file: Path, sqlite_url: str) -> None:
    """Overwritten in place, as a failing disk does."""
    await ensure_seeded(sqlite_url, 3)
    copy = sqlite_file.with_suffix(".copy")
    shutil.copyfile(sqlite_file, copy)
    async with users_client(sqlite_url) as client:
        sqlite_file.write_bytes(b"not a database " * 1000)
        detail = assert_error(await client.get("/"), 503, "database_unavailable")
        assert str(sqlite_file) not in detail
        shutil.copyfile(copy, sqlite_file)
        assert (await client.get("/")).status_code == 200


async def test_an_outage_is_one_line_in_the_log(sqlite_url: str, caplog: pytest.LogCaptureFixture) -> None:
    """Of the store: the API logs each refusal by itself."""
    async with users_client(sqlite_url) as client:
        for _ in range(3):
            await client.get("/")
    assert [record.name for record in caplog.records].count("serve_app.users.store") == 1


async def test_a_folder_that_cannot_be_made_is_a_named_fault(tmp_path: Path) -> None:
    """The message holds the path, for the person at the command line."""
    (tmp_path / "file").write_text("")
    with pytest.raises(DatabaseUnavailable, match="file"):
        await ensure_seeded(f"sqlite:///{tmp_path}/file/users.sqlite3", 3)


async def test_a_path_that_cannot_be_looked_up_is_a_named_fault(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/{'a' * 300}"
    with pytest.raises(DatabaseUnavailable, match=r"^File name too long: /"):
        check_table(url, UsersSettings())
    with pytest.raises(DatabaseUnavailable):
        await ensure_seeded(url, 3)
    async with users_client(url) as client:
        assert (await client.get("/")).status_code == 503


# --- settings ---


def test_settings_refuse_what_they_do_not_know() -> None:
    """A misspelled key in the YAML would otherwise be a silent default."""
    for wrong in ({"poolsize": 5}, {"pool_size": 0}, {"pool_wait_s": 0}, {"demo_users": 2_000_000}):
        with pytest.raises(ValidationError):
            UsersSettings.model_validate(wrong)


def test_a_data_folder_of_no_user_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVE_APP_DATA_DIR", "~nobody-of-this-name/x")
    with pytest.raises(SetupError, match=r"^SERVE_APP_DATA_DIR: its path begins with ~ .*; write the whole path"):
        database_url()


def test_without_an_address_the_database_is_a_file_of_this_user(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An empty variable counts as none."""
    monkeypatch.setenv("DATABASE_URL", " ")
    monkeypatch.setenv("SERVE_APP_DATA_DIR", str(tmp_path))
    assert database_url() == f"sqlite+aiosqlite:///{tmp_path}/users.sqlite3"


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("postgres://u:p%40ss@db:5432/x", "postgresql+asyncpg://u:p%40ss@db:5432/x"),
        ("postgresql://u@db/x?sslmode=require", "postgresql+asyncpg://u@db/x?ssl=require"),
        ("postgresql+asyncpg://u@db/x", "postgresql+asyncpg://u@db/x"),
        ("postgresql://u@/x?host=/run/pg", "postgresql+asyncpg://u@/x?host=%2Frun%2Fpg"),
        ("postgresql://u:p@[::1]:5432/x\n", "postgresql+asyncpg://u:p@[::1]:5432/x"),
        ("sqlite:////data/u.db", "sqlite+aiosqlite:////data/u.db"),
        ("sqlite:///u.db", f"sqlite+aiosqlite:///{quote(str(Path.cwd()))}/u.db"),
    ],
)
def test_an_address_is_read_with_its_async_driver(monkeypatch: pytest.MonkeyPatch, given: str, read: str) -> None:
    """And what has been read may be read again."""
    monkeypatch.setenv("DATABASE_URL", given)
    assert database_url() == read
    assert database_url(read) == read


@pytest.mark.parametrize(
    "given",
    [
        "mysql://u:s3cret@db/x",
        "u:s3cret@db/x",
        "postgresql:u:s3cret",
        "postgresql://u:s3cret/x@db/x",
        "postgresql://u:12#s3cret@db/x",
        "postgresql://u:s3cret@db:port/x",
        "postgresql://u:s3cret@[::1/x",
        "postgresql://u:s3cret@db/x?sslmode=maybe",
        "postgresql://u:s3cret@db/x?port=many",
        "postgresql://u:s3cret@db/x?options=-c",
        "sqlite://",
        "sqlite:///",
        "sqlite:///:memory:",
        "sqlite:///s3cret.db?mode=rw",
    ],
)
def test_a_bad_address_is_a_setup_error_that_keeps_the_password(given: str) -> None:
    """It names the variable and shows what a good one looks like."""
    with pytest.raises(SetupError, match=r"^DATABASE_URL: .*; use postgresql://") as refusal:
        database_url(given)
    assert "s3cret" not in str(refusal.value)
    assert refusal.value.__cause__ is None


def test_an_address_is_shown_without_its_password() -> None:
    """Even a password with an @ or a : in it."""
    assert without_password("postgresql://u:a:b@c@db:5432/x") == "postgresql://u:***@db:5432/x"
    assert without_password("sqlite:////data/u.db") == "sqlite:////data/u.db"


def test_a_missing_driver_is_a_setup_error_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The PostgreSQL driver is an extra of the package."""
    monkeypatch.setitem(sys.modules, "asyncpg", None)
    with pytest.raises(SetupError, match=r"asyncpg.*pip install"):
        UserStore("postgresql://u:s3cret@db/x", UsersSettings())
