"""What requests about subscriptions have in common: the release they speak, the version they mean, what is shown."""

from __future__ import annotations

import re

import msgspec
from aiohttp import hdrs, web

from broker.api.asking import Asking, body_of
from broker.core.fhir.header import Format, Release
from broker.core.fhir.media import media_type
from broker.core.fhir.write import Resource
from broker.core.outcome import BadRequest, Unsupported
from broker.core.subscription.shown import in_release
from broker.core.subscription.subscription import Model
from broker.core.subscription.write import as_stored
from broker.store.telling import Subscribed
from broker.web import HttpRefusal, pinned_release

LARGEST = 64 * 1024  # bytes; a Subscription has one or two thousand, and all of them are in memory
SERVED = (Release.R4, Release.R4B, Release.R5)
SEGMENTS = {Release.R4: "R4", Release.R4B: "R4B", Release.R5: "R5"}

_TAG = re.compile(r'(?:W/)?"?([0-9]{1,9})"?')


def check_release(asking: Asking) -> None:
    """Refuses releases that have no subscriptions of ours (S-3)."""
    if asking.release not in SERVED:
        raise HttpRefusal(
            f"subscriptions are served in fhirVersion {', '.join(SERVED)}, not {asking.release}",
            status=406,
            code="not-supported",
            id="not-acceptable",
            expression="http.accept",
        )


async def resource_sent(request: web.Request, *, default: Release, what: str) -> tuple[bytes, Format, Release]:
    """The body, its format and its release: of the media type, else of the URL, else the default (S-3)."""
    sent = media_type(request.headers.get(hdrs.CONTENT_TYPE, ""))
    release = sent.release or pinned_release(request) or default
    if release not in SERVED:
        raise Unsupported(
            f"subscriptions are served in fhirVersion {', '.join(SERVED)}, not {release}",
            id="unsupported-fhir-version",
            expression="http.content-type",
        )
    return await body_of(request, LARGEST, what=what), sent.format, release


def version_meant(request: web.Request) -> int | None:
    """The version in `If-Match`; None where any is as good."""
    text = request.headers.get(hdrs.IF_MATCH, "*").strip()
    if text == "*":
        return None
    match = _TAG.fullmatch(text)
    if match is None:
        raise BadRequest(
            'If-Match is the ETag of a Subscription as it was read: W/"1"',
            id="bad-if-match",
            expression="http.if-match",
        )
    return int(match[1])


def can_be_shown(row: Subscribed, release: Release) -> bool:
    return row.subscription.model is not Model.CLASSIC or not release.identifies_by_bundle_identifier


def shown(row: Subscribed, release: Release) -> Resource | None:
    """The resource with its status of now, in the model of a release; None where that has no words for it."""
    found = in_release(row.subscription, release)
    if found is None:
        return None
    return as_stored(
        msgspec.structs.replace(found, status=row.life.status),
        last_updated=row.changed,
        version=str(row.version),
        error=row.life.error,
    )


def speak_of(asking: Asking, row: Subscribed) -> Release:
    """The release of an answer about one subscription: the one asked for, else its own, which the label then says."""
    if asking.named is None and row.subscription.release is not asking.release:
        asking.named = row.subscription.release
    return asking.release
