"""Two models in one service, as configs/two_models.yaml has them: two small ONNX networks, the client, and the kit."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml
from PIL import Image

from tests.ports import free_port
from tests.serve_app.classifier.small_networks import COLOURS, pictures, write_onnx
from tests.service import CONFIGS, ROOT, Service, launcher, own_environment, read_config, service, write_config

RUN_S = 300
LABELS = {"model": COLOURS, "cats": ("tabby", "tiger", "tomcat")}
pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("service")
    config, port = read_config("two_models.yaml"), free_port()
    config["http_options"]["port"] = port
    model = write_onnx(folder / "colours.onnx")
    for application in config["applications"][1:]:
        labels = folder / f"{application['name']}.txt"
        labels.write_text("\n".join(LABELS[application["name"]]))
        given = {"model": str(model), "engine": "onnxruntime", "preprocessing": "scale_0_1", "labels": str(labels)}
        application["args"] |= given
    environment = own_environment(folder) | {"SERVE_APP_CACHE_DIR": str(folder / "cache")}
    with service(launcher(write_config(folder, config)), environment, folder, port) as started:
        started.wait_for_ready_block()
        yield started


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """A picture as a file, and its class."""
    images, classes = pictures(1, seed=4)
    path = tmp_path_factory.mktemp("picture") / "picture.png"
    Image.fromarray(images[0]).save(path)
    return path, int(classes[0])


@pytest.mark.parametrize("name", ["model", "cats"])
def test_each_model_answers_with_its_own_labels(running: Service, picture: tuple[Path, int], name: str) -> None:
    path, class_id = picture
    answer = httpx.post(f"{running.url}/{name}/predict", content=path.read_bytes(), timeout=RUN_S).json()
    assert answer["prediction"] == LABELS[name][class_id]
    about = httpx.get(f"{running.url}/{name}/", timeout=RUN_S).json()
    assert (about["name"], about["engine"], about["labels"]) == ("colours.onnx", "onnxruntime", f"{name}.txt")


def test_the_ready_block_names_both(running: Service) -> None:
    lines = [line for line in running.printed().splitlines() if "colours.onnx on onnxruntime" in line]
    assert len(lines) == 2
    assert all("1 replica(s) × 1 thread(s)" in line for line in lines)


def test_the_client_asks_the_second_one(running: Service, picture: tuple[Path, int]) -> None:
    path, class_id = picture
    command = [sys.executable, "-m", "serve_app.client", "--server", running.url, "--prefix", "/cats"]
    ended = subprocess.run(
        [*command, str(path), "--format", "jsonl"], capture_output=True, text=True, timeout=RUN_S, check=True
    )
    assert json.loads(ended.stdout)["prediction"]["prediction"] == LABELS["cats"][class_id]


def test_the_shipped_plan_loads_both(running: Service, tmp_path: Path) -> None:
    plan = yaml.safe_load((CONFIGS / "stress" / "two_models.yaml").read_text())
    [target] = plan["targets"]
    plan["targets"] = [{key: target[key] for key in ("name", "ready", "about")} | {"url": running.url}]
    changes = {"users": [6], "duration_s": 12, "spawn_rate_per_s": 6, "limits": [], "metrics": None, "roles": []}
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan | changes))
    command = [sys.executable, "-m", "loadtest", "run", str(tmp_path / "plan.yaml"), "--out", str(tmp_path / "run")]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=RUN_S, check=False)
    cell = json.loads((tmp_path / "run" / "report.json").read_text())["cells"][0]
    counted = {part["endpoint"]: part["whole_run"] for part in cell["endpoints"]}
    assert all(counted[name]["requests"] > 0 for name in ("lookup", "predict", "cats")), ended.stderr
    assert sum(traffic["failures"] for traffic in counted.values()) == 0
