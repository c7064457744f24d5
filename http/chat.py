"""Chat completions: from a checked request to plans, and from pieces to OpenAI's chunks and body."""

import secrets
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, NamedTuple

import orjson

from tokenyard.broker.errors import TokenyardError
from tokenyard.http.choice import Choice, Piece, TokenLogprob
from tokenyard.http.echoes import vllm_prompt_logprobs
from tokenyard.http.generation import Generation, Plan
from tokenyard.http.mcp.progress import ServerCalls
from tokenyard.http.plans import UNLIKELY, Head, make_plans, vocabulary_of
from tokenyard.http.prompt import Prompter
from tokenyard.http.replies import DONE, event, openai_failure
from tokenyard.http.schemas import ChatRequest
from tokenyard.http.tools import read_calling, read_tools
from tokenyard.http.turns import (
    Call,
    CallArguments,
    CallBegun,
    Part,
    ServerPart,
    Text,
    Thought,
    TurnParser,
    gather,
)
from tokenyard.http.vocabulary import Vocabulary


class ChatPlan(NamedTuple):
    """How a conversation is gone on with."""

    plans: list[Plan]
    """One a choice."""
    parsers: list[TurnParser]
    """One a choice, to read what the model says; empty where all of it is text."""


async def plan_chat(request: ChatRequest, prompter: Prompter) -> ChatPlan:
    """Render and tokenize. Raises TokenyardError naming the field that does not fit."""
    calling = read_calling(read_tools(request.tools), request.tool_choice, request.parallel_tool_calls)
    prompt = await prompter.of_chat(request)
    loaded, speech = prompter.loaded, prompter.loaded.speech
    grammar = loaded.forcing.grammar(calling, request.grammar, speech.thinking(prompt.text, prompt.begun))
    request = replace(request, grammar=grammar)

    tools = {tool.name: tool.parameters for tool in calling.tools} or None
    limit = None if calling.many else 1
    made = [speech.parser(prompt.text, prompt.begun, tools, limit) for _ in range(request.n)]
    parsers = [parser for parser in made if parser is not None]
    plans = make_plans(request, prompter, [prompt], loaded.hidden if parsers else None)
    for plan in plans if parsers else ():
        plan.choice.num_thought = 0
    return ChatPlan(plans, parsers)


def read_piece(parser: TurnParser, choice: Choice, piece: Piece) -> list[Part]:
    """The parts that a piece of a choice adds; counts the choice's tokens of thoughts."""
    thought = parser.thinking
    parts = parser.push(piece.text)
    if thought or parser.thinking:
        choice.num_thought = (choice.num_thought or 0) + len(piece.token_ids)
    return parts + parser.flush() if piece.finish_reason is not None else parts


