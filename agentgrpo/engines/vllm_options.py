"""vLLM's engine arguments and environment from [engine], [engine.vllm] and [model], without importing vllm."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pydantic import ValidationError

from agentgrpo.config.engine import EngineConfig
from agentgrpo.engines.card import CardPlan
from agentgrpo.errors import ConfigError, ModelError, first_line

LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # those vLLM has kernels for
PROOF_PLACES = 8  # sequences beside those of sessions: a version is proved while every session generates
SPARE_VERSIONS = 2  # in the machine's memory beside those alive: one being loaded, one being removed
GIB = 1 << 30
_BATCHED_TOKENS = 8192  # of a step on the CPU; more only makes running requests wait for prompts
_CPU_CACHE_GIB = 1.0
_CPU_HEADS = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)  # numbers per attention head it has kernels for
_CPU_BLOCK = 32  # tokens; vLLM's own 128 there would cache few prompts of agents


def engine_options(
    engine: EngineConfig,
    *,
    model_path: str,
    device: str,
    dtype: str,
    lora_rank: int,
    context_length: int,
    live_versions: int,
    plan: CardPlan | None = None,
) -> dict[str, Any]:
    """Return the keyword arguments of vLLM's `AsyncEngineArgs`.

    Args:
        engine: [engine].
        model_path: The model's folder or hub name.
        device: The learner's device ("cpu", "cuda", "cuda:1").
        dtype: The learner's dtype.
        lora_rank: [model.lora] rank.
        context_length: Most tokens of a prompt and its completion.
        live_versions: Most versions alive at once.
        plan: How the learner and vLLM share the card.

    Raises:
        ConfigError: a key has no effect on this device, or the keys do not go together.
    """
    vllm = engine.vllm
    options: dict[str, Any] = {
        "model": model_path,
        "dtype": vllm.dtype or dtype,
        "max_model_len": context_length,
        "max_num_seqs": engine.max_sequences + PROOF_PLACES,
        "tensor_parallel_size": vllm.tensor_parallel_size,
        "quantization": vllm.quantization,
        "enforce_eager": vllm.enforce_eager,
        "enable_lora": True,
        "max_loras": live_versions,
        "max_cpu_loras": live_versions + SPARE_VERSIONS,
        "max_lora_rank": _lora_rank(vllm.max_lora_rank, lora_rank),
        "enable_prefix_caching": True,
        "logprobs_mode": "processed_logprobs",  # of the distribution sampled from, which the learner can match
        "skip_tokenizer_init": True,  # token ids in, token ids out
        "use_tqdm_on_load": False,
        "generation_config": "vllm",  # the model folder's own sampling defaults would be applied unseen
        "hf_overrides": {"head_dtype": "float32"},  # as the learner: in bfloat16 logprobs would move by hundredths
    }
    return options | (_on_cpu(engine, context_length) if device == "cpu" else _on_card(engine, device, plan))


def engine_environment(device: str) -> dict[str, str]:
    """Return what vLLM's processes find in their environment, beside what is there."""
    quiet = {  # of what vLLM is made of; what is an error is still told
        "PYTHONWARNINGS": "ignore::FutureWarning,ignore:resource_tracker:UserWarning",
        "TORCH_CPP_LOG_LEVEL": "ERROR",
        "TORCH_LOGS": "-all",
    }
    # On the CPU all that would be compiled is one small kernel of logprobs, for 10 to 20 seconds.
    more = {"TORCHDYNAMO_DISABLE": "1"} if device == "cpu" else {}
    return {name: value for name, value in quiet.items() if name not in os.environ} | more


@contextmanager
def more_environment(more: Mapping[str, str]) -> Iterator[None]:
    """Let processes started meanwhile find these variables."""
    before = {name: os.environ.get(name) for name in more}
    os.environ.update(more)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value


def said_of(error: Exception) -> str:
    """Return what an error says in one line: of vLLM's checked options, the first line only counts the errors."""
    if not isinstance(error, ValidationError):
        return first_line(error)
    return "; ".join(" ".join(one["msg"].removeprefix("Value error, ").split()) for one in error.errors())


def cpu_cache_bytes(engine: EngineConfig) -> int:
    """Return the bytes of vLLM's cache on the CPU."""
    return int((engine.vllm.kv_cache_gib or _CPU_CACHE_GIB) * GIB)


def check_heads(device: str, head_dim: int) -> None:
    """Refuse a model vLLM's CPU build cannot compute the attention of.

    Raises:
        ModelError: its heads have another size than those there are kernels for.
    """
    if device == "cpu" and head_dim not in _CPU_HEADS:
        raise ModelError(
            f"the model's attention heads have {head_dim} numbers; vLLM's CPU build computes heads of "
            f'{", ".join(map(str, _CPU_HEADS))}: set engine.kind = "embedded", or make the model with other '
            "[warm_start.tiny] heads (hidden_size / heads is their size)"
        )


def _on_cpu(engine: EngineConfig, context_length: int) -> dict[str, Any]:
    vllm = engine.vllm
    dead = {"gpu_memory_utilization": vllm.gpu_memory_utilization, "enforce_eager": vllm.enforce_eager}
    for key, value in dead.items():
        if value:
            raise ConfigError(
                f"engine.vllm.{key} has no effect on the CPU: remove it"
                + (" and say how large the cache is with kv_cache_gib" if key == "gpu_memory_utilization" else "")
            )
    asked = vllm.max_num_batched_tokens
    if asked is not None and asked < context_length:
        raise ConfigError(
            f"engine.vllm.max_num_batched_tokens = {asked} is less than the context of {context_length}: on the CPU a "
            "prompt has to fit one step; raise it, or lower engine.context_length"
        )
    return {
        # A seeded request whose prefill is cut in pieces ends the CPU build's engine process.
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": asked or max(_BATCHED_TOKENS, context_length),
        "kv_cache_memory_bytes": cpu_cache_bytes(engine),
        "block_size": _CPU_BLOCK,
    }


def _on_card(engine: EngineConfig, device: str, plan: CardPlan | None) -> dict[str, Any]:
    vllm = engine.vllm
    _, _, index = device.partition(":")
    options: dict[str, Any] = {"device_ids": _cards(int(index), vllm.tensor_parallel_size)} if index else {}
    if vllm.max_num_batched_tokens is not None:
        options["max_num_batched_tokens"] = vllm.max_num_batched_tokens
    if vllm.kv_cache_gib is not None:
        options["kv_cache_memory_bytes"] = int(vllm.kv_cache_gib * GIB)
    # Beside a cache of a given size too: before it starts, vLLM wants its share of the card to be free.
    share = vllm.gpu_memory_utilization or (plan.utilization if plan is not None else None)
    if share is not None:
        options["gpu_memory_utilization"] = share
    return options | ({"enable_sleep_mode": True} if plan is not None and plan.mode == "sleep" else {})


def _cards(own: int, count: int) -> list[int]:
    """Return the learner's card and, where tensors are cut over several, the lowest others."""
    return [own, *(card for card in range(count) if card != own)][:count]


def _lora_rank(asked: int | None, rank: int) -> int:
    if asked is not None and (asked not in LORA_RANKS or asked < rank):
        raise ConfigError(
            f"engine.vllm.max_lora_rank = {asked}: expected one of {', '.join(map(str, LORA_RANKS))}, at least "
            f"model.lora.rank = {rank}"
        )
    fitting = [known for known in LORA_RANKS if known >= rank]
    if not fitting:
        raise ConfigError(f"model.lora.rank = {rank}: vLLM takes adapters of rank {LORA_RANKS[-1]} at most")
    return asked or fitting[0]
