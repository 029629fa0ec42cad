"""[engine] and its tables: where tokens come from.

What holds for every engine is in [engine]; what only one kind understands is in a table of its own.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from agentgrpo.config.section import Section


class VllmConfig(Section):
    """[engine.vllm]: vLLM in this process. Keys left out are vLLM's own defaults, or follow from [model]."""

    dtype: Literal["float32", "bfloat16", "float16"] | None = None  # None: the learner's
    tensor_parallel_size: int = Field(1, gt=0)
    gpu_memory_utilization: float | None = Field(None, gt=0, le=1)  # of the card, instead of what the sizes leave it
    kv_cache_gib: float | None = Field(None, gt=0)  # of keys and values, on a card or in the machine's memory
    max_lora_rank: int | None = Field(None, gt=0)  # None: the least vLLM has that holds model.lora.rank
    max_live_versions: int | None = Field(None, ge=2)  # None: what train.max_staleness needs
    quantization: str | None = None  # of the base model, in vLLM's words: "bitsandbytes", "fp8", ...
    max_num_batched_tokens: int | None = Field(None, gt=0)
    enforce_eager: bool = False

    def dead_keys(self) -> dict[str, str]:
        """Return what a cache of a given size leaves unused."""
        why = "beside kv_cache_gib, which says how large the cache is: remove one of them"
        return {"gpu_memory_utilization": why} if self.kv_cache_gib is not None else {}


class ServersConfig(Section):
    """[engine.servers]: a pool of vLLM servers."""

    urls: list[str] = Field([])
    dtype: Literal["float32", "bfloat16", "float16"] | None = None  # what they compute in; None: as the learner
    connect_seconds: float = Field(10.0, gt=0)
    first_token_seconds: float = Field(60.0, gt=0)  # without any progress: the server has stalled
    outage_seconds: float = Field(120.0, gt=0)  # without any server that serves: what waits for one fails
    retries: int = Field(4, ge=0)
    adapter_folder: str | None = None  # one that all servers can read; None: on this machine
    api_key_env: str | None = None  # the environment variable that holds the key, never the key itself

    @field_validator("urls")
    @classmethod
    def _are_http(cls, urls: list[str]) -> list[str]:
        for url in urls:
            if not url.startswith(("http://", "https://")):
                raise ValueError(f"'{url}' is no server's address: expected one like http://10.0.0.5:8000")
            if "@" in url:
                raise ValueError("an address names no user and no password: set api_key_env to a variable with the key")
        if len({url.rstrip("/") for url in urls}) < len(urls):
            raise ValueError("one server is named twice: name each once")
        return urls


class EngineConfig(Section):
    """Where tokens come from."""

    kind: Literal["embedded", "vllm", "vllm_servers"] = "embedded"
    max_sequences: int = Field(128, gt=0)
    context_length: int | None = Field(None, gt=0)
    prefill_tokens: int = Field(1024, gt=0)
    vllm: VllmConfig = VllmConfig()
    servers: ServersConfig = ServersConfig()

    def dead_keys(self) -> dict[str, str]:
        """Return what belongs to other kinds of engine."""
        owners = {"prefill_tokens": "embedded", "vllm": "vllm", "servers": "vllm_servers"}
        return {
            key: f'with engine.kind = "{self.kind}": it is for "{kind}"; remove it, or change the kind'
            for key, kind in owners.items()
            if kind != self.kind
        }

    @model_validator(mode="after")
    def _has_servers(self) -> Self:
        if self.kind == "vllm_servers" and not self.servers.urls:
            raise ValueError(
                'kind = "vllm_servers" needs at least one address: set urls = ["http://host:8000"] in [engine.servers] '
                "(`agentgrpo engine serve` starts one and prints this line)"
            )
        return self
