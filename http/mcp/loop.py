"""The loop of turns and calls of one request: what the model said and what tools gave goes in, what to do next comes
out.

Sans-IO. Rules, in order:
  1. A turn without calls is the answer. So is one that was cut off: its last call may be half a call.
  2. Calls of the client's tools go back to the client. Beside calls of ours, they are returned after ours have run
     (`returns mixed`), or left out of the history, so that the model asks again for them alone.
  3. Calls that a person must approve end the request, none of the turn's calls being run, where the API can ask;
     elsewhere such tools are not offered at all (selection.py).
  4. Ours run side by side, up to a limit; when the last has a result, the next turn begins.
  5. An unknown tool, or arguments that are no object, is answered with words, as the model can mend it. The third
     call that is the same to the letter is answered with a nudge instead of being run.
  6. The last turn allowed, and the first one after the calls or the time ran out, has no tools: it must answer.
"""

import json
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from tokenyard.http.formats.values import loads
from tokenyard.http.turns import Call, Turn

MAX_TURNS = 10
MAX_CALLS = 32
MAX_PARALLEL = 8
REQUEST_S = 600.0
"""Limits of one request (design: MCP)."""
MAX_SAME = 2
"""So often a call may be made with the same arguments."""

DENIED = "The user did not allow this call."


class Ask(NamedTuple):
    """Have the model speak, after the conversation so far and these messages."""

    messages: list[dict[str, Any]]
    """All that the loop has added since the request's own messages."""
    with_tools: bool


class Run(NamedTuple):
    """Call a tool of ours, and tell what it gave with `returned`."""

    number: int
    """Counts the request's calls of ours from 0."""
    name: str
    arguments: dict[str, Any]


class Refuse(NamedTuple):
    """A call that is answered without being run; for those who show calls."""

    number: int
    name: str
    arguments: str
    words: str


class End(NamedTuple):
    """The request's answer is whole."""

    finish_reason: str
    """stop, length, tool_calls, or approval."""
    client_calls: list[Call]
    """For the client to run."""
    to_approve: list[Call]
    """For a person to approve."""


Action = Ask | Run | Refuse | End


