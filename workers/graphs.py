"""CUDA graphs: the kernels of a function recorded once, and launched again by one call.

A replay runs the same kernels with the same numbers on the same memory. So all that changes from step to step must lie
in tensors that were there before the recording, and recorded work may read no Python number that changes, nor wait for
the device. Must not know what is recorded.
"""

from collections.abc import Callable
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


Recorder = Callable[[Callable[[], None]], Graph]
"""Runs a function some times and returns its recording."""


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

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def __call__(self, work: Callable[[], None]) -> Graph:
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            for _ in range(NUM_WARM_UPS):
                work()
        torch.cuda.current_stream(self._device).wait_stream(self._stream)
        graph = torch.cuda.CUDAGraph()
        # thread_local: what the I/O thread's libraries do meanwhile must not break the recording
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
            work()
        return graph
