"""What vLLM is started with, without vLLM."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from pydantic import BaseModel, ValidationError, field_validator

from agentgrpo.config.engine import EngineConfig
from agentgrpo.config.run import load_config
from agentgrpo.engines.card import CardPlan
from agentgrpo.engines.vllm_options import (
    LORA_RANKS,
    PROOF_PLACES,
    check_heads,
    engine_environment,
    engine_options,
    said_of,
)
from agentgrpo.errors import ConfigError, ModelError

GIB = 1 << 30


def options(
    device: str = "cpu",
    *,
    rank: int = 16,
    engine: dict[str, Any] | None = None,
    plan: CardPlan | None = None,
    **vllm: Any,
) -> Any:
    config = EngineConfig.model_validate({"kind": "vllm", "vllm": vllm, **(engine or {})})
    return engine_options(
        config,
        model_path="m",
        device=device,
        dtype="float32",
        lora_rank=rank,
        context_length=4096,
        live_versions=3,
        plan=plan,
    )


def test_what_is_said_is_passed_on() -> None:
    made = options("cuda:1", dtype="bfloat16", tensor_parallel_size=2, quantization="fp8", enforce_eager=True)
    assert made["dtype"] == "bfloat16"
    assert made["tensor_parallel_size"] == 2
    assert made["quantization"] == "fp8"
    assert made["enforce_eager"]
    assert made["device_ids"] == [1, 0]
    assert options("cuda", gpu_memory_utilization=0.4)["gpu_memory_utilization"] == 0.4
    assert options("cuda", kv_cache_gib=2)["kv_cache_memory_bytes"] == 2 * GIB
    assert options(engine={"max_sequences": 7})["max_num_seqs"] == 7 + PROOF_PLACES


def test_what_is_not_said_follows_from_the_rest() -> None:
    made = options()
    assert (made["dtype"], made["max_model_len"]) == ("float32", 4096)
    assert made["max_cpu_loras"] >= made["max_loras"] + 2
    assert made["logprobs_mode"] == "processed_logprobs"
    assert made["hf_overrides"] == {"head_dtype": "float32"}
    assert "gpu_memory_utilization" not in options("cuda")


@pytest.mark.parametrize(
    ("device", "count", "cards"),
    [("cuda:0", 1, [0]), ("cuda:3", 1, [3]), ("cuda:0", 2, [0, 1]), ("cuda:1", 2, [1, 0]), ("cuda:5", 4, [5, 0, 1, 2])],
)
def test_vllm_has_as_many_cards_as_it_cuts_its_tensors_in(device: str, count: int, cards: list[int]) -> None:
    assert options(device, tensor_parallel_size=count)["device_ids"] == cards


def test_an_option_vllm_checked_is_told_with_its_reason() -> None:
    class Checked(BaseModel):
        quantization: str

        @field_validator("quantization")
        @classmethod
        def _is_known(cls, quantization: str) -> str:
            raise ValueError(f"Unknown quantization method: {quantization}.\nMust be another")

    with pytest.raises(ValidationError) as found:
        Checked(quantization="bitsandbytes")
    assert said_of(found.value) == "Unknown quantization method: bitsandbytes. Must be another"
    assert said_of(RuntimeError("out of memory\nand more")) == "out of memory"


@pytest.mark.parametrize("mode", ["both", "sleep"])
def test_the_plan_of_the_card_is_followed(mode: Literal["both", "sleep"]) -> None:
    plan = CardPlan(mode=mode, cache=3e9, utilization=0.37)
    made = options("cuda", plan=plan)
    assert made["gpu_memory_utilization"] == 0.37
    assert made.get("enable_sleep_mode", False) == (mode == "sleep")
    assert options("cuda", plan=plan, gpu_memory_utilization=0.2)["gpu_memory_utilization"] == 0.2
    given = options("cuda", plan=plan, kv_cache_gib=2.0)  # vLLM's own share, nine tenths, is not free beside a learner
    assert (given["gpu_memory_utilization"], given["kv_cache_memory_bytes"]) == (0.37, 2 * GIB)


def test_on_the_cpu_no_prompt_is_cut_in_pieces() -> None:
    made = options()
    assert made["enable_chunked_prefill"] is False
    assert made["max_num_batched_tokens"] >= made["max_model_len"]
    assert options(max_num_batched_tokens=5000)["max_num_batched_tokens"] == 5000
    with pytest.raises(ConfigError, match="max_num_batched_tokens = 512 is less than the context of 4096"):
        options(max_num_batched_tokens=512)
    assert "enable_chunked_prefill" not in options("cuda", max_num_batched_tokens=512)


@pytest.mark.parametrize("key", ["gpu_memory_utilization", "enforce_eager"])
def test_what_the_cpu_has_no_use_for_is_refused(key: str) -> None:
    with pytest.raises(ConfigError, match=f"{key} has no effect on the CPU"):
        options(**dict[str, Any]({key: 1}))


def test_the_least_rank_that_holds_the_adapter_is_taken() -> None:
    assert [options(rank=rank)["max_lora_rank"] for rank in (1, 4, 16, 17, 512)] == [1, 8, 16, 32, 512]
    assert options(rank=4, max_lora_rank=64)["max_lora_rank"] == 64
    for rank, asked in ((16, 8), (16, 24)):
        with pytest.raises(ConfigError, match=f"max_lora_rank = {asked}"):
            options(rank=rank, max_lora_rank=asked)
    with pytest.raises(ConfigError, match="rank 512 at most"):
        options(rank=LORA_RANKS[-1] + 1)


def test_heads_without_a_kernel_are_refused_on_the_cpu_only() -> None:
    check_heads("cpu", 128)
    check_heads("cuda", 24)
    with pytest.raises(ModelError, match=r"heads have 24 numbers.*embedded"):
        check_heads("cpu", 24)


def test_nothing_is_compiled_on_the_cpu() -> None:
    assert "TORCHDYNAMO_DISABLE" in engine_environment("cpu")
    assert "TORCHDYNAMO_DISABLE" not in engine_environment("cuda")


@pytest.mark.parametrize(
    ("engine", "said"),
    [
        ({"vllm": {"enforce_eager": True}}, 'vllm has no effect with engine.kind = "embedded"'),
        ({"kind": "vllm", "prefill_tokens": 9}, 'prefill_tokens has no effect with engine.kind = "vllm"'),
        ({"kind": "vllm", "servers": {"urls": ["http://a"]}}, "servers has no effect"),
        ({"kind": "vllm", "vllm": {"kv_cache_gib": 1, "gpu_memory_utilization": 0.5}}, "beside kv_cache_gib"),
        ({"kind": "vllm", "vllm": {"tensor_paralel_size": 1}}, "Did you mean 'tensor_parallel_size'"),
        ({"kind": "vllm_servers"}, "needs at least one address"),
        ({"kind": "vllm_servers", "servers": {"urls": ["10.0.0.5:8000"]}}, "no server's address"),
        ({"kind": "vllm_servers", "servers": {"urls": ["http://a", "http://a/"]}}, "named twice"),
        ({"kind": "vllm", "vllm": {"max_live_versions": 1}}, "greater than or equal to 2"),
    ],
)
def test_keys_without_effect_or_sense_are_errors(engine: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_config({"engine": engine})
    assert said in str(error.value)


def test_the_resolved_config_holds_the_chosen_engine_alone() -> None:
    written = load_config({"engine": {"kind": "vllm", "vllm": {"kv_cache_gib": 1}}}).to_toml()
    assert "[engine.vllm]" in written and "[engine.servers]" not in written and "prefill_tokens" not in written
    assert "[engine.vllm]" not in load_config({}).to_toml()
