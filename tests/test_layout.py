"""Guards of the layout: folders, packaging, and who may import whom."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("broker", "workers", "http", "scripts")
CONTRACT = {
    *("wire", "ranges", "structures", "token_plane", "adapter_messages", "answers", "identity"),
    *("codec", "params", "prefix", "errors", "config", "logs", "spec", "hub", "gguf_file", "gguf_tokenizer"),
    *("curve", "door", "endpoints", "line", "sockets"),
}
"""The broker's modules that workers and fronts may use."""

SANS_IO = {
    "broker": {
        *("wire", "ranges", "structures", "token_plane", "identity"),
        *("adapter_messages", "load_messages", "retire_messages", "death_messages"),
        *("answers", "codec", "params", "prefix", "spec"),
        *("dispatch", "jobs", "records", "core", "control", "membership", "loads", "replicas", "room"),
        *("adapters", "claims", "deaths", "gate", "progress", "recent", "retiring", "silence"),
    },
    "workers": {"link", "desk", "adapter_desk", "scheduler", "blocks", "pace", "leisure", "patience"},
    "http": {"inbox", "mcp/loop", "stops", "streams", "wants", "roster"},
    "scripts": {"watch", "agency"},
}
"""Decisions: an event and the time go in, actions come out."""
WORLD = {"zmq", "asyncio", "torch", "time", "random", "secrets", "socket", "threading", "subprocess"}

MAX_LINES = 400
SOURCES = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]


def imports_of(path: Path) -> set[str]:
    """Dotted names of all that a file imports, wherever in it; `from a import b` counts as a.b."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def ours(path: Path) -> set[tuple[str, str]]:
    """(room, module) of each import of our own."""
    parts = [name.split(".") for name in imports_of(path) if name.startswith("tokenyard.")]
    return {(part[1], part[2]) for part in parts}


@pytest.mark.parametrize(
    "name",
    [*ROOMS, "tests", "benchmarks", "docs", ".ci/run", "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md"],
)
def test_the_root_holds(name: str) -> None:
    assert (ROOT / name).exists()


@pytest.mark.parametrize("room", [*ROOMS, "tests"])
def test_rooms_have_no_init(room: str) -> None:
    """With http/__init__.py, `python -m anything` in the root would import ours as the standard library's http."""
    assert list((ROOT / room).rglob("__init__.py")) == []


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_no_module_has_a_stdlib_name(path: Path) -> None:
    assert path.stem not in sys.stdlib_module_names


def test_packages_are_those_of_the_tree() -> None:
    folders = {path.parent for path in SOURCES} | {
        path.parent for room in ROOMS for path in (ROOT / room).rglob("*.json")
    }
    tree = {".".join(["tokenyard", *folder.relative_to(ROOT).parts]) for folder in folders}
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert set(config["tool"]["setuptools"]["packages"]) == tree


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_import_arrows(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0]
    for other, module in ours(path):
        if room == "scripts" or other == room:
            continue
        assert room in ("workers", "http"), f"{path} imports {other}.{module}"
        assert other == "broker", f"{path} imports {other}.{module}"
        assert module in CONTRACT, f"{path} imports broker.{module}, which is not of the contract"


@pytest.mark.parametrize(
    "path", [ROOT / room / f"{name}.py" for room in SANS_IO for name in sorted(SANS_IO[room])], ids=str
)
def test_decisions_touch_no_world(path: Path) -> None:
    assert not {name.split(".")[0] for name in imports_of(path)} & WORLD


@pytest.mark.parametrize(
    "path", [path for path in SOURCES if path.relative_to(ROOT).parts[0] in ("broker", "http")], ids=str
)
def test_broker_and_front_use_no_torch(path: Path) -> None:
    assert not {name.split(".")[0] for name in imports_of(path)} & {"torch", "xgrammar"}


def test_no_loop_receives_without_a_bound() -> None:
    """All take what `waiting` of broker/sockets.py gives; a front's links count deltas instead."""
    has_loop = re.compile(r"\brecv(_multipart)?\([^)]*NOBLOCK|while .*\.poll\(0\)")
    found = {str(path.relative_to(ROOT)) for path in SOURCES if has_loop.search(path.read_text())}
    assert found == {"http/links.py"}


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_files_stay_readable(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= MAX_LINES
    assert ast.get_docstring(ast.parse(text)), "say at the top what lives here"


@pytest.mark.slow
def test_the_wheel_holds_everything(tmp_path: Path) -> None:
    copy = tmp_path / "source"  # building leaves folders behind
    for room in ROOMS:
        shutil.copytree(ROOT / room, copy / room, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path)]
    command = [sys.executable, "-m", "pip", "wheel", *options, str(copy)]
    subprocess.run(command, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    model = [path for path in (ROOT / "workers" / "demo_model").iterdir() if path.is_file()]
    model.append(ROOT / "http" / "openapi" / "examples.json")
    assert {f"tokenyard/{path.relative_to(ROOT)}" for path in [*SOURCES, *model]} <= held


def test_the_architecture_names_every_module() -> None:
    named = re.findall(r"`([^`]*)`", (ROOT / "docs" / "architecture.md").read_text())
    words = set(re.findall(r"\w+", " ".join(named)))
    assert not [path for path in SOURCES if path.stem not in words]
