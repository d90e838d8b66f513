"""The spelling of R4 and R4B: classic, or with the extensions of the backport (spec section 2)."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from urllib.parse import unquote

import orjson

from broker.core.fhir.header import Release
from broker.core.subscription.elements import Complaints, Element, listed, without
from broker.core.subscription.subscription import (
    BACKPORT,
    OWN_CHANNELS,
    R4_CHANNELS,
    R5_CHANNELS,
    ChannelType,
    Content,
    Filter,
    Header,
    Model,
    Status,
    Subscription,
)

OURS = ("resourceType", "id", "status", "end", "reason", "criteria", "error", "channel")  # read here, written by us
REPEATED = ("contact", "contained")  # of what is kept: a list although XML shows one
STANDARD = frozenset({"rest-hook", "websocket", "email", "sms", "message"})

_TYPE = re.compile(r"[A-Z][A-Za-z]{1,63}")
_FILTER = re.compile(
    r"(?:(?P<type>[A-Z][A-Za-z]{1,63})[.?])?(?P<name>[A-Za-z_][A-Za-z0-9_.\-]{0,63})"
    r"(?::(?P<modifier>[A-Za-z\-]{1,64}))?=(?P<value>.+)"
)


def read_r4(element: Element, *, release: Release, is_topic: Callable[[str], bool]) -> Subscription:
    complain = element.complain
    criteria = element.text("criteria", required=True)
    channel = element.element("channel")
    if channel is None:
        complain.missing("Subscription.channel")
        channel = Element({}, "Subscription.channel", complain)
    reason = element.text("reason", required=True)
    model = _model(element, channel, criteria, is_topic)
    found: dict[str, Any] = {
        "model": model,
        "release": release,
        "id": element.text("id"),
        "status": status_of(element),
        "channel": _channel_type(channel),
        "endpoint": channel.text("endpoint"),
        "headers": _headers(channel),
        "media_type": channel.text("payload"),
        "timeout": _extension_seconds(channel, "timeout"),
        "end": element.instant("end"),
        "reason": reason,
        "kept": kept(element, OURS, REPEATED),
    }
    if model is Model.CLASSIC:
        return Subscription(**found, criteria=criteria)
    return Subscription(
        **found,
        topic=criteria,
        filters=tuple(_filters(element)),
        content=_content(channel),
        heartbeat=_extension_seconds(channel, "heartbeat-period"),
        max_count=_extension_whole(channel, "max-count", least=1),
    )


def _model(element: Element, channel: Element, criteria: str, is_topic: Callable[[str], bool]) -> Model:
    """S-1: a topic's canonical, or any extension of the backport."""
    holders = (element.values.get("_criteria"), channel.values, channel.values.get("_payload"))
    extensions = [one for holder in holders if isinstance(holder, dict) for one in listed(holder.get("extension"))]
    if any(isinstance(one, dict) and str(one.get("url", "")).startswith(BACKPORT) for one in extensions):
        return Model.BACKPORT
    if "://" in criteria.partition("?")[0] or criteria.startswith("urn:") or is_topic(criteria.partition("|")[0]):
        return Model.BACKPORT  # it cannot be a search string; if we do not know the topic, that is what is said
    return Model.CLASSIC


def status_of(element: Element) -> Status:
    text = element.text("status", required=True)
    try:
        return Status(text or "requested")
    except ValueError:
        names = ", ".join(Status)
        element.complain(element.at("status"), f"must be one of {names}.", code="code-invalid")
        return Status.REQUESTED


def _channel_type(channel: Element) -> ChannelType:
    """The code of R4, or the Coding that the backport puts beside it for other channels."""
    code = channel.text("type", required=True)
    for extension in channel.extensions(BACKPORT + "channel-type", of="type"):
        coding = extension.element("valueCoding")
        if coding is not None:
            return channel_type(coding)
    return ChannelType(R5_CHANNELS if code in STANDARD else OWN_CHANNELS, code)


def channel_type(coding: Element) -> ChannelType:
    """A Coding; R4's system and none at all mean the same as R5's for the standard codes."""
    system, code = coding.text("system"), coding.text("code", required=True)
    if system in ("", R4_CHANNELS, R5_CHANNELS):
        system = R5_CHANNELS if code in STANDARD or system else OWN_CHANNELS
    return ChannelType(system, code)


