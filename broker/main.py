"""The broker's process: its ROUTERs, a pidfd for each local peer, and a loop that performs what the core decides.

Decisions belong to core.py. The loop handles what has arrived before it hears of deaths, so that a Done outruns the
exit that follows it.
"""

import argparse
import gc
import logging
import os
import secrets
import select
import signal
import socket as sockets
import sys
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import zmq

from tokenyard.broker import logs
from tokenyard.broker.codec import decode, encode
from tokenyard.broker.config import GRACE_S, RunDir, default_run_dir
from tokenyard.broker.core import LOAD_TIMEOUT_S, QUEUE_LIMIT, Actions, Core
from tokenyard.broker.curve import read_keys
from tokenyard.broker.errors import SetupError, WireError
from tokenyard.broker.room import DEFAULT_POLICY, Policy
from tokenyard.broker.sockets import Socket, listen, sender_pid, waiting
from tokenyard.broker.tcp_peers import BANNED, TcpPeers
from tokenyard.broker.wire import INC_BYTES, Adapter, AgentHello, FrontHello, Message, Refused, WorkerHello

COMPLAIN_S = 1.0
"""Between two log lines about bad frames: a flood of them must not become a flood of lines."""

ABSENT = "workers-on-tcp"
"""A file of the run directory."""
NOTE_S = 0.5
"""Between two looks at whether it is still true."""
MANY_ACTIONS = 32
"""Sent at once, of 16 jobs: each message alone would wake libzmq's thread, which took a third of 500 jobs' time that
came together as a worker had died (measured); all of them at the end would let workers wait."""
FIRST_PART = int(zmq.NOBLOCK | zmq.SNDMORE)
"""Put together once: pyzmq's flags, its `send_multipart` and `rcvmore` took a tenth of a job's time (measured)."""
TCP = b"t"
"""The letter of the socket on tcp, by which all roles come: `--broker` and firewalls need know one port."""

log = logging.getLogger("broker")


@dataclass(frozen=True, slots=True)
class BrokerOptions:
    run_dir: Path
    queue_limit: int = QUEUE_LIMIT
    load_timeout_s: float = LOAD_TIMEOUT_S
    policy: Policy = DEFAULT_POLICY
    adapters: tuple[Adapter, ...] = ()
    """LoRA adapters that are there from the start."""
    bind: str | None = None
    """Its endpoint on tcp, beside the run directory's sockets."""
    keys: Path | None = None
    """The folder of this box's keys; without, `bind` must be on loopback."""
    log_level: str = "INFO"


def run(options: BrokerOptions) -> None:
    """Be the broker of this run directory until SIGTERM or SIGINT. Raises SetupError where it cannot start."""
    logs.setup("broker", options.log_level)
    # With a large pool in memory a collection takes half a second, and no event of the core leaves a cycle (tested).
    gc.disable()
    run_dir = RunDir(options.run_dir).create()
    run_dir.lock("broker")
    broker = Broker(run_dir, options)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: broker.end())
    try:
        broker.serve()
        log.info("told to end")
    finally:
        broker.close()


