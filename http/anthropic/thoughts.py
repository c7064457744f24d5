"""Blocks of thinking: what the model thought, in the answer and coming back in a later request."""

from typing import Any

from tokenyard.http.errors import invalid
from tokenyard.http.seals import SEAL, seal, unseal


def signature_of(thought: str, omitted: bool) -> str:
    """What stands in a block's `signature`: opaque to clients, sent back with the block, and not verified.

    Where the answer leaves thoughts out, the thought itself is in it, as with Anthropic.
    """
    return seal(thought if omitted else "")


def thought_of(block: dict[str, Any], param: str) -> str:
    """The thought of a block that came back; none where another provider hid it, since nobody here can read that."""
    if block["type"] == "redacted_thinking":
        return ""
    thought, signature = block.get("thinking"), block.get("signature")
    if type(thought) is not str:
        invalid(f"{param}.thinking", "must be a string")
    if thought or type(signature) is not str or not signature.startswith(SEAL):
        return thought
    return unseal(signature, f"{param}.signature")
