"""One front process: `python -m tokenyard.http.main`. Opens the socket, serves the app, drains on SIGTERM."""

import os

# Before transformers is imported: with torch the process takes 249 MB and 2 s more (measured).
os.environ["USE_TORCH"] = "0"

import argparse
import errno
import logging
import signal
import socket
import sys
from ipaddress import ip_address
from pathlib import Path
from types import FrameType

import uvicorn

from tokenyard.broker import logs
from tokenyard.broker.config import RunDir, default_run_dir
from tokenyard.broker.errors import SetupError
from tokenyard.http.app import create_app
from tokenyard.http.guard import GuardedProtocol
from tokenyard.http.keys import KeyRing
from tokenyard.http.memory import bound_heap
from tokenyard.http.options import FrontOptions
from tokenyard.http.pool import Pool
from tokenyard.http.request_log import name_request

__all__ = ["FrontOptions", "main", "run"]

log = logging.getLogger(__name__)

BACKLOG = 2048
"""uvicorn's own default."""
KEYS_VARIABLE = "TOKENYARD_API_KEY"
"""Keys come this way: arguments can be read by every user of the machine."""


class _Server(uvicorn.Server):
    """SIGTERM drains; a second one, or SIGINT, ends at once."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit or sig == signal.SIGINT:
            # Unwinding would only print a traceback for every stream that is cut; the broker sees us go either way.
            os._exit(0)
        self.should_exit = True


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
    listener = open_socket(options)
    host, port = listener.getsockname()[:2]
    scheme = "https" if options.ssl_certfile else "http"
    log.info("listening on %s://%s:%d", scheme, f"[{host}]" if ":" in host else host, port)
    if not options.api_keys and not ip_address(host).is_loopback and not options.index:
        log.warning("no API key is set, and %s is no loopback address: WHOEVER REACHES IT MAY USE THIS SERVER", host)
    config = uvicorn.Config(
        create_app(Pool(RunDir(options.run_dir)), options),
        loop="uvloop",
        http=GuardedProtocol,
        lifespan="on",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=int(options.drain_s),
        backlog=BACKLOG,
        ssl_certfile=options.ssl_certfile,
        ssl_keyfile=options.ssl_keyfile,
    )
    _Server(config).run(sockets=[listener])


def main(arguments: list[str] | None = None) -> int:
    """The command line of one front; the exit status."""
    parser = argparse.ArgumentParser(prog="tokenyard-front", description="Serve the HTTP API of a pool.")
    parser.add_argument("--run-dir", type=Path, default=default_run_dir())
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--fd", type=int)
    parser.add_argument("--index", type=int, default=0)
    parser.add_argument("--api-key", action="append", default=[], dest="api_keys")
    parser.add_argument("--cors-origin", action="append", default=[], dest="cors_origins")
    parser.add_argument("--tool-format", action="append", default=[], dest="tool_formats")
    parser.add_argument("--log-level", default="INFO")
    parser.add_argument("--store", default="")
    parser.add_argument("--drain-s", type=float, default=30.0)
    given = vars(parser.parse_args(arguments))
    given["api_keys"] = KeyRing(given["api_keys"])
    given["tool_formats"] = tuple(given["tool_formats"])
    given["cors_origins"] = tuple(given["cors_origins"]) or ("*",)
    try:
        run(FrontOptions(**given))
    except SetupError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
