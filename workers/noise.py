"""Sampling noise as a function of (seed, emitted index, vocabulary index) and of nothing else.

A stream may thus move to another worker, another batch or another device and draw the same noise: a counter-based hash,
not a generator with a state. Integer arithmetic wraps alike on CPU and CUDA; only log1p may differ in its last bit.

Quality is tested (uniformity, independence of neighbours, sampled frequencies) in tests/workers/test_noise.py.
"""

import numpy as np
import torch

_GOLDEN = 0x9E3779B97F4A7C15
"""2^64 / golden ratio: splitmix64's increment (Steele, Lea, Flood 2014)."""
_MIX_1, _MIX_2 = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
"""splitmix64's multipliers."""
_VOCAB = 0x9E3779B1
"""2^32 / golden ratio, prime: spreads neighbouring vocabulary indices over all bits."""
_LOW_1, _LOW_2 = 0x7FEB352D, 0x846CA68B
"""Multipliers of lowbias32, the 32-bit mixer with the least bias found by search (Wellons 2018)."""


def _signed(word: int) -> int:
    """The int32 with the same bits."""
    return word - (1 << 32) if word >> 31 else word


def _splitmix64(words: np.ndarray) -> np.ndarray:
    """Scramble u64 words, one to one."""
    words = words + np.uint64(_GOLDEN)
    words = (words ^ (words >> np.uint64(30))) * np.uint64(_MIX_1)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(_MIX_2)
    scrambled: np.ndarray = words ^ (words >> np.uint64(31))
    return scrambled


def row_keys(seeds: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """The key of one draw: int32 [R, 2] from u64 seeds [R] and u64 emitted indices [R]."""
    return _splitmix64(_splitmix64(seeds) ^ indices).view(np.int32).reshape(-1, 2)


def vocab_words(vocab_size: int, device: torch.device) -> torch.Tensor:
    """The vocabulary's part of the hash, the same for every draw: int32 [V]."""
    return torch.arange(vocab_size, dtype=torch.int32, device=device) * _signed(_VOCAB)


def log_exponential(keys: torch.Tensor, vocab: torch.Tensor) -> torch.Tensor:
    """log(E), E ~ Exp(1), for each draw and each vocabulary index: keys int32 [R, 2], vocab [V] → float32 [R, V].

    argmax(logits - log(E)) is a sample of softmax(logits): the Gumbel-max trick, as -log(E) is a Gumbel variable.
    """
    word = vocab + keys[:, :1]
    word ^= (word >> 16).bitwise_and_(0xFFFF)
    word *= _signed(_LOW_1)
    word ^= keys[:, 1:]
    word ^= (word >> 15).bitwise_and_(0x1FFFF)
    word *= _signed(_LOW_2)
    word ^= (word >> 16).bitwise_and_(0xFFFF)
    # 31 bits; the clamp keeps log1p and log finite where rounding to float32 reaches 0 or 1
    uniform = (word & 0x7FFFFFFF).float().mul_(2.0**-31).clamp_(2.0**-33, 1 - 2.0**-24)
    return uniform.neg_().log1p_().neg_().log_()
