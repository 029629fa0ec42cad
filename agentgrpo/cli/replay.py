"""`agentgrpo replay` and `agentgrpo run rescore`: what they take. What they do is loaded when it is needed."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from agentgrpo.errors import UserError

run_app = typer.Typer(no_args_is_help=True, help="Work with the episodes of runs.")

Run = Annotated[Path, typer.Argument(help="A run's folder, or a folder of runs (the newest is taken).")]
Set = Annotated[list[str], typer.Option("--set", help="section.key=value; may be given several times.")]


def replay(
    run: Run,
    episode: Annotated[str | None, typer.Argument(help="Its number, or its key: phase/step/task/sample.")] = None,
    *,
    all_: Annotated[bool, typer.Option("--all", help="Replay all episodes of the run.")] = False,
    mock_tools: Annotated[
        bool, typer.Option("--mock-tools", help="Run no tools; make prompts, calls, tokens and masks again instead.")
    ] = False,
    fork_turn: Annotated[int | None, typer.Option(help="Play on from this turn (from 1) as new episodes.")] = None,
    count: Annotated[int, typer.Option("-n", min=1, help="How many.")] = 1,
    policy: Annotated[
        str | None, typer.Option(help="Who plays on: best, last, step-NNNNNN, base, a folder, another run, or none.")
    ] = None,
    action: Annotated[
        str | None, typer.Option(help="What is done at that turn first: JSON, or text with <tool_call> blocks.")
    ] = None,
    endpoint: Annotated[str | None, typer.Option(help="Let the chat model behind this URL play on.")] = None,
    model: Annotated[str | None, typer.Option(help="What the endpoint calls it.")] = None,
    api_key_env: Annotated[str | None, typer.Option(help="The environment variable that holds its key.")] = None,
    set_: Set = [],  # noqa: B006
) -> None:
    """Play recorded episodes again and compare, or re-enter one at a turn (--fork-turn) and play on from there."""
    if (episode is None) is not all_:
        raise typer.BadParameter("name an episode, or --all")
    if fork_turn is None:
        unused = {"-n": count > 1, "--policy": policy, "--action": action, "--endpoint": endpoint, "--model": model}
        for name in (name for name, is_given in unused.items() if is_given):
            raise typer.BadParameter(f"{name} belongs to --fork-turn")
        _load().replay(run, episode, mock_tools, set_)
        return
    if all_ or mock_tools or episode is None:
        raise typer.BadParameter("--fork-turn takes one episode, and its tools are run")
    if (endpoint is None) is not (model is None) or (endpoint and policy):
        raise typer.BadParameter("--endpoint goes with --model NAME, and without --policy")
    player = policy if endpoint is None else (endpoint, str(model), api_key_env)
    _load().fork(run, episode, fork_turn, count, player, action, set_)


@run_app.command()
def rescore(
    run: Run,
    reward: Annotated[str, typer.Option(help='"module:function", or "path/to/file.py:function".')],
    weights: Annotated[list[str], typer.Option(help="name=number, of one of its terms; several times.")] = [],  # noqa: B006
    with_state: Annotated[
        bool, typer.Option("--with-state", help="Play the episodes again, so that it sees the environment's state.")
    ] = False,
    set_: Set = [],  # noqa: B006
) -> None:
    """Score a run's episodes by another reward, beside the scores they have; show what it would have changed."""
    _load().rescore(run, reward, _weights(weights), with_state, set_)


def _weights(given: list[str]) -> dict[str, float]:
    weights = {}
    for entry in (part for text in given for part in text.split(",")):
        name, _, value = entry.partition("=")
        try:
            weights[name.strip()] = float(value)
        except ValueError:
            raise UserError(f"--weights takes name=number, got '{entry}'") from None
    return weights


def _load() -> Any:
    return import_module("agentgrpo.cli.replaying")