class Broker:
    """Names a peer by its socket's letter and its routing id: two ROUTERs may give out the same id."""

    def __init__(self, run_dir: RunDir, options: BrokerOptions) -> None:
        self._ending = False
        self._context = zmq.Context()
        self._sockets = {
            b"f": listen(self._context, zmq.ROUTER, run_dir.front_endpoint),
            b"w": listen(self._context, zmq.ROUTER, run_dir.work_endpoint),
        }
        self._tcp: TcpPeers | None = None
        awaited = living_workers(run_dir)
        if options.bind is not None:
            self._tcp = TcpPeers(self._context, options.bind, read_keys(options.keys) if options.keys else None)
            self._sockets[TCP] = self._tcp.socket
            log.info("listening on %s%s", self._tcp.endpoint, "" if options.keys else ", in the clear")
            awaited += read_absent(run_dir)
        self._core = Core(
            secrets.token_bytes(INC_BYTES),
            time.monotonic(),
            os.getpid(),
            awaited,
            options.queue_limit,
            options.load_timeout_s,
            options.policy,
            options.adapters,
        )
        self._pidfds: dict[bytes, int] = {}
        self._peers: dict[int, bytes] = {}  # pidfd → peer
        self._deaths = select.epoll()  # of pidfds, so that one poll's cost does not grow with the peers
        self._poller = zmq.Poller()
        sources = self._tcp.sources if self._tcp else []
        for source in (*self._sockets.values(), *sources, self._deaths.fileno()):
            self._poller.register(source, zmq.POLLIN)
        self._complaints = logs.Complaints(log, COMPLAIN_S)
        self._run_dir = run_dir
        self._note_s = time.monotonic() + GRACE_S  # before, not all have had their say
        self._noted: list[bytes] | None = None
        """What the next broker would read."""

    def serve(self) -> None:
        """The loop, until told to end: wait, take what came, hear of deaths, look at the clock."""
        while not self._ending:
            wait_s = max(0.0, self._core.next_tick_s - time.monotonic())
            ready = dict(self._poller.poll(1 + int(1000 * wait_s)))
            for letter, socket in self._sockets.items():
                if socket in ready:
                    self._receive(letter, socket)
            if self._deaths.fileno() in ready:
                self._reap()
            if self._tcp is not None:
                self._tend(self._tcp)
            self._perform(self._core.tick(time.monotonic()))

    def end(self) -> None:
        """Leave the loop within a sweep. No exception does that safely: one out of a signal may end in pyzmq."""
        self._ending = True

    def close(self) -> None:
        for peer in list(self._pidfds):
            self._unwatch(peer)
        self._deaths.close()
        self._context.destroy(linger=0)

    def _receive(self, letter: bytes, socket: Socket) -> None:
        """Take some of what waits on one socket, and send what that leads to."""
        actions: Actions = []
        for routing_id in waiting(socket.recv):
            peer = letter + routing_id
            frame = None
            if peer in self._pidfds or (self._tcp and peer in self._tcp):
                body = socket.recv()
            else:
                frame = socket.recv(copy=False)
                body = frame.bytes
            now = time.monotonic()
            try:
                while socket.get(zmq.RCVMORE):
                    socket.recv()
                    body = b""
                message = decode(body)
                self._check(peer, frame, message)
            except WireError as error:
                self._complaints.say(f"dropped a frame of {peer.hex()}: {error}", now)
                self._core.note_refused(error)
                continue
            actions += self._core.handle(peer, message, now)
            if self._tcp is not None:
                self._tcp.note(peer, message)
            if len(actions) >= MANY_ACTIONS:
                self._perform(actions)
                actions = []
        self._perform(actions)

    def _check(self, peer: bytes, frame: zmq.Frame | None, message: Message) -> None:
        """Raise WireError for what this peer may not say. `frame`: of one that is not watched yet."""
        if peer[:1] == TCP:
            assert self._tcp is not None
            if frame is not None:
                self._tcp.admit(peer, frame)
            self._tcp.check(peer, message)
            return
        pid = sender_pid(frame) if frame is not None else 0
        if pid and isinstance(message, FrontHello | WorkerHello | AgentHello):
            self._watch(peer, pid)

    def _tend(self, tcp: TcpPeers) -> None:
        """Answer at the door, and part from those who have left or may no longer be here."""
        tcp.tend()
        banned = tcp.take_banned()
        self._perform([(peer, Refused(BANNED)) for peer in banned])
        for peer in [*tcp.take_left(), *banned]:
            self._perform(self._core.gone(peer, time.monotonic()))
        self._perform(tcp.news())
        now = time.monotonic()
        if now >= self._note_s:
            self._note_s = now + NOTE_S
            self._noted = note_absent(self._run_dir, self._core.workers_on_tcp(), self._noted)

    def _watch(self, peer: bytes, pid: int) -> None:
        """Hear of the process's end at once. Where that is impossible, a failing send or silence tells."""
        try:
            pidfd = os.pidfd_open(pid)
        except OSError as error:
            log.warning("cannot watch pid %d: %s", pid, error.strerror)
            return
        self._pidfds[peer], self._peers[pidfd] = pidfd, peer
        self._deaths.register(pidfd, select.EPOLLIN)

    def _unwatch(self, peer: bytes) -> None:
        if (pidfd := self._pidfds.pop(peer, None)) is not None:
            del self._peers[pidfd]
            self._deaths.unregister(pidfd)
            os.close(pidfd)

    def _reap(self) -> None:
        for pidfd, _ in self._deaths.poll(0):
            if (peer := self._peers.get(pidfd)) is None:
                continue  # a send to it, for the sake of the one before, has already failed
            self._unwatch(peer)
            self._perform(self._core.gone(peer, time.monotonic()))

    def _perform(self, actions: Actions) -> None:
        """Send all messages, and those that a vanished receiver leads to."""
        pending = deque(actions)
        while pending:
            peer, message = pending.popleft()
            if not self._send(peer, message):
                self._unwatch(peer)
                if self._tcp is not None:
                    self._tcp.drop(peer)
                pending.extend(self._core.gone(peer, time.monotonic()))

    def _send(self, peer: bytes, message: Message) -> bool:
        """Whether the receiver is still there. One that takes nothing more misses messages; each has its repeat."""
        socket = self._sockets[peer[:1]]
        try:
            frame = encode(message)
            socket.send(peer[1:], FIRST_PART)
            socket.send(frame, zmq.NOBLOCK)
        except zmq.Again:
            self._complaints.say(f"{peer.hex()} takes no more messages", time.monotonic())
        except WireError as error:
            self._complaints.say(f"not sent: {error}", time.monotonic())
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            return False
        return True


