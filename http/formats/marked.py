"""Formats whose calls stand between marks, with arguments as JSON. Each function reads a turn behind its thought."""

from tokenyard.http.formats.reading import Reading, Steps


def read_text(reading: Reading) -> Steps[None]:
    """No calls."""
    yield from reading.rest()


def read_hermes(reading: Reading) -> Steps[None]:
    """`<tool_call>{"name": …, "arguments": {…}}</tool_call>`: Hermes, Qwen 2.5 and 3, and many more."""
    while True:
        yield from reading.text_until(("<tool_call>",))
        if (yield from reading.json_call(unknown=True)):
            yield from reading.sign("</tool_call>")
            reading.drop()
        else:
            reading.show()
