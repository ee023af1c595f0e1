"""The demo users: a pure function of the id, so that every machine and every run has the same table.

Called by the store when it fills an empty table. Knows nothing of databases.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import TypedDict

_GIVEN_NAMES = (
    "Ada",
    "Björn",
    "Chiara",
    "Dmitri",
    "Emeka",
    "Fatima",
    "Grace",
    "Hiro",
    "Inés",
    "Jun",
    "Kwame",
)
_FAMILY_NAMES = (
    "Almeida",
    "Bauer",
    "Chen",
    "Diallo",
    "Eriksen",
    "Fischer",
    "García",
    "Haddad",
    "Ito",
    "Jansen",
)
_FIRST_SIGN_UP = datetime(2020, 1, 1, tzinfo=UTC)
_BETWEEN_SIGN_UPS = timedelta(minutes=37)


class DemoUser(TypedDict):
    """One row of the users table."""

    id: int
    name: str
    email: str
    created_at: datetime


def demo_user(user_id: int) -> DemoUser:
    """Return the demo user with this id; two ids never share an email."""
    # 11 given and 10 family names have no common divisor: 110 users pass before a full name comes again.
    given = _GIVEN_NAMES[user_id % len(_GIVEN_NAMES)]
    family = _FAMILY_NAMES[user_id % len(_FAMILY_NAMES)]
    return DemoUser(
        id=user_id,
        name=f"{given} {family}",
        email=f"user{user_id}@example.com",
        created_at=_FIRST_SIGN_UP + _BETWEEN_SIGN_UPS * user_id,
    )


def demo_users(count: int) -> Iterator[DemoUser]:
    """Return the demo users 1 to `count`."""
    return map(demo_user, range(1, count + 1))
