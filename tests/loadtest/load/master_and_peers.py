"""A master of several generators, with peers that say what a test wants: real Locust, real connections, no load.

`python -m tests.loadtest.load.master_and_peers FOLDER` plays all scenarios, each in a process of its own, which the
master may end. FOLDER/SCENARIO then has its `stdout` (what came of it, as JSON), `stderr` and exit `code`.
"""

from locust import User, constant, events, tag, task  # first: importing it patches sockets and threads
from locust.env import Environment
from locust.rpc import Message
from locust.rpc.zmqrpc import Client

# isort: split
import json
import os
import sys
import time
import traceback
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import gevent
from locust import __version__
from locust.exception import RPCSendError

from loadtest.load import master as master_module
from loadtest.load.generator import Load, RecorderSettings
from loadtest.load.master import Master
from loadtest.load.recorder import exit_unless_written
from loadtest.plan.workload import Workload
from loadtest.rows.columns import GeneratorRow, RequestRow, column_names, read_values
from tests.kit import workload
from tests.ports import free_port

LONGEST_S = 60
SILENCE_S = 2.0
BEAT_S = 0.1
COLUMNS = [*column_names(RequestRow), *column_names(GeneratorRow)]
NOW_S = 1_768_471_200.0


class Nobody(User):
    """Has the task of the plan; it is never run here."""

    wait_time = constant(0)

    @tag("fixed")
    @task
    def ask(self) -> None:
        """Do nothing."""


class Peer:
    """One end of a connection to the master."""

    def __init__(self, port: int, name: str) -> None:
        self.name = name
        self._client = Client("127.0.0.1", port, name)

    def say(self, kind: str, data: Any = None) -> None:
        """Send a message."""
        self._client.send(Message(kind, data, self.name))

    def hear(self, kind: str) -> Any:
        """Return the data of the next message of a kind, and pass over those before it."""
        while (msg := self._client.recv()).type != kind:
            pass
        return msg.data

    def join(self) -> int:
        """Return the number that the master gives this generator."""
        self.say("client_ready", __version__)
        self.hear("ack")
        self.say("hello", {"number": 0, "columns": COLUMNS})
        number: int = self.hear("settings")["number"]
        return number

    def beat(self) -> None:
        """Give a sign of life again and again."""
        while True:
            self.say("heartbeat", {"state": "ready", "current_cpu_usage": 0, "current_memory_usage": 0})
            gevent.sleep(BEAT_S)

    def know_clock(self, ahead_s: float) -> None:
        """Say that the clocks were compared."""
        self.say("known_clock", {"ahead_s": ahead_s, "uncertainty_s": 0.001})

    def end(self, rows: int, ahead_s: float = 0.0) -> None:
        """Say that its load is over."""
        clock = {"ahead_s": ahead_s, "uncertainty_s": 0.002}
        self.say("ended", {"rows": rows, "clock": clock, "arrivals": None, "waited_s": None})


class Scene:
    """A master that waits for so many peers."""

    def __init__(self, folder: Path, generators: int, users: int) -> None:
        self.port = free_port()
        self.load = Load(users, users, 1, 1, folder, "requests", divided=True)
        work = Workload.model_validate(workload("fixed", wait_s=[1, 1]))
        settings = RecorderSettings(load=self.load, workload=work, drain_s=1, urls=["http://a"], generators=generators)
        Master(settings).listen()
        options = Namespace(enable_rebalancing=False, headless=True)
        self._environment = Environment(user_classes=[Nobody], events=events, parsed_options=options, stop_timeout=1)
        self.runner = self._environment.create_master_runner("127.0.0.1", self.port)
        events.init.fire(environment=self._environment, runner=self.runner, web_ui=None)

    def peers(self, count: int) -> list[Peer]:
        """Return so many peers that have joined, in the order of their numbers."""
        # Locust gives users in the order of the names, which is another one.
        peers = [Peer(self.port, f"here_{(7 * place) % count}") for place in range(count)]
        assert [peer.join() for peer in peers] == [*range(1, count + 1)]
        return peers

    def begin(self, peers: list[Peer], ahead_s: float = 0.0) -> None:
        """Have Locust begin; return when all peers are to make their preparations."""
        beating = [gevent.spawn(peer.beat) for peer in peers]
        for peer in peers:
            peer.know_clock(ahead_s)
        gevent.spawn(self.runner.start, self.load.users, self.load.users)
        for peer in peers:
            assert sum(peer.hear("spawn")["user_classes_count"].values()) == 0
        gevent.killall(beating)


def allow_silence(longest_s: float) -> None:
    """Set after how long a generator without a sign of life counts as lost."""
    vars(master_module)["LONGEST_SILENCE_S"] = longest_s


