"""A users table that somebody else made: what it must have, what is answered for values that nobody foresaw."""

import logging
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import NullPool
from sqlalchemy.ext.asyncio import create_async_engine

from serve_app.deployments.preflight import CHECKS, Start, find_faults
from serve_app.errors import SetupError
from serve_app.seed_users import main as seed_users
from serve_app.users.settings import UsersSettings, database_url
from serve_app.users.store import UserStore, ensure_seeded
from tests.serve_app.users.test_users import assert_error, users_client
from tests.service import read_config

PLAIN = "CREATE TABLE users (id integer PRIMARY KEY, name text, email text, created_at timestamp)"
GOOD = "INSERT INTO users VALUES (1, 'Zoë', 'z@example.com', '2024-05-06 07:08:09')"
PATIENT: dict[str, Any] = {"pool_wait_s": 30, "statement_timeout_s": 30}
Run = Callable[..., Awaitable[None]]


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of an empty database of each kind."""
    if request.param == "postgres":
        return str(request.getfixturevalue("postgres_url"))
    return f"sqlite:///{tmp_path}/users.sqlite3"


@pytest.fixture
async def run(url: str) -> AsyncIterator[Run]:
    """Return what runs statements in that database."""
    engine = create_async_engine(database_url(url), isolation_level="AUTOCOMMIT", poolclass=NullPool)

    async def run(*statements: str) -> None:
        async with engine.connect() as connection:
            for statement in statements:
                await connection.exec_driver_sql(statement)

    yield run
    await engine.dispose()


def sqlite_table(tmp_path: Path, table: str, rows: Sequence[Sequence[object]] = ()) -> str:
    """Make a table of SQLite with these rows and return the URL of its database."""
    path = tmp_path / "own.sqlite3"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(table)
        if rows:
            connection.executemany("INSERT INTO users VALUES (?, ?, ?, ?)", rows)
        connection.commit()
    return f"sqlite:///{path}"


async def start(url: str) -> None:
    """Do with the table what a replica does at its start. Raises SetupError."""
    await ensure_seeded(url, 3)
    store = UserStore(url, UsersSettings(**PATIENT))
    try:
        await store.open()
    finally:
        await store.close()


async def read_users(url: str) -> dict[int, dict[str, Any]]:
    """Start, and return all users by their ids; a user alone is what it is on its page."""
    await start(url)
    async with users_client(url, **PATIENT) as client:
        assert (await client.get("/ready")).status_code == 200
        answer = await client.get("/", params={"limit": 100})
        assert answer.status_code == 200, answer.text
        users = {user["id"]: user for user in answer.json()["users"]}
        for user_id, user in users.items():
            alone = await client.get(f"/{user_id}")
            assert (alone.status_code, alone.json()) == (200, user)
    return users


async def test_what_is_null_is_answered_as_null(url: str, run: Run) -> None:
    await run(PLAIN, GOOD, "INSERT INTO users VALUES (2, NULL, NULL, NULL)")
    users = await read_users(url)
    assert users[1]["created_at"] == "2024-05-06T07:08:09Z"
    assert users[2] == {"id": 2, "name": None, "email": None, "created_at": None}


@pytest.mark.parametrize("column", ["id", "name", "email", "created_at"])
async def test_a_missing_column_is_named_at_the_start(url: str, run: Run, column: str) -> None:
    """Whether the table has rows or not: demo users are not put into somebody else's table."""
    await run(PLAIN, f"ALTER TABLE users RENAME COLUMN {column} TO other")
    with pytest.raises(SetupError, match=rf"the table users does not fit: it has no column {column}\."):
        await ensure_seeded(url, 3)
    with pytest.raises(SetupError, match=rf"it has no column {column}\."):
        await start(url)
    store = UserStore(url, UsersSettings(**PATIENT))
    with pytest.raises(SetupError, match=rf"it has no column {column}\."):
        await store.open()
    await store.close()


