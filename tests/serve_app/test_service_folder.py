"""The folder of a running service: for its user only, one for each port, and gone when the service has stopped."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from loadtest.plan.targets import discovery_path
from serve_app.errors import SetupError
from serve_app.service_folder import (
    MAX_BYTES,
    VARIABLE,
    claimed_folder,
    find_dashboard,
    folder_of,
    haproxy_files,
    haproxy_sockets,
    write_facts,
)
from tests.service import CONFIGS

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are neither modes nor locks of folders")
PORT, OTHER = 8000, 8001
NODE = "f" * 56
"""A node's id, by which Ray names a folder between."""


@pytest.fixture(autouse=True)
def top(short_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for all services, with a path as short as that of /tmp/serve-app-UID."""
    monkeypatch.setenv(VARIABLE, str(short_folder))
    return short_folder


def is_over() -> bool:
    return True


def is_not_over() -> bool:
    return False


def test_a_folder_is_for_its_user_only_and_gone_at_the_end(top: Path) -> None:
    with claimed_folder(PORT, is_over=is_over) as folder:
        assert folder == top / str(PORT)
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        (folder / "ray" / "session").mkdir(parents=True)
        (folder / "ray" / "session" / "log").write_text("line")
    assert not folder.exists()


def test_by_default_it_is_below_a_folder_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE)
    assert folder_of(PORT) == Path(f"/tmp/serve-app-{os.getuid()}/{PORT}")


def test_a_folder_that_the_user_has_named_stays(top: Path) -> None:
    with claimed_folder(PORT, is_over=is_over):
        pass
    assert list(top.iterdir()) == []


def test_services_on_two_ports_have_a_folder_each(top: Path) -> None:
    with claimed_folder(PORT, is_over=is_over) as one:
        with claimed_folder(OTHER, is_over=is_over) as other:
            assert one != other
        assert (one.is_dir(), other.exists()) == (True, False)
    assert list(top.iterdir()) == []


def test_a_second_service_on_a_port_does_not_touch_the_folder_of_the_first() -> None:
    with claimed_folder(PORT, is_over=is_over) as folder:
        (folder / "mine").touch()
        with pytest.raises(SetupError, match=f"port {PORT} cannot be used: another service of yours"):
            claimed_folder(PORT, is_over=is_over).__enter__()
        assert (folder / "mine").exists()


def test_after_a_fault_it_stays_until_the_next_start() -> None:
    with claimed_folder(PORT, is_over=is_not_over) as folder:
        (folder / "log").write_text("the reason")
    assert (folder / "log").read_text() == "the reason"
    with claimed_folder(PORT, is_over=is_over) as again:
        assert again == folder
        assert list(again.iterdir()) == []


def test_after_a_fault_nobody_is_told_of_a_dashboard_and_metrics(tmp_path: Path) -> None:
    with claimed_folder(PORT, is_over=is_not_over) as folder:
        (folder / "log").write_text("the reason")
        write_facts(folder, dashboard="http://127.0.0.1:8265", metrics=tmp_path)
        assert len(list(folder.iterdir())) == 3
    assert [path.name for path in folder.iterdir()] == ["log"]


def test_the_kits_plans_look_for_metrics_where_the_service_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    discoveries = [
        plan["metrics"]["discovery"]
        for path in (CONFIGS / "stress").glob("*.yaml")
        if "discovery" in ((plan := yaml.safe_load(path.read_text())).get("metrics") or {})
    ]
    assert len(discoveries) >= 4
    for given in (os.environ[VARIABLE], "", None):
        if given is None:
            monkeypatch.delenv(VARIABLE)
        else:
            monkeypatch.setenv(VARIABLE, given)
        for discovery in discoveries:
            assert discovery_path(discovery, f"http://127.0.0.1:{PORT}/") == folder_of(PORT) / "metrics.json"


def test_what_a_killed_service_left_is_no_running_service_and_no_hindrance() -> None:
    code = f"""
import time
from pathlib import Path
from serve_app.service_folder import claimed_folder, write_facts
with claimed_folder({PORT}, is_over=lambda: True) as folder:
    write_facts(folder, dashboard="http://127.0.0.1:8265", metrics=Path("/nowhere"))
    print("claimed", flush=True)
    time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as launcher:
        assert launcher.stdout
        assert launcher.stdout.readline() == "claimed\n"
        assert find_dashboard(PORT) == "http://127.0.0.1:8265"
        with pytest.raises(SetupError, match="cannot be used"):
            claimed_folder(PORT, is_over=is_over).__enter__()
        launcher.send_signal(signal.SIGKILL)
    assert folder_of(PORT).is_dir()
    with pytest.raises(SetupError, match=f"you run no service on port {PORT}"):
        find_dashboard(PORT)
    with claimed_folder(PORT, is_over=is_over) as folder:
        assert list(folder.iterdir()) == []


def test_a_folder_that_is_not_made_by_this_user_is_refused(top: Path) -> None:
    elsewhere = top / "elsewhere"
    elsewhere.mkdir()
    folder_of(PORT).symlink_to(elsewhere)
    with pytest.raises(SetupError, match=f"{PORT} belongs to somebody else"):
        claimed_folder(PORT, is_over=is_over).__enter__()
    assert elsewhere.exists()


def test_a_path_too_long_for_sockets_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "/tmp/" + "x" * MAX_BYTES)
    with pytest.raises(SetupError, match=f"{VARIABLE}: .* longer than {MAX_BYTES} bytes"):
        claimed_folder(PORT, is_over=is_over).__enter__()


