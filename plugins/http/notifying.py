"""A notification as its subscriber asked for it: the request, and what the answers to it mean (S-40, S-41, C-25…C-30).

What goes out is the subscriber's: its bytes under its media type, its headers, and nothing of ours around them.
"""

from __future__ import annotations

import re

import msgspec

from broker.channel import Deferred, Delivered, Manner, Refused, Taken, Transmission
from broker.core.outcome import Problem, Who
from plugins.http.classify import said
from plugins.http.client import fields_of
from plugins.http.exchange import Response

CONSENT = "OPTIONS"
REQUEST_ORIGIN, REQUEST_CALLBACK = "WebHook-Request-Origin", "WebHook-Request-Callback"
REQUEST_RATE = "WebHook-Request-Rate"
ALLOWED_ORIGIN, ALLOWED_RATE = b"webhook-allowed-origin", b"webhook-allowed-rate"
GONE = 410

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)
# What frames the request or speaks of the connection is ours; so is the media type, which the Subscription names.
_OURS = frozenset(
    {
        *("connection", "content-encoding", "content-length", "content-type", "expect", "host", "keep-alive"),
        *("proxy-authorization", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"),
        *(name.lower() for name in (REQUEST_ORIGIN, REQUEST_CALLBACK, REQUEST_RATE)),
    }
)


class UnusableHeader(ValueError):
    """A header of the subscriber that cannot go out; its value is secret, and never said."""


def address_of(address: str, path: str) -> str:
    """The URL below an address: what stands behind `?` stays behind it."""
    if not path:
        return address
    place, mark, query = address.partition("#")[0].partition("?")
    return f"{place.rstrip('/')}/{path}{mark}{query}"


def request_fields(transmission: Transmission, manner: Manner, user_agent: str) -> str:
    """The header lines; raises `UnusableHeader`."""
    fields: list[tuple[str, str]] = []
    for name, value in manner.headers:
        if not _TOKEN.fullmatch(name) or name.lower() in _OURS:
            raise UnusableHeader(f"its header {name[:80]!r} is not one that a subscriber may ask for")
        fields.append((name, value.strip(" \t")))
    if transmission.body:  # an empty body has no type (S-41)
        fields.append(("Content-Type", transmission.media_type))
    if not any(name.lower() == "user-agent" for name, _ in fields):
        fields.append(("User-Agent", user_agent))
    if manner.origin:
        fields.append((REQUEST_ORIGIN, manner.origin))
    if manner.method == CONSENT:
        if manner.callback:
            fields.append((REQUEST_CALLBACK, manner.callback))
        if manner.rate is not None:
            fields.append((REQUEST_RATE, str(manner.rate)))
    try:
        return fields_of(*fields)
    except ValueError as exc:
        raise UnusableHeader("one of its headers has a line break in it") from exc


def taken(status: int) -> Delivered:
    """Any 2xx; a body in the answer is nobody's message."""
    return Delivered(taken=Taken.NOTHING_TO_SAY, status=status, note=said(status))


def stopped(end: Deferred | Refused) -> Deferred | Refused:
    """C-27: 410 says that nothing is to be sent there any more."""
    if not isinstance(end, Refused) or end.status != GONE:
        return end
    problem = Problem(
        code="deleted",
        id="gone",
        who=Who.RECEIVER,
        text="The subscriber's endpoint says that it is gone (410): nothing more is sent there.",
    )
    return msgspec.structs.replace(end, problem=problem)


def consent(response: Response, manner: Manner, end: Deferred | Refused | None) -> Delivered | Deferred | Refused:
    """What an answer to OPTIONS means; `end` is what its status would mean, which proves nothing (C-29)."""
    status = response.status
    allowed = (response.first(ALLOWED_ORIGIN) or "").strip()
    if allowed and (allowed == "*" or allowed.lower() == manner.origin.lower()):
        rate = (response.first(ALLOWED_RATE) or "").strip()
        granted = f", {rate} a minute" if rate.isascii() and rate.isdigit() else ""
        return Delivered(taken=Taken.NOTHING_TO_SAY, status=status, note=f"{said(status)}, consents{granted}")
    if not allowed and manner.callback:  # C-30: it may call us back
        return Deferred(note=f"{said(status)}, consent may come by the callback", status=status)
    if isinstance(end, Deferred):
        return end
    text = (
        f"The endpoint does not consent to notifications from {manner.origin}: its answer to OPTIONS ({said(status)})"
        f" has {'another' if allowed else 'no'} WebHook-Allowed-Origin. Have it answer with this name, or with *."
    )
    problem = Problem(code="forbidden", id="no-consent", text=text, who=Who.RECEIVER)
    return Refused(note=f"{said(status)}, no consent", problem=problem, status=status)
