"""The workload of the Open Inference Protocol as a server sees it: it asks for the model's input, and fills it."""

import base64
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.loadtest.test_locustfile import ROOT, Enough, KnownServer, LocustRun, csv_rows, run_locust

LOCUSTFILE = str(ROOT / "configs/stress/oip_locustfile.py")
METADATA, INFER = "GET /v2/models/m", "POST /v2/models/m/infer"
RIGHT = b'{"model_name": "m", "outputs": [{"name": "a", "datatype": "FP32", "shape": [1], "data": [0.5]}]}'


def metadata(datatype: str, shape: list[int]) -> list[tuple[int, bytes]]:
    inputs = [{"name": "the_input", "datatype": datatype, "shape": shape}]
    return [(200, json.dumps({"name": "m", "inputs": inputs, "outputs": []}).encode())]


def load(folder: Path, told: list[tuple[int, bytes]], answers: list[tuple[int, bytes]], *options: str) -> LocustRun:
    return run_locust(
        {METADATA: told, INFER: answers}, folder, "--model", "m", *options,
        users=8, enough=inferences(10), locustfile=LOCUSTFILE,
    )  # fmt: skip


def inferences(count: int) -> Enough:
    return lambda server: sum(request.target == INFER for request in server.requests) >= count


def bodies(run: LocustRun) -> list[bytes]:
    return [request.body for request in run.requests if request.target == INFER]


def split(body: bytes) -> tuple[dict[str, Any], bytes]:
    """Return the input, and the raw tensor behind the JSON."""
    text, end, raw = body.partition(b'"parameters":{"binary_data_output":true}}')
    return json.loads(text + end)["inputs"][0], raw


def test_pictures_go_out_raw_and_each_is_another(tmp_path: Path) -> None:
    run = load(tmp_path, metadata("BYTES", [-1]), [(200, RIGHT)], "--pictures-per-request", "2")
    assert (run.failed, run.failures, set(run.counted)) == (0, set(), {INFER})
    seen = set()
    for body in bodies(run):
        tensor, raw = split(body)
        assert (tensor["name"], tensor["shape"]) == ("the_input", [2])
        assert tensor["parameters"] == {"binary_data_size": len(raw)}
        size = int.from_bytes(raw[:4], "little")
        for file in (raw[4 : 4 + size], raw[8 + size :]):
            assert Image.open(io.BytesIO(file)).format == "JPEG"
            seen.add(file)
    assert len(seen) == 2 * len(bodies(run))


def test_numbers_fill_the_shape_of_the_model(tmp_path: Path) -> None:
    told = metadata("FP32", [-1, 8, -1, 3])
    run = load(tmp_path, told, [(200, RIGHT)], "--side", "5", "--pictures-per-request", "3")
    assert run.failed == 0
    for body in bodies(run):
        tensor, raw = split(body)
        assert tensor["shape"] == [3, 8, 5, 3]
        assert len(raw) == 3 * 8 * 5 * 3 * 4


def test_json_is_for_servers_without_the_extension(tmp_path: Path) -> None:
    run = load(tmp_path, metadata("BYTES", [-1, 1]), [(200, RIGHT)], "--encoding", "json", "--pictures", "repeated")
    for body in bodies(run):
        [tensor] = json.loads(body)["inputs"]
        assert tensor["shape"] == [1, 1]
        assert tensor["parameters"] == {"content_type": "base64"}
        assert Image.open(io.BytesIO(base64.b64decode(tensor["data"][0]))).format == "JPEG"
    assert len(set(bodies(run))) == 3


def test_wrong_answers_are_failures_with_few_messages(tmp_path: Path) -> None:
    size = b'{"outputs": [{"name": "a", "parameters": {"binary_data_size": 4}}]}'
    wrong = {
        "status 503": (503, b"{}"),
        "the answer is not that of the protocol": (200, b"[]"),
        "the answer has no outputs": (200, b'{"outputs": []}'),
        "the raw outputs are not as long as they say": (200, size),
    }
    failures = tmp_path / "run_failures.csv"

    def each_was_counted(server: KnownServer) -> bool:
        return min(server.given.values()) > 0 and len(csv_rows(failures)) >= len(wrong)

    run = run_locust(
        {METADATA: metadata("BYTES", [-1]), INFER: [*wrong.values()]}, tmp_path, "--model", "m",
        users=12, enough=each_was_counted, locustfile=LOCUSTFILE,
    )  # fmt: skip
    assert run.failures == {(INFER, f"CatchResponseError({message!r})") for message in wrong}


def test_sizes_of_0_are_refused_when_the_options_are_read() -> None:
    options = ("--picture-pool", "--pictures-per-request", "--side")
    program = f"""if True:
        import runpy
        from locust.argument_parser import get_parser

        runpy.run_path({LOCUSTFILE!r})
        for option in {options}:
            try:
                get_parser().parse_args([option, "0"])
            except SystemExit as refused:
                print(refused.code)
    """
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    assert ended.stdout == "2\n2\n2\n"
    for option in options:
        assert f"argument {option}: '0' is not a whole number above 0" in ended.stderr


def test_a_model_that_is_not_there_ends_the_load_in_words(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="does not tell its inputs"):
        load(tmp_path, [(404, b"{}")], [(200, RIGHT)])
