"""How each kind of socket is set up, wherever it is used: limits, time-outs, CURVE. docs/protocol.md says why."""

import errno
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import zmq

from tokenyard.broker.config import (
    HANDSHAKE_MS,
    HEARTBEAT_MS,
    HEARTBEAT_TIMEOUT_MS,
    INBOUND_HWM,
    MAX_FRAMES,
    MAX_IPC_PATH,
    MAX_MESSAGE_BYTES,
    MAX_UPWARD_BYTES,
    RECONNECT_MAX_MS,
    RECONNECT_MS,
    ROUTER_HWM,
    TCP_RECONNECT_MS,
    TOKENS_HWM,
    TURN_S,
)
from tokenyard.broker.curve import Keys
from tokenyard.broker.endpoints import parse_tcp, refuse_plain
from tokenyard.broker.errors import SetupError, WireError

Context = zmq.Context["zmq.Socket[bytes]"]
Socket = zmq.Socket[bytes]

ZAP_DOMAIN = b"tokenyard"
"""Must not be empty: only with a domain does libzmq refuse everybody where nobody answers for it."""
TOKEN_PLANE = (zmq.XPUB, zmq.XSUB)

T = TypeVar("T")


def dial(context: Context, kind: int, endpoint: str, keys: Keys | None = None, server_key: str = "") -> Socket:
    """A socket that connects; `server_key` is the public key of who listens there, empty where that is none.

    Raises SetupError where that may not or cannot be: endpoint and key may come from a peer.
    """
    if server_key and keys is None:
        raise SetupError(f"{endpoint} asks for keys: give --keys DIR (`tokenyard keys` makes them)")
    refuse_plain(endpoint, bool(server_key))
    socket = _make(context, kind, endpoint)
    socket.reconnect_ivl = RECONNECT_MS if endpoint.startswith("ipc://") else TCP_RECONNECT_MS
    socket.reconnect_ivl_max = RECONNECT_MAX_MS
    if kind == zmq.DEALER:
        # Nothing may pile up for a dead broker and greet the next one.
        socket.immediate = True
    try:
        if server_key and keys:
            socket.curve_publickey, socket.curve_secretkey = keys.public.encode(), keys.secret
            socket.curve_serverkey = server_key.encode()
        socket.connect(endpoint)
    except zmq.ZMQError as error:
        socket.close()
        raise SetupError(f"cannot connect to {endpoint[:MAX_IPC_PATH]}: {zmq.strerror(error.errno or 0)}") from error
    return socket


def listen(context: Context, kind: int, endpoint: str, keys: Keys | None = None) -> Socket:
    """A socket that is bound: on tcp over CURVE where there are keys, and a Doorman must answer for it before.

    Raises SetupError.
    """
    is_local = endpoint.startswith("ipc://")
    choices = [endpoint] if is_local else parse_tcp(endpoint, "--bind", may_be_open=True).choices()
    refuse_plain(endpoint, keys is not None)
    socket = _make(context, kind, endpoint)
    if kind == zmq.ROUTER:
        socket.router_mandatory = True
    if kind == zmq.XPUB:
        # A front that reconnects repeats its topic, and only this makes the repetition visible.
        socket.setsockopt(zmq.XPUB_VERBOSER, 1)
    if keys is not None and not is_local:
        socket.curve_server = True
        socket.curve_secretkey = keys.secret
        socket.zap_domain = ZAP_DOMAIN
        socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
    _bind(socket, choices)
    if is_local:
        Path(endpoint.removeprefix("ipc://")).chmod(0o600)
    return socket


def waiting(receive: Callable[[int], T]) -> Iterator[T]:
    """What has come to a socket, as much as a turn may take: a flood must leave others and the clock theirs.

    `receive`: the socket's own, which is called with NOBLOCK.
    """
    ends_s = time.monotonic() + TURN_S
    for _ in range(MAX_FRAMES):
        try:
            one = receive(zmq.NOBLOCK)
        except zmq.Again:
            return
        yield one
        if time.monotonic() >= ends_s:
            return


def sender_pid(frame: zmq.Frame) -> int:
    """On ipc, as the kernel gives it; 0 where it gives none. Raises WireError where it is another user's process.

    A pid that the peer claims itself is not used: in another pid namespace it would name someone else.
    """
    try:
        _, uid, _, pid = str(frame.get("Peer-Address")).split(":")
        known_uid, known_pid = int(uid), int(pid)
    except (zmq.ZMQError, ValueError):  # no address of IPv6 has four parts that are all numbers
        return 0
    if known_uid != os.getuid():
        raise WireError("another user's process", "user")
    return known_pid


def _make(context: Context, kind: int, endpoint: str) -> Socket:
    try:
        socket = context.socket(kind)
    except zmq.ZMQError as error:  # no more files may be open, say
        raise SetupError(f"no socket can be made: {zmq.strerror(error.errno or 0)}") from error
    socket.linger = 0
    socket.sndhwm = socket.rcvhwm = TOKENS_HWM if kind in TOKEN_PLANE else ROUTER_HWM
    if kind in (zmq.ROUTER, zmq.XPUB):
        socket.rcvhwm = INBOUND_HWM
    socket.maxmsgsize = MAX_UPWARD_BYTES if kind == zmq.XPUB else MAX_MESSAGE_BYTES
    if endpoint.startswith("tcp://"):
        # A connection that a cable or a firewall cut says nothing. On ipc, heartbeats would only create loss.
        socket.heartbeat_ivl, socket.heartbeat_timeout = HEARTBEAT_MS, HEARTBEAT_TIMEOUT_MS
        socket.handshake_ivl = HANDSHAKE_MS
        socket.ipv6 = "[" in endpoint
    return socket


def _bind(socket: Socket, choices: list[str]) -> None:
    """To the first that is free."""
    for choice in choices:
        try:
            socket.bind(choice)
            return
        except zmq.ZMQError as error:
            if error.errno != errno.EADDRINUSE:
                socket.close()
                raise SetupError(f"cannot listen on {choice}: {error.strerror}; choose another --bind") from error
    socket.close()
    raise SetupError(f"cannot listen on {choices[0]}: it is taken; choose another --bind")
