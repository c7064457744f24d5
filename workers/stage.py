"""Where the host leaves the input of decodes for the device: rows of int32 words, sent in one copy.

    word 0      the token's id, or -1 - r: what row r of the last draw gave, which only the device may know yet
    word 1      the token's position
    words 2..   the block table

Two host buffers take turns, so that one is filled while the other is still being sent. Must not know of models.
"""

from array import array

import torch

from tokenyard.workers.scheduler import Sequence

TOKEN, POSITION, TABLE = 0, 1, 2
"""First word of each part of a row."""


class Stage:
    """Rows for up to `num_rows` decodes, whose tables have `width` blocks."""

    def __init__(self, num_rows: int, width: int, null_block: int, spill_block: int, device: torch.device) -> None:
        self.words = torch.zeros(num_rows, TABLE + width, dtype=torch.int32, device=device)
        """On the device, always at the same place."""
        self._buffers = [_Buffer(num_rows, width, null_block, spill_block, device) for _ in range(2)]

    def send(self, decodes: list[Sequence], tokens: list[int], num_rows: int) -> None:
        """Write one row a decode, `tokens` being their words 0, and rows that do no harm up to `num_rows`."""
        buffer = self._buffers.pop(0)
        self._buffers.append(buffer)
        buffer.fill(decodes, tokens, num_rows)
        buffer.send(self.words)


class _Buffer:
    """One host buffer, which knows what it holds: in most steps a row's table is what it was."""

    def __init__(self, num_rows: int, width: int, null_block: int, spill_block: int, device: torch.device) -> None:
        self._pinned = torch.zeros(num_rows, TABLE + width, dtype=torch.int32, pin_memory=device.type == "cuda")
        self._words = self._pinned.numpy()
        self._null_block = null_block
        self._padding = array("q", [spill_block])
        self._tables = [array("q")] * num_rows
        """The block table that each row was filled from; sequences only ever extend theirs, or begin a new one."""
        self._counts = [0] * num_rows
        """How many of its blocks."""
        self._num_rows = 0
        self._sent: torch.cuda.Event | None = None

    def fill(self, decodes: list[Sequence], tokens: list[int], num_rows: int) -> None:
        if self._sent is not None:
            self._sent.synchronize()  # of the step before the last, so it has long happened
        count = len(decodes)
        self._num_rows = num_rows
        self._words[:count, TOKEN] = tokens
        self._words[:count, POSITION] = [one.num_computed for one in decodes]
        self._words[count:num_rows, :TABLE] = 0
        tables = [one.blocks for one in decodes] + [self._padding] * (num_rows - count)
        for row, blocks in enumerate(tables):
            if self._tables[row] is not blocks:
                self._tables[row], self._counts[row] = blocks, 0
                self._words[row, TABLE:] = self._null_block
            if self._counts[row] < len(blocks):
                self._words[row, TABLE + self._counts[row] : TABLE + len(blocks)] = blocks[self._counts[row] :]
                self._counts[row] = len(blocks)

    def send(self, words: torch.Tensor) -> None:
        words[: self._num_rows].copy_(self._pinned[: self._num_rows], non_blocking=True)
        if words.is_cuda:
            self._sent = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._sent.record()
