"""How many cores control groups leave, in both of their versions."""

import os
from pathlib import Path

import pytest

from tokenyard.scripts.cores import quotas, usable_cores

V2 = "0::/user.slice/session-1\n"
V1 = "4:memory:/box\n2:cpu,cpuacct:/docker/abc\n1:name=systemd:/\n0::/\n"


def found(tmp_path: Path, membership: str, files: dict[str, str]) -> list[float]:
    (tmp_path / "cgroup").write_text(membership)
    for name, text in files.items():
        path = tmp_path / "groups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return list(quotas(tmp_path / "cgroup", tmp_path / "groups"))


@pytest.mark.parametrize(
    ("membership", "files", "wanted"),
    [
        (V2, {}, []),
        (V2, {"user.slice/session-1/cpu.max": "max 100000\n"}, []),
        (V2, {"user.slice/session-1/cpu.max": "150000 100000\n"}, [1.5]),
        (V2, {"user.slice/cpu.max": "400000 100000\n", "user.slice/session-1/cpu.max": "max 100000\n"}, [4]),
        ("0::/\n", {"cpu.max": "200000 100000\n"}, [2]),
        (V1, {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, []),
        (V1, {"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, [3]),
        (V1, {"cpu/docker/abc/cpu.cfs_quota_us": "50000\n", "cpu/docker/abc/cpu.cfs_period_us": "100000\n"}, [0.5]),
        (V2, {"user.slice/session-1/cpu.max": "nonsense"}, []),
        ("", {}, []),
    ],
)
def test_quotas(tmp_path: Path, membership: str, files: dict[str, str], wanted: list[float]) -> None:
    assert found(tmp_path, membership, files) == wanted


def test_the_smallest_limit_holds_and_one_core_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    for cores, wanted in ((3.5, 3), (0.5, 1), (100, 8)):
        found(tmp_path, "0::/\n", {"cpu.max": f"{int(cores * 100000)} 100000\n"})
        assert usable_cores(tmp_path / "cgroup", tmp_path / "groups") == wanted


def test_without_control_groups_the_affinity_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {1, 5})
    assert usable_cores(tmp_path / "none", tmp_path) == 2
