"""From a name to what a worker is to load: asks the disk and the Hub, and so belongs in a thread.

Remembers for good what cannot change, a commit's size, and for a while which commit a branch is.
"""

import logging
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from tokenyard.broker import hub
from tokenyard.broker.errors import SetupError, TokenyardError
from tokenyard.broker.hub import Repository
from tokenyard.broker.spec import (
    DEMO,
    DEMO_DIR,
    OFF,
    ModelSpec,
    format_spec,
    local_directory,
    local_gguf,
    parse_spec,
)
from tokenyard.http.catalog.architectures import refusal
from tokenyard.http.catalog.directories import find_model, only_gguf
from tokenyard.http.catalog.names import read_name
from tokenyard.http.catalog.policy import Policy
from tokenyard.http.catalog.weights import Weights, gguf_weights, guessed, read_config, weights_in, widened

log = logging.getLogger(__name__)

BRANCH_S = 60.0
"""A branch is looked up so often at the most: swaps between models need not wait for the Hub each time."""
MAX_KNOWN = 1000
FOREIGN = (".bin", ".pt", ".pth", ".gguf", ".onnx", ".h5", ".msgpack")
"""Weights that are not served, for words."""


class Target(NamedTuple):
    """What a name stands for, ready to be loaded."""

    id: str
    """What /v1/models calls it: a Hub name, one with @ and a revision, an alias, or a directory's name. The card of a
    worker that was given `spec` has it as its first name."""
    spec: str
    """MODEL_SPEC for a worker: of a Hub model at its commit, of a directory absolute, with an alias's options."""
    weight_bytes: int
    """Of all tensors, in the memory of a GPU."""
    cpu_bytes: int
    """The same on a CPU, for which most are widened."""
    cached: bool
    """Nothing needs to be downloaded."""


class Found(NamedTuple):
    """One commit of a Hub model that can be served."""

    commit: str
    weights: Weights
    cached: bool
    pickled: bool
    """Its weights are pickles: loading them may run code."""


