"""`fhir-broker lanes hold` and `resume`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from command_desk import Commands
from operator_desk import LANE

from broker.commands.ends import Ended
from broker.commands.lanes import instant


async def test_lane_is_held_listed_and_resumed(desk: Commands) -> None:
    held = await desk("lanes", "hold", LANE, "--reason", "moving house", "--until", "2099-01-01T00:00Z")
    assert (held.code, held.out.startswith(f"{LANE} is held from 2026-11-21 10:00")) == (0, True), held
    assert "nothing has gone to a lane of that name" in held.out
    listed = await desk("lanes", "ls")
    assert f"{LANE}  held until" in listed.out
    resumed = await desk("lanes", "resume", LANE)
    assert (resumed.code, resumed.out) == (0, f"{LANE} goes on\n")
    again = await desk("lanes", "resume", LANE)
    assert (again.code, "no hold on" in again.err) == (1, True)


async def test_planned_downtime_is_listed_beside_its_lane(desk: Commands) -> None:
    planned = await desk("lanes", "hold", LANE, "--from", "2099-01-01T02:00Z", "--until", "2099-01-01T04:00Z", "--json")
    assert planned.json["hold"]["phase"] == "planned"
    listed = await desk("lanes", "ls")
    assert f"{LANE}: will be held from 2099-01-01 02:00:00.000Z until 2099-01-01 04:00:00.000Z" in listed.out


@pytest.mark.parametrize("text", ["tomorrow", "2026-11-22T02:00", "+2", "-2h", "02:00Z"])
def test_time_that_nobody_can_place_is_wrong_usage(text: str) -> None:
    with pytest.raises(Ended, match="--from takes a time"):
        instant(text, "--from")


def test_times_may_be_counted_from_now() -> None:
    told = instant("+90m", "--from")
    assert told is not None
    assert abs(datetime.fromisoformat(told) - datetime.now(UTC) - timedelta(minutes=90)) < timedelta(seconds=30)
    assert instant("2026-11-22T02:00+01:00", "--until") == "2026-11-22T02:00:00+01:00"
    assert instant(None, "--until") is None
