"""The users table: every statement, every connection, and the project's only import of SQLAlchemy.

Called by `users.api` to read and by the Serve builder and `seed_users` to create the table.
Whatever a database does wrong leaves this file as DatabaseUnavailable. Knows nothing of HTTP or Ray.
"""

import asyncio
import contextlib
import logging
import os
import socket
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import (
    URL,
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    DateTime,
    Dialect,
    Integer,
    MetaData,
    NullPool,
    Select,
    Table,
    Text,
    bindparam,
    case,
    event,
    func,
    insert,
    inspect,
    literal_column,
    make_url,
    select,
)
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DisconnectionError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from serve_app.deadline import answer_within
from serve_app.errors import DatabaseUnavailable, NotReady, ServiceError, SetupError
from serve_app.places import why_not_writable
from serve_app.users.demo import demo_users
from serve_app.users.settings import UsersSettings, database_url
from serve_app.users.table import DECLARED, STORED, find_misfit, stored_text, stored_time

logger = logging.getLogger(__name__)

MIN_USER_ID, MAX_USER_ID = -(2**63), 2**63 - 1
"""Of a column of 8 bytes."""

_SEED_CONNECT_S = 5.0
_CHECK_S = 3.0
"""Longest wait for the database before a start."""
_SEED_S = 60.0
_SEED_BATCH = 10_000
_AS_ANOTHER = "let a user who may do so run `python -m serve_app.seed_users`, or make and fill the table"
_SEED_REMEDY = "`python -m serve_app.seed_users` makes the demo users"

# SQLite counts only an INTEGER PRIMARY KEY as the row's own number; a BIGINT one costs a second index.
_ID = BigInteger().with_variant(Integer(), "sqlite")
_users = Table(
    "users",
    MetaData(),
    Column("id", _ID, primary_key=True, autoincrement=False),
    Column("name", Text, nullable=False),
    Column("email", Text, nullable=False, unique=True),
    Column("created_at", DateTime(timezone=True), nullable=False),
)
# Python has no times beyond these, and the driver would raise: the row's is answered as null.
_TIMES: tuple[ColumnElement[Any], ColumnElement[Any]] = (literal_column("'0001-01-02'"), literal_column("'9999-12-30'"))
_CREATED_AT = {
    "sqlite": _users.c.created_at,
    "postgresql": case((_users.c.created_at.between(*_TIMES), _users.c.created_at)).label("created_at"),
}
# SQLite has any value in a column: what is no whole number cannot be asked for, and would end a page for good.
_CAN_BE_ASKED_FOR = {"sqlite": [func.typeof(_users.c.id) == literal_column("'integer'")], "postgresql": []}
_ANY = select(_users.c.id).limit(1)

# The first process holds this while it fills the table; the second waits, looks again and finds users.
_SEED_LOCK = {"sqlite": "BEGIN IMMEDIATE", "postgresql": "SELECT pg_advisory_xact_lock(5207211)"}

# Whether there is a table or view, whether one may be made, and whether it takes rows: by a grant, and by its kind.
_MAY_SEED = """
    SELECT found IS NOT NULL, coalesce(has_schema_privilege(current_schema(), 'CREATE'), false),
    has_any_column_privilege(found, 'INSERT') AND pg_relation_is_updatable(found, true) & (1 << 3) <> 0
    FROM to_regclass('users') AS found"""


# Not frozen: a frozen dataclass takes three times as long to make, and a page makes twenty.
@dataclass(slots=True)
class User:
    """One user; what the table does not have is null. `created_at` is in UTC."""

    id: int
    name: str | None
    email: str | None
    created_at: datetime | None


@dataclass(slots=True)
class UserPage:
    """Users in the order of their ids; `next` is the `after` of the following page, and null on the last."""

    users: list[User]
    next: int | None


