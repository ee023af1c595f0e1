"""`python -m serve_app.seed_users` as people start it: in processes of its own."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from serve_app.seed_users import main
from serve_app.users.settings import UsersSettings
from serve_app.users.store import UserStore
from tests.patience import HANG_S

RUN_S = 120.0

# Waits for a line on standard input after its imports, so that several begin within milliseconds of each other.
WAIT_THEN_SEED = """
import sys, aiosqlite, asyncpg
from serve_app.seed_users import main
print("ready", flush=True)
sys.stdin.readline()
sys.exit(main(sys.argv[1:]))
"""


def start_python(url: str, *arguments: str) -> subprocess.Popen[str]:
    """Start Python with DATABASE_URL set."""
    return subprocess.Popen(
        [sys.executable, *arguments],
        env={**os.environ, "DATABASE_URL": url},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_exit(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Return exit code, standard output and standard error."""
    out, err = process.communicate(timeout=RUN_S)
    return process.returncode, out, err


def seed_at_once(url: str, processes: int, count: int) -> list[tuple[int, str, str]]:
    """Let several processes begin to seed at the same moment, and return how each ended."""
    started = [start_python(url, "-c", WAIT_THEN_SEED, "--count", str(count)) for _ in range(processes)]
    for process in started:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
    for process in started:
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
    return [wait_for_exit(process) for process in started]


async def count_users(url: str) -> int:
    """Return how many users the store can page through."""
    store = UserStore(url, UsersSettings())
    page = await store.list_users(100)
    total = len(page.users)
    while page.next is not None:
        page = await store.list_users(100, page.next)
        total += len(page.users)
    await store.close()
    return total


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
async def test_processes_that_seed_at_once_make_each_user_once(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """All succeed, exactly one of them did it, and the table has exactly N rows."""
    url = f"sqlite:///{tmp_path}/new/users.sqlite3"
    if kind == "postgres":
        url = request.getfixturevalue("postgres_url")
    runs = await asyncio.to_thread(seed_at_once, url, processes=3, count=2000)
    assert [(code, err) for code, _, err in runs] == [(0, "")] * 3
    assert sorted("added 2000 demo users" in out for _, out, _ in runs) == [False, False, True]
    assert await count_users(url) == 2000


def test_seeding_twice_is_no_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The second run says that there was nothing to do."""
    arguments = ["--count", "5", "--database-url", f"sqlite:///{tmp_path}/users.sqlite3"]
    assert main(arguments) == 0
    assert main(arguments) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.endswith("added 5 demo users")
    assert "nothing to do" in second


@pytest.mark.parametrize("count", ["0", "-1", "1.5", "many", "1000001"])
def test_a_bad_count_exits_with_2(count: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The reason names the option."""
    with pytest.raises(SystemExit) as stop:
        main([f"--count={count}"])
    assert stop.value.code == 2
    assert "argument --count: must be a whole number" in capsys.readouterr().err


@pytest.mark.parametrize(
    "url",
    [
        "mysql://u:s3cret@db/x",
        "postgresql://u:s3cret@127.0.0.1:1/x",
        "postgresql://u:s3cret@host.invalid/x",
        "sqlite:////proc/nowhere/users.sqlite3",
        "sqlite:////dev/null",
    ],
)
def test_no_database_is_one_line_and_exit_code_2(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a traceback and without the password."""
    assert main(["--database-url", url]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("seed_users: ")
    assert err.count("\n") == 1
    assert "s3cret" not in err


def test_the_command_reads_database_url(tmp_path: Path) -> None:
    """And shows which database it was."""
    code, out, _ = wait_for_exit(
        start_python(f"sqlite:///{tmp_path}/users.sqlite3", "-m", "serve_app.seed_users", "--count", "2")
    )
    assert code == 0
    assert str(tmp_path) in out


def test_ctrl_c_ends_it_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as silent:

        def interrupt() -> None:
            connection, _ = silent.accept()
            with connection:
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
                ended.wait(HANG_S)

        interrupting = threading.Thread(target=interrupt)
        interrupting.start()
        try:
            assert main(["--database-url", f"postgresql://127.0.0.1:{silent.getsockname()[1]}/x"]) == 130
        finally:
            ended.set()
            interrupting.join()
    assert capsys.readouterr().err == "seed_users: interrupted\n"
