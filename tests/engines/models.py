"""Random models and adapters, and what a model says without any engine: the reference the engines are compared with."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import PreTrainedModel, Qwen3Config, Qwen3ForCausalLM

from agentgrpo.types import Adapter


def save_wide(folder: Path, *, vocabulary: int, context: int) -> Path:
    """Write a random model whose attention heads are as large as vLLM's kernels on the CPU want them."""
    config = Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        intermediate_size=128,
        max_position_embeddings=context,
        tie_word_embeddings=True,
        initializer_range=0.125,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        Qwen3ForCausalLM(config).save_pretrained(folder)
    return folder


def random_adapter(
    model: PreTrainedModel, seed: int, *, rank: int = 4, alpha: float = 8, scale: float = 0.3
) -> Adapter:
    """Return an adapter for every linear layer of the decoder, large enough to change what is said."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and not name.endswith("lm_head"):
            down, up = (rank, module.in_features), (module.out_features, rank)
            tensors[f"base_model.model.{name}.lora_A.weight"] = torch.randn(down, generator=generator) * scale
            tensors[f"base_model.model.{name}.lora_B.weight"] = torch.randn(up, generator=generator) * scale
    return Adapter(tensors=tensors, config={"r": rank, "lora_alpha": alpha}, sha256=str(seed))


def merged(model: PreTrainedModel, adapter: Adapter | None) -> PreTrainedModel:
    """Return a copy of the model with the adapter added to its weights, by the formula."""
    model = copy.deepcopy(model)
    if adapter is not None:
        scale = adapter.config["lora_alpha"] / adapter.config["r"]
        for name, down in adapter.tensors.items():
            if ".lora_A" in name:
                up = adapter.tensors[name.replace("lora_A", "lora_B")]
                module = model.get_submodule(name.removeprefix("base_model.model.").removesuffix(".lora_A.weight"))
                module.weight.data += scale * up @ down
    return model


@torch.no_grad()
def logprobs_of(
    model: PreTrainedModel, prompt: Sequence[int], completion: Sequence[int], temperature: float = 1.0
) -> list[float]:
    """Return the logprob of each token of a completion in one plain forward pass over all of it."""
    logits = model(torch.tensor([[*prompt, *completion]])).logits[0, len(prompt) - 1 : -1] / temperature
    chosen = logits.log_softmax(-1).gather(1, torch.tensor(completion)[:, None])
    return [float(x) for x in chosen[:, 0]]


@torch.no_grad()
def greedy(model: PreTrainedModel, prompt: Sequence[int], count: int) -> list[int]:
    """Return the likeliest tokens, each from a plain forward pass over everything before it."""
    ids = list(prompt)
    for _ in range(count):
        ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt) :]
