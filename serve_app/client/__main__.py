"""`python -m serve_app.client`: classify files, folders and URLs through the service's API.

Exit codes: 0 all were classified, 1 some were not (or the service went away), 2 an argument cannot be used, 130 stopped
by Ctrl-C.
"""

import os
import sys
from collections.abc import Sequence

from serve_app.client.errors import RunStopped, UsageError

LIBRARIES = frozenset({"httpx", "rich", "tenacity"})


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says and return the exit code."""
    try:
        from serve_app.client.command import run  # here, so that Ctrl-C while it loads ends quietly too

        return run(arguments)
    except UsageError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as exc:
        if exc.name not in LIBRARIES:
            raise
        remedy = "install the extra `client` (pip install -e '.[client]')"
        print(f"error: the client needs {exc.name}: {remedy}", file=sys.stderr)
        return 2
    except RunStopped as exc:
        print(f"stopped: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped by Ctrl-C", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read the output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


if __name__ == "__main__":
    sys.exit(main())
