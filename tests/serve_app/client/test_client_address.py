"""The client's --server with a slash and below a path, and what it says when there is nothing to fetch or classify."""

from pathlib import Path

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from serve_app.client.__main__ import main
from serve_app.client.connection import SERVER
from tests.simple_service import simple_service

ABOUT = {
    "name": "resnet50", "engine": "tensorflow", "precision": "float32", "weights": "imagenet", "weights_sha256": None,
    "labels": "imagenet", "max_upload_bytes": 100_000, "deadline_s": 10.0,
}  # fmt: skip
PREDICTION = {"prediction": "thing", "score": 0.5, "predictions": [], "cached": False}
EMPTY_JOB = {"id": "empty", "state": "done", "files": 0, "files_done": 0, "results": [], "error": None}


def below(path: str, request: Request) -> Response:
    """Answer as the service would below a path."""
    answers = {
        f"GET {path}/model/": JSONResponse(ABOUT),
        f"POST {path}/model/predict": JSONResponse(PREDICTION),
        f"GET {path}/model/jobs/empty": JSONResponse(EMPTY_JOB),
    }
    error = JSONResponse({"code": "not_found", "detail": "as the test wants it", "request_id": "known"}, 404)
    return answers.get(f"{request.method} {request.url.path}", error)


@pytest.mark.parametrize("path", ["", "/", "//", "/api", "/api/v1/"])
def test_the_service_is_found_with_a_slash_and_below_a_path(
    path: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "a.jpg"
    picture.write_bytes(b"\xff\xd8\xff picture")
    with simple_service(lambda request: below(path.rstrip("/"), request)) as service:
        code = main(["--server", f"{service.url}{path}", str(picture), "--format", "csv"])
    assert code == 0, capsys.readouterr().err
    assert ",thing," in capsys.readouterr().out


@pytest.mark.parametrize("url", ["http://xn--a", "http://u:pw@xn--a.com/p", "http://1.2.3.400", "http://[v1.x]"])
@pytest.mark.parametrize("command", [[], ["evaluate"]], ids=["plain", "evaluate"])
def test_a_host_that_cannot_be_one_is_refused_in_one_line(
    url: str, command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thing").mkdir()
    (tmp_path / "thing" / "a.jpg").write_bytes(b"\xff\xd8\xff picture")
    assert main([*command, str(tmp_path), "--server", url]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    shown = url.replace("u:pw@", "")
    assert told.err.splitlines() == [
        f"error: --server {shown}: its host is no name and no IP address; write an address such as {SERVER}"
    ]


@pytest.mark.parametrize("status", [200, 404])
def test_an_answer_that_is_nested_too_deeply_to_read_is_not_the_services(
    status: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8\xff picture")
    with simple_service(lambda _: Response("[" * 100_000, status)) as service:
        assert main([str(tmp_path), "--server", service.url]) == 2
    told = capsys.readouterr().err
    assert len(told.splitlines()) == 1
    assert f"error: --server {service.url}: this is not the service: GET /model/: " in told


def test_a_job_without_a_file_is_no_success(capsys: pytest.CaptureFixture[str]) -> None:
    with simple_service(lambda request: below("", request)) as service:
        assert main(["--server", service.url, "--job", "empty"]) == 2
    assert "--job empty: the job has no files" in capsys.readouterr().err


def test_an_empty_folder_is_no_success(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    assert "contains nothing to classify" in capsys.readouterr().err
