"""Mailboxes as channels show them: pages of what was delivered there, word of what comes, and acknowledgements."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AbstractContextManager

import msgspec

from broker.channel import Mail, MailPage
from broker.core.addressing import name_key
from broker.core.outcome import Gone, StoreUnavailable
from broker.flow.here import Here
from broker.flow.notify import Followers
from broker.store import MailboxEntry, Store, StoreError
from broker.store.shared_reads import Read, SharedReads


class Mailboxes:
    """What a channel may do with mailboxes (broker.channel.Mailboxes)."""

    def __init__(self, *, here: Here, store: Store, reads: SharedReads, followers: Followers) -> None:
        self._here = here
        self._store = store
        self._reads = reads
        self._followers = followers

    async def read(self, endpoint: str, after: int, limit: int) -> MailPage:
        try:
            page = await self._reads.page(Read(mailbox=name_key(endpoint), after=after, limit=limit))
        except StoreError as error:
            raise StoreUnavailable("the mailbox cannot be read now; try again later") from error
        if page.first_left is not None:
            raise Gone(
                f"messages that followed position {after} are gone by retention; the first position left is"
                f" {page.first_left}: go on after {page.first_left - 1}",
                id="position-gone",
            )
        return MailPage(mail=tuple(map(self._mail, page.entries)), reached=page.reached, more=page.more)

    def _mail(self, entry: MailboxEntry) -> Mail:
        return Mail(
            message_id=self._here.ids.of(entry.position),
            position=entry.position,
            accepted=entry.accepted,
            body=entry.body,
            media_type=entry.media_type,
            envelope=msgspec.structs.replace(entry.message.envelope, digest=entry.message.digest),
        )

    def following(self, endpoint: str) -> AbstractContextManager[asyncio.Event]:
        return self._followers.following(name_key(endpoint))

    async def acknowledge(self, endpoint: str, message_ids: Sequence[str], reader: str) -> int:
        positions = [p for p in map(self._here.ids.position, message_ids) if p is not None]
        try:
            return await self._store.acknowledge_mail(name_key(endpoint), positions, reader, self._here.now())
        except StoreError as error:
            raise StoreUnavailable("the acknowledgement cannot be kept now; send it again later") from error
