"""`agentgrpo`: the commands, and how errors reach a person.

Heavy modules are imported by the command that needs them.
"""

from __future__ import annotations

import codecs
import errno
import logging
import sys
from importlib import import_module
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from agentgrpo.cli import authoring, taking
from agentgrpo.cli.authoring import Set
from agentgrpo.cli.replay import replay, run_app
from agentgrpo.cli.show import show
from agentgrpo.errors import RunError, UserError

_ABOUT = "Train tool-use agents by reinforcement learning on multi-turn environments."

_REFUSALS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT)  # of a folder, never of the program
_PLAIN = {
    "✓": "y",
    "✗": "n",
    "·": "|",
    "…": "~",
    "\u2013": "-",
    "─": "-",
    "→": ">",
    "±": "~",
}  # where UTF-8 is not spoken

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=_ABOUT)
env_app = typer.Typer(no_args_is_help=True, help="Make, check, play and measure environments.")
model_app = typer.Typer(no_args_is_help=True, help="Make and warm-start models.")
engine_app = typer.Typer(no_args_is_help=True, help="Start what generates.")
app.add_typer(env_app, name="env")
app.add_typer(model_app, name="model")
app.add_typer(engine_app, name="engine")
app.add_typer(run_app, name="run")
app.command()(show)
app.command()(replay)
authoring.register(env_app)
taking.register(run_app)

MaxHours = Annotated[float | None, typer.Option(help="Stop training after this many hours.")]


@app.command()
def train(
    config: Annotated[Path | None, typer.Argument(help="A TOML file; not needed with --resume.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with this run, stopped or killed.")] = None,
    set_: Set = [],  # noqa: B006
    max_hours: MaxHours = None,
    from_record: Annotated[Path | None, typer.Option(help="Make one step of this run again, and compare.")] = None,
    step: Annotated[int | None, typer.Option(min=1, help="Which step, with --from-record.")] = None,
) -> None:
    """Train an agent as a config file says, or go on with a run."""
    if (from_record is None) is not (step is None) or (from_record and (config or resume or max_hours)):
        raise typer.BadParameter("--from-record RUN and --step K go together, and with nothing but --set")
    if from_record is not None:
        _load("agentgrpo.cli.replaying").from_record(from_record, step, set_)
        return
    if config is None and resume is None:
        raise typer.BadParameter("give a TOML file, or --resume RUN")
    _load("agentgrpo.cli.commands").train(config, resume, set_, max_hours)


@app.command()
def demo(set_: Set = [], max_hours: MaxHours = None) -> None:  # noqa: B006
    """Train a tiny agent on the shop, from nothing, on this machine."""
    _load("agentgrpo.cli.commands").demo(set_, max_hours)


@app.command()
def view(
    runs: Annotated[Path, typer.Argument(help="A folder of runs, or one run.")] = Path("runs"),
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Of this machine: 7420, or the next free.")] = None,
    browser: Annotated[bool, typer.Option(help="Open it in a browser.")] = True,
) -> None:
    """Look at runs in a web page of this machine: curves, groups, episodes, tokens; also while they train."""
    _load("agentgrpo.cli.view").view(runs, port, browser=browser)


