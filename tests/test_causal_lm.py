from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import GraniteConfig, GraniteForCausalLM, PreTrainedModel

from agentgrpo import causal_lm
from agentgrpo.chat import Chat
from agentgrpo.errors import ConfigError, ModelError

CPU = torch.device("cpu")
IDS = torch.tensor([[5, 9, 300, 41], [7, 7, 0, 2]])


def test_devices_and_dtypes_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert causal_lm.pick_device("cpu") == CPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert causal_lm.pick_device() == CPU
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert causal_lm.pick_device() == torch.device("mps")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert causal_lm.pick_device("auto") == torch.device("cuda")
    assert causal_lm.pick_dtype("auto", CPU) == torch.float32
    assert causal_lm.pick_dtype("auto", torch.device("cuda")) == torch.bfloat16
    assert causal_lm.pick_dtype("float16", CPU) == torch.float16


@pytest.mark.parametrize("name", ["models/nowhere", "./nowhere", "~/nowhere", "/nowhere", "a/b/c", "here/nowhere"])
def test_no_hub_is_asked_for_a_folder_that_is_not_there(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here" / "small").mkdir(parents=True)
    with pytest.raises(ModelError, match=f"there is no model folder '{name}'") as refused:
        causal_lm.load_model(name, device=CPU, dtype=torch.float32)
    assert ("folders beside it: small" in str(refused.value)) == name.startswith("here")
    with pytest.raises(ModelError, match="there is no model folder"):
        Chat.from_folder(name)


def test_names_of_a_hub_are_told_from_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert causal_lm.is_hub_name("gpt2") and causal_lm.is_hub_name("Qwen/Qwen3-0.6B")
    (tmp_path / "Qwen").mkdir()
    assert causal_lm.is_hub_name("gpt2") and not causal_lm.is_hub_name("Qwen/Qwen3-0.6B")


def test_a_loaded_model_is_frozen(tiny_folder: Path) -> None:
    model = causal_lm.load_model(tiny_folder, device=CPU, dtype=torch.bfloat16)
    assert model.dtype == torch.bfloat16
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())
    assert causal_lm.context_length(model) == 1024


def test_a_folder_without_a_model_is_the_users_to_fix(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"cannot load a causal language model from .*\n.*config\.json"):
        causal_lm.load_model(tmp_path, device=CPU, dtype=torch.float32)


def test_a_model_that_scales_its_logits_is_refused(tmp_path: Path) -> None:
    """Granite divides them: its temperature would be another one."""
    config = GraniteConfig(
        vocab_size=100,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        logits_scaling=8.0,
    )
    GraniteForCausalLM(config).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="type 'granite' changes its logits after the output layer"):
        causal_lm.load_model(tmp_path, device=CPU, dtype=torch.float32)


@pytest.mark.parametrize("size", [0, 1000])
def test_weights_cut_off_are_the_users_to_fix(tiny_folder: Path, tmp_path: Path, size: int) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:size])
    with pytest.raises(ModelError, match=r"header.*\n.* whole and made for each other"):
        causal_lm.load_model(folder, device=CPU, dtype=torch.float32)


def test_weights_of_another_config_are_the_users_to_fix(tiny_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hidden_size": 2 * config["hidden_size"]}))
    with pytest.raises(ModelError, match="made for each other"):
        causal_lm.load_model(folder, device=CPU, dtype=torch.float32)


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "", "cpu:x"])
def test_a_device_that_is_not_here_is_the_users_to_fix(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"device = '{name}' cannot be used here: .*\n.*\"auto\", \"cpu\""):
        causal_lm.pick_device(name)


def test_hidden_states_and_head_make_the_models_logits(model: PreTrainedModel) -> None:
    hidden = causal_lm.hidden_states(model, IDS)
    torch.testing.assert_close(causal_lm.logits(model, hidden), model(IDS).logits)
    assert causal_lm.softcap(model) is None


def test_a_soft_cap_bends_the_logits(model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = causal_lm.hidden_states(model, IDS)
    plain = causal_lm.logits(model, hidden)
    monkeypatch.setattr(model.config, "final_logit_softcapping", 2.0, raising=False)
    torch.testing.assert_close(causal_lm.logits(model, hidden), 2 * torch.tanh(plain / 2))


def test_shared_weights_are_the_same_tensors_in_other_modules(model: PreTrainedModel) -> None:
    shared = causal_lm.share_weights(model)
    assert {p.data_ptr() for p in shared.parameters()} == {p.data_ptr() for p in model.parameters()}
    assert not {id(m) for m in shared.modules()} & {id(m) for m in model.modules()}
    assert shared.config is not model.config


def test_norms_are_fused_only_where_that_gives_the_same(model: PreTrainedModel) -> None:
    class ShiftedRMSNorm(torch.nn.Module):
        """Gemma's: the weight is an offset from one."""

        def __init__(self) -> None:
            super().__init__()
            self.weight, self.variance_epsilon = torch.nn.Parameter(torch.zeros(4)), 1e-6

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon) * (1 + self.weight)

    shared, other, x = causal_lm.share_weights(model), ShiftedRMSNorm(), torch.randn(3, 4)
    shared.add_module("other", other)
    expected = model(torch.arange(9)[None]).logits, other(x)
    causal_lm.fuse_norms(shared)
    torch.testing.assert_close((shared(torch.arange(9)[None]).logits, other(x)), expected)
    assert "forward" in vars(shared.base_model.norm)
    assert "forward" not in vars(other)


def test_a_model_without_positions_has_a_limit_all_the_same() -> None:
    unlimited = SimpleNamespace(config=SimpleNamespace())
    assert causal_lm.context_length(unlimited) == 2**20  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("field", "value"),
    [("layer_types", ["full_attention", "sliding_attention"]), ("attn_logit_softcapping", 50.0)],
)
def test_attention_the_engine_does_not_compute_is_refused(model: PreTrainedModel, field: str, value: object) -> None:
    causal_lm.check_attention(model)
    other = causal_lm.share_weights(model)
    setattr(other.config, field, value)
    with pytest.raises(ModelError, match="plain full attention only"):
        causal_lm.check_attention(other)
