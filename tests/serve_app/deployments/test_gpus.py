"""What a start says about GPUs, before Ray starts. No GPU is needed: how many there are is given."""

import re
from pathlib import Path
from typing import Any, NoReturn

import pytest
from ray._private.thirdparty import pynvml

from serve_app.deployments.applications import gpu_share_of
from serve_app.deployments.config_file import config_faults
from serve_app.deployments.placement import find_gpu_faults, find_placement_faults
from tests.service import read_config


def config(engine: str, num_gpus: object, replicas: int = 1) -> dict[str, Any]:
    made = read_config("one_replica.yaml")
    model = made["applications"][1]
    model["args"]["engine"] = engine
    model["deployments"][0] |= {"num_replicas": replicas}
    if num_gpus is not None:
        model["deployments"][0]["ray_actor_options"] = {"num_cpus": 0.1, "num_gpus": num_gpus}
    return made


@pytest.mark.parametrize(
    ("engine", "num_gpus", "replicas", "gpus", "words"),
    [
        ("jax", 2, 1, 2, "num_gpus: 2, and a replica computes on one GPU; write 1, or a part of one"),
        ("tensorflow", 1, 1, 1, "num_gpus: engine: tensorflow computes on the CPU; write `engine: jax`"),
        ("jax", 1, 1, 1, "num_gpus: jax is not installed with CUDA; install it: .*gpu"),
        ("auto", 0.5, 2, 1, "num_gpus: jax is not installed with CUDA; install it: .*gpu"),
        (
            "jax",
            None,
            1,
            1,
            "num_gpus: engine: jax computes on the CPU, and this machine has 1 GPU.s.; write `num_gpus: 1`",
        ),
        ("auto", None, 1, 1, "num_gpus: engine: auto computes on the CPU, and this machine has 1 GPU.s.; write `num"),
        ("jax", None, 1, 0, None),
        ("auto", None, 1, 0, None),
        ("tensorflow", None, 1, 2, None),
    ],
)
def test_a_gpu_that_cannot_be_used_is_one_line(
    engine: str, num_gpus: object, replicas: int, gpus: int, words: str | None
) -> None:
    told = [str(fault) for fault in find_gpu_faults(config(engine, num_gpus, replicas), gpus)]
    if words is None:
        assert told == []
        return
    where = "applications[model].deployments[Classifier].ray_actor_options."
    assert told[0].startswith(where)
    assert re.match(words, told[0].removeprefix(where)), told[0]


def test_a_gpu_of_replicas_that_have_no_engine_is_one_line() -> None:
    made = config("jax", 1)
    made["applications"][1]["args"]["shared_engine"] = True
    [fault] = find_gpu_faults(made, 0)
    assert str(fault) == (
        "applications[model].deployments[Classifier].ray_actor_options.num_gpus: with shared_engine: true, the "
        "replicas have no engine; write num_gpus below the deployment Engine"
    )


@pytest.mark.parametrize("share", [float("nan"), float("inf"), float("-inf"), 1e308, -1])
@pytest.mark.parametrize("gpus", [0, 2])
def test_a_part_of_a_gpu_that_is_no_amount_is_told_and_ends_no_check(share: float, gpus: int) -> None:
    made = config("tensorflow", share, replicas=2)
    told = [*config_faults(made), *find_placement_faults(made), *find_gpu_faults(made, gpus)]
    assert any(fault.key.endswith("ray_actor_options.num_gpus") and not fault.is_warning for fault in told)
    assert not any("the engines use" in fault.what for fault in told)


def test_gpus_left_idle_are_a_warning() -> None:
    *_, fault = find_gpu_faults(config("jax", 1), 2)
    assert fault.is_warning
    assert str(fault).startswith("applications: the engines use 1 of 2 GPUs; raise num_replicas")
    assert not any(each.key == "applications" for each in find_gpu_faults(config("jax", 0.5, replicas=4), 2))