class ChatFormat:
    """Shapes one answer."""

    def __init__(
        self, request: ChatRequest, prompter: Prompter, generation: Generation, parsers: list[TurnParser]
    ) -> None:
        self._request = request
        self._generation = generation
        self._vocabulary = vocabulary_of(request, prompter.loaded)
        self._options = request.stream_options
        kind = "chat.completion.chunk" if request.stream else "chat.completion"
        self._head = Head(kind, "chatcmpl", request, prompter.card)
        self._ending: dict[str, Any] = {"usage": None} if self._options.include_usage else {}
        self._parsers = dict(enumerate(parsers))
        self._server_calls = ServerCalls()
        self._shows_thoughts = request.include_reasoning
        self._plain = (
            request.num_logprobs < 0 and not request.return_token_ids and not self._options.continuous_usage_stats
        )
        """Whether a piece in mid-stream that is text is nothing else, as nearly always."""
        self._templates: dict[int, tuple[bytes, bytes]] = {}
        """Of the choices whose text is shown as it comes: what stands before and after it in a chunk."""
        for choice in generation.choices:
            self._look_whether_settled(choice)

    def _look_whether_settled(self, choice: Choice) -> None:
        parser = self._parsers.get(choice.index)
        if self._plain and choice.index not in self._templates and (parser is None or parser.settled):
            self._templates[choice.index] = self._template(choice.index)

    def _template(self, index: int) -> tuple[bytes, bytes]:
        mark = secrets.token_hex(8)
        choice = {"index": index, "delta": {"content": mark}, "logprobs": None, "finish_reason": None}
        return self._head.template(choice, mark, self._ending)

    def opening(self, choice: Choice) -> bytes:
        return self._chunk(choice.index, {"role": "assistant", "content": ""})

    def chunk(self, choice: Choice, piece: Piece) -> bytes:
        template = self._templates.get(choice.index)
        if template is not None and piece.finish_reason is None:
            before, after = template
            return before + orjson.dumps(piece.text) + after if piece.text else b""
        chunks = b"".join(self._slow_chunks(choice, piece))
        self._look_whether_settled(choice)
        return chunks

    def _slow_chunks(self, choice: Choice, piece: Piece) -> Iterable[bytes]:
        """All that a piece may hold; its logprobs and ids ride on its first chunk, then the finish chunk follows."""
        logprobs = _logprobs(piece.logprobs, self._vocabulary)
        ids = piece.token_ids if self._request.return_token_ids else None
        deltas: list[dict[str, Any]] = []
        for part in self._parts(choice, piece):
            if isinstance(part, ServerPart):
                told = self._server_calls.take(part)
                if self._options.include_mcp:
                    yield event({**self._head.fields, "choices": [], "mcp": told, **self._ending})
            elif (self._shows_thoughts or not isinstance(part, Thought)) and (delta := _delta(part)):
                deltas.append(delta)
        if not deltas and (logprobs or ids):
            deltas = [{"content": ""}]
        for delta in deltas:
            yield self._chunk(choice.index, delta, logprobs=logprobs, token_ids=ids)
            logprobs = ids = None
        if piece.finish_reason is not None:
            yield self._chunk(choice.index, {}, finish=self._finish_reason(choice.index, piece.finish_reason))

    def _parts(self, choice: Choice, piece: Piece) -> list[Part]:
        parser = self._parsers.get(choice.index)
        if parser is None:
            return [Text(piece.text)] if piece.text else []
        return read_piece(parser, choice, piece)

    def _finish_reason(self, index: int, reason: str) -> str:
        parser = self._parsers.get(index)
        return "tool_calls" if reason == "stop" and parser is not None and parser.num_calls else reason

    def _chunk(
        self,
        index: int,
        delta: dict[str, Any],
        *,
        logprobs: dict[str, Any] | None = None,
        token_ids: list[int] | None = None,
        finish: str | None = None,
    ) -> bytes:
        choice: dict[str, Any] = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        if token_ids is not None:
            choice["token_ids"] = token_ids
        ending = {"usage": self._generation.usage} if self._options.continuous_usage_stats else self._ending
        calls = self._server_calls.summary if finish is not None else {}
        return event({**self._head.fields, "choices": [choice], **calls, **ending})

    def closing(self) -> bytes:
        if not self._options.include_usage:
            return DONE
        return event({**self._head.fields, "choices": [], "usage": self._generation.usage}) + DONE

    def failure(self, error: TokenyardError) -> bytes:
        return openai_failure(error)

    def whole(self, pieces: list[list[Piece]]) -> dict[str, Any]:
        choices = [self._whole_choice(choice, pieces[choice.index]) for choice in self._generation.choices]
        body = {**self._head.fields, "choices": choices, **self._server_calls.summary, "usage": self._generation.usage}
        if self._request.prompt_logprobs >= 0:
            scores = self._generation.choices[0].prompt_scores
            body["prompt_logprobs"] = vllm_prompt_logprobs(scores.tokens, self._vocabulary)
        return body

    def _whole_choice(self, choice: Choice, pieces: list[Piece]) -> dict[str, Any]:
        text = "".join(piece.text for piece in pieces)
        reason = pieces[-1].finish_reason
        assert reason is not None
        message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
        if (parser := self._parsers.get(choice.index)) is not None:
            parts = [part for piece in pieces for part in read_piece(parser, choice, piece)]
            for part in parts:
                if isinstance(part, ServerPart):
                    self._server_calls.take(part)
            turn = gather(parts)
            message["content"] = turn.text
            if turn.thought and self._shows_thoughts:
                message["reasoning_content"] = turn.thought
            if turn.calls:
                message["content"] = turn.text or None
                message["tool_calls"] = [_call(call) for call in turn.calls]
        entries = [entry for piece in pieces for entry in piece.logprobs]
        whole = {
            "index": choice.index,
            "message": message,
            "logprobs": _logprobs(entries, self._vocabulary) if self._request.num_logprobs >= 0 else None,
            "finish_reason": self._finish_reason(choice.index, reason),
        }
        if self._request.return_token_ids:
            whole["token_ids"] = [token_id for piece in pieces for token_id in piece.token_ids]
        return whole


def _delta(part: Part) -> dict[str, Any]:
    """A part as a chunk's delta. A call's name comes first and its arguments after, as in OpenAI's own streams."""
    match part:
        case Thought(text):
            return {"reasoning_content": text}
        case Text(text):
            return {"content": text}
        case CallBegun(number, name, own_id):
            return {"tool_calls": [{"index": number, **_call(Call(name, id=own_id))}]}
        case CallArguments(number, text):
            return {"tool_calls": [{"index": number, "function": {"arguments": text}}]}
        case _:
            return {}


def _call(call: Call) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id or f"call_{secrets.token_hex(12)}", "type": "function", "function": function}


def _logprobs(entries: list[TokenLogprob], vocabulary: Vocabulary) -> dict[str, Any] | None:
    if not entries:
        return None

    def describe(token_id: int, logprob: float) -> dict[str, Any]:
        text, data = vocabulary.token(token_id)
        return {"token": text, "logprob": max(logprob, UNLIKELY), "bytes": list(data)}

    content = [
        {**describe(entry.token_id, entry.logprob), "top_logprobs": [describe(*one) for one in entry.top]}
        for entry in entries
    ]
    return {"content": content, "refusal": None}
