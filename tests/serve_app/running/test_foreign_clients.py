"""Clients of the Open Inference Protocol that others wrote, each in its own environment, against a real service."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.conftest import Fitted
from tests.foreign_clients import install, run
from tests.hostile import encode
from tests.ports import free_port
from tests.serve_app.classifier.test_images import smooth
from tests.serve_app.running.shared import ANSWER_S, KEY, config_of, grpc_port_of, with_grpc
from tests.service import Service, launcher, own_environment, service, write_config

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def pythons(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The Python of each client."""
    folder = tmp_path_factory.mktemp("clients")
    return {client: install(client, folder) for client in ("triton", "kserve")}


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory, fitted: Fitted) -> Iterator[Service]:
    """A service with API keys and gRPC, behind HAProxy."""
    folder = tmp_path_factory.mktemp("service")
    keys = folder / "keys"
    keys.write_text(KEY)
    config = with_grpc(config_of("one_replica.yaml", free_port(), fitted, keys))
    environment = own_environment(folder) | {"RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(free_port())}
    port = config["http_options"]["port"]
    with service(launcher(write_config(folder, config)), environment, folder, port) as started:
        started.wait_until_ready()
        started.wait_for_ready_block()
        yield started


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A picture, and a file of its pixels."""
    folder = tmp_path_factory.mktemp("pictures")
    picture, pixels = folder / "picture.png", folder / "pixels.npy"
    picture.write_bytes(encode(smooth(40, 30), "PNG"))
    np.save(pixels, np.asarray(Image.open(picture).convert("RGB"))[None])
    return str(picture), str(pixels)


def expect_as_predict(serving: Service, answers: dict[str, Any], picture: str) -> None:
    """Check that each row of each answer is what the service's own API says of the picture."""
    url, headers = f"{serving.url}/model/predict?top_k=10", {"X-API-Key": KEY}
    own = httpx.post(url, content=Path(picture).read_bytes(), headers=headers, timeout=ANSWER_S).json()["predictions"]
    for name, found in answers.items():
        shape = np.shape(found["class_ids"])
        probabilities = np.reshape(found["probabilities"], shape)
        labels = np.reshape(found["labels"], shape)
        for row in range(shape[0]):
            expected = own[: shape[1]]
            assert labels[row].tolist() == [each["label"] for each in expected], name
            assert found["class_ids"][row] == [each["class_id"] for each in expected], name
            assert probabilities[row] == pytest.approx([each["score"] for each in expected], abs=1e-6), name


@pytest.mark.parametrize("base", ["/model", ""])
def test_tritonclient_over_http(serving: Service, pythons: dict[str, Path], files: tuple[str, str], base: str) -> None:
    address = f"127.0.0.1:{serving.port}{base}"
    told = run(pythons["triton"], "triton_http.py", address, "resnet50", *files, KEY)
    assert (told["live"], told["ready"], told["model_ready"], told["missing_ready"]) == (True, True, True, False)
    assert told["metadata"]["inputs"][0]["name"] == told["config"]["input"][0]["name"] == "pictures"
    assert "binary_tensor_data" in told["server"]["extensions"]
    assert [model["name"] for model in told["index"]] == ["resnet50", "resnet50_uint8", "resnet50_fp32"]
    assert told["id"] == "seven"
    assert np.shape(told["answers"]["pictures"]["labels"]) == (2, 3)
    expect_as_predict(serving, told["answers"], files[0])
    assert told["refused"]["status"] == "415"
    assert told["refused"]["text"].startswith("picture 0: the upload is not a picture")


@pytest.mark.parametrize("base", ["/model", ""])
def test_kserves_client_over_rest(
    serving: Service, pythons: dict[str, Path], files: tuple[str, str], base: str
) -> None:
    told = run(pythons["kserve"], "kserve_rest.py", f"{serving.url}{base}", "resnet50", *files, KEY)
    assert (told["live"], told["ready"], told["model_ready"], told["missing_ready"]) == (True, True, True, False)
    expect_as_predict(serving, told["answers"], files[0])
    assert told["refused"]["status"] == "400"
    assert "Base64" in told["refused"]["text"]


def test_tritonclient_over_grpc(serving: Service, pythons: dict[str, Path], files: tuple[str, str]) -> None:
    told = run(pythons["triton"], "triton_grpc.py", f"127.0.0.1:{grpc_port_of(serving)}", "resnet50", *files, KEY)
    assert (told["live"], told["ready"], told["model_ready"], told["id"]) == (True, True, True, "seven")
    assert told["metadata"]["inputs"][0]["name"] == told["config"]["config"]["input"][0]["name"] == "pictures"
    assert told["config"]["config"]["input"][0]["data_type"] == "TYPE_STRING"
    assert len(told["index"]["models"]) == 3
    expect_as_predict(serving, told["answers"], files[0])
    assert told["refused"]["status"] == "StatusCode.INVALID_ARGUMENT"
    assert told["missing"]["status"] == "StatusCode.NOT_FOUND"
    assert told["without_key"]["status"] == "StatusCode.UNAUTHENTICATED"
