"""The training corpus as arrays, and its batches.

Rules of this file: a corpus is a prefix of the training stream, tokenized once and kept in one file; batches follow the
stream's order (it is a curriculum), are bucketed by length and never pack two chats into one row, so nothing leaks
between chats. All of it is a function of the seed and the token budget.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from tokenyard.scripts import demo_data, demo_tokenizer

# Chats that are bucketed together: large for little padding (6 %), small beside the curriculum's first part.
WINDOW_CHATS = 2048
# Rows are padded to a multiple of this, which keeps the number of distinct shapes small.
LENGTH_STEP = 8
# Batches of half the size until so many tokens: what a step learns early (to copy) hangs on the number of steps.
RAMP_TOKENS = 3_000_000
# Longer chats are left out (one in thousands); a few of them in a batch would be mostly padding.
LONGEST_CHAT = 640


@dataclass(frozen=True)
class Corpus:
    ids: npt.NDArray[np.uint16]  # all chats end to end
    mask: npt.NDArray[np.bool_]  # True where the token is to be predicted
    starts: npt.NDArray[np.int64]  # [num_chats + 1], half-open intervals

    def __len__(self) -> int:
        return len(self.starts) - 1

    def save(self, path: Path) -> None:
        np.savez(path, ids=self.ids, mask=self.mask, starts=self.starts)

    @classmethod
    def load(cls, path: Path) -> "Corpus":
        with np.load(path) as arrays:
            return cls(arrays["ids"], arrays["mask"], arrays["starts"])


def build_corpus(num_tokens: int, tokenizer: Tokenizer, template: Any, seed: int = 0) -> Corpus:
    ids: list[npt.NDArray[np.uint16]] = []
    masks: list[npt.NDArray[np.bool_]] = []
    total = 0
    for chat_ids, mask in demo_tokenizer.encode_all(demo_data.train_chats(seed), tokenizer, template):
        if len(chat_ids) > LONGEST_CHAT:
            continue
        ids.append(np.array(chat_ids, dtype=np.uint16))
        masks.append(np.array(mask, dtype=np.bool_))
        total += len(chat_ids)
        if total >= num_tokens:
            break
    starts = np.array([0, *itertools.accumulate(len(chat) for chat in ids)], dtype=np.int64)
    return Corpus(np.concatenate(ids), np.concatenate(masks), starts)


@dataclass(frozen=True)
class Batch:
    ids: npt.NDArray[np.int64]  # [rows, length], right-padded with zeros, which nothing attends to or predicts
    positions: npt.NDArray[np.int64]  # flat positions in ids[:, :-1] whose next token is predicted
    targets: npt.NDArray[np.int64]  # those next tokens
    num_tokens: int  # without padding


def padded(length: int) -> int:
    return -(-length // LENGTH_STEP) * LENGTH_STEP + 1


def group_by_length(lengths: npt.NDArray[np.int64], batch_tokens: int) -> list[list[int]]:
    """Indices of similar lengths, each group within batch_tokens once padded."""
    groups: list[list[int]] = [[]]
    for index in np.argsort(lengths, kind="stable"):
        if groups[-1] and padded(int(lengths[index])) * (len(groups[-1]) + 1) > batch_tokens:
            groups.append([])
        groups[-1].append(int(index))
    return groups


def make_batch(corpus: Corpus, chats: list[int]) -> Batch:
    lengths = corpus.starts[np.array(chats) + 1] - corpus.starts[chats]
    ids = np.zeros((len(chats), padded(int(lengths.max()))), dtype=np.int64)
    mask = np.zeros(ids.shape, dtype=np.bool_)
    for row, (chat, length) in enumerate(zip(chats, lengths, strict=True)):
        span = slice(int(corpus.starts[chat]), int(corpus.starts[chat] + length))
        ids[row, :length] = corpus.ids[span]
        mask[row, :length] = corpus.mask[span]
    positions = np.flatnonzero(mask[:, 1:])
    return Batch(ids, positions, ids[:, 1:].reshape(-1)[positions], int(lengths.sum()))


def batches(corpus: Corpus, batch_tokens: int, seed: int = 0) -> Iterator[Batch]:
    rng = np.random.default_rng(seed)
    for first in range(0, len(corpus), WINDOW_CHATS):
        window = np.arange(first, min(first + WINDOW_CHATS, len(corpus)))
        size = batch_tokens // 2 if corpus.starts[first] < RAMP_TOKENS else batch_tokens
        groups = group_by_length(corpus.starts[window + 1] - corpus.starts[window], size)
        for index in rng.permutation(len(groups)):
            yield make_batch(corpus, [first + member for member in groups[index]])
