"""Which format of tool calls and of reasoning a model speaks: read off its chat template's text, or told by name."""

import secrets
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from transformers.utils.chat_parsing.response_templates import ResponseTemplate

from tokenyard.http.formats import harmony, layouts
from tokenyard.http.formats.forcing import Thinking
from tokenyard.http.formats.foreign import ForeignParser, has_calls, load_template, marks_of
from tokenyard.http.formats.layouts import Layout
from tokenyard.http.formats.literals import GEMMA, PYTHON, read_gemma, read_pythonic
from tokenyard.http.formats.marked import (
    DEEPSEEK,
    DEEPSEEK_SEPARATOR,
    HERMES,
    KIMI,
    KIMI_ARGUMENTS,
    MISTRAL,
    PYTHON_TAG,
    read_deepseek,
    read_hermes,
    read_kimi,
    read_llama_json,
    read_mistral,
    read_text,
)
from tokenyard.http.formats.parser import FormatParser, Read
from tokenyard.http.formats.reading import Reading
from tokenyard.http.formats.source import Steps
from tokenyard.http.formats.tagged import GLM, QWEN_CODER, read_glm, read_qwen_coder
from tokenyard.http.formats.thoughts import Marks, read_thought, thought_marks, unfinished
from tokenyard.http.formats.values import Schema
from tokenyard.http.turns import TurnParser


class Format(NamedTuple):
    """One way to write tool calls."""

    read: Read
    """Reads a turn behind its thought."""
    marks: tuple[str, ...]
    """What it is made of; where these are special tokens, they must come through as text."""
    signs: tuple[str, ...]
    """A chat template that holds all of these teaches this format."""
    layout: Layout | None = None
    """How grammars lay a call out, where calls can be forced."""
    turn: str = ""
    """What a prompt ends with, for a format that says by itself what is thought and what is text."""
    new_id: Callable[[], str] | None = None
    """Makes ids of calls where the template insists on how they look."""


def _mistral_id() -> str:
    """Nine letters and digits, or Mistral's templates refuse the next turn."""
    return secrets.token_hex(5)[:9]


FORMATS: dict[str, Format] = {
    "harmony": Format(
        harmony.read_harmony, harmony.MARKS, ("<|channel|>", "<|message|>"), layouts.HARMONY, harmony.TURN
    ),
    "gemma4": Format(read_gemma, GEMMA, GEMMA[:1], layouts.GEMMA_4),
    "kimi": Format(read_kimi, (*KIMI, KIMI_ARGUMENTS), KIMI[:1], layouts.KIMI_K2),
    "deepseek-v3": Format(
        read_deepseek, (*DEEPSEEK, DEEPSEEK_SEPARATOR), (DEEPSEEK.begin, "```json"), layouts.DEEPSEEK_V3
    ),
    "deepseek-v3.1": Format(read_deepseek, (*DEEPSEEK, DEEPSEEK_SEPARATOR), (DEEPSEEK.begin,), layouts.DEEPSEEK_V31),
    "mistral-v11": Format(read_mistral, MISTRAL, ("[TOOL_CALLS]", "[ARGS]"), layouts.MISTRAL_V11, new_id=_mistral_id),
    "mistral-v3": Format(read_mistral, MISTRAL, ("[TOOL_CALLS]",), layouts.MISTRAL_V3, new_id=_mistral_id),
    "glm": Format(read_glm, GLM.marks, ("<tool_call>", "<arg_key>"), layouts.GLM),
    "qwen-coder": Format(read_qwen_coder, QWEN_CODER.marks, ("<tool_call>", "<function="), layouts.QWEN_CODER),
    "hermes": Format(read_hermes, HERMES, ("<tool_call>",), layouts.HERMES),
    "pythonic": Format(read_pythonic, PYTHON, ("func_name1(",), layouts.PYTHONIC),
    "llama-json": Format(
        read_llama_json, (PYTHON_TAG,), ('"parameters": dictionary of argument name',), layouts.LLAMA_JSON
    ),
}
"""By the name that --tool-format takes. The first whose signs a template holds is the model's: the rarer come first."""


class Speech(NamedTuple):
    """How one model's turns are written."""

    format: Format | None
    """Of its tool calls, if it knows any."""
    thought: Marks | None
    """Around its reasoning, if it may reason so."""
    template: ResponseTemplate | None = None
    """The tokenizer's own, which tells how to read turns whose format is none of ours."""
    opens: bool = False
    """Whether its template opens the thoughts, so that none comes where it did not."""

    @property
    def marks(self) -> tuple[str, ...]:
        """Texts that must reach the parser, also where they are special tokens."""
        if self.template is not None:
            return marks_of(self.template)
        return (self.format.marks if self.format else ()) + (self.thought or ())

    @property
    def calls(self) -> bool:
        """Whether the model can call tools."""
        return self.format is not None or (self.template is not None and has_calls(self.template))

    def thinking(self, prompt: str, continued: str) -> Thinking:
        """Whether a turn that goes on where this prompt ends begins with a thought."""
        if self.format is not None and self.format.turn:
            return Thinking.NONE if continued else Thinking.POSSIBLE
        if self.thought is None:
            return Thinking.NONE
        if unfinished(prompt, continued, self.thought):
            return Thinking.BEGUN
        done = continued or self.opens or prompt.rstrip().endswith(self.thought.closing)
        return Thinking.NONE if done else Thinking.POSSIBLE

    def parser(
        self, prompt: str, continued: str, tools: Mapping[str, Schema] | None, max_calls: int | None
    ) -> TurnParser | None:
        """Reads a turn that goes on where this prompt ends, and with it the text `continued`, if any.

        Without tools, calls are text. None if all is text.
        """
        form, marks = self.format, self.thought
        if self.template is not None:
            return ForeignParser(self.template, prompt, tools, max_calls)
        if form is not None and form.turn:
            _, found, begun = prompt.rpartition(form.turn)
            limit = max_calls if tools is not None else 0
            return FormatParser(form.read, tools or {}, begun=begun if found else "", max_calls=limit)
        read = read_text if tools is None or form is None else form.read
        new_id = form.new_id if form else None
        if marks is None:
            return None if read is read_text else FormatParser(read, tools or {}, max_calls=max_calls, new_id=new_id)

        def read_both(reading: Reading) -> Steps[None]:
            yield from read_thought(reading, marks)
            yield from read(reading)

        begun = unfinished(prompt, continued, marks)
        return FormatParser(read_both, tools or {}, begun=begun, max_calls=max_calls, new_id=new_id)


def recognise(template: str, name: str | None = None, own: Any = None) -> Speech:
    """The speech that a chat template teaches, with calls in the format of this name if one is given.

    `own` is the tokenizer's response_template, for a format that is none of ours: ours stream.
    """
    if name is not None:
        form: Format | None = FORMATS[name]
    else:
        form = next((one for one in FORMATS.values() if all(sign in template for sign in one.signs)), None)
    return Speech(form, thought_marks(template), load_template(own) if form is None else None)
