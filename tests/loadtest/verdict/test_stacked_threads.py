"""Busy threads that may run on few cores only: what the report says of pinned replicas and of CPU quotas."""

from pathlib import Path

import pytest

from loadtest.figures.figures import Bottleneck
from loadtest.figures.level import Cores, Level
from loadtest.rows.columns import ResourceRow, read_rows
from loadtest.verdict.bottleneck import find_bottleneck
from tests.loadtest.verdict.test_bottleneck import Made, Use, cell_of
from tests.made_run import made_plan


def bottleneck_on(cores: Cores, folder: Path, level: Made) -> Bottleneck:
    found = find_bottleneck(Level(cell_of(folder, level), made_plan().workload, cores))
    assert found
    return found


def test_replicas_pinned_to_the_same_cores_are_oversubscription_while_the_machine_is_nearly_idle(
    tmp_path: Path,
) -> None:
    pinned = Use(220.0, 8, 16, 25.0, 1380.0, crowd_threads=16, crowd_cores=2)
    found = bottleneck_on(Cores(16), tmp_path, Made(300, roles={"classifier": pinned}))
    assert (found.limit, found.where) == ("thread_oversubscription", "classifier")
    assert "16.0 busy threads on 2 cores, the only ones of 16 that they may run on" in found.sentence
    assert "no pinning" in found.sentence
    assert "16.0 of them may run on 2 cores only; the machine has 16 cores" in found.evidence[0]


def test_the_same_threads_on_all_cores_are_none(tmp_path: Path) -> None:
    spread = Use(1450.0, 8, 16, 92.0, 90.0, crowd_threads=16, crowd_cores=16)
    found = bottleneck_on(Cores(16), tmp_path, Made(300, roles={"classifier": spread}))
    assert (found.limit, found.where) == ("role_cpu", "classifier")


def test_threads_within_a_cpu_quota_are_oversubscription_of_the_quota(tmp_path: Path) -> None:
    throttled = Use(100.0, 4, 4, 25.0, 300.0, crowd_threads=4, crowd_cores=1)
    found = bottleneck_on(Cores(16), tmp_path / "own", Made(300, roles={"classifier": throttled}))
    assert found.limit == "thread_oversubscription"
    found = bottleneck_on(Cores(16, 1.0), tmp_path / "kit", Made(300, roles={"classifier": throttled}))
    assert found.limit == "thread_oversubscription"
    assert "4.0 busy threads on 1 core, which take turns" in found.sentence
    assert "the machine has 16 cores, of which 1 may be used" in found.evidence[0]


def test_one_thread_that_fills_a_quota_of_half_a_core_is_told(tmp_path: Path) -> None:
    throttled = Use(50.0, 1, 1, 50.0, 50.0, crowd_threads=1, crowd_cores=0.5)
    found = bottleneck_on(Cores(16), tmp_path, Made(300, roles={"classifier": throttled}))
    assert found.limit == "thread_oversubscription"
    assert "1.0 busy threads on 0.5 cores" in found.sentence


def test_a_test_that_has_used_up_its_share_of_a_large_machine_is_limited_by_its_cpu(tmp_path: Path) -> None:
    level = Made(300, roles={"classifier": Use(180.0, 2, 2, 89.0, 3.0, crowd_threads=2, crowd_cores=2)})
    found = bottleneck_on(Cores(16, 2.0), tmp_path, level)
    assert (found.limit, found.where) == ("role_cpu", "classifier")
    assert "all 2 cores are in use, 180 of 200 % by it" in found.sentence


def test_a_thread_held_on_its_core_is_not_told_that_more_processes_help(tmp_path: Path) -> None:
    level = Made(400, roles={"classifier": Use(97.0, crowd_threads=1, crowd_cores=1)})
    found = bottleneck_on(Cores(16), tmp_path, level)
    assert found.limit == "role_cpu"
    assert "Its busy threads may run on 1 core of 16 only" in found.sentence


def test_a_folder_of_a_kit_without_these_columns_is_still_read(tmp_path: Path) -> None:
    path = tmp_path / "resources.csv"
    old = (
        "unix_s,role,processes,cpu_percent,rss_bytes,threads,busy_threads,busiest_thread_percent,runqueue_wait_percent"
    )
    path.write_text(f"{old}\n1.0,classifier,2,50.0,9,7,2,25.0,1.5\n")
    assert list(read_rows(path, ResourceRow)) == [ResourceRow(1.0, "classifier", 2, 50.0, 9, 7, 2, 25.0, 1.5)]
    path.write_text("unix_s,role,processes\n1.0,classifier,2\n")
    with pytest.raises(ValueError, match="its columns are"):
        list(read_rows(path, ResourceRow))
