"""The life of a subscription: what its status becomes, when a heartbeat is due, when it ends (S-10, S-15 to S-19)."""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import Enum

import msgspec

from broker.core.subscription.subscription import Model, Status, Subscription


class Happening(Enum):
    """What happens to a subscription."""

    ASKED = "asked"  # its client writes `requested`: new, or active again
    GREETED = "greeted"  # the handshake was taken, or the channel has none
    NOT_GREETED = "not-greeted"
    DELIVERED = "delivered"
    DELIVERED_WITH_A_GAP = "delivered-with-a-gap"  # but an event before it was given up
    FAILED = "failed"  # an attempt, as may happen
    FAILED_OFTEN = "failed-often"  # one more, and now it is an error
    GAVE_UP = "gave-up"  # an event number will never be sent by itself
    ERROR_TOO_LONG = "error-too-long"
    ENDED = "ended"
    SWITCHED_OFF = "switched-off"  # by its client, or the operator
    REVOKED = "revoked"  # its client may not any longer (S-10)
    WITHDRAWN = "withdrawn"  # entered in error


_H, _S = Happening, Status
_STOPS = {_H.ENDED: _S.OFF, _H.SWITCHED_OFF: _S.OFF, _H.REVOKED: _S.OFF, _H.WITHDRAWN: _S.ENTERED_IN_ERROR}

# What is not in a row changes nothing: a late answer to an attempt of a subscription that is off, say.
NEXT: dict[Status, dict[Happening, Status]] = {
    _S.REQUESTED: {**_STOPS, _H.ASKED: _S.REQUESTED, _H.GREETED: _S.ACTIVE, _H.NOT_GREETED: _S.ERROR},  # S-15
    _S.ACTIVE: {
        **_STOPS,
        _H.ASKED: _S.REQUESTED,  # its client wants a handshake
        _H.GREETED: _S.ACTIVE,
        _H.DELIVERED: _S.ACTIVE,
        _H.DELIVERED_WITH_A_GAP: _S.ACTIVE,  # the gap is older than the client's own re-activation
        _H.FAILED: _S.ACTIVE,
        _H.FAILED_OFTEN: _S.ERROR,  # S-16
        _H.GAVE_UP: _S.ERROR,
        _H.NOT_GREETED: _S.ERROR,
    },
    _S.ERROR: {
        **_STOPS,
        _H.ASKED: _S.REQUESTED,  # the client decides how to catch up (bp errors.md)
        _H.DELIVERED: _S.ACTIVE,  # S-16, S-17: what was pending came first, in order
        _H.DELIVERED_WITH_A_GAP: _S.ERROR,  # S-17
        _H.FAILED: _S.ERROR,
        _H.FAILED_OFTEN: _S.ERROR,
        _H.GAVE_UP: _S.ERROR,
        _H.GREETED: _S.ERROR,
        _H.NOT_GREETED: _S.ERROR,
        _H.ERROR_TOO_LONG: _S.OFF,  # S-16
    },
    _S.OFF: {**_STOPS, _H.ASKED: _S.REQUESTED},
    _S.ENTERED_IN_ERROR: {_H.WITHDRAWN: _S.ENTERED_IN_ERROR},
}

COUNTING = frozenset({_S.ACTIVE, _S.ERROR})  # S-17: events are counted on in `error`
HEARTBEATING = frozenset({_S.ACTIVE, _S.ERROR})  # and heartbeats say so


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """When trouble becomes an error, and an error the end."""

    error_after: int = 3  # failed attempts in a row
    off_after: timedelta = timedelta(days=3)  # in `error`


class Life(msgspec.Struct, frozen=True, kw_only=True):
    """Where a subscription stands; the part of it that changes by itself."""

    status: Status = Status.REQUESTED
    failures: int = 0  # attempts in a row
    has_gap: bool = False  # an event was given up since the client last (re-)activated
    was_active: bool = False
    since: datetime | None = None  # when the status became what it is
    last_sent: datetime | None = None  # anything at all that the subscriber took (S-22)
    error: str = ""  # what went wrong last; without secrets

    @property
    def counts(self) -> bool:
        """Whether an event that matches gets a number: also while a handshake is asked for anew (S-17)."""
        return self.was_active and self.status in (*COUNTING, Status.REQUESTED)

    @property
    def sends(self) -> bool:
        """Whether notifications leave: in `error` they are what is tried again."""
        return self.was_active and self.status in COUNTING


def after(
    life: Life, happening: Happening, *, now: datetime, model: Model, policy: Policy | None = None, error: str = ""
) -> Life:
    """The life after this; the same value where nothing changes but the time of the last delivery."""
    policy = policy or Policy()
    failures, has_gap = life.failures, life.has_gap
    if happening in (Happening.FAILED, Happening.NOT_GREETED):
        failures += 1
        if happening is Happening.FAILED and failures >= policy.error_after:
            happening = Happening.FAILED_OFTEN
    elif happening is Happening.GAVE_UP:
        has_gap = model is not Model.CLASSIC  # without numbers there are no gaps (S-17: S-16 only)
    elif happening is Happening.DELIVERED:
        failures = 0
        if has_gap:
            happening = Happening.DELIVERED_WITH_A_GAP
    elif happening is Happening.ASKED:
        failures, has_gap = 0, False
    status = NEXT[life.status].get(happening)
    if status is None:
        return life
    delivered = happening in (Happening.GREETED, Happening.DELIVERED, Happening.DELIVERED_WITH_A_GAP)
    return Life(
        status=status,
        failures=failures,
        has_gap=has_gap,
        was_active=life.was_active or status is Status.ACTIVE,
        since=life.since if status is life.status else now,
        last_sent=now if delivered else life.last_sent,
        error="" if status in (Status.ACTIVE, Status.REQUESTED) else error or life.error,
    )


def due(subscription: Subscription, life: Life, *, policy: Policy) -> tuple[datetime, Happening | None] | None:
    """What time alone will bring next, and when: the end, the end of an error, or (None) a heartbeat."""
    coming: list[tuple[datetime, Happening | None]] = []
    if subscription.end is not None and life.status not in (Status.OFF, Status.ENTERED_IN_ERROR):
        coming.append((subscription.end, Happening.ENDED))
    if life.status is Status.ERROR and life.since is not None:
        coming.append((life.since + policy.off_after, Happening.ERROR_TOO_LONG))
    if subscription.heartbeat is not None and life.status in HEARTBEATING:
        beats = [at for at in (life.last_sent, life.since) if at is not None]
        if beats:
            coming.append((max(beats) + subscription.heartbeat, None))
    return min(coming, key=lambda one: one[0], default=None)


def heartbeat_sent(life: Life, *, now: datetime) -> Life:
    """After a heartbeat, taken or not: the next is due a period later."""
    return msgspec.structs.replace(life, last_sent=now)
