"""One engine for several replicas of a machine: a process that has it, and what stands for it in each replica.

A replica's event loop and interpreter lock take and decode some hundred pictures a second; a fast engine computes many
times that. So replicas take and decode, and send batches over a Unix socket; the engine's process puts together what
waits. One request on a connection is `<I` pictures, then their bytes, each (crop, crop, 3) of uint8. The answer is `<I`
_SCORES and float32 of shape (pictures, classes), or `<II` _FAULT, a length, and the reason as UTF-8.
"""

import logging
import math
import os
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serve_app.classifier.engines import MOST_AT_ONCE, MOST_FAILURES, STUCK_AFTER_S, Engine, has_answers
from serve_app.errors import NotReady, SetupError

logger = logging.getLogger(__name__)

LOST_WITHIN_S = 60.0
"""How long a replica waits for an engine process that has gone: a new one needs about 10 s."""

_MOST_LOSSES = 3
"""Engine processes that may end with the same batch: it may be what ends them."""

_SOCKET_BYTES = 4_194_304
_RETRY_S = 0.05
_NUMBER = struct.Struct("<I")
_SCORES, _FAULT = 0, 1

Pictures = NDArray[np.uint8]
Scores = NDArray[np.float32]


@dataclass(frozen=True)
class Shape:
    """What one picture and its scores are."""

    crop: int
    """Side of the square that the network gets, pixels."""
    classes: int

    def pictures(self, count: int) -> Pictures:
        """Return memory for so many pictures."""
        return np.empty((count, self.crop, self.crop, 3), np.uint8)

    def scores(self, count: int) -> Scores:
        """Return memory for the scores of so many pictures."""
        return np.empty((count, self.classes), np.float32)


@dataclass(eq=False)
class _Request:
    pictures: Pictures
    is_answered: threading.Event = field(default_factory=threading.Event)
    scores: Scores | None = None
    fault: str = ""


class EngineServer:
    """Computes what replicas send to a Unix socket, from `listen` until `close`.

    Requests are taken in the order in which they came; while all runs of the engine are under way, those that come are
    put together, up to `max_batch` pictures.
    """

    def __init__(self, engine: Engine, shape: Shape, max_batch: int) -> None:
        self._engine = engine
        self._shape = shape
        self._max_batch = max_batch
        self._waiting: deque[_Request] = deque()
        self._change = threading.Condition()
        self._began: dict[int, float] = {}
        self._connections = 0
        self._failures = 0
        """Batches that have failed since the last one that did not."""
        self._is_closed = False
        self._socket = socket.socket(socket.AF_UNIX)

    def listen(self, path: Path, start_thread: Callable[[Callable[[], None]], object]) -> None:
        """Answer at `path`, in place of a server that was there. `start_thread` starts those that run the engine.

        Raises OSError.
        """
        unfinished = path.with_name(str(os.getpid()))  # short: the system limits the length of the whole path
        self._socket.bind(str(unfinished))
        unfinished.chmod(0o600)  # nobody can connect before it listens
        self._socket.listen(socket.SOMAXCONN)
        unfinished.replace(path)
        for _ in range(self._engine.at_once):
            start_thread(self._run_batches)
        _start(self._accept)

    def check_ready(self) -> None:
        """Return if the engine computes what it is given. Raises NotReady when it hangs, or fails again and again."""
        if self.running_for_s > STUCK_AFTER_S:
            raise NotReady(f"the engine has not come back for {STUCK_AFTER_S} s; Serve will replace it")
        if self._failures >= MOST_FAILURES:
            raise NotReady(f"{self._failures} batches have failed one after the other; Serve will replace the engine")

    @property
    def running_for_s(self) -> float:
        """Seconds since the oldest batch that runs went to the engine; 0 between batches."""
        return max((time.monotonic() - began for began in list(self._began.values())), default=0.0)

    def wait_until_unused(self, within_s: float) -> None:
        """Return when no replica is connected, or `within_s` seconds have passed; at once if the engine is broken.

        Replicas stay connected to a broken engine, and send what they have to the next one only once this one ends.
        """
        try:
            self.check_ready()
        except NotReady:
            return
        with self._change:
            self._change.wait_for(lambda: not self._connections, within_s)

    def close(self) -> None:
        """Take no more requests and end the threads that run the engine, once they have computed what waits.

        A connection ends with its next request, which the replica sends to the engine that has this one's place.
        """
        with self._change:
            self._is_closed = True
            self._change.notify_all()
        with suppress(OSError):  # wakes the thread that accepts
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                connection, _ = self._socket.accept()
                _start(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError, EOFError):
            self._count(1)
            try:
                _widen(connection)
                memory = self._shape.pictures(self._max_batch)  # its pages are used again and again
                while True:
                    self._answer(connection, self._ask(self._receive(connection, memory)))
            finally:
                self._count(-1)

    def _count(self, change: int) -> None:
        with self._change:
            self._connections += change
            self._change.notify_all()

    def _receive(self, connection: socket.socket, memory: Pictures) -> Pictures:
        count = _receive_number(connection)
        if not 0 < count <= len(memory):
            raise EOFError
        _receive_into(connection, memory[:count])
        return memory[:count]

    def _ask(self, pictures: Pictures) -> _Request:
        request = _Request(pictures)
        with self._change:
            if self._is_closed:
                raise EOFError
            self._waiting.append(request)
            self._change.notify_all()
        request.is_answered.wait()
        return request

    def _answer(self, connection: socket.socket, request: _Request) -> None:
        if request.scores is not None:
            connection.sendall(_NUMBER.pack(_SCORES))
            connection.sendall(request.scores.data.cast("B"))
        else:
            reason = request.fault.encode()
            connection.sendall(_NUMBER.pack(_FAULT) + _NUMBER.pack(len(reason)) + reason)

    def _run_batches(self) -> None:
        while batch := self._next_batch():
            own = threading.get_ident()
            self._began[own] = time.monotonic()
            try:
                whole = batch[0].pictures if len(batch) == 1 else np.concatenate([each.pictures for each in batch])
                scores = np.ascontiguousarray(self._engine.infer(whole), np.float32)
                self._share_out(batch, scores)
                self._failures = 0 if has_answers(scores) else self._failures + 1
            except Exception as exc:
                logger.exception("a batch failed")
                self._failures += 1
                for request in batch:
                    request.fault = f"{type(exc).__name__}: {exc}"
            finally:
                del self._began[own]
                for request in batch:
                    request.is_answered.set()

    def _share_out(self, batch: list[_Request], scores: Scores) -> None:
        wanted = (sum(len(request.pictures) for request in batch), self._shape.classes)
        if scores.shape != wanted:
            raise RuntimeError(f"the engine gave scores of shape {scores.shape} instead of {wanted}")
        row = 0
        for request in batch:
            request.scores = scores[row : row + len(request.pictures)]
            row += len(request.pictures)

    def _next_batch(self) -> list[_Request]:
        """Return what waits, as far as it fits into one batch; nothing once the server is closed."""
        with self._change:
            while not self._waiting:
                if self._is_closed:
                    return []
                self._change.wait()
            batch = [self._waiting.popleft()]
            room = self._max_batch - len(batch[0].pictures)
            while self._waiting and len(self._waiting[0].pictures) <= room:
                batch.append(self._waiting.popleft())
                room -= len(batch[-1].pictures)
            return batch


