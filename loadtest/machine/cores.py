"""How many cores a process may use: by its affinity mask, and by the CPU quotas of the control groups around it.

A container's `cpus` is such a quota: the process sees all cores of the machine, and when everything in the group has
together used up its share of a period, all of it waits for the next. `serve_app.deployments.cores` is the same for the
service. Linux; elsewhere every core counts.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path("/")


@dataclass(frozen=True)
class Quota:
    """The CPU that a control group may use, all its processes together."""

    group: Path
    cores: float


def usable_cores(root: Path = _ROOT) -> float:
    """Return the number of cores that this process and those it starts may use; `root` holds proc and sys."""
    if sys.platform != "linux":
        return float(os.cpu_count() or 1)
    quota = quota_of("self", root)
    allowed = len(os.sched_getaffinity(0))
    return float(min(allowed, quota.cores) if quota else allowed)


def quota_of(pid: int | str, root: Path = _ROOT) -> Quota | None:
    """Return the smallest quota that limits a process; None when there is none, or it has ended."""
    return min(_quotas(root, str(pid)), key=lambda quota: quota.cores, default=None)


def _quotas(root: Path, pid: str) -> Iterator[Quota]:
    for group in _groups(root, pid):
        with suppress(OSError, ValueError):  # none is set there
            if (limit := group / "cpu.max").is_file():  # version 2; "max" is no number
                quota_us, period_us = map(int, limit.read_text(encoding="ascii").split())
            else:
                quota_us = int((group / "cpu.cfs_quota_us").read_text(encoding="ascii"))
                period_us = int((group / "cpu.cfs_period_us").read_text(encoding="ascii"))
            if quota_us > 0:  # -1: none
                yield Quota(group, quota_us / period_us)


def _groups(root: Path, pid: str) -> Iterator[Path]:
    """Yield the folders of the control groups, of version 1 and 2, that a process is in: cgroups(7)."""
    try:
        memberships = (root / "proc" / pid / "cgroup").read_text(encoding="utf-8").splitlines()
        mounts = (root / "proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    paths: dict[str, str] = {}
    for membership in memberships:
        _, controllers, path = membership.split(":", 2)
        paths |= dict.fromkeys(controllers.split(","), path)
    for mount in mounts:
        where, _, what = mount.partition(" - ")
        shown, point = where.split()[3:5]
        kind, _, options = what.split(" ", 2)
        controller = {"cgroup": "cpu", "cgroup2": ""}.get(kind)  # version 2 is named by no controller
        if controller not in paths or (controller and controller not in options.split(",")):
            continue
        inside = paths[controller].removeprefix(shown.rstrip("/"))  # a container may see its own group only
        top = root / point.lstrip("/")
        group = top / inside.lstrip("/")
        yield from (folder for folder in (group, *group.parents) if folder.is_relative_to(top))
