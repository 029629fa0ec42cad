"""OpenEnv's own clients against a server of `agentgrpo env serve shop`; run by an interpreter that has openenv-core."""

from __future__ import annotations

import asyncio
import json
import sys

from openenv.core.generic_client import GenericEnvClient
from openenv.core.mcp_client import MCPToolClient


async def generic(url: str) -> dict[str, object]:
    """Play a training task of the shop by messages; return what was seen."""
    async with GenericEnvClient(base_url=url) as env:
        start = await env.reset(seed=3, episode_id="mine")
        call = {"id": "a", "name": "find_customer", "arguments": {"name": "Nobody Atall"}}
        found = await env.step({"content": "", "tool_calls": [call]})
        state = await env.state()
        end = await env.step({"content": "done"})
    observation = start.observation
    return {
        "text": observation["text"],
        "tools": sorted(tool["name"] for tool in observation["tools"]),
        "answer": found.observation["messages"][0]["content"],
        "rewards": [start.reward, found.reward, end.reward],
        "done": [start.done, found.done, end.done],
        "state": state,
    }


async def by_tools(url: str) -> dict[str, object]:
    """The same by OpenEnv's client of MCP tools."""
    async with MCPToolClient(base_url=url) as env:
        await env.reset(seed=3)
        tools = await env.list_tools()
        product = await env.call_tool("get_product", item="lamp")
        try:
            refusal = str(await env.call_tool("get_product", item="no such thing"))
        except RuntimeError as error:
            refusal = str(error)
    return {"names": sorted(tool.name for tool in tools), "product": product, "refusal": refusal}


async def main(url: str) -> None:
    many = await asyncio.gather(*(generic(url) for _ in range(4)))
    print(json.dumps({"many": many, "tools": await by_tools(url)}))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
