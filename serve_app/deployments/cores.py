"""How many cores this process may use: by its affinity mask, and by the CPU quotas of the control groups around it.

A container's `cpus` is such a quota: the process sees all cores of the machine, and when everything in the group has
together used up its share of a period, all of it stands still until the next. `loadtest.machine.cores` is the same
for the stress kit.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_ROOT = Path("/")


def usable_cores(root: Path = _ROOT) -> int:
    """Return the number of whole cores that this process may use, at least 1; `root` holds proc and sys.

    A part of a core is left to the event loop and the lookups, which stand still with the engine.
    """
    if sys.platform != "linux":
        return os.cpu_count() or 1
    return max(1, int(min([len(os.sched_getaffinity(0)), *_quotas(root)])))


def _quotas(root: Path) -> Iterator[float]:
    """Yield the quotas that limit this process, in cores."""
    for group in _groups(root):
        with suppress(OSError, ValueError):  # none is set there
            if (limit := group / "cpu.max").is_file():  # version 2; "max" is no number
                quota_us, period_us = map(int, limit.read_text(encoding="ascii").split())
            else:
                quota_us = int((group / "cpu.cfs_quota_us").read_text(encoding="ascii"))
                period_us = int((group / "cpu.cfs_period_us").read_text(encoding="ascii"))
            if quota_us > 0:  # -1: none
                yield quota_us / period_us


def _groups(root: Path) -> Iterator[Path]:
    """Yield the folders of the control groups, of version 1 and 2, that this process is in: cgroups(7)."""
    try:
        memberships = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
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
