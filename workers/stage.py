"""How numbers get from the host to the device without a wait: above all a step's input, rows of int32 words.

Must not know of models, nor what is done with the words.
"""

from array import array
from typing import Any, NamedTuple

import numpy as np
import torch

TOKEN, POSITION, SHELF, TABLE = 0, 1, 2, 3
"""First word of each part of a row: the token's id, or -1 - r for what row r of the last draw gave, which only
the device may know yet; its position; the shelf of its adapter (rack.py), or 0; the block table."""
NUM_TURNS = 2
"""Host buffers: one is filled while the other may still be being sent."""


def to_device(values: Any, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """A new tensor there of an array or (nested) list of numbers; a GPU gets it without being waited for.

    That takes pinned memory: a copy from any other, as torch.tensor(values, device=...) makes, first waits until the
    GPU has done all that it was given.
    """
    host = torch.as_tensor(values, dtype=dtype)
    return host.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else host.to(device)


class Pinned:
    """Rows of words on the device, and host memory from which they are sent without waiting."""

    def __init__(self, num_rows: int, num_words: int, device: torch.device) -> None:
        self.words = torch.zeros(num_rows, num_words, dtype=torch.int32, device=device)
        """On the device, always at the same place."""
        pin = device.type == "cuda"
        self._hosts = [torch.zeros(num_rows, num_words, dtype=torch.int32, pin_memory=pin) for _ in range(NUM_TURNS)]
        self._sent: list[torch.cuda.Event | None] = [None] * NUM_TURNS
        self.turn = 0
        """The host buffer that is being filled."""

    def take(self) -> np.ndarray:
        """The next host buffer, with what was last written to it: int32 [num_rows, num_words]."""
        self.turn = (self.turn + 1) % NUM_TURNS
        sent = self._sent[self.turn]
        if sent is not None:
            sent.synchronize()  # of the step before the last, so it has long happened
        return self._hosts[self.turn].numpy()

    def send(self, num_rows: int) -> None:
        """Copy the first rows to the device."""
        self.words[:num_rows].copy_(self._hosts[self.turn][:num_rows], non_blocking=True)
        if self.words.is_cuda:
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record()
            self._sent[self.turn] = event


class Row(NamedTuple):
    """What is computed of one token."""

    token: int
    """Word 0."""
    position: int
    shelf: int
    """Of its sequence's adapter."""
    blocks: "array[int]"
    """Its sequence's block table."""


class Stage:
    """One row a token, whose block table has up to `width` blocks."""

    def __init__(self, num_rows: int, width: int, null_block: int, spill_block: int, device: torch.device) -> None:
        self._pinned = Pinned(num_rows, TABLE + width, device)
        self._null_block = null_block
        self._padding = array("q", [spill_block])
        self._tables = [[array("q")] * num_rows for _ in range(NUM_TURNS)]
        """In each host buffer, what each row was filled from; sequences only ever extend their table, or begin anew."""
        self._counts = [[0] * num_rows for _ in range(NUM_TURNS)]
        """How many of its blocks."""

    @property
    def words(self) -> torch.Tensor:
        return self._pinned.words

    def send(self, rows: list[Row], num_rows: int) -> None:
        """Write these rows, and rows that do no harm up to `num_rows`."""
        words = self._pinned.take()
        count = len(rows)
        if rows:
            words[:count, :TABLE] = [one[:TABLE] for one in rows]
        words[count:num_rows, :TABLE] = 0
        tables, counts = self._tables[self._pinned.turn], self._counts[self._pinned.turn]
        for row, blocks in enumerate([one.blocks for one in rows] + [self._padding] * (num_rows - count)):
            if tables[row] is not blocks:
                tables[row], counts[row] = blocks, 0
                words[row, TABLE:] = self._null_block
            if counts[row] < len(blocks):
                words[row, TABLE + counts[row] : TABLE + len(blocks)] = blocks[counts[row] :]
                counts[row] = len(blocks)
        self._pinned.send(num_rows)
