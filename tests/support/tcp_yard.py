"""A pool of real processes that meet over tcp and CURVE only, as if each role were on a box of its own.

Fronts reach workers through proxies, which a test can cut like a cable.
"""

import shutil
import socket
import subprocess
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import zmq
from yard import Yard, free_port

from tokenyard.broker.endpoints import BrokerAddress
from tokenyard.broker.wire import Status
from tokenyard.scripts.broker_peer import BrokerPeer
from tokenyard.scripts.control import ask
from tokenyard.scripts.pool_keys import make_keys

BOXES = {"worker": "box2", "front": "box3"}


class Proxy:
    """Passes on what comes to `port`, to another one, until it is cut or stopped."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._ends: list[socket.socket] = []
        self._is_cut = False
        self._is_open = threading.Event()
        self._is_open.set()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """End all connections; new ones end at once."""
        self._is_cut = True
        for end in self._ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self._ends.clear()

    def stop(self) -> None:
        """Let nothing through, and tell nobody: a cable that is pulled."""
        self._is_open.clear()

    def mend(self) -> None:
        self._is_cut = False
        self._is_open.set()

    def close(self) -> None:
        self.cut()
        self._is_open.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                caller, _ = self._listener.accept()
                if self._is_cut:
                    caller.close()
                    continue
                called = socket.create_connection(("127.0.0.1", self._target))
            except ConnectionRefusedError:
                caller.close()
                continue
            except OSError:
                return
            self._ends += [caller, called]
            for source, sink in ((caller, called), (called, caller)):
                threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with source, suppress(OSError):
            while part := source.recv(1 << 16):
                self._is_open.wait()
                sink.sendall(part)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)


class TcpYard(Yard):
    """`keys` is the broker's folder, `folder(role)` another box's."""

    def __init__(self, **given: Any) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="tcp-yard-"))
        self.keys = self._folder / "keys"
        make_keys(self.keys, list(BOXES.values()))
        port = free_port()
        self.broker_bind = f"tcp://127.0.0.1:{port}"
        self.to_broker = Proxy(port)
        """Of workers and fronts."""
        self.broker_endpoint = f"tcp://127.0.0.1:{self.to_broker.port}"
        self.proxies: list[Proxy] = []
        """Of the workers, in their order."""
        super().__init__(**given)

    def folder(self, role: str) -> Path:
        return self.keys / "for" / BOXES[role]

    def place(self, role: str) -> Path:
        return self.run_dir if role == "broker" else self.run_dir / role

    def start(self, *arguments: str) -> "subprocess.Popen[bytes]":
        role = arguments[0]
        if role == "broker":
            return super().start(*arguments, "--bind", self.broker_bind, "--keys", str(self.keys))
        keys = () if "--keys" in arguments else ("--keys", str(self.folder(role)))
        return super().start(*arguments, "--broker", self.broker_endpoint, *keys)

    def start_worker(self, *arguments: str) -> "subprocess.Popen[bytes]":
        port = free_port()
        self.proxies.append(Proxy(port))
        bind = ("--bind", f"tcp://127.0.0.1:{port}", "--advertise", f"127.0.0.1:{self.proxies[-1].port}")
        return super().start_worker(*bind, *arguments)

    def worker_log(self) -> bytes:
        """What all workers have said so far."""
        return b"".join(path.read_bytes() for path in self._logs if path.name.endswith("-worker.log"))

    def status(self) -> dict[str, Any]:
        with zmq.Context() as context:
            broker = BrokerPeer(context, BrokerAddress.of(self.run_dir, self.broker_bind, self.keys))
            try:
                return ask(broker, Status, 1)
            finally:
                broker.close()

    def close(self) -> None:
        super().close()
        for proxy in (self.to_broker, *self.proxies):
            proxy.close()
        shutil.rmtree(self._folder, ignore_errors=True)
