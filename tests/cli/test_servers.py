"""engine serve: which server is started, what a config needs to use it, and what a person reads when it cannot be."""

from __future__ import annotations

import os
import tomllib
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest

from agentgrpo.cli import servers
from agentgrpo.config.run import load_config
from agentgrpo.engines.vllm_options import PROOF_PLACES
from agentgrpo.errors import UserError

SETTINGS: dict[str, Any] = {"max_sequences": 32, "context_length": 256, "dtype": None, "lora_rank": 4, "versions": 2}


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], dict[str, str]]]:
    """What would have been started, vLLM being installed."""
    found: list[tuple[list[str], dict[str, str]]] = []
    monkeypatch.setattr(servers, "find_spec", lambda name: ModuleSpec(name, None))
    monkeypatch.setattr(servers, "check_heads", lambda device, size: None)
    monkeypatch.setattr(os, "execve", lambda program, words, environment: found.append((words, environment)))
    return found


def test_the_flags_are_those_a_pool_needs(
    tiny_folder: Path, started: list[tuple[list[str], dict[str, str]]], capsys: pytest.CaptureFixture[str]
) -> None:
    servers.serve(str(tiny_folder), "127.0.0.1", 8123, SETTINGS, "", ["--seed", "3"])
    ((words, environment),) = started
    assert environment["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "True"
    flags = " ".join(words)
    for part in (
        f"--model {tiny_folder} --host 127.0.0.1 --port 8123 --tokens-only",
        "--max-model-len 256",
        f"--max-num-seqs {32 + PROOF_PLACES}",
        "--enable-lora --max-loras 2 --max-cpu-loras 4 --max-lora-rank 8",
        "--enable-prefix-caching --logprobs-mode processed_logprobs",
        '--generation-config vllm --hf-overrides {"head_dtype": "float32"}',
        "--seed 3",
    ):
        assert part in flags
    printed = capsys.readouterr().out
    config = load_config(tomllib.loads(printed[printed.index("[engine]") :]))
    assert config.engine.kind == "vllm_servers" and config.engine.max_sequences == 32
    assert config.engine.servers.urls == ["http://127.0.0.1:8123"]


def test_a_server_for_all_is_named_by_its_machine_and_its_key_by_a_variable() -> None:
    lines = servers.config_lines("0.0.0.0", 8000, 8, "POOL_KEY")
    config = load_config(tomllib.loads(lines)).engine.servers
    assert "0.0.0.0" not in config.urls[0] and config.api_key_env == "POOL_KEY"


@pytest.mark.parametrize(
    ("change", "key", "message"),
    [
        ({"context_length": 4096}, "", "--context-length 4096, but the model .* was made for 1024 tokens"),
        ({"max_sequences": 0}, "", "max_sequences"),
        ({"kv_cache_gib": 1.0, "gpu_memory_utilization": 0.5}, "", "gpu_memory_utilization"),
        ({}, "NOT_SET_ANYWHERE", "environment variable is not set"),
    ],
)
def test_what_cannot_be_started_is_said(
    tiny_folder: Path,
    started: list[tuple[list[str], dict[str, str]]],
    change: dict[str, Any],
    key: str,
    message: str,
) -> None:
    with pytest.raises(UserError, match=message):
        servers.serve(str(tiny_folder), "127.0.0.1", 8000, SETTINGS | change, key, [])
    assert not started


def test_without_a_model_or_without_vllm(
    tmp_path: Path, started: list[tuple[list[str], dict[str, str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"is no model folder: it has no config\.json"):
        servers.serve(str(tmp_path), "127.0.0.1", 8000, SETTINGS, "", [])
    monkeypatch.setattr(servers, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="needs vLLM, which is not installed"):
        servers.serve(str(tmp_path), "127.0.0.1", 8000, SETTINGS, "", [])
    assert not started
