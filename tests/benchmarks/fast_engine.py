"""What the service costs around an engine that is faster than it: img/s by number of replicas, CPU for each picture.

The engine waits instead of computing (`tests.waiting_engine`), about as long as a GPU computes, and the replicas share
it. `decoding` is what the same pictures cost decoded in one thread and nothing else, measured in the same round; the
rest of a replica's CPU is HTTP, queue and answers. wrk, HAProxy and the engine need the same cores.
"""

import argparse
import time
from pathlib import Path

import yaml

from loadtest.load.pictures import draw_picture
from loadtest.plan.targets import Role
from serve_app.classifier.families import RESNET50
from serve_app.classifier.images import decode_image, warm_up_decoder
from tests.benchmarks.report import Report, begin, command_line, finish, interleave, progress, run
from tests.benchmarks.service import SHIPPED, application_of, cpu_by_role, running_service, scratch_folder
from tests.benchmarks.wrk import post_pictures, require_wrk
from tests.ports import free_port
from tests.serve_app.classifier.small_networks import write_onnx

PICTURES = 64
MAX_PIXELS = 1_000_000
DECODED_S = 2
ROLES = [
    Role(name="replicas", command="^ray::ServeReplica:model:Classifier"),
    Role(name="engine", command="^ray::ServeReplica:model:Engine"),
    Role(name="HAProxy", command="bin/haproxy"),
]
TABLE, CPU = "Predictions", "CPU for a picture"


def main() -> int:
    parser = command_line("fast_engine", __doc__)
    parser.add_argument("--replicas", type=int, nargs="+", default=[1, 2], help="(default: %(default)s)")
    parser.add_argument("--connections", type=int, default=32, help="for each replica (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument("--round-s", type=int, default=10, help="(default: %(default)s)")
    arguments = parser.parse_args()
    require_wrk()
    report = begin("fast_engine", arguments)
    with scratch_folder() as folder:
        for number in range(PICTURES):
            (folder / f"{number}.jpg").write_bytes(draw_picture(number))
        for side in interleave([str(count) for count in arguments.replicas], arguments.rounds):
            progress(f"starting {side} replica(s)")
            config = write_config(folder, int(side))
            with running_service(config, folder=folder) as service:
                measure(report, arguments, service.target.urls[0], folder, int(side))
    return finish(report, arguments.json)


def write_config(folder: Path, replicas: int) -> Path:
    """Return a config of the waiting engine with so many replicas, in `folder`."""
    config = yaml.safe_load(SHIPPED[0].read_text(encoding="utf-8"))
    config["http_options"]["port"] = free_port()
    model = application_of(SHIPPED[0], "model")
    model["import_path"] = "tests.waiting_engine:build"
    network = write_onnx(folder / "network.onnx", side=RESNET50.crop)
    model["args"] = {
        "model": str(network), "engine": "onnxruntime", "preprocessing": "scale_0_1", "threads": 1, "max_batch": 64,
        "shared_engine": True, "cache": {"store": "off"},
    }  # fmt: skip
    deployment = {"name": "Classifier", "num_replicas": replicas, "ray_actor_options": {"num_cpus": 0.1}}
    model["deployments"] = [deployment]
    config["applications"] = [config["applications"][0], model]
    path = folder / "fast_engine.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    return path


def measure(report: Report, arguments: argparse.Namespace, url: str, folder: Path, replicas: int) -> None:
    """Load the service and read the CPU of its processes, after a few seconds that do not count."""
    row, connections = f"{replicas} replica(s)", arguments.connections * replicas
    post_pictures(f"{url}/model/predict", folder, PICTURES, connections=connections, duration_s=3)
    with cpu_by_role(ROLES) as usage:
        load = post_pictures(
            f"{url}/model/predict", folder, PICTURES, connections=connections, duration_s=arguments.round_s
        )
    report.judge_others(row, usage)
    if load.failures:
        report.faults.append(f"{row}: {load.failures} predictions failed")
    report.append(TABLE, row, "rate", "img/s", load.rps)
    report.append(TABLE, row, "p50", "ms", load.p50_ms)
    report.append(TABLE, row, "p99", "ms", load.p99_ms)
    decoding_ms = decode_alone([file.read_bytes() for file in folder.glob("*.jpg")])
    used_ms = {role: 10 * percent / load.rps for role, percent in usage.items()}  # from percent of a core
    replica_ms = used_ms["replicas"]
    for what, cost_ms in (
        ("replicas", replica_ms),
        ("decoding alone", decoding_ms),
        ("replicas without decoding", replica_ms - decoding_ms),
        ("engine", used_ms["engine"]),
        ("HAProxy", used_ms["HAProxy"]),
    ):
        report.append(CPU, what, row, "ms", cost_ms)
    progress(f"  {row}: {load.rps:.0f} img/s, {replica_ms:.2f} ms for a picture, decoding {decoding_ms:.2f}")


def decode_alone(pictures: list[bytes]) -> float:
    """Return the CPU of decoding one of `pictures` with nothing beside it, ms."""
    warm_up_decoder()
    decoded, began, began_s = 0, time.process_time(), time.monotonic()
    while time.monotonic() < began_s + DECODED_S:
        for picture in pictures:
            decode_image(picture, MAX_PIXELS, RESNET50)
        decoded += len(pictures)
    return 1000 * (time.process_time() - began) / decoded


if __name__ == "__main__":
    run(main)
