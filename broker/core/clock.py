"""Which time it is for the broker, when the wall clock may be wrong and may be set at any moment.

The broker's clock goes with a steady one, that nobody sets, and is steered towards the wall clock: at once where they
differ by what clocks drift, and where the wall was set, only once it has stayed there, and slowly. It never leaps and
never runs backwards, so a wall clock that is set brings no wave of expiries, retries or reports (decision 0008).
"""

from __future__ import annotations

import msgspec

NEAR = 2.0  # seconds; a difference that drift and its correction by NTP make
SETTLES = 60.0  # seconds in which such a difference is made good
STAYS = 600.0  # seconds that the wall must have stood at a new time: a mistake is mostly set right sooner
TURN = 0.05  # of a second in each second, at most: an hour is followed in twenty, and a wait is never far off


class Course(msgspec.Struct, frozen=True, kw_only=True):
    """A straight piece of the broker's time; all in seconds."""

    base: float  # since 1970, what it showed
    at: float  # when the steady clock showed this
    speed: float = 1.0
    ahead: float  # of the steady clock, the wall, when it was last looked at
    set_at: float | None = None  # by the steady clock, when the wall was set to where it is now; None while it is near


def begin(*, wall: float, steady: float) -> Course:
    """At the start there is nothing but the wall to go by."""
    return Course(base=wall, at=steady, ahead=wall - steady)


def shown(course: Course, steady: float) -> float:
    """What the broker's clock shows, in seconds since 1970."""
    return course.base + (steady - course.at) * course.speed


def steered(course: Course, *, wall: float, steady: float) -> Course:
    """The next piece, that begins where the last one is now."""
    base, ahead = shown(course, steady), wall - steady
    off = wall - base
    set_at = course.set_at
    if abs(off) <= NEAR:
        return Course(base=base, at=steady, ahead=ahead, speed=1 + _bounded(off / SETTLES))
    if set_at is None or abs(ahead - course.ahead) > NEAR:
        set_at = steady
    speed = 1 + _bounded(off) if steady - set_at >= STAYS else 1.0
    return Course(base=base, at=steady, ahead=ahead, speed=speed, set_at=set_at)


def _bounded(turn: float) -> float:
    return min(max(turn, -TURN), TURN)
