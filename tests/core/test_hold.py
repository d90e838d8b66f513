"""Holds: planned, begun and over by themselves."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from broker.core.hold import Hold, Phase

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.mark.parametrize(
    ("begins", "ends", "phase", "changes"),
    [
        (0, None, Phase.HELD, None),
        (0, 1, Phase.HELD, 1),
        (1, 2, Phase.PLANNED, 1),
        (1, None, Phase.PLANNED, 1),
        (-2, -1, Phase.OVER, -1),
        (-1, 0, Phase.OVER, 0),
    ],
)
def test_hold_begins_and_ends_by_the_clock(begins: int, ends: int | None, phase: Phase, changes: int | None) -> None:
    hold = Hold(lane="a", begins=NOW + begins * HOUR, ends=None if ends is None else NOW + ends * HOUR, ordered=NOW)
    assert hold.phase(NOW) is phase
    assert hold.changes_at(NOW) == (None if changes is None else NOW + changes * HOUR)
