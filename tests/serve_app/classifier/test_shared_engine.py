"""One engine for several replicas, over a real socket: each gets its own rows back, whatever happens to the engine."""

import asyncio
import os
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest

from serve_app.cache.settings import CacheSettings
from serve_app.classifier import shared_engine
from serve_app.classifier.admission import Admission
from serve_app.classifier.batcher import BatchLimits, MicroBatcher
from serve_app.classifier.classifier import Classifier, _Pools, stuck_after_s
from serve_app.classifier.engines import MOST_FAILURES, STUCK_AFTER_S
from serve_app.classifier.model_cache import Manifest, PreparedModel
from serve_app.classifier.settings import ClassifierSettings
from serve_app.classifier.shared_engine import EngineServer, Shape, SharedEngine
from serve_app.errors import NotReady, SetupError
from tests.counted import Counted
from tests.patience import HANG_S, until

SHAPE = Shape(crop=2, classes=3)
MAX_BATCH = 6
Connect = Callable[[], SharedEngine]
SERVER = """
import sys
from pathlib import Path
from concurrent.futures import ThreadPoolExecutor
from tests.serve_app.classifier.test_shared_engine import MAX_BATCH, SHAPE, Echo
from serve_app.classifier.shared_engine import EngineServer

EngineServer(Echo(), SHAPE, MAX_BATCH).listen(Path(sys.argv[1]), ThreadPoolExecutor(1).submit)
print("there", flush=True)
sys.stdin.read()
"""


class Echo:
    """Says of each picture its first value, three times."""

    at_once = 1
    device = "cpu"
    has_tf32 = False

    def infer(self, pictures: np.ndarray) -> np.ndarray:
        if 13 in pictures[:, 0, 0, 0]:
            raise FloatingPointError("thirteen")
        return np.repeat(pictures[:, :1, 0, 0], SHAPE.classes, axis=1).astype(np.float32)


