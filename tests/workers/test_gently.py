"""Work of lower priority, beside a thread that keeps its own."""

import os
import threading

import pytest

from tokenyard.workers.gently import NICE, gently


def priority() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def test_only_the_work_has_the_lower_priority() -> None:
    own = priority()
    assert gently(priority) == max(own, NICE)
    assert priority() == own


def test_what_it_raises_is_the_callers() -> None:
    def fail() -> None:
        raise SystemExit(7)

    with pytest.raises(SystemExit, match="7"):
        gently(fail)
