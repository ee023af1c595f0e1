"""Locust's master of several load generators: `python -m loadtest.load.master SETTINGS` and then Locust's own options.

Started by `loadtest.load.generator`. It sends no requests: it tells the generators (`loadtest.load.worker`, which lists
the messages) what to do and when, and writes their rows into the files of the load, with all times on its own clock.
SETTINGS is RecorderSettings as JSON.
"""

import loadtest.load.quick_import  # noqa: F401  # first: Locust patches sockets and threads

# isort: split
from locust import events, runners

# isort: split
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import gevent
from gevent.event import Event
from locust import User
from locust.dispatch import UsersDispatcher
from locust.env import Environment
from locust.rpc import Message
from locust.runners import MasterRunner, WorkerNode

from loadtest.load.clock import ClockOffset, bound_uncertainty_s, corrected_request, corrected_second
from loadtest.load.generator import (
    GENERATOR_LOST,
    GENERATORS_COME_S,
    GENERATORS_READY_S,
    LONGEST_SILENCE_S,
    ROWS_LOST,
    RecorderSettings,
)
from loadtest.load.recorder import exit_unless_written, run_locust, set_weights, sleep_until, write_moments
from loadtest.plan.generators import tell_how_to_start
from loadtest.rows.columns import GeneratorRow, RequestRow, RowWriter, column_names
from loadtest.rows.run_folder import ArrivalCounts, ClockRecord

_REFUSED = 1
_POLL_S = 0.1
_WATCH_EVERY_S = 1.0
_COLUMNS = [*column_names(RequestRow), *column_names(GeneratorRow)]

# The message must reach all generators by then; one that is short of CPU takes a while.
_LEAD_S = 0.5

# Since the last heartbeat, of which there is one a second, of a generator that the load may begin with.
_MOST_SILENCE_S = 3.0


