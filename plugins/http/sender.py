"""One attempt over HTTP: the bytes as they are, the envelope in headers, and one of three ends."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from urllib.parse import urlsplit

import msgspec

from broker.channel import Deferred, Delivered, Host, Manner, Refused, Transmission
from broker.core.address_pattern import AddressPattern, AddressPatterns
from broker.core.attributes import Remembered
from broker.core.cloudevent import MEDIA_TYPE as STRUCTURED
from broker.core.cloudevent import write_event
from broker.core.envelope import Envelope
from broker.core.fhir.header import Format
from broker.core.fhir.media import media_type
from broker.core.outcome import Problem, Refusal, Who
from plugins.http import notifying
from plugins.http.address import is_own, on_the_wire
from plugins.http.binding import write_envelope
from plugins.http.classify import HttpAnswer, delivered, not_delivered, said
from plugins.http.client import Client, Target, fields_of, target_of
from plugins.http.coding import Coding, Damaged, TooBig, Unpacker, coding_of
from plugins.http.digest import attribute_of, digest_of, parse_content_digest
from plugins.http.exchange import Flaw, NoAnswer, Response, Trouble
from plugins.http.settings import HttpSettings

LARGEST_ANSWER = 32 * 1024 * 1024  # a response message may be as large as a message
LARGEST_REASON = 1024 * 1024  # of an answer that is no 2xx: an OperationOutcome, or an error page nobody reads
BESIDE_THE_LOOP = 64 * 1024  # packed bytes that may take longer to unpack than anybody else should wait
NOT_LEFT = frozenset(
    {
        Trouble.NO_NAME,
        Trouble.INSIDE,
        Trouble.NO_CONNECTION,
        Trouble.NO_CONNECTION_IN_TIME,
        Trouble.CERTIFICATE,
        Trouble.HANDSHAKE,
    }
)

DATAREF = "dataref"
ADDRESS = "the directory or the rule that gives this address"
SUBSCRIPTION = "the Subscription"

Attempted = Delivered | Deferred | Refused


class HttpSender:
    """Shares one pool of connections; how many go to a peer is its lane's business."""

    def __init__(self, settings: HttpSettings, host: Host) -> None:
        self._own = tuple(_own_urls(host.base_url, settings.listen))
        self._user_agent = settings.user_agent
        self._base_url = host.base_url
        self._dataref_above = settings.dataref_above
        self._dataref_to = _patterns(settings.dataref_to)
        self._structured_to = _patterns(settings.structured_to)
        self._shapes = bool(self._dataref_to or self._structured_to)
        self._client = Client(client_ca=settings.client_ca, may_be_here=host.may_be_here)
        self._target = lru_cache(maxsize=4096)(self._find_target)  # addresses are few, attempts are many
        self._begin = Remembered[str](self._begin_of)  # as are media types

    async def attempt(self, transmission: Transmission) -> Attempted:
        """Makes one attempt and says how it ended."""
        if transmission.manner is not None:
            return await self._notify(transmission, transmission.manner)
        try:
            target = self._target(transmission.address, not (transmission.caller_waits or transmission.event))
        except ValueError as exc:
            return _unusable("unusable-address", str(exc))
        if target is None:
            return _unusable("own-address", "the address is this broker's own")
        envelope = transmission.envelope
        if envelope.digest is None:
            envelope = msgspec.structs.replace(envelope, digest=await attribute_of(transmission.body))
        body = transmission.body
        try:
            if transmission.event or self._shapes:
                body, fields = self._event(transmission, envelope)
            else:
                fields = self._fields(transmission, envelope)
            response = await self._client.send(
                target,
                fields,
                body,
                connect=transmission.connect,
                answer=transmission.answer,
                allowed=_worth_reading,
            )
        except NoAnswer as no:
            return _no_answer(no.trouble, no.reason)
        except ValueError:  # a host that is no name, a header that cannot be written
            return _unusable("unusable-address", "no request can be written for the address")
        if not 200 <= response.status < 300:
            return await _not_taken(response, transmission.address)
        if _is_plain(response):
            return delivered(response.status, response.first(b"content-type") or "", response.body)
        return await _taken(response)

    async def stop(self) -> None:
        await self._client.stop()

    # --- notifications ---

    async def _notify(self, transmission: Transmission, manner: Manner) -> Attempted:
        """What a subscriber asked for, exactly so: our envelope stays here."""
        try:
            address = notifying.address_of(transmission.address, manner.path)
            target = self._target_of(address, manner.method)
            if target is None:
                return _unusable("own-address", "the address is this broker's own", mend=SUBSCRIPTION)
            response = await self._client.send(
                target,
                notifying.request_fields(transmission, manner, self._user_agent),
                transmission.body,
                connect=transmission.connect,
                answer=transmission.answer,
                allowed=_worth_reading_of_a_subscriber,
            )
        except NoAnswer as no:
            return _no_answer(no.trouble, no.reason)
        except notifying.UnusableHeader as exc:
            return _unusable("unusable-header", str(exc), mend=SUBSCRIPTION)
        except ValueError as exc:
            return _unusable("unusable-address", str(exc), mend=SUBSCRIPTION)
        taken = 200 <= response.status < 300
        end = None if taken else await _not_taken(response, address)
        if manner.method == notifying.CONSENT:
            return notifying.consent(response, manner, end)
        if end is None:
            return notifying.taken(response.status)
        return notifying.stopped(end)

    def _target_of(self, address: str, method: str) -> Target | None:
        """None for an address that leads back to us. Those of PUT are as many as resources: they are not remembered."""
        if method == "POST":
            return self._target(address, False)
        if any(is_own(address, own) for own in self._own):
            return None
        return target_of(on_the_wire(address), method)

    # --- events ---

    def _event(self, transmission: Transmission, envelope: Envelope) -> tuple[bytes, str]:
        """Body and header lines of what is an event, or becomes one: as its data, or without data in structured mode.

        A webhook is sent no event of headers alone (C-25). Of what is too large for a receiver that says so, only where
        it can be read goes out: the same bytes under the same id (`dataref`, C-6).
        """
        body, media_type, address = transmission.body, transmission.media_type, transmission.address
        structured = not body or self._structured_to.match(address)
        if 0 < self._dataref_above < len(body) and self._takes_dataref(address, envelope):
            where = f"{self._base_url}/Bundle/{transmission.message_id}"
            envelope = msgspec.structs.replace(envelope, digest=None, more=(*envelope.more, (DATAREF, where)))
            body, structured = b"", True
        if not (structured and envelope.is_event):
            if not transmission.event:
                return body, self._fields(transmission, envelope)
            begin = fields_of(("Content-Type", media_type), ("User-Agent", self._user_agent))
            return body, begin + write_envelope(envelope)
        if envelope.timeleft is not None and not transmission.caller_waits:
            envelope = msgspec.structs.replace(envelope, timeleft=None)  # absent = nobody waits
        begin = fields_of(("Content-Type", f"{STRUCTURED}; charset=utf-8"), ("User-Agent", self._user_agent))
        return write_event(envelope, body, media_type), begin

    def _takes_dataref(self, address: str, envelope: Envelope) -> bool:
        """Whether its operator said so; who put a `dataref` there knows better."""
        return envelope.is_event and self._dataref_to.match(address) and all(n != DATAREF for n, _ in envelope.more)

    # --- the request ---

    def _find_target(self, address: str, asynchronous: bool) -> Target | None:
        """None for an address that leads back to us."""
        if any(is_own(address, own) for own in self._own):
            return None
        return target_of(on_the_wire(address, asynchronous=asynchronous))

    def _fields(self, transmission: Transmission, envelope: Envelope) -> str:
        """The header lines."""
        begin = self._begin[transmission.media_type]
        timeleft = envelope.timeleft
        if timeleft is None:
            return begin + write_envelope(envelope)
        if not transmission.caller_waits:
            return begin + write_envelope(msgspec.structs.replace(envelope, timeleft=None))  # absent = nobody waits
        # as we were asked (line 4): a caller that did not say it is content when the receiver has taken the message
        prefer = f"Prefer: wait={timeleft // 1000}\r\n" if transmission.listens_on else ""
        return begin + write_envelope(envelope) + prefer

    def _begin_of(self, media_type: str) -> str:
        """The header lines that depend on the media type alone."""
        return fields_of(
            ("Content-Type", media_type),
            ("Accept", _accept(media_type)),
            ("Accept-Encoding", "identity"),
            ("User-Agent", self._user_agent),
        )


