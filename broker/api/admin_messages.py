"""Messages and mailboxes, as an operator sees them: the story, the bytes, what lies where."""

from __future__ import annotations

from aiohttp import web

from broker.api.admin_frame import AdminError, as_json, number_of
from broker.api.admin_parts import Parts
from broker.api.story import find, line, story
from broker.core.addressing import name_key
from broker.store import Filter

PAGE, MOST = 50, 500  # messages of a mailbox in one answer
PAGE_BYTES = 64 << 20  # the store reads bodies with a page; this bounds what one question costs


async def position_of(parts: Parts, text: str) -> int:
    """The one message that an id means; raises 404, or `Several`."""
    found = await find(parts.store, parts.here.ids, text)
    if not found:
        raise AdminError(404, "unknown-message", "no message has this id; ours, and those its sender made, are known")
    if len(found) > 1:
        raise Several(found)
    return found[0]


class Several(Exception):
    """An id that senders gave to more than one message."""

    def __init__(self, positions: tuple[int, ...]) -> None:
        super().__init__(f"{len(positions)} messages have this id")
        self.positions = positions


class Messages:
    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def story(self, request: web.Request) -> web.Response:
        """The whole story of a message; 300 and a list where several have the id."""
        parts = self._parts
        try:
            position = await position_of(parts, request.match_info["id"])
        except Several as several:
            loaded = await parts.store.load(several.positions, 0)
            lines = [line(loaded[at][0], parts.here.ids) for at in several.positions if at in loaded]
            return as_json({"several": lines}, 300)
        told = await story(parts.store, parts.here.ids, position, under_way=parts.delivering.is_under_way)
        if told is None:
            raise AdminError(404, "unknown-message", "the message is gone: retention has removed it")
        return as_json(told)

    async def body(self, request: web.Request) -> web.Response:
        """The bytes as they came."""
        parts = self._parts
        position = await one_position(parts, request.match_info["id"])
        stored, body = await parts.store.stored(position), await parts.store.body(position)
        if stored is None or body is None:
            raise AdminError(410, "body-removed", "the bytes are gone: retention has removed them; the story is left")
        headers = {
            "Content-Type": " ".join(stored.message.media_type.split()) or "application/octet-stream",
            "Content-Disposition": "attachment",  # a browser must not take it for a page of this interface
            "X-Content-Type-Options": "nosniff",
            "Cache-Control": "no-store",
        }
        return web.Response(body=body, headers=headers)

    async def mailboxes(self, _request: web.Request) -> web.Response:
        boxes = await self._parts.store.mailboxes()
        return as_json({
            "mailboxes": [
                {"endpoint": box.endpoint, "messages": box.messages, "unread": box.unread, "last": box.last}
                for box in boxes
            ]
        })  # fmt: skip

    async def mailbox(self, request: web.Request) -> web.Response:
        """What a mailbox holds, without the bodies; looking at it is no reading."""
        store, ids = self._parts.store, self._parts.here.ids
        endpoint = request.match_info["endpoint"]
        after = number_of(request, "after", 0)
        limit = number_of(request, "limit", PAGE, least=1, most=MOST)
        page = await store.read(name_key(endpoint), after, limit, Filter(), False, PAGE_BYTES)
        loaded = await store.load([entry.position for entry in page.entries], 0)
        lines = []
        for entry in page.entries:
            if entry.position in loaded:
                mail = {name_key(name): (at, who) for name, at, who in await store.mail_of(entry.position)}
                at, who = mail.get(name_key(endpoint), (None, None))
                lines.append({**line(loaded[entry.position][0], ids), "read": at, "reader": who})
        return as_json({
            "endpoint": endpoint, "messages": lines, "reached": page.reached, "more": page.more,
            "first_left": page.first_left,
        })  # fmt: skip


async def one_position(parts: Parts, text: str) -> int:
    """As `position_of`, where only one message will do."""
    try:
        return await position_of(parts, text)
    except Several as several:
        names = ", ".join(parts.here.ids.of(position) for position in several.positions[:5])
        text = f"{len(several.positions)} messages have this id; say which by ours: {names}"
        raise AdminError(409, "several-messages", text) from None