class Finder:
    """One front's; its methods may run in several threads at once."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._named = policy.names()
        self._branches: dict[tuple[str, str | None], tuple[str, float]] = {}
        """Commit and time by name and revision."""
        self._whole: dict[tuple[str, str, str | None], Found] = {}
        """By name, commit and GGUF file, what is whole in the cache."""

    def find(self, name: str) -> Target:
        """Raises TokenyardError with words for the user."""
        policy = self._policy
        if text := self._named.get(name):
            return self.of_spec(parse_spec(text))
        if policy.models_dir and (path := find_model(policy.models_dir, name)):
            return self.of_path(name, path)
        hub_name, revision = read_name(name)
        spec = ModelSpec(hub_name, revision, [name] if revision else [])
        found = None
        if policy.allows(hub_name):
            found = self._on_hub(spec)
        elif policy.allows_cached:
            found = self.in_cache(spec)
        if found is None:
            raise policy.refuse(name)
        if found.pickled:
            words = "its weights are pickles (pytorch_model.bin), which are loaded only if the model is named at start"
            raise unsupported(name, words)
        return self._target(spec._replace(revision=found.commit), found.weights, found.cached)

    def of_spec(self, spec: ModelSpec) -> Target:
        """A model named at start."""
        if path := local_path(spec.source):
            source = DEMO if spec.source == DEMO else str(path)
            return self._target(spec._replace(source=source), self._measure(path, spec), True)
        found = self._on_hub(spec)
        return self._target(spec._replace(revision=found.commit), found.weights, found.cached)

    def of_path(self, name: str, path: Path) -> Target:
        """A model under --models-dir."""
        gguf = only_gguf(path)
        spec = ModelSpec(str(path.absolute()), file=gguf.name if gguf else None)
        spec = spec if spec.called == [name] else spec._replace(names=[name])
        return self._target(spec, self._measure(path, spec), True)

    def in_cache(self, spec: ModelSpec) -> Found | None:
        """A model that is whole in the local Hub cache. Raises TokenyardError: it cannot be served."""
        name, file = spec.source, spec.file
        commit = hub.cached_commit(name, spec.revision)
        if commit is None or not hub.is_whole(name, commit, file):
            return None
        key = (name, commit, file)
        if key not in self._whole:
            folder = hub.snapshot_dir(name, commit)
            pickled = not file and _pickled(hub.local_weights(folder))
            _remember(self._whole, key, Found(commit, self._measure(folder, spec), True, pickled))
        return self._whole[key]

    def _on_hub(self, spec: ModelSpec) -> Found:
        """A model as the Hub has it; where that cannot be reached, as the cache has it. Raises TokenyardError."""
        name = spec.source
        commit, repository = self._commit(spec)
        if found := self.in_cache(spec._replace(revision=commit)):
            return found
        repository = repository or hub.look_up(name, commit)
        weights = [spec.file] if spec.file else hub.weight_names(repository.sizes)
        config = self._served_config(spec, repository, weights)
        hub.refuse_full_disk(name, hub.missing_bytes(name, repository, hub.needed_names(repository.sizes, weights)))
        size = sum(repository.sizes[one] for one in weights)
        if spec.file:
            told = widened(repository.num_gguf_parameters)
            # a list of files that differ in more than their types tells of one of them only
            return Found(commit, told if _may_be(size, repository.num_gguf_parameters) else Weights(size), False, False)
        return Found(commit, guessed(size, config), False, _pickled(weights))

    def _commit(self, spec: ModelSpec) -> tuple[str, Repository | None]:
        name, revision = spec.source, spec.revision
        if revision and hub.COMMIT.fullmatch(revision):
            return revision, None
        known, asked_s = self._branches.get((name, revision), ("", -BRANCH_S))
        if time.monotonic() < asked_s + BRANCH_S:
            return known, None
        try:
            repository = hub.look_up(name, revision)
        except TokenyardError as error:
            cached = hub.cached_commit(name, revision)
            if cached is None or not hub.is_whole(name, cached, spec.file):
                raise
            log.warning("%s is taken from the local cache: %s", name, error.words)
            _remember(self._branches, (name, revision), (cached, time.monotonic()))
            return cached, None
        hub.keep_commit(name, revision, repository.commit)
        _remember(self._branches, (name, revision), (repository.commit, time.monotonic()))
        return repository.commit, repository

    def _measure(self, path: Path, spec: ModelSpec) -> Weights:
        """Of a directory, or of a GGUF file. Raises TokenyardError if it cannot be served."""
        name = spec.called[0]
        try:
            if path.is_file() or spec.file:
                return gguf_weights(path / spec.file if spec.file else path)
            config = read_config(path)
            words = self._refusal(config, spec)
            weights = weights_in(path, config)
        except (OSError, ValueError, SetupError) as error:
            raise unsupported(name, in_words(error)) from error
        if words is None and not weights.size:
            words = _no_weights(one.name for one in path.iterdir())
        if words is not None:
            raise unsupported(name, words)
        return weights

    def _served_config(self, spec: ModelSpec, repository: Repository, weights: list[str]) -> dict[str, Any]:
        """config.json, which is fetched. Raises TokenyardError for what it and the list of files speak against."""
        words, config = None, {}
        if spec.file:
            words = None if spec.file in repository.sizes else f"it has no file {spec.file}"
        elif hub.CONFIG not in repository.sizes:
            is_adapter = "adapter_config.json" in repository.sizes
            words = "it is an adapter without its model" if is_adapter else f"it has no {hub.CONFIG}"
        else:
            folder = hub.fetch_config(spec.source, repository.commit)
            try:
                config = read_config(folder)
                words = self._refusal(config, spec)
            except (OSError, ValueError) as error:
                words = in_words(error)
        if words is None and not weights:
            words = _no_weights(repository.sizes)
        if words is not None:
            raise unsupported(spec.called[0], words)
        return config

    def _target(self, spec: ModelSpec, weights: Weights, cached: bool) -> Target:
        dtype = spec.engine.get("dtype", self._policy.dtype)
        gpu_bytes = cpu_bytes = weights.size  # what is quantized at load becomes smaller, the rest wider
        if spec.engine.get("quantization", self._policy.quantization) in ("", OFF):
            gpu_bytes, cpu_bytes = (weights.in_memory(dtype, on_cpu) for on_cpu in (False, True))
        return Target(spec.called[0], format_spec(spec._replace(replicas=None)), gpu_bytes, cpu_bytes, cached)

    def _refusal(self, config: dict[str, Any], spec: ModelSpec) -> str | None:
        return refusal(config, spec.engine.get("trust_remote_code", self._policy.trust_remote_code))


def local_path(source: str) -> Path | None:
    """The directory or GGUF file that a spec's source is; None: it is on the Hub."""
    return DEMO_DIR if source == DEMO else local_gguf(source) or local_directory(source)


def unsupported(name: str, words: str) -> TokenyardError:
    return TokenyardError("model_unsupported", f"the model {name!r} cannot be served: {words}", "model")


def in_words(error: Exception) -> str:
    return f"its {Path(error.filename).name}: {error.strerror}" if isinstance(error, OSError) else str(error)


def _may_be(size: int, num_parameters: int) -> bool:
    """Whether a GGUF file of this size may hold so many: from 1 to 32 bits each, and some metadata."""
    return size // 5 <= num_parameters <= 8 * size


def _pickled(weights: Iterable[str]) -> bool:
    return any(name.endswith(hub.PICKLED) for name in weights)


def _no_weights(names: Iterable[str]) -> str:
    others = sorted(name for name in names if name.endswith(FOREIGN))
    has = f"; it has {others[0]}" if others else ""
    return f"it has no weights called {' or '.join(hub.LAYOUTS)}, whole or in parts with an index{has}"


def _remember(memory: dict[Any, Any], key: object, value: object) -> None:
    """Bounded: the oldest goes."""
    while len(memory) >= MAX_KNOWN:
        memory.pop(next(iter(memory)), None)
    memory[key] = value
