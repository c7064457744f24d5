"""How each format lays a call out, for grammars that force calls: the same text that its parser reads."""

from enum import Enum
from typing import NamedTuple

from tokenyard.http.formats.harmony import CHANNEL, CONSTRAIN, ENDS, MESSAGE, TURN
from tokenyard.http.formats.literals import GEMMA
from tokenyard.http.formats.marked import DEEPSEEK, DEEPSEEK_SEPARATOR, KIMI, KIMI_ARGUMENTS
from tokenyard.http.formats.thoughts import Marks


class Slot(Enum):
    """What differs from call to call."""

    NAME = "name"
    ARGUMENTS = "arguments"


class Regex(NamedTuple):
    """Text that matches, where the model may choose."""

    pattern: str


Piece = str | Regex | Slot

NAME, ARGUMENTS = Slot.NAME, Slot.ARGUMENTS


class Layout(NamedTuple):
    """The text of calls: `begin`, calls with `between` between them, `end`."""

    call: tuple[Piece, ...]
    mark: str = ""
    """What the calls begin with, so that text goes over into calls; empty if they can only begin the turn."""
    begin: tuple[Piece, ...] = ()
    between: tuple[Piece, ...] = ()
    end: tuple[Piece, ...] = ()
    style: str = "json"
    """How arguments are written: a style of xgrammar's json_schema format, `python` or `gemma`."""
    single: bool = False
    """Whether one call ends the turn."""
    thought: Marks | None = None
    """Around a thought, where the format has its own way."""
    after_thought: str = ""
    """Between a thought and the rest; if empty, some white space."""
    answer: str = ""
    """Before the text of an answer."""
    unlike: str = ""
    """Of a format without a mark, what text begins with that is no call: a regular expression for one character."""


HERMES = Layout(
    ('<tool_call>\n{"name": "', NAME, '", "arguments": ', ARGUMENTS, "}\n</tool_call>"), "<tool_call>", between=("\n",)
)
QWEN_CODER = Layout(
    ("<tool_call>\n<function=", NAME, ">\n", ARGUMENTS, Regex(r"\n?"), "</function>\n</tool_call>"),
    "<tool_call>",
    between=("\n",),
    style="qwen_xml",
)
GLM = Layout(
    ("<tool_call>", NAME, Regex(r"\n?"), ARGUMENTS, Regex(r"\n?"), "</tool_call>"),
    "<tool_call>",
    between=(Regex(r"\n?"),),
    style="glm_xml",
)
LLAMA_JSON = Layout(('{"name": "', NAME, '", "parameters": ', ARGUMENTS, "}"), between=("; ",), unlike=r"[^\s{<]")
PYTHONIC = Layout(
    (NAME, "(", ARGUMENTS, ")"), begin=("[",), between=(", ",), end=("]",), style="python", unlike=r"[^\s\[<]"
)
MISTRAL_V3 = Layout(
    ('{"name": "', NAME, '", "arguments": ', ARGUMENTS, "}"),
    "[TOOL_CALLS]",
    begin=("[TOOL_CALLS]", Regex(" ?"), "["),
    between=(", ",),
    end=("]",),
)
MISTRAL_V11 = Layout(("[TOOL_CALLS]", NAME, "[ARGS]", ARGUMENTS), "[TOOL_CALLS]")
DEEPSEEK_V3 = Layout(
    (DEEPSEEK.call_begin, "function", DEEPSEEK_SEPARATOR, NAME, "\n```json\n", ARGUMENTS, "\n```", DEEPSEEK.call_end),
    DEEPSEEK.begin,
    begin=(DEEPSEEK.begin,),
    between=("\n",),
    end=(DEEPSEEK.end,),
)
DEEPSEEK_V31 = Layout(
    (DEEPSEEK.call_begin, NAME, DEEPSEEK_SEPARATOR, ARGUMENTS, DEEPSEEK.call_end),
    DEEPSEEK.begin,
    begin=(DEEPSEEK.begin,),
    end=(DEEPSEEK.end,),
)
KIMI_K2 = Layout(
    (KIMI.call_begin, "functions.", NAME, ":", Regex("[0-9]{1,3}"), KIMI_ARGUMENTS, ARGUMENTS, KIMI.call_end),
    KIMI.begin,
    begin=(KIMI.begin,),
    end=(KIMI.end,),
)
GEMMA_4 = Layout((f"{GEMMA[0]}call:", NAME, ARGUMENTS, GEMMA[1]), GEMMA[0], style="gemma")
HARMONY = Layout(
    (f"{CHANNEL}commentary to=functions.", NAME, f" {CONSTRAIN}json{MESSAGE}", ARGUMENTS),
    single=True,
    thought=Marks(f"{CHANNEL}analysis{MESSAGE}", ENDS[0]),
    after_thought=TURN,
    answer=f"{CHANNEL}final{MESSAGE}",
)
