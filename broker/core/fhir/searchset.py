"""Pages of a mailbox: a searchset Bundle in which the originals stand byte for byte (M-65, M-66, M-67)."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from datetime import datetime
from uuid import NAMESPACE_URL, uuid5

import msgspec

from broker.core.fhir.header import Format, Release
from broker.core.fhir.outcomes import operation_outcome
from broker.core.fhir.splice import Raw, spliceable
from broker.core.fhir.write import Resource, instant, write
from broker.core.outcome import Problem


class PageEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A message as a page shows it."""

    message_id: str  # ours, a UUID
    position: int  # in the mailbox; the `id` of the entry, so that a reader may go on from any entry by `_offset`
    body: bytes
    format: Format
    release: Release
    media_type: str  # as it came
    last_updated: datetime | None = None  # the time of our storing (M-64)
    links: tuple[tuple[str, str], ...] = ()  # relation and URL, beside `original`


def searchset(
    entries: Sequence[PageEntry],
    *,
    format: Format,
    release: Release,
    self_url: str,
    next_url: str | None = None,
    total: int | None = None,
    base_url: str,
    warnings: Sequence[Problem] = (),
) -> bytes:
    """The page in bytes; `next_url` stands on the last page too, to poll on."""
    written = [_entry(entry, format=format, release=release, base_url=base_url) for entry in entries]
    if warnings:
        written.append(_outcome_entry(warnings, release=release, self_url=self_url))
    bundle = _searchset(self_url, next_url, total)
    if written:
        bundle["entry"] = written
    return write(bundle, format)


def count_only(*, format: Format, self_url: str, total: int) -> bytes:
    """The answer to `_summary=count` and to `_count=0` (M-67)."""
    return write(_searchset(self_url, None, total), format)


def as_resource(entry: PageEntry, *, format: Format, release: Release) -> Raw | None:
    """The original where it may stand as a resource: the same format, the same release family, and safe."""
    if entry.format is not format or _family(entry.release) is not _family(release):
        return None
    return spliceable(entry.body, format)


def _family(release: Release) -> Release:
    return Release.R4 if release is Release.R4B else release  # M-2: nobody can tell them apart


def _searchset(self_url: str, next_url: str | None, total: int | None) -> Resource:
    bundle: Resource = {"resourceType": "Bundle", "type": "searchset"}
    if total is not None:
        bundle["total"] = total
    bundle["link"] = [{"relation": "self", "url": self_url}]
    if next_url is not None:
        bundle["link"].append({"relation": "next", "url": next_url})
    return bundle


def _entry(entry: PageEntry, *, format: Format, release: Release, base_url: str) -> Resource:
    links = (("original", f"{base_url}/Bundle/{entry.message_id}"), *entry.links)
    return {
        "id": str(entry.position),
        "link": [{"relation": relation, "url": url} for relation, url in links],
        "fullUrl": f"urn:uuid:{entry.message_id}",  # M-66: a URN need not agree with the sender's Bundle.id
        "resource": as_resource(entry, format=format, release=release) or _binary(entry),
        "search": {"mode": "match"},
    }


def _binary(entry: PageEntry) -> Resource:
    """The original wrapped: other format, other release, or bytes that would spoil the page."""
    binary: Resource = {"resourceType": "Binary", "id": entry.message_id}
    if entry.last_updated is not None:
        binary["meta"] = {"lastUpdated": instant(entry.last_updated)}
    binary["contentType"] = " ".join(entry.media_type.split()) or "application/octet-stream"
    if entry.body:
        binary["data"] = b64encode(entry.body).decode()
    return binary


def _outcome_entry(warnings: Sequence[Problem], *, release: Release, self_url: str) -> Resource:
    # R5 deprecates this place for `Bundle.issues`, R4 knows no other: one that both can read (M-65).
    id = str(uuid5(NAMESPACE_URL, self_url))
    outcome = operation_outcome(warnings, release=release)
    return {
        "fullUrl": f"urn:uuid:{id}",
        "resource": {"resourceType": "OperationOutcome", "id": id, "issue": outcome["issue"]},
        "search": {"mode": "outcome"},
    }
