"""Times that the processes of the relay benchmark note beside the wire: files of seconds, mapped into each of them.

All processes of a machine share CLOCK_MONOTONIC, so what one has noted can be held against what another has.
"""

import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

Times = npt.NDArray[np.float64]

MAX_NUMBER = 1 << 17
"""Batches of one worker and jobs of one front that are noted; what comes later is not."""


def open_times(path: Path, *shape: int) -> Times:
    """The file of times, zero where nothing is noted; made by whoever comes first."""
    num_bytes = 8 * int(np.prod(shape))
    with path.open("ab") as file:
        if file.tell() < num_bytes:
            file.truncate(num_bytes)
    return np.memmap(path, np.float64, "r+", shape=shape)


class Notes:
    """A numbered series of moments."""

    def __init__(self, folder: Path, name: str) -> None:
        self._times = open_times(folder / name, MAX_NUMBER)

    def note(self, number: int) -> float:
        """It is now. Returns when that is."""
        now_s = time.monotonic()
        if number < MAX_NUMBER:
            self._times[number] = now_s
        return now_s


def made(folder: Path, worker: bytes) -> Notes:
    """When the worker's engine had made each batch, by its number on the link of the only front."""
    return Notes(folder, f"made-{worker.hex()}")


def came(folder: Path, worker: bytes) -> Notes:
    """When the front had each batch of that worker."""
    return Notes(folder, f"came-{worker.hex()}")


def told(folder: Path, worker: bytes) -> Notes:
    """When the front had written what each batch of that worker gave."""
    return Notes(folder, f"told-{worker.hex()}")


def submitted(folder: Path) -> Notes:
    """When the front submitted each job."""
    return Notes(folder, "submitted")


def started(folder: Path) -> Notes:
    """When a worker's engine was given each job of the only front."""
    return Notes(folder, "started")


def said(folder: Path, num_streams: int, num_tokens: int) -> Times:
    """When each token of each stream was made."""
    return open_times(folder / "said", num_streams, num_tokens)


def arrived(folder: Path, num_streams: int, num_tokens: int) -> Times:
    """When the client had the text of each of them."""
    return open_times(folder / "arrived", num_streams, num_tokens)


def note_last_arrivals(folder: Path, num_streams: int, num_tokens: int) -> None:
    """Of each batch, when the client had the last of its tokens: a series of each worker, `read`."""
    shape = num_streams, num_tokens
    moments_s, batches = np.unique(said(folder, *shape), return_inverse=True)
    lasts_s = np.zeros(len(moments_s))
    np.maximum.at(lasts_s, batches.ravel(), np.asarray(arrived(folder, *shape)).ravel())
    for path in folder.glob("made-*"):
        made_s = np.fromfile(path)
        places = np.minimum(np.searchsorted(moments_s, made_s), len(moments_s) - 1)
        read_s = open_times(path.with_name(path.name.replace("made", "read")), MAX_NUMBER)
        read_s[:] = np.where(moments_s[places] == made_s, lasts_s[places], 0)


def between_us(folder: Path, earlier: str, later: str) -> list[float]:
    """From one series to the other, wherever both have noted something: p50, p99, the longest; none: nothing noted.

    Series of that name, or of each worker with that name.
    """
    waits_s = []
    for path in sorted([*folder.glob(earlier), *folder.glob(f"{earlier}-*")]):
        other = path.with_name(path.name.replace(earlier, later))
        if other.exists():
            from_s, to_s = np.fromfile(path), np.fromfile(other)
            noted = (from_s > 0) & (to_s > 0)
            waits_s.append(to_s[noted] - from_s[noted])
    all_s = np.concatenate(waits_s) if waits_s else np.zeros(0)
    return [float(1e6 * one_s) for one_s in np.quantile(all_s, [0.5, 0.99, 1])] if len(all_s) else []
