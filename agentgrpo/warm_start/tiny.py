"""A tiny Qwen3-architecture model and a tokenizer fitted to one environment's own text, made from nothing.

For tests, demos and machines without a GPU or a hub. It knows nothing of training: the weights are random.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from agentgrpo.causal_lm import quiet_transformers
from agentgrpo.chat import assistant_message
from agentgrpo.config.run import TinyConfig
from agentgrpo.types import JsonObject, Message
from agentgrpo.warm_start.demonstrations import Demonstration, value_words

_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_TAGS = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>")
_CORPUS = 800  # episodes whose text is read; values are collected from all
_SYSTEM_WEIGHT = 3  # how often the system block counts, so that what is said in episodes merges first


def make_tiny(folder: Path, episodes: Sequence[Demonstration], config: TinyConfig, *, seed: int) -> None:
    """Write a model folder (config, random weights, tokenizer, chat template) that suits these episodes."""
    tokenizer = make_tokenizer(episodes, config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen3ForCausalLM(_model_config(tokenizer, config))
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    folder.mkdir(parents=True, exist_ok=True)
    with quiet_transformers():
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def make_tokenizer(episodes: Sequence[Demonstration], config: TinyConfig) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE on the episodes' rendered text.

    Values (names, ids, numbers: whatever stands in a call's arguments or a result) are split off and become one token
    each, so that copying one is one step. Everything between them merges freely, whitespace and punctuation included.
    """
    values = Counter(word for episode in episodes for word in value_words(episode))
    tokenizer = Tokenizer(models.BPE())
    pattern = "|".join(map(re.escape, sorted(values, key=lambda w: (-len(w), w)))) or "(?!)"
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            # The renderer encodes a tool result's "user" apart from its newline: they must never be one token.
            pre_tokenizers.Split(Regex(r"(?<=\Auser)\n"), "isolated"),
            pre_tokenizers.Split(Regex(rf"(?<![A-Za-z0-9])(?:{pattern})(?![A-Za-z0-9])"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size - len(_SPECIAL) - len(_TAGS),
        min_frequency=2,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    template = resources.files("agentgrpo").joinpath("assets/qwen3.jinja").read_text(encoding="utf-8")
    bootstrap = _wrap(Tokenizer(models.BPE()), template)
    tokenizer.train_from_iterator(_corpus(episodes[:_CORPUS], values, bootstrap), trainer)
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in _SPECIAL])
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in _TAGS])
    return _wrap(tokenizer, template, model_max_length=config.context_length)


def _wrap(tokenizer: Tokenizer, template: str, model_max_length: int = 2**20) -> PreTrainedTokenizerFast:
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        model_max_length=model_max_length,
        clean_up_tokenization_spaces=False,
    )
    wrapped.chat_template = template
    return wrapped


def _corpus(
    episodes: Sequence[Demonstration], values: Counter[str], template: PreTrainedTokenizerFast
) -> Iterator[str]:
    """Yield text as the tokenizer will see it: between control tokens, which never merge with anything."""
    for word in values:  # often enough that a value merges before any rare phrase does
        yield "\n".join([word] * len(episodes))
    control = re.compile("|".join(map(re.escape, (*_SPECIAL, *_TAGS))))
    for episode in episodes[:_SYSTEM_WEIGHT]:
        text = _render(template, list(episode.prompt), episode.tools)
        yield from filter(None, control.split(text))
    for episode in episodes:
        messages = [m for m in episode.prompt if m["role"] != "system"]
        for action, answers in episode.turns:
            messages += [assistant_message(action), *answers]
        yield from filter(None, control.split(_render(template, messages, ())))


def _render(template: PreTrainedTokenizerFast, messages: list[Message], tools: Sequence[JsonObject]) -> str:
    plain = [{k: v for k, v in m.items() if k != "is_error"} for m in messages]
    return str(template.apply_chat_template(plain, tools=list(tools) or None, tokenize=False, enable_thinking=False))


def _model_config(tokenizer: PreTrainedTokenizerFast, config: TinyConfig) -> Qwen3Config:
    return Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.kv_heads,
        head_dim=config.hidden_size // config.heads,
        max_position_embeddings=config.context_length,
        tie_word_embeddings=True,
        # The usual 0.02 suits a width of 2,500; a tiny model that starts there learns to copy at half the speed.
        initializer_range=config.hidden_size**-0.5,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )


def describe(folder: Path) -> str:
    """Return one line on a model folder: architecture, parameters, vocabulary."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors")) // 4
    return f"{config['model_type']}, {size / 1e6:.2f} M parameters, vocabulary {config['vocab_size']}"
