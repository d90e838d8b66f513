"""Copies: whether what comes under ids that were used is the same message again (spec: messaging section 3)."""

from __future__ import annotations

import asyncio
from datetime import datetime

from broker.core.addressing import name_key
from broker.core.fhir.header import Header
from broker.core.fhir.same import same_content
from broker.core.identity import identity
from broker.core.message import digest_bytes
from broker.core.outcome import Conflict, Problem, Severity
from broker.flow.letter import Letter
from broker.store import Copy, Note, Store, Stored, StoreError

SHARED = 32  # messages of other sources that may carry the same id
EXACT = Problem(code="informational", id="duplicate", text="", severity=Severity.INFORMATION)


class Copies:
    def __init__(self, store: Store) -> None:
        self._store = store

    async def compare(self, letter: Letter, copy: Copy) -> Problem | None:
        """What there is to say of the copy; None if it is another message."""
        first = await self._store.stored(copy.position)
        if first is None:
            raise StoreError("the first of them could not be kept after all")
        if copy.exclusive:
            return None
        if first.message.digest == letter.message.digest:
            return EXACT
        if letter.header.opaque:  # nobody here knows what its bytes mean, nor whether others mean the same
            return None
        if letter.header.release.identifies_by_bundle_identifier:
            return _differs("Bundle.identifier alone is the identity", letter, first)
        if first.message.header.message_id != letter.header.message_id:
            return None  # M-20: Bundle.id seen, MessageHeader.id new
        body = await self._store.body(copy.position)
        if body is None:  # its bytes are gone by retention: only the digest is left to go by
            return None
        same = await asyncio.to_thread(
            same_content, body, first.message.header.format, letter.body, letter.header.format
        )
        return _differs("the content is the same, the Bundle was built anew", letter, first) if same else None

    async def find(self, letter: Letter) -> Copy | None:
        """The message that has this identity, found without claiming it."""
        for position in await self._store.find((letter.identity.key,), SHARED):
            first = await self._store.stored(position)
            if first is None:
                continue
            message = first.message
            key = name_key(message.source) if message.source else ""
            if (
                key == letter.source_key
                and identity(message.header, digest_bytes(message.digest)).key == letter.identity.key
            ):
                return Copy(position=position)
        return None

    async def conflict(self, letter: Letter, copy: Copy, message_id: str) -> Conflict:
        first = await self._store.stored(copy.position)
        theirs = first.message.digest if first else "unknown"
        if copy.exclusive:
            return Conflict(
                f"a message of this category may come only once, and MessageHeader.id"
                f" {letter.header.message_id} has come before (as {message_id});"
                " a resend needs the same Bundle.id too, a new message new ids",
                id="resubmitted",
                expression="Bundle.entry[0].resource.id",
            )
        return Conflict(
            f"these ids belong to another message (ours: {message_id}): its digest is {theirs}, the digest of"
            f" this one is {letter.message.digest}; give a new message new ids, resend an old one unchanged",
            expression=_identity_of(letter.header),
        )

    async def remember(self, letter: Letter, position: int, note: Problem, at: datetime) -> None:
        """The copy is a line in the story of the first."""
        text = note.text or "the same bytes"
        await self._store.note(position, Note(at=at, what="copy", who=letter.arrival.peer.address, text=text))


def _identity_of(header: Header) -> str:
    if header.opaque:
        return "id"
    return "Bundle.identifier" if header.release.identifies_by_bundle_identifier else "Bundle.id"


def _differs(why: str, letter: Letter, first: Stored) -> Problem:
    return Problem(
        code="informational",
        id="bytes-differ",
        severity=Severity.WARNING,
        text=f"this copy has other bytes than the first ({why}): digest {letter.message.digest},"
        f" the first had {first.message.digest}; the first is the one that is carried",
    )
