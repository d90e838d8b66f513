"""The schedule of the store in memory: what waits, by lane and destination, and which lanes are held."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime

from broker.core.delivery import State
from broker.core.hold import Hold
from broker.core.turns import share
from broker.store import BEHIND, Claimed, Delivery, Due, Queued, Waiting
from broker.store.tables import Name, Row, Tables, shown


def schedule(tables: Tables) -> tuple[Due, ...]:
    """Every destination for which something waits, and when the first of it is due."""
    return tuple([
        Due(lane=lane, key=key, due=min([row.delivery.due for row in rows.values()]))
        for (lane, key), rows in sorted(tables.queues.items())
    ])  # fmt: skip


def queued(tables: Tables) -> tuple[Queued, ...]:
    """Every destination for which something waits, by name; what names none is left out."""
    names = {queue: next(iter(rows.values())).delivery.destination for queue, rows in sorted(tables.queues.items())}
    return tuple([Queued(lane=lane, key=key, name=name) for (lane, key), name in names.items() if name])


def lanes(tables: Tables) -> tuple[Waiting, ...]:
    """What waits, lane by lane."""
    found: dict[str, list[Delivery]] = {}
    for row in tables.waiting():
        found.setdefault(row.delivery.lane, []).append(row.delivery)
    return tuple([
        Waiting(
            lane=lane, count=len(some), due=min([one.due for one in some]),
            oldest=min(some, key=lambda one: one.position).accepted,
        )
        for lane, some in sorted(found.items())
    ])  # fmt: skip


# -- what is handed out


def claim(
    tables: Tables, lane: str, wanted: Mapping[str, int], now: datetime, fresh: datetime, until: datetime
) -> Claimed:
    """Hands out what is due for these destinations, so much of each, and what was never tried and is due by `fresh`."""

    def is_due(delivery: Delivery) -> bool:
        return delivery.due <= fresh and (delivery.due <= now or not delivery.attempts)

    taken: dict[Name, Row] = {}
    for key, limit in wanted.items():
        rows = sorted(tables.queues.get((lane, key), {}).values(), key=lambda row: (row.delivery.due, row.name))
        levels = sorted({row.delivery.priority for row in rows}, reverse=True)
        left = limit
        for level in levels:
            room = share(left, lower=level != levels[-1])
            some = [row for row in rows if row.delivery.priority == level and is_due(row.delivery)][:room]
            taken.update({row.name: row for row in some})
            left -= len(some)
            if left <= 0:
                break
    together = {(row.delivery.position, row.delivery.address) for row in taken.values()}  # they leave together (M-55)
    for position in sorted({position for position, _ in taken}):
        for row in tables.of(position):
            one = row.delivery
            its = one.lane == lane and one.state is State.WAITING and is_due(one)
            if its and (position, one.address) in together:
                taken.setdefault(row.name, row)
    handed = shown(taken.values())
    for row in taken.values():
        row.delivery.due = until
    next_due = {
        key: min([row.delivery.due for row in queue.values()])
        for key in wanted
        if (queue := tables.queues.get((lane, key)))
    }
    return Claimed(deliveries=handed, next_due=next_due)


def wake(tables: Tables, lane: str, key: str, due: datetime, limit: int, but: Collection[Name]) -> int:
    """Some of what waits for a destination whose name changed is due now, in the lane of no peer."""
    rows = [
        row
        for row in tables.queues.get((lane, key), {}).values()
        if not row.delivery.fixed
        and (lane or due < row.delivery.due < BEHIND)
        and row.name not in but
    ][:limit]  # fmt: skip
    for row in rows:
        old = row.delivery.due
        tables.change(row, lane="", due=old if old >= BEHIND else min(old, due))
    return len(rows)


# -- holds


def hold_lane(tables: Tables, hold: Hold) -> None:
    tables.holds[hold.lane] = hold


def resume_lane(tables: Tables, lane: str) -> bool:
    return tables.holds.pop(lane, None) is not None


def holds(tables: Tables) -> tuple[Hold, ...]:
    return tuple([tables.holds[lane] for lane in sorted(tables.holds)])