def _patterns(written: Iterable[str]) -> AddressPatterns:
    return AddressPatterns(AddressPattern.parse(pattern) for pattern in written)


def _own_urls(base_url: str, listen: str) -> Iterator[str]:
    """How others reach us, and where we listen: both lead back here."""
    yield base_url
    if not listen.startswith("unix:") and not listen.endswith(":0"):
        yield f"http://{listen}{urlsplit(base_url).path}"


def _worth_reading(status: int) -> int:
    """How much of the body of an answer with this status; nothing of a redirect's."""
    if 200 <= status < 300:
        return LARGEST_ANSWER
    return 0 if 300 <= status < 400 else LARGEST_REASON


def _worth_reading_of_a_subscriber(status: int) -> int:
    """What it has to say is its status."""
    return 0 if 300 <= status < 400 else LARGEST_REASON


def _accept(written: str) -> str:
    """Both formats, the message's own first."""
    try:
        xml = media_type(written).format is Format.XML
    except Refusal:
        xml = False
    names = (
        ("application/fhir+xml", "application/fhir+json") if xml else ("application/fhir+json", "application/fhir+xml")
    )
    return f"{names[0]}, {names[1]};q=0.9"


# --- the answer ------------------------------------------------------------------------------------------------------


class _Unreadable(Exception):
    """A 2xx that could not be read to its end is no delivery (design: delivered)."""


