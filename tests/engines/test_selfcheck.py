from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    CohereConfig,
    GraniteConfig,
    PretrainedConfig,
    PreTrainedModel,
)

from agentgrpo.engines import passes
from agentgrpo.engines.attention import Feed, Ints
from agentgrpo.engines.selfcheck import check_model, is_batch_invariant
from agentgrpo.errors import ModelError

SMALL: dict[str, Any] = {
    "vocab_size": 100,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}


@torch.inference_mode()
def test_this_machine_keeps_the_promise(model: PreTrainedModel) -> None:
    assert torch.get_num_threads() <= 2  # with more, products are cut between threads
    assert is_batch_invariant(model)


@torch.inference_mode()
@pytest.mark.parametrize("depends_on", ["rows", "slots"])
def test_a_machine_that_does_not_is_found_out(
    model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch, depends_on: str
) -> None:
    """A last bit that depends on how many tokens share a pass, or on where a sequence lies, is enough."""
    run_pass = passes.run_pass

    def disturbed(model: PreTrainedModel, tokens: Ints, feed: Feed) -> Tensor:
        hidden = run_pass(model, tokens, feed)
        is_hit = len(tokens) > 200 if depends_on == "rows" else int(feed.cache.table[feed.slots[0], 0]) > 6
        return hidden * (1 + 2**-22) if is_hit else hidden

    monkeypatch.setattr(passes, "run_pass", disturbed)
    assert not is_batch_invariant(model)


def test_the_shipped_kind_of_model_is_taken(model: PreTrainedModel) -> None:
    check_model(model)


@pytest.mark.parametrize(
    "config",
    [
        BloomConfig(vocab_size=100, hidden_size=32, n_layer=2, n_head=2),  # its positions are in its own attention
        GraniteConfig(**SMALL, logits_scaling=8.0),
        CohereConfig(**SMALL, pad_token_id=0, bos_token_id=1, eos_token_id=2),
    ],
    ids=lambda config: config.model_type,
)
def test_a_model_that_would_be_sampled_from_wrongly_is_refused(config: PretrainedConfig) -> None:
    other = AutoModelForCausalLM.from_config(config).eval()
    with pytest.raises(ModelError, match=f"cannot run a model of type '{config.model_type}'"):
        check_model(other)
