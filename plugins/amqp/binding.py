"""The envelope in AMQP 0-9-1: CloudEvents attributes as headers, mirrored into the basic properties (C-38, C-39)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from pamqp.commands import Basic
from pamqp.common import FieldTable

from broker.channel import Manner, Transmission
from broker.core.attributes import TRACE, BadAttribute, from_attributes, to_attributes, written_instant
from broker.core.cloudevent import MEDIA_TYPE as STRUCTURED
from broker.core.cloudevent import read_event, write_event
from broker.core.envelope import EMPTY, Envelope
from broker.core.outcome import BadRequest, Unsupported
from plugins.amqp.address import fits
from plugins.amqp.lenient import UNREADABLE, as_unicode
from plugins.amqp.settings import Mode, Prefix

PREFIXES = tuple(prefix.value for prefix in Prefix)
BATCH = "application/cloudevents-batch"
TEXTS = ("content_type", "content_encoding", "correlation_id", "reply_to", "expiration", "message_id", "user_id")
PERSISTENT = 2
EPOCH = datetime.fromtimestamp(0, UTC)  # AMQP counts no time before it
LARGEST_EXPIRATION = 2**32 - 1  # milliseconds; RabbitMQ closes the amqp_channel over more
LARGEST_PRIORITY = 255
STEERING = frozenset(
    {"CC", "BCC"}
)  # RabbitMQ's sender-selected distribution: a subscriber is told at its endpoint only
PLAIN_ENCODINGS = frozenset({"", "identity", "utf-8", "utf8", "8bit", "binary"})  # some clients write the charset here
_JSON, _XML = "application/fhir+json", "application/fhir+xml"
_UNTYPED = "application/octet-stream"
_BOM = b"\xef\xbb\xbf"


# --- writing ---------------------------------------------------------------------------------------------------------


class Writing:
    """How this broker's messages are written: the settings that concern it."""

    def __init__(self, *, mode: Mode, prefix: Prefix, reply_queue: str | None) -> None:
        self._mode = mode
        self._reply_queue = reply_queue
        self._prefix = prefix.value

    def write(self, transmission: Transmission, now: datetime) -> tuple[Basic.Properties, bytes]:
        """Properties, always with a message id, and body; ValueError says what of them cannot be written."""
        if transmission.manner is not None:
            return _as_asked(transmission, transmission.manner), transmission.body
        envelope = transmission.envelope
        message_id = envelope.id if envelope.id and fits(envelope.id) else transmission.message_id
        body, content_type, headers = transmission.body, transmission.media_type, None
        if self._mode is Mode.STRUCTURED:
            body = write_event(envelope, body, content_type)
            content_type = f"{STRUCTURED}; charset=utf-8"
        else:
            headers = self._headers(envelope)
        correlation = transmission.in_reply_to or envelope.correlationid or message_id
        properties = Basic.Properties(
            content_type=content_type if content_type and fits(content_type) else None,
            headers=headers or None,
            delivery_mode=PERSISTENT,
            priority=_priority(envelope.priority),
            correlation_id=correlation if fits(correlation) else None,
            reply_to=self._reply_queue if transmission.in_reply_to is None else None,
            expiration=_expiration(envelope.expirytime, now),
            message_id=message_id,
            timestamp=max(envelope.time, EPOCH) if envelope.time is not None else None,
            message_type=envelope.type if fits(envelope.type) else None,
        )
        return properties, body

    def _headers(self, envelope: Envelope) -> FieldTable:
        """The W3C trace headers go without a prefix, as everybody writes them."""
        prefix = self._prefix
        return {name if name in TRACE else prefix + name: value for name, value in to_attributes(envelope).items()}


def _as_asked(transmission: Transmission, manner: Manner) -> Basic.Properties:
    """A notification: what its subscriber asked for, with no envelope around it. Its own headers are headers."""
    headers: dict[str, str] = {}
    for name, value in manner.headers:
        if name.upper() in STEERING:
            raise ValueError(f"the header {name} would send copies to other queues")
        if not fits(name):
            raise ValueError("the name of a header is longer than AMQP takes")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value  # as HTTP joins what is there twice
    return Basic.Properties(
        content_type=transmission.media_type if fits(transmission.media_type) else None,
        headers={**headers} or None,
        delivery_mode=PERSISTENT,
        message_id=transmission.message_id,
    )


def _priority(priority: int | None) -> int | None:
    return None if priority is None or priority < 0 else min(priority, LARGEST_PRIORITY)


def _expiration(expirytime: datetime | None, now: datetime) -> str | None:
    if expirytime is None:
        return None
    left = int((expirytime - now).total_seconds() * 1000)
    return str(max(left, 1)) if left <= LARGEST_EXPIRATION else None


# --- reading ---------------------------------------------------------------------------------------------------------


