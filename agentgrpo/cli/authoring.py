"""The options of `env new`, `env play` and `env stats`: what a person types while making an environment.

The commands themselves are imported when they run, so that `--help` starts fast.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from agentgrpo.cli.new import Template, new

Env = Annotated[
    str, typer.Argument(help='A shipped name, "module:Class", "file.py:Class", a Gymnasium id, or a TOML file.')
]
Tasks = Annotated[Path | None, typer.Option(help="A file of rows, for an environment that ships none.")]

Set = Annotated[list[str], typer.Option("--set", help="section.key=value; may be given several times.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the `env` group."""
    app.command(name="new")(_new)
    app.command(name="play")(_play)
    app.command(name="stats")(_stats)


def _new(
    name: Annotated[Path, typer.Argument(help="The folder to make; its last part names the environment.")],
    template: Annotated[
        Template, typer.Option(help="plain: tools are methods; app: over a database with snapshots and a change log.")
    ] = Template.PLAIN,
) -> None:
    """Begin an environment of your own: a folder that can be checked, played and trained on as it is."""
    new(name, template)


def _play(
    env: Env,
    tasks: Tasks = None,
    task: Annotated[str | None, typer.Option(help="The id of the task to begin with.")] = None,
    split: Annotated[str | None, typer.Option(help="Tasks of this split (train).")] = None,
    seed: int = 0,
    set_: Set = [],  # noqa: B006
) -> None:
    """Act in an environment yourself: call its tools, see what the model would, and what it is worth."""
    import_module("agentgrpo.cli.play").play(env, tasks, task, split, seed, set_)


def _stats(
    env: Env,
    tasks: Tasks = None,
    split: Annotated[str, typer.Option(help="Play tasks of this split.")] = "train",
    episodes: Annotated[int, typer.Option(min=1, help="Episodes of each baseline.")] = 60,
    model: Annotated[str | None, typer.Option(help="A model folder that plays groups of the tasks.")] = None,
    endpoint: Annotated[str | None, typer.Option(help="Or a chat model behind this URL, called --model.")] = None,
    api_key_env: Annotated[str | None, typer.Option(help="The environment variable that holds its key.")] = None,
    run: Annotated[Path | None, typer.Option(help="Or the newest groups of this run.")] = None,
    groups: Annotated[int, typer.Option(min=1, help="Groups of that policy.")] = 16,
    set_: Set = [],  # noqa: B006
) -> None:
    """Measure an environment: tasks, scores of baselines, lengths, and whether a policy can learn from it."""
    if endpoint is not None and model is None:
        raise typer.BadParameter("--endpoint takes --model NAME")
    if api_key_env is not None and endpoint is None:
        raise typer.BadParameter("--api-key-env belongs to --endpoint URL")
    loaded = import_module("agentgrpo.cli.stats")
    asked = loaded.Asked(
        split=split,
        episodes=episodes,
        groups=groups,
        model=model,
        endpoint=endpoint,
        api_key_env=api_key_env,
        run=run,
    )
    loaded.stats(env, tasks, set_, asked)