class _TooLarge(_Unreadable):
    """More than is worth reading. It would be so again, and each time the receiver would do its work anew."""


def _is_plain(response: Response) -> bool:
    """Whether the body is whole, and there is nothing to unpack or to check: as in nearly all answers."""
    fields = response.fields
    return response.flaw is None and b"content-encoding" not in fields and b"content-digest" not in fields


async def _taken(response: Response) -> Attempted:
    """What a 2xx comes to whose body is not whole, packed or has a digest: a delivery if its end can be reached."""
    status = response.status
    try:
        body = await _body(response)
    except _TooLarge as exc:
        return Delivered(status=status, note=f"{said(status)}, but {exc}")
    except _Unreadable as exc:
        if response.flaw is Flaw.UNREADABLE:
            return _no_answer(Trouble.UNREADABLE)
        return Deferred(note=f"{said(status)}, but {exc}", status=status)
    return delivered(status, response.first(b"content-type") or "", body)


async def _not_taken(response: Response, address: str) -> Deferred | Refused:
    """What any other answer comes to; whether its end was reached matters little."""
    status = response.status
    body: bytes | None = None
    if not 300 <= status < 400:
        with suppress(_Unreadable):
            body = await _body(response)
    answer = HttpAnswer(
        status=status,
        content_type=response.first(b"content-type") or "",
        location=response.first(b"location") or "",
        retry_after=response.first(b"retry-after"),
        refused_by=response.first(b"x-refused-by") or "",
        refused_at=response.first(b"x-refused-at") or "",
        body=body,
        now=datetime.now(UTC),
    )
    return not_delivered(answer, address)


async def _body(response: Response) -> bytes:
    """The body to its end, unpacked and checked."""
    limit = _worth_reading(response.status)
    if response.flaw is Flaw.TOO_LARGE:
        raise _TooLarge(f"its body is not read: more than {limit} bytes")
    if response.flaw is not None:
        raise _Unreadable(response.flaw)
    coding = coding_of(response.all(b"content-encoding"))
    if coding is None:
        raise _Unreadable("its Content-Encoding is unknown")
    body = response.body
    if coding is not Coding.IDENTITY:  # which we did not ask for
        try:
            if len(body) > BESIDE_THE_LOOP:
                body = await asyncio.to_thread(_unpacked, body, coding, limit)
            else:
                body = _unpacked(body, coding, limit)
        except TooBig as exc:
            raise _TooLarge(f"its body is not read: {exc}") from None
        except Damaged as exc:
            raise _Unreadable(f"its body is unusable: {exc}") from None
    await _check_digest(response.all(b"content-digest"), body, response.body)
    return body


def _unpacked(packed: bytes, coding: Coding, limit: int) -> bytes:
    unpacker = Unpacker(coding, limit)
    starts = range(0, len(packed), BESIDE_THE_LOOP)
    body = b"".join(piece for start in starts for piece in unpacker.feed(packed[start : start + BESIDE_THE_LOOP]))
    unpacker.finish()
    return body


async def _check_digest(field: str, body: bytes, packed: bytes) -> None:
    """RFC 9530, of the bytes on the wire or of what they unpack to (X-45)."""
    try:
        claims = parse_content_digest(field) if field else {}
    except ValueError:
        return  # a receiver's untidy header is not worth sending the message again
    for algorithm, claimed in claims.items():
        if claimed != await digest_of(body, algorithm) and claimed != await digest_of(packed, algorithm):
            raise _Unreadable("its body is not the one that its Content-Digest speaks of")


def _no_answer(trouble: Trouble, reason: str = "") -> Deferred:
    note = f"{trouble}: {reason}" if reason else str(trouble)
    return Deferred(note=note, of_peer=True, left=trouble not in NOT_LEFT)


def _unusable(id: str, why: str, *, mend: str = ADDRESS) -> Refused:
    text = f"The message cannot be sent: {why}; correct {mend}."
    return Refused(note=why, problem=Problem(code="processing", id=id, text=text, who=Who.BROKER))
