"""A notebook as an MCP server of the SDK's high level, on standard input and output; `app()` serves it over HTTP."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError

notes: defaultdict[str, list[str]] = defaultdict(list)  # by session


def session_of(ctx: Context[Any, Any]) -> str:
    request = ctx.request_context.request
    return "" if request is None else str(request.headers["mcp-session-id"])


def make() -> MCPServer[Any]:
    server: MCPServer[Any] = MCPServer("notes", log_level="ERROR")

    @server.tool()
    def add_note(text: str, ctx: Context[Any, Any]) -> str:
        """Write a note."""
        notes[session_of(ctx)].append(text)
        return f"{len(notes[session_of(ctx)])} notes"

    @server.tool()
    def list_notes(ctx: Context[Any, Any]) -> str:
        """Read the notes."""
        return ", ".join(notes[session_of(ctx)])

    @server.tool()
    def tear(number: int) -> str:
        """Tear a note out."""
        raise ToolError(f"there is no note {number}")

    @server.tool()
    async def unlock(ctx: Context[Any, Any]) -> str:
        """Get one tool more."""
        server.add_tool(count_notes)
        await ctx.request_context.session.send_tool_list_changed()
        return "unlocked"

    @server.resource("notes://all")
    def all_notes() -> str:
        """Every note there is."""
        return "\n".join(text for texts in notes.values() for text in texts)

    def count_notes(ctx: Context[Any, Any]) -> int:
        """Count the notes."""
        return len(notes[session_of(ctx)])

    return server


if __name__ == "__main__":
    make().run()
