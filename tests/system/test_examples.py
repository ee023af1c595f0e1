"""Examples of the pages, run as they stand there."""

import asyncio
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from serve_app.classifier.api import build_model_api
from serve_app.classifier.classifier import Classifier
from serve_app.classifier.settings import ClassifierSettings
from serve_app.open_inference.api import add_inference_routes
from serve_app.open_inference.inference import Inference
from tests.serve_app.classifier.small_networks import write_onnx
from tests.served_api import served

ROOT = Path(__file__).parents[2]


@pytest.mark.system("bash", "curl", "dash")
@pytest.mark.parametrize("shell", ["bash", "dash"])
async def test_the_curl_example_of_the_open_inference_protocol_sends_a_picture_of_five_megabytes(
    tmp_path: Path, shell: str
) -> None:
    page = (ROOT / "docs" / "open_inference.md").read_text()
    [command] = re.findall(r"^```console\n\$ (.*?)\n\{", page, re.DOTALL | re.MULTILINE)
    pixels = np.random.default_rng(0).integers(0, 256, (1300, 1300, 3), np.uint8)
    picture = tmp_path / "picture.jpg"
    Image.fromarray(pixels).save(picture, "PNG")
    assert picture.stat().st_size > 5_000_000
    given = {"model": str(write_onnx(tmp_path / "m.onnx")), "engine": "onnxruntime", "preprocessing": "scale_0_1"}
    classifier = await Classifier.load(ClassifierSettings.model_validate(given))
    api = build_model_api(classifier)
    add_inference_routes(api, Inference(classifier))
    async with served(api) as address:
        for written, here in (("http://127.0.0.1:8000", f"{address}/model"), ("resnet50", classifier.model.name)):
            command = command.replace(written, here)
        sent = await asyncio.create_subprocess_exec(
            shell, "-c", command, cwd=tmp_path, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        answer, told = await sent.communicate()
    await classifier.close()
    assert sent.returncode == 0, (told, answer)
    assert [each["shape"] for each in json.loads(answer)["outputs"]] == [[1, 1]] * 3
