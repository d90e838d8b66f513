"""Whose turn it is among priorities: the higher goes first, and never makes the lower wait for ever. Pure."""

from __future__ import annotations

from collections.abc import Iterable, MutableMapping

LOWEST, HIGHEST = 0, 9
PATIENCE = 4  # so many of higher priority may go before one of lower does


def within(priority: int) -> int:
    """A priority that somebody else wrote, cut to ours."""
    return min(max(priority, LOWEST), HIGHEST)


def next_level(waiting: Iterable[int], passed: MutableMapping[int, int]) -> int:
    """The priority that goes next of those that wait; `passed` remembers how often each was passed over."""
    levels = sorted(waiting, reverse=True)
    chosen = max(levels, key=lambda level: (times if (times := passed.get(level, 0)) >= PATIENCE else 0, level))
    for level in levels:
        if level < chosen:
            passed[level] = passed.get(level, 0) + 1
    passed[chosen] = 0
    return chosen


def share(room: int, *, lower: bool) -> int:
    """How much of the room a priority may take when something of a lower one waits too."""
    return max(room * PATIENCE // (PATIENCE + 1), 1) if lower else room
