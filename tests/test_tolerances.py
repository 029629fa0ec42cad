"""What rounding alone does, on a model as deep and as sure of itself as those that are trained in half precision."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import DynamicCache, PreTrainedModel, Qwen3Config, Qwen3ForCausalLM

from agentgrpo import causal_lm
from agentgrpo.config.run import LoraConfig
from agentgrpo.engines.proof import Canary, prove
from agentgrpo.learner.policy import LoraPolicy
from agentgrpo.tolerances import LOGPROB_TOLERANCE
from agentgrpo.types import Policy

DEVIATION = 3.0  # of the logits; what models of some size have


@pytest.fixture(scope="module")
def deep() -> PreTrainedModel:
    config = Qwen3Config(
        vocab_size=2000,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=24,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=32,
        tie_word_embeddings=True,
        max_position_embeddings=64,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: PreTrainedModel = Qwen3ForCausalLM(config).eval().requires_grad_(False)
    model.model.norm.weight.data.fill_(DEVIATION / (config.initializer_range * config.hidden_size**0.5))
    return model


@torch.inference_mode()
def one_by_one(policy: LoraPolicy, canary: Canary) -> list[float]:
    """Return the logprobs of a canary as an engine computes them: each token after the cache of those before."""
    model, cache = policy.causal_lm, DynamicCache()
    hidden = [
        causal_lm.hidden_states(model, torch.tensor([[token]]), past_key_values=cache, use_cache=True)[0, 0]
        for token in canary.token_ids[:-1]
    ]
    weight, _ = causal_lm.head_weight(model)
    logprobs = (torch.stack(hidden).float() @ weight.float().T).log_softmax(-1)
    return [float(row[token]) for row, token in zip(logprobs, canary.token_ids[1:], strict=True)]


@pytest.mark.parametrize(
    ("dtype", "least"), [("bfloat16", 0.01), pytest.param("float16", 1e-3, marks=pytest.mark.slow)]
)
def test_no_version_is_refused_for_its_rounding(deep: PreTrainedModel, dtype: str, least: float) -> None:
    base = copy.deepcopy(deep).to(getattr(torch, dtype))
    policy = LoraPolicy(base, LoraConfig(rank=4), seed=0)
    canary = policy.canary()
    measured = one_by_one(policy, canary)
    gaps = [abs(a - b) for a, b in zip(measured, canary.logprobs, strict=True)]
    assert sum(gaps) / len(gaps) >= least  # there is something to be tolerated
    limit = LOGPROB_TOLERANCE[dtype]
    proof = prove(measured, canary, None, tolerance=limit, policy=Policy(version=0), server="one by one", seconds=0.0)
    assert 2 * proof.difference <= limit.each and 2 * sum(gaps) / len(gaps) <= limit.mean


def test_a_broken_adapter_is_refused_all_the_same(deep: PreTrainedModel) -> None:
    policy = LoraPolicy(copy.deepcopy(deep).to(torch.bfloat16), LoraConfig(rank=4), seed=0)  # type: ignore[arg-type]
    before = policy.canary()
    with torch.no_grad():
        for name, parameter in policy.model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.01)
    gaps = [abs(a - b) for a, b in zip(before.logprobs, policy.canary().logprobs, strict=True)]
    assert sum(gaps) / len(gaps) > LOGPROB_TOLERANCE["bfloat16"].mean