def leavers_are_replaced(folder: Path) -> list[int]:
    """Return the number of a peer that comes for one that quit, and of one that comes for one that fell silent."""
    allow_silence(SILENCE_S)
    scene = Scene(folder, 2, 2)
    first, _ = scene.peers(2)
    first.say("quit")
    third, fourth = Peer(scene.port, "here_third"), Peer(scene.port, "here_fourth")
    numbers = [third.join()]
    gevent.spawn(third.beat)
    gevent.sleep(SILENCE_S)
    numbers.append(fourth.join())
    assert {*scene.runner.clients} == {"here_third", "here_fourth"}
    return numbers


def one_too_many_in_mid_load(folder: Path) -> list[str]:
    """Return whom Locust knows when another generator has come in mid-load."""
    scene = Scene(folder, 1, 1)
    (peer,) = scene.peers(1)
    scene.begin([peer])
    peer.say("ready")
    peer.hear("start")
    data = {"number": 0, "columns": COLUMNS}
    for kind, said in [("locustfile", {"version": __version__}), ("client_ready", __version__), ("hello", data)]:
        scene.runner.handle_message("late", Message(kind, said, "late"))
    return sorted(scene.runner.clients)


def all_rows_come(folder: Path, told: int = 2, silent_s: float = 0.0) -> dict[str, Any]:
    """Return the moments of a load, before which two peers prepare for a while; they tell of so many rows."""
    scene = Scene(folder, 2, 2)
    peers = scene.peers(2)
    scene.begin(peers, 3600)
    allow_silence(SILENCE_S)
    peers[0].say("ready")
    gevent.sleep(silent_s)
    allow_silence(LONGEST_S)
    ready_unix_s = time.time()
    peers[1].say("ready")
    for peer in peers:
        peer.hear("start")
        row = RequestRow(NOW_S + 3600, "fixed", 200, 1.0, 1, "", "", scheduled_unix_s=NOW_S + 3590)
        second = GeneratorRow(NOW_S + 3601, 5.0, 1, 1, 0, 0.0, own_cpu_percent=1.0)
        peer.say("rows", {"requests": [read_values(RequestRow)(row)]})
        peer.say("rows", {"seconds": [read_values(GeneratorRow)(second)]})
        peer.hear("end")
        peer.end(told, 3600.25)
    while not scene.load.moments.is_file():
        gevent.sleep(0.02)
    return {"ready_unix_s": ready_unix_s, **json.loads(scene.load.moments.read_text())}


def one_quits_in_mid_load(folder: Path) -> None:
    """End with the master's exit code."""
    scene = Scene(folder, 2, 2)
    peers = scene.peers(2)
    scene.begin(peers)
    for peer in peers:
        peer.say("ready")
    peers[1].hear("start")
    peers[1].say("quit")
    gevent.sleep(LONGEST_S)


def rows_cannot_be_sent(_: Path) -> None:
    """End with the code of a generator that cannot send its rows."""
    with exit_unless_written():
        raise RPCSendError("ZMQ sent failure")


def shares(folder: Path, generators: int, users: int) -> list[list[int]]:
    """Return of each generator how many users it was told the earlier ones have, and how many it gets."""
    scene = Scene(folder, generators, users)
    peers = scene.peers(generators)
    scene.begin(peers)
    for peer in peers:
        peer.say("ready")
    return [
        [peer.hear("start")["users_before"], sum(peer.hear("spawn")["user_classes_count"].values())] for peer in peers
    ]


SCENARIOS: dict[str, Callable[[Path], object]] = {
    "leavers_are_replaced": leavers_are_replaced,
    "one_too_many_in_mid_load": one_too_many_in_mid_load,
    "all_rows_come": all_rows_come,
    "preparations_take_long": partial(all_rows_come, silent_s=2 * SILENCE_S),
    "rows_are_lost": partial(all_rows_come, told=3),
    "rows_cannot_be_sent": rows_cannot_be_sent,
    "one_quits_in_mid_load": one_quits_in_mid_load,
    "shares_of_23_users": partial(shares, generators=8, users=23),
    "shares_of_47_users": partial(shares, generators=8, users=47),
    "shares_of_10_users": partial(shares, generators=4, users=10),
}


def play(scenario: Callable[[Path], object], folder: Path) -> NoReturn:
    """Play a scenario, with all that is printed in its folder, and end."""
    for name, stream in (("stdout", sys.stdout), ("stderr", sys.stderr)):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT), stream.fileno())
    code = 1
    try:
        with gevent.Timeout(LONGEST_S):
            print(json.dumps(scenario(folder)), flush=True)
        code = 0
    except BaseException:  # noqa: BLE001 it is told, and the process ends
        traceback.print_exc()
    finally:
        os._exit(code)


if __name__ == "__main__":
    children = {}
    for name, scenario in SCENARIOS.items():
        folder = Path(sys.argv[1]) / name
        folder.mkdir()
        children[folder] = os.fork()
        if children[folder] == 0:
            play(scenario, folder)
    for folder, child in children.items():
        (folder / "code").write_text(str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])))
