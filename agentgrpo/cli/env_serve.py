"""env serve: an environment of ours for whoever speaks OpenEnv's protocol."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from aiohttp import web
from rich.console import Console

from agentgrpo.blocking import run_blocking
from agentgrpo.config.run import load_config
from agentgrpo.env_server import EnvServer
from agentgrpo.errors import UserError
from agentgrpo.registry import resolve_env


def serve(target: str, host: str, port: int, capacity: int, seconds: float, overrides: Sequence[str]) -> None:
    """Serve until interrupted.

    Args:
        target: What names an environment, or a TOML file.
        host: The address to listen on.
        port: The port; 0 for a free one.
        capacity: Most sessions at once.
        seconds: Deadline of a reset or step.
        overrides: "env_args.key=value" strings.

    Raises:
        UserError: the environment cannot be made, or the address is taken.
    """
    is_file = target.endswith(".toml")
    config = load_config(Path(target) if is_file else {"env": target}, overrides=overrides)
    source = resolve_env(config.env, **config.env_args)
    server = EnvServer(source, capacity=capacity, seconds=seconds)
    run_blocking(_listen(server, host, port))


async def _listen(server: EnvServer, host: str, port: int) -> None:
    runner = web.AppRunner(server.app())
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            raise UserError(
                f"cannot listen on {host}:{port}: {error.strerror or error}; choose another --port"
            ) from error
        bound = runner.addresses[0][1]
        Console(highlight=False, soft_wrap=True).print(
            f"{server.source.id} on http://{host}:{bound} (WebSocket /ws), {server.capacity} sessions; Ctrl-C ends it",
            markup=False,
        )
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()
