"""The client's jobs mode against the API it was made for: the real routes, engine and Redis, over HTTP."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from serve_app.classifier.api import build_model_api
from serve_app.classifier.classifier import Classifier
from serve_app.client.__main__ import main
from serve_app.jobs.api import add_job_routes
from serve_app.metrics import JOBS_SUBMITTED
from tests.conftest import Fitted
from tests.jobs import Desk, replica
from tests.patience import HANG_S
from tests.redis_server import RedisServer
from tests.served_api import served

Ended = tuple[int | None, str, str]
"""Exit code, standard output and standard error."""
Client = Callable[..., Awaitable[Ended]]

INSIST = ("--give-up-after", str(HANG_S))


@pytest.fixture(scope="module")
async def desk(classifier: Classifier, redis_server: RedisServer) -> AsyncIterator[Desk]:
    async with replica(classifier, redis_server.url) as opened:
        yield opened


@pytest.fixture(scope="module")
async def server(desk: Desk) -> AsyncIterator[str]:
    async with served(desk.api) as url:
        yield url


@pytest.fixture(scope="module")
def known(fitted: Fitted) -> dict[str, bytes]:
    """Return some of the known pictures by their labels, in the order of these."""
    return dict(sorted(fitted.pictures.items())[:4])


@pytest.fixture
def pictures(tmp_path: Path, known: dict[str, bytes]) -> Path:
    """Return a folder with the known pictures and a broken one."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for label, data in known.items():
        (folder / f"{label}.jpg").write_bytes(data)
    (folder / "zz.jpg").write_bytes(b"\xff\xd8\xff no picture")
    return folder


@pytest.fixture
def client(capsys: pytest.CaptureFixture[str]) -> Client:
    """Return what runs the client in this process."""

    async def run(server: str, *arguments: str | Path) -> Ended:
        code = await asyncio.to_thread(main, ["--server", server, *INSIST, *map(str, arguments)])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


async def client_process(server: str, *arguments: str | Path) -> Ended:
    """Run it as a user does."""
    command = [sys.executable, "-m", "serve_app.client", "--server", server, *INSIST, *map(str, arguments)]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe)
    out, err = await asyncio.wait_for(process.communicate(), 2 * HANG_S)
    return process.returncode, out.decode(), err.decode()


async def test_a_folder_becomes_jobs_and_the_same_command_finds_them_again(
    server: str, desk: Desk, pictures: Path, known: dict[str, bytes], client: Client
) -> None:
    before = desk.counted.of(JOBS_SUBMITTED)[""]
    for run in (client, client_process):
        code, out, err = await run(server, pictures, "--jobs", "--batch", "2", "--format", "jsonl", "--top-k", "2")
        *good, broken = [json.loads(line) for line in out.splitlines()]
        assert code == 1, err
        assert [answer["prediction"]["prediction"] for answer in good] == list(known)
        assert {len(answer["prediction"]["predictions"]) for answer in good} == {2}
        assert broken["error"]["code"] == "unreadable_image"
        assert f"{len(good)} classified, 1 failed" in err
    # The last of the three holds nothing but the broken picture, so it has failed and is made anew.
    assert desk.counted.of(JOBS_SUBMITTED)[""] == before + 3 + 1


async def test_a_job_is_fetched_by_its_id_and_one_that_has_ended_cannot_be_cancelled(
    server: str, desk: Desk, known: dict[str, bytes], client: Client
) -> None:
    job = await desk.accepted(*known.values())
    code, out, err = await client(server, "--job", job, "--format", "jsonl")
    assert code == 0, err
    assert [json.loads(line)["prediction"]["prediction"] for line in out.splitlines()] == list(known)
    code, out, err = await client(server, "--job", job, "--cancel")
    assert (code, out) == (1, "")
    assert "it has already ended" in err


async def test_a_service_without_redis_says_so_and_pictures_need_no_jobs(
    classifier: Classifier, pictures: Path, client: Client
) -> None:
    api = build_model_api(classifier)
    add_job_routes(api, classifier.settings, None)
    async with served(api) as server:
        code, out, err = await client(server, pictures, "--jobs", "--retries", "0")
    assert (code, out) == (2, "")
    assert "--jobs: this service has no queue: its operator must set REDIS_URL" in err
    assert "predictions without --jobs work" in err
