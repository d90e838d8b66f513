"""The writer's connection, with what it remembers between the transactions of two groups."""

import sqlite3

from broker.core.policy import Policy
from broker.store.claims import Claims
from broker.store.rows import (
    Policies,
    encode_policy,
)

KNOWN_POLICIES = 4_096
KNOWN_MAILBOXES = 50_000  # remembered numbers; beyond, the memory is emptied rather than grown


class Transaction:
    """The writer's connection with what it remembers between groups."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self.db = db
        high = db.execute("SELECT value FROM meta WHERE name = 'high'").fetchone()
        last = db.execute("SELECT max(position) FROM message").fetchone()[0]
        self.last = max(last or 0, int(high[0]) if high else 0)
        self.now = 0  # microseconds; the commit's time, set by the writer for each group
        self.logged = 0  # bytes that the group adds to the log beyond what its operations usually do, about
        self.held_after = 0  # where retention goes on looking at what it had to keep
        self.claims = Claims(db)
        self.forget()

    def forget(self) -> None:
        """After a rollback nothing that was learned in the group can be trusted."""
        self.policies = Policies(self.db)
        self._policy_ids: dict[int, tuple[Policy, int]] = {}
        self._mailbox_ids: dict[str, int] = {}
        self.released: list[tuple[str, str]] = []  # lane and destination of what its stream let go

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
        self.db.execute("INSERT OR IGNORE INTO policy (value) VALUES (?)", (value,))
        number = int(self.db.execute("SELECT id FROM policy WHERE value = ?", (value,)).fetchone()[0])
        if len(self._policy_ids) >= KNOWN_POLICIES:
            self._policy_ids.clear()
        self._policy_ids[id(policy)] = (policy, number)  # held, so that the number of the object is not given anew
        return number

    def mailbox_id(self, key: str, name: str) -> int:
        number = self._mailbox_ids.get(key)
        if number is None:
            self.db.execute("INSERT OR IGNORE INTO mailbox (key, name) VALUES (?, ?)", (key, name or key))
            number = self.db.execute("SELECT id FROM mailbox WHERE key = ?", (key,)).fetchone()[0]
            if len(self._mailbox_ids) >= KNOWN_MAILBOXES:
                self._mailbox_ids.clear()
            self._mailbox_ids[key] = number
        return int(number)
