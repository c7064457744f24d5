"""A stranger between a broker and its peers: passes on all that they say, and says to the peers what no broker does."""

import contextlib
import shutil
import tempfile
import threading
from collections import deque
from pathlib import Path
from typing import Any, get_args

import zmq
from contract import values
from hypothesis import strategies as st
from intruder import DAMAGES, LIKELY, SECRETS, damaged, leaves_for
from yard import Yard, wait_until

from tokenyard.broker.codec import decode, encode
from tokenyard.broker.config import RunDir
from tokenyard.broker.errors import WireError
from tokenyard.broker.sockets import listen, waiting
from tokenyard.broker.wire import (
    TAGS,
    Abort,
    AgentHello,
    BrokerToAgent,
    BrokerToFront,
    BrokerToWorker,
    Dismiss,
    Drain,
    FrontHello,
    Kill,
    LoadAdapter,
    Message,
    Refused,
    Retire,
    Spawn,
    Start,
    Welcome,
    WorkerDown,
    WorkerHello,
)

ROLES = {FrontHello: "front", WorkerHello: "worker", AgentHello: "agent"}
FITTING: dict[str, tuple[type[Any], ...]] = {
    "front": get_args(BrokerToFront),
    "worker": get_args(BrokerToWorker),
    "agent": get_args(BrokerToAgent),
}
FLEET = '[[worker]]\nmodel = "demo"\ndevice = "cpu"\nthreads = 1\n'
LEAST_JOB = 1 << 31
"""Jobs from here on are of nobody here, and so are all posts."""


def is_harmless(frame: bytes, victims: list[bytes]) -> bool:
    """Whether a broker that says so ends nothing that lives here, and has no model loaded: else it must be obeyed."""
    try:
        message = decode(frame)
    except WireError:
        return True
    match message:
        case Drain() | Refused() | Welcome():
            return False
        case Kill(inc) | Retire(inc) | WorkerDown(inc):
            return inc not in victims
        case Start(front) | Abort(front):
            return front not in victims
        case Dismiss(number):
            return number >= LEAST_JOB
        case Spawn(_, _, device):
            return device not in ("", "cpu")
        case LoadAdapter(adapter):
            return adapter.source == "/nowhere"
    return getattr(message, "job", LEAST_JOB) >= LEAST_JOB


def words(model: str, victims: list[bytes]) -> st.SearchStrategy[tuple[str, list[bytes]]]:
    """What is said, and to which role: half of it such as that role hears."""
    leaves = leaves_for(model, [*SECRETS, *victims])
    of_kind = {kind: values(kind, leaves) for kind in TAGS.values() if kind not in (Drain, Refused, Welcome)}
    jobs = st.sampled_from([LEAST_JOB, 2**63 - 1])
    likely = LIKELY | {"job": jobs, "model": st.sampled_from([model, "intruder", ""])}

    @st.composite
    def word(draw: st.DrawFn) -> tuple[str, list[bytes]]:
        role = draw(st.sampled_from(sorted(FITTING)))
        kinds = FITTING[role] if draw(st.booleans()) else list(of_kind)
        message = draw(of_kind[draw(st.sampled_from([kind for kind in kinds if kind in of_kind]))])
        message = message._replace(**{name: draw(likely[name]) for name in message._fields if name in likely})
        frames = damaged(draw, encode(message), draw(st.sampled_from(DAMAGES)))
        return role, [frame if is_harmless(frame, victims) else b"" for frame in frames]

    return word()


class Meddler(threading.Thread):
    """Where the broker's peers think that it is, and a line of its own to it for each of them."""

    def __init__(self, here: RunDir, broker: RunDir) -> None:
        super().__init__(daemon=True)
        self._context = zmq.Context()
        places = ((here.front_endpoint, broker.front_endpoint), (here.work_endpoint, broker.work_endpoint))
        self._routers = {listen(self._context, zmq.ROUTER, mine): its for mine, its in places}
        self._lines: dict[tuple[Any, bytes], Any] = {}
        self._peers: dict[str, tuple[Any, bytes]] = {}
        self._told: deque[tuple[str, list[bytes]]] = deque()
        self._ends = False

    def say(self, role: str, frames: list[bytes]) -> None:
        """To the peer of this role that came last."""
        self._told.append((role, frames))

    def heard_all(self) -> bool:
        return not self._told

    def run(self) -> None:
        poller = zmq.Poller()
        for router in self._routers:
            poller.register(router, zmq.POLLIN)
        while not self._ends:
            poller.poll(2)
            for router, endpoint in self._routers.items():
                for peer, *frames in waiting(router.recv_multipart):
                    if (line := self._lines.get((router, peer))) is None:
                        line = self._lines[router, peer] = self._context.socket(zmq.DEALER)
                        line.connect(endpoint)
                        poller.register(line, zmq.POLLIN)
                    line.send_multipart(frames)
                    if (role := _role_of(frames[0])) is not None:
                        self._peers[role] = router, peer
            for (router, peer), line in self._lines.items():
                for frames in waiting(line.recv_multipart):
                    _pass_on(router, [peer, *frames])
            while self._told:
                role, frames = self._told.popleft()
                router, peer = self._peers[role]
                _pass_on(router, [peer, *frames])
        self._context.destroy(linger=0)

    def end(self) -> None:
        self._ends = True
        self.join()


def _pass_on(router: Any, frames: list[bytes]) -> None:
    with contextlib.suppress(zmq.ZMQError):  # it has gone
        router.send_multipart(frames, zmq.NOBLOCK)


def _role_of(frame: bytes) -> str | None:
    message: Message = decode(frame)
    return ROLES.get(type(message))


class MeddledYard(Yard):
    """A broker, a front, an agent with one worker, and a meddler between them."""

    def __init__(self) -> None:
        self._inner = Path(tempfile.mkdtemp(prefix="meddled-"))
        super().__init__(num_workers=0)
        try:
            self.meddler = Meddler(RunDir(self.run_dir), RunDir(self._inner))
            self.meddler.start()
            (self.run_dir / "fleet.toml").write_text(FLEET)
            self.agent = self.start("agent", "--config", str(self.run_dir / "fleet.toml"))
            wait_until(lambda: self.pool().get("workers"), "a worker")
        except BaseException:
            self.close()
            raise

    def place(self, role: str) -> Path:
        return self._inner if role == "broker" else self.run_dir

    def close(self) -> None:
        self.agent.kill()
        self.agent.wait()
        super().close()
        self.meddler.end()
        shutil.rmtree(self._inner)