class UserStore:
    """Read-only access to the users table through a bounded pool; it lives as long as its replica.

    Any method that asks the database raises DatabaseUnavailable within pool_wait_s + statement_timeout_s, and
    works again as soon as the database does.
    """

    def __init__(self, url: str, settings: UsersSettings) -> None:
        """Prepare the pool and the statements; nothing connects yet. Raises SetupError on a bad `url`."""
        self._settings = settings
        self._engine = serving_engine(url, settings)
        dialect = self._engine.dialect
        self._first, self._page, self._one, self._any = (_Statement(query, dialect) for query in _queries(dialect.name))
        self._dialect = dialect.name
        self._run = _run_sqlite if dialect.name == "sqlite" else _run_postgres
        self._faults = _faults_of(dialect)
        self._is_checked = False
        self._misfit: str | None = None
        self._told_of_times = False
        self._deadline_s = settings.pool_wait_s + settings.statement_timeout_s
        self._last_fault = ""

    async def open(self) -> None:
        """Connect once, so that no request pays for it. A database that is down is logged, not raised.

        Raises SetupError that names the columns when there is a table that does not fit.
        """
        with contextlib.suppress(ServiceError):
            await self.ping()
        if self._misfit is not None:
            raise SetupError(self._misfit)

    async def close(self) -> None:
        """Close the pool's connections, by force if the database does not answer."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._deadline_s):
                await self._engine.dispose()

    async def list_users(self, limit: int, after: int | None = None) -> UserPage:
        """Return at most `limit` users with ids above `after`, or the first ones. Raises DatabaseUnavailable."""
        count = limit + 1  # one more tells whether a page follows
        if after is None:
            rows = await self._fetch(self._first, count=count)
        else:
            rows = await self._fetch(self._page, after=after, count=count)
        users = [self._user(row) for row in rows[:limit]]
        return UserPage(users, users[-1].id if len(rows) > limit else None)

    async def get_user(self, user_id: int) -> User | None:
        """Return the user, or None if there is none. Raises DatabaseUnavailable."""
        rows = await self._fetch(self._one, user_id=user_id)
        return self._user(rows[0]) if rows else None

    async def ping(self) -> None:
        """Return if the database answers and has users. Raises DatabaseUnavailable or NotReady."""
        if not await self._fetch(self._any):
            raise NotReady(f"the users table is empty; {_SEED_REMEDY}")

    async def _fetch(self, statement: "_Statement", **values: int) -> list[Any]:
        try:
            async with asyncio.timeout(self._deadline_s):
                rows = await self._fetch_rows(statement, values)
        except self._faults as exc:
            self._is_checked = False  # the table may be another one now
            self._log_once(_describe(exc))
            raise DatabaseUnavailable(_explain(exc, self._settings)) from exc
        if self._misfit is not None:
            self._log_once(self._misfit)
            raise DatabaseUnavailable(self._misfit)
        self._last_fault = ""
        return rows

    async def _fetch_rows(self, statement: "_Statement", values: dict[str, int]) -> list[Any]:
        # The driver runs the compiled statement itself. Through AsyncConnection, aiosqlite changes threads
        # four times per statement instead of once: 560 µs of CPU instead of 110 (asyncpg: 210 and 115).
        connection = await self._engine.raw_connection()
        answered = False
        try:
            driver = connection.driver_connection
            if not self._is_checked:
                await self._check(driver)
            rows = [] if self._misfit else await self._run(driver, statement.sql, statement.arguments(values))
            answered = True
            return rows
        finally:
            if answered:
                connection.close()
            else:
                # Nobody knows what the connection still waits for: it is dropped. SQLite would go on in its thread.
                if self._dialect == "sqlite" and (driver := connection.driver_connection):
                    await driver.interrupt()
                connection.invalidate()

    async def _check(self, driver: Any) -> None:
        """Find out whether the table has what is asked of it, until it has."""
        declared = await self._run(driver, DECLARED[self._dialect], [])
        self._misfit = find_misfit(self._dialect, declared)
        if self._misfit is None and declared and self._dialect == "sqlite":
            self._misfit = find_misfit(self._dialect, declared, await self._run(driver, STORED, []))
        self._is_checked = bool(declared) and self._misfit is None

    def _user(self, row: Sequence[Any]) -> User:
        try:
            created_at = stored_time(row[3])
        except ValueError:
            created_at = None
            if not self._told_of_times:
                self._told_of_times = True
                logger.warning("users.created_at of user %d is no time as in ISO 8601: it and others are null", row[0])
        return User(row[0], stored_text(row[1]), stored_text(row[2]), created_at)

    def _log_once(self, fault: str) -> None:
        # An outage is one line, not one per request; the text holds no password.
        if fault != self._last_fault:
            logger.warning("the users database: %s", fault)
        self._last_fault = fault


def serving_engine(url: str, settings: UsersSettings) -> AsyncEngine:
    """Return an engine whose connections cannot write and whose waits are bounded. Raises SetupError."""
    parsed = make_url(database_url(url))
    is_sqlite = parsed.get_backend_name() == "sqlite"
    engine = create_async_engine(
        _read_only_sqlite(parsed) if is_sqlite else parsed,
        pool_size=settings.pool_size,
        max_overflow=0,
        pool_timeout=settings.pool_wait_s,
        pool_reset_on_return=None,  # a lone SELECT leaves nothing to roll back; saves a round trip
        connect_args=_sqlite_limits(settings) if is_sqlite else _postgres_limits(settings),
    )
    if is_sqlite:
        event.listen(engine.sync_engine, "connect", _prepare_sqlite)
        event.listen(engine.sync_engine, "checkout", _same_file_check(Path(str(parsed.database))))
    else:
        event.listen(engine.sync_engine, "checkout", _refuse_closed_connection)
    return engine


def check_table(url: str, settings: UsersSettings) -> None:
    """Return if the users table can be served, or can be made and filled with demo users.

    Raises SetupError when it does not fit, or has no users and takes none, and DatabaseUnavailable when the database
    cannot be asked now.
    """
    parsed = make_url(database_url(url))
    find = _find_sqlite_fault if parsed.get_backend_name() == "sqlite" else _find_postgres_fault
    fault = find(parsed, settings)
    if fault is not None:
        raise SetupError(fault)


async def ensure_seeded(url: str, count: int) -> int:
    """Create the users table and `count` demo users unless it has a user; return how many were added.

    Several processes may do this at once. Raises DatabaseUnavailable, and SetupError on a bad `url` or a table that
    does not fit.
    """
    parsed = make_url(database_url(url))
    engine = _seeding_engine(parsed)
    try:
        _make_file(parsed)
        async with asyncio.timeout(_SEED_S):
            return await _seed(engine, count)
    except _faults_of(engine.dialect) as exc:
        raise DatabaseUnavailable(f"cannot create the demo users: {_describe(exc)}") from exc
    finally:
        await engine.dispose()


class _Statement:
    """A query compiled once for one dialect, with the order in which its driver takes the values."""

    def __init__(self, query: Select[Any], dialect: Dialect) -> None:
        compiled = query.compile(dialect=dialect)
        self.sql = str(compiled)
        self._defaults = dict(compiled.params)
        self._names = compiled.positiontup or []

    def arguments(self, values: dict[str, int]) -> list[Any]:
        given = {**self._defaults, **values}
        return [given[name] for name in self._names]


def _queries(dialect: str) -> tuple[Select[Any], ...]:
    """Return the statements for the first page, for a page after an id, for one user, and for any."""
    columns = select(_users.c.id, _users.c.name, _users.c.email, _CREATED_AT[dialect])
    first = columns.where(*_CAN_BE_ASKED_FOR[dialect]).order_by(_users.c.id)
    first = first.limit(bindparam("count", type_=Integer))
    page = first.where(_users.c.id > bindparam("after"))
    return first, page, columns.where(_users.c.id == bindparam("user_id")), _ANY


async def _run_sqlite(driver: Any, sql: str, arguments: list[Any]) -> list[Any]:
    rows: list[Any] = await driver.execute_fetchall(sql, arguments)
    return rows


async def _run_postgres(driver: Any, sql: str, arguments: list[Any]) -> list[Any]:
    rows: list[Any] = await driver.fetch(sql, *arguments)
    return rows


def _faults_of(dialect: Dialect) -> tuple[type[Exception], ...]:
    # Connecting raises the adapter's own Error, a statement raises what the driver has. Both are found by way
    # of the dialect, so that asyncpg need not be installed to serve SQLite.
    adapter = dialect.loaded_dbapi
    faults = (SQLAlchemyError, OSError, adapter.Error)
    if dialect.name == "sqlite":
        return faults
    driver = adapter.asyncpg
    # The last: text of a database without an encoding (SQL_ASCII) that is not UTF-8.
    return (*faults, driver.PostgresError, driver.InterfaceError, driver.InternalClientError, UnicodeDecodeError)


def _explain(exc: Exception, settings: UsersSettings) -> str:
    if isinstance(exc, PoolTimeoutError):
        return f"all {settings.pool_size} connections were busy for {settings.pool_wait_s:g} s; try again"
    if isinstance(exc, TimeoutError):
        limit_s = settings.pool_wait_s + settings.statement_timeout_s
        return f"the database did not answer within {limit_s:g} s; try again"
    fault = type(_cause(exc)).__name__
    return f"the database failed ({fault}); it must be running and have a table users: {_SEED_REMEDY}"


def _cause(exc: BaseException) -> BaseException:
    # What the driver said, below what SQLAlchemy made of it.
    return _cause(exc.__cause__) if exc.__cause__ else exc


def _describe(exc: Exception) -> str:
    """Return what failed, without the driver's words: PostgreSQL's name user and database, those below it the host."""
    cause = _cause(exc)
    if isinstance(exc, TimeoutError) or isinstance(cause, TimeoutError):  # asyncio's has a CancelledError as its cause
        return "no answer in time"
    if isinstance(cause, socket.gaierror):
        return "the host name cannot be resolved"
    if isinstance(cause, OSError) and cause.errno is not None:
        return os.strerror(cause.errno) + (f": {cause.filename}" if cause.filename else "")
    if isinstance(cause, sqlite3.Error):
        return str(cause)  # a file has no password, and there is no other name for what is wrong with it
    state = getattr(cause, "sqlstate", None)
    return f"{type(cause).__name__} ({state})" if state else type(cause).__name__


def _read_only_sqlite(url: URL) -> URL:
    return url.set(database=f"file:{quote(str(url.database))}", query={"mode": "ro", "uri": "true"})


def _sqlite_limits(settings: UsersSettings) -> dict[str, Any]:
    return {"timeout": settings.statement_timeout_s}


def _postgres_limits(settings: UsersSettings) -> dict[str, Any]:
    return {
        "server_settings": {
            "application_name": "serve-app users",
            "default_transaction_read_only": "on",
            "statement_timeout": str(max(1, round(settings.statement_timeout_s * 1000))),
        }
    }


def _prepare_sqlite(connection: DBAPIConnection, _record: object) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA query_only = ON")
    cursor.close()
    # Text as bytes: decoding is ours, as one byte that is not UTF-8 would fail the whole page.
    connection.driver_connection.text_factory = bytes


def _same_file_check(file: Path) -> Callable[[object, ConnectionPoolEntry, object], None]:
    def check(_connection: object, record: ConnectionPoolEntry, _fairy: object) -> None:
        # An open descriptor would go on answering from a file that has been deleted or replaced.
        inode = file.stat().st_ino
        if record.info.setdefault("inode", inode) != inode:
            raise DisconnectionError

    return check


def _refuse_closed_connection(connection: Any, _record: object, _fairy: object) -> None:
    # The driver saw the server hang up: unlike pool_pre_ping, this costs no round trip.
    if connection.driver_connection.is_closed():
        raise DisconnectionError


def _seeding_engine(url: URL) -> AsyncEngine:
    if url.get_backend_name() == "sqlite":
        # isolation_level None: the driver starts no transaction of its own before BEGIN IMMEDIATE.
        limits = {"timeout": _SEED_S, "isolation_level": None}
    else:
        limits = {"timeout": _SEED_CONNECT_S}
    return create_async_engine(url, poolclass=NullPool, connect_args=limits)


def _make_file(url: URL) -> None:
    if url.get_backend_name() == "sqlite":
        file = Path(str(url.database))
        file.parent.mkdir(parents=True, exist_ok=True)
        # One that cannot be opened is told here: aiosqlite's thread would speak to a loop that may have ended.
        sqlite3.connect(file).close()


async def _seed(engine: AsyncEngine, count: int) -> int:
    async with engine.connect() as connection:
        # Looked at without the lock first: a replica that restarts needs no right to write.
        if misfit := await _misfit_of(connection):
            raise SetupError(misfit)
        if await connection.run_sync(_has_users):
            return 0
        await connection.rollback()
        await connection.exec_driver_sql(_SEED_LOCK[engine.dialect.name])
        added = await connection.run_sync(_fill, count)
        await connection.commit()
        return added


def _find_sqlite_fault(url: URL, settings: UsersSettings) -> str | None:
    # Not through aiosqlite, whose thread outlives a loop that ends when a file cannot be opened, and says so on stderr.
    try:
        if not (file := Path(str(url.database))).exists():  # it will be made
            if reason := why_not_writable(file.parent):
                return f"{file.parent} cannot be written: {reason}; name a file in a folder that you can write"
            return None
        name = f"file:{quote(str(url.database))}?mode=ro"
        with contextlib.closing(sqlite3.connect(name, uri=True, timeout=settings.statement_timeout_s)) as connection:
            connection.text_factory = bytes
            declared = connection.execute(DECLARED["sqlite"]).fetchall()
            has_columns = declared and find_misfit("sqlite", declared) is None
            stored = connection.execute(STORED).fetchall() if has_columns else ()
            return find_misfit("sqlite", declared, stored)
    except (sqlite3.Error, OSError) as exc:
        raise DatabaseUnavailable(_describe(exc)) from exc


def _find_postgres_fault(url: URL, settings: UsersSettings) -> str | None:
    engine = serving_engine(url.render_as_string(hide_password=False), settings)

    async def find() -> str | None:
        try:
            async with engine.connect() as connection:
                return await _misfit_of(connection) or await _why_not_seeded(connection)
        finally:
            await engine.dispose()

    try:
        return answer_within(_CHECK_S, lambda: asyncio.run(find()))
    except _faults_of(engine.dialect) as exc:
        raise DatabaseUnavailable(_describe(exc)) from exc


async def _why_not_seeded(connection: AsyncConnection) -> str | None:
    """Return why a PostgreSQL without users takes no demo users from this role; None if it does, or has users."""
    if await connection.run_sync(_has_users):
        return None
    has_table, may_make, may_fill = list((await connection.exec_driver_sql(_MAY_SEED)).one())
    if has_table:
        return None if may_fill else f"the table users is empty, and this role may not fill it; {_AS_ANOTHER}"
    return None if may_make else f"there is no table users, and this role may not make one; {_AS_ANOTHER}"


async def _misfit_of(connection: AsyncConnection) -> str | None:
    dialect = connection.dialect.name
    declared = (await connection.exec_driver_sql(DECLARED[dialect])).all()
    misfit = find_misfit(dialect, declared)
    if misfit is None and declared and dialect == "sqlite":
        misfit = find_misfit(dialect, declared, (await connection.exec_driver_sql(STORED)).all())
    return misfit


def _has_users(connection: Connection) -> bool:
    return inspect(connection).has_table(_users.name) and connection.execute(_ANY).first() is not None


def _fill(connection: Connection, count: int) -> int:
    if _has_users(connection):
        return 0
    _users.create(connection, checkfirst=True)
    for batch in _batches(count):
        connection.execute(insert(_users), batch)
    return count


def _batches(count: int) -> Iterator[list[Any]]:
    users = demo_users(count)
    while batch := list(islice(users, _SEED_BATCH)):
        yield batch
