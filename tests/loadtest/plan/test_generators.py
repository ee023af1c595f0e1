"""`generators` and several URLs in a plan: what is refused, in one line that names the key and what would do."""

import os
import socket
from pathlib import Path
from typing import Any

import pytest
import yaml

from loadtest.errors import BadInputError
from loadtest.faults.fault_plan import load_fault_plan
from loadtest.plan.generators import MOST_PER_CORE, tell_how_to_start
from loadtest.plan.plan import Plan, load_plan
from tests.kit import ask, known_target, write_plan
from tests.loadtest.faults.test_faults_run import load
from tests.ports import free_port

PORT = 8000


def plan_with(folder: Path, **keys: Any) -> Plan:
    url = keys.pop("url", f"http://127.0.0.1:{PORT}")
    return load_plan(
        write_plan(folder / "plan.yaml", [known_target("known", PORT, url=url)], **{"users": [50], **keys})
    )


def fault_of(folder: Path, **keys: Any) -> str:
    with pytest.raises(BadInputError) as refused:
        plan_with(folder, **keys)
    (line,) = str(refused.value).splitlines()
    return line.removeprefix(f"{folder / 'plan.yaml'}: ")


@pytest.mark.parametrize("number", [0, -1])
def test_fewer_than_one_generator(tmp_path: Path, number: int) -> None:
    assert fault_of(tmp_path, generators=number) == f"generators: Input should be greater than 0, not {number}"


@pytest.mark.parametrize("number", [1.5, "two"])
def test_what_is_no_whole_number(tmp_path: Path, number: object) -> None:
    assert fault_of(tmp_path, generators=number).startswith("generators: Input should be a valid integer")


def test_more_generators_than_the_smallest_level_has_users(tmp_path: Path) -> None:
    assert fault_of(tmp_path, users=[50, 3], generators=4) == (
        "generators: 4 are too many for 3 user(s), since each needs one: make it 3 or less, or raise users"
    )


def test_more_generators_than_this_machine_can_feed(tmp_path: Path) -> None:
    cores = os.cpu_count() or 1
    most = MOST_PER_CORE * cores
    users = [2 * most]
    assert plan_with(tmp_path, users=users, generators=most).generators == most
    assert fault_of(tmp_path, users=users, generators=most + 1) == (
        f"generators: {most + 1} are too many for the {cores} core(s) here: make it {most} or less, or start them on "
        "other machines (generators_at)"
    )
    at = f"127.0.0.1:{free_port()}"
    assert plan_with(tmp_path, users=users, generators=most + 1, generators_at=at).generators == most + 1


@pytest.mark.parametrize("address", ["5557", "127.0.0.1", "127.0.0.1:0", "127.0.0.1:65536", "127.0.0.1:x", ":5557"])
def test_an_address_of_another_form(tmp_path: Path, address: str) -> None:
    fault = fault_of(tmp_path, generators=2, generators_at=address)
    assert fault == f"generators_at: {address!r} is not of the form HOST:PORT, such as 192.0.2.7:5557"


def test_an_address_with_a_name(tmp_path: Path) -> None:
    assert fault_of(tmp_path, generators=2, generators_at="here:5557") == (
        "generators_at: 'here:5557' must begin with an IPv4 address of this machine, as in 192.0.2.7:5557"
    )


def test_an_address_that_is_taken_is_refused_before_anything_runs(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        at = f"127.0.0.1:{taken.getsockname()[1]}"
        fault = fault_of(tmp_path, generators=2, generators_at=at)
    assert fault.startswith(f"generators_at: {at} cannot be listened on")


@pytest.mark.parametrize(
    ("at", "master"), [("192.0.2.7:5557", "192.0.2.7:5557"), ("0.0.0.0:5557", "AN_ADDRESS_OF_THIS_MACHINE:5557")]
)
def test_generators_elsewhere_are_told_an_address_that_they_can_reach(at: str, master: str) -> None:
    assert f"`python -m loadtest generator --master {master}` on their machines" in tell_how_to_start(at)


def test_one_generator_leaves_the_plan_in_a_run_folder_as_it_was_before_there_were_several(tmp_path: Path) -> None:
    assert {"generators", "generators_at"} & {*plan_with(tmp_path, generators=1).model_dump()} == set()
    assert plan_with(tmp_path, generators=2).model_dump()["generators"] == 2


def test_faults_and_soaks_refuse_alike(tmp_path: Path) -> None:
    path = tmp_path / "faults.yaml"
    group = {"name": "a", "target": known_target("a", PORT), "faults": [{"name": "one", "command": "true"}]}
    path.write_text(yaml.safe_dump(load(groups=[group], users=3, generators=4)))
    with pytest.raises(BadInputError, match=r"generators: 4 are too many for 3 user\(s\)"):
        load_fault_plan(path)


def test_a_search_that_begins_with_fewer_users_than_generators(tmp_path: Path) -> None:
    plan = write_plan(tmp_path / "plan.yaml", [known_target("known", PORT)], generators=4)
    ended = ask("capacity", plan, "--slo", "fixed.p95_ms<=100", "--start", 3, "--out", tmp_path / "out")
    assert ended.exit_code == 2
    assert "--start: must be at least 4, one user for each of the plan's generators" in ended.stderr


def test_more_processes_for_a_run_elsewhere_than_this_machine_can_feed() -> None:
    most = MOST_PER_CORE * (os.cpu_count() or 1)
    ended = ask("generator", "--master", "127.0.0.1:5557", "--processes", most + 1)
    assert ended.exit_code == 2
    assert f"error: --processes: {most + 1} are too many for the " in ended.stderr
    assert f"make it {most} or less\n" in ended.stderr


@pytest.mark.parametrize("address", ["nowhere", "127.0.0.1:99999"])
def test_a_master_s_address_that_is_none(address: str) -> None:
    ended = ask("generator", "--master", address)
    assert ended.exit_code == 2
    assert f"argument --master: {address!r} is not of the form HOST:PORT" in ended.stderr


# Several URLs


def test_a_target_may_have_several_urls(tmp_path: Path) -> None:
    (target,) = plan_with(tmp_path, url=["http://127.0.0.1:8001/", "http://127.0.0.1:8002"]).targets
    assert target.urls == ["http://127.0.0.1:8001", "http://127.0.0.1:8002"]


@pytest.mark.parametrize("url", [[], 8000, ["http://127.0.0.1:8001", 8002], None])
def test_urls_of_another_form(tmp_path: Path, url: object) -> None:
    assert fault_of(tmp_path, url=url).startswith(
        "targets.0.url: must be a URL such as http://127.0.0.1:8000, or a list of them"
    )


def test_a_wrong_url_among_several(tmp_path: Path) -> None:
    fault = fault_of(tmp_path, url=["http://127.0.0.1:8001", "127.0.0.1:8002"])
    assert fault.startswith("targets.0.url: '127.0.0.1:8002' is no URL such as")


def test_the_same_url_twice(tmp_path: Path) -> None:
    fault = fault_of(tmp_path, url=["http://127.0.0.1:8001", "http://127.0.0.1:8001/"])
    assert fault == "targets.0.url: the same URL appears twice: http://127.0.0.1:8001, http://127.0.0.1:8001"
