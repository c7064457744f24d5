"""The client of the relay benchmark: one process that reads many streams at little cost.

    python benchmarks/relay_client.py ORDER

Writes the line `open` once every stream has its headers, `read` after the last byte, and then a Tally; both it and
ORDER are JSON.
"""

import json
import select
import socket
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import relay_stamps
from relay_answer import Answer
from relay_words import MODEL

RECEIVE_BYTES = 1 << 16
"""Below what malloc maps anew for each read; a front that is behind writes 7 kB at once."""
REST_S = 0.0003
"""Between two looks at what has come: were this process woken by every write, its sleeps and wakes would take half a
core from what is measured, and of the front, which wakes it, a sixth. Over a network no front wakes its clients."""
LAGGING_BYTES = 1 << 12
"""Receive buffer of a stream that is not read: small, so that it is the front that has to keep what comes."""
STUCK_S = 30.0
"""Without a byte from anybody for so long, there is no hope."""


class Order(NamedTuple):
    """What to read, and how."""

    port: int
    path: str
    num_streams: int
    num_tokens: int
    """Of each stream. Streams have the seeds from 0 on."""
    at_once: int
    """Requests that may wait for their headers at a time."""
    stamps: str = ""
    """Folder with the times of tokens; none: no latencies."""
    num_lagging: int = 0
    """So many of the last streams are open, but not read before all others have ended."""

    @property
    def num_prompt(self) -> int:
        """Streams that are read as they come."""
        return self.num_streams - self.num_lagging


class Tally(NamedTuple):
    """What came."""

    num_right: int
    """Streams that are whole: every token once, in order, with the end that belongs there."""
    faults: list[str]
    """Of some of the others."""
    num_tokens: int
    """Of those that are right."""
    num_events: int
    """With text."""
    num_writes: int
    """Chunks of HTTP with events, also those without text."""
    wall_s: float
    """From the first text to the last."""
    cpu_s: float
    """Of this process since all streams were open."""
    longest_gap_s: float
    """Of any stream between two reads."""
    latencies_ms: list[float]
    """From the making of a token to its text's arrival here: p50, p99, the longest; of streams that are read."""


def encode(order: Order, seed: int) -> bytes:
    body: dict[str, Any] = {"model": MODEL, "seed": seed, "max_tokens": order.num_tokens, "stream": True}
    body |= {"stream_options": {"include_usage": True}, "ignore_eos": True}
    body |= {"messages": [{"role": "user", "content": "hi"}]} if "chat" in order.path else {"prompt": "hi"}
    content = json.dumps(body).encode()
    head = f"POST {order.path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content


def connect(order: Order, seed: int) -> socket.socket:
    """Send the stream's request."""
    connection = socket.socket()
    if seed >= order.num_prompt:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, LAGGING_BYTES)
    connection.connect(("127.0.0.1", order.port))
    connection.sendall(encode(order, seed))
    connection.setblocking(False)
    return connection


def read(order: Order) -> tuple[list[Answer], float]:
    """All answers, to their ends; and the CPU time since they were open."""
    answers = [Answer(order.path, seed) for seed in range(order.num_streams)]
    sockets: dict[int, tuple[socket.socket, Answer]] = {}
    poller = select.epoll()
    num_sent = num_open = num_done = 0
    began_cpu_s = time.process_time()
    while num_done < order.num_streams:
        while num_sent < order.num_streams and num_sent - num_open < order.at_once:
            connection = connect(order, num_sent)
            sockets[connection.fileno()] = (connection, answers[num_sent])
            poller.register(connection, select.EPOLLIN)
            num_sent += 1
        ready = poller.poll(STUCK_S)
        if not ready:
            break
        for descriptor, _ in ready:
            connection, answer = sockets[descriptor]
            data = connection.recv(RECEIVE_BYTES)
            is_first = not answer.open
            answer.take(data, time.monotonic())
            if is_first:
                num_open += 1
                if num_open == order.num_streams:
                    print("open", flush=True)  # noqa: T201
                    began_cpu_s = time.process_time()
            if answer.done or not data:
                num_done += 1
                poller.unregister(descriptor)
                connection.close()
                del sockets[descriptor]
                if num_done == order.num_prompt:
                    for late in sockets:
                        poller.modify(late, select.EPOLLIN)
            elif answer.seed >= order.num_prompt > num_done:
                poller.modify(descriptor, 0)
        time.sleep(REST_S)
    cpu_s = time.process_time() - began_cpu_s
    print("read", flush=True)  # noqa: T201
    return answers, cpu_s


def latencies_ms(answers: list[Answer], order: Order) -> list[float]:
    """Notes when tokens came, too."""
    folder, shape = Path(order.stamps), (order.num_streams, order.num_tokens)
    made_s, arrived_s = relay_stamps.said(folder, *shape), relay_stamps.arrived(folder, *shape)
    for answer in answers[: order.num_prompt]:
        arrived_s[answer.seed] = answer.arrivals_s(order.num_tokens)
    waits_s = (arrived_s - made_s)[: order.num_prompt]
    return [float(1000 * wait_s) for wait_s in np.quantile(waits_s, [0.5, 0.99, 1])]


def count(answers: list[Answer], cpu_s: float, order: Order) -> Tally:
    faults = [words for answer in answers if (words := answer.fault(order.num_tokens))]
    moments_s = [moment_s for answer in answers for moment_s in answer.texts.times_s] or [0.0]
    return Tally(
        num_right=len(answers) - len(faults),
        faults=faults[:5],
        num_tokens=(len(answers) - len(faults)) * order.num_tokens,
        num_events=sum(answer.num_events for answer in answers),
        num_writes=sum(answer.num_writes for answer in answers),
        wall_s=max(moments_s) - min(moments_s),
        cpu_s=cpu_s,
        longest_gap_s=max(answer.longest_gap_s for answer in answers),
        latencies_ms=latencies_ms(answers, order) if order.stamps and not faults else [],
    )


if __name__ == "__main__":
    given = Order(**json.loads(sys.argv[1]))
    print(json.dumps(count(*read(given), given)._asdict()))  # noqa: T201
