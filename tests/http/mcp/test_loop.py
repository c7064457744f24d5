"""The loop of turns and calls: its rules one by one, then random conversations that must all end well."""

import json
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tokenyard.http.mcp.loop import (
    DENIED,
    MAX_CALLS,
    MAX_PARALLEL,
    MAX_TURNS,
    Action,
    Ask,
    End,
    Loop,
    Refuse,
    Run,
)
from tokenyard.http.turns import Call, Turn

OURS, THEIRS = ["fs__read", "web__get"], ["client_tool"]


def call(name: str = "fs__read", **arguments: Any) -> Call:
    return Call(name, json.dumps(arguments), id=f"call_{name}_{arguments}")


def says(*calls: Call, text: str = "") -> Turn:
    return Turn(text=text, calls=list(calls))


def begun(**given: Any) -> Loop:
    loop = Loop(given.pop("ours", OURS), given.pop("theirs", []), **given)
    assert loop.begin() == [Ask([], True)]
    return loop


def test_a_turn_without_calls_is_the_answer() -> None:
    assert begun().spoke(says(text="hello"), "stop") == [End("stop", [], [])]


def test_a_call_runs_and_its_result_is_shown_to_the_model() -> None:
    loop = begun()
    assert loop.spoke(says(call(path="a"), text="Let me see."), "tool_calls") == [Run(0, "fs__read", {"path": "a"})]
    (ask,) = loop.returned(0, "what a holds")
    assert isinstance(ask, Ask)
    assert ask.with_tools
    said, result = ask.messages
    assert said["content"] == "Let me see."
    assert said["tool_calls"][0]["function"] == {"name": "fs__read", "arguments": {"path": "a"}}
    assert result == {
        "role": "tool",
        "tool_call_id": said["tool_calls"][0]["id"],
        "name": "fs__read",
        "content": "what a holds",
    }
    assert loop.spoke(says(text="a holds it"), "stop") == [End("stop", [], [])]


def test_calls_run_side_by_side_and_are_shown_in_the_models_order() -> None:
    loop = begun()
    runs = loop.spoke(says(*(call(n=n) for n in range(MAX_PARALLEL + 2))), "tool_calls")
    assert [run.number for run in runs if isinstance(run, Run)] == list(range(MAX_PARALLEL))
    assert loop.returned(3, "third") == [Run(MAX_PARALLEL, "fs__read", {"n": MAX_PARALLEL})]
    assert loop.returned(0, "zeroth") == [Run(MAX_PARALLEL + 1, "fs__read", {"n": MAX_PARALLEL + 1})]
    left = [number for number in range(MAX_PARALLEL + 2) if number not in (0, 3)]
    for number in left[:-1]:
        assert loop.returned(number, f"{number}") == []
    (ask,) = loop.returned(left[-1], f"{left[-1]}")
    assert isinstance(ask, Ask)
    assert [message["content"] for message in ask.messages[1:5]] == ["zeroth", "1", "2", "third"]


def test_the_clients_calls_go_back_to_it() -> None:
    theirs = call("client_tool", a=1)
    assert begun(theirs=THEIRS).spoke(says(theirs), "tool_calls") == [End("tool_calls", [theirs], [])]
    unknown = call("new_tool")
    assert begun(theirs=THEIRS).spoke(says(unknown), "tool_calls") == [End("tool_calls", [unknown], [])]


@pytest.mark.parametrize("returns_mixed", [False, True])
def test_mixed_calls(returns_mixed: bool) -> None:
    loop = begun(theirs=THEIRS, returns_mixed=returns_mixed)
    theirs = call("client_tool")
    assert loop.spoke(says(theirs, call()), "tool_calls") == [Run(0, "fs__read", {})]
    (action,) = loop.returned(0, "text")
    if returns_mixed:
        assert action == End("tool_calls", [theirs], [])
    else:
        assert isinstance(action, Ask)
        assert [one["function"]["name"] for one in action.messages[0]["tool_calls"]] == ["fs__read"]


def test_what_a_person_must_approve_waits_for_one() -> None:
    loop = begun(to_approve=["web__get"])
    asked = call("web__get", url="x")
    assert loop.spoke(says(call(), asked), "tool_calls") == [End("approval", [], [asked])]
    again = Loop(OURS, to_approve=["web__get"])
    denied = call("fs__read", path="/etc")
    refusal, run = again.begin(approved=[asked], denied=[denied])
    assert (refusal, run) == (Refuse(1, "fs__read", denied.arguments, DENIED), Run(0, "web__get", {"url": "x"}))
    (ask,) = again.returned(0, "page")
    assert isinstance(ask, Ask)
    assert [message["content"] for message in ask.messages] == ["", "page", DENIED]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (Call("fs__rm", "{}"), "no tool 'fs__rm'"),
        (Call("fs__read", "{"), "not valid JSON"),
        (Call("fs__read", "[1]"), "must be an object"),
        (Call("fs__read", '{"a":' * 5000 + "1" + "}" * 5000), "not valid JSON"),
    ],
)
def test_a_wrong_call_is_answered_with_words(wrong: Call, words: str) -> None:
    refusal, ask = begun().spoke(says(wrong), "tool_calls")
    assert isinstance(refusal, Refuse)
    assert words in refusal.words
    assert isinstance(ask, Ask)
    assert words in ask.messages[1]["content"]


