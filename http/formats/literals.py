"""Formats that write arguments as literals of another language than JSON.

Each function reads a turn behind its thought (see reading.py).
"""

import re

from tokenyard.http.formats.reading import Reading
from tokenyard.http.formats.source import Steps
from tokenyard.http.formats.values import dumps, loads
from tokenyard.http.turns import Call

GEMMA = ("<|tool_call>", "<tool_call|>", '<|"|>')
_GEMMA_WORDS = re.compile(
    r"""<\|"\|>(?P<text>.*?)<\|"\|>|"(?:\\.|[^"\\])*"|(?<=[{,])\s*(?P<key>[\w.\-]+)\s*:""", re.DOTALL
)
"""What differs from JSON, and JSON's own strings, inside of which nothing does."""
PYTHON = ("<|python_start|>", "<|python_end|>")

_PYTHON_WORDS = re.compile(
    r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|\b(?:None|True|False)\b|[()]|,(?=\s*[\]})])""", re.DOTALL
)
"""What differs from JSON: strings, words, tuples, a comma behind the last item."""
_IN_STRING = re.compile(r'\\.|["\x00-\x1f]', re.DOTALL)
_JSON_ESCAPES = frozenset('bfnrtu"\\/')
_AS_JSON = {"None": "null", "True": "true", "False": "false", "(": "[", ")": "]", ",": ""}

_VALUE_SIGN = re.compile(r"""['"()\[\]{},]""")
_QUOTED_SIGN = {quote: re.compile(rf"[{quote}\\]") for quote in "'\""}


def read_gemma(reading: Reading) -> Steps[None]:
    """`<|tool_call>call:name{key:<|"|>text<|"|>,other:1}<tool_call|>`: Gemma 4. A call comes out once it is whole."""
    while True:
        yield from reading.text_until(GEMMA[:1])
        if not (yield from _read_gemma_call(reading)):
            reading.show()


def _read_gemma_call(reading: Reading) -> Steps[bool]:
    if not (yield from reading.sign("call:")):
        return False
    name = yield from reading.name()
    if not name or not (yield from reading.at("{")):
        return False
    pieces: list[str] = []

    def sink(text: str) -> None:
        pieces.append(text)
        reading.hold(text)

    end = yield from reading.copy_until(GEMMA[1:2], sink)
    arguments = _GEMMA_WORDS.sub(_gemma_as_json, "".join(pieces))
    if type(loads(arguments)) is not dict:
        reading.hold(end)
        return False
    reading.whole_call(Call(name, arguments))
    return True


def _gemma_as_json(match: re.Match[str]) -> str:
    text, key = match["text"], match["key"]
    return dumps(text) if text is not None else dumps(key) + ":" if key is not None else match[0]


def read_pythonic(reading: Reading) -> Steps[None]:
    """`[name(key="text", other=1), …]`: Llama 4 and 3.2.

    A list at the turn's beginning that calls a known tool; each argument goes out once it is whole.
    """
    yield from reading.sign(PYTHON[0])
    if (yield from reading.sign("[")):
        while (yield from _read_python_call(reading)):
            if not (yield from reading.sign(",")):
                break
        if reading.num_calls:
            yield from reading.sign("]")
            yield from reading.sign(PYTHON[1])
            reading.drop()
    yield from reading.rest()


def _read_python_call(reading: Reading) -> Steps[bool]:
    yield from reading.space()
    name = yield from reading.name()
    if name not in reading.tools or not (yield from reading.take("(")):
        return False
    reading.begin_call(name)
    separator = "{"
    while not (yield from reading.sign(")")):
        yield from reading.space()
        key = yield from reading.name()
        if not key or not (yield from reading.sign("=")):
            break
        reading.drop()
        text = yield from _python_value(reading)
        reading.argue(f"{separator}{dumps(key)}: {_as_json(text)}")
        separator = ", "
        yield from reading.take(",")
    reading.argue("{}" if separator == "{" else "}")
    reading.end_call()
    reading.drop()
    return True


def _python_value(reading: Reading) -> Steps[str]:
    """The source of one value, up to the comma or bracket behind it. Raises EndOfText, having argued what there was."""
    pieces: list[str] = []
    depth, quote = 0, ""
    while True:
        signs = _QUOTED_SIGN[quote] if quote else _VALUE_SIGN
        sign = yield from reading.copy_to(signs, pieces.append)
        if quote and sign == "\\":
            yield from reading.copy_one(pieces.append)
            yield from reading.copy_one(pieces.append)
            continue
        if not quote and depth == 0 and sign in ",)]}":
            return "".join(pieces)
        if quote:
            quote = ""
        elif sign in "'\"":
            quote = sign
        elif sign != ",":
            depth += 1 if sign in "([{" else -1
        yield from reading.copy_one(pieces.append)


def _as_json(text: str) -> str:
    """A Python value as JSON; what is none stays as the model wrote it."""
    json_text = _PYTHON_WORDS.sub(_python_as_json, text).strip()
    value = loads(json_text)
    return dumps(value) if value is not None or json_text == "null" else text.strip()


def _python_as_json(match: re.Match[str]) -> str:
    word = match[0]
    return _AS_JSON[word] if word in _AS_JSON else f'"{_IN_STRING.sub(_in_json_string, word[1:-1])}"'


def _in_json_string(match: re.Match[str]) -> str:
    """An escape, a quote or a control character of a Python string, as JSON has it."""
    sign = match[0]
    if len(sign) == 1:
        return dumps(sign)[1:-1]
    return sign if sign[1] in _JSON_ESCAPES else "'" if sign[1] == "'" else f"\\\\{sign[1]}"
