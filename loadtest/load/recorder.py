"""Locust with one raw row per request: `python -m loadtest.load.recorder SETTINGS` and then Locust's own options.

Started by `loadtest.load.generator`, once for each warm-up and each load. Works with any locustfile: it listens to
Locust's events, and gives the users the pace and the weights of the plan. SETTINGS is RecorderSettings as JSON. With
several generators, each of them uses the Recorder, too: see `loadtest.load.worker`.

With a rate, the load is an open loop: see OpenLoop.
"""

import loadtest.load.quick_import  # noqa: F401  # first: Locust patches sockets and threads

# isort: split
from locust import argument_parser, between, constant_throughput, events
from locust.main import main

# isort: split
import os
import random
import sys
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import cycle, islice
from math import nan
from typing import Any, Protocol

import gevent
from gevent.event import Event
from gevent.local import local
from locust import User
from locust.env import Environment
from locust.exception import CatchResponseError, RPCSendError

from loadtest.load.generator import CANNOT_WRITE, Load, RecorderSettings
from loadtest.plan.workload import Endpoint
from loadtest.rows.columns import AnyRow, GeneratorRow, RequestRow, RowWriter
from loadtest.rows.run_folder import ArrivalCounts, Moments, write_whole

LEAD_S = 0.1
"""From when all users of an open loop have come until its schedule begins: they are ready by then."""

_LAG_STEP_S = 0.02
_ERROR_CHARACTERS = 300
_FIRST_ERROR_STATUS = 400
_FOREVER_S = 1e6


class OpenLoop:
    """Has Locust's users take scheduled arrivals in turn, each one task, instead of thinking between two tasks.

    An arrival whose time comes while no user is free waits for the next who is: as many are under way as there are
    users, at most. A latency counted from the scheduled time holds that wait, and any lateness of the generator; one
    counted from the moment of sending leaves both out, which is how a stall of the target gets lost (coordinated
    omission; Tene 2013, "How NOT to measure latency").
    """

    def __init__(self, times_s: Sequence[float]) -> None:
        self._times_s = times_s
        self._next = 0
        self._sent = 0
        self._queued = 0
        self._began = Event()
        self._began_s = 0.0
        self._began_unix_s = 0.0
        self._mine = local()

    def employ(self, user_class: type[User]) -> None:
        """Have all users of a class wait for the beginning, and then for one arrival after the other."""
        own_on_start = user_class.on_start

        def on_start(user: User) -> None:
            own_on_start(user)
            if type(user) is user_class:  # a user of a class below has its own, which calls this one
                self._began.wait()
                user.wait()

        user_class.on_start = on_start  # type: ignore[assignment, method-assign]
        user_class.wait_time = lambda _: self._await_next()

    def begin(self, in_s: float = LEAD_S) -> None:
        """Let the schedule begin in so many seconds."""
        if not self._began.is_set():
            self._began_s, self._began_unix_s = time.monotonic() + in_s, time.time() + in_s
            self._began.set()

    def _await_next(self) -> float:
        """Sleep until the next arrival is due; return the rest of the wait: 0 s, or in effect forever without one."""
        number, self._next = self._next, self._next + 1
        if number < len(self._times_s):
            due_s = self._times_s[number]
            left_s = self._began_s + due_s - time.monotonic()
            gevent.sleep(max(0.0, left_s))
            if number < len(self._times_s):  # still, for the load may have ended
                self._sent += 1
                self._queued += left_s < 0
                self._mine.scheduled_unix_s = round(self._began_unix_s + due_s, 6)
                return 0.0
        return _FOREVER_S

    def pop_scheduled_unix_s(self) -> float | None:
        """Return when the user who asks should have sent; None from the second request of its task on."""
        scheduled_unix_s: float | None = getattr(self._mine, "scheduled_unix_s", None)
        self._mine.scheduled_unix_s = None
        return scheduled_unix_s

    def end(self, unix_s: float) -> None:
        """Let no arrival become due from a moment on, and the users end who still wait for the beginning."""
        due = bisect_left(self._times_s, unix_s - self._began_unix_s) if self._began.is_set() else 0
        self._times_s = self._times_s[:due]
        self._began.set()

    def send_the_rest(self, within_s: float) -> None:
        """Return when every arrival that was due has been sent, or after `within_s`.

        Those that still wait for a free user have the longest latencies; without them, all figures would be too low.
        """
        until_s = time.monotonic() + within_s
        while self._sent < len(self._times_s) and time.monotonic() < until_s:
            gevent.sleep(_LAG_STEP_S)
        gevent.sleep(_LAG_STEP_S)  # Locust kills a user that has not been scheduled yet

    def count(self) -> ArrivalCounts:
        """Return how many arrivals were due, late and never sent; valid after the end.

        One more than were due may have been sent, before it was known when the end is.
        """
        due = len(self._times_s)
        return ArrivalCounts(due=due, queued=self._queued, unsent=max(0, due - self._sent))


