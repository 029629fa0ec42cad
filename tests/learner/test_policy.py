from __future__ import annotations

import asyncio
import copy
from dataclasses import replace
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel, Qwen3_5ForCausalLM, Qwen3_5TextConfig

from agentgrpo.chat import Chat
from agentgrpo.config.run import LoraConfig, RolloutConfig
from agentgrpo.engines import versions
from agentgrpo.engines.adapters import save_adapter
from agentgrpo.engines.embedded import EmbeddedEngine
from agentgrpo.errors import ModelError
from agentgrpo.learner.batch import Row, pack
from agentgrpo.learner.policy import LoraPolicy
from agentgrpo.registry import resolve_env
from agentgrpo.rollout.manager import RolloutManager
from agentgrpo.types import Policy, Sampling, Task, Trajectory
from tests.learner.episodes import groups, policy, randomize, weights

IDS = torch.tensor([[5, 9, 300, 41, 7]])


def rows(trajectories: tuple[Trajectory, ...]) -> list[Row]:
    return [Row(sequence=s, advantage=0.0, episode=i) for i, t in enumerate(trajectories) for s in t.sequences()]


async def lockbox_episodes(
    chat: Chat, engine: EmbeddedEngine, live: list[Policy], temperature: float
) -> dict[Policy, tuple[Trajectory, ...]]:
    """Roll out every policy at once: their requests share the engine's batches."""
    config = RolloutConfig(max_turns=4, max_tokens=120, max_turn_tokens=30, temperature=temperature)

    async def one(which: Policy) -> tuple[Trajectory, ...]:
        async with RolloutManager(resolve_env("lockbox"), chat, engine, config, seed=which.version) as manager:
            results = await manager.rollout(
                [Task(id=f"train-{i}", row={"seed": i}) for i in range(2)],
                policy=which,
                phase="train",
                step=0,
                group_size=4,
                sampling=Sampling(max_tokens=0, temperature=temperature),
            )
        return tuple(t for result in results for t in result.group.trajectories)

    return dict(zip(live, await asyncio.gather(*map(one, live)), strict=True))


@pytest.mark.parametrize("limit", [1 << 30, 0], ids=["merged", "low-rank"])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
async def test_engine_and_learner_agree_on_every_version(
    model: PreTrainedModel, tiny_chat: Chat, monkeypatch: pytest.MonkeyPatch, limit: int, temperature: float
) -> None:
    monkeypatch.setattr(versions, "_MERGE_LIMIT_BYTES", limit)
    engine, trained = EmbeddedEngine(model, max_sequences=16), policy(model, is_random=False)
    live = [Policy(version=v) for v in range(4)]
    for which in live:
        if which.version:  # version 0 is a fresh adapter, which is the base model
            randomize(trained, which.version)
        await engine.publish(trained.adapter(), which)
    episodes = await lockbox_episodes(tiny_chat, engine, live, temperature)
    await engine.close()
    said = set()
    for which, trajectories in episodes.items():
        if which.version:
            randomize(trained, which.version)
        else:
            trained = policy(model, is_random=False)
        batches = pack(rows(trajectories), token_budget=300)
        assert len(batches) > 1
        for batch in batches:
            got, _ = trained.logprobs(batch, temperature=temperature)
            torch.testing.assert_close(got.detach(), batch.behaviour_N, rtol=0, atol=1e-4)
        assert {span.policy_version for t in trajectories for span in t.spans if span.sampled} == {which.version}
        assert sum(t.sampled_count for t in trajectories) == sum(len(b.target_N) for b in batches)
        said.add(tuple(s.token_ids for t in trajectories for s in t.spans if s.sampled))
    assert len(said) == len(live)


