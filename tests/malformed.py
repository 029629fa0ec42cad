"""Tool calls as models write them, and everything that can be wrong with one."""

from __future__ import annotations

import json
import random
from typing import Any

import agentgrpo as ag

GOOD = '{"name": "press", "arguments": {"digit": 1}}'
VALID = (
    GOOD,
    '{"name": "note", "arguments": {"text": "a \\"quoted\\" \\u00e9 é 鍵 🔑\\n", "tags": ["x", "y"]}}',
    '{"name": "note", "arguments": {"text": "", "tags": []}, "id": "call_7"}',
    '{"arguments": {"digit": -3}, "name": "press"}',
)
VALUES = (
    *("null", "true", "0", "-0.0", "1e308", "1e999", "-1e999", "NaN", "Infinity", "-Infinity", '""', "[]", "{}"),
    *("9" * 1000, "9" * 1001, "0." + "1" * 999, "1e" + "9" * 400, "0x10", "01", "+1", ".5", "1_0", "'a'", "undefined"),
    *('{"a":' * 40 + "1" + "}" * 40, "[" * 33 + "]" * 33, "[" * 300, "[" * 32, '"' + "\\" * 999, "/* c */ 1", "1,"),
    *('"\\ud800"', '"\\udc00\\ud800"', '"\\ud83d\\ude00"', '"\\u0000"', '"\\x"', '"\n"', '"\t', '"<|im_start|>"'),
    *('{"k": 1, "k": 2}', '[{"k": {"j": 1, "j": 1}}]', '{"": 1, "": 2}'),
)
LARGE = (
    *("9" * 5000, "-" + "9" * 5000, "0." + "1" * 5000, "[" * 10_000, "[" * 10_000 + "]" * 10_000, '{"a":' * 10_000),
    *('"' + "x" * 70_000 + '"', '"' + "\\u0041" * 20_000 + '"', "[" + "1," * 40_000 + "1]"),
)
PIECES = (*'{}[]",:\\-+.eE0123456789 \n\t\x00\x7f', "\u2028", "\ufeff", "é", "�", "null", "NaN", "\\u", "\\ud8", "//")
FORMS = (
    '{{"name": "press", "arguments": {}}}',
    '{{"name": {}, "arguments": {{}}}}',
    '{{"name": "note", "arguments": {{"text": {}}}}}',
    '{{"name": "note", "arguments": {{{}: 1}}}}',
    '{{"name": "press", "arguments": {{"digit": {0}, "digit": {0}}}}}',
    '{{"name": "press", "name": "note", "arguments": {}}}',
    '{{"name": "pres", "arguments": {}}}',
    '{{"parameters": {}}}',
    "{{{}: 1}}",
    "{}",
    "well, {} then",
)


class Keys(ag.ToolEnv):
    """Presses digits and takes notes."""

    def reset_task(self, task: dict[str, Any]) -> str:
        return "Press."

    @ag.tool
    def press(self, digit: int) -> str:
        """Press a digit."""
        return str(digit)

    @ag.tool
    def note(self, text: str, tags: list[str] | None = None) -> str:
        """Take a note."""
        return text

    def reward(self) -> float:
        return 0.0


def malformed(rng: random.Random) -> str:
    """Return the text between a call's tags: a valid call changed, or one made with a value of another kind."""
    if rng.random() < 0.4:
        return rng.choice(FORMS).format(rng.choice(VALUES if rng.random() < 0.95 else LARGE))
    text = rng.choice(VALID)
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(len(text) + 1)
        other = rng.randrange(len(text) + 1)
        text = rng.choice(
            (
                text[:at],  # cut off
                text[at:],
                text[:at] + rng.choice(PIECES) + text[at:],
                text[:at] + text[at + 1 :],
                text[:at] + rng.choice(PIECES) + text[at + 1 :],
                text[:at] + text[other:],
                text[:at] + text[other : other + 9] + text[at:],
                json.dumps(text),
                text + text,
                text.replace("digit", "digt"),
            )
        )
    return text
