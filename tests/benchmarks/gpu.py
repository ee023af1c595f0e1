"""The service on a GPU beside the bare engine and the decoding of the same cores, all in one run.

    .venv/bin/python -m tests.benchmarks.gpu --replicas 14 --connections 64 256 512
    .venv/bin/python -m tests.benchmarks.gpu --num-gpus 0 --precision float32 --batches 1 8    # a rehearsal on the CPU

The bare engine computes pictures that lie in memory, in as many threads as it gains by, copies in and out included. The
decoding limit is that of one process for each core. The service has one engine for all its replicas. After its best
rate it gets half of that, in random intervals, with lookups beside it. Then one of the replicas is killed, and the
engine, each under single requests. wrk and HAProxy need the same cores as the replicas.

The report says of each aim whether it is met. A part that fails is a fault of the report, which keeps the others. With
its defaults it takes about 7 minutes on 16 cores with a GPU, by estimate: engine 1.5, decoding 1, start and stop 2,
load 1.5, kills 1.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml

from loadtest.faults.fault_plan import Fault, Kill
from loadtest.faults.injection import Injection
from loadtest.faults.process_watch import ProcessWatch
from loadtest.load.pictures import PicturePool, draw_picture
from loadtest.plan.targets import Role
from serve_app.classifier.engines import MOST_AT_ONCE
from serve_app.classifier.engines.trial import measure_speed
from serve_app.classifier.families import RESNET50
from serve_app.classifier.images import decode_image, warm_up_decoder
from serve_app.classifier.loading import load_own_engine
from serve_app.classifier.model_cache import find_or_prepare
from serve_app.classifier.settings import ClassifierSettings
from serve_app.deployments.cores import usable_cores
from tests.benchmarks.clients import ANSWERED, LOST, Outcome, predict
from tests.benchmarks.report import ROOT, Report, begin, command_line, finish, part_of, progress, run
from tests.benchmarks.service import (
    SHIPPED,
    application_of,
    check_config,
    cpu_by_role,
    hear,
    roles_of,
    running_child,
    running_service,
    scratch_folder,
)
from tests.benchmarks.wrk import WrkLoad, post_pictures, require_wrk, run_lookups
from tests.ports import free_port

PICTURES = 64
WARM_UP_S = 3
ENGINE, DECODING, SERVICE, LOOKUPS = "Bare engine", "Decoding alone", "Service", "Lookups"
START_AND_STOP = "Start and stop of the service"
LIMITS = (ENGINE, DECODING)
KILLS = "One process killed, single requests"
KILLED = ("Classifier", "Engine")
"""Deployments, of each of which one process is killed."""
AGAIN = "answered again after"
REFUSED = "refused: "
BEFORE_S, AFTER_S = 3, 5
"""Load before a kill, and after predictions are answered again."""
RECOVERS_WITHIN_S = 120
LOOK_S = 0.1
SHARE = "Service ÷ the smaller limit"
HALF = "half of the best rate"
HALF_WITHIN = (0.4, 0.6)
AIM_SHARE, AIM_RATE, AIM_P99_MS, AIM_LOOKUPS_P99_MS = 0.8, 6000, 100, 10


def main() -> int:
    parser = command_line("gpu", __doc__)
    parser.add_argument("--engine", default="jax", help="(default: %(default)s)")
    parser.add_argument("--precision", default="bfloat16", help="(default: %(default)s)")
    parser.add_argument("--num-gpus", type=float, default=1, help="of the engine; 0: the CPU (default: %(default)s)")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32, 64], help="(default: %(default)s)")
    parser.add_argument("--replicas", type=int, default=usable_cores(), help="(default: the cores, %(default)s)")
    parser.add_argument("--connections", type=int, nargs="+", default=[64, 256], help="(default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=2, help="(default: %(default)s)")
    parser.add_argument("--round-s", type=int, default=10, help="of one row, seconds (default: %(default)s)")
    arguments = parser.parse_args()
    require_wrk()
    report = begin("gpu", arguments)
    args = {
        **application_of(SHIPPED[0], "model")["args"],
        "engine": arguments.engine, "precision": arguments.precision, "threads": 1 if arguments.num_gpus else 2,
        "max_batch": max(arguments.batches), "weights": "random", "cache": {"store": "off"}, "shared_engine": True,
    }  # fmt: skip
    with scratch_folder() as folder:
        config = write_config(folder, args, arguments)
        check_config(config, folder)
        try:
            measure(report, folder, config, args, arguments)
        except BaseException as exc:
            report.faults.append(f"ended early: {exc!r}")
            raise
        finally:
            append_share(report)
            report.notes += judge_aims(report, max(arguments.batches), has_gpu=bool(arguments.num_gpus))
            code = finish(report, arguments.json)
    return code


def measure(report: Report, folder: Path, config: Path, args: dict[str, Any], arguments: argparse.Namespace) -> None:
    """Measure one part after the other; one that fails is a fault of the report."""
    for number in range(PICTURES):
        (folder / f"{number}.jpg").write_bytes(draw_picture(number))
    with part_of(report, ENGINE, arguments.json):
        measure_engine(report, args, arguments)
    with part_of(report, DECODING, arguments.json):
        measure_decoding(report, folder, arguments)
    progress("starting the service")
    with part_of(report, START_AND_STOP, arguments.json), running_service(config, folder=folder) as service:
        url = service.target.urls[0]
        with part_of(report, SERVICE, arguments.json):
            measure_service(report, url, folder, roles_of(config), arguments)
        with part_of(report, HALF, arguments.json):
            measure_half(report, url, folder, arguments)
        for deployment in KILLED:
            with part_of(report, f"{deployment} killed", arguments.json):
                measure_kill(report, url, deployment, folder, arguments)


def measure_engine(report: Report, args: dict[str, Any], arguments: argparse.Namespace) -> None:
    """Let the engine compute each size of batch, in a process of its own, so that it leaves the GPU afterwards."""
    asked = {"args": args, "gpu_share": arguments.num_gpus, "batches": arguments.batches, "rounds": arguments.rounds}
    answers = _ask_child({"engine": asked})
    report.notes.append(f"device: {next(answers)['device']}")
    for found in answers:
        report.append(ENGINE, f"batches of {found['batch']:.0f}", "rate", "img/s", found["images_per_s"])
        progress(f"  {ENGINE}, batches of {found['batch']:.0f}: {found['images_per_s']:.0f} img/s")


def measure_decoding(report: Report, folder: Path, arguments: argparse.Namespace) -> None:
    """Decode in one process, and in one for each core at the same time."""
    for processes in sorted({1, usable_cores()}):
        for _ in range(arguments.rounds):
            asked = {"decode": {"folder": str(folder), "round_s": arguments.round_s}}
            with ExitStack() as stack:
                children = [
                    stack.enter_context(running_child(_command(asked), stdout=subprocess.PIPE))
                    for _ in range(processes)
                ]
                rate = sum(hear(child)["images_per_s"] for child in children)
            report.append(DECODING, f"{processes} process(es)", "rate", "img/s", rate)
            progress(f"  {DECODING}, {processes} process(es): {rate:.0f} img/s")


def write_config(folder: Path, args: dict[str, Any], arguments: argparse.Namespace) -> Path:
    """Return a config of a service whose replicas share one engine."""
    config = yaml.safe_load(SHIPPED[0].read_text(encoding="utf-8"))
    config["http_options"]["port"] = free_port()
    engine: dict[str, Any] = {"name": "Engine"}
    if arguments.num_gpus:
        engine["ray_actor_options"] = {"num_cpus": 0.1, "num_gpus": arguments.num_gpus}
    deployments = [{"name": "Classifier", "num_replicas": arguments.replicas}, engine]
    model = {**application_of(SHIPPED[0], "model"), "args": args, "deployments": deployments}
    config["applications"] = [config["applications"][0], model]
    path = folder / "gpu.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    return path


def measure_service(
    report: Report, url: str, folder: Path, roles: Sequence[Role], arguments: argparse.Namespace
) -> None:
    """Load the service with each number of connections, and look users up beside the largest one."""
    append_lookups(report, "idle", run_lookups(f"{url}/user/?limit=1", connections=1, duration_s=WARM_UP_S))
    post = f"{url}/model/predict"
    post_pictures(post, folder, PICTURES, connections=max(arguments.connections), duration_s=WARM_UP_S)
    for _ in range(arguments.rounds):
        for connections in arguments.connections:
            row = f"{connections} connections"
            with cpu_by_role(roles) as usage:
                load = post_pictures(post, folder, PICTURES, connections=connections, duration_s=arguments.round_s)
            append_predictions(report, row, load)
            report.append_cpu(f"{SERVICE}, CPU", row, usage)
    load, looked_up = load_beside_lookups(url, folder, arguments)
    append_predictions(report, f"{max(arguments.connections)} connections beside lookups", load)
    append_lookups(report, f"beside {max(arguments.connections)} connections", looked_up)


def measure_half(report: Report, url: str, folder: Path, arguments: argparse.Namespace) -> None:
    """Load the service with half of its best rate, and look users up meanwhile. A rate far from the half is a fault."""
    connections, best = max(arguments.connections), best_rate(report, SERVICE)
    if not best:
        report.faults.append(f"{HALF}: the service has no rate, so it was not measured")
        return
    asked_ms = 1000 * connections / (best / 2)
    # A connection pauses from one answer to its next request, so a first round tells how long the answers take.
    load, _ = load_beside_lookups(url, folder, arguments, pause_ms=round(asked_ms))
    pause_ms = correct_pause_ms(asked_ms, connections, load)
    if pause_ms is None:
        report.faults.append(f"{HALF}: no answer in the first round, so it was not measured")
        return
    for _ in range(arguments.rounds):
        load, looked_up = load_beside_lookups(url, folder, arguments, pause_ms=pause_ms)
        append_predictions(report, HALF, load)
        append_lookups(report, f"beside {HALF}", looked_up)
        if not HALF_WITHIN[0] <= load.rps / best <= HALF_WITHIN[1]:
            report.faults.append(f"{HALF}: {best / 2:.1f} img/s were to be sent, and {load.rps:.1f} were")


def correct_pause_ms(asked_ms: float, connections: int, load: WrkLoad) -> int | None:
    """Return the pause with which each connection asks every `asked_ms`; `load` had a pause of `asked_ms`.

    None if there was no answer.
    """
    return max(0, round(2 * asked_ms - 1000 * connections / load.rps)) if load.rps else None


def load_beside_lookups(
    url: str, folder: Path, arguments: argparse.Namespace, *, pause_ms: int = 0
) -> tuple[WrkLoad, WrkLoad]:
    """Return what wrk saw of predictions over most connections, and of one connection's lookups beside them."""
    load = {"connections": max(arguments.connections), "duration_s": arguments.round_s, "pause_ms": pause_ms}
    with ThreadPoolExecutor(1) as beside:
        predictions = beside.submit(post_pictures, f"{url}/model/predict", folder, PICTURES, **load)
        looked_up = run_lookups(f"{url}/user/?limit=1", connections=1, duration_s=arguments.round_s)
        return predictions.result(), looked_up


