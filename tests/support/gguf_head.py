"""The least that is a GGUF file, for tests that load none: written by hand, without the gguf package."""

import struct

PER_BLOCK, BLOCK_BYTES, Q8_0 = 32, 34, 8
"""ggml's."""


def least_gguf(num_weights: int) -> bytes:
    """One tensor of so many weights in Q8_0, all of them 0."""

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    pair = text("general.architecture") + struct.pack("<I", 8) + text("llama")
    tensor = text("output.weight") + struct.pack("<IQIQ", 1, num_weights, Q8_0, 0)
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + pair + tensor
    return head + bytes(-len(head) % 32) + bytes(num_weights // PER_BLOCK * BLOCK_BYTES)
