"""A short episode as other programs write it: an ATIF document, and a line of messages."""

from __future__ import annotations

from typing import Any

AGENT = {"name": "someone", "version": "1.0", "model_name": "some-model"}
CALL = {"tool_call_id": "c1", "function_name": "look", "arguments": {"at": 7}}
STEPS: list[dict[str, Any]] = [
    {"step_id": 1, "source": "system", "message": "You look things up."},
    {"step_id": 2, "source": "user", "message": [{"type": "text", "text": "What is at 7?"}]},
    {
        "step_id": 3,
        "source": "agent",
        "message": "",
        "reasoning_content": "I look.",
        "tool_calls": [CALL],
        "observation": {"results": [{"source_call_id": "c1", "content": "a key"}]},
        "metrics": {"prompt_token_ids": [1, 2], "completion_token_ids": [3, 4], "logprobs": [-0.5, -0.25]},
    },
    {
        "step_id": 4,
        "source": "agent",
        "message": "A key.",
        "metrics": {"prompt_token_ids": [1, 2, 3, 4, 5], "completion_token_ids": [6], "logprobs": [0.0]},
    },
]


def document(**changes: Any) -> dict[str, Any]:
    """Return an ATIF document, changed so."""
    return {"schema_version": "ATIF-v1.8", "agent": AGENT, "steps": STEPS, **changes}


LINE_CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at": 7}'}}
LINE: dict[str, Any] = {
    "messages": [
        {"role": "system", "content": "You look things up."},
        {"role": "user", "content": "What is at 7?"},
        {"role": "assistant", "content": None, "tool_calls": [LINE_CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": "a key"},
        {"role": "assistant", "content": "A key."},
    ],
    "tools": [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}],
}
