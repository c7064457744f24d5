"""Frames: every message survives the trip, and nothing but a WireError comes of anything else."""

import math
from itertools import product
from typing import Any, NamedTuple

import msgpack
import pytest
from contract import anything, is_typed, values
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenyard.broker import wire
from tokenyard.broker.codec import check_tuple, decode, encode, pack_ids, unpack_ids
from tokenyard.broker.config import MAX_MESSAGE_BYTES
from tokenyard.broker.errors import WireError
from tokenyard.broker.params import Params
from tokenyard.broker.wire import TAG_OF, TAGS, Delta, Finish, Lost, Message, Tokens

INC = b"an inc ."
messages = st.one_of([values(kind) for kind in TAGS.values()])


@given(messages)
def test_every_message_survives_the_trip(message: Message) -> None:
    back = decode(encode(message))
    assert back == message
    assert type(back) is type(message)


@given(messages, st.lists(anything, min_size=1, max_size=3))
def test_unknown_trailing_fields_are_ignored(message: Message, more: list[Any]) -> None:
    assert decode(msgpack.packb([TAG_OF[type(message)], *message, *more])) == message


@pytest.mark.parametrize("kind", TAGS.values(), ids=lambda kind: kind.__name__)
def test_missing_fields_take_their_defaults_and_required_ones_are_required(kind: Any) -> None:
    @settings(max_examples=20)
    @given(values(kind))
    def check(message: Any) -> None:
        num_required = len(kind._fields) - len(kind._field_defaults)
        shortest = [TAG_OF[kind], *message[:num_required]]
        assert decode(msgpack.packb(shortest)) == kind(*message[:num_required])
        if num_required:
            with pytest.raises(WireError):
                decode(msgpack.packb(shortest[:-1]))

    check()


def check_frame(frame: bytes) -> None:
    """It is a WireError, or a message whose every part is what its annotation says."""
    try:
        message = decode(frame)
    except WireError:
        return
    assert type(message) in TAG_OF
    assert is_typed(message, type(message)), message


@given(st.binary(max_size=200))
def test_garbage_is_a_wire_error(frame: bytes) -> None:
    check_frame(frame)


@given(anything | st.lists(anything | st.lists(anything, max_size=4), max_size=12))
def test_well_formed_msgpack_of_wrong_shape_is_a_wire_error(value: Any) -> None:
    check_frame(msgpack.packb(value))


@given(messages, st.data())
def test_a_damaged_frame_is_a_message_or_a_wire_error(message: Message, data: st.DataObject) -> None:
    frame = bytearray(encode(message))
    for _ in range(data.draw(st.integers(1, 3))):
        frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    check_frame(bytes(frame))
    check_frame(bytes(frame[: data.draw(st.integers(0, len(frame)))]))


@given(messages, st.data())
def test_a_message_with_one_other_value_is_a_message_or_a_wire_error(message: Message, data: st.DataObject) -> None:
    """Deep in it, too: what stands there is replaced by anything that msgpack can say."""
    value: list[Any] = msgpack.unpackb(encode(message), strict_map_key=False)
    place, part = [], value
    while isinstance(part, list | dict) and part:
        place = [*place, data.draw(st.sampled_from(list(part) if isinstance(part, dict) else range(len(part))))]
        holder, part = part, part[place[-1]]
        if data.draw(st.booleans()):
            break
    odd = anything | st.lists(anything, max_size=3) | st.dictionaries(anything, anything, max_size=2)
    odd |= st.sampled_from([math.nan, math.inf, -math.inf, msgpack.ExtType(5, b"x"), msgpack.Timestamp(1)])
    holder[place[-1]] = data.draw(odd)
    check_frame(msgpack.packb(value))


class Case(NamedTuple):
    name: str
    frame: list[Any]


@pytest.mark.parametrize(
    "case",
    [
        Case("no message", []),
        Case("unknown tag", [99]),
        Case("tag of another type", ["5", INC]),
        Case("unhashable tag", [[5], INC]),
        Case("text for bytes", [5, "inc"]),
        Case("bytes for text", [14, 1, b"x", "cpu"]),
        Case("bool for int", [7, True]),
        Case("float for int", [7, 1.0]),
        Case("None for int", [7, None]),
        Case("int for list", [1, 1, INC, 1, 7]),
        Case("short tuple inside", [1, 1, INC, 1, [[1]]]),
        Case("text among ids", [97, 0, [[1, 1, 0, ["a"]]]]),
        Case("float among ids", [97, 0, [[1, 1, 0, [1.5]]]]),
        Case("huge id", [97, 0, [[1, 1, 0, [2**64 - 1]]]]),
        Case("map with a wrong key", [4, INC, "ready", 0, 0, [], {1: 1}]),
        Case("map with a wrong value", [4, INC, "ready", 0, 0, [], {"a": "b"}]),
        Case("short incarnation", [5, b"1234567"]),
        Case("negative job", [7, -1]),
        Case("capacity of nobody", [2, 1, INC, 1, "ready", "ipc://x", 2**63, None, []]),
        Case("no capacity", [2, 1, INC, 1, "ready", "ipc://x", 0, None, []]),
        Case("NaN for a temperature", [64, INC, 1, 1, "generate", b"", b"", [9, 0, math.nan]]),
        Case("endless temperature", [64, INC, 1, 1, "generate", b"", b"", [9, 0, math.inf]]),
        Case("negative temperature", [64, INC, 1, 1, "generate", b"", b"", [9, 0, -0.5]]),
        Case("more than a share", [64, INC, 1, 1, "generate", b"", b"", [9, 0, 1, 0, 1.5]]),
        Case("half a token id", [64, INC, 1, 1, "generate", b"12", b"", [9]]),
        Case("negative id", [97, 0, [[1, 1, 0, [-1]]]]),
        Case("an id of 33 bits", [97, 0, [[1, 1, 0, [2**32]]]]),
        Case("logprobs of a wrong shape", [97, 0, [[1, 1, 0, [1], {"logprobs": [[1.0]]}]]]),
        Case("NaN among logprobs", [97, 0, [[1, 1, 0, [1], {"logprobs": [[1.0, [1], [math.nan]]]}]]]),
        Case("an object of msgpack's own", [82, 1, "", {"a": msgpack.ExtType(1, b"")}]),
        Case("a time", [82, 1, "", {"a": msgpack.Timestamp(1)}]),
        Case("NaN among what JSON can say", [82, 1, "", {"a": [math.nan]}]),
        Case("key of a map that is none of JSON's", [82, 1, "", {"a": {1: 2}}]),
    ],
    ids=lambda case: case.name,
)
def test_strictness(case: Case) -> None:
    with pytest.raises(WireError):
        decode(msgpack.packb(case.frame))


