"""One front process: opens the socket, serves the app, drains on SIGTERM."""

import os

# Before transformers is imported: with torch the process takes 249 MB and 2 s more (measured).
os.environ["USE_TORCH"] = "0"

import asyncio
import errno
import logging
import signal
import socket
from ipaddress import ip_address
from types import FrameType

import uvicorn

from tokenyard.broker import logs
from tokenyard.broker.config import RunDir
from tokenyard.broker.endpoints import BrokerAddress
from tokenyard.broker.errors import SetupError
from tokenyard.http.app import create_app
from tokenyard.http.drain import NOTICE_S, Drain
from tokenyard.http.guard import GuardedProtocol
from tokenyard.http.memory import bound_heap, spare_collector
from tokenyard.http.options import FrontOptions
from tokenyard.http.pool import Pool
from tokenyard.http.request_log import name_request

log = logging.getLogger(__name__)

BACKLOG = 2048
"""uvicorn's own default."""
FLUSH_S = 1
"""For clients to take the last bytes of answers that are whole."""
UVICORNS_WORDS = "Cancel %s running task(s)"
"""How it says, as an error, that it cuts them: our own line is plainer."""
KEYS_VARIABLE = "TOKENYARD_API_KEY"
"""Keys come this way: arguments can be read by every user of the machine."""


class _Server(uvicorn.Server):
    """SIGTERM drains; a second signal, or SIGINT, ends at once. SIGUSR1 drains with the whole pool (supervisor.py).

    Where this front goes down for good, it accepts to the end and says so: whoever balances load must hear of it. Where
    others accept at the same socket and go on, it stops accepting, so that they do.
    """

    def __init__(self, config: uvicorn.Config, drain: Drain, shares_socket: bool) -> None:
        super().__init__(config)
        self._drain = drain
        self._shares_socket = shares_socket
        self._asked_by = 0
        """The signal that began the drain."""
        signal.signal(signal.SIGUSR1, self.handle_exit)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        spare_collector()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._asked_by or sig == signal.SIGINT:
            # Unwinding would only print a traceback for every stream that is cut; the broker sees us go either way.
            os._exit(0)
        self._asked_by = sig

    async def on_tick(self, counter: int) -> bool:
        """Called by uvicorn ten times a second; whether to shut down."""
        now = asyncio.get_running_loop().time()
        if self._asked_by and not self._drain.has_begun:
            is_alone = self._asked_by == signal.SIGTERM and self._shares_socket
            self._drain.begin(now, 0 if is_alone else NOTICE_S)
            if is_alone:
                self._leave_socket()
        return await super().on_tick(counter) or self._drain.is_over(now)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """The drain is over: what still runs has had its time."""
        if num := self._drain.num_running:
            log.warning("%d requests are cut: the time to drain is over", num)
            self.config.timeout_graceful_shutdown = 0
        await super().shutdown(sockets)

    def _leave_socket(self) -> None:
        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()  # those that ask nothing end, the others after their answer


def open_socket(options: FrontOptions) -> socket.socket:
    """The listening socket: inherited, or bound now. Raises SetupError with what to change."""
    if options.fd is not None:
        try:
            return socket.socket(fileno=options.fd)
        except OSError as error:
            raise SetupError(f"--fd {options.fd} is no socket: {error.strerror}") from error
    try:
        if not 0 <= options.port < 1 << 16:
            raise OSError(errno.EINVAL, "no such port")
        family, _, _, _, address = socket.getaddrinfo(options.host, options.port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address, family=family, backlog=BACKLOG)
    except OSError as error:
        words = (error.strerror or str(error)).partition(" (while")[0]
        raise SetupError(f"cannot listen on {options.host}:{options.port}: {words}; choose another --port") from error


def run(options: FrontOptions) -> None:
    """Serve until told to stop. Raises SetupError if it cannot start."""
    bound_heap()
    os.environ.pop(KEYS_VARIABLE, None)  # not for the MCP servers that inherit the rest
    logs.setup(f"front {options.index}", options.log_level).addFilter(name_request)
    address = BrokerAddress.of(options.run_dir, options.broker, options.keys)
    if address.is_remote:
        RunDir(options.run_dir).create()  # for what is kept here; where the broker is, that has made it
    listener = open_socket(options)
    host, port = listener.getsockname()[:2]
    scheme = "https" if options.ssl_certfile else "http"
    log.info("listening on %s://%s:%d", scheme, f"[{host}]" if ":" in host else host, port)
    if not options.api_keys and not ip_address(host).is_loopback and not options.index:
        log.warning("no API key is set, and %s is no loopback address: WHOEVER REACHES IT MAY USE THIS SERVER", host)
    drain = Drain(options.drain_s)
    logging.getLogger("uvicorn.error").addFilter(lambda line: not str(line.msg).startswith(UVICORNS_WORDS))
    config = uvicorn.Config(
        create_app(Pool(address, options.load_timeout_s), options, drain),
        loop="uvloop",
        http=GuardedProtocol,
        lifespan="on",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=FLUSH_S,
        backlog=BACKLOG,
        ssl_certfile=options.ssl_certfile,
        ssl_keyfile=options.ssl_keyfile,
    )
    _Server(config, drain, options.fd is not None).run(sockets=[listener])