def _headers(channel: Element) -> tuple[Header, ...]:
    """S-7: whole header lines, split at the first colon."""
    headers = []
    for place, line in enumerate(channel.texts("header")):
        name, colon, value = line.partition(":")
        if not colon:
            channel.complain(f"{channel.at('header')}[{place}]", "must be a header line, as `Name: value`.")
            continue
        headers.append(Header(name.strip(), value.strip()))
    return checked_headers(headers, channel.at("header"), channel.complain)


_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}")
# What the connection itself decides; a subscriber that could set these could smuggle a second request.
NOT_THEIRS = frozenset(
    {
        *("host", "content-length", "transfer-encoding", "connection", "upgrade", "te", "trailer", "expect"),
        *("content-type", "content-encoding", "keep-alive", "proxy-connection", "proxy-authorization"),
    }
)


def checked_headers(headers: list[Header], where: str, complain: Complaints) -> tuple[Header, ...]:
    """The headers; complaints name the place and the name, never the value (S-60)."""
    for place, header in enumerate(headers):
        if not _TOKEN.fullmatch(header.name):
            complain(f"{where}[{place}]", "has a name that no header can have.")
        elif header.name.lower() in NOT_THEIRS:
            complain(f"{where}[{place}]", f"sets {header.name}, which the connection itself decides: leave it out.")
        if not header.value.isprintable() or len(header.value) > 8190:
            complain(f"{where}[{place}]", "has a value with control characters, or one longer than 8190 characters.")
    return tuple(headers)


def _filters(element: Element) -> list[Filter]:
    found = []
    for extension in element.extensions(BACKPORT + "filter-criteria", of="criteria"):
        text = extension.text("valueString", required=True)
        if not text:
            continue
        filters = filters_of(text)
        if filters is None:
            element.complain(
                extension.at("valueString"), "is no filter: write `parameter=value` or `Type?parameter=value`."
            )
            continue
        found += filters
    return found


def filters_of(text: str) -> list[Filter] | None:
    """The filters of a string in search syntax (ANDed by `&`); None where it is not one."""
    front, mark, rest = text.partition("?")
    type = front if mark and _TYPE.fullmatch(front) else ""
    filters = []
    for part in (rest if type else text).split("&"):
        match = _FILTER.fullmatch(part)
        if match is None:
            return None
        filters.append(
            Filter(
                parameter=match["name"],
                value=unquote(match["value"]),
                resource_type=match["type"] or type,
                modifier=match["modifier"] or "",
            )
        )
    return filters


def _content(channel: Element) -> Content | None:
    for extension in channel.extensions(BACKPORT + "payload-content", of="payload"):
        return content_of(extension, "valueCode")
    return None


def content_of(element: Element, name: str) -> Content | None:
    text = element.text(name, required=True)
    try:
        return Content(text) if text else None
    except ValueError:
        element.complain(element.at(name), f"must be one of {', '.join(Content)}.", code="code-invalid")
        return None


def _extension_whole(channel: Element, name: str, *, least: int) -> int | None:
    """The number of an extension; the profile says valueUnsignedInt, servers write valueInteger (corpus)."""
    for extension in channel.extensions(BACKPORT + name):
        for spelling in ("valueUnsignedInt", "valuePositiveInt", "valueInteger"):
            if spelling in extension.values:
                return extension.whole(spelling, least=least)
        channel.complain(extension.where, "must have a whole number as its value.")
    return None


def _extension_seconds(channel: Element, name: str) -> timedelta | None:
    seconds = _extension_whole(channel, name, least=0)
    return timedelta(seconds=seconds) if seconds else None


def kept(element: Element, ours: tuple[str, ...], repeated: tuple[str, ...]) -> bytes:
    """What is carried on as written; of `meta` the profiles and tags, since version and time are the server's.

    The narrative is not: programs write all elements into it, the secret ones too (S-60).
    """
    rest = without(element.values, (*ours, "text"))
    if isinstance(rest.get("meta"), dict):
        rest["meta"] = without(rest["meta"], ("versionId", "lastUpdated"))
        if not rest["meta"]:
            del rest["meta"]
    for name in repeated:
        if name in rest:
            rest[name] = listed(rest[name])
    return orjson.dumps(rest)
