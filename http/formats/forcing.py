"""Grammars that force calls of tools, in the format that the model speaks, as xgrammar's structural tags.

A mark that is a special token of the vocabulary is named by its id, for no text can hold it
(workers/grammar_compiler.py); any other is plain text.
"""

import re
from collections.abc import Iterable, Mapping
from enum import Enum

import orjson

from tokenyard.broker.errors import TokenyardError
from tokenyard.broker.params import Grammar
from tokenyard.http.errors import invalid
from tokenyard.http.formats.arguments import GemmaArguments, Node, either, json_node, python_arguments, sequence
from tokenyard.http.formats.layouts import Layout, Piece, Regex, Slot
from tokenyard.http.formats.thoughts import Marks
from tokenyard.http.grammars import MAX_CHARS
from tokenyard.http.tools import ANY_ARGUMENTS, Calling, Tool

NO_LAYOUT = Layout(())
_NAME = re.compile(r"[\w.\-]+")
_ANY_TEXT: Node = {"type": "any_text"}
"""No special token is part of it."""
_SPACE: Node = {"type": "regex", "pattern": r"[ \n]{0,4}"}


class Thinking(Enum):
    """Whether a thought comes before what is forced."""

    NONE = "none"
    POSSIBLE = "possible"
    BEGUN = "begun"
    """The prompt has opened it."""