@pytest.mark.parametrize(
    ("column", "kind", "value"),
    [
        ("id", "text", "'7'"),
        ("id", "real", "7"),
        ("name", "integer", "7"),
        ("email", "real", "7"),
        ("created_at", "integer", "1700000000"),
        ("created_at", "real", "2460000.5"),
    ],
)
@pytest.mark.parametrize("has_rows", [True, False], ids=["with rows", "empty"])
async def test_a_column_of_a_wrong_type_is_named_at_the_start(  # noqa: PLR0913
    url: str, run: Run, column: str, kind: str, value: str, *, has_rows: bool
) -> None:
    columns = {"id": "integer", "name": "text", "email": "text", "created_at": "timestamp"} | {column: kind}
    values = {"id": "1", "name": "'a'", "email": "'b'", "created_at": "'2024-05-06'"} | {column: value}
    await run(f"CREATE TABLE users ({', '.join(f'{name} {kind}' for name, kind in columns.items())})")
    if has_rows:
        await run(f"INSERT INTO users VALUES ({', '.join(values.values())})")
    with pytest.raises(SetupError, match=rf"(?i)does not fit: {column} is {kind}, not"):
        await start(url)


async def test_all_that_is_wrong_with_a_table_is_told_at_once(url: str, run: Run) -> None:
    await run("CREATE TABLE users (id text, name text, created_at integer)")
    with pytest.raises(SetupError, match=r"no column email; id is .*; created_at is .* a view named users") as caught:
        await start(url)
    assert "running" not in str(caught.value)


async def test_a_view_with_the_right_columns_is_as_good_as_a_table(url: str, run: Run) -> None:
    """The remedy that the message gives, for a table with other names, other types and no key."""
    await run(
        "CREATE TABLE people (person bigint, called varchar(30), mail varchar(30), born text)",
        "INSERT INTO people VALUES (9223372036854775807, 'Ada', 'ada@example.com', '2024-05-06 07:08:09')",
        "CREATE VIEW users AS SELECT person AS id, called AS name, mail AS email, "
        + ("cast(born AS timestamp)" if url.startswith("postgres") else "born")
        + " AS created_at FROM people",
    )
    assert await read_users(url) == {
        2**63 - 1: {"id": 2**63 - 1, "name": "Ada", "email": "ada@example.com", "created_at": "2024-05-06T07:08:09Z"}
    }


async def test_a_table_that_stops_fitting_is_a_503_by_name_until_it_fits_again(url: str, run: Run) -> None:
    """No restart is needed, and /ready says the same."""
    await run(PLAIN, GOOD)
    async with users_client(url, pool_size=1, **PATIENT) as client:
        assert (await client.get("/")).status_code == 200
        await run("ALTER TABLE users RENAME COLUMN email TO mail")
        assert_error(await client.get("/"), 503, "database_unavailable")
        for path in ("/", "/1", "/ready"):
            detail = assert_error(await client.get(path), 503, "database_unavailable")
            assert "it has no column email" in detail
        await run("ALTER TABLE users RENAME COLUMN mail TO email")
        for path in ("/ready", "/", "/1"):
            assert (await client.get(path)).status_code == 200


async def test_users_with_ids_of_0_and_below_are_on_one_page_each(url: str, run: Run) -> None:
    ids = [-(2**63), -7, 0, 2, 2**63 - 1]
    rows = ", ".join(f"({number}, 'a', '{number}@x', NULL)" for number in ids)
    await run(PLAIN.replace("integer", "bigint"), f"INSERT INTO users VALUES {rows}")
    assert list(await read_users(url)) == ids
    async with users_client(url, **PATIENT) as client:
        page = (await client.get("/", params={"limit": 1})).json()
        found = [*page["users"]]
        while page["next"] is not None and len(found) <= len(ids):
            page = (await client.get("/", params={"limit": 1, "after": page["next"]})).json()
            found += page["users"]
        assert [user["id"] for user in found] == ids


async def test_very_long_text_is_answered_whole(url: str, run: Run) -> None:
    long = "ä" * 1_000_000
    await run(PLAIN, f"INSERT INTO users VALUES (1, '{long}', 'a', NULL)")
    assert (await read_users(url))[1]["name"] == long