def append_predictions(report: Report, row: str, load: WrkLoad) -> None:
    """Add one round of predictions; failed ones are a fault."""
    if load.failures:
        report.faults.append(f"{row}: {load.failures} predictions failed")
    for column, unit, value in (("rate", "img/s", load.rps), ("p50", "ms", load.p50_ms), ("p99", "ms", load.p99_ms)):
        report.append(SERVICE, row, column, unit, value)
    progress(f"  {SERVICE}, {row}: {load.rps:.0f} img/s, p99 {load.p99_ms:.0f} ms")


def append_lookups(report: Report, row: str, load: WrkLoad) -> None:
    """Add one round of lookups; failed ones are a fault."""
    if load.failures:
        report.faults.append(f"{row}: {load.failures} lookups failed")
    report.append(LOOKUPS, row, "p50", "ms", load.p50_ms)
    report.append(LOOKUPS, row, "p99", "ms", load.p99_ms)


def measure_kill(report: Report, url: str, deployment: str, folder: Path, arguments: argparse.Namespace) -> None:
    """Kill one process of a deployment under single requests, as many at a time as there are fewest connections."""
    append_kill(report, deployment, asyncio.run(kill_under_load(url, deployment, min(arguments.connections), folder)))


@dataclass(frozen=True)
class Killed:
    """What became of all requests around a kill, which was at `unix_s`, in seconds since 1970."""

    outcomes: Sequence[Outcome]
    unix_s: float
    is_replaced: bool
    """Whether the deployment had as many processes as before within RECOVERS_WITHIN_S."""