class Loop:
    """One request's. `begin` once, then `spoke` after each Ask and `returned` after each Run, until an End."""

    def __init__(
        self,
        ours: Collection[str],
        theirs: Collection[str] = (),
        *,
        to_approve: Collection[str] = (),
        returns_mixed: bool = False,
        max_turns: int = MAX_TURNS,
        max_calls: int = MAX_CALLS,
    ) -> None:
        """`ours` and `theirs`: names of the tools that were offered; `to_approve`: those of ours that a person must
        allow.
        """
        assert max_turns >= 1
        self._ours = frozenset(ours)
        self._theirs = frozenset(theirs)
        self._to_approve = frozenset(to_approve)
        self._returns_mixed = returns_mixed
        self._max_turns = max_turns
        self._max_calls = max_calls
        self._messages: list[dict[str, Any]] = []
        self._num_turns = 0
        self._num_calls = 0
        self._made: Counter[str] = Counter()
        """How often each call was made, by name and arguments."""
        self._queue: list[Run] = []
        """Calls that wait for a place among those that run."""
        self._running: dict[int, int] = {}
        """Calls that run: number to the place of their answer in `_messages`."""
        self._places: dict[int, int] = {}
        """The same of those in the queue."""
        self._returned_calls: list[Call] = []
        """The client's calls of a mixed turn, until ours have run."""
        self._out_of_time = False
        self._speaking = False
        self._may_call = True
        """Whether the turn that is being spoken has tools."""
        self._ended = False

    def begin(self, approved: Sequence[Call] = (), denied: Sequence[Call] = ()) -> list[Action]:
        """The first turn; the calls that a person has decided about come before it."""
        if not approved and not denied:
            return [self._ask()]
        return self._run([*approved, *denied], "", frozenset(call.id for call in denied))

    def spoke(self, turn: Turn, finish_reason: str) -> list[Action]:
        """The model has spoken; what it said last is `turn`."""
        assert self._speaking
        assert not self._ended
        self._speaking = False
        calls = turn.calls
        if not calls or finish_reason == "length" or not self._may_call:
            return [self._end("stop" if finish_reason == "tool_calls" else finish_reason)]
        theirs = [call for call in calls if self._is_theirs(call)]
        ours = [call for call in calls if not self._is_theirs(call)]
        if not ours:
            return [self._end("tool_calls", client_calls=theirs)]
        if waiting := [call for call in ours if call.name in self._to_approve]:
            return [self._end("approval", client_calls=theirs, to_approve=waiting)]
        self._returned_calls = theirs if self._returns_mixed else []
        return self._run(ours, turn.text)

    def returned(self, number: int, text: str) -> list[Action]:
        """A call of ours has its result, or words about why it has none."""
        self._messages[self._running.pop(number)]["content"] = text
        if self._ended:
            return []
        return self._next()

    def out_of_time(self) -> list[Action]:
        """The request has taken all its time: calls that wait are not made, and the model must answer from what it
        has.
        """
        self._out_of_time = True
        for run in self._queue:
            self._messages[self._places.pop(run.number)]["content"] = "Not run: this request's time was over."
        self._queue.clear()
        return self._next() if not self._running and not self._speaking and not self._ended else []

    def _run(self, calls: list[Call], text: str, denied: Collection[str] = ()) -> list[Action]:
        """Make calls of one turn, with the messages that tell of them. `denied`: ids of calls."""
        self._messages.append(
            {"role": "assistant", "content": text, "tool_calls": [_as_message(call) for call in calls]}
        )
        actions: list[Action] = []
        for call in calls:
            number, self._num_calls = self._num_calls, self._num_calls + 1
            words, arguments = (DENIED, {}) if call.id in denied else self._check(call, number)
            answer = {"role": "tool", "tool_call_id": call.id, "name": call.name, "content": words}
            self._messages.append(answer)
            if words:
                actions.append(Refuse(number, call.name, call.arguments, words))
            else:
                self._places[number] = len(self._messages) - 1
                self._queue.append(Run(number, call.name, arguments))
        return actions + self._next()

    def _check(self, call: Call, number: int) -> tuple[str, dict[str, Any]]:
        """Why a call is not made, if so, and its arguments."""
        if call.name not in self._ours:
            return f"There is no tool {call.name!r}. The tools are: {', '.join(sorted(self._ours | self._theirs))}.", {}
        arguments = loads(call.arguments or "{}")
        if not isinstance(arguments, dict):
            return "The arguments are not valid JSON." if arguments is None else "The arguments must be an object.", {}
        if number >= self._max_calls or self._out_of_time:
            return "Not run: this request has made as many calls as it may. Answer from the results so far.", {}
        key = f"{call.name} {json.dumps(arguments, sort_keys=True)}"
        self._made[key] += 1
        if self._made[key] > MAX_SAME:
            return "You have made this very call before: its result stands above. Answer from it.", {}
        return "", arguments

    def _next(self) -> list[Action]:
        """Begin what may run; when nothing runs any more, go on."""
        begun: list[Action] = []
        while self._queue and len(self._running) < MAX_PARALLEL:
            run = self._queue.pop(0)
            self._running[run.number] = self._places.pop(run.number)
            begun.append(run)
        if begun or self._running:
            return begun
        if self._returned_calls:
            return [self._end("tool_calls", client_calls=self._returned_calls)]
        return [self._ask()]

    def _ask(self) -> Ask:
        self._num_turns += 1
        self._speaking = True
        self._may_call = (
            self._num_turns < self._max_turns and self._num_calls < self._max_calls and not self._out_of_time
        )
        return Ask([dict(message) for message in self._messages], self._may_call)

    def _end(self, reason: str, client_calls: Sequence[Call] = (), to_approve: Sequence[Call] = ()) -> End:
        self._ended = True
        return End(reason, list(client_calls), list(to_approve))

    def _is_theirs(self, call: Call) -> bool:
        """A name that nobody knows goes to a client that has tools of its own, as if there were no servers."""
        return call.name in self._theirs or (call.name not in self._ours and bool(self._theirs))

    def check(self) -> None:
        """Invariants, for tests."""
        assert len(self._running) <= MAX_PARALLEL
        assert set(self._places) == {run.number for run in self._queue}
        assert self._num_turns <= self._max_turns
        assert not (self._speaking and (self._running or self._queue))
        if not self._ended:
            assert self._speaking or self._running or not self._num_turns
        waiting = set(self._running.values()) | set(self._places.values())
        for place, message in enumerate(self._messages):
            if message["role"] == "tool":
                assert (place in waiting) == (message["content"] == "")


def _as_message(call: Call) -> dict[str, Any]:
    """A call as chat templates take it: arguments as an object where they are one."""
    value = loads(call.arguments or "{}")
    arguments = value if isinstance(value, dict) else call.arguments
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}}
