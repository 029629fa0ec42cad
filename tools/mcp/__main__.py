"""`python -m agentgrpo.tools.mcp COMMAND...` or `... URL`: what a server offers, and the pin of it."""

from __future__ import annotations

import argparse
import sys

from agentgrpo.errors import AgentGRPOError
from agentgrpo.tools.mcp.pins import canonical, pin_of
from agentgrpo.tools.mcp.servers import McpServer
from agentgrpo.tools.mcp.toolbox import listing_of


def main() -> int:
    """Print the tools of a server and their pin."""
    parser = argparse.ArgumentParser(prog="python -m agentgrpo.tools.mcp", description=__doc__)
    parser.add_argument("--env", action="append", default=[], help="environment variable a command gets; repeatable")
    parser.add_argument("server", nargs=argparse.REMAINDER, help="the command that starts it, or its url")
    given = parser.parse_args()
    try:
        listing = listing_of(_server(given.server, given.env))
    except AgentGRPOError as error:
        print(error, file=sys.stderr)
        return 2
    for tool in listing:
        print(f"{tool['name']}\n    {tool['description']}\n    {canonical(tool['inputSchema'])}")
    print(f'\npin = "{pin_of(listing)}"')
    return 0


def _server(words: list[str], env: list[str]) -> McpServer:
    if len(words) == 1 and "://" in words[0]:
        return McpServer(url=words[0])
    return McpServer(command=tuple(words), env=tuple(env))


if __name__ == "__main__":
    sys.exit(main())
