"""Notify: wakes whoever follows a mailbox, after the commit and never in it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

FOLLOWERS = 20_000  # long-polling readers at once; each holds a connection anyway


class Followers:
    """Readers that stand at the end of a mailbox; all of one mailbox are woken together."""

    def __init__(self) -> None:
        self._mailboxes: dict[str | None, set[asyncio.Event]] = {}
        self._count = 0
        self.stopped = False  # nobody begins to wait any more

    @contextmanager
    def following(self, mailbox: str | None) -> Iterator[asyncio.Event]:
        """An event that is set when the mailbox (None: any) gets a message; enter before reading, so none is missed."""
        event = asyncio.Event()
        here = self._mailboxes.setdefault(mailbox, set())
        here.add(event)
        self._count += 1
        try:
            yield event
        finally:
            self._count -= 1
            here.discard(event)
            if not here:
                self._mailboxes.pop(mailbox, None)

    @property
    def full(self) -> bool:
        return self._count >= FOLLOWERS

    def wake(self, mailbox: str, position: int) -> None:
        for name in (mailbox, None):
            for event in self._mailboxes.get(name, ()):
                event.set()

    def wake_all(self) -> None:
        """The broker stops: nobody is kept waiting."""
        self.stopped = True
        for events in self._mailboxes.values():
            for event in events:
                event.set()
