"""One message by our id: its bytes as they came, and the word of a reader that it has them."""

from __future__ import annotations

from collections.abc import Callable
from email.utils import format_datetime

from aiohttp import hdrs, web

from broker.api.asking import Asking, Here, position_of
from broker.core.fhir.outcomes import outcome_bytes
from broker.core.outcome import Gone, NotFound, Problem, Severity, Who
from broker.store import Store, Stored

READ = "acknowledged"  # the store's word in the message's story


class Bundles:
    def __init__(self, *, here: Here, store: Store, reader: Callable[[web.Request], str]) -> None:
        self._here = here
        self._store = store
        self._reader = reader

    async def read(self, request: web.Request) -> web.StreamResponse:
        """Byte for byte goes before what `Accept` would rather see (promise 3)."""
        position = position_of(self._here, request)
        stored = await self._stored(position)
        body = await self._store.body(position) if stored.body_kept else None
        if body is None:
            raise Gone(
                "the content of this message is gone by retention; its story is still known to the operator",
                id="body-gone",
            )
        return web.Response(body=body, headers=_headers(stored))

    async def acknowledge(self, request: web.Request) -> web.StreamResponse:
        """Twice is the same as once."""
        asking = Asking(request, self._here)
        position = position_of(self._here, request)
        await self._stored(position)
        reader = self._reader(request)
        notes = await self._store.notes(position)
        if not any(note.what == READ and note.who == reader for note in notes):
            known = await self._store.acknowledge(position, reader, self._here.now())
            if not known:
                raise NotFound(
                    "this message is in no mailbox, so there is nothing to acknowledge", id="not-in-a-mailbox"
                )
        said = Problem(
            code="informational",
            id="acknowledged",
            severity=Severity.INFORMATION,
            who=Who.BROKER,
            text=f"Acknowledged: {self._here.ids.of(position)} is noted as received by {reader}.",
        )
        return asking.answer(outcome_bytes([said], format=asking.format, release=asking.release))

    async def _stored(self, position: int) -> Stored:
        stored = await self._store.stored(position)
        if stored is None:
            raise NotFound("this message is not kept here any more", id="unknown-message", expression="http.id")
        return stored


def _headers(stored: Stored) -> dict[str, str]:
    algorithm, _, digest = stored.message.digest.partition("=")
    return {
        hdrs.CONTENT_TYPE: _media_type(stored.message.media_type),
        "Content-Digest": f"{algorithm}=:{digest}:",
        hdrs.ETAG: 'W/"1"',  # a message never changes
        hdrs.LAST_MODIFIED: format_datetime(stored.accepted, usegmt=True),
    }


def _media_type(text: str) -> str:
    """As it came; on other channels than HTTP it may hold what a header cannot."""
    line = " ".join(text.split()).encode("ascii", "replace").decode()
    return line if line.isprintable() and line else "application/octet-stream"
