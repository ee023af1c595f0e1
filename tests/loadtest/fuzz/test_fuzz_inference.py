"""The fuzzer's requests of the Open Inference Protocol: valid ones are, and the same seed makes the same."""

from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.fuzz.inference import SIDE, make_inference, valid_inferences
from loadtest.fuzz.request import read_request
from loadtest.load.inference_input import Input
from loadtest.load.pictures import sample_files
from serve_app.classifier.settings import ClassifierSettings
from serve_app.errors import ServiceError
from serve_app.open_inference.models import ServedModels
from serve_app.open_inference.request import count_json_values, parse_request, split_body
from serve_app.open_inference.tensors import pictures_in

PATH = "/v2/models/m/infer"
MODELS = ServedModels("m", "tensorflow", 64)
FILES = sample_files()


PICTURES = Input("pictures", "BYTES", (1,))
INPUTS = {
    "m": PICTURES,
    **{f"m_{kind.lower()}": Input("pixels", kind, (1, SIDE, SIDE, 3)) for kind in ("UINT8", "FP32")},
}


def pictures_of(headers: httpx.Headers, body: bytes, model: str = "m") -> list[bytes]:
    """Return the pictures in a request as the service reads it. Raises ServiceError."""
    text, raw = split_body(body, headers.get("Inference-Header-Content-Length"))
    count_json_values(text)
    _, tensor = parse_request(MODELS.find(model), text, raw)
    return pictures_in(tensor, ClassifierSettings())


def test_valid_requests_hold_the_files() -> None:
    found = [
        pictures_of(httpx.Headers(list(each.headers)), each.body) for each in valid_inferences(PATH, FILES, PICTURES)
    ]
    assert found == [[file] for file in FILES for _ in range(2)]


@pytest.mark.parametrize("model", ["m_uint8", "m_fp32"])
def test_valid_requests_of_pixels_are_one_picture_raw_or_not(model: str) -> None:
    made = valid_inferences(PATH, FILES[:1], INPUTS[model])
    raw, listed = [pictures_of(httpx.Headers(list(each.headers)), each.body, model) for each in made]
    assert raw == listed
    assert len(raw) == 1


@pytest.mark.parametrize("model", INPUTS)
def test_the_same_seed_makes_the_same_requests_and_another_does_not(model: str) -> None:
    first, again, other = (
        [make_inference(PATH, FILES, seed, number, INPUTS[model]) for number in range(60)] for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other
    assert len({request.body for request in first}) > 40


def test_a_request_comes_back_from_its_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "request.http"
    for number in range(200):
        request = make_inference(PATH, FILES, 0, number, PICTURES)
        path.write_bytes(request.encode())
        assert read_request(path) == request


@given(st.sampled_from([*INPUTS]), st.integers(0, 10**6))
def test_what_the_fuzzer_makes_is_read_or_refused(model: str, number: int) -> None:
    request = make_inference(PATH, FILES, 3, number, INPUTS[model])
    try:
        assert pictures_of(httpx.Headers(list(request.headers)), request.body, model)
    except ServiceError as refused:
        assert 400 <= refused.status < 500  # noqa: PT017 either is right
