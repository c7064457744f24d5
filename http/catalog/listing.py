"""The models that may be asked for and are known without the network.

Those named at start, those under --models-dir, and those of the local Hub cache that are allowed.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import constants

from tokenyard.broker import hub
from tokenyard.broker.errors import TokenyardError
from tokenyard.broker.spec import ModelSpec, parse_spec
from tokenyard.http.catalog.directories import list_models_in
from tokenyard.http.catalog.finder import Finder, local_path
from tokenyard.http.catalog.names import read_name
from tokenyard.http.catalog.policy import Policy

MAX_LISTED = 1000
SCAN_S = 2.0
"""One scan takes no longer. Sizes that it found are remembered, so that the next one comes further."""
PREFIX = "models--"
"""How the Hub cache names the folders of models."""


class Listed(NamedTuple):
    """A model that may be asked for."""

    id: str
    size: int
    """Bytes of its weights; 0: unknown."""
    created: int
    """Unix seconds: when its files came."""
    cached: bool


def list_models(policy: Policy, finder: Finder) -> list[Listed]:
    """By name; what cannot be served is left out."""
    found: dict[str, Listed] = {}
    end_s = time.monotonic() + SCAN_S
    for listed in _candidates(policy, finder):
        found.setdefault(listed.id, listed)
        if len(found) >= MAX_LISTED or time.monotonic() > end_s:
            break
    return sorted(found.values())


def _candidates(policy: Policy, finder: Finder) -> Iterator[Listed]:
    for text in policy.named:
        yield _named(parse_spec(text), finder)
    for name, path in list_models_in(policy.models_dir) if policy.models_dir else ():
        try:
            yield Listed(name, finder.of_path(name, path).weight_bytes, _created(path), True)
        except TokenyardError:
            continue
    for name, revision in _cached_revisions():
        if not (policy.allows_cached or policy.allows(name)):
            continue
        try:
            model = finder.in_cache(ModelSpec(name, revision))
        except TokenyardError:
            continue
        if model is not None and not model.pickled:
            listed = name if revision in (None, constants.DEFAULT_REVISION) else f"{name}@{revision}"
            yield Listed(listed, model.weights.size, _created(hub.snapshot_dir(name, model.commit)), True)


def _named(spec: ModelSpec, finder: Finder) -> Listed:
    """Listed whatever becomes of it: a load would tell."""
    try:
        if path := local_path(spec.source):
            return Listed(spec.called[0], finder.of_spec(spec).weight_bytes, _created(path), True)
        if model := finder.in_cache(spec):
            created = _created(hub.snapshot_dir(spec.source, model.commit))
            return Listed(spec.called[0], model.weights.size, created, True)
    except TokenyardError:
        pass
    return Listed(spec.called[0], 0, 0, False)


def _cached_revisions() -> Iterator[tuple[str, str]]:
    """Names and revisions in the local Hub cache; of a model that was fetched by commit only, its commits."""
    for folder in sorted(hub.cache_root().glob(f"{PREFIX}*")):
        name = folder.name.removeprefix(PREFIX).replace("--", "/")
        refs = folder / "refs"
        revisions = [str(path.relative_to(refs)) for path in sorted(refs.rglob("*")) if _is_ref(path)]
        for revision in revisions or sorted(path.name for path in folder.glob("snapshots/*")):
            try:
                yield read_name(f"{name}@{revision}")[0], revision
            except TokenyardError:
                continue


def _is_ref(path: Path) -> bool:
    return path.is_file() and path.suffix != ".tmp"  # what a process that was killed has left


def _created(path: Path) -> int:
    try:
        return int(path.stat().st_mtime)
    except OSError:
        return 0
