"""The checkpoint both sides of the comparison with TRL train: a tiny Qwen3 that calls `press` well, but not yet right.

Made once, in some seconds, and kept in the temporary folder. Words stay words in its vocabulary, as in a real one: a
call is about twenty tokens.
"""

from __future__ import annotations

import hashlib
import tempfile
from importlib import resources
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from agentgrpo.chat import Chat
from agentgrpo.config.run import SftConfig
from agentgrpo.registry import resolve_env
from agentgrpo.run.report import SilentReporter
from agentgrpo.seeds import derive_seed
from agentgrpo.tasks import load_tasks
from agentgrpo.warm_start.demonstrations import Demonstration, demonstrations, tokenize
from agentgrpo.warm_start.sft import whole_folder
from agentgrpo.warm_start.start import run_sft

SFT = SftConfig(steps=160, batch_size=8, learning_rate=8e-3, episodes=40, quality=0.5)
TURNS = (2, 4, 6, 8)
VOCABULARY, HIDDEN = 600, 64
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TAGS = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>")


def lockbox_model(head_dim: int = 16) -> Path:
    """Return the folder of the model, made at the first call. vLLM's CPU build has kernels for heads of 32 numbers."""
    name = f"{hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]}-{head_dim}"
    folder = Path(tempfile.gettempdir()) / "agentgrpo-bench" / f"lockbox-{name}"
    if not folder.exists():
        with whole_folder(folder) as working:
            _make(working, head_dim)
    return folder


def _make(folder: Path, head_dim: int) -> None:
    tokenizer = _tokenizer()
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=HIDDEN,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=HIDDEN // head_dim,
            num_key_value_heads=HIDDEN // head_dim // 2,
            head_dim=head_dim,
            max_position_embeddings=4096,
            tie_word_embeddings=True,
            initializer_range=HIDDEN**-0.5,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=None,
        )
    )
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    chat = Chat.from_folder(folder, enable_thinking=False)
    rows = [tokenize(d, chat) for turns in TURNS for d in _play(turns)]
    run_sft(folder, [(SFT.steps, rows)], SFT, seed=0, reporter=SilentReporter(), device="cpu")


def _tokenizer() -> PreTrainedTokenizerFast:
    """Return a byte-level BPE over the words of the chat template, cut where GPT-2's is, digits apart."""
    template = resources.files("agentgrpo").joinpath("assets/qwen3.jinja").read_text(encoding="utf-8")
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(SPECIAL) - len(TAGS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator([template, *map(str, _play(4)[:8])], trainer)
    inner.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL])
    inner.add_tokens([AddedToken(t, special=False, normalized=False) for t in TAGS])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="<|im_end|>", pad_token="<|endoftext|>", model_max_length=4096
    )
    tokenizer.chat_template = template
    return tokenizer


def _play(turns: int) -> list[Demonstration]:
    source = resolve_env("lockbox", turns=turns)
    tasks = load_tasks(source.tasks("train"))
    return list(demonstrations(source, tasks, count=SFT.episodes, quality=SFT.quality, seed=derive_seed(0, turns)))
