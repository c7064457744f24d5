"""Which LoRA adapters requests may have loaded: those under --lora-dir, and from the Hub what --allow-loras names."""

from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from tokenyard.broker.errors import TokenyardError
from tokenyard.broker.wire import Adapter
from tokenyard.http.catalog.names import read_name
from tokenyard.http.catalog.policy import shown

CONFIG = "adapter_config.json"
PARAM = "lora_path"


class AdapterPolicy(NamedTuple):
    """With neither of both, requests load none."""

    directory: Path | None = None
    allow: tuple[str, ...] = ()
    """Patterns of Hub names, as a shell has them."""
    given: tuple[Adapter, ...] = ()
    """Those that are there from the start: a request for one brings up its base."""

    def resolve(self, path: str) -> str:
        """What a request's path stands for: an absolute directory or a Hub name. Raises TokenyardError.

        Nothing is told of directories elsewhere, not even whether they are there.
        """
        if self.directory is not None and (found := _within(self.directory, path)):
            return str(found)
        try:
            name, _ = read_name(path)
        except TokenyardError:
            name = ""
        if name and any(fnmatchcase(name, pattern) for pattern in self.allow):
            return path
        raise self._refuse(path)

    def _refuse(self, path: str) -> TokenyardError:
        ways = [
            *(["directories with an adapter under --lora-dir"] if self.directory else []),
            *([f"Hub names like {', '.join(self.allow)}"] if self.allow else []),
        ]
        words = f"lora_path {shown(path)} is not to be loaded by this server: "
        words += f"allowed are {' and '.join(ways)}" if ways else "it was started without --lora-dir and --allow-loras"
        return TokenyardError("invalid_value", words, PARAM)


def _within(root: Path, given: str) -> Path | None:
    """The adapter's directory, if it is one under `root` once all links are followed."""
    try:
        path = (root / given).resolve()  # an absolute one stays what it is
        within = path.is_relative_to(root.resolve()) and (path / CONFIG).is_file()
    except (OSError, ValueError):
        return None  # no file can be called so: too long, or a null byte
    return path if within else None