@dataclass
class Member:
    """One generator, as the master knows it."""

    number: int = 0
    """0 until it has said hello."""
    clock: ClockOffset | None = None
    """None until it is known."""
    clock_at_end: ClockOffset | None = None
    heard_s: float = field(default_factory=time.monotonic)
    """When its last sign of life came."""
    is_ready: bool = False
    has_ended: bool = False
    rows: int = 0
    """Written up to now."""
    arrivals: ArrivalCounts | None = None
    waited_s: float | None = None
    """As in Moments."""

    @property
    def silent_s(self) -> float:
        """Return how long ago its last sign of life came."""
        return time.monotonic() - self.heard_s


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
        self._all_ready = Event()
        self._all_ended = Event()
        self._moments: dict[str, Any] = {}
        self._runner: MasterRunner
        self._handle: Callable[[str, Message], None]

    def listen(self) -> None:
        """Have Locust call this master."""
        # Locust would share the users of a generator out anew that is not heard of for 4 s, and again when it is back.
        runners.HEARTBEAT_LIVENESS = sys.maxsize
        events.init.add_listener(self._prepare)
        events.spawning_complete.add_listener(self._all_have_come)

    @property
    def _has_begun(self) -> bool:
        return "started_unix_s" in self._moments

    def _prepare(self, environment: Environment, runner: MasterRunner, **_: object) -> None:
        for user_class in environment.user_classes:
            set_weights(user_class, self._settings.workload.endpoints)  # to end here, if it is to end at that
        self._runner = runner
        self._handle, runner.handle_message = runner.handle_message, self._hear  # type: ignore[method-assign]
        runner.register_message("hello", self._take_in)
        runner.register_message("clock", self._tell_time)
        runner.register_message("known_clock", self._know_clock)
        runner.register_message("ready", self._note_ready)
        runner.register_message("rows", self._write_rows)
        runner.register_message("ended", self._note_end)
        # After the locustfile's own listeners, as in the generators.
        events.test_start.add_listener(self._begin)
        gevent.spawn(self._await_all)

    def _hear(self, client_id: str, msg: Message) -> None:
        """Hand a message to Locust, unless it is of a generator too many: it asks again, and the next master answers.

        Locust would give it users of the others, also in mid-load.
        """
        member = self._members.get(client_id)
        if member is None:
            if msg.type not in {"locustfile", "client_ready"} or not self._has_room():
                return
            if msg.type == "client_ready":
                self._members[client_id] = Member()
        elif msg.type == "quit" and not member.has_ended:
            self._note_quit(client_id, member)
            return
        elif msg.type == "rows" or not self._has_begun:
            # In mid-load, only rows count: the generator's last message may have been lost.
            member.heard_s = time.monotonic()
        self._handle(client_id, msg)

    def _has_room(self) -> bool:
        if self._all_known.is_set():
            return False
        for client_id, member in [*self._members.items()]:
            if member.silent_s > LONGEST_SILENCE_S:
                self._forget(client_id)
        return len(self._members) < self._settings.generators

    def _note_quit(self, client_id: str, member: Member) -> None:
        if self._has_begun:
            _end_with(GENERATOR_LOST, f"{self._name(member)} ended before the load was over")
        if self._all_known.is_set():
            _end_with(_REFUSED, f"{self._name(member)} ended before the load began")
        self._forget(client_id)

    def _forget(self, client_id: str) -> None:
        del self._members[client_id]
        self._handle(client_id, Message("client_stopped", None, client_id))

    def _await_all(self) -> None:
        until_s = time.monotonic() + GENERATORS_COME_S
        while (here := self._count_here()) < self._settings.generators:
            if time.monotonic() > until_s:
                come = f"only {here} of {self._settings.generators} load generators came within {GENERATORS_COME_S:g} s"
                remedy = tell_how_to_start(self._settings.address) if self._settings.address else ""
                _end_with(_REFUSED, come + remedy)
            gevent.sleep(_POLL_S)
        self._all_known.set()

    def _count_here(self) -> int:
        return sum(one.clock is not None and one.silent_s < _MOST_SILENCE_S for one in self._members.values())

    def _take_in(self, msg: Message, **_: object) -> None:
        if msg.data["columns"] != _COLUMNS:
            _end_with(_REFUSED, "a load generator has another version of the kit: install the same one there")
        member = self._members[msg.node_id]
        free = {*range(1, self._settings.generators + 1)} - {one.number for one in self._members.values()}
        member.number = msg.data["number"] or min(free)
        settings = self._settings.model_copy(update={"number": member.number}).model_dump(mode="json")
        self._runner.send_message("settings", settings, msg.node_id)

    def _tell_time(self, msg: Message, **_: object) -> None:
        received_s = time.time()
        answer = {**msg.data, "received_s": received_s, "answered_s": time.time()}
        self._runner.send_message("clock", answer, msg.node_id)

    def _know_clock(self, msg: Message, **_: object) -> None:
        self._members[msg.node_id].clock = ClockOffset(**msg.data)

    def _note_ready(self, msg: Message, **_: object) -> None:
        self._members[msg.node_id].is_ready = True
        if all(one.is_ready for one in self._members.values()):
            self._all_ready.set()

    def _begin(self, environment: Environment, **_: object) -> None:
        self._all_known.wait()
        self._have_all_prepare(environment)
        if not self._all_ready.wait(GENERATORS_READY_S):
            late = next(one for one in self._in_order().values() if not one.is_ready)
            _end_with(_REFUSED, f"{self._name(late)} was not ready within {GENERATORS_READY_S:g} s")
        self._moments["started_unix_s"] = time.time()
        users = count_users(self._load.users, [*self._runner.clients.all], environment.user_classes)
        before = 0
        for client_id, member in self._in_order().items():
            member.heard_s = time.monotonic()
            self._runner.send_message("start", {"users_before": before}, client_id)
            before += users[client_id]
        gevent.spawn(self._watch_members)
        gevent.spawn(self._end_the_load, time.monotonic() + self._load.duration_s)

    def _have_all_prepare(self, environment: Environment) -> None:
        """Have Locust fire `test_start` in the generators, as it does before the first users, by a spawn of none."""
        spawn = {
            "timestamp": time.time(),
            "user_classes_count": {user_class.__name__: 0 for user_class in environment.user_classes},
            "host": environment.host,
            "stop_timeout": environment.stop_timeout,
            "parsed_options": vars(environment.parsed_options),
        }
        self._runner.send_message("spawn", spawn)

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
        waited_s = [member.waited_s for member in self._members.values() if member.waited_s is not None]
        self._moments["waited_s"] = max(waited_s, default=None)
        self._moments["clocks"] = self._clocks()
        with exit_unless_written():
            self._requests.close()
            self._seconds.close()
        write_moments(self._load, self._moments)
        self._runner.quit()

    def _in_order(self) -> dict[str, Member]:
        return dict(sorted(self._members.items(), key=lambda item: item[1].number))

    def _name(self, member: Member) -> str:
        return f"load generator {member.number} of {self._settings.generators}"

    def _clocks(self) -> list[ClockRecord]:
        return [
            ClockRecord(
                generator=one.number,
                ahead_s=one.clock.ahead_s,
                ahead_at_end_s=one.clock_at_end.ahead_s,
                uncertainty_s=bound_uncertainty_s(one.clock, one.clock_at_end),
            )
            for one in self._in_order().values()
            if one.clock is not None and one.clock_at_end is not None
        ]

    def _write_rows(self, msg: Message, **_: object) -> None:
        member = self._members[msg.node_id]
        assert member.clock is not None
        number, ahead_s = member.number, member.clock.ahead_s
        with exit_unless_written():
            for values in msg.data.get("requests", ()):
                self._requests.write(corrected_request(RequestRow(*values), number, ahead_s))
                member.rows += 1
            for values in msg.data.get("seconds", ()):
                self._seconds.write_now([corrected_second(GeneratorRow(*values), number, ahead_s)])
                member.rows += 1

    def _note_end(self, msg: Message, **_: object) -> None:
        member, sent, arrivals = self._members[msg.node_id], msg.data["rows"], msg.data["arrivals"]
        if member.rows != sent:
            _end_with(ROWS_LOST, f"{self._name(member)} sent {sent} rows, but {member.rows} of them were written")
        member.clock_at_end = ClockOffset(**msg.data["clock"])
        member.arrivals = arrivals and ArrivalCounts.model_validate(arrivals)
        member.waited_s = msg.data["waited_s"]
        member.has_ended = True
        if all(one.has_ended for one in self._members.values()):
            self._all_ended.set()

    def _watch_members(self) -> None:
        while not self._all_ended.is_set():
            gevent.sleep(_WATCH_EVERY_S)
            for member in self._members.values():
                if not member.has_ended and member.silent_s > LONGEST_SILENCE_S:
                    told = f"{self._name(member)} sent nothing for {LONGEST_SILENCE_S:g} s in mid-load"
                    _end_with(GENERATOR_LOST, told)


def count_users(users: int, nodes: list[WorkerNode], user_classes: list[type[User]]) -> dict[str, int]:
    """Return how many of the users Locust gives each generator, by its name of the connection.

    Where they do not divide evenly, the order of those names decides who has one more.
    """
    dispatcher = UsersDispatcher(nodes, user_classes)
    dispatcher.new_dispatch(target_user_count=users, spawn_rate=users)
    return {client_id: sum(counts.values()) for client_id, counts in next(dispatcher).items()}


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