class RowSink(Protocol):
    """Where rows go: a file, or the master of several generators."""

    def write(self, row: AnyRow) -> None:
        """Add a row."""

    def flush(self) -> None:
        """Hand on what was added."""

    def close(self) -> None:
        """Hand on the last rows."""


class Recorder:
    """The rows of what one process sends, and what has been counted so far."""

    def __init__(self, settings: RecorderSettings, requests: RowSink, seconds: RowSink) -> None:
        """Begin with no row; `seconds` takes one a second of this process."""
        self._workload, self._drain_s = settings.workload, settings.drain_s
        self._seed: int | str = settings.load.seed
        if settings.number is not None:
            self._seed = f"{settings.load.seed}, generator {settings.number}"  # users of two must not behave alike
        self._endpoints = {endpoint.request: name for name, endpoint in settings.workload.endpoints.items()}
        self._requests, self._seconds = requests, seconds
        self._count: Counter[str] = Counter()
        self._open_loop = _open_loop(settings)
        self._urls = settings.urls
        self._lag_s = 0.0
        self._cpu = None if settings.number is None else CpuClock()
        self._greenlets: list[gevent.Greenlet] = []
        events.request.add_listener(self._write_request)

    def employ(self, environment: Environment) -> None:
        """Give the users their pace and weights. Ends the process when the locustfile lacks an endpoint of the plan."""
        for user_class in environment.user_classes:
            if self._workload.wait_s is not None:
                user_class.wait_time = between(*self._workload.wait_s)
            if self._workload.rate_per_user_rps is not None:
                user_class.wait_time = constant_throughput(self._workload.rate_per_user_rps)
            if self._open_loop is not None:
                self._open_loop.employ(user_class)
            set_weights(user_class, self._workload.endpoints)

    def begin(self, environment: Environment, users_before: int = 0) -> None:
        """Begin to watch this process, before the first user comes; `users_before` are those of other generators.

        The users go on with the addresses where those before them end, so that all together spread evenly.
        """
        if len(self._urls) > 1:
            _spread(environment.user_classes, islice(cycle(self._urls), users_before, None))
        random.seed(self._seed)
        self._greenlets = [gevent.spawn(self._watch_lag), gevent.spawn(self._tick, environment)]

    def begin_arrivals(self, in_s: float = LEAD_S) -> None:
        """Let the schedule of an open loop begin in so many seconds."""
        if self._open_loop is not None:
            self._open_loop.begin(in_s)

    def end_arrivals(self, unix_s: float) -> ArrivalCounts | None:
        """Let no arrival of an open loop become due from a moment on; return what became of those before it so far."""
        if self._open_loop is None:
            return None
        self._open_loop.end(unix_s)
        return self._open_loop.count()

    def send_the_rest(self) -> ArrivalCounts | None:
        """Return what became of the arrivals of an open loop, once those have been sent that were due at its end."""
        if self._open_loop is None:
            return None
        self._open_loop.send_the_rest(self._drain_s)
        return self._open_loop.count()

    def close(self, environment: Environment) -> None:
        """Hand on the last rows."""
        gevent.killall(self._greenlets)
        with exit_unless_written():
            self._write_second(environment)
            self._requests.close()
            self._seconds.close()

    def _write_request(self, **request: Any) -> None:
        response = request.get("response")
        status = int(getattr(response, "status_code", 0) or 0)
        error = _describe(request.get("exception"), status)
        self._count["requests"] += 1
        self._count["failures"] += bool(error)
        row = RequestRow(
            start_unix_s=round(_start_unix_s(request), 6),
            endpoint=self._endpoints.get(request["name"], request["name"]),
            status=status,
            latency_ms=round(_latency_ms(request, error), 3),
            response_bytes=int(request["response_length"] or 0),
            error=error,
            server_timing=_header(getattr(response, "headers", None)),
            scheduled_unix_s=self._open_loop.pop_scheduled_unix_s() if self._open_loop else None,
        )
        with exit_unless_written():
            self._requests.write(row)

    def _watch_lag(self) -> None:
        while True:
            asleep_s = time.perf_counter()
            gevent.sleep(_LAG_STEP_S)
            self._lag_s = max(self._lag_s, time.perf_counter() - asleep_s - _LAG_STEP_S)

    def _tick(self, environment: Environment) -> None:
        due_s = time.monotonic()
        while True:
            due_s += 1
            gevent.sleep(max(0.0, due_s - time.monotonic()))
            with exit_unless_written():
                self._write_second(environment)
                self._requests.flush()
                self._seconds.flush()

    def _write_second(self, environment: Environment) -> None:
        self._seconds.write(
            GeneratorRow(
                unix_s=round(time.time(), 3),
                monotonic_s=round(time.monotonic(), 3),
                users=environment.runner.user_count if environment.runner else 0,
                requests=self._count["requests"],
                failures=self._count["failures"],
                lag_ms=round(self._lag_s * 1000, 3),
                own_cpu_percent=self._cpu.read_percent() if self._cpu else None,
            )
        )
        self._lag_s = 0.0


