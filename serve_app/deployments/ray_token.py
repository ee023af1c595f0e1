"""Ray's token: where Ray looks for it, and one that only this user can read. For launcher, `redeploy` and checks.

Knows nothing of Serve. https://docs.ray.io/en/latest/ray-security/token-auth.html
"""

import os
import stat
from contextlib import suppress
from pathlib import Path

from serve_app.errors import Fault, SetupError
from serve_app.places import is_file

MODE_VARIABLE = "RAY_AUTH_MODE"
MODE = "token"
FILE_VARIABLE = "RAY_AUTH_TOKEN_PATH"
VARIABLES = ("RAY_AUTH_TOKEN", FILE_VARIABLE)
"""By which somebody else gives the token."""
HOME_REMEDY = f"set HOME to a folder that you can write, or {' or '.join(VARIABLES)}"


def default_file(home: Path) -> Path:
    """Return where Ray keeps the token if no variable says otherwise."""
    return home / ".ray" / "auth_token"


def read_token() -> str:
    """Return Ray's token from where Ray looks for it, or "" if there is none."""
    if token := os.environ.get("RAY_AUTH_TOKEN"):
        return token
    path = Path(os.environ.get(FILE_VARIABLE) or default_file(Path.home()))
    return path.read_text(encoding="utf-8").strip() if is_file(path) else ""


def keep_token_private() -> None:
    """Make the token that Ray would make, or close the one that is there to others: Ray leaves it readable by everyone.

    Nothing if a variable gives it. Raises SetupError.
    """
    if any(os.environ.get(name) for name in VARIABLES):
        return
    path = default_file(Path.home())
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _make(path)
    except FileExistsError:
        _close_to_others(path)
    except OSError as exc:
        raise SetupError(Fault("HOME", f"{path} cannot be made: {exc.strerror}", HOME_REMEDY)) from exc


def _make(path: Path) -> None:
    from ray._private.authentication.authentication_token_generator import generate_new_authentication_token

    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(generate_new_authentication_token())


def _close_to_others(path: Path) -> None:
    with suppress(OSError):  # somebody else's, or a file system without modes
        found = path.stat()
        if stat.S_ISREG(found.st_mode) and found.st_mode & 0o077:
            path.chmod(stat.S_IMODE(found.st_mode) & 0o700)
