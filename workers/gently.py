"""Work that must not hold up the streams of others: it runs in a thread of lower priority. Imports no torch."""

import os
import threading
from collections.abc import Callable
from typing import TypeVar

NICE = 5
"""A third of the time that others get where all want a core (sched(7)): engines that serve, broker and fronts first.
With the lowest priority, half a minute's compile had not ended after eight on two cores of which others wanted four."""

Result = TypeVar("Result")


def lower_priority() -> None:
    """Of the calling thread alone, for the rest of its life: only the privileged may raise it again."""
    thread = threading.get_native_id()
    os.setpriority(os.PRIO_PROCESS, thread, max(NICE, os.getpriority(os.PRIO_PROCESS, thread)))


def gently(work: Callable[[], Result]) -> Result:
    """What `work` returns or raises, done in another thread, so that the caller's own priority stays."""
    outcome: list[Result] = []
    failure: list[BaseException] = []

    def run() -> None:
        lower_priority()
        try:
            outcome.append(work())
        except BaseException as error:  # noqa: BLE001 - it is the caller's
            failure.append(error)

    thread = threading.Thread(target=run, name="gently", daemon=True)
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return outcome[0]
