"""Callers at a pool's tcp doors who should not be there."""

from pathlib import Path

import zmq

from tokenyard.broker.curve import Keys, read_keys
from tokenyard.scripts.pool_keys import make_keys


def callers(folder: Path, server_key: str, context: "zmq.Context[zmq.Socket[bytes]]", kind: int, endpoint: str) -> (
    "dict[str, zmq.Socket[bytes]]"
):  # fmt: skip
    """Sockets that call `endpoint` by kind of stranger; `folder`: for the keys of another pool."""
    make_keys(folder, [])
    foreign = read_keys(folder)
    return {
        "without a key": _call(context, kind, endpoint, None, ""),
        "with a key that is not in the list": _call(context, kind, endpoint, foreign, server_key),
        "with another server's key": _call(context, kind, endpoint, foreign, foreign.broker),
    }


def _call(
    context: "zmq.Context[zmq.Socket[bytes]]", kind: int, endpoint: str, keys: Keys | None, server_key: str
) -> "zmq.Socket[bytes]":
    socket = context.socket(kind)
    socket.linger = 0
    socket.reconnect_ivl = 10
    if keys:
        socket.curve_publickey, socket.curve_secretkey = keys.public.encode(), keys.secret
        socket.curve_serverkey = server_key.encode()
    socket.connect(endpoint)
    return socket
