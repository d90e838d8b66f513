"""A process that tells subscriptions of events until it is killed, and says each number once it was confirmed."""

from __future__ import annotations

import asyncio
import random
import sys
from pathlib import Path

from store_subscriptions import ACTIVE, event, notification, subscription
from store_values import NOW

from broker.core.subscription.notification import Kind
from broker.store import Kept
from broker.store.sqlite import SqliteStore

SUBSCRIPTIONS = 8
FIRST = 1_000_000  # the positions that are told: made up, and not those of the notices in the same log


async def work(path: Path, seed: int) -> None:
    dice = random.Random(seed)
    store = SqliteStore(path, now=lambda: NOW)
    rows = list(await store.subscribed())
    for number in range(len(rows), SUBSCRIPTIONS):
        row = await store.subscribe(subscription(f"s{number}"), ACTIVE, owner="", at=NOW, most=SUBSCRIPTIONS)
        assert row is not None
        rows.append(row)
    told = max(FIRST, await store.told())
    await asyncio.gather(tell(store, dice, told, [row.key for row in rows]), notify(store, dice, rows[0].key))


async def tell(store: SqliteStore, dice: random.Random, told: int, keys: list[int]) -> None:
    while True:
        upto = told + dice.randint(1, 5)
        events = [event(position, *dice.sample(keys, dice.randint(0, len(keys)))) for position in range(told + 1, upto)]
        numbers = await store.tell(upto, events)
        print("told", upto, *[f"{key}:{number}" for key, number in numbers.items()], flush=True)
        told = upto


async def notify(store: SqliteStore, dice: random.Random, key: int) -> None:
    row = next(row for row in await store.subscribed() if row.key == key)
    while True:
        if row.notice is None:
            last = row.sent + dice.randint(1, 3)
            kept = await store.notice(key, notification(), Kind.EVENT, first=row.sent + 1, last=last)
            assert isinstance(kept, Kept)
            print("notice", kept.position, last, flush=True)
            ended, sent = kept.position, last
        else:
            ended, sent = row.notice.position, row.notice.last
        moved = await store.move(key, ACTIVE, sent=sent, ended=ended)
        assert moved is not None
        row = moved
        print("moved", sent, ended, flush=True)


if __name__ == "__main__":
    asyncio.run(work(Path(sys.argv[1]), int(sys.argv[2])))
