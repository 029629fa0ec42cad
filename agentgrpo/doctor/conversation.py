"""Parts 3 and 4: the chat template, and a round trip through it with two parallel calls."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from agentgrpo.chat import Chat, assistant_message
from agentgrpo.doctor.report import Finding, fail, need, ok, warn
from agentgrpo.doctor.subject import Subject
from agentgrpo.types import JsonObject, Message

_TOOLS: list[JsonObject] = [
    {
        "type": "function",
        "function": {
            "name": "look_up",
            "description": "Look something up.",
            "parameters": {"type": "object", "properties": {"what": {"type": "string"}}, "required": ["what"]},
        },
    }
]
_QUESTION: list[Message] = [{"role": "system", "content": "Use the tools."}, {"role": "user", "content": "Both?"}]
_ACTION: JsonObject = {
    "content": "",
    "tool_calls": [
        {"id": "call_0_0", "name": "look_up", "arguments": {"what": "Linden 7"}},
        {"id": "call_0_1", "name": "look_up", "arguments": {"what": "two words"}},
    ],
}


def check_chat(subject: Subject) -> Iterator[Finding]:
    """Find whether the chat template is known, keeps what was sampled, and leaves room for the episode."""
    path, model = need(subject.model_path, "needs the model folder"), subject.config.model
    subject.chat = chat = Chat.from_folder(
        path,
        renderer=model.renderer,
        enable_thinking=model.enable_thinking,
        thinking_retention=model.thinking_retention,
    )
    if chat.renderer_name == "default":
        yield warn(
            "no renderer matches this chat template: the template itself is used, every turn forks and is trained "
            "as a sequence of its own",
            "name the family with [model] renderer = ..., if you know that it fits",
        )
    else:
        yield ok(f"renderer '{chat.renderer_name}', {_format(chat)}")
    yield _extends(chat, thinks=False)
    if model.enable_thinking is not False:
        yield _extends(chat, thinks=True)
    yield round_trip(chat)
    if subject.prompts:
        yield from _room(subject, chat)


def round_trip(chat: Chat) -> Finding:
    """Find whether two parallel calls come back from their own rendering as they went in."""
    prompt = chat.render(_QUESTION, _TOOLS)
    message = chat.parse(chat.completion(_ACTION), prompt, _TOOLS, call_prefix="call_0").to_message()
    got = [{"name": c["name"], "arguments": c.get("arguments", c.get("error"))} for c in message["tool_calls"]]
    expected = [{"name": c["name"], "arguments": c["arguments"]} for c in _ACTION["tool_calls"]]
    if got != expected:
        return fail(
            f"two parallel calls, rendered and parsed again, came back as {got}"[:300],
            "another [model] renderer may fit; with this one the model's calls would not be understood",
        )
    return ok("render, then parse: two parallel calls come back as they went in")


def _extends(chat: Chat, *, thinks: bool) -> Finding:
    """Find whether the next prompt extends the one before, what was sampled included."""
    action: JsonObject = _ACTION | ({"reasoning": "Both, one after the other."} if thinks else {})
    prompt, said = chat.render(_QUESTION, _TOOLS), chat.completion(action)
    if chat.extend(prompt, said, _answers(), _TOOLS) is not None:
        return ok("the next turn extends what was sampled" + (", thinking included" if thinks else ""))
    what = "past thinking is dropped by this template" if thinks else "this template rewrites earlier turns"
    fix = 'set thinking_retention = "all" or enable_thinking = false ([model])' if thinks else "take another renderer"
    return warn(f"{what}: every turn forks, and is trained as a sequence of its own (slower, still exact)", fix)


def _answers() -> list[Message]:
    calls: list[Any] = assistant_message(_ACTION)["tool_calls"]
    return [{"role": "tool", "tool_call_id": c["id"], "name": "look_up", "content": '{"found": 1}'} for c in calls]


def _format(chat: Chat) -> str:
    """Return how a call looks in this format."""
    text = chat.decode(chat.completion(_ACTION)).strip()
    first = next((line for line in text.splitlines() if line.strip()), "")
    return f"a call begins with {first[:40]!r}"


def _room(subject: Subject, chat: Chat) -> Iterator[Finding]:
    """Find whether prompts, and whole episodes, fit the context."""
    rollout, model = subject.config.rollout, subject.model
    lengths = [len(chat.render(prompt, subject.tools)) for prompt in subject.prompts]
    subject.longest_prompt = longest = max(lengths)
    native = (model.config.get("max_position_embeddings") if model else None) or 2**20
    context = min(subject.config.engine.context_length or native, native)
    values = {"longest_prompt": longest, "context": context}
    said = f"prompts of up to {longest} tokens, a context of {context}"
    fix = "raise [engine] context_length" if context < native else "take a model with a longer context"
    if longest >= context:
        yield fail(f"{said}: no episode can begin", f"{fix}, or shorten the system message and the tools")
    elif longest + rollout.max_turn_tokens > context:
        yield fail(
            f"{said}: no room for a turn of {rollout.max_turn_tokens}", f"{fix}, or lower rollout.max_turn_tokens"
        )
    elif longest + rollout.max_tokens > context:
        yield warn(
            f"{said}: an episode that uses its {rollout.max_tokens} tokens will not fit and ends as context_full",
            f"{fix}, or lower rollout.max_tokens",
        )
    else:
        yield ok(f"{said}: room for an episode's {rollout.max_tokens}", values)