class Held(Echo):
    """Holds each batch until it is let go, and keeps how large each was."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.go = threading.Semaphore(0)

    def infer(self, pictures: np.ndarray) -> np.ndarray:
        self.sizes.append(len(pictures))
        assert self.go.acquire(timeout=HANG_S)
        return super().infer(pictures)


def pictures(*values: int) -> np.ndarray:
    made = SHAPE.pictures(len(values))
    made[:] = np.array(values, np.uint8)[:, None, None, None]
    return made


def ask(engine: SharedEngine, *values: int) -> list[int]:
    scores = engine.infer(pictures(*values))
    assert scores.shape == (len(values), SHAPE.classes)
    return [int(value) for value in scores[:, 0]]


@pytest.fixture
def path(short_folder: Path) -> Path:
    return short_folder / "engine"


@contextmanager
def listening(engine: Echo, path: Path) -> Iterator[EngineServer]:
    server = EngineServer(engine, SHAPE, MAX_BATCH)
    with ThreadPoolExecutor(engine.at_once) as threads:
        server.listen(path, threads.submit)
        try:
            yield server
        finally:
            server.close()


@contextmanager
def other_process(path: Path) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-c", SERVER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == "there\n"
            yield server
        finally:
            server.kill()


@pytest.fixture
def connect(path: Path) -> Iterator[Callable[[], SharedEngine]]:
    """What connects a replica."""
    engines: list[SharedEngine] = []

    def connected() -> SharedEngine:
        engines.append(SharedEngine(path, SHAPE, within_s=HANG_S))
        return engines[-1]

    yield connected
    for engine in engines:
        engine.close()


def test_each_replica_gets_the_rows_of_its_own_pictures(path: Path, connect: Connect) -> None:
    with listening(Echo(), path), ThreadPoolExecutor(8) as replicas:
        engines = [connect() for _ in range(4)]
        batches = [[(7 * number + place) % 200 + 20 for place in range(number % 6 + 1)] for number in range(200)]
        found = replicas.map(lambda number: ask(engines[number % 4], *batches[number]), range(200))
        assert list(found) == batches


async def test_what_waits_meanwhile_is_put_together_up_to_the_largest_batch(path: Path, connect: Connect) -> None:
    engine = Held()
    with listening(engine, path) as server, ThreadPoolExecutor(8) as replicas:
        first = replicas.submit(ask, connect(), 1)
        await until(lambda: engine.sizes == [1], "the first batch")
        others = []
        for values in ((2, 3), (4, 5, 6), (7, 8)):  # 5 of the 6 that fit, and 2 that do not
            others.append(replicas.submit(ask, connect(), *values))
            await until(lambda: len(server._waiting) == len(others), "the next request")
        engine.go.release(3)
        assert [each.result(HANG_S) for each in (first, *others)] == [[1], [2, 3], [4, 5, 6], [7, 8]]
    assert engine.sizes == [1, 5, 2]


def test_a_batch_that_fails_says_why_and_the_next_one_is_computed(path: Path, connect: Connect) -> None:
    with listening(Echo(), path):
        engine = connect()
        with pytest.raises(RuntimeError, match="FloatingPointError: thirteen"):
            ask(engine, 13, 1)
        assert ask(engine, 14) == [14]


def test_scores_of_another_network_are_an_error(path: Path, connect: Connect) -> None:
    class TwoClasses(Echo):
        def infer(self, pictures: np.ndarray) -> np.ndarray:
            return super().infer(pictures)[:, :2]

    with listening(TwoClasses(), path), pytest.raises(RuntimeError, match=r"shape \(1, 2\) instead of \(1, 3\)"):
        ask(connect(), 1)


def test_a_batch_that_dies_with_the_engine_is_sent_to_the_next_one(path: Path, connect: Connect) -> None:
    """kill -9 while batches are under way; the next process comes a moment later, at the same place."""
    with other_process(path) as server, ThreadPoolExecutor(4) as replicas:
        engines = [connect() for _ in range(4)]
        go_on = threading.Event()

        def ask_on(engine: SharedEngine) -> int:
            asked = 0
            while not go_on.is_set() or asked < 50:
                assert ask(engine, asked % 10, 99) == [asked % 10, 99]
                asked += 1
            return asked

        asking = [replicas.submit(ask_on, engine) for engine in engines]
        server.kill()
        server.wait()
        with other_process(path):
            assert ask(connect(), 5) == [5]
            go_on.set()
            assert all(each.result(HANG_S) >= 50 for each in asking)


async def test_a_replica_that_goes_in_the_middle_of_a_batch_disturbs_no_other(path: Path, connect: Connect) -> None:
    engine = Held()
    with listening(engine, path) as server, ThreadPoolExecutor(1) as replicas:
        with socket.socket(socket.AF_UNIX) as broken:
            broken.connect(str(path))
            broken.sendall(b"\x02\x00\x00\x00" + bytes(5))  # two pictures are announced
        with socket.socket(socket.AF_UNIX) as gone:
            gone.connect(str(path))
            gone.sendall(b"\x01\x00\x00\x00" + pictures(9).tobytes())
            await until(lambda: engine.sizes == [1], "the first batch")
        asked = replicas.submit(ask, connect(), 4)
        engine.go.release(2)
        assert asked.result(HANG_S) == [4]
        assert server.running_for_s == 0


@pytest.mark.parametrize("count", [0, MAX_BATCH + 1, 2**32 - 1])
def test_a_number_of_pictures_that_cannot_be_ends_the_connection(path: Path, connect: Connect, count: int) -> None:
    with listening(Echo(), path):
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(HANG_S)
            client.connect(str(path))
            client.sendall(count.to_bytes(4, "little"))
            assert client.recv(1) == b""
        assert ask(connect(), 1) == [1]


def test_no_engine_is_one_line_that_says_where_to_look(path: Path) -> None:
    with pytest.raises(SetupError, match=r"not there after 0\.1 s .*the log of the deployment `Engine` says why"):
        SharedEngine(path, SHAPE, within_s=0.1)


def test_an_engine_that_does_not_come_back_is_an_error(
    path: Path, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_engine, "LOST_WITHIN_S", 0.2)
    with other_process(path):
        engine = connect()
        original = engine._connect
        assert ask(engine, 1) == [1]
    with pytest.raises(NotReady, match="the engine that the replicas share has gone; try again"):
        ask(engine, 2)
    # A thread that had no connection yet waits as long, not twice.
    limits_s: list[float] = []

    def connect_until(until_s: float) -> socket.socket:
        limits_s.append(until_s)
        return original(until_s)

    monkeypatch.setattr(engine, "_connect", connect_until)
    with ThreadPoolExecutor(1) as threads, pytest.raises(NotReady):
        threads.submit(ask, engine, 2).result(HANG_S)
    assert len(set(limits_s)) == 1
    assert engine.is_lost
    with other_process(path):
        assert ask(engine, 3) == [3]
    assert not engine.is_lost


def test_an_engine_that_is_replaced_goes_on_until_its_replicas_have_gone(path: Path, connect: Connect) -> None:
    with listening(Echo(), path) as old:
        engine = connect()
        assert ask(engine, 1) == [1]
        with listening(Echo(), path):  # the next one has its place now
            assert ask(engine, 2) == [2]
            waiting = threading.Thread(target=old.wait_until_unused, args=(HANG_S,))
            waiting.start()
            assert ask(engine, 3) == [3]
            assert waiting.is_alive()
            engine.close()
            waiting.join(HANG_S)
            assert not waiting.is_alive()
            assert ask(connect(), 4) == [4]


def replica_of(engine: SharedEngine | Echo, *, shared_engine: bool = True) -> Classifier:
    settings = ClassifierSettings(cache=CacheSettings(store="off"), shared_engine=shared_engine)
    manifest = Manifest(name="echo", weights="random", weights_sha256=None, labels_from="placeholder", labels=["a"])
    prepared = PreparedModel(folder=Path(), manifest=manifest, fingerprint="echo")
    admission = Admission(settings, Counted(), picture_s=0.1)
    pools = _Pools(settings)
    batcher = MicroBatcher(engine.infer, pools.engine, BatchLimits(MAX_BATCH), admission.learn)
    replica = Classifier(settings, prepared, pools, batcher, admission)
    replica.engine = engine
    return replica


async def test_a_replica_that_closes_leaves_the_engine(path: Path, connect: Connect) -> None:
    with listening(Echo(), path) as server:
        replica = replica_of(connect())
        [picture] = pictures(7)
        assert list((await replica._batcher.infer(picture)).scores) == [7, 7, 7]
        await until(lambda: server._connections == 1, "that the replica alone is connected")
        await replica.close()
        await until(lambda: server._connections == 0, "that the replica has left")


async def test_a_batch_that_is_under_way_when_its_replica_closes_is_not_sent_again(
    path: Path, connect: Connect
) -> None:
    engine = Held()
    with listening(engine, path):
        replica = replica_of(connect())
        [picture] = pictures(7)
        asked = asyncio.create_task(replica._batcher.infer(picture))
        await until(lambda: engine.sizes, "that the engine has the batch")
        await replica.close()
        with pytest.raises(NotReady):
            await asked
        for _ in range(2):
            engine.go.release()
        await asyncio.to_thread(replica._pools.engine.shutdown)
        assert engine.sizes == [1]


def test_what_comes_after_the_end_of_an_engine_goes_to_the_next_one(path: Path, connect: Connect) -> None:
    with listening(Echo(), path) as old:
        engine = connect()
        assert ask(engine, 1) == [1]
        with listening(Echo(), path):
            old.close()
            assert ask(engine, 2) == [2]  # on a connection of before, it would wait for ever


def test_an_engine_that_fails_again_and_again_is_not_ready(path: Path, connect: Connect) -> None:
    with listening(Echo(), path) as server:
        engine = connect()
        for value in [*[13] * (MOST_FAILURES - 1), 1, *[13] * (MOST_FAILURES - 1)]:
            with suppress(RuntimeError):
                ask(engine, value)
            server.check_ready()
        with pytest.raises(RuntimeError, match="thirteen"):
            ask(engine, 13)
        with pytest.raises(NotReady, match="20 batches have failed one after the other"):
            server.check_ready()


def test_an_engine_without_a_number_is_not_ready(path: Path, connect: Connect) -> None:
    class Broken(Echo):
        def infer(self, pictures: np.ndarray) -> np.ndarray:
            return np.full((len(pictures), SHAPE.classes), np.nan, np.float32)

    with listening(Broken(), path) as server:
        engine = connect()
        for _ in range(MOST_FAILURES):
            server.check_ready()
            engine.infer(pictures(1))
        with pytest.raises(NotReady):
            server.check_ready()


@pytest.mark.parametrize("is_shared", [False, True])
async def test_a_replica_is_not_ready_when_an_engine_of_its_own_fails_again_and_again(*, is_shared: bool) -> None:
    replica = replica_of(Echo(), shared_engine=is_shared)
    [picture] = pictures(13)
    for _ in range(MOST_FAILURES):
        replica.check_ready()
        with pytest.raises(FloatingPointError):
            await replica._batcher.infer(picture)
    if is_shared:  # the engine itself is replaced
        replica.check_ready()
    else:
        with pytest.raises(NotReady, match="20 batches have failed one after the other"):
            replica.check_ready()
    await replica.close()


def test_a_broken_engine_does_not_wait_for_its_replicas(path: Path, connect: Connect) -> None:
    with listening(Echo(), path) as broken:
        engine = connect()
        for _ in range(MOST_FAILURES):
            with suppress(RuntimeError):
                ask(engine, 13)
        with listening(Echo(), path):
            waiting = threading.Thread(target=broken.wait_until_unused, args=(10 * HANG_S,))
            waiting.start()
            waiting.join(HANG_S)
            assert not waiting.is_alive()
            broken.close()
            assert ask(engine, 2) == [2]


def test_a_batch_with_which_three_engines_end_is_given_up(path: Path, connect: Connect) -> None:
    ended = []

    def end_with_each_batch(engines: socket.socket) -> None:
        with engines:
            for _ in range(3):
                connection, _ = engines.accept()
                with connection:
                    shared_engine._receive_into(connection, np.empty(4 + SHAPE.pictures(1).nbytes, np.uint8))
                ended.append(connection)

    with socket.socket(socket.AF_UNIX) as engines:
        engines.bind(str(path))
        engines.listen()
        engine = connect()
        engines.accept()[0].close()  # the first connection only looks whether an engine is there
        thread = threading.Thread(target=end_with_each_batch, args=(engines,))
        thread.start()
        with pytest.raises(RuntimeError, match="3 engines, one after the other, ended with this batch"):
            ask(engine, 5)
        thread.join(HANG_S)
    assert len(ended) == 3


def test_replicas_outlast_an_engine_that_is_found_stuck_and_replaced() -> None:
    assert stuck_after_s(ClassifierSettings()) == STUCK_AFTER_S
    least_s = STUCK_AFTER_S + 3 * 10 + shared_engine.LOST_WITHIN_S  # Serve asks thrice, every 10 s
    assert stuck_after_s(ClassifierSettings(shared_engine=True)) > least_s


@pytest.fixture
def no_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.usefixtures("no_umask")
def test_the_socket_is_for_this_user_alone_whatever_the_umask_is(path: Path) -> None:
    with listening(Echo(), path):
        assert os.listdir(path.parent) == [path.name]  # noqa: PTH208 the name alone
        assert path.is_socket()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
