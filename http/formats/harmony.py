"""gpt-oss' format: a turn of several messages, each on a channel, as its own docs ("harmony") describe it.

<|channel|>analysis<|message|>a thought<|end|><|start|>assistant<|channel|>final<|message|>the answer<|return|>
<|channel|>commentary to=functions.name <|constrain|>json<|message|>{…}<|call|>
"""

import re

from tokenyard.http.formats.reading import Reading
from tokenyard.http.formats.source import Steps

START, CHANNEL, MESSAGE, CONSTRAIN = "<|start|>", "<|channel|>", "<|message|>", "<|constrain|>"
ENDS = ("<|end|>", "<|call|>", "<|return|>")
MARKS = (START, CHANNEL, MESSAGE, CONSTRAIN, *ENDS)
TURN = f"{START}assistant"
"""What a prompt ends with, for the answer to begin."""
MAX_HEADER = 512
"""Characters before a message's text: above a tool's name and all else that stands there."""

_RECIPIENT = re.compile(r"to=(?:functions\.)?([\w.\-]+)")
_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)")


def read_harmony(reading: Reading) -> Steps[None]:
    """All of a turn, thoughts included. What is on no channel is text."""
    while (yield from reading.sign(START, CHANNEL, "to=")):
        header = yield from reading.header(MESSAGE, MAX_HEADER)
        if not header:
            break
        reading.drop()
        recipient, channel = _RECIPIENT.search(header), _CHANNEL.search(header)
        if recipient and reading.max_calls != 0 and (yield from reading.named_call(recipient[1])):
            yield from reading.sign(*ENDS)
            reading.drop()
        elif channel and channel[1] == "analysis":
            reading.thinking = True
            reading.drop()
            yield from reading.copy_until(ENDS, reading.think)
            reading.thinking = False
        else:
            yield from reading.copy_until(ENDS, reading.show)
    yield from reading.rest()