ODD: list[Any] = [
    *(None, True, 7, 1.5, "a", b"a", {}, {1: 2}, {"a": 1}),
    *([], [7], [None], [True], [1.5], [2**64 - 1], ["stop"]),
]


@pytest.mark.parametrize("delta", [Delta(3, 1, 5, [7], {}, None), Delta(3, 1, 5, [7, 8], {"a": 1}, Finish("stop"))])
def test_a_delta_is_checked_as_its_annotations_say(delta: Delta) -> None:
    """Though most take a quicker way: whole, cut, longer, and with one field that is something else."""
    whole = msgpack.unpackb(msgpack.packb([*delta, 1]))
    for length, place, put in product(range(8), range(7), ODD):
        fields: list[Any] = whole[:length]
        if place < len(fields):
            fields[place] = put
        frame = msgpack.packb([TAG_OF[Tokens], 0, [fields]])
        try:
            wanted = check_tuple(Delta)(fields)
        except (TypeError, ValueError, OverflowError):
            with pytest.raises(WireError):
                decode(frame)
        else:
            message = decode(frame)
            assert isinstance(message, Tokens)
            assert message.deltas == [wanted]
            assert [type(part) for part in message.deltas[0]] == [type(part) for part in wanted]


def test_an_int_may_stand_for_a_float() -> None:
    params = list(Params(1))
    params[2] = 1
    start = decode(msgpack.packb([64, INC, 1, 1, "generate", b"", b"", params]))
    assert isinstance(start, wire.Start)
    assert type(start.params.temperature) is float


def test_deep_nesting_is_a_wire_error() -> None:
    for depth in (500, 1_000, 1_020, 100_000):
        with pytest.raises(WireError):
            decode(b"\x91" * depth + b"\x01")
        with pytest.raises(WireError):  # whole, and followed by a byte too many
            decode(b"\x91" * depth + b"\x01\x00")
        with pytest.raises(WireError):  # where anything may stand
            decode(b"\x94\x52\x01\xa0\x81\xa1a" + b"\x91" * depth + b"\x01")


def test_half_a_surrogate_pair_cannot_travel() -> None:
    with pytest.raises(WireError):
        encode(wire.Refused("\ud800"))
    with pytest.raises(WireError):
        decode(b"\x92\x28\xa3\xed\xa0\x80")


def test_a_length_that_lies_is_a_wire_error() -> None:
    claims_many = b"\xdd\x00\x01\xff\xff" * 400
    for lie in (
        claims_many,
        claims_many + bytes(1 << 20),
        b"\xdd\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\x92\x05\xc6\x7f\xff\xff\xff",
    ):
        with pytest.raises(WireError):
            decode(lie)


def test_oversized_frames_are_refused_on_both_sides() -> None:
    with pytest.raises(WireError, match="over the limit"):
        encode(wire.Refused("x" * MAX_MESSAGE_BYTES))
    with pytest.raises(WireError, match="over the limit"):
        decode(bytes(MAX_MESSAGE_BYTES + 1))
    largest = wire.Refused("x" * (MAX_MESSAGE_BYTES - 7))
    assert len(encode(largest)) == MAX_MESSAGE_BYTES
    assert decode(encode(largest)) == largest


def test_no_two_messages_share_a_tag_and_every_one_has_one() -> None:
    assert len(TAG_OF) == len(TAGS)
    assert set(TAG_OF) == set(Message.__args__)


@given(st.lists(st.integers(0, 2**32 - 1)))
def test_ids_survive_packing(ids: list[int]) -> None:
    packed = pack_ids(ids)
    assert packed == b"".join(one.to_bytes(4, "little") for one in ids)
    assert unpack_ids(packed) == ids


def test_bad_packed_ids_are_a_wire_error() -> None:
    with pytest.raises(WireError):
        unpack_ids(b"123")


def test_some_frames_are_what_the_document_says() -> None:
    """Bytes written by hand from docs/protocol.md."""
    assert encode(Lost(3, 1, 0)) == b"\x94\x26\x03\x01\x00"
    assert decode(b"\x94\x26\x03\x01\x00") == Lost(3, 1, 0)
    delta = Delta(3, 1, 0, [5, 6], {}, Finish("stop"))
    assert encode(Tokens(7, [delta])) == (b"\x93\x61\x07\x91\x96\x03\x01\x00\x92\x05\x06\x80\x94\xa4stop\xa0\xa0\xc0")