def test_the_command_names_the_column_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = sqlite_table(tmp_path, "CREATE TABLE users (id integer, name text, email text, created_at integer)")
    assert seed_users(["--database-url", url]) == 2
    err = capsys.readouterr().err
    assert err.lower().startswith("seed_users: the table users does not fit: created_at is integer")
    assert err.count("\n") == 1


def faults_before_the_start(url: str) -> list[str]:
    return [str(fault) for fault in find_faults(Start(read_config("one_replica.yaml"), {"DATABASE_URL": url}), CHECKS)]


def test_the_launcher_names_the_column_before_ray_starts(tmp_path: Path) -> None:
    url = sqlite_table(tmp_path, "CREATE TABLE users (id integer, name text, email text, created_at integer)")
    [told] = faults_before_the_start(url)
    assert told.lower().startswith("database_url: the table users does not fit: created_at is integer")


@pytest.mark.parametrize("kind", ["no table", "no file", "fits"])
def test_a_database_that_fits_or_is_empty_does_not_stop_the_launcher(tmp_path: Path, kind: str) -> None:
    url = f"sqlite:///{tmp_path}/own.sqlite3"
    if kind != "no file":
        sqlite_table(tmp_path, PLAIN if kind == "fits" else "CREATE TABLE others (id integer)")
    assert faults_before_the_start(url) == []
    assert (tmp_path / "own.sqlite3").exists() == (kind in ("fits", "no table"))


def test_a_database_that_cannot_be_asked_stops_the_launcher(tmp_path: Path) -> None:
    (tmp_path / "own.sqlite3").write_bytes(b"no database" * 1000)
    for url, words in (
        ("postgresql://user:secret@127.0.0.1:1/x", "the database cannot be used: Connection refused; start PostgreSQL"),
        (f"sqlite:///{tmp_path}/own.sqlite3", "the database cannot be used: file is not a database; name an SQLite"),
    ):
        [told] = faults_before_the_start(url)
        assert told.startswith(f"DATABASE_URL: {words}")
        assert "secret" not in told


# --- SQLite: any value in any column ---


ODD_TIMES = [None, "yesterday", "", 1_700_000_000, -1, 2460000.5, b"\x00\xff", "9999-12-31T23:59:59-14:00", "24:00"]
ODD_TIMES += [
    "1712123112300",
    "1712123112",
    "20240506",
    "2024-W19-1",
    "20240506T070809",
    "2024-05-06x07:08",
    "٢٠٢٤-05-06",
]


