"""What travels around a message: CloudEvents context attributes and our extensions (spec: cloudevents 1 and 2)."""

from __future__ import annotations

from datetime import datetime

import msgspec


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """The attributes as values; how they are written is each channel's binding. On arrival any may be absent."""

    id: str | None = None
    source: str | None = None  # an endpoint; percent-encoded into a URI-reference by the binding
    type: str | None = None
    time: datetime | None = None
    destination: tuple[str, ...] = ()
    correlationid: str | None = None
    expirytime: datetime | None = None
    timeleft: int | None = None  # milliseconds the sender of this hop still waits
    via: tuple[str, ...] = ()  # endpoints of the brokers passed, oldest first
    priority: int | None = None
    digest: str | None = None  # "sha-256=" and base64 of the body
    traceparent: str | None = None
    tracestate: str | None = None
    more: tuple[tuple[str, str], ...] = ()  # extensions that are not ours, carried on as they came

    @property
    def is_event(self) -> bool:
        """Whether it has what every CloudEvent has (C-18)."""
        return self.id is not None and self.source is not None and self.type is not None


EMPTY = Envelope()
