"""How long an environment's episodes are: turns, calls, characters, and tokens where there is a tokenizer.

It knows baselines, not policies.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from agentgrpo.baselines import Played
from agentgrpo.chat import Chat
from agentgrpo.envstats.figures import Ended
from agentgrpo.types import Message, Task
from agentgrpo.warm_start.demonstrations import Demonstration, tokenize

CHARACTERS = 4  # of a token, roughly, in English and JSON


@dataclass(frozen=True, slots=True, kw_only=True)
class Length:
    """An episode's size in tokens."""

    prompt: int  # messages before the first turn, and the tools
    sampled: int
    total: int


def ended(task: Task | None, played: Played) -> Ended:
    """Return a baseline's episode as a figure."""
    return Ended(
        group=task.id if task else "",
        reward=played.reward,
        is_success=played.is_success,
        turns=len(played.turns),
        calls=played.call_count,
        errors=played.error_count,
    )


def measure(played: Sequence[Played], chat: Chat | None) -> list[Length]:
    """Return the tokens of episodes; without a chat by their characters.

    Raises:
        EnvError: the chat template cannot extend a conversation turn by turn.
    """
    return [_by_characters(one) if chat is None else _by_tokens(one, chat) for one in played]


def _by_tokens(played: Played, chat: Chat) -> Length:
    episode = Demonstration(prompt=played.prompt, tools=played.tools, turns=played.turns, reward=played.reward)
    row = tokenize(episode, chat)
    first = row.loss_mask.index(1) if 1 in row.loss_mask else len(row.token_ids)
    return Length(prompt=first, sampled=sum(row.loss_mask), total=len(row.token_ids))


def _by_characters(played: Played) -> Length:
    prompt = len(json.dumps(list(played.tools))) + sum(map(_size, played.prompt))
    said = sum(len(action["content"]) + len(json.dumps(action["tool_calls"])) for action, _ in played.turns)
    heard = sum(_size(message) for _, messages in played.turns for message in messages)
    prompt, said, heard = (-(-count // CHARACTERS) for count in (prompt, said, heard))
    return Length(prompt=prompt, sampled=said, total=prompt + said + heard)


def _size(message: Message) -> int:
    return len(str(message.get("content") or ""))