def test_a_fresh_adapter_is_the_base_model(model: PreTrainedModel) -> None:
    made = policy(model, is_random=False)
    (batch,) = pack(rows(groups()[0].trajectories), token_budget=10**6)
    torch.testing.assert_close(made.logprobs(batch)[0], made.reference_logprobs(batch))
    randomize(made, 1)
    assert not torch.allclose(made.logprobs(batch)[0], made.reference_logprobs(batch), atol=0.1)
    torch.testing.assert_close(made.reference_logprobs(batch), policy(model, is_random=False).logprobs(batch)[0])


def test_the_first_weights_are_a_function_of_the_seed(model: PreTrainedModel) -> None:
    state = torch.get_rng_state()
    first, again, other = (policy(model, seed=seed, is_random=False) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(weights(first), weights(again))
    assert not torch.equal(weights(first), weights(other))
    assert first.adapter().sha256 == again.adapter().sha256 != other.adapter().sha256


def test_only_the_adapter_is_trained_and_in_float32(model: PreTrainedModel) -> None:
    made = LoraPolicy(copy.deepcopy(model).bfloat16(), LoraConfig(rank=2, alpha=4), seed=0)
    assert {p.dtype for p in made.parameters()} == {torch.float32}
    names = [n for n, p in made.model.named_parameters() if p.requires_grad]
    assert len(names) == len(made.parameters()) == 2 * 7 * 2  # A and B of seven linear layers in two blocks
    assert all("lora_" in name for name in names)
    assert made.device == torch.device("cpu")


def test_a_saved_adapter_loads_in_plain_peft(model: PreTrainedModel, tmp_path: Path) -> None:
    made = policy(model, seed=3)
    save_adapter(made.adapter(), tmp_path)
    theirs = peft.PeftModel.from_pretrained(copy.deepcopy(model), str(tmp_path))
    with torch.no_grad():
        expected, got = made.causal_lm(IDS).logits, theirs(IDS).logits
        assert not torch.allclose(expected, model(IDS).logits, atol=0.1)
    torch.testing.assert_close(got.log_softmax(-1), expected.log_softmax(-1))


def test_a_canary_is_what_the_policy_says_of_likely_text(model: PreTrainedModel) -> None:
    made = policy(model, seed=3, dropout=0.5)
    before, drawn = made.canary(), torch.random.get_rng_state()
    ids = torch.tensor(before.token_ids)
    made.model.eval()
    with torch.no_grad():
        said = made.causal_lm(ids[None]).logits[0, :-1].log_softmax(-1).gather(1, ids[1:, None])[:, 0]
    made.model.train()
    torch.testing.assert_close(torch.tensor(before.logprobs), said, atol=1e-5, rtol=0)
    randomize(made, 4)
    after = made.canary()
    assert after.token_ids == before.token_ids
    assert max(abs(a - b) for a, b in zip(after.logprobs, before.logprobs, strict=True)) > 0.1
    assert torch.equal(drawn, torch.random.get_rng_state())
    assert all(module.training for module in made.model.modules() if isinstance(module, torch.nn.Dropout))


def test_an_adapter_is_a_copy_that_comes_back_bit_by_bit(model: PreTrainedModel, tmp_path: Path) -> None:
    made = policy(model, seed=3)
    adapter = made.adapter()
    save_adapter(adapter, tmp_path)
    randomize(made, 4)
    assert made.adapter().sha256 != adapter.sha256
    other = policy(model, seed=5)
    other.load(tmp_path)
    assert other.adapter().sha256 == adapter.sha256
    assert all(torch.equal(other.adapter().tensors[name], tensor) for name, tensor in adapter.tensors.items())


@pytest.mark.parametrize("damage", ["missing", "cut", "other rank", "unknown", "partial"])
def test_a_folder_that_does_not_fit_is_the_users_to_fix(model: PreTrainedModel, tmp_path: Path, damage: str) -> None:
    file = tmp_path / "adapter_model.safetensors"
    save_adapter(policy(model, rank=2 if damage == "other rank" else 4).adapter(), tmp_path)
    tensors = load_file(file)
    name = next(iter(tensors))
    if damage == "missing":
        file.unlink()
    elif damage == "cut":
        file.write_bytes(file.read_bytes()[:100])
    elif damage == "unknown":
        save_file({**tensors, name.replace("layers.0", "layers.9"): tensors[name].clone()}, file)
    elif damage == "partial":
        save_file({k: v for k, v in tensors.items() if k != name}, file)
    made = policy(model, seed=1)
    with pytest.raises(ModelError, match="adapter in"):
        made.load(tmp_path)


def test_targets_that_do_not_exist_are_the_users_to_fix(model: PreTrainedModel) -> None:
    with pytest.raises(ModelError, match=r"\[model.lora\] targets"):
        policy(model, targets=["nonesuch"])


def test_checkpointing_changes_memory_and_not_numbers(model: PreTrainedModel) -> None:
    (batch,) = pack(rows(groups()[1].trajectories), token_budget=10**6)
    gradients = []
    for checkpointing in (False, True):
        made = LoraPolicy(
            copy.deepcopy(model), LoraConfig(rank=4, alpha=8), seed=0, gradient_checkpointing=checkpointing
        )
        randomize(made, 1)
        logprobs, _ = made.logprobs(batch)
        logprobs.sum().backward()
        gradients.append([p.grad for p in made.parameters()])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed, rtol=1e-3, atol=1e-4)


