"""Locust's master of several load generators: `python -m loadtest.load.master SETTINGS` and then Locust's own options.

Started by `loadtest.load.generator`. It sends no requests: it tells the generators (`loadtest.load.worker`, which lists
the messages) what to do and when, and writes their rows into the files of the load, with all times on its own clock.
SETTINGS is RecorderSettings as JSON.
"""

from locust import events, runners  # first: importing it patches sockets and threads
from locust.main import main as run_locust

# isort: split
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import gevent
from gevent.event import Event
from locust.env import Environment
from locust.rpc import Message
from locust.runners import MasterRunner

from loadtest.load.clock import ClockOffset, corrected_request, corrected_second
from loadtest.load.generator import GENERATOR_LOST, GENERATORS_COME_S, LONGEST_SILENCE_S, RecorderSettings
from loadtest.load.recorder import exit_unless_written, set_weights, sleep_until, write_moments
from loadtest.rows.columns import GeneratorRow, RequestRow, RowWriter, column_names
from loadtest.rows.run_folder import ArrivalCounts, ClockRecord

_REFUSED = 1
_WATCH_EVERY_S = 1.0
_COLUMNS = [*column_names(RequestRow), *column_names(GeneratorRow)]

# The message must reach all generators by then; one that is short of CPU takes a while.
_LEAD_S = 0.5


@dataclass
class Member:
    """One generator, as the master knows it."""

    number: int
    clock: ClockOffset | None = None
    """None until it is known."""
    heard_s: float = field(default_factory=time.monotonic)
    """When its last message came."""
    has_ended: bool = False
    arrivals: ArrivalCounts | None = None


