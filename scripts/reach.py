"""How the processes of a pool reach each other beyond one box: what is asked for, checked, and passed on to each."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenyard.broker.curve import read_keys
from tokenyard.broker.endpoints import BrokerAddress, parse_tcp, refuse_plain
from tokenyard.broker.errors import SetupError
from tokenyard.scripts.option_checks import STRING, Check, as_arguments


@dataclass(frozen=True, slots=True)
class Reach:
    """None leaves it to the file's [pool], then to ipc in the run directory."""

    broker: str | None = None
    """Endpoint of the broker, which runs elsewhere."""
    bind: str | None = None
    """Where the broker listens on tcp, which runs here."""
    workers_bind: str | None = None
    """Where workers listen for fronts on tcp; the port may be a range or `*`."""
    advertise: str | None = None
    """The address by which fronts reach that, where it is another."""
    keys: Path | None = None
    """The folder of this box's keys."""

    def over(self, table: Mapping[str, Any]) -> "Reach":
        """These wishes laid over a file's [pool], and checked. Raises SetupError."""
        keys = self.keys or (Path(table["keys"]) if "keys" in table else None)
        reach = Reach(
            self.broker or table.get("broker"),
            self.bind or table.get("bind"),
            self.workers_bind or table.get("workers_bind"),
            self.advertise or table.get("advertise"),
            keys.absolute() if keys else None,
        )
        reach._check()
        return reach

    def address(self, run_dir: Path) -> BrokerAddress:
        """Where this box's processes find the broker. Raises SetupError."""
        return BrokerAddress.of(run_dir, self.broker, self.keys)

    def broker_arguments(self) -> list[str]:
        return as_arguments(bind=self.bind, keys=self.keys)

    def front_arguments(self) -> list[str]:
        return as_arguments(broker=self.broker, keys=self.keys)

    def worker_arguments(self) -> list[str]:
        return as_arguments(broker=self.broker, bind=self.workers_bind, advertise=self.advertise, keys=self.keys)

    def _check(self) -> None:
        if self.keys is not None:
            read_keys(self.keys)
        if self.bind is not None:
            if self.broker is not None:
                raise SetupError("a pool has one broker: --bind is for where it runs, --broker for elsewhere")
            parse_tcp(self.bind, "--bind")
            refuse_plain(self.bind, self.keys is not None)
        if self.workers_bind is not None:
            parse_tcp(self.workers_bind, "--workers-bind", may_be_open=True)
            refuse_plain(self.workers_bind, self.keys is not None)
        if self.advertise is not None and self.broker is None and self.workers_bind is None:
            raise SetupError("--advertise tells where workers on tcp are: give --workers-bind, too")
        self.address(Path())


REACH_CHECKS: Mapping[str, Check] = dict.fromkeys(("broker", "bind", "workers_bind", "advertise", "keys"), STRING)
"""Keys of [pool]. What they say is asked once the command line is known (Reach.over)."""
