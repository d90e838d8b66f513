"""What makes a message the same message, and by which ids a response may quote it (spec: messaging 3 and 4)."""

from __future__ import annotations

import msgspec

from broker.core.fhir.header import Header, Identifier, ResponseLink

UUID = "urn:uuid:"
URI_SYSTEM = "urn:ietf:rfc:3986"  # the system of values that are URIs, unique by themselves


class Identity(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """`key` is unique within one source. The same key with another `message_id` is a reused id (M-22)."""

    key: str
    message_id: str | None = None  # MessageHeader.id up to R4B; from R5 on it says nothing (M-28)


def identity(header: Header, body_sha256: bytes) -> Identity:
    """The identity of a message (M-20, M-23).

    Where it is an id by which a response may quote the message, the key is that very form: one entry of the store then
    serves both. An identifier always has its `|`, so that it never meets a Bundle.id.
    """
    if header.opaque:  # source and id are the identity of an event; its id may equal that of a Bundle (C-62)
        return Identity(key=f"event:{header.message_id}", message_id=header.message_id)
    if header.release.identifies_by_bundle_identifier:
        if header.bundle_identifier is not None:
            identifier = header.bundle_identifier
            return Identity(key=f"{identifier.system}|{_bare(identifier.value)}")
        if header.bundle_id is not None:
            return Identity(key=_bare(header.bundle_id))
        return Identity(key=f"digest:{body_sha256.hex()}")
    if header.bundle_id is not None:
        return Identity(key=_bare(header.bundle_id), message_id=header.message_id)
    # real senders leave Bundle.id out and use one MessageHeader.id again and again (corpus): only the bytes tell
    return Identity(key=f"message:{header.message_id or ''}:{body_sha256.hex()}", message_id=header.message_id)


def quotable_ids(header: Header) -> tuple[str, ...]:
    """The ids by which a response may quote this message: any of three, as real senders do (M-31)."""
    found = []
    if header.message_id:
        found.append(_bare(header.message_id))
    if header.bundle_id:
        found.append(_bare(header.bundle_id))
    identifier = header.bundle_identifier
    if identifier is not None:
        value = _bare(identifier.value)
        if value:
            found.append(_bare(value))
        if identifier.system and identifier.system != URI_SYSTEM:  # a URI is looked up by itself, whoever quotes it
            found.append(_bare(f"{identifier.system}|{value}"))  # as a whole, just as `quoted_ids` has it
    return tuple(dict.fromkeys(found))


def quoted_ids(link: ResponseLink) -> tuple[str, ...]:
    """The keys under which the request of a response is looked up, the surest first."""
    system = link.identifier.system
    # under a system of its own a value is unique only there: another system's `1` is another message
    alone = not system or system == URI_SYSTEM
    return tuple(dict.fromkeys(_bare(one) for one in _forms(link.identifier, alone=alone)))


def _forms(identifier: Identifier, *, alone: bool) -> list[str]:
    bare = Identifier(identifier.system, _bare(identifier.value))
    return [str(bare), bare.value] if alone else [str(bare)]


def _bare(id: str) -> str:
    return id[9:] if id[8:9] == ":" and id[:9].lower() == UUID else id  # most are bare, which one look tells
