"""What the users table must have, told by name when it has not, and its values whatever SQLite holds in their place.

SQLite keeps any value in any column: what a column is said to be is checked once, what a row holds whenever it is read.
Called by `users.store`, which runs the statements.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

Kind = Literal["a whole number", "text", "a time"]

COLUMNS: Mapping[str, Kind] = {
    "id": "a whole number",
    "name": "text",
    "email": "text",
    "created_at": "a time",
}

DECLARED: Mapping[str, str] = {
    "sqlite": "SELECT lower(name), upper(type), type FROM pragma_table_xinfo('users')",
    # A domain counts as the type below it, which may be a domain too.
    "postgresql": """
        WITH RECURSIVE below(attnum, type) AS (
            SELECT attnum, atttypid FROM pg_attribute
            WHERE attrelid = to_regclass('users') AND attnum > 0 AND NOT attisdropped
            UNION ALL
            SELECT below.attnum, typbasetype FROM below JOIN pg_type ON oid = below.type WHERE typbasetype <> 0)
        SELECT a.attname, t.typname, format_type(a.atttypid, a.atttypmod), t.typcategory
        FROM pg_attribute a JOIN below ON below.attnum = a.attnum JOIN pg_type t ON t.oid = below.type
        WHERE a.attrelid = to_regclass('users') AND t.typbasetype = 0""",
}
"""By dialect, the statement that tells of each column its name, its type for us, and its type for people."""

_DIGITS = "text of digits alone"
_TYPEOF_TIME = f"""
    CASE WHEN typeof(created_at) = 'text' AND created_at GLOB '[0-9]*' AND created_at NOT GLOB '*[^0-9.]*'
    THEN '{_DIGITS}' ELSE typeof(created_at) END"""
"""Seconds or milliseconds since 1970 in a text column, which no rule about text keeps out."""

STORED = f"""SELECT {", ".join(_TYPEOF_TIME if column == "created_at" else f"typeof({column})" for column in COLUMNS)}
    FROM users LIMIT 100"""  # noqa: S608 names of ours
"""How SQLite stores the values of some rows, whatever their columns are said to hold."""

_DATE = re.compile(r"\d{4}-\d\d-\d\d(?:[ T]|\Z)", re.ASCII)

_POSTGRES: Mapping[Kind, frozenset[str]] = {
    "a whole number": frozenset({"int2", "int4", "int8"}),
    "text": frozenset(),  # told by its category: there are many, extensions' among them
    "a time": frozenset({"timestamp", "timestamptz"}),
}
_TEXT_CATEGORIES = frozenset({"S", "E"})

# SQLite's type affinities (sqlite.org/datatype3.html); NUMERIC is what it makes of DATETIME and of names unknown to it.
_SQLITE: Mapping[Kind, frozenset[str]] = {
    "a whole number": frozenset({"INTEGER", "NUMERIC", ""}),
    "text": frozenset({"TEXT", "NUMERIC", ""}),
    "a time": frozenset({"TEXT", "NUMERIC", ""}),
}
_STORAGE: Mapping[Kind, str] = {"a whole number": "integer", "text": "text", "a time": "text"}

_AFFINITIES = (
    ("INT", "INTEGER"), ("CHAR", "TEXT"), ("CLOB", "TEXT"), ("TEXT", "TEXT"), ("BLOB", "BLOB"),
    ("REAL", "REAL"), ("FLOA", "REAL"), ("DOUB", "REAL"),
)  # fmt: skip


def find_misfit(dialect: str, declared: Sequence[Sequence[Any]], stored: Sequence[Sequence[str]] = ()) -> str | None:
    """Return what is wrong with a table of which the statements above tell this, or None; also when there is none."""
    if not declared:
        return None
    found = {row[0]: row for row in map(_as_text, declared)}
    faults = [f"it has no column {column}" for column in COLUMNS if column not in found]
    fits = _fits_sqlite if dialect == "sqlite" else _fits_postgres
    faults += [
        f"{column} is {found[column][2] or 'of no type'}, not {kind}"
        for column, kind in COLUMNS.items()
        if column in found and not fits(found[column], kind)
    ]
    if not faults:
        faults = list(_stored_otherwise(map(_as_text, stored)))
    if not faults:
        return None
    return (
        f"the table users does not fit: {'; '.join(faults)}. It needs id (whole numbers), name and email (text) and "
        "created_at (PostgreSQL: a timestamp, SQLite: text as in ISO 8601); a view named users can rename and convert"
    )


def stored_text(stored: object) -> str | None:
    """Return a text column's value: SQLite has it as bytes, any at all, or as a number."""
    if stored is None or isinstance(stored, str):
        return stored
    return stored.decode(errors="replace") if isinstance(stored, bytes) else str(stored)


def stored_time(stored: object) -> datetime | None:
    """Return a time in UTC, which is what a time without an offset is taken for; None when it is NULL.

    Raises ValueError for what is no time.
    """
    if stored is None:
        return None
    try:
        moment = stored if isinstance(stored, datetime) else _read_time(stored.decode())  # type: ignore[attr-defined]
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (AttributeError, OverflowError, UnicodeDecodeError) as exc:
        raise ValueError("it is no time") from exc


def _read_time(text: str) -> datetime:
    if not _DATE.match(text):  # Python takes 1712123112300, milliseconds since 1970, for a date in 1712
        raise ValueError("it does not begin with a date such as 2024-05-06")
    return datetime.fromisoformat(text)


def _as_text(row: Sequence[Any]) -> list[str]:
    return [stored_text(value) or "" for value in row]  # the drivers have some of them as bytes


def _fits_postgres(row: Sequence[str], kind: Kind) -> bool:
    if kind == "text":
        return row[3] in _TEXT_CATEGORIES
    return row[1] in _POSTGRES[kind]


def _fits_sqlite(row: Sequence[str], kind: Kind) -> bool:
    declared = row[1]
    affinity = next((affinity for part, affinity in _AFFINITIES if part in declared), "NUMERIC" if declared else "")
    return affinity in _SQLITE[kind]


def _stored_otherwise(stored: Iterable[Sequence[str]]) -> Iterable[str]:
    """Yield a fault for each column in which no value is stored as what it should be."""
    for column, values in zip(COLUMNS, zip(*stored, strict=True), strict=False):
        kinds = set(values) - {"null"}
        if kinds and _STORAGE[COLUMNS[column]] not in kinds:
            yield f"{column} holds values of type {', '.join(sorted(kinds))}, not {COLUMNS[column]}"
