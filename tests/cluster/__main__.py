"""`python -m tests.cluster up` brings up a cluster by `ray up ray_cluster.yaml` on this machine alone.

up                 until Ctrl-C: a head, two workers, PostgreSQL, Redis, and a laptop from which it is run
faults [NAME …]    one fault at a time under load; the table on standard output, the requests in --out; exit code 1
                   if a request failed through a node that was left, other than known

Needs root, Linux and sshd, rsync, iproute2 (.ci/install-system-packages); about 8 GiB of memory. Nothing of it is seen
from outside: it has a network of its own.
"""

import argparse
import os
import platform
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.cluster.node import ROOT, missing_programs

if TYPE_CHECKING:
    from tests.cluster.cluster import Cluster

_INSIDE = "SERVE_APP_TEST_CLUSTER"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("up")
    faults = commands.add_parser("faults")
    faults.add_argument("names", nargs="*")
    faults.add_argument("--out", type=Path, default=Path("build/cluster_faults"))
    for each in commands.choices.values():
        each.add_argument("--tls", action="store_true", help="Ray's processes speak TLS with each other")
    arguments = parser.parse_args()
    if missing := missing_programs():
        print(f"error: not here: {', '.join(missing)}; .ci/install-system-packages installs them", file=sys.stderr)
        return 2
    if os.geteuid() != 0:
        print("error: only root may make networks", file=sys.stderr)
        return 2
    if _INSIDE not in os.environ:
        apart = ["unshare", "--net", "--mount", "--propagation", "private", "--"]
        command = [*apart, sys.executable, "-m", "tests.cluster", *sys.argv[1:]]
        os.chdir(ROOT)
        os.execvpe(command[0], command, os.environ | {_INSIDE: "1"})
    from tests.cluster.cluster import running_cluster
    from tests.cluster.faults import FAULTS

    if unknown := set(getattr(arguments, "names", ())) - FAULTS.keys():
        print(f"error: no such fault: {', '.join(unknown)}; there are {', '.join(FAULTS)}", file=sys.stderr)
        return 2

    signal.signal(signal.SIGTERM, signal.default_int_handler)

    with tempfile.TemporaryDirectory(prefix="cluster-", ignore_cleanup_errors=True) as folder:
        try:
            with running_cluster(Path(folder), is_encrypted=arguments.tls) as cluster:
                cluster.wait_until(cluster.is_whole, "replicas on every node", 900)
                return _show(cluster) if arguments.command == "up" else _faults(cluster, arguments)
        except KeyboardInterrupt:
            return 0


def _mend(cluster: "Cluster") -> None:
    """Have the cluster whole before the next fault."""
    try:
        cluster.wait_until(cluster.is_whole, "full capacity", 120)
    except AssertionError:
        print("not whole again; `ray up` before the next fault", file=sys.stderr, flush=True)
        cluster.ray_up()
        cluster.wait_until(cluster.is_whole, "full capacity", 600)


def _show(cluster: "Cluster") -> int:
    from tests.cluster.cluster import API_KEY

    print(f"READY: http://{'|'.join(machine.address for machine in cluster.nodes)}:8000, X-API-Key: {API_KEY}")
    for machine in cluster.machines:
        print(f"  {machine.name:<10} {machine.address:<12} a shell: {' '.join(machine.command('bash'))}")
    print("  stop       Ctrl-C", flush=True)
    while True:
        time.sleep(3600)


def _faults(cluster: "Cluster", arguments: argparse.Namespace) -> int:
    from tests.cluster.faults import FAULTS, measure, render

    arguments.out.mkdir(parents=True, exist_ok=True)
    outcomes = []
    for name in arguments.names or FAULTS:
        outcomes.append(measure(cluster, name, arguments.out))
        print(*list(render(outcomes))[-1:], file=sys.stderr, flush=True)
        _mend(cluster)
    print(f"{os.cpu_count()} cores ({platform.machine()}) for all machines and their load; load average {_load()}\n")
    print("\n".join(render(outcomes)))
    return int(any(outcome.is_surprising for outcome in outcomes))


def _load() -> str:
    return f"{os.getloadavg()[2]:.0f} of the last 15 minutes"


if __name__ == "__main__":
    sys.exit(main())
