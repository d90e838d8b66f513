"""Live notifications: each event is written once for all who follow its endpoint; slow readers are told of a gap.

Nothing here waits for a reader: what one cannot take is left out for that one, and said so in one frame once it reads
again. The mailbox and the trace have what was missed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

import structlog

from broker.channel import Happening, Host
from broker.core.attributes import written_instant
from plugins.websocket.connection import Connection, push
from plugins.websocket.frames import Payload, gap, text
from plugins.websocket.mailboxes import SLICE

log = structlog.get_logger("websocket")

MOST_WAITING = 1000  # events of one endpoint that wait for their turn; above it everybody has missed some


class Followed:
    """One endpoint, and who follows it."""

    __slots__ = ("endpoint", "leave", "members", "task", "waiting")

    def __init__(self, endpoint: str, leave: Callable[[], None]) -> None:
        self.endpoint, self.leave = endpoint, leave
        self.members: dict[Connection, None] = {}
        self.waiting: deque[Payload] = deque()
        self.task: asyncio.Task[None] | None = None


class Following:
    def __init__(self, host: Host) -> None:
        self._host = host
        self._followed: dict[str, Followed] = {}

    def add(self, connection: Connection, endpoint: str) -> None:
        followed = self._followed.get(endpoint)
        if followed is None:

            def heard(happening: Happening) -> None:
                self._heard(endpoint, happening)

            followed = self._followed[endpoint] = Followed(endpoint, self._host.follow(endpoint, heard))
        followed.members[connection] = None

    def remove(self, connection: Connection, endpoint: str) -> None:
        followed = self._followed.get(endpoint)
        if followed is None or connection not in followed.members:
            return
        del followed.members[connection]
        if not followed.members:
            del self._followed[endpoint]
            followed.leave()
            followed.waiting.clear()

    def stop(self) -> None:
        for followed in self._followed.values():
            followed.leave()
            if followed.task is not None:
                followed.task.cancel()
        self._followed.clear()

    def _heard(self, endpoint: str, happening: Happening) -> None:
        followed = self._followed[endpoint]
        if len(followed.waiting) >= MOST_WAITING:
            followed.waiting.clear()
            followed.waiting.append(gap(endpoint))
            return
        followed.waiting.append(written(endpoint, happening))
        if followed.task is None:
            followed.task = asyncio.get_running_loop().create_task(self._spread(followed))
            followed.task.add_done_callback(_report)

    async def _spread(self, followed: Followed) -> None:
        try:
            while followed.waiting:
                payload = followed.waiting.popleft()
                members = list(followed.members)
                for start in range(0, len(members), SLICE):
                    ready = []
                    for connection in members[start : start + SLICE]:
                        if connection.paused:
                            connection.miss(followed.endpoint)
                        else:
                            ready.append(connection)
                    push(ready, payload)
                    await asyncio.sleep(0)  # others have their turn
        finally:
            followed.task = None


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("telling followers failed", exc_info=error)


def written(endpoint: str, happening: Happening) -> Payload:
    frame = {
        "type": "event",
        "endpoint": endpoint,
        "what": happening.what,
        "id": happening.message_id,
        "position": happening.position,
        "at": written_instant(happening.at),
    }
    if happening.destination:
        frame["destination"] = happening.destination.split(" ")
    if happening.note:
        frame["note"] = happening.note
    return text(frame)