class CpuClock:
    """What this process used of a core since it was asked last."""

    def __init__(self) -> None:
        self._used_s, self._read_s = time.process_time(), time.monotonic()

    def read_percent(self) -> float:
        """Return the mean CPU since the last reading; 100 is one core."""
        used_s, read_s = time.process_time(), time.monotonic()
        percent = 100 * (used_s - self._used_s) / max(read_s - self._read_s, 1e-3)
        self._used_s, self._read_s = used_s, read_s
        return round(percent, 1)


class OnlyGenerator:
    """Locust alone: makes the whole load, and writes its rows and moments into files."""

    def __init__(self, settings: RecorderSettings) -> None:
        """Create the files. Raises OSError."""
        self._load = settings.load
        requests, seconds = RowWriter(self._load.requests, RequestRow), RowWriter(self._load.generator, GeneratorRow)
        self._recorder = Recorder(settings, requests, seconds)
        self._moments: dict[str, Any] = {}
        self._all_sent_s: float | None = None

    def listen(self) -> None:
        """Have Locust call this generator."""
        events.init.add_listener(self._employ)
        events.spawning_complete.add_listener(self._all_have_come)
        events.test_stopping.add_listener(self._stopping)
        events.test_stop.add_listener(self._end)
        events.quitting.add_listener(self._stop_sending)  # SIGTERM ends a load early

    def _employ(self, environment: Environment, **_: object) -> None:
        self._recorder.employ(environment)
        # After the locustfile's own listeners: the load begins when its preparations are done.
        events.test_start.add_listener(self._begin)

    def _begin(self, environment: Environment, **_: object) -> None:
        self._moments["started_unix_s"] = time.time()
        self._recorder.begin(environment)
        gevent.spawn(self._end_the_load, environment, time.monotonic() + self._load.duration_s)

    def _end_the_load(self, environment: Environment, due_s: float) -> None:
        sleep_until(due_s)
        # A locustfile may have called it off already; Locust would then begin to stop once more.
        if environment.runner and "stopping_unix_s" not in self._moments:
            self._stop_sending()
            environment.runner.quit()

    def _stop_sending(self, **_: object) -> None:
        """End the load, but for what is due already, unless it has ended or never began."""
        if "started_unix_s" in self._moments and "stopping_unix_s" not in self._moments:
            self._stopping()
            self._moments["arrivals"] = arrivals = self._recorder.send_the_rest()
            self._all_sent_s = None if arrivals is None else time.monotonic()

    def _all_have_come(self, **_: object) -> None:
        self._moments.setdefault("spawned_unix_s", time.time())
        self._recorder.begin_arrivals()

    def _stopping(self, **_: object) -> None:
        self._moments.setdefault("stopping_unix_s", time.time())
        if "arrivals" not in self._moments:
            self._moments["arrivals"] = self._recorder.end_arrivals(self._moments["stopping_unix_s"])

    def _end(self, environment: Environment, **_: object) -> None:
        if "stopped_unix_s" in self._moments:
            return  # Locust fires this event twice when a stopping test is stopped again
        self._moments["stopped_unix_s"] = time.time()
        if self._all_sent_s is not None:
            self._moments["waited_s"] = time.monotonic() - self._all_sent_s
        self._recorder.close(environment)
        write_moments(self._load, self._moments)


