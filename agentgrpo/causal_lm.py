"""Any `AutoModelForCausalLM`, in the three pieces both the engine and the learner use: load, hidden states, head.

It knows neither adapters nor sampling: a model goes in, tensors come out.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging as hf_logging

from agentgrpo.errors import ConfigError, ModelError, first_line


def pick_device(name: str = "auto") -> torch.device:
    """Return the device of that name; "auto" takes CUDA, then MPS, then the CPU.

    Raises:
        ConfigError: there is no such device here.
    """
    if name != "auto":
        return _named_device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _named_device(name: str) -> torch.device:
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(
            f"[model] device = '{name}' cannot be used here: {first_line(error)}\n"
            'Set "auto", "cpu", or one this machine and this build of torch have ("cuda", "cuda:1", "mps").'
        ) from error
    return torch.device(name)


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """Return the dtype of that name; "auto" is float32 on the CPU and bfloat16 elsewhere."""
    if name != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]
    return torch.float32 if device.type == "cpu" else torch.bfloat16


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Hide transformers' own progress bars: for the models of one machine they flash by and say nothing."""
    was_enabled = hf_logging.is_progress_bar_enabled()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_enabled:
            hf_logging.enable_progress_bar()


def is_hub_name(name: str) -> bool:
    """Return whether a name that is no folder can be a hub's; else asking there would take long for nothing."""
    is_path = name.startswith((".", "/", "~", "models/")) or name.count("/") > 1
    return not is_path and not ("/" in name and Path(name).parent.is_dir())


def no_folder(path: str | Path) -> ModelError:
    """Return the error of a model folder that is not there, with the folders beside it."""
    parent = Path(path).parent
    beside = sorted(p.name for p in parent.iterdir() if p.is_dir()) if parent.is_dir() else []
    known = f"; folders beside it: {', '.join(beside[:8])}" if beside else ""
    return ModelError(
        f"there is no model folder '{path}'{known}\n"
        "Give [model] path a folder with config.json and model.safetensors, or a hub name; or add [warm_start], "
        "which makes a tiny model there."
    )


def check_name(path: str | Path) -> None:
    """Refuse what is neither a folder nor a hub's name.

    Raises:
        ModelError: it is neither.
    """
    if not Path(path).is_dir() and not is_hub_name(str(path)):
        raise no_folder(path)


def load_model(path: str | Path, *, device: torch.device, dtype: torch.dtype) -> PreTrainedModel:
    """Load a model folder or hub name, frozen and in evaluation mode.

    Raises:
        ModelError: the folder or name cannot be loaded as a causal language model, or its logits are made another way
            than `logits` makes them.
    """
    check_name(path)
    try:
        with quiet_transformers():
            model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(path, dtype=dtype)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        raise ModelError(
            f"cannot load a causal language model from '{path}': {first_line(error)}\n"
            "Give [model] path a folder with config.json and model.safetensors, whole and made for each other, or a "
            "hub name this machine can reach."
        ) from error
    if not getattr(model, "is_quantized", False):  # those are where they belong, and refuse to move
        model = model.to(device)  # type: ignore[arg-type]  # a decorator of transformers hides `self`
    model.requires_grad_(False).eval()
    _check_head(model)
    return model


@torch.no_grad()
def _check_head(model: PreTrainedModel) -> None:
    """Refuse models that do more to their logits than `logits` does: all that is computed here would be another's."""
    ids = (torch.arange(1, 9, device=model.device) % model.config.vocab_size)[None]
    own = model(input_ids=ids, use_cache=False).logits.float()
    found = logits(model, hidden_states(model, ids, use_cache=False))
    tolerance = 1e-3 if model.dtype == torch.float32 else 0.1
    if (own - found).abs().max() > tolerance * own.abs().max():
        raise ModelError(
            f"a model of type '{model.config.model_type}' changes its logits after the output layer (Granite and "
            "Cohere scale them), which is not supported: take one that does not, such as Qwen3 or Llama 3"
        )


