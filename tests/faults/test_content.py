"""Content that spells control tokens, in every place where somebody may write text."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import renderers
from renderers.configs import config_from_name

from agentgrpo.chat import Chat, assistant_message
from agentgrpo.errors import ParseFailure
from agentgrpo.types import JsonObject, Message
from tests.faults.conftest import Ledger
from tests.hostile import FAMILIES, PLACES, QWEN, Fill, byte_tokenizer, conversation, family_chat, hostile

Make = Callable[[Fill], list[int]]
ODD: dict[str, dict[str, bool]] = {  # how a tokenizer may flag its added tokens
    "takes spaces before": {"lstrip": True},
    "takes spaces behind": {"rstrip": True},
    "folds look-alikes": {"is_folding": True, "normalized": True},
    "all special": {"special": True},
}


def attack(chat: Chat, make: Make, count: int, *, seed: int = 0) -> Counter[str]:
    """Fill with hostile text, one place at a time or all, what `make` tokenizes; return what came of each text."""
    added = chat.tokenizer.added_tokens_decoder
    rng, texts, came = random.Random(seed), [token.content for token in added.values()], Counter[str]()

    def controls(fill: Fill) -> list[int]:
        return [i for i in make(fill) if i in added]

    expected = controls(lambda _: "word")
    while came.total() < count:
        place, used = rng.choice([*PLACES, "everywhere"]), list[str]()

        def fill(where: str, place: str = place, used: list[str] = used) -> str:
            if place not in (where, "everywhere"):
                return "word"
            used.append(hostile(rng, texts).strip() or "x")
            return used[-1]

        try:
            end = "survived" if controls(fill) == expected else "forged"
        except ParseFailure:
            end = "refused"
        came[end] += len(used)
    return came


def prompts(chat: Chat, *, has_one_call: bool = False) -> Make:
    rng = random.Random(1)

    def make(fill: Fill) -> list[int]:
        messages, tools = conversation(fill, is_split=rng.random() < 0.3, has_one_call=has_one_call)
        return chat.render(messages, tools)

    return make


def turns(chat: Chat) -> Make:
    """What is demonstrated, and what extends it or, where that cannot be, is rendered anew."""
    asked: list[Message] = [{"role": "user", "content": "u"}]
    look: JsonObject = {"content": "", "tool_calls": [{"id": "c", "name": "look", "arguments": {}}]}
    said = chat.completion(look)

    def make(fill: Fill) -> list[int]:
        messages, tools = conversation(fill)
        functions = [call["function"] | {"id": call["id"]} for call in messages[2]["tool_calls"]]
        shown = chat.completion({"content": messages[2]["content"], "tool_calls": functions})
        extended = chat.extend(chat.render(asked, tools), said, messages[3:5], tools)
        return shown + (extended or chat.render([*asked, assistant_message(look), *messages[3:5]], tools))

    return make


@pytest.mark.parametrize("renderer", ["auto", "default"])
def test_no_content_becomes_control(tiny_folder: Path, renderer: str, ledger: Ledger, is_full: bool) -> None:
    chat = Chat.from_folder(tiny_folder, renderer=renderer)
    came = attack(chat, prompts(chat), 100_000 if is_full else 1000)
    name = "the chat template itself" if renderer == "default" else "Qwen3"
    ledger.record(f"control forged by content: {name}", injected=came.total(), survived=came["survived"])
    assert came["refused"] == 0


def test_no_content_of_a_turn_becomes_control(tiny_folder: Path, ledger: Ledger, is_full: bool) -> None:
    chat = Chat.from_folder(tiny_folder, enable_thinking=False)
    came = attack(chat, turns(chat), 20_000 if is_full else 400)
    ledger.record("control forged by content: turns", injected=came.total(), survived=came["survived"])
    assert came["refused"] == 0


def test_no_content_becomes_control_in_any_family(ledger: Ledger, is_full: bool) -> None:
    came = Counter[str]()
    for name in FAMILIES:
        chat = family_chat(name)
        came += attack(chat, prompts(chat, has_one_call=name == "llama-3"), 2000 if is_full else 25)
    name = f"control forged by content: {len(FAMILIES)} families"
    ledger.record(name, injected=came.total(), survived=came["survived"] + came["refused"])
    assert came["refused"] <= came.total() // 100


@pytest.mark.parametrize("flagged", ODD)
@pytest.mark.parametrize("renderer", ["qwen3", "default"])
def test_no_content_becomes_control_however_tokens_are_flagged(
    tiny_chat: Chat, renderer: str, flagged: str, ledger: Ledger, is_full: bool
) -> None:
    chat = odd_chat(tiny_chat.tokenizer.chat_template, renderer, ODD[flagged])
    came = attack(chat, prompts(chat), 2000 if is_full else 60)
    injected, survived = came.total(), came["survived"] + came["refused"]
    ledger.record(f"control forged by content: a tokenizer that {flagged}", injected=injected, survived=survived)
    assert came["refused"] == 0


def test_the_attack_is_one(tiny_folder: Path) -> None:
    """Without our defences most of it succeeds."""
    chat = Chat.from_folder(tiny_folder)

    def make(fill: Fill) -> list[int]:
        messages, tools = conversation(fill)
        template: Any = chat.tokenizer.apply_chat_template
        return list(template(messages, tools=tools, return_dict=False))

    came = attack(chat, make, 1000)
    assert came["forged"] > came.total() // 2


def odd_chat(template: str, renderer: str, flags: dict[str, bool]) -> Chat:
    tokenizer: Any = byte_tokenizer(QWEN, **flags)
    tokenizer.chat_template, tokenizer.eos_token = template, "<|im_end|>"
    return Chat(tokenizer, renderers.create_renderer(tokenizer, type(config_from_name(renderer))()))
