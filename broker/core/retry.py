"""When a delivery is tried again."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime, timedelta

from broker.core.policy import Retry


def wait_before(attempt: int, retry: Retry, *, dice: float) -> timedelta:
    """How long to wait before attempt number `attempt` (2, 3, …); `dice` is uniform in 0…1."""
    seconds = longest = retry.max.total_seconds()
    with suppress(OverflowError):  # beyond what floats hold, only `max` counts
        seconds = min(retry.first.total_seconds() * retry.factor ** (attempt - 2), longest)
    return timedelta(seconds=seconds * (1 + retry.jitter * (2 * dice - 1)))


def next_attempt(
    made: int,
    *,
    now: datetime,
    expiry: datetime,
    retry: Retry,
    dice: float,
    asked: timedelta | None = None,
) -> datetime | None:
    """Time of the next attempt after `made` attempts, or None when it would fall past the expiry.

    `asked` is the peer's own wish (Retry-After): never earlier than that, but a wish for longer than the rule's
    longest wait is cut to four times that, since nobody may park our deliveries for a year.
    """
    wait = wait_before(made + 1, retry, dice=dice)
    if asked is not None:
        wait = max(wait, min(asked, retry.max * 4))
    due = now + wait
    return due if due < expiry else None