class Forcing:
    """Makes the grammars of one model's turns."""

    def __init__(self, layout: Layout | None, thought: Marks | None, special: Mapping[str, int]) -> None:
        """`special` are the vocabulary's special tokens, by their text."""
        self._layout = layout or NO_LAYOUT
        self._thought = self._layout.thought or thought
        self._special = special
        marks = sorted(special, key=len, reverse=True)
        self._marks = re.compile(f"({'|'.join(map(re.escape, marks))})" if marks else "(?!)()")

    def grammar(self, calling: Calling, answer: Grammar | None, thinking: Thinking) -> Grammar | None:
        """What a turn must match, if anything. Raises TokenyardError naming what cannot be forced.

        `answer` is what the text must match in a turn without calls.
        """
        param = _reason(calling)
        if not param:
            if answer is None or not (calling.tools or self._layout.answer or thinking is not Thinking.NONE):
                return answer
            param = answer.param
        if calling.tools and not self._layout.call:
            invalid(param, "cannot be done: calls in the format that this model speaks cannot be forced")
        if calling.required:
            node = self._calls(calling)
        elif answer is not None:
            said = sequence([*self._text(self._layout.answer), _answer(answer)])
            node = either([said, self._calls(calling)]) if calling.tools else said
        else:
            node = self._text_or_calls(calling)
        try:
            text = orjson.dumps({"type": "structural_tag", "format": self._turn(thinking, node)}).decode()
        except orjson.JSONEncodeError as error:  # values of an enum, say, may be nested deeper than schemas
            invalid(param, f"cannot be forced: {error}")
        if len(text) > 2 * MAX_CHARS:  # where several calls may come, each is in it twice
            invalid(param, f"needs a grammar of {len(text)} characters; at most {2 * MAX_CHARS} are compiled")
        return Grammar("structural_tag", text, param)

    def _turn(self, thinking: Thinking, rest: Node) -> Node:
        """A whole turn: what follows its thought is given."""
        if thinking is Thinking.NONE or (marks := self._thought) is None:
            return rest
        after = self._text(self._layout.after_thought) or [_SPACE]
        inside = [*self._free_until(marks.closing), *after]
        if thinking is Thinking.BEGUN:
            return sequence([*inside, rest])
        return sequence([{"type": "optional", "content": sequence([*self._text(marks.opening), *inside])}, rest])

    def _calls(self, calling: Calling, behind: str = "") -> Node:
        """One call, or one and more, and nothing else; `behind` the mark that they begin with."""
        layout = self._layout
        call = either([self._call(tool) for tool in calling.tools])
        more: list[Node] = []
        if calling.many and not layout.single:
            more = [{"type": "star", "content": sequence([*self._pieces(layout.between), call])}]
        if not behind:
            return sequence([*self._pieces(layout.begin), call, *more, *self._pieces(layout.end)])
        if layout.begin:
            return sequence([*self._pieces(layout.begin, behind), call, *more, *self._pieces(layout.end)])
        return either([self._call(tool, behind) for tool in calling.tools])

    def _text_or_calls(self, calling: Calling) -> Node:
        """Any text, in which every call is one of these."""
        special, mark = self._special, self._layout.mark
        if mark in special:
            others = [token_id for text, token_id in special.items() if text != mark]
            rules = [[special[mark], self._calls(calling, behind=mark)]]
            return {"type": "token_dispatch", "rules": rules, "loop": calling.many, "exclude_tokens": others}
        if mark:
            return {"type": "dispatch", "rules": [[mark, self._calls(calling, behind=mark)]], "loop": calling.many}
        if self._layout.answer:
            text = sequence([*self._text(self._layout.answer), _ANY_TEXT])
        else:
            first: Node = {"type": "regex", "pattern": self._layout.unlike}
            text = {"type": "optional", "content": sequence([first, _ANY_TEXT])}
        return either([text, self._calls(calling)])

    def _call(self, tool: Tool, behind: str = "") -> Node:
        if not _NAME.fullmatch(tool.name):
            invalid(f"{tool.param}.function.name", "must be of letters, digits, _, . and - for calls to be forced")
        nodes: list[Node] = []
        text = ""
        for piece in self._layout.call:
            if piece is Slot.NAME or isinstance(piece, str):
                text += tool.name if isinstance(piece, Slot) else piece
                continue
            nodes += self._text(text.removeprefix(behind) if not nodes else text)
            text = ""
            nodes += [self._arguments(tool)] if piece is Slot.ARGUMENTS else self._pieces((piece,))
        return sequence([*nodes, *self._text(text)])

    def _arguments(self, tool: Tool) -> Node:
        schema, style = tool.enforceable(), self._layout.style
        param = f"{tool.param}.function.parameters"
        if style == "python":
            return python_arguments(schema, param)
        if style != "gemma":
            return json_node(schema, style)
        gemma = GemmaArguments(self._text, self._free_until)
        try:
            return gemma.node(schema, param)
        except TokenyardError:
            if tool.strict:
                raise
            return gemma.node(ANY_ARGUMENTS, tool.param)

    def _pieces(self, pieces: Iterable[Piece], behind: str = "") -> list[Node]:
        nodes: list[Node] = []
        for piece in pieces:
            assert not isinstance(piece, Slot)
            if isinstance(piece, Regex):
                nodes.append({"type": "regex", "pattern": piece.pattern})
            else:
                nodes += self._text(piece.removeprefix(behind))
        return nodes

    def _text(self, text: str) -> list[Node]:
        """This text, with special tokens in it named by their ids."""
        return [
            {"type": "token", "token": self._special[piece]}
            if piece in self._special
            else {"type": "const_string", "value": piece}
            for piece in self._marks.split(text)
            if piece
        ]

    def _free_until(self, mark: str) -> list[Node]:
        """Any text up to this mark, and the mark."""
        if mark in self._special:
            return [_ANY_TEXT, *self._text(mark)]
        return [{"type": "tag", "begin": "", "content": _ANY_TEXT, "end": mark}]


def _reason(calling: Calling) -> str:
    """The field that asks for calls to be forced or restricted; empty if none does."""
    if calling.required or calling.restricted:
        return "tool_choice"
    return next((f"{tool.param}.function.strict" for tool in calling.tools if tool.strict), "")


def _answer(grammar: Grammar) -> Node:
    """A request's own grammar as a node."""
    text = grammar.text
    match grammar.kind:
        case "json_schema":
            return json_node(orjson.loads(text))
        case "json_object":
            return json_node(ANY_ARGUMENTS)
        case "regex":
            return {"type": "regex", "pattern": text}
        case "choice":
            return either([{"type": "const_string", "value": choice} for choice in orjson.loads(text)])
        case "ebnf":
            return {"type": "grammar", "grammar": text}
    tag = orjson.loads(text)
    return tag["format"] if type(tag) is dict and type(tag.get("format")) is dict else _ANY_TEXT