def share_weights(model: PreTrainedModel) -> PreTrainedModel:
    """Return a second module tree over the same tensors: its hooks, config and adapters are its own."""
    memo: dict[int, Any] = {id(t): t for t in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, memo)


def context_length(model: PreTrainedModel) -> int:
    """Return the number of tokens the model's positions allow."""
    return int(getattr(model.config, "max_position_embeddings", 0) or 2**20)


def check_attention(model: PreTrainedModel) -> None:
    """Refuse models whose attention the embedded engine does not compute: it would sample from another model.

    Raises:
        ModelError: the model has attention other than plain and full (windows, sinks, soft caps, linear layers).
    """
    if not has_plain_attention(model):
        kinds = set(getattr(model.config, "layer_types", None) or ()) - {"full_attention"}
        what = ", ".join(sorted(kinds)) or "windowed or capped attention"
        raise ModelError(
            f"the embedded engine computes plain full attention only; {model.config.model_type} has {what}. "
            "Take a model with full attention, such as Qwen3 or Llama 3."
        )


def has_plain_attention(model: PreTrainedModel) -> bool:
    """Return whether attention is full in every layer, without sinks or soft caps."""
    config = model.config
    kinds = set(getattr(config, "layer_types", None) or ())
    has_window = not kinds and getattr(config, "sliding_window", None) is not None
    is_capped = bool(getattr(config, "attn_logit_softcapping", None))
    return not (kinds - {"full_attention"} or has_window or is_capped or config.model_type == "gpt_oss")


def hidden_states(model: PreTrainedModel, input_ids: Tensor, **kwargs: Any) -> Tensor:
    """Return the last hidden state [B, T, D] of the decoder, the head not applied."""
    decoder = model.base_model
    return decoder(input_ids=input_ids, **kwargs).last_hidden_state  # type: ignore[no-any-return]


def head_weight(model: PreTrainedModel) -> tuple[Tensor, Tensor | None]:
    """Return the weight [V, D] and bias [V] of the language-model head."""
    head = model.get_output_embeddings()
    return head.weight, getattr(head, "bias", None)


def softcap(model: PreTrainedModel) -> float | None:
    """Return the final logit soft cap of the model (Gemma), if it has one."""
    return getattr(model.config, "final_logit_softcapping", None)


def logits(model: PreTrainedModel, hidden: Tensor) -> Tensor:
    """Return float32 logits [..., V] for hidden states [..., D]."""
    weight, bias = head_weight(model)
    out = F.linear(hidden, weight, bias).float()
    cap = softcap(model)
    return out if cap is None else torch.tanh(out / cap) * cap


def fuse_norms(model: PreTrainedModel) -> None:
    """Let RMS norms run in fewer operations than the model's own code takes, where that gives the same numbers."""
    for module in model.modules():
        weight, epsilon = getattr(module, "weight", None), getattr(module, "variance_epsilon", None)
        if not type(module).__name__.endswith("RMSNorm") or weight is None or epsilon is None:
            continue
        is_plain = weight.device.type == "cpu" and weight.dtype == torch.float32
        plain, fused = partial(_plain_norm, weight, weight.new_tensor(epsilon)), partial(_fused_norm, weight, epsilon)
        norm = plain if is_plain else fused
        probe = torch.linspace(-3, 5, 2 * weight.numel(), device=weight.device, dtype=weight.dtype).view(2, -1)
        if torch.allclose(module(probe), norm(probe), rtol=1e-6, atol=1e-6):
            module.forward = norm


def _plain_norm(weight: Tensor, epsilon: Tensor, hidden: Tensor) -> Tensor:
    """RMS norm in the fewest operations: torch's own makes a dozen of it on the CPU."""
    length = torch.linalg.vector_norm(hidden, dim=-1, keepdim=True)
    scale = torch.addcmul(epsilon, length, length, value=1 / hidden.shape[-1]).rsqrt_()
    return (hidden * scale).mul_(weight)


def _fused_norm(weight: Tensor, epsilon: float, hidden: Tensor) -> Tensor:
    return F.rms_norm(hidden, weight.shape, weight, epsilon)