class Master:
    """The generators of one load, and the open files of their rows."""

    def __init__(self, settings: RecorderSettings) -> None:
        """Create the files. Raises OSError."""
        self._settings, self._load = settings, settings.load
        self._requests = RowWriter(self._load.requests, RequestRow, of_several=True)
        self._seconds = RowWriter(self._load.generator, GeneratorRow, of_several=True)
        self._members: dict[str, Member] = {}
        """By Locust's name of the connection."""
        self._all_known = Event()
        self._all_ended = Event()
        self._moments: dict[str, Any] = {}
        self._runner: MasterRunner

    def listen(self) -> None:
        """Have Locust call this master."""
        # Locust would share the users of a generator out anew that is not heard of for 4 s, and again when it is back.
        runners.HEARTBEAT_LIVENESS = sys.maxsize
        events.init.add_listener(self._prepare)
        events.spawning_complete.add_listener(self._all_have_come)

    def _prepare(self, environment: Environment, runner: MasterRunner, **_: object) -> None:
        for user_class in environment.user_classes:
            set_weights(user_class, self._settings.workload.endpoints)  # to end here, if it is to end at that
        self._runner = runner
        runner.register_message("hello", self._take_in)
        runner.register_message("clock", self._tell_time)
        runner.register_message("known_clock", self._know_clock)
        runner.register_message("rows", self._write_rows)
        runner.register_message("ended", self._note_end)
        # After the locustfile's own listeners, as in the generators.
        events.test_start.add_listener(self._begin)
        gevent.spawn(self._await_all)

    def _await_all(self) -> None:
        if not self._all_known.wait(GENERATORS_COME_S):
            known = sum(member.clock is not None for member in self._members.values())
            come = f"only {known} of {self._settings.generators} load generators came within {GENERATORS_COME_S:g} s"
            remedy = f": run `python -m loadtest generator --master {self._settings.address}` on their machines"
            _end_with(_REFUSED, come + (remedy if self._settings.address else ""))

    def _take_in(self, msg: Message, **_: object) -> None:
        if self._all_ended.is_set():
            return  # it came early for the next load, and will come again
        if msg.data["columns"] != _COLUMNS:
            _end_with(_REFUSED, "a load generator has another version of the kit: install the same one there")
        number = msg.data["number"] or len(self._members) + 1
        if number > self._settings.generators:
            told = f"more than {self._settings.generators} load generators came"
            _end_with(_REFUSED, f"{told}: end those that are too many, or raise generators in the plan")
        self._members[msg.node_id] = Member(number)
        settings = self._settings.model_copy(update={"number": number}).model_dump(mode="json")
        self._runner.send_message("settings", settings, msg.node_id)

    def _tell_time(self, msg: Message, **_: object) -> None:
        received_s = time.time()
        if msg.node_id in self._members:
            answer = {**msg.data, "received_s": received_s, "answered_s": time.time()}
            self._runner.send_message("clock", answer, msg.node_id)

    def _know_clock(self, msg: Message, **_: object) -> None:
        self._members[msg.node_id].clock = ClockOffset(**msg.data)
        known = sum(member.clock is not None for member in self._members.values())
        if known == self._settings.generators:
            self._all_known.set()

    def _begin(self, **_: object) -> None:
        self._all_known.wait()
        self._moments["started_unix_s"] = time.time()
        for member in self._members.values():
            member.heard_s = time.monotonic()
        gevent.spawn(self._watch_members)
        gevent.spawn(self._end_the_load, time.monotonic() + self._load.duration_s)

    def _all_have_come(self, **_: object) -> None:
        # Those of an open loop only wait until the schedule begins.
        is_open = self._settings.workload.rate_rps is not None
        unix_s = time.time() + (_LEAD_S if is_open else 0.0)
        self._moments.setdefault("spawned_unix_s", unix_s)
        if is_open:
            self._runner.send_message("begin", {"unix_s": unix_s})

    def _end_the_load(self, due_s: float) -> None:
        sleep_until(due_s)
        self._moments["stopping_unix_s"] = time.time()
        self._runner.send_message("end", {"unix_s": self._moments["stopping_unix_s"]})
        self._all_ended.wait()
        self._moments["stopped_unix_s"] = time.time()
        self._moments["arrivals"] = add_up_arrivals([member.arrivals for member in self._members.values()])
        self._moments["clocks"] = self._clocks()
        with exit_unless_written():
            self._requests.close()
            self._seconds.close()
        write_moments(self._load, self._moments)
        self._runner.quit()

    def _clocks(self) -> list[ClockRecord]:
        members = sorted(self._members.values(), key=lambda member: member.number)
        return [
            ClockRecord(generator=one.number, ahead_s=one.clock.ahead_s, uncertainty_s=one.clock.uncertainty_s)
            for one in members
            if one.clock is not None
        ]

    def _write_rows(self, msg: Message, **_: object) -> None:
        member = self._members.get(msg.node_id)
        if member is None or member.clock is None:
            return
        member.heard_s = time.monotonic()
        number, ahead_s = member.number, member.clock.ahead_s
        with exit_unless_written():
            for values in msg.data.get("requests", ()):
                self._requests.write(corrected_request(RequestRow(*values), number, ahead_s))
            for values in msg.data.get("seconds", ()):
                self._seconds.write_now([corrected_second(GeneratorRow(*values), number, ahead_s)])

    def _note_end(self, msg: Message, **_: object) -> None:
        member = self._members[msg.node_id]
        member.has_ended, arrivals = True, msg.data["arrivals"]
        member.arrivals = arrivals and ArrivalCounts.model_validate(arrivals)
        if all(one.has_ended for one in self._members.values()):
            self._all_ended.set()

    def _watch_members(self) -> None:
        while not self._all_ended.is_set():
            gevent.sleep(_WATCH_EVERY_S)
            for member in self._members.values():
                if not member.has_ended and time.monotonic() - member.heard_s > LONGEST_SILENCE_S:
                    name = f"load generator {member.number} of {self._settings.generators}"
                    _end_with(GENERATOR_LOST, f"{name} sent nothing for {LONGEST_SILENCE_S:g} s in mid-load")


def add_up_arrivals(parts: Sequence[ArrivalCounts | None]) -> ArrivalCounts | None:
    """Return what became of the arrivals of all generators together; None in a closed loop."""
    known = [part for part in parts if part is not None]
    if not known:
        return None
    return ArrivalCounts(
        due=sum(part.due for part in known),
        queued=sum(part.queued for part in known),
        unsent=sum(part.unsent for part in known),
    )


def _end_with(code: int, words: str) -> NoReturn:
    print(words, file=sys.stderr, flush=True)
    os._exit(code)


if __name__ == "__main__":
    Master(RecorderSettings.model_validate_json(sys.argv.pop(1))).listen()
    run_locust()
