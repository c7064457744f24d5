"""`tokenyard mcp ...`: what the subcommands are called and take; mcp_command.py does them."""

from pathlib import Path
from typing import Annotated

import typer

from tokenyard.scripts.options import PoolDir

mcp_app = typer.Typer(help="Look at MCP servers and their tools.", no_args_is_help=True)
McpFile = Annotated[Path, typer.Option("--mcp", metavar="mcp.json", help="The file that names the servers.")]


@mcp_app.command("list")
def mcp_list(mcp: McpFile) -> None:
    """Connect to every server and show its tools."""
    from tokenyard.scripts import mcp_command

    raise typer.Exit(mcp_command.list_tools(mcp))


@mcp_app.command("call")
def mcp_call(
    server: str,
    tool: str,
    arguments: Annotated[str, typer.Argument(metavar="JSON", help="An object.")] = "{}",
    *,
    mcp: McpFile,
) -> None:
    """Call one tool and print what it gives."""
    from tokenyard.scripts import mcp_command

    raise typer.Exit(mcp_command.call_tool(mcp, server, tool, arguments))


@mcp_app.command("check")
def mcp_check(mcp: McpFile) -> None:
    """Read the file and say what is wrong with it; nothing is started."""
    from tokenyard.scripts import mcp_command

    raise typer.Exit(mcp_command.check(mcp))


@mcp_app.command("reload")
def mcp_reload(run_dir: PoolDir = None) -> None:
    """Have a running pool read its mcp.json again; servers that did not change keep their connections."""
    from tokenyard.scripts import mcp_command

    raise typer.Exit(mcp_command.reload(run_dir))
