"""The environment that `serve_app.data_plane` prints: HTTPS where the config says so, and nowhere else."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from serve_app import data_plane
from serve_app.entrance.environment import HAPROXY_SWITCH
from serve_app.entrance.tls import CERT_VARIABLE, KEY_VARIABLE
from tests.certificates import write_certificate
from tests.service import CONFIGS, ROOT, read_config

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="HAProxy comes for Linux only")


@pytest.fixture(autouse=True)
def no_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(HAPROXY_SWITCH, raising=False)


def printed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], **more: object
) -> tuple[int, dict[str, str], list[str]]:
    """Return exit code, variables and lines on standard error for a config with `more` at its top."""
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(read_config("one_replica.yaml") | more))
    monkeypatch.setattr(sys, "argv", ["data_plane", str(path)])
    code, told = data_plane.main(), capsys.readouterr()
    return code, dict(word.split("=", 1) for word in shlex.split(told.out)), told.err.splitlines()


def certificate(folder: Path) -> dict[str, str]:
    cert, key = folder / "cert.pem", folder / "key.pem"
    write_certificate(cert, key)
    return {"cert": str(cert), "key": str(key)}


def test_tls_of_the_config_is_in_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tls = certificate(tmp_path)
    code, variables, _ = printed(tmp_path, monkeypatch, capsys, tls=tls)
    assert (code, variables[CERT_VARIABLE], variables[KEY_VARIABLE]) == (0, tls["cert"], tls["key"])
    assert variables[HAPROXY_SWITCH] == "1"


def test_a_config_without_tls_undoes_that_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(CERT_VARIABLE, "/of/another/config")
    monkeypatch.setenv(KEY_VARIABLE, "/of/another/config")
    code, variables, _ = printed(tmp_path, monkeypatch, capsys)
    assert (code, variables[CERT_VARIABLE], variables[KEY_VARIABLE]) == (0, "", "")


def test_what_would_be_plain_http_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tls = certificate(tmp_path)
    for more, key in (
        ({"tls": {"cert": tls["cert"], "kye": tls["key"]}}, "tls.k"),
        ({"tsl": tls}, "tsl"),
        ({"tls": tls | {"cert": "/nowhere.pem"}}, "tls.cert"),
    ):
        code, variables, told = printed(tmp_path, monkeypatch, capsys, **more)
        assert (code, variables) == (2, {})
        assert told
        assert all(line.startswith(f"error: {key}") for line in told)
    monkeypatch.setenv(HAPROXY_SWITCH, "0")
    code, _, [line] = printed(tmp_path, monkeypatch, capsys, tls=tls)
    assert (code, line.split(";")[0]) == (2, "error: tls: without HAProxy there is no HTTPS")


def test_the_documented_line_serves_nothing_of_a_config_that_cannot_be_used(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "operating.md").read_text(encoding="utf-8")
    [line] = re.findall(r"```sh\n([^`]*data_plane[^`]*)```", page)
    config = tmp_path / "config.yaml"
    line = line.replace("serve run", "echo served").replace("python", shlex.quote(sys.executable))
    line = line.replace("configs/one_replica.yaml", shlex.quote(str(config)))
    served = {}
    for name, text in (("whole", ""), ("misspelled", "tsl: {}\n")):
        config.write_text((CONFIGS / "one_replica.yaml").read_text(encoding="utf-8") + text, encoding="utf-8")
        done = subprocess.run(["sh", "-c", line], cwd=ROOT, capture_output=True, text=True, check=False)
        served[name] = done.returncode, done.stdout
    assert served == {"whole": (0, f"served {config}\n"), "misspelled": (2, "")}