async def kill_under_load(url: str, deployment: str, clients: int, folder: Path) -> Killed:
    """Kill one process of a deployment under the load of so many clients.

    The load ends once predictions are answered again and the deployment has as many processes as before, or after
    RECOVERS_WITHIN_S. Raises CellFailedError if no process of it runs.
    """
    outcomes: list[Outcome] = []
    finished = asyncio.Event()
    pictures = PicturePool(clients, seed=0)
    load = [
        asyncio.create_task(predict(url, pictures.next_picture(), outcomes, finished, most_pause_s=0))
        for _ in range(clients)
    ]
    role = Role(name=deployment, command=f"^ray::ServeReplica:model:{deployment}")
    watch = ProcessWatch([role], folder / f"{deployment}.csv")
    fault = Fault(name=f"kill_{deployment.lower()}", kill=Kill(role=deployment))
    injection = Injection(fault, watch, folder / "kill.log", {})
    try:
        await asyncio.sleep(BEFORE_S)
        watch.look()
        before = len(watch.of_role(deployment))
        while not injection.step():
            pass
        killed_unix_s, dead = injection.event.began_unix_s, {*injection.event.pids}
        deadline_s = time.monotonic() + RECOVERS_WITHIN_S
        while time.monotonic() < deadline_s:
            await asyncio.sleep(LOOK_S)
            watch.look()
            is_replaced = len({process.pid for process in watch.of_role(deployment)} - dead) == before
            if is_replaced and answered_again_after_s(outcomes, killed_unix_s) is not None:
                break
        await asyncio.sleep(AFTER_S)
    finally:
        finished.set()
        await asyncio.gather(*load)
        watch.close()
    return Killed(outcomes, killed_unix_s, is_replaced)


