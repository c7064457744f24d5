"""Where processes meet: on ipc in the run directory, or on tcp across machines. No sockets here.

The rule of all doors: what leaves the machine is encrypted. Plain tcp is for loopback only.
"""

import re
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from tokenyard.broker.config import RunDir
from tokenyard.broker.curve import Keys, read_keys
from tokenyard.broker.errors import SetupError

TCP = re.compile(r"tcp://(?P<host>\[[0-9a-fA-F:.%]+\]|[^\[\]:/\s]+):(?P<ports>\*|\d{1,5}|\d{1,5}-\d{1,5})")
ANY = ("*", "0.0.0.0", "[::]")
"""Hosts that stand for all of a machine's addresses: to listen on, not to be called at."""


@dataclass(frozen=True, slots=True)
class TcpEndpoint:
    """`tcp://HOST:PORT`; one that is listened on may leave the port open, wholly or within a range."""

    host: str
    ports: str
    """`7420`, `7500-7599` or `*`."""

    def __str__(self) -> str:
        return f"tcp://{self.host}:{self.ports}"

    @property
    def stays_here(self) -> bool:
        """Whether nothing that is sent there leaves the machine."""
        return is_loopback(self.host.strip("[]"))

    def choices(self) -> list[str]:
        """Endpoints to try in turn."""
        first, dash, last = self.ports.partition("-")
        if not dash:
            return [str(self)]
        return [f"tcp://{self.host}:{port}" for port in range(int(first), int(last) + 1)]


def parse_tcp(text: str, option: str, may_be_open: bool = False) -> TcpEndpoint:
    """`may_be_open`: the port. Raises SetupError that names the option."""
    found = TCP.fullmatch(text)
    ports = found["ports"].split("-") if found else []
    if not found or (not may_be_open and not ports[0].isdigit()) or len(ports) > 1 + may_be_open:
        form = "tcp://HOST:PORT, tcp://HOST:FIRST-LAST or tcp://HOST:*" if may_be_open else "tcp://HOST:PORT"
        raise SetupError(f"{option} {text}: give it as {form}")
    if any(not 0 < int(port) < 1 << 16 for port in ports if port != "*"):
        raise SetupError(f"{option} {text}: a port is a number from 1 to 65535")
    if len(ports) == 2 and int(ports[0]) > int(ports[1]):
        raise SetupError(f"{option} {text}: the range of ports is empty")
    return TcpEndpoint(found["host"], found["ports"])


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address; a name that is none counts by what it is called."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def refuse_plain(endpoint: str, has_keys: bool) -> None:
    """Raise SetupError where this would go off the machine in the clear."""
    if endpoint.startswith("ipc://") or has_keys or parse_tcp(endpoint, "", may_be_open=True).stays_here:
        return
    words = "what leaves this machine must be encrypted: give --keys DIR (`tokenyard keys` makes them)"
    raise SetupError(f"{endpoint}: {words}")


@dataclass(frozen=True, slots=True)
class BrokerAddress:
    """Where a process finds its broker, and what proves it to others."""

    front: str
    """Endpoint for fronts and for the command line."""
    work: str
    """Endpoint for workers and agents: on tcp the same."""
    keys: Keys | None = None

    @property
    def is_remote(self) -> bool:
        """On tcp, perhaps on another machine."""
        return self.front.startswith("tcp://")

    @property
    def server_key(self) -> str:
        """What the broker must prove itself by; empty where it need not."""
        return self.keys.broker if self.keys and self.is_remote else ""

    def refuse_foreign_ipc(self, endpoint: str) -> None:
        """Raise SetupError for an endpoint on another machine's disk."""
        if self.is_remote and endpoint.startswith("ipc://"):
            raise SetupError(f"{endpoint} is on its own box: start the worker there with --bind tcp://HOST:*")

    def __str__(self) -> str:
        return self.front if self.is_remote else self.front.removeprefix("ipc://").rpartition("/")[0]

    @staticmethod
    def of(run_dir: Path, broker: str | None = None, keys: Path | None = None) -> "BrokerAddress":
        """`broker`: its tcp endpoint, which goes before the run directory's sockets. Raises SetupError."""
        known = read_keys(keys) if keys else None
        if broker is None:
            at = RunDir(run_dir)
            return BrokerAddress(at.front_endpoint, at.work_endpoint, known)
        endpoint = parse_tcp(broker, "--broker")
        if endpoint.host in ANY:
            raise SetupError(f"--broker {broker}: {endpoint.host} is no address to call: name the broker's box")
        refuse_plain(broker, known is not None)
        return BrokerAddress(broker, broker, known)
