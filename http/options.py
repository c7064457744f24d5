"""How one front process is set up. Values only: no sockets, no HTTP."""

from dataclasses import dataclass, field
from pathlib import Path

from tokenyard.http.catalog.adapters import AdapterPolicy
from tokenyard.http.catalog.policy import Policy
from tokenyard.http.keys import KeyRing

LOAD_TIMEOUT_S = 600.0
"""A 70B model from a slow disk loads in about five minutes."""


@dataclass(frozen=True, slots=True)
class FrontOptions:
    """What `tokenyard front` can be told; main.py's arguments carry the same names."""

    run_dir: Path
    """Where the broker's sockets are, and what fronts keep."""
    broker: str | None = None
    """Endpoint of a broker on tcp, perhaps on another box; None: the run directory's."""
    keys: Path | None = None
    """The folder of this box's keys, for a broker or workers on tcp."""
    host: str = "127.0.0.1"
    port: int = 8000
    """0 lets the system choose; the log names the port."""
    fd: int | None = None
    """An inherited listening socket, used instead of host and port: how several fronts share one port."""
    index: int = 0
    """Which of several fronts this is, for the log."""
    api_keys: KeyRing = field(default_factory=KeyRing)
    """Any of them opens all routes; with none, all are open."""
    max_requests_per_key: int | None = None
    """Requests that a key may have running at once in this front; None: any number."""
    ssl_certfile: Path | None = None
    """Serve https with this chain; None: http."""
    ssl_keyfile: Path | None = None
    """The chain's private key; None: it is in the same file."""
    cors_origins: tuple[str, ...] = ("*",)
    tool_formats: tuple[str, ...] = ()
    """In which format models write tool calls: FORMAT or MODEL=FORMAT each; else their chat templates tell."""
    log_level: str = "INFO"
    max_body_bytes: int = 8 << 20
    """A 131,072-token prompt is under 1 MB of text; ids as JSON take 8 bytes a token."""
    store: str = ""
    """The file that keeps responses; `off` for none; empty: one in the run directory, shared by all fronts."""
    models: Policy = field(default_factory=Policy)
    """Which models requests may ask for, up or not."""
    loras: AdapterPolicy = field(default_factory=AdapterPolicy)
    """Which adapters requests may have loaded."""
    mcp: Path | None = None
    """mcp.json: the MCP servers whose tools models may call here."""
    load_timeout_s: float = LOAD_TIMEOUT_S
    """A request waits so long for its model to be loaded."""
    drain_s: float = 30.0
    """After SIGTERM, streams may go on for so long."""
    header_wait_s: float = 1.0
    """A stream's headers wait so long for the job to run, so that a refusal can still be an HTTP status."""
    keep_alive_s: float = 15.0
    """A stream is looked at so often; one that was silent since gets an SSE comment. Common proxies cut after 60 s."""
    stall_s: float = 30.0
    """A client that reads nothing for so long while we have more for it is cut."""

    @property
    def store_path(self) -> Path | None:
        """Where responses are kept; None: nowhere."""
        if self.store == "off":
            return None
        return Path(self.store) if self.store else self.run_dir / "responses.db"
