"""When a request is repeated, and after which pause: full jitter, or what the service asks for.

It does not send anything. Pauses are drawn from a generator that is passed in, never from a global one.
"""

from __future__ import annotations

import email.utils
import random
import re
import time
from collections.abc import Callable
from datetime import UTC

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt, stop_before_delay

FIRST_PAUSE, LONGEST_PAUSE = 0.25, 8.0  # seconds, at most, without Retry-After
_SECONDS = re.compile(r"[0-9]+(?:\.[0-9]+)?")


class Later(Exception):
    """The same request may succeed later.

    Args:
        told: What happened.
        kind: The same in a word or two, for counting.
        seconds: When the service said to ask again.
        is_safe: Whether the request surely had no effect, so that any method may be repeated.
        can_help: Whether asking again may change anything.
    """

    def __init__(
        self, told: str, *, kind: str, seconds: float = 0.0, is_safe: bool = False, can_help: bool = True
    ) -> None:
        super().__init__(told)
        self.kind, self.seconds, self.is_safe, self.can_help = kind, seconds, is_safe, can_help


def retrying(
    *,
    repeats: int,
    seconds: float,
    is_idempotent: bool,
    rng: random.Random,
    before_pause: Callable[[RetryCallState], None],
) -> AsyncRetrying:
    """Return the loop of one call.

    Args:
        repeats: After the first attempt, at most.
        seconds: Deadline of the call; a pause that would pass it is not begun.
        is_idempotent: Whether the request may be repeated although it may have had its effect.
        rng: Draws the pauses.
        before_pause: Called before each of them.
    """

    def is_worth_it(error: BaseException) -> bool:
        return isinstance(error, Later) and error.can_help and (is_idempotent or error.is_safe)

    def pause(state: RetryCallState) -> float:
        # Full jitter: delay = random between 0 and min(cap, base * 2**attempt) (Brooker, AWS, 2015).
        longest = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** (state.attempt_number - 1))
        error = state.outcome.exception() if state.outcome is not None else None
        asked = error.seconds if isinstance(error, Later) else 0.0
        # The jitter is added: whoever was told the same second would come back in the same second.
        return asked + rng.uniform(0.0, longest)

    return AsyncRetrying(
        retry=retry_if_exception(is_worth_it),
        stop=stop_after_attempt(repeats + 1) | stop_before_delay(seconds),
        wait=pause,
        before_sleep=before_pause,
        reraise=True,
    )


def retry_after(value: str, *, now: float | None = None) -> float:
    """Return the seconds a `Retry-After` header asks for, 0 if it says nothing that can be read (RFC 9110, 10.2.3).

    Args:
        value: Seconds, or a date.
        now: Seconds since the epoch; None: the clock's.
    """
    value = value.strip()
    if _SECONDS.fullmatch(value):
        return float(value)
    try:
        date = email.utils.parsedate_to_datetime(value)
        date = date if date.tzinfo is not None else date.replace(tzinfo=UTC)
        return max(0.0, date.timestamp() - (time.time() if now is None else now))
    except (ValueError, TypeError, OverflowError, IndexError):
        return 0.0
