"""The way in for CloudEvents: `POST /events` in three modes, and consent to it (C-15…C-20, C-27, C-31).

Data that is a FHIR message goes the way of every message; any other data is carried as it came (C-63).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime
from enum import StrEnum

import msgspec
from aiohttp import hdrs, web

from broker.channel import Answer, AnswerKind, Arrival, Asked, Hold, Host, Peer
from broker.core.attributes import REQUIRED
from broker.core.cloudevent import BATCH_MEDIA_TYPE, MEDIA_TYPE, Event, read_batch, read_event
from broker.core.fhir.receipt import Kind, receipt_problem
from broker.core.outcome import BadRequest, Problem, Refusal, Severity, TooLarge, Unsupported, Who
from broker.web import Asking, Reply, later, outcome_reply, refusal_reply
from plugins.http.answers import UNSAID, Answering
from plugins.http.binding import PREFIX, read_envelope, told
from plugins.http.body import check_attribute, read_body, too_large
from plugins.http.notifying import ALLOWED_ORIGIN, ALLOWED_RATE, REQUEST_ORIGIN, REQUEST_RATE
from plugins.http.settings import HttpSettings

PATHS = ("/events", "/in/{name}/events")
AROUND = 64 * 1024  # bytes of an event that are not its data
UNTYPED = "application/octet-stream"  # a body that does not say what it is (RFC 9110, section 8.3)
AT_ONCE = Asked(asynchronous=True)  # an event is taken, and nothing waits for what becomes of it


class Mode(StrEnum):
    BINARY = "binary"
    STRUCTURED = "structured"
    BATCHED = "batched"


def mode_of(content_type: str) -> Mode:
    """C-15: in this order, whatever the case; raises Unsupported for formats that are not read here (C-20)."""
    essence, _, parameters = content_type.partition(";")
    essence = essence.strip().lower()
    if not essence.startswith("application/cloudevents"):
        return Mode.BINARY
    modes = {BATCH_MEDIA_TYPE: Mode.BATCHED, MEDIA_TYPE: Mode.STRUCTURED}
    charset = parameters.lower().partition("charset=")[2].partition(";")[0].strip(' "')
    if essence not in modes or charset not in ("", "utf-8", "utf8"):
        raise Unsupported(
            f"events are read as {MEDIA_TYPE}, {BATCH_MEDIA_TYPE}, in UTF-8, or in binary mode",
            id="unsupported-media-type",
            expression="http.content-type",
        )
    return modes[essence]


class Events:
    """Adds its ways in to `host.web` when it is made."""

    def __init__(
        self,
        settings: HttpSettings,
        host: Host,
        *,
        check_open: Callable[[], None],
        peer_of: Callable[[Asking], Peer],
        body_deadline: Callable[[], float],
    ) -> None:
        self._host = host
        self._check_open = check_open
        self._peer_of = peer_of
        self._body_deadline = body_deadline
        self._most = settings.events_in_batch
        self._origins = frozenset(origin.lower() for origin in settings.webhook_origins)
        self._rate = str(settings.webhook_rate) if settings.webhook_rate else "*"
        app: web.Application = host.web
        for path in PATHS:
            app.router.add_route("POST", path, self.take, expect_handler=later)
            app.router.add_route("OPTIONS", path, self.consent)

    # --- consent ---

    async def consent(self, request: web.Request) -> web.StreamResponse:
        """C-31: the headers only for an origin that the operator knows; it is no authentication (C-32)."""
        origin = request.headers.get(REQUEST_ORIGIN, "").strip()
        if not origin or not ({origin.lower(), "*"} & self._origins):
            raise web.HTTPMethodNotAllowed("OPTIONS", ["POST"])
        headers = {hdrs.ALLOW: "OPTIONS, POST", ALLOWED_ORIGIN.decode(): origin}
        if REQUEST_RATE in request.headers:
            headers[ALLOWED_RATE.decode()] = self._rate
        return web.Response(status=200, headers=headers)

    # --- events ---

    async def take(self, request: web.Request) -> web.StreamResponse:
        self._check_open()
        at = self._host.now()
        content_type = request.headers.get(hdrs.CONTENT_TYPE, "")
        mode = mode_of(content_type)
        if mode is Mode.BINARY:
            check_binary(request)
        most = self._host.max_message
        limit = most if mode is Mode.BINARY else most * 4 // 3 + AROUND  # data may stand in base64
        body, hold = await read_body(request, limit, room=self._host.room, deadline=self._body_deadline())
        try:
            if mode is Mode.BATCHED:
                events = self._batch(body)
                del body
                if hold is not None:  # each event takes room of its own
                    hold.let_go()
                return (await self._all(request, events, at)).response()
            if mode is Mode.STRUCTURED:
                event = read_event(body)
            else:
                envelope = read_envelope(request.headers)
                event = Event(envelope=envelope, body=body, media_type=content_type or (UNTYPED if body else ""))
            answer = await self._one(request, event, at, hold)
        finally:
            if hold is not None:
                hold.let_go()
        return (await Answering(request, self._host.base_url, lenient=True).processed(answer)).response()

    async def _one(self, request: web.Request, event: Event, at: datetime, hold: Hold | None = None) -> Answer:
        """Raises Refusal."""
        host = self._host
        if len(event.body) > host.max_message:
            raise too_large(host.max_message)
        await check_attribute(event.body, event.envelope.digest)
        return await host.accept(
            Arrival(
                channel="http",
                peer=self._peer_of(request),
                body=event.body,
                media_type=event.media_type,
                at=at,
                envelope=event.envelope,
                asked=AT_ONCE,
                way_in=request.match_info.get("name"),
                headers=told(request.headers),
                hold=hold,
                event=True,
            )
        )

    # --- batches ---

    def _batch(self, body: bytes) -> list[Event]:
        """All of them can be read, or none is taken."""
        texts = read_batch(body)
        if len(texts) > self._most:
            raise TooLarge(
                f"the batch has {len(texts)} events, the limit is {self._most} (`channels.http.events_in_batch`)",
                id="too-many-events",
            )
        events = []
        for number, text in enumerate(texts):
            try:
                events.append(read_event(text))
            except Refusal as refusal:
                refusal.problem = _placed(refusal.problem, number)
                raise
        return events

    async def _all(self, request: web.Request, events: Sequence[Event], at: datetime) -> Reply:
        """C-19: accepted once each is kept; else an error for all, and what was kept is known when it comes again."""
        if not events:
            return Reply(204)
        # They are handed in in their order, and what comes together is synced together; the batch bounds the tasks.
        ends = await asyncio.gather(*(self._one(request, event, at) for event in events), return_exceptions=True)
        refusals: list[Refusal] = []
        said: list[Problem] = []
        for number, end in enumerate(ends):
            if isinstance(end, Refusal):
                end.problem = _placed(end.problem, number)
                refusals.append(end)
            elif isinstance(end, BaseException):
                raise end
            elif end.kind is AnswerKind.REFUSED:  # a copy of one that was refused
                refusals.append(_again(end.problem or UNSAID, number))
            else:
                kind = Kind.DUPLICATE if end.receipt.duplicate else Kind.ACCEPTED
                said.append(_placed(receipt_problem(kind, end.receipt.message_id), number))
        if not refusals:
            return outcome_reply(request, 202, said)
        refusals.sort(key=lambda one: one.passes)  # what will not pass decides what the sender hears
        first = refusals[0]
        kept = (_kept(len(said)),) if said else ()
        first.also = (*first.also, *(problem for one in refusals[1:] for problem in one.problems), *kept)
        first.retry_after = max((one.retry_after for one in refusals if one.retry_after is not None), default=None)
        return refusal_reply(request, first)


def check_binary(request: Asking) -> None:
    """C-16, C-18: before a byte of the body is read."""
    if f"{PREFIX}datacontenttype" in request.headers:
        raise BadRequest(
            f"the media type of the data is Content-Type, not {PREFIX}datacontenttype (CloudEvents HTTP binding)",
            id="bad-envelope",
            expression=f"http.{PREFIX}datacontenttype",
        )
    missing = [PREFIX + name for name in REQUIRED if not request.headers.get(PREFIX + name)]
    if missing:
        raise BadRequest(
            f"this is no CloudEvent: {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing"
            f" (binary mode), and Content-Type is not {MEDIA_TYPE} (structured mode)",
            id="not-an-event",
            code="required",
            expression=tuple(f"http.{name}" for name in missing),
        )


def _placed(problem: Problem, number: int) -> Problem:
    """Of the event with this number in the batch, from 0."""
    where = tuple(f"[{number}].{path}" for path in problem.expression) or (f"[{number}]",)
    return msgspec.structs.replace(problem, expression=where)


def _again(problem: Problem, number: int) -> Refusal:
    placed = _placed(problem, number)
    return Refusal(placed.text, code=placed.code, id=placed.id, who=placed.who, expression=placed.expression)


def _kept(count: int) -> Problem:
    return Problem(
        code="informational",
        id="kept-of-batch",
        severity=Severity.INFORMATION,
        who=Who.BROKER,
        text=f"The other events of the batch ({count}) are kept. Send the whole batch again once it is mended: they are"
        " known by source and id, and nothing is done twice.",
    )
