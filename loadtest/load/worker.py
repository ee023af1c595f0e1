"""One of several load generators: `python -m loadtest.load.worker NUMBER` and then Locust's options of a worker.

Started by `loadtest.load.generator` on this machine, and by `python -m loadtest generator` on others, there with the
NUMBER 0: the master chooses. The master (`loadtest.load.master`) and the generators talk by Locust's messages:

    generator: hello         its number, and the columns of its rows
    master:    settings      RecorderSettings, with its number
    both:      clock         a question and its answer, EXCHANGES times
    generator: known_clock   what came of that
    master:    spawn         Locust's own, with no users, when all clocks are known: the locustfile prepares itself
    generator: ready         after these
    master:    start         all are ready and the load begins; how many users the generators before this one have
    master:    begin         when the schedule of an open loop begins
    generator: rows          at least once a second
    master:    end           no new requests from now on
    both:      clock         again
    generator: ended         after its last answer and row: how many rows it sent, and what its clock is now
"""

import loadtest.load.quick_import  # noqa: F401  # first: Locust patches sockets and threads

# isort: split
from locust import events

# isort: split
import os
import sys
import time
from dataclasses import asdict
from typing import Any

import gevent
from gevent.queue import Queue
from locust.env import Environment
from locust.rpc import Message
from locust.runners import WorkerRunner

from loadtest.load.clock import EXCHANGES, ClockOffset, Exchange, estimate_offset
from loadtest.load.generator import LONGEST_SILENCE_S, MASTER_LOST, RecorderSettings
from loadtest.load.recorder import Recorder, exit_unless_written, run_locust
from loadtest.rows.columns import AnyRow, GeneratorRow, RequestRow, column_names, read_values

_MOST_ROWS = 200
_WATCH_EVERY_S = 1.0


class Outbox:
    """Rows of one kind on their way to the master: sent when there are many, and with every flush."""

    def __init__(self, runner: WorkerRunner, name: str, kind: type[AnyRow]) -> None:
        """Send them under `name`."""
        self._runner = runner
        self._name = name
        self._values = read_values(kind)
        self._rows: list[tuple[Any, ...]] = []
        self.count = 0
        """Of all rows added."""

    def write(self, row: AnyRow) -> None:
        """Add a row."""
        self.count += 1
        self._rows.append(self._values(row))
        if len(self._rows) >= _MOST_ROWS:
            self.flush()

    def flush(self) -> None:
        """Send what there is."""
        if self._rows:
            rows, self._rows = self._rows, []
            self._runner.send_message("rows", {self._name: rows})

    def close(self) -> None:
        """Send the last rows."""
        self.flush()


class Worker:
    """A generator that does what the master says."""

    def __init__(self, number: int) -> None:
        """Wait for Locust; `number` is 0 where the master chooses it."""
        self._number = number
        self._runner: WorkerRunner
        self._recorder: Recorder
        self._outboxes: list[Outbox] = []
        self._answers: Queue[Exchange] = Queue()
        self._clock: ClockOffset
        self._heard_s = time.monotonic()

    def listen(self) -> None:
        """Have Locust call this generator."""
        events.init.add_listener(self._say_hello)
        events.heartbeat_received.add_listener(self._hear)

    def _say_hello(self, runner: WorkerRunner, **_: object) -> None:
        self._runner = runner
        runner.last_heartbeat_timestamp = time.time()  # Locust would wait forever for the first
        runner.register_message("settings", self._take_settings, concurrent=True)
        runner.register_message("clock", self._take_time)
        runner.register_message("start", self._start)
        runner.register_message("begin", self._begin_arrivals)
        runner.register_message("end", self._end, concurrent=True)
        columns = [*column_names(RequestRow), *column_names(GeneratorRow)]
        runner.send_message("hello", {"number": self._number, "columns": columns})

    def _hear(self, **_: object) -> None:
        self._heard_s = time.monotonic()

    def _watch_master(self) -> None:
        while time.monotonic() - self._heard_s < LONGEST_SILENCE_S:
            gevent.sleep(_WATCH_EVERY_S)
        print(f"nothing was heard of the master for {LONGEST_SILENCE_S:g} s", file=sys.stderr, flush=True)
        os._exit(MASTER_LOST)

    def _take_settings(self, environment: Environment, msg: Message) -> None:
        settings = RecorderSettings.model_validate(msg.data)
        requests, seconds = Outbox(self._runner, "requests", RequestRow), Outbox(self._runner, "seconds", GeneratorRow)
        self._outboxes = [requests, seconds]
        self._recorder = Recorder(settings, requests, seconds)
        self._recorder.employ(environment)
        # After the locustfile's own listeners, which make its preparations.
        events.test_start.add_listener(lambda **_: self._runner.send_message("ready"))
        if self._number == 0:
            print(f"load generator {settings.number} of {settings.generators}", file=sys.stderr, flush=True)
        self._clock = self._compare_clocks()
        self._runner.send_message("known_clock", asdict(self._clock))

    def _compare_clocks(self) -> ClockOffset:
        exchanges = []
        for _ in range(EXCHANGES):
            self._runner.send_message("clock", {"asked_s": time.time()})
            exchanges.append(self._answers.get())
        return estimate_offset(exchanges)

    def _take_time(self, msg: Message, **_: object) -> None:
        self._answers.put(Exchange(**msg.data, heard_s=time.time()))

    def _start(self, environment: Environment, msg: Message) -> None:
        # Before, this process may have been too busy with its preparations to hear the master.
        self._heard_s = time.monotonic()
        gevent.spawn(self._watch_master)
        self._recorder.begin(environment, msg.data["users_before"])

    def _begin_arrivals(self, msg: Message, **_: object) -> None:
        self._recorder.begin_arrivals(msg.data["unix_s"] + self._clock.ahead_s - time.time())

    def _end(self, environment: Environment, msg: Message) -> None:
        self._recorder.end_arrivals(msg.data["unix_s"] + self._clock.ahead_s)
        arrivals = self._recorder.send_the_rest()
        all_sent_s = time.monotonic()
        self._runner.stop()
        waited_s = None if arrivals is None else time.monotonic() - all_sent_s
        self._recorder.close(environment)
        ended = {
            "rows": sum(outbox.count for outbox in self._outboxes),
            "clock": asdict(self._compare_clocks()),
            "arrivals": arrivals and arrivals.model_dump(),
            "waited_s": waited_s,
        }
        with exit_unless_written():
            self._runner.send_message("ended", ended)


if __name__ == "__main__":
    Worker(int(sys.argv.pop(1))).listen()
    run_locust()
