from __future__ import annotations

import copy
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from agentgrpo import causal_lm
from agentgrpo.engines import versions
from agentgrpo.engines.versions import PolicyVersions, low_rank_pairs
from agentgrpo.errors import EngineFailure, ModelError
from agentgrpo.types import Adapter, Policy
from tests.engines.models import merged, random_adapter

PROMPT = torch.tensor([[5, 9, 300, 41, 7]])


class Packed(nn.Linear):
    """A linear layer as quantized models have them: its weight is a column of integers."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear.in_features, linear.out_features, bias=False)
        self.scale = linear.weight.abs().max() / 127
        packed = (linear.weight / self.scale).round().to(torch.int8).view(-1, 1)
        self.weight = nn.Parameter(packed, requires_grad=False)

    @property
    def unpacked(self) -> Tensor:
        return self.weight.view(self.out_features, self.in_features) * self.scale

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.unpacked.to(x.dtype))


def hidden(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        return causal_lm.hidden_states(model, PROMPT, use_cache=False)


@pytest.mark.parametrize("limit", [1 << 30, 0], ids=["merged", "low-rank"])
def test_every_version_is_base_plus_its_own_adapter(
    model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr(versions, "_MERGE_LIMIT_BYTES", limit)
    shared = causal_lm.share_weights(model)
    live = PolicyVersions(shared)
    before = hidden(model)
    adapters: Sequence[Adapter | None] = [None, random_adapter(model, 1), random_adapter(model, 2)]
    for version, adapter in enumerate(adapters):
        live.add(Policy(version=version), adapter)
    for version in (2, 0, 1, 2):
        with live.use(Policy(version=version)) as current:
            torch.testing.assert_close(hidden(current), hidden(merged(model, adapters[version])), rtol=0, atol=2e-4)
    assert torch.equal(hidden(model), before)  # whoever shares the weights sees nothing of it


@pytest.mark.parametrize("limit", [1 << 30, 0], ids=["merged", "low-rank"])
def test_an_adapter_of_some_layers_leaves_the_others_at_the_base(
    model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr(versions, "_MERGE_LIMIT_BYTES", limit)
    live = PolicyVersions(causal_lm.share_weights(model))
    whole = random_adapter(model, 1)
    part = Adapter(
        tensors={k: v for k, v in whole.tensors.items() if "q_proj" in k}, config=whole.config, sha256="part"
    )
    live.add(Policy(version=1), whole)
    live.add(Policy(version=2), part)
    with live.use(Policy(version=1)), live.use(Policy(version=2)) as current:
        torch.testing.assert_close(hidden(current), hidden(merged(model, part)), rtol=0, atol=2e-4)


def test_quantized_layers_compute_as_they_do_and_get_the_adapter_beside(model: PreTrainedModel) -> None:
    rounded, packed = copy.deepcopy(model), causal_lm.share_weights(model)
    adapter = random_adapter(model, 1)
    for name in low_rank_pairs(adapter):
        parent, _, leaf = name.rpartition(".")
        layer = Packed(packed.get_submodule(name))  # type: ignore[arg-type]  # all that adapters target are linear
        setattr(packed.get_submodule(parent), leaf, layer)
        rounded.get_submodule(name).weight = nn.Parameter(layer.unpacked, requires_grad=False)
    live = PolicyVersions(packed)
    for version, one in enumerate((None, adapter)):
        live.add(Policy(version=version), one)
    for version, one in ((1, adapter), (0, None)):
        with live.use(Policy(version=version)) as current:
            torch.testing.assert_close(hidden(current), hidden(merged(rounded, one)), rtol=0, atol=2e-4)


def test_versions_come_and_go(model: PreTrainedModel) -> None:
    live = PolicyVersions(causal_lm.share_weights(model))
    live.add(Policy(version=3), None)
    assert Policy(version=3) in live
    with pytest.raises(EngineFailure, match="policy-v3 was published before"):
        live.add(Policy(version=3), None)
    with pytest.raises(EngineFailure, match="policy-v4 is not published; live: policy-v3"), live.use(Policy(version=4)):
        pass
    live.drop(Policy(version=3))
    live.drop(Policy(version=3))
    with pytest.raises(EngineFailure, match="live: none"), live.use(Policy(version=3)):
        pass
    live.add(Policy(name="other", version=3), None)


def test_scaling_is_alpha_over_rank_or_its_root() -> None:
    down, up = torch.ones(4, 3), torch.ones(2, 4)
    tensors = {"base_model.model.x.lora_A.weight": down, "base_model.model.x.lora_B.default.weight": up}
    plain = low_rank_pairs(Adapter(tensors=tensors, config={"r": 4, "lora_alpha": 8}, sha256=""))
    assert torch.equal(plain["x"][1], 2 * up)
    config = {"r": 4, "lora_alpha": 8, "use_rslora": True}
    assert torch.equal(low_rank_pairs(Adapter(tensors=tensors, config=config, sha256=""))["x"][1], 4 * up)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector"], "not a plain LoRA weight"),
        (["base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"], "only one of lora_A and lora_B"),
        (["model.layers.9.mlp.up_proj.lora_A.weight", "model.layers.9.mlp.up_proj.lora_B.weight"], "does not have"),
        (["model.embed_tokens.lora_A.weight", "model.embed_tokens.lora_B.weight"], "only linear layers"),
    ],
)
def test_an_adapter_that_does_not_fit_says_so(model: PreTrainedModel, names: list[str], message: str) -> None:
    live = PolicyVersions(causal_lm.share_weights(model))
    adapter = Adapter(tensors={name: torch.ones(2, 2) for name in names}, config={"r": 2, "lora_alpha": 2}, sha256="")
    with pytest.raises(ModelError, match=message):
        live.add(Policy(), adapter)
    assert Policy() not in live


def test_a_half_precision_model_is_never_merged_with_an_adapter(model: PreTrainedModel) -> None:
    half = copy.deepcopy(model).bfloat16()
    versions = PolicyVersions(half)
    name = "model.layers.0.self_attn.q_proj"
    out, width = half.state_dict()[f"{name}.weight"].shape
    tensors = {
        f"{name}.lora_A.weight": torch.full((1, width), 1e-3),
        f"{name}.lora_B.weight": torch.full((out, 1), 1e-3),
    }
    versions.add(Policy(), Adapter(tensors=tensors, config={"lora_alpha": 1, "r": 1}, sha256=""))
    with versions.use(Policy()) as used:
        assert used.get_submodule(name).merged is None
        assert used.get_submodule(name).low_rank is not None
