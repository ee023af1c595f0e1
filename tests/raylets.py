"""More nodes for a running service: raylets on this machine that join its cluster, each with an HAProxy of its own."""

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.failures import keep_on_failure
from tests.ports import free_port
from tests.service import START_S, Service, processes_of

NODE = "SERVE_APP_TEST_NODE"
"""The variable by which the processes of a node are told from those of the others."""


STARTED = "This command will now block"
"""What `ray start` prints when its node has joined."""


@dataclass(frozen=True)
class Raylet:
    """A raylet and what it starts; its HAProxy will answer at `url`."""

    process: "subprocess.Popen[bytes]"
    url: str
    environment: dict[str, str]

    def kill(self) -> None:
        """End all processes of the node at once: a raylet that dies alone leaves its HAProxy behind."""
        for process in processes_of(self.environment):
            with suppress(psutil.Error):  # one that ends cannot be read
                if process.environ().get(NODE) == self.environment[NODE]:
                    process.kill()


@contextmanager
def another_node(first: Service, folder: Path, resources: str = "{}") -> Iterator[Raylet]:
    """Run one more node of the cluster of `first` during the block. It has these `resources` (JSON)."""
    named = re.search(r"ray status --address (\S+)", first.printed())
    assert named, first.printed()
    port = free_port()
    ports = {
        "RAY_SERVE_WORKER_PROXY_HTTP_PORT": str(port),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(free_port()),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(free_port()),
    }
    environment = first.processes_environment() | ports | {NODE: str(port)}
    output = folder / f"raylet_{port}.txt"
    with output.open("wb") as file, keep_on_failure("raylet", lambda: [output]):
        command = [str(Path(sys.executable).with_name("ray")), "start", f"--address={named[1]}", "--num-cpus=1"]
        command.append(f"--resources={resources}")
        # Without it, the agents of all nodes of this machine would ask for the same port.
        command.append(f"--dashboard-agent-listen-port={free_port()}")
        process = subprocess.Popen(
            [*command, "--block"],
            env=environment,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
        node = Raylet(process, f"http://127.0.0.1:{port}", environment)
        try:
            # One after the other: of two that start on a machine at the same time, one may hang.
            first.wait_for(lambda: STARTED in output.read_text(errors="replace"), "another node")
            yield node
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(START_S)
            node.kill()
