"""Live: tells who follows an endpoint what happens to its messages, as it happens. Nothing here is kept."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import structlog

from broker.channel import Happening
from broker.core.addressing import name_key
from broker.flow.here import Here

log = structlog.get_logger("broker.live")

Listener = Callable[[Happening], None]


class Live:
    def __init__(self, here: Here) -> None:
        self._here = here
        self._listeners: dict[str, list[Listener]] = {}  # by key of the endpoint

    def follow(self, endpoint: str, listener: Listener) -> Callable[[], None]:
        key = name_key(endpoint)
        self._listeners.setdefault(key, []).append(listener)

        def leave() -> None:
            listeners = self._listeners.get(key, [])
            if listener in listeners:
                listeners.remove(listener)
                if not listeners:
                    del self._listeners[key]

        return leave

    def __bool__(self) -> bool:
        """Whether anybody follows anything: what nobody hears of costs nothing."""
        return bool(self._listeners)

    def tell(
        self,
        endpoint: str | None,
        what: str,
        position: int,
        *,
        destination: str = "",
        note: str = "",
        at: datetime | None = None,
    ) -> None:
        """Tells of something that is on disk; asked only where somebody follows (`if live`)."""
        listeners = self._listeners.get(name_key(endpoint)) if endpoint else None
        if not listeners:
            return
        assert endpoint
        happening = Happening(
            endpoint=endpoint,
            what=what,
            message_id=self._here.ids.of(position),
            position=position,
            at=at or self._here.now(),
            destination=destination,
            note=note,
        )
        for listener in tuple(listeners):
            try:
                listener(happening)
            except Exception:  # one channel's bug is no other's trouble
                log.exception("a listener failed", what=what)
