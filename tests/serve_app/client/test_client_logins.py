"""User and password of a URL open what they are for, and stand in no output, message or file of the client."""

from pathlib import Path

import pytest
from starlette.responses import Response

from serve_app.client.__main__ import main
from serve_app.client.errors import UsageError
from serve_app.client.items import Skipped, find_items, url_items
from serve_app.client.options import read_options
from tests.known_service import known_service
from tests.simple_service import simple_service

PLANTED = "pl4nted"


def ended(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str]:
    """Run the client in this process; return its exit code and all that it printed."""
    try:
        code = main([*map(str, arguments), "--retries", "0"])
    except SystemExit as exc:  # argparse's way out
        code = int(exc.code or 0)
    said = capsys.readouterr()
    return code, said.out + said.err


def test_a_picture_at_a_url_with_a_login_is_named_without_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    urls = tmp_path / "urls.txt"
    with known_service() as service:
        place = service.url.removeprefix("http://")
        urls.write_text(f"http://user:{PLANTED}@{place}/nothing.jpg\nhttp://user:{PLANTED}@127.0.0.1:1/x.jpg\n")
        for kind in ("table", "csv", "json", "jsonl"):
            output = tmp_path / f"out.{kind}"
            code, told = ended(capsys, "--server", service.url, "--urls", urls, "--format", kind, "--output", output)
            assert code == 1
            assert f"http://{place}/nothing.jpg" in output.read_text()
            assert PLANTED not in told + output.read_text()


@pytest.mark.parametrize("login", ["user:pl4nted", "user:pl4nted/x"])
def test_a_server_with_a_login_is_named_without_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], login: str
) -> None:
    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8\xff")
    code, told = ended(capsys, "--server", f"http://{login}@127.0.0.1:1", "--give-up-after", "0.1", tmp_path / "a.jpg")
    assert code in (1, 2)
    assert "--server" in told
    assert PLANTED not in told


@pytest.mark.parametrize(
    "url",
    [f"http://user:{PLANTED}/x@host/a.jpg", f"http://user:{PLANTED}@host:{PLANTED}/a.jpg", f"ftp://u:{PLANTED}@host/a"],
)
def test_a_url_that_cannot_be_read_is_told_without_any_part_of_it(url: str) -> None:
    with pytest.raises(UsageError, match="http") as listed:
        list(url_items([url], "urls.txt"))
    with pytest.raises(UsageError, match="http") as named:
        list(find_items([url], Skipped()))
    assert PLANTED not in str(listed.value) + str(named.value)
    assert "line 1" in str(listed.value)


URL = f"http://user:{PLANTED}@host/a.jpg"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--urls", URL], ["a.jpg", "--output", URL], ["a.jpg", "--output", f"{URL}.csv"], ["a.jpg", "--format", URL],
        ["a.jpg", "--top-k", URL], [f"--server=http://u:{PLANTED} x@host", "a.jpg"], ["--url", URL], [f"--url={URL}"],
        [f"--{URL}"], [f"user:{PLANTED}@host/a.jpg"], [f"http:/user:{PLANTED}/x@host/a.jpg"],
        ["a.jpg", "--give-up-after", f"http://user:{PLANTED} '\"x@host"], ["--job", URL, "a.jpg"],
        ["--", f"-x:{PLANTED}@host"],
        ["a.jpg", "--api-key-env", URL], ["a.jpg", "--server", URL, "--urls", URL],
    ],
)  # fmt: skip
def test_no_message_about_an_argument_has_a_password_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.jpg").write_bytes(b"\xff\xd8\xff")
    code, told = ended(capsys, *arguments)
    assert code == 2
    assert told.startswith("error: ")
    assert PLANTED not in told


def test_a_redirect_to_an_address_with_a_login_is_told_without_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8\xff")
    moved = Response(status_code=308, headers={"Location": f"https://user:{PLANTED}@host/model/"})
    with simple_service(lambda _: moved) as service:
        code, told = ended(capsys, "--server", service.url, tmp_path / "a.jpg")
    assert (code, "status 308" in told, "https://host/model/" in told) == (2, True, True)
    assert PLANTED not in told


def test_the_command_that_asks_again_has_no_password_in_it() -> None:
    options = read_options(["--job", "x", "--server", f"http://user:{PLANTED}@host:8000"])
    assert options.how_to_ask_again() == "python -m serve_app.client --server http://host:8000"
