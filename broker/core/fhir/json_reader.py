"""Reads the header out of a message in JSON: one typed pass that builds nothing of the other entries.

Nearly all messages are plain: without their other entries they are a short text with no escape and no name twice. These
are read at once. Anything else, and whatever is to be refused, is read part by part, in the order of what matters most.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from broker.core.fhir import complaints, json_text, spellings, wire
from broker.core.fhir.header import Format, Header, Release
from broker.core.outcome import Refusal

T = TypeVar("T")

_OUTER = msgspec.json.Decoder(wire.Outer)
_PLAIN = msgspec.json.Decoder(wire.Plain)
_BUNDLE = msgspec.json.Decoder(wire.Bundle)
_ENTRIES = msgspec.json.Decoder(wire.FirstOf)
_HEADER = msgspec.json.Decoder(wire.HeaderEntry)
_IDENTIFIER = msgspec.json.Decoder(wire.Identifier)
_META = msgspec.json.Decoder(wire.Meta)
_ALL = msgspec.json.Decoder(list[msgspec.Raw])
_OTHER = msgspec.json.Decoder(wire.OtherEntry)
_NAMES = msgspec.json.Decoder(dict[str, msgspec.Raw])
_FEW = 8  # references that are looked for in the bytes before the entries are taken apart
_BYTES_A_COMMA = 16  # FHIR has one in 20 to 30 bytes; millions of tiny entries would cost 50 times their size in memory


def read_json(body: bytes, release: Release | None) -> Header:
    """The header of a message; `release` is what the transport says of it."""
    text = json_text.text_of(body)
    return _read_plain(text, release) or _read_closely(text, release)


def _read_plain(text: bytes, release: Release | None) -> Header | None:
    """The header of a plain message; None where only a closer look can tell."""
    try:
        entries = bytes(_OUTER.decode(text).entry)
        short, first_ends = json_text.with_first_alone(text, entries)
        # what is short can have no more elements beside the known ones than `check_names` allows
        if not short or len(short) > json_text.UNEXPECTED_QUOTES:
            return None
        value = json_text.plainly(short)
        if value is None:
            return None
        bundle = _PLAIN.decode(short)
    except (msgspec.DecodeError, RecursionError):
        return None
    if bundle.resourceType != "Bundle" or bundle.type != "message" or len(bundle.entry) != 1:
        return None
    if value["entry"][0]["resource"].get("resourceType") != "MessageHeader":
        return None
    json_text.check_depth(text)
    message = bundle.entry[0].resource
    wanted = spellings.references_in(message)
    return spellings.header_of(
        message,
        bundle_id=bundle.id,
        identifier=None if bundle.identifier is msgspec.UNSET else bundle.identifier,
        timestamp=bundle.timestamp,
        meta=None if bundle.meta is msgspec.UNSET else bundle.meta,
        format=Format.JSON,
        release=release,
        inside=_inside(entries, first_ends, wanted) if wanted else {},
    )


def _read_closely(text: bytes, release: Release | None) -> Header:
    try:
        bundle = _BUNDLE.decode(text)
    except msgspec.DecodeError as error:
        return _read_repaired(text, release, error)
    except RecursionError:
        raise complaints.too_deep() from None
    return _read(text, bundle, release)


def _read_repaired(text: bytes, release: Release | None, error: msgspec.DecodeError) -> Header:
    """Half a surrogate pair is no reason to refuse (X-43), though the decoder gives up on it; the rest is."""
    repaired = json_text.without_lone_surrogates(text)
    if repaired == text:
        raise _refusal_of(text, error) from None
    try:
        bundle = _BUNDLE.decode(repaired)
    except msgspec.DecodeError as still:
        raise _refusal_of(repaired, still) from None
    except RecursionError:
        raise complaints.too_deep() from None
    header = _read(repaired, bundle, release)
    if b"\xef\xbf\xbd" in msgspec.json.encode(header):
        raise complaints.lone_surrogate()
    return header


def _refusal_of(text: bytes, error: msgspec.DecodeError) -> Refusal:
    json_text.check_syntax(text)  # that it is broken at all matters more than a wrong type in it
    found = _resource_type(text)
    if found in (None, "Bundle"):
        return complaints.wrong_type_of(error, "Bundle")
    return complaints.not_a_bundle(str(found))


def _resource_type(text: bytes) -> str | None:
    try:
        return msgspec.json.decode(_NAMES.decode(text)["resourceType"], type=str)
    except (msgspec.ValidationError, KeyError):
        return None


def _read(text: bytes, bundle: wire.Bundle, release: Release | None) -> Header:
    json_text.check_depth(text)
    if bundle.resourceType != "Bundle":
        raise complaints.not_a_bundle(bundle.resourceType)
    entries, identifier, meta = bytes(bundle.entry), bytes(bundle.identifier), bytes(bundle.meta)
    texts = (bundle.resourceType, bundle.id, bundle.type, bundle.timestamp)
    accounted = sum([4 for text in texts if text])
    accounted += sum([2 + part.count(b'"') for part in (entries, identifier, meta) if part])
    json_text.check_names(text, accounted)
    if bundle.type != "message":
        raise complaints.not_a_message(bundle.type)
    if not entries:
        raise complaints.missing("Bundle.entry")
    first = bytes(_typed(_ENTRIES, entries, "Bundle.entry").first)
    if len(first) + len(identifier) + len(meta) > wire.HEADER_BYTES:
        raise complaints.header_too_large()
    message = _message(first)
    wanted = spellings.references_in(message)
    return spellings.header_of(
        message,
        bundle_id=bundle.id,
        identifier=_strict(_IDENTIFIER, identifier, "Bundle.identifier") if identifier else None,
        timestamp=bundle.timestamp,
        meta=_strict(_META, meta, "Bundle.meta") if meta else None,
        format=Format.JSON,
        release=release,
        inside=_inside(entries, len(first), wanted) if wanted else {},
    )


def _message(entry: bytes) -> wire.MessageHeader:
    if not entry:
        raise complaints.no_message_header(None)
    value = json_text.strictly(entry, "Bundle.entry[0]")
    if not isinstance(value, dict):
        raise complaints.wrong_type("Bundle.entry[0]", "object", _kind_of(value))
    if "resource" not in value:
        raise complaints.no_message_header(None, value)
    resource = value["resource"]
    if not isinstance(resource, dict):
        raise complaints.wrong_type(complaints.FIRST, "object", _kind_of(resource))
    type_ = resource.get("resourceType", "")
    if type_ != "MessageHeader":
        raise complaints.no_message_header(type_ if isinstance(type_, str) else "")
    return _typed(_HEADER, entry, "Bundle.entry[0]").resource


def _inside(entries: bytes, after: int, wanted: set[str]) -> dict[str, wire.Resource]:
    """The resources that the wanted references lead to (M-14, with the tolerance for `Type/id` that senders need)."""
    if len(wanted) <= _FEW and not any(entries.find(_last_part(name), after) >= 0 for name in wanted):
        return {}  # as in most messages: what they refer to lies outside
    if len(entries) > wire.HEADER_BYTES and entries.count(b",") * _BYTES_A_COMMA > len(entries):
        raise complaints.too_many_entries()
    found: dict[str, wire.Resource] = {}
    for raw in _ALL.decode(entries)[1:]:
        try:
            entry = _OTHER.decode(raw)
        except msgspec.DecodeError:  # not our concern, except that it cannot be what is referred to
            continue
        for name in (entry.fullUrl, f"{entry.resource.resourceType}/{entry.resource.id}"):
            if name in wanted and name not in found:
                json_text.strictly(bytes(raw), f"Bundle.entry.resource.ofType({entry.resource.resourceType})")
                found[name] = entry.resource
    return found


def _last_part(reference: str) -> bytes:
    """What an entry that is referred to contains literally, however its slashes are escaped."""
    return reference.replace(":", "/").rpartition("/")[2].encode()


def _strict(decoder: msgspec.json.Decoder[T], raw: bytes, where: str) -> T:
    json_text.strictly(raw, where)
    return _typed(decoder, raw, where)


def _typed(decoder: msgspec.json.Decoder[T], raw: bytes, where: str) -> T:
    try:
        return decoder.decode(raw)
    except msgspec.DecodeError as error:
        raise complaints.wrong_type_of(error, where) from None


def _kind_of(value: Any) -> str:
    kinds = {type(None): "null", str: "str", list: "array", bool: "bool"}
    return kinds.get(type(value), "int")
