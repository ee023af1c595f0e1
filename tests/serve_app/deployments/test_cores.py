"""How many cores the service says it may use: affinity masks and the CPU quotas of containers, of both versions."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from serve_app.deployments.applications import classifiers
from serve_app.deployments.cores import usable_cores
from serve_app.deployments.ready import _model_lines, _thread_lines
from serve_app.deployments.thread_budget import Classifier, Replicas, pinning_fault, thread_budget_fault
from tests.control_groups import SYSTEMS, UNLIMITED, half_a_core, write_system
from tests.service import read_config

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="masks and quotas are Linux's")
MACHINE = frozenset(range(16))


@pytest.fixture(autouse=True)
def sixteen_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: MACHINE)


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_cpu_quota_of_a_container_counts_in_whole_cores(tmp_path: Path, system: str) -> None:
    described = SYSTEMS[system]
    assert described.cores
    assert usable_cores(write_system(tmp_path, described)) == int(described.cores)


@pytest.mark.parametrize("system", UNLIMITED)
def test_without_a_quota_every_core_counts(tmp_path: Path, system: str) -> None:
    assert usable_cores(write_system(tmp_path, UNLIMITED[system])) == len(MACHINE)


def test_of_less_than_a_core_one_is_left(tmp_path: Path) -> None:
    container = SYSTEMS["version 2, a container"]._replace(files={"cpu.max": "20000 100000"})
    assert usable_cores(write_system(tmp_path, container)) == 1


def test_a_mask_with_fewer_cores_than_the_quota_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3})
    assert usable_cores(write_system(tmp_path, SYSTEMS["version 2, a unit in a slice"])) == 1


def test_two_replicas_in_a_container_of_one_core_are_a_loud_line(tmp_path: Path) -> None:
    cores = usable_cores(write_system(tmp_path, SYSTEMS["version 2, a container"]))
    fault = thread_budget_fault([Classifier("model", 1, Replicas(2, 2))], cores)
    assert fault
    assert "on 1 core(s) (by CPU affinity and quota): they will slow each other down" in fault


def two(threads: int, model: Replicas, cats: Replicas) -> list[Classifier]:
    return [Classifier("model", threads, model), Classifier("cats", threads, cats)]


def test_two_applications_get_one_sentence_and_one_share_of_the_cores_for_each_replica() -> None:
    one = Replicas(1, 1)
    assert thread_budget_fault(two(1, one, one), 2) is None
    assert thread_budget_fault([], 2) is None  # users alone
    assert thread_budget_fault([Classifier("model", 3, one), Classifier("cats", 1, one)], 4) is None
    told = thread_budget_fault(two(2, one, Replicas(1, 3)), 8)
    assert told is None
    told = thread_budget_fault(two(4, one, Replicas(1, 3)), 8)
    assert told == (
        "THREADS: 1 replica(s) × 4 + 1 to 3 replica(s) × 4 engine thread(s) = 16 on 8 core(s) (by CPU affinity and "
        "quota): they will slow each other down. Set `threads: 2` for each of model, cats in the config."
    )
    told = thread_budget_fault(two(1, one, one), 5)
    assert told
    assert "cores will stay idle. Set `threads: 2` for each of model, cats" in told


def test_more_replicas_or_applications_than_cores_are_told_how_many_fit() -> None:
    told = thread_budget_fault(two(2, Replicas(2, 2), Replicas(1, 2)), 3)
    assert told
    assert "Set `threads: 1` for each of model, cats, and 3 replica(s) for all of them together" in told
    told = thread_budget_fault(two(1, Replicas(1, 1), Replicas(1, 1)), 1)
    assert told
    assert "Serve at most 1 of model, cats on this machine" in told


TOLD: dict[str, Any] = {
    "name": "resnet50", "engine": "openvino", "precision": "float32", "weights": "w.h5", "labels": "l.txt",
    "cache": "off", "device": "cpu", "tf32": False, "choice": None, "calibrated": None,
}  # fmt: skip


@pytest.mark.parametrize(("deployment", "words"), [
    ({"num_replicas": 3}, "3 replica(s) × 2 thread(s)"),
    ({"autoscaling_config": {"min_replicas": 1, "max_replicas": 4}}, "1 to 4 replica(s) × 2 thread(s)"),
])  # fmt: skip
def test_the_ready_block_names_replicas_and_threads_fixed_and_autoscaled(
    deployment: dict[str, object], words: str
) -> None:
    config = read_config("one_replica.yaml")
    config["applications"][1]["deployments"] = [{"name": "Classifier", **deployment}]
    [found] = classifiers(config)
    [line] = _model_lines(found, TOLD)
    assert words in line


def test_the_ready_block_names_a_gpu_and_what_auto_has_chosen() -> None:
    config = read_config("fastest.yaml")
    config["applications"][1]["deployments"][0]["ray_actor_options"] = {"num_gpus": 0.5}
    [found] = classifiers(config)
    agreed = [{"pictures": "generated pictures", "same_class": 126, "of": 128, "largest_difference": 0.1}]
    trials = [
        {"engine": "jax", "precision": "float32", "images_per_s": 9000.0, "agreement": agreed, "refused": None},
        {"engine": "openvino", "precision": "float32", "images_per_s": 33.7, "agreement": agreed, "refused": None},
        {"engine": "jax", "precision": "bfloat16", "images_per_s": None, "agreement": [], "refused": "not finite"},
    ]
    told = TOLD | {"engine": "jax", "device": "NVIDIA H100", "tf32": True}
    told["choice"] = {"reference": "tensorflow (float32)", "trials": trials}
    assert list(_model_lines(found, told)) == [
        "  model       resnet50 on jax (float32 as TF32), 1 replica(s) × 2 thread(s), weights: w.h5, labels: l.txt",
        "  device      NVIDIA H100, 0.5 of one for each engine",
        "  chosen      jax (float32): 9000.0 img/s; 126 of 128 generated pictures",
        "  runner-up   openvino (float32): 33.7 img/s; 126 of 128 generated pictures",
        "  refused     jax (bfloat16): not finite",
        "              pictures with the same best class as tensorflow (float32); of one replica's engine alone",
    ]


def test_the_ready_block_warns_of_a_gpu_that_auto_leaves_idle_and_of_threads_that_count_then() -> None:
    config = read_config("fastest.yaml")
    config["applications"][1]["deployments"][0] |= {"num_replicas": 12, "ray_actor_options": {"num_gpus": 0.5}}
    [found] = classifiers(config)
    assert thread_budget_fault([found], 16) is None
    [_, line] = _model_lines(found, TOLD)
    assert line == (
        "  WARNING     openvino computes on the CPU, and the GPU stays idle: remove `num_gpus`, or write `engine: jax`"
    )
    assert list(_thread_lines([found], on_cpu=())) == []
    [line] = _thread_lines([found], on_cpu=("model",))
    assert line.startswith("  WARNING     THREADS: 12 replica(s) × 2 engine thread(s) = 24 on 16 core(s)")
    assert list(_thread_lines([replace(found, gpu_share=0.0)], on_cpu=("model",))) == []  # told before the start


INT8 = {
    "pictures": 300, "sha256": "0" * 64,
    "agreement": {"pictures": "pictures of /folder kept apart", "same_class": 284, "of": 300, "largest_difference": 1},
    "accuracy": {"of": 300, "float32": 278, "int8": 277, "commonest": 40, "unlabelled": None},
}  # fmt: skip
INT8_LINE = (
    "  int8        284 of 300 pictures of /folder kept apart have the best class of openvino (float32), 91.5 to 96.7 % "
    "of all such pictures; right about 277 of 300, float32 about 278"
)


def test_the_ready_block_says_with_what_int8_agrees_also_where_auto_chose_it() -> None:
    [found] = classifiers(read_config("fastest.yaml"))
    trials = [
        {"engine": "openvino", "precision": "int8", "images_per_s": 70.5, "agreement": [], "refused": None},
        {"engine": "openvino", "precision": "float32", "images_per_s": 33.7, "agreement": [], "refused": None},
    ]
    told = TOLD | {"precision": "int8", "calibrated": INT8}
    assert list(_model_lines(found, told))[1:] == [INT8_LINE]
    told["choice"] = {"reference": "tensorflow (float32)", "trials": trials}
    assert list(_model_lines(found, told))[1:] == [
        "  chosen      openvino (int8): 70.5 img/s",
        "  runner-up   openvino (float32): 33.7 img/s",
        "              pictures with the same best class as tensorflow (float32); of one replica's engine alone",
        INT8_LINE,
    ]


def test_replicas_on_a_gpu_do_not_count_as_threads() -> None:
    [found] = classifiers(read_config("one_replica.yaml"))
    on_gpu = replace(found, threads=64, gpu_share=0.5)
    assert thread_budget_fault([on_gpu], 2) is None
    assert thread_budget_fault([on_gpu, replace(found, threads=2)], 2) is None
    assert thread_budget_fault([replace(on_gpu, gpu_share=0.0)], 2) is not None


@pytest.mark.parametrize(
    ("threads", "replicas", "held"),
    [(2, 8, MACHINE), (2, 8, frozenset()), (2, 1, frozenset({0, 1}))],
    ids=["on every core", "not held", "one replica with a core for each thread"],
)
def test_engines_that_leave_each_other_alone_are_not_mentioned(
    threads: int, replicas: int, held: frozenset[int]
) -> None:
    assert pinning_fault(threads, replicas, held, len(MACHINE)) is None


def test_engines_that_hold_their_threads_on_the_same_cores_are_a_loud_line() -> None:
    fault = pinning_fault(2, 8, frozenset({1, 0}), len(MACHINE))
    assert fault
    assert fault.startswith("THREADS: the engine holds its threads on core(s) 0, 1 of 16")


@pytest.mark.system(root=True, cpu_quota=True)
def test_a_real_control_group_with_a_quota_is_seen() -> None:
    code = (
        "from serve_app.deployments.cores import *; from serve_app.deployments import cores; from pathlib import Path"
    )
    code += "; print(usable_cores(), list(cores._quotas(Path('/'))))"
    with half_a_core() as group:
        enter = f'echo $$ > {group}/cgroup.procs; exec "$@"'
        command = ["sh", "-c", enter, "sh", sys.executable, "-c", code]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert printed == "1 [0.5]\n"
