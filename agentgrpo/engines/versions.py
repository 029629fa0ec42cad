"""Several versions of a LoRA policy over one base model: swap which one the next forward pass uses.

Small models get merged weights (full speed); large ones add the low-rank product on the fly (no second copy of the
weights). Knows peft's tensor names and scaling, nothing of training.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from agentgrpo.errors import EngineFailure, ModelError
from agentgrpo.types import Adapter, Policy

_MERGE_LIMIT_BYTES = 1 << 30  # versions whose merged copies are smaller than this are merged
_NAME = re.compile(r"^(?:base_model\.model\.)?(?P<module>.+)\.lora_(?P<side>[AB])(?:\.default)?\.weight$")


class VersionedLinear(nn.Module):
    """A frozen linear layer whose weight, or low-rank addition, is that of the version in use."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.merged: Tensor | None = None
        self.low_rank: tuple[Tensor, Tensor] | None = None

    @property
    def weight(self) -> Tensor:
        return self.base.weight if self.merged is None else self.merged

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer of the version in use to [..., in]."""
        out = self.base(x) if self.merged is None else F.linear(x, self.merged, self.base.bias)
        if self.low_rank is not None:
            down, up = self.low_rank
            out = out + F.linear(F.linear(x, down), up)
        return out


class PolicyVersions:
    """The adapters an engine can answer with, and the switch between them."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._linears: dict[str, VersionedLinear] = {}
        self._deltas: dict[Policy, dict[str, tuple[Tensor, Tensor]]] = {}
        self._merged: dict[Policy, dict[str, Tensor]] = {}
        self._in_use: Policy | None = None  # what the layers are set to

    def __contains__(self, policy: Policy) -> bool:
        return policy in self._deltas

    @torch.no_grad()
    def add(self, policy: Policy, adapter: Adapter | None) -> None:
        """Register a version. Raises EngineFailure when it is there already: a version never changes."""
        if policy in self._deltas:
            raise EngineFailure(f"{policy} was published before; publish the new weights as the next version")
        deltas = low_rank_pairs(adapter) if adapter is not None else {}
        for name in deltas.keys() - self._linears.keys():
            self._linears[name] = self._wrap(name)
            self._in_use = None
        placed = {n: (self._beside(n, a), self._beside(n, b)) for n, (a, b) in deltas.items()}
        size = sum(self._weight(n).numel() * self._weight(n).itemsize for n in placed)
        # In half precision a merge would round the adapter away: an update of 1e-5 on a weight of 0.03 is lost.
        is_exact = all(self._weight(n).dtype == torch.float32 for n in placed)
        if is_exact and size <= _MERGE_LIMIT_BYTES:
            self._merged[policy] = {n: self._weight(n) + b @ a for n, (a, b) in placed.items()}
        self._deltas[policy] = placed

    def drop(self, policy: Policy) -> None:
        """Forget a version; unknown ones are fine."""
        self._deltas.pop(policy, None)
        self._merged.pop(policy, None)
        if policy == self._in_use:
            self._in_use = None

    @contextmanager
    def use(self, policy: Policy) -> Iterator[PreTrainedModel]:
        """Yield the model answering as `policy`."""
        if policy not in self._deltas:
            raise EngineFailure(f"{policy} is not published; live: {', '.join(map(str, self._deltas)) or 'none'}")
        if policy != self._in_use:
            self._switch(policy)
        yield self._model

    def _switch(self, policy: Policy) -> None:
        merged = self._merged.get(policy)
        for name, linear in self._linears.items():
            linear.merged = merged.get(name) if merged is not None else None
            linear.low_rank = None if merged is not None else self._deltas[policy].get(name)
        self._in_use = policy

    def _weight(self, name: str) -> Tensor:
        return self._linears[name].base.weight

    def _beside(self, name: str, factor: Tensor) -> Tensor:
        weight = self._weight(name)
        # Quantized weights are integers; what their layer takes and gives has the model's dtype.
        return factor.to(weight.device, weight.dtype if weight.is_floating_point() else self._model.dtype)

    def _wrap(self, name: str) -> VersionedLinear:
        try:
            base = self._model.get_submodule(name)
        except AttributeError as error:
            raise ModelError(f"the adapter has weights for '{name}', which this model does not have") from error
        if not isinstance(base, nn.Linear):
            raise ModelError(f"the adapter targets '{name}', a {type(base).__name__}; only linear layers are supported")
        parent, _, leaf = name.rpartition(".")
        wrapped = VersionedLinear(base)
        setattr(self._model.get_submodule(parent), leaf, wrapped)
        return wrapped


def low_rank_pairs(adapter: Adapter) -> dict[str, tuple[Tensor, Tensor]]:
    """Return {module: (A [r, in], scaled B [out, r])} of an adapter (LoRA, Hu et al. 2021: W + alpha/r * B A).

    Raises:
        ModelError: the adapter holds something other than plain LoRA pairs.
    """
    scale = adapter.config["lora_alpha"] / adapter.config["r"]
    if adapter.config.get("use_rslora"):
        scale = adapter.config["lora_alpha"] / adapter.config["r"] ** 0.5
    sides: dict[str, dict[str, Tensor]] = {}
    for name, tensor in adapter.tensors.items():
        match = _NAME.match(name)
        if match is None:
            raise ModelError(f"adapter tensor '{name}' is not a plain LoRA weight (lora_A or lora_B)")
        sides.setdefault(match["module"], {})[match["side"]] = tensor
    halves = [module for module, pair in sides.items() if len(pair) != 2]
    if halves:
        raise ModelError(f"the adapter has only one of lora_A and lora_B for '{halves[0]}'; it needs both")
    return {module: (pair["A"], pair["B"] * scale) for module, pair in sides.items()}
