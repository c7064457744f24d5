"""Where processes find each other, and the timers that both ends of a link must agree on.

Every number says where it comes from; docs/protocol.md has the table.
"""

import fcntl
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from tokenyard.broker.errors import SetupError

BEAT_S = 0.5
"""Between two beats of a process: eight may go missing before SILENCE_S."""
SILENCE_S = 4.0
"""A peer silent for so long is dead: over twice the longest stop that the prototype saw harmless (1.5 s)."""
GRACE_S = 1.0
"""A new broker waits so long for hellos before it calls a claimed job lost: 100 reconnect tries at 10 ms."""
SUBMIT_REPEAT_S = 0.3
"""A submit is repeated so often until it is accepted."""
UNSUBSCRIBED_S = 3.0
"""A front whose subscription is away for so long has its sequences freed."""
EXIT_WAIT_S = 0.02
"""The broker waits so long for the agent's word on why a worker has died; SIGCHLD reaches the agent in under 1 ms."""

WINDOW = 1024
"""Batches in flight past the last ack on a link: below any high-water mark, above 10 s of steps at 100 steps/s."""
TOKENS_HWM = 4 * WINDOW
"""Of a worker's socket towards one front, as of that front's: no honest one ever has more than a window there. What is
dropped above it is asked for again."""
INBOUND_HWM = 16
"""Of one connection's frames to a broker or up to a worker, which may have 4 MiB each: 10,000 took 2.7 GB in 6 s. An
XPUB moves all that it finds to a queue without end: with 4,096, a flood grew it by 12 MB/s. The rest waits with who
sends it, and costs the listener 0.4 µs more a frame."""
RING_BYTES = 16 << 20
"""Sent and unsent batches kept for one front by one worker: 1,000 batches of 256 deltas at 60 bytes."""
ACK_BATCHES = 64
ACK_S = 0.05
RESUME_S = 0.05
"""An ack goes out every 64 batches or 50 ms; a Resume at most every 50 ms (prototype's figures)."""
PAUSE_S = 2.0
"""A paused sequence runs again after so long without another word: four repeats, one a beat, may go missing."""

MAX_MESSAGE_BYTES = 4 << 20
MAX_UPWARD_BYTES = 1 << 9
"""On the token plane: a Pause, the largest, has 60; what CURVE says in its handshake has up to 300."""
MAX_TOPIC_BYTES = 1 << 18
"""That a worker is told before all connections must end: some 4,000 connections of fronts. libzmq keeps a topic for as
long as its sender stays, in 50 times its bytes, and can end none of them alone."""
MAX_FRAMES = 256
TURN_S = 0.02
"""Taken from one socket before others and the clock get their turn: so many frames are about 10 ms of the broker's
work, but a few of 4 MiB may be as much."""
MAX_FINISH_BYTES = 1 << 20
"""A delta's extra map is split over several deltas above this size."""
ROUTER_HWM = 10_000
"""Of what waits to be sent: finite, and above 1,000 streams × 3 messages."""
RECONNECT_MS = 10
RECONNECT_MAX_MS = 200
TCP_RECONNECT_MS = 100
"""Who fails in the handshake comes again at this pace: 5 to 10 handshakes a second, each 0.1 ms of the broker's."""
HANDSHAKE_MS = 3000
"""On tcp a handshake takes five round trips: at most half of this between continents."""
HEARTBEAT_MS = 5000
HEARTBEAT_TIMEOUT_MS = 15_000
"""On tcp only, and slow: a front stopped for 1.5 s lost 7,500 of 20,000 messages to quick ones (prototype)."""
ALLOW_S = 1.0
"""Between two looks at the list of keys that may come in."""

MAX_IPC_PATH = 107
"""sun_path holds 108 bytes with its closing zero (unix(7))."""


@dataclass(frozen=True, slots=True)
class RunDir:
    """The directory that holds one pool's sockets and state: mode 0700, owned by us."""

    path: Path

    @property
    def front_endpoint(self) -> str:
        return f"ipc://{self.path}/front.sock"

    @property
    def work_endpoint(self) -> str:
        return f"ipc://{self.path}/work.sock"

    def tokens_endpoint(self, inc: bytes) -> str:
        """Where the worker of this incarnation binds its XPUB."""
        return f"ipc://{self.path}/w-{inc.hex()}.sock"

    def create(self) -> "RunDir":
        """Make the directory, or check one that exists. Raises SetupError with what to change."""
        if len(self.tokens_endpoint(bytes(8)).removeprefix("ipc://")) > MAX_IPC_PATH:
            raise SetupError(f"--run-dir {self.path}: the path is too long for a unix socket; choose a shorter one")
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise SetupError(f"--run-dir {self.path}: {error.strerror}") from error
        info = self.path.stat()
        if info.st_uid != os.getuid():
            raise SetupError(f"--run-dir {self.path} belongs to another user (uid {info.st_uid})")
        if stat.S_IMODE(info.st_mode) & 0o077:
            raise SetupError(f"--run-dir {self.path} is open to others; chmod 700 it, or choose another")
        return self

    def lock(self, name: str) -> int:
        """Take an exclusive lock for the life of this process and return its descriptor.

        A second bind on a live ipc path succeeds and hijacks it (measured), so whoever binds holds a lock first.
        """
        try:
            descriptor = os.open(self.path / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            raise SetupError(f"--run-dir {self.path}: another {name} is running there") from error
        except OSError as error:
            raise SetupError(f"--run-dir {self.path}: {error.strerror}") from error
        return descriptor


def default_run_dir() -> Path:
    """`$TOKENYARD_RUN_DIR`, else one under `$XDG_RUNTIME_DIR`, else one per user under /tmp."""
    if given := os.environ.get("TOKENYARD_RUN_DIR"):
        return Path(given)
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        return Path(runtime) / "tokenyard"
    return Path(f"/tmp/tokenyard-{os.getuid()}")


def cache_dir() -> Path:
    """Where what is found out once is kept: `$TOKENYARD_CACHE_DIR`, else tokenyard's own folder in the user's cache."""
    if given := os.environ.get("TOKENYARD_CACHE_DIR"):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tokenyard"
