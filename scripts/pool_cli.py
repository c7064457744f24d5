"""The subcommands that look after a pool: what they are called and take. What they do is imported when they run."""

from pathlib import Path
from typing import Annotated

import typer

from tokenyard.broker.errors import SetupError
from tokenyard.scripts.options import Broker, KeyFolder, PoolDir

WORKER = "Incarnation (its first digits) or pid, as in status"


def status(
    watch: Annotated[bool, typer.Option("--watch", help="Show it again every second.")] = False,
    run_dir: PoolDir = None,
    broker: Broker = None,
    keys: KeyFolder = None,
) -> None:
    """Show the pool's processes and what they are doing."""
    from tokenyard.scripts import control
    from tokenyard.scripts.pool_dir import find_broker

    control.show_status(find_broker(run_dir, broker, keys), watch)


def drain(
    workers: Annotated[
        list[str] | None, typer.Argument(metavar="[WORKER]...", help=f"{WORKER}; or a model: all its workers.")
    ] = None,
    everyone: Annotated[bool, typer.Option("--all", help="Every worker, one after the other.")] = False,
    timeout: Annotated[
        float, typer.Option(min=0, help="Seconds that its streams may run on; then they go on elsewhere.")
    ] = 30.0,
    move: Annotated[
        bool, typer.Option("--move", help="Its streams go on elsewhere at once, as with --timeout 0.")
    ] = False,
    in_place: Annotated[
        bool, typer.Option("--in-place", help="Its successor starts after its end: where memory is too small for both.")
    ] = False,
    remove: Annotated[bool, typer.Option("--remove", help="Nothing takes its place.")] = False,
    run_dir: PoolDir = None,
    broker: Broker = None,
    keys: KeyFolder = None,
) -> None:
    """Replace workers without losing a stream: each finishes what it has, and ends once its successor is ready."""
    from tokenyard.scripts import rolling
    from tokenyard.scripts.pool_dir import find_broker

    if bool(workers) == everyone:
        raise SetupError("name the workers to drain, or give --all")
    if remove and in_place:
        raise SetupError("--remove and --in-place exclude each other")
    way = "none" if remove else "after" if in_place else "auto"
    raise typer.Exit(
        rolling.drain_workers(find_broker(run_dir, broker, keys), workers or [], way, 0 if move else timeout)
    )


def kill(
    worker: Annotated[str, typer.Argument(help=f"{WORKER}.")],
    run_dir: PoolDir = None,
    broker: Broker = None,
    keys: KeyFolder = None,
) -> None:
    """End a worker at once: its streams go on elsewhere, its supervisor starts a fresh one."""
    from tokenyard.scripts import control
    from tokenyard.scripts.pool_dir import find_broker

    control.kill_worker(find_broker(run_dir, broker, keys), worker)


def keys(
    folder: Annotated[
        Path | None, typer.Argument(metavar="DIR", help="Where they are kept.", show_default="~/.config/tokenyard/keys")
    ] = None,
    name: Annotated[list[str] | None, typer.Option(help="Another box of the pool; may be repeated.")] = None,
) -> None:
    """Make the keys of a pool of several boxes, on the box where the broker runs; what is there already stays."""
    from tokenyard.scripts import pool_keys

    for line in pool_keys.make_keys(folder or pool_keys.default_folder(), name or []):
        typer.echo(line)


COMMANDS = (status, drain, kill, keys)