class Read(msgspec.Struct, frozen=True, kw_only=True):
    """What a message says that came from a queue."""

    properties: Basic.Properties
    envelope: Envelope
    body: bytes
    media_type: str
    headers: tuple[tuple[str, str], ...]  # for rules and traces, names in lower case
    event: bool = False  # it has what every CloudEvent has


def read(properties: Basic.Properties, body: bytes, at: datetime) -> Read:
    """Raises `Refusal` for what is no message that we can read."""
    _check(properties)
    encoding = (properties.content_encoding or "").strip().lower()
    if encoding not in PLAIN_ENCODINGS:
        raise Unsupported(
            "the message is packed (content_encoding); send it unpacked", expression="amqp.content_encoding"
        )
    media_type = properties.content_type or ""
    essence = media_type.partition(";")[0].strip().lower()
    if essence.startswith(BATCH):
        raise Unsupported("a batch of events is not taken; send one event a message", expression="amqp.content_type")
    found, headers = _sorted(properties.headers or {})
    if essence == STRUCTURED:
        event = read_event(body)
        envelope, body, media_type = event.envelope, event.body, event.media_type
    else:
        envelope = _envelope(found)
        media_type = media_type or _guess(body, is_event=envelope.is_event)
    return Read(
        properties=properties,
        envelope=_completed(envelope, properties, at),
        body=body,
        media_type=media_type,
        headers=headers,
        event=envelope.is_event,
    )


def _check(properties: Basic.Properties) -> None:
    for name in TEXTS:
        text = properties[name]
        if text is not None and not fits(str(text)):
            raise BadRequest(f"{name} is no UTF-8", id="bad-properties", expression=f"amqp.{name}")
    if properties.headers and UNREADABLE in properties.headers:
        raise BadRequest("the name of a header is no UTF-8", id="bad-properties", expression="amqp.headers")


def _guess(body: bytes, *, is_event: bool) -> str:
    """Of a message that does not say what it is."""
    if is_event and b"MessageHeader" not in body:
        return _UNTYPED if body else ""
    return _XML if body.removeprefix(_BOM).lstrip()[:1] == b"<" else _JSON


def _sorted(entries: FieldTable) -> tuple[dict[str, str], tuple[tuple[str, str], ...]]:
    """The attributes of the envelope, and all other headers that are no tables."""
    found: dict[str, str] = {}
    others: list[tuple[str, str]] = []
    for name, value in entries.items():
        text = _canonical(value)
        attribute = name if name in TRACE else _attribute(name)
        if attribute is None:
            if text is not None:
                others.append((name.lower(), as_unicode(text)))
        elif attribute in found:
            raise _refused(name, "says what another header says already: a message has one of the prefixes")
        elif text is None:
            if value is not None:
                raise _refused(name, "is neither text nor number, boolean or timestamp")
        else:
            found[attribute] = text
    return found, tuple(others)


def _attribute(name: str) -> str | None:
    for prefix in PREFIXES:  # case-sensitive (C-39)
        if name.startswith(prefix):
            return name[len(prefix) :]
    return None


def _canonical(value: Any) -> str | None:
    """The canonical string of a header's value (C-3, C-36); None for what has none."""
    match value:
        case str():
            return value
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case datetime():
            return written_instant(value if value.tzinfo is not None else value.replace(tzinfo=UTC))
        case bytes() | bytearray():
            return bytes(value).decode("utf-8", "surrogateescape")
    return None


def _envelope(found: dict[str, str]) -> Envelope:
    found.pop("datacontenttype", None)  # content_type says it (C-35)
    if not found:
        return EMPTY
    try:
        return from_attributes(found)
    except BadAttribute as bad:
        raise _refused(f"ce-{bad.name}", str(bad)) from None


def _refused(header: str, text: str) -> BadRequest:
    return BadRequest(f"the header {header} {text}", id="bad-envelope", expression=f"amqp.{header}")


def _completed(envelope: Envelope, properties: Basic.Properties, at: datetime) -> Envelope:
    """Properties say what the headers leave out; `type` and `timestamp` are only ever copies."""
    added: dict[str, Any] = {}
    if envelope.id is None and _is_text(properties.message_id):
        added["id"] = properties.message_id
    # an event says it itself; and a correlation id that only repeats the message id says nothing
    correlation = properties.correlation_id
    if (
        envelope.id is None
        and envelope.correlationid is None
        and _is_text(correlation)
        and correlation != properties.message_id
    ):
        added["correlationid"] = correlation
    if envelope.priority is None and properties.priority:  # many clients always write 0, and mean nothing by it
        added["priority"] = properties.priority
    if envelope.expirytime is None and (left := _milliseconds(properties.expiration)) is not None:
        added["expirytime"] = at + timedelta(milliseconds=left)
    return msgspec.structs.replace(envelope, **added) if added else envelope


def _is_text(text: str | None) -> bool:
    return bool(text) and str(text).isprintable()


def _milliseconds(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) <= 10 else None
