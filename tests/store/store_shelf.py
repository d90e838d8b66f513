"""A store with a clock in hand, of which retention takes its steps one by one."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from store_values import DAY, NOW, delivery, new, settlement

from broker.store import Cutoffs, Kept, NewMessage, Removed
from broker.store.sqlite import SqliteStore

NOTHING = Removed(body=0, mailbox=0, identity=0, trace=0, more=False)


class Shelf:
    """A store with a clock, and how long things are kept in it."""

    def __init__(self, path: Path) -> None:
        self.path, self.now = path, NOW
        self.ages = {"body": 10, "mailbox": 20, "identity": 30, "trace": 40}
        self.open()

    def open(self) -> None:
        self.store = SqliteStore(self.path, now=lambda: self.now)

    async def reopen(self) -> None:
        await self.store.close()
        self.open()

    async def keep(self, message: NewMessage) -> int:
        kept = await self.store.accept(message)
        assert isinstance(kept, Kept)
        return kept.position

    async def carried(self, identity: str = "bundle:b", **more: object) -> int:
        """A message that was delivered at once."""
        position = await self.keep(new(identity, delivery(), **more))  # type: ignore[arg-type]
        await self.store.settle(settlement(position))
        return position

    async def step(self) -> Removed:
        older = {kind: self.now - days * DAY for kind, days in self.ages.items()}
        return await self.store.retain(Cutoffs(**older))

    async def after(self, days: float) -> Removed:
        """All that goes by then."""
        self.now = NOW + days * DAY
        steps, idle = [NOTHING], 0
        # claims that are only remembered are put into their table by the steps between; all that is held has its turn
        while idle < 4 + self.rows("held"):
            steps.append(await self.step())
            if not steps[-1].more:
                idle += 1
            if any((steps[-1].body, steps[-1].mailbox, steps[-1].identity, steps[-1].trace)):
                idle = 0
        body, mailbox, identity, trace = (
            sum(getattr(step, kind) for step in steps) for kind in ("body", "mailbox", "identity", "trace")
        )
        return Removed(body=body, mailbox=mailbox, identity=identity, trace=trace, more=False)

    def rows(self, table: str) -> int:
        with closing(sqlite3.connect(self.path)) as db:
            return int(db.execute(f"SELECT count(*) FROM {table}").fetchone()[0])
