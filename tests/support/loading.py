"""A front that wants models of a Switch, and time that passes meanwhile."""

from box import Box
from switch import Switch

from tokenyard.broker.room import Policy
from tokenyard.broker.wire import Message, Want

POLICY = Policy(residence_s=5, patience_s=10)


def want(switch: Switch, model: str, weight_bytes: int = 0, front: str = "front") -> list[Message]:
    return switch.say(front, Want(model, model, weight_bytes))


def pass_time(switch: Switch, box: Box, seconds: float, *wanted: str) -> None:
    """All live on and beat with what is placed on them; the front wants these models meanwhile."""
    end = switch.now + seconds
    while switch.now < end:
        switch.wait(0.3, ("front", "box"))
        for number, post in box.posts.items():
            box.beat(number, *switch.core._state.workers[post.inc].placements)
        for model in wanted:
            want(switch, model)


def load(switch: Switch, box: Box, model: str) -> int:
    """Want it until it is up; returns its post."""
    want(switch, model)
    box.obey()
    number = next(number for number, post in box.posts.items() if post.model == model)
    box.up(number)
    return number


def only(messages: list[Message], kind: type) -> list[Message]:
    return [message for message in messages if isinstance(message, kind)]
