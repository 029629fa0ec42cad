"""The memory forecast's formulas, against sizes counted by hand and against tensors that are really there."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedModel

from agentgrpo import sizes
from agentgrpo.config.engine import EngineConfig
from agentgrpo.config.run import LearnerConfig, LoraConfig, ModelConfig
from agentgrpo.doctor import memory
from tests.doctor.sizes import QWEN3_06B, facts


def test_the_cache_of_a_known_model() -> None:
    assert sizes.cache_column(QWEN3_06B, 2) == 2 * 28 * 8 * 128 * 2
    assert memory.cache(QWEN3_06B, slots=128, columns=1024, dtype_bytes=2) == 128 * 1024 * 114_688


def test_a_config_without_key_heads_or_head_size_has_those_of_its_queries(model: PreTrainedModel) -> None:
    plain = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    assert sizes.cache_column(plain, 4) == 2 * 2 * 64 * 4


@pytest.mark.parametrize(("longest", "expected"), [(20, 32), (64, 64), (65, 96), (300, 320)])
def test_the_cache_is_made_of_whole_blocks(longest: int, expected: int) -> None:
    assert memory.cache_columns(longest) == expected


def test_weights_and_adapter() -> None:
    assert memory.weights(facts(2)) == pytest.approx(1.19e9, rel=0.01)
    assert memory.adapter(facts()) == 10_000_000 * 4 * 6


def test_only_small_models_in_full_precision_are_merged() -> None:
    assert memory.merged(facts(4, linear=1_000_000)) == 8_000_000
    assert memory.merged(facts(2, linear=1_000_000)) == 0
    assert memory.merged(facts(4)) == 0


def test_the_floor_is_weights_and_prompts() -> None:
    engine = EngineConfig(max_sequences=10)
    assert memory.floor(facts(2), engine, 100) == memory.weights(facts(2)) + 10 * 100 * 114_688


@given(tokens=st.integers(1, 10_000), trained=st.integers(0, 10_000))
def test_more_tokens_never_take_less(tokens: int, trained: int) -> None:
    def size(more: int, checkpointing: bool = False) -> float:
        how = ModelConfig(lora=LoraConfig(rank=8), gradient_checkpointing=checkpointing)
        return memory.learner(facts(), LearnerConfig(), tokens=tokens + more, trained=trained + more, how=how)

    assert 0 < size(0) < size(1)
    assert size(0, checkpointing=True) < size(0)


def test_the_head_is_computed_in_chunks_of_the_vocabulary() -> None:
    assert sizes.head(151_936, 10) == sizes.head(8192, 10)