def test_the_longest_path_has_room_for_the_sockets_of_haproxy_and_ray(top: Path) -> None:
    folder = top / ("x" * (MAX_BYTES - len(str(top)) - 1))
    assert len(str(folder)) == MAX_BYTES
    admin = Path(haproxy_files(folder)["RAY_SERVE_HAPROXY_SOCKET_PATH"])
    # HAProxy makes it under another name first, with the largest process id; Ray's has date and process id.
    names = [
        admin.parent / NODE / f"{admin.name}.4194304.tmp",
        folder / "ray/session_2026-11-26_15-49-48_417857_4194304/sockets/plasma_store",
    ]
    for path in names:
        path.parent.mkdir(parents=True)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))


def test_the_admin_sockets_are_found_where_haproxy_is_told_to_put_them() -> None:
    with claimed_folder(PORT, is_over=is_over) as folder:
        assert haproxy_sockets(folder) == []
        told = Path(haproxy_files(folder)["RAY_SERVE_HAPROXY_SOCKET_PATH"])
        admin = told.parent / NODE / told.name
        admin.parent.mkdir(parents=True)
        admin.touch()
        assert haproxy_sockets(folder) == [admin]
        assert all(Path(path).is_relative_to(folder) for path in haproxy_files(folder).values())


def test_a_running_service_tells_where_its_dashboard_and_its_metrics_are(tmp_path: Path) -> None:
    discovery = tmp_path / "prom_metrics_service_discovery.json"
    with pytest.raises(SetupError, match="you run no service"):
        find_dashboard(PORT)
    with claimed_folder(PORT, is_over=is_over) as folder:
        with pytest.raises(SetupError, match="that is ready"):
            find_dashboard(PORT)
        write_facts(folder, dashboard="http://127.0.0.1:8266", metrics=discovery)
        assert find_dashboard(PORT) == "http://127.0.0.1:8266"
        discovery.write_text(json.dumps([{"targets": ["127.0.0.1:1"]}]))  # Ray writes it when it likes
        assert json.loads((folder / "metrics.json").read_text()) == [{"targets": ["127.0.0.1:1"]}]
    with pytest.raises(SetupError, match="you run no service"):
        find_dashboard(PORT)
