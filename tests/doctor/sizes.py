"""The sizes of a model that is not there."""

from __future__ import annotations

from agentgrpo.doctor.subject import ModelFacts

QWEN3_06B = {  # Qwen/Qwen3-0.6B
    "hidden_size": 1024,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 3072,
    "vocab_size": 151936,
}


def facts(dtype_bytes: int = 4, linear: int = 440_000_000) -> ModelFacts:
    """Return what the doctor would find in the folder of such a model."""
    return ModelFacts(
        config=QWEN3_06B,
        parameters=596_049_920,
        dtype_bytes=dtype_bytes,
        file_bytes=1_200_000_000,
        linear_parameters=linear,
        adapter_parameters=10_000_000,
    )