def append_kill(report: Report, deployment: str, killed: Killed) -> None:
    """Add what became of the requests that were under way at the kill or came later; failures before it are a fault."""
    before = [outcome for outcome in killed.outcomes if outcome.ended_unix_s < killed.unix_s]
    after = [outcome for outcome in killed.outcomes if outcome.ended_unix_s >= killed.unix_s]
    row, told = f"of {deployment}", Counter(outcome.told for outcome in after)
    if not before or any(outcome.told != ANSWERED for outcome in before):
        counted = dict(Counter(outcome.told for outcome in before))
        report.faults.append(f"{deployment} killed: not every prediction was answered before: {counted or 'none'}")
    under_way = sum(outcome.sent_unix_s < killed.unix_s for outcome in after)
    for column, count in (("under way", under_way), ("answered", told[ANSWERED]), ("lost", told[LOST])):
        report.append(KILLS, row, column, "requests", count)
    for refusal in sorted(told.keys() - {ANSWERED, LOST}):
        report.append(KILLS, row, f"{REFUSED}{refusal}", "requests", told[refusal])
    if not killed.is_replaced:
        report.faults.append(f"{deployment} killed: no other process had taken its place after {RECOVERS_WITHIN_S} s")
    again_s = answered_again_after_s(after, killed.unix_s)
    if again_s is None:
        report.faults.append(f"{deployment} killed: no prediction was answered within {RECOVERS_WITHIN_S} s")
    else:
        report.append(KILLS, row, AGAIN, "s", again_s)
    again = "not answered again" if again_s is None else f"{AGAIN} {again_s:.1f} s"
    progress(f"  {deployment} killed: {dict(told)}, {again}")


def answered_again_after_s(outcomes: Sequence[Outcome], killed_unix_s: float) -> float | None:
    """Return how long after the kill the first of the requests sent since was answered; None if none was."""
    ends = [each.ended_unix_s for each in outcomes if each.told == ANSWERED and each.sent_unix_s >= killed_unix_s]
    return min(ends) - killed_unix_s if ends else None


def append_share(report: Report) -> None:
    """Add the best rate of the service over the smaller one of the engine's and of decoding's, if there are all."""
    best = {table: best_rate(report, table) for table in (*LIMITS, SERVICE)}
    limit = min(LIMITS, key=lambda table: best[table])
    if all(best.values()):
        report.append(SHARE, f"limit: {limit}", "share", "ratio", best[SERVICE] / best[limit])


def best_rate(report: Report, table: str) -> float:
    """Return the highest median rate of a table's rows, img/s; 0 if there is none or the part failed."""
    if table in report.failed_parts:
        return 0.0
    rates = [found.median for found in report.measurements if (found.table, found.column) == (table, "rate")]
    return max(rates, default=0.0)


@dataclass(frozen=True)
class Aim:
    """A figure and its limit; the figure is None where it was not measured."""

    words: str
    found: float | None
    sign: Literal["≥", "≤"]
    limit: float
    unit: str = ""
    waived: str = ""
    """Why it is not judged."""

    def judge(self) -> str:
        """Return the line for the report."""
        aim = f"aim: {self.words} {self.sign} {self.limit:,}{self.unit}"
        if self.found is None:
            return f"{aim}: not measured"
        is_met = self.found >= self.limit if self.sign == "≥" else self.found <= self.limit
        verdict = f"not judged: {self.waived}" if self.waived else "met" if is_met else "not met"
        return f"{aim}: {self.found:,.{0 if self.found >= 1000 else 2}f}{self.unit}, {verdict}"


