"""`python -m serve_app.client`: classify files, folders and URLs through the service's API; `evaluate` its answers.

Exit codes: 0 all were classified, 1 some were not or the service became unreachable, 2 an argument is invalid, 130
stopped by Ctrl-C. `evaluate` ends with 1 for a missed gate too.
"""

import os
import sys
from collections.abc import Sequence

from serve_app.client.connection import EVALUATE
from serve_app.client.errors import RunStopped, UsageError
from serve_app.client.plain_text import without_logins

LIBRARIES = frozenset({"httpx", "rich", "tenacity"})


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the client and return the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _run(given)
    except UsageError as exc:
        print(f"error: {without_logins(str(exc))}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as exc:
        if exc.name not in LIBRARIES:
            raise
        remedy = "install the extra `client` (pip install -e '.[client]')"
        print(f"error: the client needs {exc.name}: {remedy}", file=sys.stderr)
        return 2
    except RunStopped as exc:
        print(f"stopped: {without_logins(str(exc))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped by Ctrl-C", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of the output has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _run(given: Sequence[str]) -> int:
    # Imported here, so that Ctrl-C during the import is handled too.
    if given[:1] == [EVALUATE]:
        from serve_app.client.evaluate.command import run_evaluate

        return run_evaluate(given[1:])
    from serve_app.client.command import run

    return run(given)


if __name__ == "__main__":
    sys.exit(main())
