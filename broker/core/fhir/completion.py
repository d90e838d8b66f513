"""What the status URL answers once it is done: a manifest in R4, a batch-response from R5 on (M-50)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import orjson

from broker.core.fhir.header import Format, Release
from broker.core.fhir.outcomes import operation_outcome
from broker.core.fhir.searchset import PageEntry, as_resource
from broker.core.fhir.write import Resource, instant, write
from broker.core.outcome import Problem


def manifest(
    *,
    at: datetime,
    request: str,
    requires_access_token: bool,
    output: Sequence[tuple[str, str]] = (),
    error: Sequence[tuple[str, str]] = (),
) -> bytes:
    """The manifest of bulk data, JSON in any case; `output` and `error` are pairs of resource type and URL."""
    return orjson.dumps(
        {
            "transactionTime": instant(at),
            "request": request,
            "requiresAccessToken": requires_access_token,
            "output": [{"type": type, "url": url} for type, url in output],
            "error": [{"type": type, "url": url} for type, url in error],
        }
    )


def batch_response(
    *,
    format: Format,
    release: Release,
    status: str,
    location: str | None = None,
    response: PageEntry | None = None,
    problems: Sequence[Problem] = (),
    at: datetime | None = None,
) -> bytes:
    """The outcome of the one request: `status` as "200 OK", `location` where the response message is to be read.

    The response itself stands in the entry if it may; a failed request is told in `problems`.
    """
    entry: Resource = {}
    told: Resource = {"status": status}
    if location is not None:
        told["location"] = location
    if at is not None:
        told["lastModified"] = instant(at)
    if problems:
        told["outcome"] = operation_outcome(problems, release=release)
    if response is not None:
        original = as_resource(response, format=format, release=release)
        if original is not None:
            entry["fullUrl"] = f"urn:uuid:{response.message_id}"
            entry["resource"] = original
    entry["response"] = told
    return write({"resourceType": "Bundle", "type": "batch-response", "entry": [entry]}, format)