async def test_one_time_that_is_none_costs_neither_its_row_nor_its_page(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [[n, "a", f"{n}@x", odd] for n, odd in enumerate(ODD_TIMES, start=2)]
    url = sqlite_table(tmp_path, PLAIN, [[1, "a", "b", "2024-05-06 07:08:09"], *rows])
    with caplog.at_level(logging.WARNING, "serve_app.users"):
        users = await read_users(url)
    assert users.pop(1)["created_at"] == "2024-05-06T07:08:09Z"
    assert [user["created_at"] for user in users.values()] == [None] * len(ODD_TIMES)
    assert [record.message for record in caplog.records] == [
        "users.created_at of user 3 is no time as in ISO 8601: it and others are null"
    ]


@pytest.mark.parametrize(
    ("stored", "answered"),
    [
        ("2024-05-06", "2024-05-06T00:00:00Z"),
        ("2024-05-06T07:08:09Z", "2024-05-06T07:08:09Z"),
        ("2024-05-06 07:08:09+02:00", "2024-05-06T05:08:09Z"),
        ("2024-05-06T07:08:09.123456", "2024-05-06T07:08:09.123456Z"),
        ("0001-01-01", "0001-01-01T00:00:00Z"),
    ],
)
async def test_a_time_is_answered_in_utc(tmp_path: Path, stored: str, answered: str) -> None:
    for declared in ("timestamp", "datetime", "text", "date", "varchar(30)", ""):
        table = f"CREATE TABLE users (id integer PRIMARY KEY, name text, email text, created_at {declared})"
        (tmp_path / "own.sqlite3").unlink(missing_ok=True)
        assert (await read_users(sqlite_table(tmp_path, table, [[1, "a", "b", stored]])))[1]["created_at"] == answered


@pytest.mark.parametrize(
    ("stored", "answered"),
    [
        (b"Zo\xc3\xab", "Zoë"),
        (b"Zo\xff", "Zo\ufffd"),
        (7, "7"),
        ("a\x00b", "a\x00b"),
        ("", ""),
    ],
)
async def test_any_name_and_email_is_text(tmp_path: Path, stored: object, answered: str) -> None:
    table = "CREATE TABLE users (id integer PRIMARY KEY, name string, email string, created_at text)"
    url = sqlite_table(tmp_path, table, [[1, "a", "b", None], [2, stored, stored, None]])
    user = (await read_users(url))[2]
    assert (user["name"], user["email"]) == (answered, answered)


async def test_text_that_is_not_utf8_is_answered_with_marks_in_it(tmp_path: Path) -> None:
    """Half a surrogate pair too, which some programs write."""
    url = sqlite_table(tmp_path, PLAIN, [[1, "a", "b", None]])
    with closing(sqlite3.connect(tmp_path / "own.sqlite3")) as connection:
        connection.execute("UPDATE users SET name = CAST(x'61FF62' AS text), email = CAST(x'EDA080' AS text)")
        connection.commit()
    user = (await read_users(url))[1]
    assert (user["name"], user["email"]) == ("a\ufffdb", "\ufffd\ufffd\ufffd")


@pytest.mark.parametrize("declared", ["", "numeric", "integer", "bigint"])
async def test_ids_that_are_no_whole_numbers_are_in_nobodys_way(tmp_path: Path, declared: str) -> None:
    """They cannot be asked for; a page neither ends at one nor has it for the next one's beginning."""
    odd = [[identity, "odd", str(number), None] for number, identity in enumerate([None, "x", 1.5, b"y"])]
    rows = [[n, "a", f"{n}@x", None] for n in (1, 2, 3)]
    table = f"CREATE TABLE users (id {declared}, name text, email text, created_at text)"
    url = sqlite_table(tmp_path, table, [*odd, *rows])
    assert list(await read_users(url)) == [1, 2, 3]
    async with users_client(url, **PATIENT) as client:
        first = (await client.get("/", params={"limit": 2})).json()
        assert ([user["id"] for user in first["users"]], first["next"]) == ([1, 2], 2)
        last = (await client.get("/", params={"limit": 2, "after": 2})).json()
        assert ([user["id"] for user in last["users"]], last["next"]) == ([3], None)


@pytest.mark.parametrize(
    ("declared", "row", "words"),
    [
        ("id uuid", ["6f9619ff-8b86-d011-b42d-00c04fc964ff", "a", "b", None], "id holds values of type text"),
        ("id blob", [1, "a", "b", None], "id is blob"),
        ("id", [b"1", "a", "b", None], "id holds values of type blob"),
        ("name", [1, 7, "b", None], "name holds values of type integer"),
        ("email blob", [1, "a", "b", None], "email is blob"),
        ("email", [1, "a", b"b", None], "email holds values of type blob"),
        ("created_at datetime", [1, "a", "b", 1_700_000_000], "created_at holds values of type integer"),
        ("created_at", [1, "a", "b", "1712123112300"], "created_at holds values of type text of digits alone"),
        ("created_at text", [1, "a", "b", "1712123112"], "created_at holds values of type text of digits alone"),
        ("created_at text", [1, "a", "b", "1712123112.25"], "created_at holds values of type text of digits alone"),
        ("created_at double precision", [1, "a", "b", None], "created_at is double precision"),
        ("created_at bigint", [1, "a", "b", None], "created_at is bigint"),
    ],
)
async def test_a_column_that_holds_something_else_is_named_at_the_start(
    tmp_path: Path, declared: str, row: list[object], words: str
) -> None:
    """What the column is said to be, or what all its rows hold, as nothing keeps the one from the other."""
    columns = {"id": "id integer", "name": "name text", "email": "email text", "created_at": "created_at text"}
    columns |= {declared.partition(" ")[0]: declared}
    url = sqlite_table(tmp_path, f"CREATE TABLE users ({', '.join(columns.values())})", [row])
    with pytest.raises(SetupError, match=f"(?i)does not fit: {words}"):
        await start(url)


async def test_the_names_of_columns_may_be_written_either_way(tmp_path: Path) -> None:
    table = 'CREATE TABLE "Users" (ID INTEGER PRIMARY KEY, Name TEXT, "EMail" TEXT, Created_At TEXT)'
    assert (await read_users(sqlite_table(tmp_path, table, [[1, "a", "b", None]])))[1]["email"] == "b"


# --- PostgreSQL ---


async def test_types_that_postgresql_makes_of_others_fit(postgres_url: str) -> None:
    engine = create_async_engine(database_url(postgres_url), isolation_level="AUTOCOMMIT", poolclass=NullPool)
    async with engine.connect() as connection:
        for statement in (
            "CREATE DOMAIN key AS bigint",
            "CREATE DOMAIN small_key AS key CHECK (value > 0)",
            "CREATE DOMAIN own_key AS small_key",
            "CREATE DOMAIN address AS varchar(50) CHECK (value LIKE '%@%')",
            "CREATE DOMAIN own_address AS address",
            "CREATE DOMAIN moment AS timestamptz(3)",
            "CREATE DOMAIN past AS moment",
            "CREATE TYPE who AS ENUM ('Ada', 'Bo')",
            "CREATE TABLE users (id own_key, name who, email own_address, created_at past)",
            "INSERT INTO users VALUES (1, 'Ada', 'a@b', '2024-05-06 07:08:09+02')",
        ):
            await connection.exec_driver_sql(statement)
    await engine.dispose()
    assert await read_users(postgres_url) == {
        1: {"id": 1, "name": "Ada", "email": "a@b", "created_at": "2024-05-06T05:08:09Z"}
    }


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        ("id", "uuid"),
        ("id", "numeric"),
        ("name", "bytea"),
        ("name", "text[]"),
        ("email", "jsonb"),
        ("created_at", "date"),
        ("created_at", "text"),
        ("created_at", "bigint"),
    ],
)
async def test_a_type_that_postgresql_has_besides_is_named_at_the_start(
    postgres_url: str, column: str, kind: str
) -> None:
    columns = {"id": "integer", "name": "text", "email": "text", "created_at": "timestamp"} | {column: kind}
    engine = create_async_engine(database_url(postgres_url), isolation_level="AUTOCOMMIT", poolclass=NullPool)
    async with engine.connect() as connection:
        await connection.exec_driver_sql(
            f"CREATE TABLE users ({', '.join(' '.join(each) for each in columns.items())})"
        )
    await engine.dispose()
    with pytest.raises(SetupError) as caught:
        await start(postgres_url)
    assert f"{column} is {kind}, not" in str(caught.value)


@pytest.mark.parametrize("kind", ["timestamp", "timestamptz"])
async def test_times_beyond_pythons_are_null(postgres_url: str, kind: str) -> None:
    times = ["infinity", "-infinity", "0044-03-15 BC", "20000-01-01", "2024-05-06 07:08:09"]
    engine = create_async_engine(database_url(postgres_url), isolation_level="AUTOCOMMIT", poolclass=NullPool)
    async with engine.connect() as connection:
        await connection.exec_driver_sql("SET timezone = 'UTC'")
        await connection.exec_driver_sql(f"CREATE TABLE users (id int, name text, email text, created_at {kind})")
        for number, moment in enumerate(times):
            await connection.exec_driver_sql(f"INSERT INTO users VALUES ({number}, 'a', 'b', '{moment}')")
        await connection.exec_driver_sql("UPDATE users SET id = id + 1")
    await engine.dispose()
    found = [user["created_at"] for user in (await read_users(postgres_url)).values()]
    assert found == [None, None, None, None, "2024-05-06T07:08:09Z"]