def read_absent(run_dir: RunDir) -> list[bytes]:
    """Workers on tcp, as the last broker noted them: nothing here shows whether they still live."""
    with suppress(OSError, ValueError):
        return [bytes.fromhex(line) for line in (run_dir.path / ABSENT).read_text().split()]
    return []


def note_absent(run_dir: RunDir, incs: list[bytes], noted: list[bytes] | None) -> list[bytes]:
    """Have the next broker know them, if it does not yet; a disk that is full costs it a wait, and no stream."""
    if incs != noted:
        path = run_dir.path / ABSENT
        with suppress(OSError):
            path.with_suffix(".new").write_text("".join(f"{inc.hex()}\n" for inc in incs))
            path.with_suffix(".new").rename(path)
    return incs


def living_workers(run_dir: RunDir) -> list[bytes]:
    """Incarnations whose token socket still listens: a new broker places nothing until they have spoken.

    The sockets of the dead are removed.
    """
    found = []
    for path in run_dir.path.glob(f"w-{'[0-9a-f]' * 2 * INC_BYTES}.sock"):
        with sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM | sockets.SOCK_NONBLOCK) as probe, suppress(OSError):
            try:
                probe.connect(str(path))
            except ConnectionRefusedError:
                path.unlink()
                continue
            found.append(bytes.fromhex(path.stem.removeprefix("w-")))
    return found


def main() -> None:
    """`python -m tokenyard.broker.main --run-dir DIR`: the broker alone, for tests and fleets."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--run-dir", type=Path, default=default_run_dir())
    parser.add_argument("--queue-limit", type=int, default=QUEUE_LIMIT)
    parser.add_argument("--load-timeout-s", type=float, default=LOAD_TIMEOUT_S)
    parser.add_argument("--bind")
    parser.add_argument("--keys", type=Path)
    try:
        run(BrokerOptions(**vars(parser.parse_args())))
    except SetupError as error:
        sys.exit(f"tokenyard broker: {error}")


if __name__ == "__main__":
    main()