def judge_aims(report: Report, max_batch: int, *, has_gpu: bool) -> list[str]:
    """Return a line for each aim. Without a GPU only what is lost is judged."""
    waived = "" if has_gpu else "no GPU"
    decoding = best_rate(report, DECODING)
    allows = f"decoding alone gives {decoding:,.0f} img/s" if decoding else "what decoding allows was not measured"
    may_miss = allows if decoding < AIM_RATE else ""
    shares = [found.median for found in report.measurements if found.table == SHARE]
    aims = [
        Aim("service ÷ the smaller limit", shares[0] if shares else None, "≥", AIM_SHARE, waived=waived),
        Aim("best rate", best_rate(report, SERVICE) or None, "≥", AIM_RATE, " img/s", waived or may_miss),
        Aim(f"p99 at {HALF}", _median(report, SERVICE, HALF, "p99"), "≤", AIM_P99_MS, " ms", waived),
        Aim(
            "p99 of lookups beside it",
            _median(report, LOOKUPS, f"beside {HALF}", "p99"),
            "≤",
            AIM_LOOKUPS_P99_MS,
            " ms",
            waived,
        ),
    ]
    in_gpu = MOST_AT_ONCE * max_batch
    lost = [judge_lost(report, deployment, most) for deployment, most in zip(KILLED, (0, in_gpu), strict=True)]
    return [*(aim.judge() for aim in aims), *lost]


def judge_lost(report: Report, deployment: str, most: int) -> str:
    """Return the line on what was lost with a process of a deployment, with the refusals beside it."""
    row = f"of {deployment}"
    aim = Aim(f"requests lost with a killed {deployment}", _median(report, KILLS, row, "lost"), "≤", most)
    refusals = [
        f"{found.median:,.0f} × {found.column.removeprefix(REFUSED)}"
        for found in report.measurements
        if (found.table, found.row) == (KILLS, row) and found.column.startswith(REFUSED)
    ]
    return f"{aim.judge()}{'; refused: ' if refusals else ''}{', '.join(refusals)}"


def _median(report: Report, table: str, row: str, column: str) -> float | None:
    found = report.find(table, row, column)
    return None if found is None else found.median


def _command(asked: dict[str, Any]) -> list[str]:
    return [sys.executable, "-m", "tests.benchmarks.gpu", "--child", json.dumps(asked)]


def _ask_child(asked: dict[str, Any]) -> Iterator[dict[str, Any]]:
    with subprocess.Popen(_command(asked), cwd=ROOT, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        yield from map(json.loads, child.stdout)
    if child.returncode:
        raise RuntimeError(f"the bare engine ended with code {child.returncode}")


def be_child(asked: dict[str, Any]) -> int:
    """Print a line of JSON for each thing measured."""
    if "engine" in asked:
        _compute(**asked["engine"])
    else:
        _decode(Path(asked["decode"]["folder"]), asked["decode"]["round_s"])
    return 0


def _compute(args: dict[str, Any], gpu_share: float, batches: list[int], rounds: int) -> None:
    settings = ClassifierSettings.model_validate(args)
    prepared = find_or_prepare(settings, gpu_share=gpu_share)
    engine = load_own_engine(prepared.settle(settings), prepared)()
    pictures = np.random.default_rng(0).integers(
        0, 256, (max(batches), RESNET50.crop, RESNET50.crop, 3), dtype=np.uint8
    )
    engine.infer(pictures)
    print(json.dumps({"device": engine.device}), flush=True)
    for _ in range(rounds):
        for batch in batches:
            found = {"batch": batch, "images_per_s": measure_speed(engine, pictures[:batch])}
            print(json.dumps(found), flush=True)


def _decode(folder: Path, round_s: float) -> None:
    files = [file.read_bytes() for file in sorted(folder.glob("*.jpg"))]
    warm_up_decoder()
    done, began_s = 0, time.monotonic()
    while (took_s := time.monotonic() - began_s) < round_s:
        decode_image(files[done % len(files)], 1_000_000, RESNET50)
        done += 1
    print(json.dumps({"images_per_s": done / took_s}), flush=True)


if __name__ == "__main__":
    run(main if sys.argv[1:2] != ["--child"] else lambda: be_child(json.loads(sys.argv[2])))
