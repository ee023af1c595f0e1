"""`python -m serve_app.seed_users`: create the users table with its demo users, if nobody has yet.

Called by people and by start scripts. Exit code 0: the table has users; 2: bad input, or no database; 130: Ctrl-C.
"""

import argparse
import asyncio
import signal
import sys
from collections.abc import Sequence

from serve_app.errors import DatabaseUnavailable, SetupError
from serve_app.users.settings import MAX_DEMO_USERS, UsersSettings, database_url, without_password
from serve_app.users.store import ensure_seeded


def main(arguments: Sequence[str] | None = None) -> int:
    """Seed the database that the arguments or DATABASE_URL name, and return the exit code."""
    options = _parser().parse_args(arguments)
    try:
        url = database_url(options.database_url)
        added = asyncio.run(ensure_seeded(url, options.count))
    except SetupError as exc:
        return _refuse(str(exc))
    except DatabaseUnavailable as exc:
        return _refuse(exc.detail)
    except KeyboardInterrupt:
        print("seed_users: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    done = f"added {added} demo users" if added else "nothing to do, the table users already has users"
    print(f"{without_password(url)}: {done}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m serve_app.seed_users", description="Create the demo users.")
    default = UsersSettings().demo_users
    parser.add_argument("--count", type=_user_count, default=default, help=f"how many users (default: {default})")
    parser.add_argument(
        "--database-url",
        help="postgresql://... or sqlite:///... (default: DATABASE_URL, which `ps` does not show)",
    )
    return parser


def _user_count(given: str) -> int:
    count = int(given) if given.isascii() and given.isdigit() else 0
    if not 1 <= count <= MAX_DEMO_USERS:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 to {MAX_DEMO_USERS}")
    return count


def _refuse(reason: str) -> int:
    print(f"seed_users: {' '.join(reason.split())}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
