"""Actions that a person writes, read as strictly as a model's; a mistake is told to the person."""

from __future__ import annotations

import json

from agentgrpo.actions import parse_action
from agentgrpo.errors import UserError
from agentgrpo.rollout.speaker import Given
from agentgrpo.types import BadCall, JsonObject, Trajectory

_FORM = (
    'expected {"content": TEXT, "tool_calls": [{"name": TOOL, "arguments": {...}}]}, or text that may hold '
    "<tool_call>{...}</tool_call>"
)


def action_by_hand(action: JsonObject | str, parent: Trajectory, turn: int) -> Given:
    """Return what a person wrote as the message of a turn (an index).

    Args:
        action: A canonical action, its JSON, or text that may hold `<tool_call>` blocks. Calls need no id.
        parent: The episode it continues; calls are numbered after its own.
        turn: How many turns come before.

    Raises:
        UserError: it holds a call that cannot be read.
    """
    text = action if isinstance(action, str) else json.dumps(action)
    before = sum(known.call_count for known in parent.turns[:turn])
    message = parse_action(text, first_id=before)
    for call in message.calls:
        if isinstance(call, BadCall):
            raise UserError(f"the action holds a call that cannot be read: {call.error_message}; {_FORM}")
    if not message.calls and not message.content.strip():
        raise UserError(f"the action is empty: {_FORM}")
    return Given(message=message)
