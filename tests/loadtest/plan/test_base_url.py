"""Addresses: a slash at the end changes nothing, and a path stands before every request, wherever one is given."""

import subprocess
from pathlib import Path

import httpx
import pytest

from loadtest.__main__ import main
from loadtest.errors import BadInputError
from loadtest.plan.base_url import read_base_url
from loadtest.plan.plan import load_plan
from tests.kit import RUN_S, run_kit, workload, write_plan
from tests.loadtest.test_locustfile import LOCUST, SHIPPED, KnownServer, known_server, run_locust

PLANTED = "pl4nted"


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("http://127.0.0.1:8000/", "http://127.0.0.1:8000"),
        ("http://127.0.0.1:8000//", "http://127.0.0.1:8000"),
        ("https://service.example/api/v1/", "https://service.example/api/v1"),
        ("HTTP://[::1]:8000/", "http://[::1]:8000"),
    ],
)
def test_an_address_is_read_without_the_slash_at_its_end(given: str, read: str) -> None:
    assert read_base_url(given) == read
    assert read_base_url(read) == read


@pytest.mark.parametrize(
    "text",
    [
        "", "localhost:8000", "127.0.0.1:8000", "ftp://host", "http://", "http:///path", "http://host:99999", "http://host:0",
        "http://host:port", "http://host/?key=1", "http://host/#part", "http://ho st", "http://host\n", "http://[::1",
    ],
)  # fmt: skip
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no URL such as http"):
        read_base_url(text)


FAULTS = [
    ("http://127.0.0.1:8299x", "the port must be a number from 1 to 65535"),
    ("http://a..b:80", "'a..b' is neither a host name nor an IP address"),
    (f"http://{'a' * 64}:80", "is neither a host name nor an IP address"),
    ("http://xn--:80", "'xn--' is neither a host name nor an IP address"),
    ("http://1.2.3.400:80", "'1.2.3.400' is neither a host name nor an IP address"),
    ("http://ex%zz", "'ex%zz' is neither a host name nor an IP address"),
    ("http://[::1", "correct the host (Invalid IPv6 URL)"),
    ("127.0.0.1:8000", "it must begin with http:// or https://"),
    ("http://host/?key=1", "remove everything from the ? or # on"),
    ("http://ho st", "remove spaces and control characters"),
]


@pytest.mark.parametrize(("url", "fault"), FAULTS)
def test_an_address_that_cannot_be_is_one_line_that_names_the_part(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, url: str, fault: str
) -> None:
    monkeypatch.setattr("sys.argv", ["loadtest", "fuzz", url])
    assert main() == 2
    said = f"{url!r} is no URL such as http://127.0.0.1:8000/path: "
    err = capsys.readouterr().err
    assert err.startswith(f"error: URL: {said}")
    assert err.endswith(f"{fault}\n")
    assert err.count("\n") == 1
    monkeypatch.setattr(
        "sys.argv", ["loadtest", "run", str(write_plan(tmp_path / "plan.yaml", [{"name": "a", "url": url}]))]
    )
    assert main() == 2
    err = capsys.readouterr().err
    assert f"targets.0.url: {said}" in err
    assert fault in err


@pytest.mark.parametrize("host", ["localhost.", "my_service", "bücher.example", "xn--bcher-kva.example", "[::1%eth0]"])
def test_every_host_that_can_be_asked_for_is_taken(host: str) -> None:
    assert httpx.URL(read_base_url(f"http://{host}:80/")).host


LOGINS = [
    f"http://user:{PLANTED}@127.0.0.1:1",
    f"http://{PLANTED}@127.0.0.1:1",
    f"http://user:{PLANTED}/x@127.0.0.1:1",
    f"http://user:12/{PLANTED}@127.0.0.1:1",
]


@pytest.mark.parametrize("url", LOGINS)
def test_a_login_is_refused_and_not_quoted(url: str) -> None:
    with pytest.raises(ValueError, match="must have no user and password") as refused:
        read_base_url(url)
    assert PLANTED not in str(refused.value)


@pytest.mark.parametrize("url", LOGINS)
def test_fuzz_shows_no_password(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], url: str) -> None:
    monkeypatch.setattr("sys.argv", ["loadtest", "fuzz", url])
    assert main() == 2
    out, err = capsys.readouterr()
    assert "URL: must have no user and password" in err
    assert PLANTED not in out + err


def test_locust_with_a_login_in_its_host_ends_at_once_and_shows_no_password() -> None:
    for url in LOGINS[::2]:
        done = subprocess.run(
            [LOCUST, "-f", SHIPPED, "--host", url, "--headless", "-u", "1", "-t", "5m"],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode != 0
        assert "--host: must have no user and password" in done.stderr
        assert PLANTED not in done.stdout + done.stderr


def test_a_plan_takes_an_address_with_a_slash_and_a_path_and_refuses_a_wrong_port(tmp_path: Path) -> None:
    target = {"name": "a", "url": "http://127.0.0.1:8000/api/"}
    assert load_plan(write_plan(tmp_path / "plan.yaml", [target])).targets[0].url == "http://127.0.0.1:8000/api"
    path = write_plan(tmp_path / "plan.yaml", [{**target, "url": "http://127.0.0.1:80000"}])
    with pytest.raises(BadInputError, match=r"targets.0.url: 'http://127.0.0.1:80000' is no URL such as"):
        load_plan(path)


@pytest.mark.parametrize("path", ["/", "/api/"])
def test_the_locustfile_finds_the_service_with_a_slash_and_below_a_path(tmp_path: Path, path: str) -> None:
    below = path.rstrip("/")
    right = {
        f"GET {below}/user/": [(200, b'{"users": []}')],
        f"POST {below}/model/predict": [(200, b'{"prediction": {}, "predictions": []}')],
    }

    def is_all_asked(server: KnownServer) -> bool:
        return {request.target for request in server.requests} >= set(right)

    run = run_locust(right, tmp_path, users=10, enough=is_all_asked, path=path)
    assert {request.target for request in run.requests} == set(right)


@pytest.mark.timeout(3 * RUN_S)
def test_a_run_measures_a_target_below_a_path(tmp_path: Path) -> None:
    with known_server({"GET /api/ready": [(200, b"")], "GET /api/fixed": [(200, b"fixed")]}) as server:
        target = {"name": "below", "url": f"http://127.0.0.1:{server.server_port}/api/", "ready": ["/ready"]}
        work = workload("fixed", wait_s=[0.05, 0.15])
        plan = write_plan(tmp_path / "plan.yaml", [target], duration_s=2, warmup={"duration_s": 0}, workload=work)
        ended = run_kit(plan, tmp_path / "run")
    assert {request.target for request in server.requests} == {"GET /api/ready", "GET /api/fixed"}
    steady = ended.cell("below").steady
    assert steady is not None, ended.output
    assert (steady.requests > 0, steady.failures) == (True, 0)