@app.command()
def doctor(
    config: Annotated[Path | None, typer.Argument(help="A TOML file; the demo's when none is given.")] = None,
    set_: Set = [],  # noqa: B006
    json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Look at everything a run will need, before the run; forecast its memory, time and disk."""
    _load("agentgrpo.cli.doctor").doctor(config, set_, as_json=json)


@app.command(name="eval")
def eval_(
    target: Annotated[
        str, typer.Argument(help="A run or a folder of runs; with --endpoint an environment or a TOML file.")
    ],
    checkpoint: Annotated[str | None, typer.Option(help="best, last, step-NNNNNN, or base (no adapter).")] = None,
    split: Annotated[str, typer.Option(help="Which tasks: the held-out ones, or a split of the environment.")] = "",
    tasks: Annotated[int | None, typer.Option(min=1, help="The first so many of them.")] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="Episodes of each task.")] = None,
    temperature: Annotated[float | None, typer.Option(min=0, help="Of sampling; 0 is greedy.")] = None,
    endpoint: Annotated[str | None, typer.Option(help="Evaluate the chat model behind this URL.")] = None,
    model: Annotated[str | None, typer.Option(help="What the endpoint calls it.")] = None,
    api_key_env: Annotated[str | None, typer.Option(help="The environment variable that holds its key.")] = None,
    concurrency: Annotated[int | None, typer.Option(min=1, help="Episodes of an endpoint at once (8).")] = None,
    set_: Set = [],  # noqa: B006
) -> None:
    """Evaluate on held-out tasks: a run's adapter, or any chat model behind an OpenAI-compatible endpoint."""
    numbers = {"tasks": tasks, "samples": samples, "temperature": temperature}
    overrides = [*set_, *(f"eval.{key}={value}" for key, value in numbers.items() if value is not None)]
    commands = _load("agentgrpo.cli.commands")
    if endpoint is None and (model or api_key_env or concurrency):
        raise typer.BadParameter("--model, --api-key-env and --concurrency belong to --endpoint URL")
    if endpoint is None:
        commands.evaluate_run(Path(target), checkpoint or "best", split, overrides)
    elif model is None or checkpoint is not None:
        raise typer.BadParameter("--endpoint takes --model NAME, and no --checkpoint")
    else:
        commands.evaluate_model(target, endpoint, model, api_key_env, concurrency or 8, split, overrides)


@env_app.command(name="check")
def env_check(
    env: authoring.Env,
    tasks: authoring.Tasks = None,
    count: Annotated[int, typer.Option(help="How many tasks to try.")] = 20,
    seed: int = 0,
    set_: Set = [],  # noqa: B006
) -> None:
    """Check that an environment is fit to train on; each check that fails says what to do."""
    _load("agentgrpo.cli.environments").check(env, tasks, count, seed, set_)


@env_app.command(name="list")
def env_list() -> None:
    """List the environments that come with agentgrpo."""
    _load("agentgrpo.cli.environments").list_shipped()


@env_app.command(name="serve")
def env_serve(
    env: Annotated[str, typer.Argument(help="What names an environment, or a TOML file whose env and env_args count.")],
    host: Annotated[str, typer.Option(help="The address to listen on; 0.0.0.0 for all. There are no passwords.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, help="0 takes a free one.")] = 8000,
    capacity: Annotated[int, typer.Option(min=1, help="Most episodes at once.")] = 128,
    seconds: Annotated[float, typer.Option(help="Deadline of a reset or step.")] = 60.0,
    set_: Set = [],  # noqa: B006
) -> None:
    """Serve an environment over OpenEnv's WebSocket protocol."""
    _load("agentgrpo.cli.env_serve").serve(env, host, port, capacity, seconds, set_)


@model_app.command(name="tiny")
def model_tiny(
    folder: Annotated[Path, typer.Argument(help="Where to write the model.")],
    env: Annotated[str, typer.Option(help="The environment whose text the tokenizer is fitted to.")] = "shop",
    episodes: Annotated[int, typer.Option(help="Oracle episodes to fit it on.")] = 2000,
    seed: int = 0,
) -> None:
    """Make a tiny Qwen3-architecture model with random weights and a fitted tokenizer."""
    _load("agentgrpo.cli.models").tiny(folder, env, episodes, seed)


@model_app.command(name="sft")
def model_sft(
    model: Annotated[str, typer.Argument(help="A model folder or hub name to start from.")],
    folder: Annotated[Path, typer.Argument(help="Where to write the fine-tuned model.")],
    env: Annotated[str | None, typer.Option(help="The environment whose oracle demonstrates (shop).")] = None,
    run: Annotated[Path | None, typer.Option(help="Learn from the successful episodes of this run instead.")] = None,
    steps: int = 600,
    episodes: Annotated[int, typer.Option(help="Demonstrations; of a run, the most that are taken.")] = 2000,
    quality: Annotated[
        float | None, typer.Option(help="Probability that a demonstrated decision is the oracle's (1).")
    ] = None,
    learning_rate: float = 1e-3,
    batch_size: int = 16,
    seed: int = 0,
) -> None:
    """Fine-tune a model on demonstrations: an environment's oracle's, or the good episodes of a run."""
    if run is not None and (env is not None or quality is not None):
        raise typer.BadParameter("--env and --quality are about an oracle: leave them out with --run")
    settings = {"steps": steps, "episodes": episodes, "learning_rate": learning_rate, "batch_size": batch_size}
    settings |= {"quality": 1.0 if quality is None else quality, "perfect_fraction": 0.0}
    models = _load("agentgrpo.cli.models")
    if run is not None:
        models.sft_from_run(model, folder, run, settings, seed)
    else:
        models.sft(model, folder, env or "shop", settings, seed)


@engine_app.command(name="serve", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def engine_serve(
    more: typer.Context,
    model: Annotated[str, typer.Argument(help="A model folder or hub name.")],
    host: Annotated[str, typer.Option(help="The address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    port: int = 8000,
    max_sequences: Annotated[int, typer.Option(help="Most sequences at once.")] = 128,
    context_length: Annotated[int | None, typer.Option(help="Most tokens; the model's own by default.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16.")] = None,
    lora_rank: Annotated[int, typer.Option(help="Largest rank of an adapter: model.lora.rank.")] = 16,
    versions: Annotated[int, typer.Option(help="Versions alive at once: train.max_staleness + 2, at least.")] = 2,
    tensor_parallel_size: int = 1,
    gpu_memory_utilization: Annotated[float | None, typer.Option(help="Share of a card it may take.")] = None,
    kv_cache_gib: Annotated[float | None, typer.Option(help="Size of its cache; on the CPU 1 by default.")] = None,
    quantization: Annotated[str | None, typer.Option(help="Of the base model, in vLLM's words.")] = None,
    api_key_env: Annotated[str, typer.Option(help="Environment variable with the key it shall ask for.")] = "",
) -> None:
    """Start a vLLM server for runs with engine.kind = "vllm_servers"; further flags go to `vllm serve`."""
    settings: dict[str, Any] = {"max_sequences": max_sequences, "context_length": context_length, "dtype": dtype}
    settings |= {"lora_rank": lora_rank, "versions": versions, "tensor_parallel_size": tensor_parallel_size}
    settings |= {"gpu_memory_utilization": gpu_memory_utilization, "kv_cache_gib": kv_cache_gib}
    settings |= {"quantization": quantization}
    _load("agentgrpo.cli.servers").serve(model, host, port, settings, api_key_env, more.args)


def main() -> None:
    """Run the command line; a user's error is one message and exit code 2, a run's is exit code 1."""
    codecs.register_error("agentgrpo.plain", _plainly)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="agentgrpo.plain")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    logging.getLogger("huggingface_hub").propagate = False  # it prints its warnings itself
    errors = Console(stderr=True, highlight=False)
    try:
        app()
    except UserError as error:
        errors.print(Text.assemble(("error:", "bold red"), f" {error}"), soft_wrap=True)
        sys.exit(2)
    except RunError as error:
        errors.print(Text.assemble(("the run stopped:", "bold red"), f" {error}"), soft_wrap=True)
        sys.exit(1)
    except OSError as error:
        if error.errno not in _REFUSALS:
            raise
        where = f" '{error.filename}'" if error.filename else ""
        reason = f" the machine refused{where}: {error.strerror}. Free space, mend the rights, or name another folder."
        errors.print(Text.assemble(("error:", "bold red"), reason), soft_wrap=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def _plainly(error: UnicodeError) -> tuple[str, int]:
    """Return what a screen without these signs gets instead, of the same width."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(_PLAIN.get(sign, "?") for sign in error.object[error.start : error.end]), error.end


def _load(name: str) -> Any:
    """Import a module on demand, so that `show` and `--help` start without torch."""
    return import_module(name)


if __name__ == "__main__":
    main()