def write_moments(load: Load, moments: Mapping[str, Any]) -> None:
    """Write when a load began and ended. Ends the process when that cannot be written."""
    with exit_unless_written():
        write_whole(load.moments, Moments.model_validate(moments).model_dump_json())


def sleep_until(due_s: float) -> None:
    """Sleep until a moment of the monotonic clock."""
    while (left_s := due_s - time.monotonic()) > 0:
        gevent.sleep(left_s)


def _open_loop(settings: RecorderSettings) -> OpenLoop | None:
    work, load = settings.workload, settings.load
    if work.rate_rps is None:
        return None
    from loadtest.load.arrivals import draw_arrival_times_s, share_of  # imports numpy

    times_s = draw_arrival_times_s(work.rate_rps, load.duration_s, work.arrivals, load.seed)
    return OpenLoop(share_of(times_s, settings.number or 1, settings.generators).tolist())


def _spread(user_classes: Sequence[type[User]], hosts: Iterator[str]) -> None:
    """Have each user take the next of the target's URLs as its own."""

    def with_host(own_init: Callable[..., None]) -> Callable[..., None]:
        def init(user: User, *arguments: Any, **named: Any) -> None:
            if "host" not in vars(user):  # a class whose parent is one of the classes too would take two
                user.host = next(hosts)
            own_init(user, *arguments, **named)

        return init

    for user_class in user_classes:
        user_class.__init__ = with_host(user_class.__init__)  # type: ignore[method-assign]


def set_weights(user_class: type[User], endpoints: Mapping[str, Endpoint]) -> None:
    """Have a user pick among its tagged tasks by the plan's weights; tasks that the plan does not name are left out."""
    tasks = list(dict.fromkeys(user_class.tasks))
    tagged = [(task, tag) for task in tasks for tag in getattr(task, "locust_tag_set", ())]
    missing = set(endpoints) - {tag for _, tag in tagged}
    if missing:
        sys.exit(f"the locustfile has no task with the tag {', '.join(sorted(missing))}, which the plan names")
    user_class.tasks = [task for task, tag in tagged if tag in endpoints for _ in range(endpoints[tag].weight)]


def _describe(exception: object, status: int) -> str:
    if exception is None:
        return ""
    if status >= _FIRST_ERROR_STATUS and not isinstance(exception, CatchResponseError):
        return f"status {status}"  # each client says it in other words
    name = "" if isinstance(exception, CatchResponseError) else f"{type(exception).__name__}: "
    return " ".join(f"{name}{exception}".split())[:_ERROR_CHARACTERS]


def _start_unix_s(request: Mapping[str, Any]) -> float:
    """Return when a request was sent; a locustfile that fires the event itself may leave that out."""
    start_unix_s = request.get("start_time")
    return time.time() - (request.get("response_time") or 0.0) / 1000 if start_unix_s is None else float(start_unix_s)


def _latency_ms(request: Mapping[str, Any], error: str) -> float:
    """Return the latency; nan for a right answer without one, which Locust counts, and leaves out of its means."""
    response_time_ms = request.get("response_time")
    if response_time_ms is None:
        return 0.0 if error else nan
    return float(response_time_ms)


def _header(headers: Any) -> str:
    return " ".join(str(headers.get("server-timing") or "").split()) if headers is not None else ""


@contextmanager
def exit_unless_written() -> Iterator[None]:
    """End the process with CANNOT_WRITE when rows cannot be written, or not be sent to the master."""
    # Locust would log an exception of a listener and continue without the rows.
    try:
        yield
    except (OSError, RPCSendError) as exc:
        why = exc.strerror if isinstance(exc, OSError) else exc
        print(f"the rows of the requests could not be written: {why}", file=sys.stderr, flush=True)
        os._exit(CANNOT_WRITE)


def run_locust() -> None:
    """Run Locust by its command line alone, without the options in ~/.locust.conf, locust.conf and pyproject.toml."""
    for make_parser in (argument_parser.get_empty_argument_parser, argument_parser.get_parser):
        defaults = make_parser.__defaults__
        assert defaults
        assert defaults[-1] == argument_parser.DEFAULT_CONFIG_FILES
        make_parser.__defaults__ = (*defaults[:-1], ())
    main()


if __name__ == "__main__":
    OnlyGenerator(RecorderSettings.model_validate_json(sys.argv.pop(1))).listen()
    run_locust()