def test_the_third_call_that_is_the_same_is_not_run() -> None:
    loop = begun()
    for number in range(2):
        assert loop.spoke(says(call(a=1, b=2)), "tool_calls") == [Run(number, "fs__read", {"a": 1, "b": 2})]
        loop.returned(number, "same")
    refusal, ask = loop.spoke(says(call(b=2, a=1)), "tool_calls")
    assert isinstance(refusal, Refuse)
    assert "before" in refusal.words
    assert isinstance(ask, Ask)


def test_the_last_turn_has_no_tools() -> None:
    loop = begun()
    for turn in range(MAX_TURNS - 1):
        loop.spoke(says(call(n=turn)), "tool_calls")
        (ask,) = loop.returned(turn, "more")
        assert isinstance(ask, Ask)
        assert ask.with_tools == (turn < MAX_TURNS - 2)
    assert loop.spoke(says(text="that is all"), "stop") == [End("stop", [], [])]


def test_there_is_an_end_to_calls() -> None:
    loop = begun()
    actions = loop.spoke(says(*(call(n=n) for n in range(MAX_CALLS + 1))), "tool_calls")
    assert [action.number for action in actions if isinstance(action, Refuse)] == [MAX_CALLS]
    for number in range(MAX_CALLS):
        actions = loop.returned(number, "x")
    (ask,) = actions
    assert isinstance(ask, Ask)
    assert not ask.with_tools


def test_when_time_is_over_the_model_answers_from_what_there_is() -> None:
    loop = begun()
    loop.spoke(says(*(call(n=n) for n in range(MAX_PARALLEL + 1))), "tool_calls")
    assert loop.out_of_time() == []
    for number in range(MAX_PARALLEL):
        actions = loop.returned(number, "x")
    (ask,) = actions
    assert isinstance(ask, Ask)
    assert not ask.with_tools
    assert "time was over" in ask.messages[-1]["content"]


def test_a_turn_that_was_cut_off_is_the_answer() -> None:
    assert begun().spoke(says(call()), "length") == [End("length", [], [])]


class Conversations(RuleBasedStateMachine):
    """A model that says anything, tools that answer in any order, a clock that may run out at any time."""

    @initialize(theirs=st.booleans(), approve=st.booleans(), mixed=st.booleans(), turns=st.integers(1, 4))
    def start(self, theirs: bool, approve: bool, mixed: bool, turns: int) -> None:
        self.loop = Loop(
            OURS,
            THEIRS if theirs else [],
            to_approve=OURS[1:] if approve else [],
            returns_mixed=mixed,
            max_turns=turns,
            max_calls=6,
        )
        self.running: set[int] = set()
        self.made: list[str] = []
        self.speaking = False
        self.end: End | None = None
        self.num_asked = 0
        self.perform(self.loop.begin())

    def perform(self, actions: list[Action]) -> None:
        for action in actions:
            assert self.end is None, "nothing comes after the end"
            match action:
                case Run(number, name, arguments):
                    assert number not in self.running
                    self.running.add(number)
                    self.made.append(f"{name} {sorted(arguments.items())}")
                case Ask(messages, _):
                    assert not self.running
                    assert not self.speaking
                    assert all(message["content"] for message in messages if message["role"] == "tool")
                    self.speaking = True
                    self.num_asked += 1
                case End():
                    self.end = action

    @precondition(lambda self: self.speaking)
    @rule(
        calls=st.lists(
            st.tuples(st.sampled_from([*OURS, *THEIRS, "unknown"]), st.sampled_from(["{}", '{"a": 1}', "{", "[]"])),
            max_size=4,
        ),
        reason=st.sampled_from(["stop", "length"]),
    )
    def speak(self, calls: list[tuple[str, str]], reason: str) -> None:
        self.speaking = False
        turn = Turn(text="t", calls=[Call(name, arguments, id=f"{n}") for n, (name, arguments) in enumerate(calls)])
        self.perform(self.loop.spoke(turn, reason))

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def tool_answers(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.running)))
        self.running.remove(number)
        self.perform(self.loop.returned(number, "result"))

    @precondition(lambda self: self.end is None)
    @rule()
    def time_runs_out(self) -> None:
        self.perform(self.loop.out_of_time())

    @precondition(lambda self: self.end is not None)
    @rule()
    def nothing_is_left(self) -> None:
        assert not self.running
        assert not self.speaking

    @invariant()
    def all_is_well(self) -> None:
        if not hasattr(self, "loop"):
            return
        self.loop.check()
        assert self.end is not None or self.speaking or self.running, "somebody is always at work until the end"
        assert len(self.made) <= 6
        assert all(self.made.count(one) <= 2 for one in self.made)


TestConversations = Conversations.TestCase
