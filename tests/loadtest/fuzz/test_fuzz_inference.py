"""The fuzzer's requests of the Open Inference Protocol: valid ones are, and the same seed makes the same."""

from pathlib import Path

import httpx
from hypothesis import given
from hypothesis import strategies as st

from loadtest.fuzz.inference import make_inference, valid_inferences
from loadtest.fuzz.request import read_request
from loadtest.load.pictures import sample_files
from serve_app.classifier.settings import ClassifierSettings
from serve_app.errors import ServiceError
from serve_app.open_inference.models import ServedModels
from serve_app.open_inference.request import count_json_values, parse_request, split_body
from serve_app.open_inference.tensors import pictures_in

PATH = "/v2/models/m/infer"
MODELS = ServedModels("m", "tensorflow", 64)
FILES = sample_files()


def pictures_of(headers: httpx.Headers, body: bytes) -> list[bytes]:
    """Return the pictures in a request as the service reads it. Raises ServiceError."""
    text, raw = split_body(body, headers.get("Inference-Header-Content-Length"))
    count_json_values(text)
    _, tensor = parse_request(MODELS.find("m"), text, raw)
    return pictures_in(tensor, ClassifierSettings())


def test_valid_requests_hold_the_files() -> None:
    found = [pictures_of(httpx.Headers(list(each.headers)), each.body) for each in valid_inferences(PATH, FILES)]
    assert found == [[file] for file in FILES for _ in range(2)]


def test_the_same_seed_makes_the_same_requests_and_another_does_not() -> None:
    first, again, other = ([make_inference(PATH, FILES, seed, number) for number in range(60)] for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert len({request.body for request in first}) > 40


def test_a_request_comes_back_from_its_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "request.http"
    for number in range(200):
        request = make_inference(PATH, FILES, 0, number)
        path.write_bytes(request.encode())
        assert read_request(path) == request


@given(st.integers(0, 10**6))
def test_what_the_fuzzer_makes_is_read_or_refused(number: int) -> None:
    request = make_inference(PATH, FILES, 3, number)
    try:
        assert pictures_of(httpx.Headers(list(request.headers)), request.body)
    except ServiceError as refused:
        assert 400 <= refused.status < 500  # noqa: PT017 either is right
