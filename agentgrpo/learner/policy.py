"""The trained policy: a frozen model with a LoRA adapter. Tokens in, logprobs of the trained ones out.

It knows nothing of rewards or losses.
"""

from __future__ import annotations

import hashlib
import warnings
from functools import cached_property
from pathlib import Path

import peft
import torch
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor
from transformers import PreTrainedModel

from agentgrpo import causal_lm
from agentgrpo.config.run import LoraConfig
from agentgrpo.engines.proof import Canary
from agentgrpo.errors import ModelError
from agentgrpo.learner.attention import use_causal_attention
from agentgrpo.learner.batch import Microbatch, Row, collate
from agentgrpo.learner.forward import can_share_prefix, trained_logprobs
from agentgrpo.types import Adapter, Sequence

_CANARY_TOKENS = 48


class LoraPolicy:
    """A base model and the adapter being trained.

    Wraps the base model's linear layers in place (peft does): share its weights with an engine before, not after.
    """

    def __init__(
        self,
        base: PreTrainedModel,
        lora: LoraConfig,
        *,
        seed: int,
        model_path: str = "",
        gradient_checkpointing: bool = False,
    ) -> None:
        use_causal_attention(base)
        config = peft.LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,  # type: ignore[arg-type]
            lora_dropout=lora.dropout,
            target_modules=lora.targets,
            task_type="CAUSAL_LM",
            base_model_name_or_path=model_path,
        )
        # peft draws the first weights from torch's global generator: borrow it, leave it as it was.
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore", category=UserWarning)
            torch.manual_seed(seed)
            try:
                self.model = peft.get_peft_model(base, config)
            except ValueError as error:
                raise ModelError(f"[model.lora] targets = {lora.targets!r} does not fit this model: {error}") from error
        for parameter in self.parameters():
            parameter.data = parameter.data.float()  # the adapter's master weights are float32, whatever the base is
        self.causal_lm: PreTrainedModel = self.model.get_base_model()  # type: ignore[assignment]
        if isinstance(self.causal_lm.get_output_embeddings(), BaseTunerLayer):
            raise ModelError(
                f"[model.lora] targets = {lora.targets!r} has the output layer in it, whose adapter would never be "
                'trained: leave it out, or take "all-linear", which does'
            )
        self._named = self._find_names()
        self.shares_prefix = not gradient_checkpointing and can_share_prefix(self.causal_lm)
        if gradient_checkpointing:
            self.causal_lm.gradient_checkpointing_enable({"use_reentrant": False})
        self._train()

    def _train(self) -> None:
        """Let the adapter drop out, nothing else: what the base would drop makes it another model than was sampled."""
        self.model.eval()
        for module in self.model.modules():
            if isinstance(module, LoraLayer):
                module.lora_dropout.train()
            elif getattr(module, "gradient_checkpointing", False):
                module.training = True  # its own mark alone: without it nothing is checkpointed

    def _find_names(self) -> dict[str, torch.nn.Parameter]:
        """Return the adapter's weights by peft's names, in their order. Found once: peft walks the whole model."""
        parameters = {p.data_ptr(): p for p in self.parameters()}
        state = get_peft_model_state_dict(self.model, save_embedding_layers=False)
        return {name: parameters[tensor.data_ptr()] for name, tensor in sorted(state.items())}

    @property
    def device(self) -> torch.device:
        return self.causal_lm.device

    def parameters(self) -> list[torch.nn.Parameter]:
        """Return the adapter's weights, in a fixed order."""
        return [p for p in self.model.parameters() if p.requires_grad]

    def logprobs(self, batch: Microbatch, *, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
        """Return logprobs [N] of the trained tokens and, without gradient, entropies [N] where they were sampled."""
        return trained_logprobs(self.causal_lm, batch, temperature=temperature, share_prefix=self.shares_prefix)

    @torch.no_grad()
    def frozen_logprobs(self, batch: Microbatch, *, temperature: float = 1.0) -> Tensor:
        """Return the logprobs [N] of the policy as it is, without dropout: as an engine samples."""
        self.model.eval()
        try:
            return self.logprobs(batch, temperature=temperature)[0]
        finally:
            self._train()

    @torch.no_grad()
    def reference_logprobs(self, batch: Microbatch, *, temperature: float = 1.0) -> Tensor:
        """Return the logprobs [N] of the base model, the adapter switched off."""
        with self.model.disable_adapter():
            return self.logprobs(batch, temperature=temperature)[0]

    def canary(self) -> Canary:
        """Return what the policy, as it is now, says of a text of its base model: to compare an engine with."""
        ids = self._canary_ids
        count = len(ids)
        text = Sequence(
            token_ids=ids, loss_mask=(0, *(1,) * (count - 1)), rollout_logprobs=(0.0,) * count, turns=(0,) * count
        )
        batch = collate([Row(sequence=text, advantage=0.0, episode=0)]).to(self.device)
        return Canary(token_ids=ids, logprobs=tuple(self.frozen_logprobs(batch).tolist()))

    @cached_property
    @torch.no_grad()
    def _canary_ids(self) -> tuple[int, ...]:
        """Sample from the base model: on unlikely text half precision alone would move logprobs too far."""
        generator, config = torch.Generator().manual_seed(0), self.causal_lm.config
        start = config.bos_token_id if config.bos_token_id is not None else config.eos_token_id
        ids = [start[0] if isinstance(start, list) else start or 0]
        self.model.eval()
        with self.model.disable_adapter():
            while len(ids) < _CANARY_TOKENS:
                hidden = causal_lm.hidden_states(
                    self.causal_lm, torch.tensor([ids], device=self.device), use_cache=False
                )
                shares = causal_lm.logits(self.causal_lm, hidden[0, -1]).softmax(-1)
                ids.append(int(torch.multinomial(shares.cpu(), 1, generator=generator)))
        self._train()
        return tuple(ids)

    def adapter(self) -> Adapter:
        """Return a copy of the adapter as it is now."""
        tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in self._named.items()}
        config = self.model.peft_config["default"].to_dict()
        return Adapter(tensors=tensors, config=_json_config(config), sha256=hashlib.sha256(save(tensors)).hexdigest())

    def load(self, folder: Path) -> None:
        """Replace the adapter's weights by those of a peft folder.

        Raises:
            ModelError: the folder holds no adapter of this shape.
        """
        try:
            tensors = load_file(folder / "adapter_model.safetensors")
            # peft alone would load what fits and leave the rest as it is.
            differing = sorted(
                tensors.keys() ^ get_peft_model_state_dict(self.model, save_embedding_layers=False).keys()
            )
            if differing:
                raise ModelError(
                    f"the adapter in '{folder}' and this model's differ in {len(differing)} weights, such as "
                    f"{differing[0]}: expected the same base model and [model.lora] targets"
                )
            set_peft_model_state_dict(self.model, tensors)
        except (OSError, RuntimeError, SafetensorError) as error:
            raise ModelError(f"cannot load the adapter in '{folder}': {error}") from error


def _json_config(config: dict[str, object]) -> dict[str, object]:
    """Keep of peft's config what is plain data; sets become sorted lists so that equal configs have equal bytes."""
    plain = {k: sorted(v) if isinstance(v, set) else v for k, v in config.items()}
    known = peft.LoraConfig.__dataclass_fields__
    return {k: v for k, v in plain.items() if k in known and isinstance(v, str | int | float | bool | list | None)}
