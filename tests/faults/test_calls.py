"""Tool calls that cannot be read, beside calls that can."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from statistics import quantiles

import pytest

from agentgrpo.chat import Chat
from agentgrpo.types import BadCall, Message, ToolCall
from tests.faults.conftest import Ledger
from tests.malformed import GOOD, Keys, malformed

ORDINARY = 4000  # characters
TAGS = ("<tool_call>\n", "\n</tool_call>", "</tool_call>", "<tool_call>")
USER: Message = {"role": "user", "content": "Press."}


def test_a_bad_call_voids_only_itself(tiny_chat: Chat, ledger: Ledger, is_full: bool) -> None:
    rng, env, kinds, seconds = random.Random(0), Keys(), Counter[str](), list[float]()
    tools = env.reset(seed=0)[1]["tools"]
    prompt = tiny_chat.render([USER], tools)
    encode = tiny_chat.tokenizer.inner.backend_tokenizer.encode
    open_tag, close_tag = "<tool_call>\n", "\n</tool_call>"
    injected = 100_000 if is_full else 1000
    for _ in range(injected):
        bad = malformed(rng)
        text = f"so\n{open_tag}{GOOD}{close_tag}\n{open_tag}{bad}{close_tag}{open_tag}{GOOD}{close_tag}<|im_end|>"
        ids = encode(text, add_special_tokens=False).ids
        clock = time.thread_time()
        message = tiny_chat.parse(ids, prompt, tools, call_prefix="c")
        if len(text) <= ORDINARY:
            seconds.append(time.thread_time() - clock)
        first, call, last = message.calls
        good = [ToolCall(id=f"c_{i}", name="press", arguments={"digit": 1}) for i in (0, 2)]
        assert ([first, last], message.content) == (good, "so"), bad[:300]
        assert tiny_chat.parse(ids, prompt, tools, call_prefix="c") == message, bad[:300]
        kinds[call.error_type if isinstance(call, BadCall) else "called"] += 1
        answers = env.step(json.dumps(message.to_message(), ensure_ascii=False))[-1]["messages"]
        answers += env.step(text.removesuffix("<|im_end|>"))[-1]["messages"]
        told = [answer["content"] for answer in answers]
        assert [told[i] for i in (0, 2, 3, 5)] == ["1"] * 4, bad[:300]
        assert told[1] == told[4], bad[:300]
        if answers[1]["is_error"]:
            error = json.loads(told[1])["error"]
            kinds[f"told {error['type']}"] += 1
            assert len(error["message"].splitlines()) == 1, bad[:300]
            assert len(error["message"]) < 400, bad[:300]
    p99 = quantiles(seconds, n=100)[-1]
    print(f"p99 {p99 * 1e3:.2f} ms of {len(seconds)} parses; {dict(kinds)}")
    assert p99 < 0.02  # measured: 0.5 ms; machines are noisy
    ledger.record("malformed tool calls", injected=injected, survived=injected)


def test_tags_anywhere_never_raise(tiny_chat: Chat, ledger: Ledger, is_full: bool) -> None:
    """Blocks that are not closed, nested, closed twice; calls in prose and in thought."""
    rng, env = random.Random(1), Keys()
    tools = env.reset(seed=0)[1]["tools"]
    prompt = tiny_chat.render([USER], tools)
    pieces = (*TAGS, *TAGS, "<think>", "</think>", "<|im_end|>", "<tool_response>", "prose ", GOOD, GOOD)
    injected = 20_000 if is_full else 400
    for _ in range(injected):
        parts = [rng.choice(pieces) if rng.random() < 0.8 else malformed(rng)[:200] for _ in range(rng.randrange(12))]
        ids = tiny_chat.tokenizer.encode("".join(parts), add_special_tokens=False)
        message = tiny_chat.parse(ids, prompt, tools, call_prefix="c")
        assert message == tiny_chat.parse(ids, prompt, tools, call_prefix="c")
        for action in ("".join(parts), json.dumps(message.to_message())):
            assert len(env.step(action)[-1]["messages"]) >= 0
    ledger.record("call tags out of place", injected=injected, survived=injected)


@pytest.mark.parametrize("after", ["", "</tool_call>", "<|im_end|>"])
def test_a_call_cut_off_at_every_character(tiny_chat: Chat, after: str) -> None:
    call = '{"name": "note", "arguments": {"text": "\\u00e9 \\"é\\"", "tags": [1.5e3, null]}}'
    for end in range(len(call)):
        text = f"<tool_call>{GOOD}</tool_call><tool_call>{call[:end]}{after}"
        ids = tiny_chat.tokenizer.encode(text, add_special_tokens=False)
        good, bad = tiny_chat.parse(ids, [], [], call_prefix="c").calls
        assert isinstance(good, ToolCall)
        assert isinstance(bad, BadCall)
        assert bad.error_type == ("invalid_json" if after == "</tool_call>" else "unclosed")


@pytest.mark.parametrize(
    "argument",
    ['"' + "x" * 10**6 + '"', "[" * 10**6, "[" + "1," * 500_000 + "1]", '"' + '\\"' * 500_000],
    ids=["text", "depth", "list", "escapes"],
)
def test_a_megabyte_is_refused_in_bounded_time(tiny_chat: Chat, argument: str) -> None:
    text = (
        f'<tool_call>{{"name": "note", "arguments": {{"text": {argument}}}}}</tool_call><tool_call>{GOOD}</tool_call>'
    )
    ids = tiny_chat.tokenizer.inner.backend_tokenizer.encode(text, add_special_tokens=False).ids
    clock = time.thread_time()
    bad, good = tiny_chat.parse(ids, [], [], call_prefix="c").calls
    parsed = time.thread_time()
    by_hand = Keys()
    by_hand.reset(seed=0)
    begun = time.thread_time()
    by_hand.step(text)
    print(f"{len(ids)} tokens: {(parsed - clock) * 1e3:.0f} ms; text: {(time.thread_time() - begun) * 1e3:.0f} ms")
    assert isinstance(bad, BadCall)
    assert bad.error_type == "too_large"
    assert len(bad.raw) < 2000
    assert isinstance(good, ToolCall)
    assert time.thread_time() - begun + parsed - clock < 2  # measured: 0.06 s, one token a byte