class SharedEngine:
    """The engine of another process, as a replica sees it. A batch that is lost with that process is sent again."""

    at_once = MOST_AT_ONCE
    device = "cpu"
    has_tf32 = False
    is_lost = False
    """Whether there was none for the last batch, for LOST_WITHIN_S."""

    def __init__(self, path: Path, shape: Shape, *, within_s: float) -> None:
        """Connect to the server at `path`. Raises SetupError when none is there `within_s` seconds."""
        self._path = path
        self._shape = shape
        self._own = threading.local()
        self._connections: set[socket.socket] = set()
        try:
            self._drop(self._connect(time.monotonic() + within_s))
        except OSError as exc:
            raise SetupError(
                f"the engine that the replicas share is not there after {within_s:g} s ({exc}); "
                "the log of the deployment `Engine` says why"
            ) from exc

    def infer(self, pictures: Pictures) -> Scores:
        """See Engine.

        Raises RuntimeError with what the engine raised, or when one engine after the other ends with these pictures,
        and NotReady after LOST_WITHIN_S without an engine.
        """
        until_s = math.inf if hasattr(self._own, "connection") else time.monotonic() + LOST_WITHIN_S
        losses = 0
        while True:
            try:
                scores = self._exchange(self._connection(until_s), pictures)
                self.is_lost = False
                return scores
            except (OSError, EOFError) as exc:
                self._drop(vars(self._own).pop("connection", None))
                losses += isinstance(exc, EOFError)
                if losses >= _MOST_LOSSES:
                    raise RuntimeError(f"{losses} engines, one after the other, ended with this batch") from exc
                now = time.monotonic()
                until_s = min(until_s, now + LOST_WITHIN_S)
                if now > until_s:
                    self.is_lost = True
                    raise NotReady("the engine that the replicas share has gone; try again") from exc
                logger.warning("the engine that the replicas share was lost (%r); sending the batch again", exc)
                time.sleep(_RETRY_S)

    def close(self) -> None:
        """Leave the engine to others; not while batches are under way."""
        for connection in list(self._connections):
            self._drop(connection)

    def _connection(self, until_s: float) -> socket.socket:
        found: socket.socket | None = getattr(self._own, "connection", None)
        if found is None:
            found = self._own.connection = self._connect(until_s)
        return found

    def _drop(self, connection: socket.socket | None) -> None:
        if connection is not None:
            self._connections.discard(connection)
            connection.close()

    def _connect(self, until_s: float) -> socket.socket:
        while True:
            connection = socket.socket(socket.AF_UNIX)
            try:
                connection.connect(str(self._path))
            except OSError:
                connection.close()
                if time.monotonic() > until_s:
                    raise
                time.sleep(_RETRY_S)
            else:
                _widen(connection)
                self._connections.add(connection)
                return connection

    def _exchange(self, connection: socket.socket, pictures: Pictures) -> Scores:
        connection.sendall(_NUMBER.pack(len(pictures)))
        connection.sendall(np.ascontiguousarray(pictures).data.cast("B"))
        if _receive_number(connection) == _FAULT:
            reason = bytearray(_receive_number(connection))
            _receive_into(connection, np.frombuffer(reason, np.uint8))
            raise RuntimeError(reason.decode())
        scores = self._shape.scores(len(pictures))
        _receive_into(connection, scores)
        return scores


def _start(run: Callable[..., None], *args: object) -> None:
    threading.Thread(target=run, args=args, daemon=True).start()


def _widen(connection: socket.socket) -> None:
    """Let a batch pass in few calls; the system may give less."""
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        connection.setsockopt(socket.SOL_SOCKET, option, _SOCKET_BYTES)


def _receive_number(connection: socket.socket) -> int:
    received = np.empty(_NUMBER.size, np.uint8)
    _receive_into(connection, received)
    return int(_NUMBER.unpack(received.data)[0])


def _receive_into(connection: socket.socket, array: NDArray[np.generic]) -> None:
    """Fill `array`. Raises EOFError when the other side ends before."""
    view = array.data.cast("B")
    while view:
        received = connection.recv_into(view)
        if not received:
            raise EOFError("the connection has ended")
        view = view[received:]
