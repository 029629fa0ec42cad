"""A vLLM engine as a run starts it, and a policy to publish: what the benchmarks with vLLM share."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

import torch

from agentgrpo import causal_lm
from agentgrpo.config.engine import EngineConfig
from agentgrpo.config.run import LoraConfig
from agentgrpo.engines.vllm_options import engine_environment, engine_options
from agentgrpo.learner.policy import LoraPolicy
from agentgrpo.tolerances import LOGPROB_TOLERANCE
from bench.lockbox_model import lockbox_model

if TYPE_CHECKING:
    from agentgrpo.engines.vllm_local import VllmEngine

RANK, CONTEXT, SEQUENCES = 16, 1024, 64


def has_vllm() -> bool:
    """Return whether vLLM is installed."""
    return importlib.util.find_spec("vllm") is not None


def options() -> dict[str, Any]:
    """Return what vLLM is started with, here and bare."""
    return engine_options(
        EngineConfig(kind="vllm", max_sequences=SEQUENCES),
        model_path=str(lockbox_model(head_dim=32)),
        device="cpu",
        dtype="float32",
        lora_rank=RANK,
        context_length=CONTEXT,
        live_versions=2,
    )


def start() -> VllmEngine:
    """Start vLLM in this process, as a run does."""
    from agentgrpo.engines.vllm_local import VllmEngine

    return VllmEngine(options(), tolerance=LOGPROB_TOLERANCE["float32"], environment=engine_environment("cpu"))


def policy() -> LoraPolicy:
    """Return a policy over the same model."""
    base = causal_lm.load_model(lockbox_model(head_dim=32), device=torch.device("cpu"), dtype=torch.float32)
    return LoraPolicy(base, LoraConfig(rank=RANK, alpha=2 * RANK), seed=0)


def move(trained: LoraPolicy, version: int) -> None:
    """Change the adapter a little, as a train step does."""
    generator = torch.Generator().manual_seed(version)
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter += 0.01 * torch.randn(parameter.shape, generator=generator)
