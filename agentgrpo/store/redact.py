"""Takes known kinds of secrets out of text before it is stored.

It knows the shapes of common keys only, and sees text, not token ids: a secret the model has read can still be decoded
from the ids of its trajectory, so a backend's credentials belong in the environment's process, never in its outputs.
"""

from __future__ import annotations

import re

from agentgrpo.types import Json

REDACTED = "[redacted]"

# Long enough that prose and identifiers do not match: a false hit would make the text differ from its tokens.
_KEYS = re.compile(
    r"""
    (?<![A-Za-z0-9_-])
    (?:
        sk-[A-Za-z0-9_-]{20,}                           # OpenAI, Anthropic and look-alikes
      | gh[pousr]_[A-Za-z0-9]{20,}                      # GitHub
      | github_pat_[A-Za-z0-9_]{20,}
      | glpat-[A-Za-z0-9_-]{16,}                        # GitLab
      | hf_[A-Za-z0-9]{20,}                             # Hugging Face
      | (?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Za-z0-9])        # AWS
      | AIza[A-Za-z0-9_-]{35}                           # Google
      | xox[abprs]-[A-Za-z0-9-]{10,}                    # Slack
    )
    | (?P<scheme>\b[Bb]earer\s+)[A-Za-z0-9._~+/=-]{16,}
    | -----BEGIN[ ][A-Z ]*PRIVATE[ ]KEY-----.*?(?:-----END[ ][A-Z ]*PRIVATE[ ]KEY-----|\Z)
    """,
    re.VERBOSE | re.DOTALL,
)


# One of these is in every text that holds a key: looking for them first costs a twentieth of the expression. Each
# begins with letters that are the same in all it finds, which is what makes looking quick.
_SIGNS = ("hf_", "earer", " PRIVATE KEY-----")
_LOOKS = tuple(
    re.compile(look)
    for look in ("g(?:h[pousr]_|ithub_pat_|lpat-)", "A(?:KIA|SIA|Iza)", "xox[abprs]-", "sk-[A-Za-z0-9_-]{20}")
)


def may_hold_keys(text: str) -> bool:
    """Return whether a text, or JSON as text, could hold a key: False is certain."""
    return any(sign in text for sign in _SIGNS) or any(look.search(text) is not None for look in _LOOKS)


def redact_text(text: str) -> str:
    """Return the text with every known key replaced by `[redacted]`."""
    if not may_hold_keys(text):
        return text
    return _KEYS.sub(lambda match: (match["scheme"] or "") + REDACTED, text)


def redact(value: Json) -> Json:
    """Return JSON data with every known key in its strings, names of members included, replaced."""
    if isinstance(value, str):
        return redact_text(value)
    if isinstance(value, dict):
        return {redact(name): redact(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [redact(item) for item in value]
    return value
