"""The writer's connection: what it remembers between groups, and what the group at hand has still to write.

Each statement costs a hand-over of the interpreter's lock or two, whatever it does. What ordinary messages add is
therefore collected over the group and written in one statement a table, and what is all but certain is not asked for
row by row: it is taken for granted and checked once. A guess that was wrong raises `Mistaken`, and the group is done
again with nothing taken for granted (`careful`).
"""

import sqlite3
from typing import Any

from broker.core.policy import Policy
from broker.store import Kept, Settled
from broker.store.claims import Claims
from broker.store.rows import (
    Policies,
    encode_policy,
)

KNOWN_POLICIES = 4_096
KNOWN_MAILBOXES = 50_000  # remembered numbers; beyond, the memory is emptied rather than grown


class Mistaken(Exception):
    """Something that was taken for granted in a group is otherwise."""


class Transaction:
    """The writer's connection with what it remembers between groups."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._added: dict[str, list[tuple[Any, ...]]] = {}  # statement: rows that it has still to write
        self._changed: dict[str, list[tuple[Any, ...]]] = {}
        high = db.execute("SELECT value FROM meta WHERE name = 'high'").fetchone()
        last = db.execute("SELECT max(position) FROM message").fetchone()[0]
        self.last = max(last or 0, int(high[0]) if high else 0)
        self.now = 0  # microseconds; the commit's time, set by the writer for each group
        self.logged = 0  # bytes that the group adds to the log beyond what its operations usually do, about
        self.own = 0  # messages of the group that nobody who follows the log asks for
        self.held_after = 0  # where retention goes on looking at what it had to keep
        self.held_looks = 0  # how much of it it has looked at in the round at hand
        self._before = self.last  # the last position ahead of the group at hand
        self.claims = Claims(db)
        self.careful = False  # nothing is taken for granted
        self.forget()

    @property
    def db(self) -> sqlite3.Connection:
        """The connection, with all that the group has done so far."""
        if self._added or self._changed or self.claims.supposed:
            self.write()
        return self._db

    def add(self, statement: str, row: tuple[Any, ...]) -> None:
        """Inserts the row, at the latest before anything else is done in the group."""
        rows = self._added.get(statement)
        if rows is None:
            self._added[statement] = [row]
        else:
            rows.append(row)

    def change(self, statement: str, row: tuple[Any, ...]) -> bool:
        """Whether the statement, which finds one row or none, has changed one; what an ordinary message needs, does."""
        if self.careful:
            return self.db.execute(statement, row).rowcount == 1
        self._changed.setdefault(statement, []).append(row)
        return True

    def write(self) -> None:
        """What the group has still to write."""
        added, self._added = self._added, {}
        changed, self._changed = self._changed, {}
        for statement, rows in added.items():
            self._db.executemany(statement, rows)
        for statement, rows in changed.items():
            if self._db.executemany(statement, rows).rowcount != len(rows):
                raise Mistaken
        if not self.claims.are_new():
            raise Mistaken

    def begin(self, now: int, *, careful: bool) -> None:
        self._db.execute("BEGIN IMMEDIATE")
        self.now, self.careful, self._before, self.own = now, careful, self.last, 0

    @property
    def brings(self) -> bool:
        """Whether the group has messages for who follows the log."""
        return self.last - self._before > self.own

    def forget(self) -> None:
        """After a rollback nothing that was learned in the group can be trusted; its positions are given again.

        Who has heard of one gets the same one, since what was told is done again in the same order (or see `spend`).
        """
        self.last = self._before
        self._added, self._changed = {}, {}
        self.policies = Policies(self._db)
        self._policy_ids: dict[int, tuple[Policy, int]] = {}
        self._mailbox_ids: dict[str, int] = {}
        self.released: list[tuple[str, str]] = []  # lane and destination of what its stream let go

    def spend(self, outcome: Any) -> None:
        """What could not be kept after all leaves its position unused: others of its group have heard of theirs."""
        came = outcome.came if isinstance(outcome, Settled) else outcome
        if isinstance(came, Kept):
            self.last = max(self.last, came.position)

    def take_released(self) -> tuple[tuple[str, str], ...]:
        """What an operation tells of the streams that it let go on."""
        released, self.released = tuple(dict.fromkeys(self.released)), []
        return released

    def policy_id(self, policy: Policy) -> int:
        """Policies are the configuration's own objects: known by which object it is, not by all that it says."""
        known = self._policy_ids.get(id(policy))
        if known is not None:
            return known[1]
        value = encode_policy(policy)
        self._db.execute("INSERT OR IGNORE INTO policy (value) VALUES (?)", (value,))
        number = int(self._db.execute("SELECT id FROM policy WHERE value = ?", (value,)).fetchone()[0])
        if len(self._policy_ids) >= KNOWN_POLICIES:
            self._policy_ids.clear()
        self._policy_ids[id(policy)] = (policy, number)  # held, so that the number of the object is not given anew
        return number

    def mailbox_id(self, key: str, name: str) -> int:
        number = self._mailbox_ids.get(key)
        if number is None:
            self._db.execute("INSERT OR IGNORE INTO mailbox (key, name) VALUES (?, ?)", (key, name or key))
            number = int(self._db.execute("SELECT id FROM mailbox WHERE key = ?", (key,)).fetchone()[0])
            if len(self._mailbox_ids) >= KNOWN_MAILBOXES:
                self._mailbox_ids.clear()
            self._mailbox_ids[key] = number
        return number
