"""CUDA graphs: the kernels of a function recorded once, and launched again by one call.

A replay runs the same kernels with the same numbers on the same memory. So all that changes from step to step must lie
in tensors that were there before the recording, and recorded work may read no Python number that changes, nor wait for
the device. Must not know what is recorded.
"""

from bisect import bisect_left
from collections.abc import Callable, Collection, Generator
from functools import partial
from typing import Protocol

import torch

NUM_WARM_UPS = 2
"""Runs before a recording: libraries set themselves up, and compilers compile, in the first (torch.cuda.graphs advises
so)."""


DRAFTING = 8
"""Streams for whose guesses there are rows in any case. With more, a step computes so much that guesses get only what
the batch leaves free."""


class Graph(Protocol):
    """What was recorded."""

    def replay(self) -> None:
        """Launch it again; on return it may not have run yet."""
        ...


Shape = tuple[int, int]
"""A graph's bucket, and what else it was recorded for."""


class Recorder(Protocol):
    """Makes recordings that share one pool of memory."""

    def warm_up(self, work: Callable[[], None]) -> None:
        """Run it once, as it will be recorded."""
        ...

    def __call__(self, work: Callable[[], None]) -> Graph:
        """Record it."""
        ...


def in_pieces(
    recorder: Recorder, work: Callable[[], None], prepare: Callable[[], None] = lambda: None
) -> Generator[None, None, Graph]:
    """Record; stops after each run of `work`, none of which lasts much longer than a step that is not recorded.

    `prepare` comes before each: others may have used what `work` reads and writes.
    """
    for _ in range(NUM_WARM_UPS):
        prepare()
        recorder.warm_up(work)
        yield
    prepare()
    graph = recorder(work)
    yield
    return graph


def smallest(recorded: Collection[Shape], sizes: list[int], num_rows: int, other: int) -> Shape | None:
    """The smallest bucket of `sizes` that holds so many rows and is recorded; None: none is.

    The largest are recorded first, so they serve small batches until the smaller ones are there.
    """
    fitting = sizes[bisect_left(sizes, num_rows) :]
    return next(((size, other) for size in fitting if (size, other) in recorded), None)


def buckets(most: int) -> list[int]:
    """Batch sizes worth a graph, ascending: 1, 2, 4, 8, 16, 24, 32, 48, ...; the last is exactly the largest, `most`.

    A decode is bound by reading the weights until some hundred rows, so a few rows of padding cost next to nothing.
    """
    sizes = [1]
    while sizes[-1] < most:
        step = min(sizes[-1], 8 if sizes[-1] < 32 else 16)
        sizes.append(min(sizes[-1] + step, most))
    return sizes


def num_rows(max_num_seqs: int, num_drafts: int) -> int:
    """Rows of the largest graph: all sequences, or DRAFTING of them with their guesses."""
    return max(max_num_seqs, min(max_num_seqs, DRAFTING) * (1 + num_drafts))


class CudaRecorder:
    """Records into one pool of memory, so that graphs share it: record the largest first, and replay in one stream."""

    def __init__(self, device: torch.device, reserved_bytes: int = 0) -> None:
        """`reserved_bytes`: of the pool from the start, so that nobody else has them when graphs come later."""
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._reserve = self._reserved(reserved_bytes) if reserved_bytes else None
        """Its memory is the pool's as long as it lives, and any other graph's."""

    def _reserved(self, num_bytes: int) -> Graph:
        """A graph that would take so much memory."""
        self.warm_up(partial(_write, 1, self._device))  # its kernel is loaded now, not while it is recorded
        return self(partial(_write, num_bytes, self._device))

    def warm_up(self, work: Callable[[], None]) -> None:
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            work()
        torch.cuda.current_stream(self._device).wait_stream(self._stream)
        self._stream.synchronize()  # so that it lasts as long as others are held up by it

    def __call__(self, work: Callable[[], None]) -> Graph:
        graph = torch.cuda.CUDAGraph()
        # thread_local: what the I/O thread's libraries do meanwhile must not break the recording
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
            work()
        return graph


def _write(num_bytes: int, device: torch.device) -> None:
    """Work that takes so much memory at once."""
    torch.empty(num_bytes, dtype=torch.uint8, device=device).zero_()
