"""New ids, in OpenAI's manner: a prefix that says of what, and 16 random bytes in hex."""

import secrets


def new_id(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(16)}"
