"""How many CPU cores this process may really use: those of its affinity, for which its control groups give time."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

MEMBERSHIP = Path("/proc/self/cgroup")
"""The groups this process is in: hierarchy:controllers:path in each line (cgroups(7))."""
GROUPS = Path("/sys/fs/cgroup")


def usable_cores(membership: Path = MEMBERSHIP, groups: Path = GROUPS) -> int:
    """Whole cores, at least one; a container with 1.5 cores' time has one."""
    return max(1, int(min([len(os.sched_getaffinity(0)), *quotas(membership, groups)])))


def quotas(membership: Path, groups: Path) -> Iterator[float]:
    """Cores' time that this process's group and each group around it allows, where one sets a limit."""
    for line in membership.read_text().splitlines() if membership.exists() else ():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            for group in _and_around(groups, path):
                yield from _limit(group / "cpu.max", group / "cpu.max")
        elif "cpu" in controllers.split(","):
            for group in _and_around(groups / "cpu", path):
                yield from _limit(group / "cpu.cfs_quota_us", group / "cpu.cfs_period_us")


def _and_around(mount: Path, path: str) -> Iterator[Path]:
    """The group's folder and those above it, up to the mount: in a container, the path may be the host's."""
    group = mount / path.strip("/")
    yield group
    while group != mount:
        group = group.parent
        yield group


def _limit(quota: Path, period: Path) -> Iterator[float]:
    """Nothing where there is no such file or no limit: `max` in version 2, -1 in version 1."""
    with suppress(OSError, ValueError, IndexError):
        allowed, per = quota.read_text().split()[0], period.read_text().split()[-1]
        if int(allowed) > 0:
            yield int(allowed) / int(per)
