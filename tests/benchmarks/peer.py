"""Predictions per second and their latency, of the service and of LitServe on the same network, threads and batches.

LitServe gets TensorFlow's frozen graph, which is faster than a SavedModel as it comes. It needs a Python of its own:

    .venv/bin/uv venv --python .venv/bin/python /tmp/litserve
    .venv/bin/uv pip install --python /tmp/litserve/bin/python litserve==0.2.19 python-multipart pillow \\
        tensorflow=={the version in requirements.lock}
    .venv/bin/python -m tests.benchmarks.peer --python /tmp/litserve/bin/python

Only one of both runs at a time, since a service uses some CPU when nobody asks it. Each is started once a round, and
the rounds alternate: A B B A.
"""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from loadtest.measure.target import running_target
from loadtest.plan.targets import Target
from serve_app.classifier.model_cache import find_or_prepare
from serve_app.classifier.settings import ClassifierSettings
from tests.benchmarks.report import Report, begin, command_line, finish, interleave, progress, run
from tests.benchmarks.service import SHIPPED, Rounds, application_of, running_service, scratch_folder
from tests.benchmarks.tensorflow_forms import freeze
from tests.ports import free_port

OURS, LITSERVE = "service", "LitServe"
SERVER = Path(__file__).with_name("litserve_server.py")
WARM_UP_S = 2


def main() -> int:
    parser = command_line("peer", __doc__)
    parser.add_argument("--python", type=Path, required=True, help="the Python that has LitServe and TensorFlow")
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 4, 16], help="(default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=4, help="(default: %(default)s)")
    parser.add_argument(
        "--round-s", type=int, default=15, help="of one number of connections, s (default: %(default)s)"
    )
    arguments = parser.parse_args()
    report = begin("peer", arguments)
    settings = ClassifierSettings.model_validate(application_of(SHIPPED[0], "model")["args"] | {"weights": "random"})
    prepared = find_or_prepare(settings)
    with scratch_folder() as folder:
        frozen = folder / "frozen.pb"
        freeze(prepared.folder, frozen)
        rounds = Rounds(folder, SHIPPED[0])
        for side in interleave([OURS, LITSERVE], arguments.rounds):
            progress(f"starting {side}")
            with _running(side, folder, frozen, settings, arguments.python) as url:
                measure(report, side, url, rounds, arguments)
    for connections in arguments.connections:
        for column in ("rate", "p50"):
            report.append_ratios(_table(connections), OURS, LITSERVE, column)
    return finish(report, arguments.json)


def measure(report: Report, side: str, url: str, rounds: Rounds, arguments: argparse.Namespace) -> None:
    """Load one side with each number of connections, after a few seconds in which batches get their sizes."""
    before = rounds.measure(url, users=max(arguments.connections), round_s=WARM_UP_S)
    if before.steady is None or before.steady.failures:
        raise RuntimeError(f"{side} does not answer predictions: {'; '.join(before.reasons)}")
    for connections in arguments.connections:
        cell = rounds.measure(url, users=connections, round_s=arguments.round_s, warm_up_s=WARM_UP_S)
        rate = report.append_cell(_table(connections), side, cell)
        progress(f"  {side}, {connections} connections: {rate:.1f} img/s")


def _table(connections: int) -> str:
    return f"{connections} connection(s)"


@contextmanager
def _running(side: str, folder: Path, frozen: Path, settings: ClassifierSettings, python: Path) -> Iterator[str]:
    if side == OURS:
        with running_service(SHIPPED[0], folder=folder) as service:
            yield service.target.urls[0]
        return
    port = free_port()
    target = Target(
        name="litserve",
        start=f"{python} {SERVER} {port} {frozen} {settings.threads} {settings.max_batch}",
        url=f"http://127.0.0.1:{port}",
        ready=["/model/ready"],
        ready_timeout_s=120,
        stop_timeout_s=40,
    )
    with running_target(target, folder / "litserve.log") as running:
        running.wait_until_ready()
        yield target.urls[0]


if __name__ == "__main__":
    run(main)
