"""The subcommands that look after a running pool: what they are called and take; control.py and rolling.py do them."""

from typing import Annotated

import typer

from tokenyard.broker.errors import SetupError
from tokenyard.scripts.options import PoolDir

WORKER = "Incarnation (its first digits) or pid, as in status"


def status(
    watch: Annotated[bool, typer.Option("--watch", help="Show it again every second.")] = False,
    run_dir: PoolDir = None,
) -> None:
    """Show the pool's processes and what they are doing."""
    from tokenyard.scripts import control

    control.show_status(run_dir, watch)


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
) -> None:
    """Replace workers without losing a stream: each finishes what it has, and ends once its successor is ready."""
    from tokenyard.scripts import rolling

    if bool(workers) == everyone:
        raise SetupError("name the workers to drain, or give --all")
    if remove and in_place:
        raise SetupError("--remove and --in-place exclude each other")
    way = "none" if remove else "after" if in_place else "auto"
    raise typer.Exit(rolling.drain_workers(run_dir, workers or [], way, 0 if move else timeout))


def kill(
    worker: Annotated[str, typer.Argument(help=f"{WORKER}.")],
    run_dir: PoolDir = None,
) -> None:
    """End a worker at once: its streams go on elsewhere, its supervisor starts a fresh one."""
    from tokenyard.scripts import control

    control.kill_worker(run_dir, worker)


COMMANDS = (status, drain, kill)