def test_the_output_layer_is_no_target(model: PreTrainedModel) -> None:
    with pytest.raises(ModelError, match="never be trained: leave it out"):
        policy(model, targets=["q_proj", "lm_head"])


@pytest.mark.parametrize("dropout", [0.0, 0.5], ids=["checkpointed", "dropout"])
def test_nothing_but_the_adapter_drops_out_while_it_trains(model: PreTrainedModel, dropout: float) -> None:
    """The base's attention would drop half of what it sees: no engine samples from that."""
    base = copy.deepcopy(model)
    attention = [module for module in base.modules() if hasattr(module, "attention_dropout")]
    for module in attention:
        module.attention_dropout = 0.5  # type: ignore[assignment]
    made = LoraPolicy(base, LoraConfig(rank=4, dropout=dropout), seed=0, gradient_checkpointing=not dropout)
    randomize(made, 1)
    (batch,) = pack(rows(groups()[0].trajectories), token_budget=10**6, share_prefix=made.shares_prefix)
    frozen = made.frozen_logprobs(batch)
    with torch.no_grad():
        differs = not torch.allclose(made.logprobs(batch)[0], frozen, atol=1e-4)
        is_base = torch.equal(made.reference_logprobs(batch), made.reference_logprobs(batch))
    assert attention
    assert is_base
    assert differs == bool(dropout)  # the adapter's own, and after `frozen_logprobs` once more


def test_a_prefix_is_shared_only_where_keys_and_values_are_all_a_model_keeps_of_it(model: PreTrainedModel) -> None:
    """Qwen3.5 has layers with a state of their own."""
    config = Qwen3_5TextConfig(
        vocab_size=500,
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        intermediate_size=64,
        linear_num_value_heads=4,
        linear_num_key_heads=2,
        linear_key_head_dim=8,
        linear_value_head_dim=8,
    )
    recurrent = policy(Qwen3_5ForCausalLM(config).requires_grad_(False).eval())
    assert policy(model).shares_prefix
    assert not recurrent.shares_prefix
    made = rows(groups()[0].trajectories)
    together, _ = recurrent.logprobs(pack(made, token_budget=10**6, share_prefix=False)[0])
    alone = [recurrent.logprobs(pack([row], token_budget=1)[0])[0] for row in made]
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-4)


def test_the_config_of_an_adapter_is_plain_data(model: PreTrainedModel) -> None:
    adapter = replace(policy(model, targets=["q_proj", "v_proj"]).adapter(), sha256="")
    assert adapter.config["target_modules"] == ["q_proj", "v_proj"]
    assert (adapter.config["r"], adapter.config["lora_alpha"]) == (4, 8)
