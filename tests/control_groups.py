"""Control groups with a quota: a real one, and trees of files in which Linux tells of them, as systems have them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

V2 = "30 24 0:26 {shown} /sys/fs/cgroup rw,nosuid,nodev shared:4 - cgroup2 cgroup2 rw,nsdelegate"
V1_CPU = "33 31 0:30 {shown} /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct"
V1_CPUSET = "34 31 0:31 {shown} /sys/fs/cgroup/cpuset rw,relatime - cgroup cgroup rw,cpuset"
UNIFIED = "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw"
OTHER = "22 28 0:20 / /proc rw,nosuid shared:12 - proc proc rw"

_PERIOD_US = 100_000


class System(NamedTuple):
    """What Linux tells a process."""

    memberships: list[str]
    """Lines of /proc/self/cgroup."""
    mounts: list[str]
    """Lines of /proc/self/mountinfo."""
    files: dict[str, str]
    """Below /sys/fs/cgroup."""
    cores: float | None = None
    """The quota; None without one."""


SYSTEMS = {
    "version 2, a container": System(["0::/"], [V2.format(shown="/")], {"cpu.max": "150000 100000"}, 1.5),
    "version 2, a unit in a slice": System(
        ["0::/system.slice/serve.service"],
        [OTHER, V2.format(shown="/")],
        {"system.slice/serve.service/cpu.max": "400000 100000", "system.slice/cpu.max": "max 100000"},
        4.0,
    ),
    "version 2, the slice has less than the unit": System(
        ["0::/pods/pod1/box"],
        [V2.format(shown="/")],
        {"pods/pod1/box/cpu.max": "max 100000", "pods/pod1/cpu.max": "50000 50000", "pods/cpu.max": "900000 100000"},
        1.0,
    ),
    "version 1, a container": System(
        ["5:cpuset:/docker/1f", "3:cpu,cpuacct:/docker/1f", "1:name=systemd:/docker/1f"],
        [V1_CPUSET.format(shown="/docker/1f"), V1_CPU.format(shown="/docker/1f")],
        {"cpu,cpuacct/cpu.cfs_quota_us": "250000", "cpu,cpuacct/cpu.cfs_period_us": "100000"},
        2.5,
    ),
    "version 1, a group of its own": System(
        ["3:cpu,cpuacct:/batch/a", "2:memory:/x"],
        [V1_CPU.format(shown="/")],
        {
            "cpu,cpuacct/batch/a/cpu.cfs_quota_us": "-1",
            "cpu,cpuacct/batch/a/cpu.cfs_period_us": "100000",
            "cpu,cpuacct/batch/cpu.cfs_quota_us": "30000",
            "cpu,cpuacct/batch/cpu.cfs_period_us": "10000",
        },
        3.0,
    ),
    "both versions at once": System(
        ["3:cpu,cpuacct:/a", "0::/a"],
        [V1_CPU.format(shown="/"), UNIFIED],
        {"cpu,cpuacct/a/cpu.cfs_quota_us": "200000", "cpu,cpuacct/a/cpu.cfs_period_us": "100000", "unified/a/x": ""},
        2.0,
    ),
    "a container that sees its own group by another path": System(
        ["0::/../../elsewhere"],
        [V2.format(shown="/")],
        {"cpu.max": "300000 100000"},
        3.0,
    ),
}
"""Systems that limit a process."""

UNLIMITED = {
    "no limit set": System(["0::/"], [V2.format(shown="/")], {"cpu.max": "max 100000"}),
    "the group of the whole machine": System(["0::/"], [V2.format(shown="/")], {}),
    "version 1, no limit set": System(
        ["3:cpu,cpuacct:/"],
        [V1_CPU.format(shown="/")],
        {"cpu,cpuacct/cpu.cfs_quota_us": "-1", "cpu,cpuacct/cpu.cfs_period_us": "100000"},
    ),
    "only other controllers": System(
        ["5:cpuset:/a"],
        [V1_CPUSET.format(shown="/")],
        {"cpuset/a/cpu.cfs_quota_us": "100000", "cpuset/a/cpu.cfs_period_us": "100000"},
    ),
    "a file that is half written": System(["0::/"], [V2.format(shown="/")], {"cpu.max": ""}),
    "no control groups": System([], [OTHER], {}),
}
"""Systems that do not."""


def write_system(root: Path, system: System) -> Path:
    """Write such files and return the folder that holds proc and sys."""
    process = root / "proc" / "self"
    process.mkdir(parents=True)
    (process / "cgroup").write_text("".join(f"{line}\n" for line in system.memberships))
    (process / "mountinfo").write_text("".join(f"{line}\n" for line in system.mounts))
    for name, text in system.files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return root


@contextmanager
def half_a_core() -> Iterator[Path]:
    """Make a control group of this machine with a quota of half a core; see `limited_cores`."""
    with limited_cores(0.5) as group:
        yield group


@contextmanager
def limited_cores(cores: float, name: str = "group") -> Iterator[Path]:
    """Make a control group of this machine with a quota, of either version, and remove it at the end.

    A process joins it when its id is written into `cgroup.procs`. Raises OSError if this user may make none, or if the
    group of version 2 above it does not share out the CPU.
    """
    quota_us = round(cores * _PERIOD_US)
    for top, limits in (
        (Path("/sys/fs/cgroup/cpu"), {"cpu.cfs_period_us": f"{_PERIOD_US}", "cpu.cfs_quota_us": f"{quota_us}"}),
        (Path("/sys/fs/cgroup"), {"cpu.max": f"{quota_us} {_PERIOD_US}"}),
    ):
        group = top / f"serve-app-test-{os.getpid()}-{name}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            for limit, text in limits.items():
                (group / limit).write_text(text)
        except OSError:
            group.rmdir()
            continue
        try:
            yield group
        finally:
            group.rmdir()
        return
    raise OSError("a control group file system with the CPU controller that may be written to")
