"""A credential for one service: read from the environment when it is sent, taken out of everything that comes back.

It does not know who asks; the value is in no attribute, no message and no result.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from urllib.parse import quote

from agentgrpo.errors import EnvError

HIDDEN = "***"
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_PRINTABLE = re.compile(r"[\x21-\x7e]+(?: [\x21-\x7e]+)*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Auth:
    """Which header authenticates requests, and the environment variable that holds its secret.

    Attributes:
        variable: Name of the environment variable.
        header: The header, such as "X-Api-Key".
        scheme: Word before the secret; "" for none.

    Raises:
        EnvError: the variable is not set, or holds what no header can.
    """

    variable: str
    header: str = "Authorization"
    scheme: str = "Bearer"

    def __post_init__(self) -> None:
        """Refuse a missing variable now rather than in the first episode."""
        if not _HEADER.fullmatch(self.header):
            raise EnvError(f"auth: {self.header!r} is no name of a header")
        if not _VARIABLE.fullmatch(self.variable):  # likely the secret itself: it is not repeated
            raise EnvError("auth: variable takes the name of an environment variable, such as SHOP_TOKEN")
        self.secret()

    def secret(self) -> str:
        """Return the secret.

        Raises:
            EnvError: the variable is not set, or holds what no header can.
        """
        secret = os.environ.get(self.variable, "").strip()
        if not secret:
            raise EnvError(f"auth: the environment variable {self.variable} is not set; export {self.variable}=...")
        if not _PRINTABLE.fullmatch(secret):
            raise EnvError(f"auth: {self.variable} holds characters that no header can; expected printable ASCII")
        return secret

    def value(self) -> str:
        """Return the header's value."""
        return f"{self.scheme} {self.secret()}".strip()

    def hide(self, text: str) -> str:
        """Take the secret out of a text: services repeat it in errors and echoes."""
        secret = self.secret()
        forms = {secret, quote(secret, safe=""), json.dumps(secret)[1:-1], secret.replace("/", "\\/")}
        for form in sorted(forms, key=len, reverse=True):
            text = text.replace(form, HIDDEN)
        return text