def test_a_gpu_for_an_onnx_file_is_one_line() -> None:
    made = config("auto", 1)
    made["applications"][1]["args"] |= {"model": "m.onnx", "preprocessing": "none"}
    [fault, _] = find_gpu_faults(made, 1)
    assert "every engine that computes .onnx files does so on the CPU; remove the key" in str(fault)
    made["applications"][1]["deployments"][0].pop("ray_actor_options")
    assert list(find_gpu_faults(made, 1)) == []


@pytest.mark.parametrize(
    ("share", "replicas", "gpus", "surge", "needed"),
    [
        (1, 1, 1, None, "2"),
        (0.5, 2, 1, None, "1.5"),
        (0.25, 2, 1, None, None),  # the third one fits
        (1, 2, 2, 100, "4"),
        (1, 2, 2, 0, None),
        (1, 2, 1, None, None),  # does not even start, which is told elsewhere
    ],
)
def test_a_redeploy_that_would_wait_for_a_gpu_is_a_warning(
    share: float, replicas: int, gpus: int, surge: int | None, needed: str | None
) -> None:
    made = config("jax", share, replicas)
    if surge is not None:
        made["applications"][1]["deployments"][0]["max_surge_percent"] = surge
    told = [each for each in find_gpu_faults(made, gpus) if each.key.endswith("max_surge_percent")]
    assert all(each.is_warning for each in told)
    assert [re.findall(r"needs ([\d.]+) GPU", each.what) for each in told] == ([[needed]] if needed else [])


def test_the_shipped_engine_can_be_redeployed_on_its_gpu() -> None:
    made = read_config("gpu.yaml")
    assert not any("max_surge_percent" in each.key for each in find_gpu_faults(made, 1))
    del made["applications"][1]["deployments"][1]["max_surge_percent"]
    assert any("max_surge_percent" in each.key for each in find_gpu_faults(made, 1))


def test_the_shipped_engine_leaves_the_second_gpu_idle() -> None:
    told = [each for each in find_gpu_faults(read_config("gpu.yaml"), 2) if each.is_warning]
    assert [str(each) for each in told] == [
        "applications: the engines use 1 of 2 GPUs; serve without shared_engine, or hide GPUs with CUDA_VISIBLE_DEVICES"
    ]


@pytest.mark.parametrize(
    ("made", "deployment"), [(config("jax", 1), "Classifier"), (read_config("gpu.yaml"), "Engine")]
)
def test_a_machine_without_a_gpu_is_one_line(
    made: dict[str, Any], deployment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    told = [str(fault) for fault in find_placement_faults(made, driver=tmp_path)]
    where = f"applications[model].deployments[{deployment}].ray_actor_options.num_gpus"
    assert told == [f"{where}: 1 for each replica, and this machine has 0; remove the key"]


def broken_nvml() -> NoReturn:
    raise pynvml.NVMLError(pynvml.NVML_ERROR_DRIVER_NOT_LOADED)  # type: ignore[no-untyped-call]


@pytest.mark.parametrize(("visible", "or_else"), [("", ", or unset CUDA_VISIBLE_DEVICES"), (None, "")])
def test_gpus_of_which_ray_sees_none_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, visible: str | None, or_else: str
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(pynvml, "nvmlInit", broken_nvml)
    (tmp_path / "0000:01:00.0").mkdir()
    (tmp_path / "0000:01:00.0" / "information").write_text("Model: \t\t NVIDIA L4\nIRQ:   \t\t 36\n")
    [fault] = find_placement_faults(read_config("gpu.yaml"), driver=tmp_path)
    assert fault.key == "applications[model].deployments[Engine].ray_actor_options.num_gpus"
    assert f"{fault.what}; {fault.remedy}" == (
        "1 for each replica, and this machine has 0 for Ray, though NVIDIA's driver lists 1; make nvidia-smi list it, "
        f"which asks NVML as Ray does{or_else}"
    )


@pytest.mark.parametrize(("given", "share"), [(0.25, 0.25), (1, 1.0), (True, 0.0), ("1", 0.0), (None, 0.0)])
def test_the_share_of_a_gpu_is_that_of_the_item(given: object, share: float) -> None:
    assert gpu_share_of({"ray_actor_options": {"num_gpus": given}}) == share
    assert gpu_share_of({}) == 0
