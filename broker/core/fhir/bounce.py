"""The bounce: our own response message that tells a source what became of its message (A-43, M-30, M-32)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime

import msgspec

from broker.core.fhir.header import Event, Format, Header, Identifier, Release
from broker.core.fhir.outcomes import operation_outcome
from broker.core.fhir.write import Resource, instant, narrative, write
from broker.core.outcome import Problem

# Stands where an element is required and the request gives us nothing to put there.
_ABSENT: Resource = {
    "extension": [
        {"url": "http://hl7.org/fhir/StructureDefinition/data-absent-reason", "valueCode": "unknown"},
    ]
}

_ID = re.compile(r"[A-Za-z0-9\-.]{1,64}")


class _Response(msgspec.Struct, frozen=True, kw_only=True):
    """What goes into the header of the response, whatever the spelling."""

    id: str
    outcome_id: str
    text: Resource
    request: Header
    code: str
    source: str
    source_name: str
    at: str


def report(
    *,
    request: Header,
    release: Release,
    format: Format,
    problem: Problem,
    final: bool,
    broker_endpoint: str,
    broker_name: str,
    ids: tuple[str, str, str],
    at: datetime,
    response_to_destination: str | None = None,
    said: Sequence[Resource] = (),
) -> bytes:
    """The response message; `ids` are fresh UUIDs for Bundle, MessageHeader and OperationOutcome.

    `said` are the issues of who refused it: what is known further on is not lost on the way back (M-60).
    """
    bundle_id, header_id, outcome_id = ids
    problem = msgspec.structs.replace(_naming(problem, response_to_destination), at=problem.at or broker_endpoint)
    outcome = operation_outcome([problem], release=release)
    bundle = response_bundle(
        request=request,
        release=release,
        code="fatal-error" if final else "transient-error",
        text=problem.text or problem.id,  # M-32: the narrative of a fatal-error says why
        broker_endpoint=broker_endpoint,
        broker_name=broker_name,
        ids=(bundle_id, header_id),
        at=at,
        outcome={"resourceType": "OperationOutcome", "id": outcome_id, "issue": [*outcome["issue"], *said]},
    )
    return write(bundle, format)


def response_bundle(
    *,
    request: Header,
    release: Release,
    code: str,
    text: str,
    broker_endpoint: str,
    broker_name: str = "fhir-broker",
    ids: tuple[str, str],
    at: datetime,
    outcome: Resource,
    others: Sequence[Resource] = (),
) -> Resource:
    """A response of the broker's own; `ids` of Bundle and MessageHeader, `others` are entries after the outcome."""
    told = narrative(text)
    outcome = {"resourceType": "OperationOutcome", "id": outcome["id"], "text": told, "issue": outcome["issue"]}
    header = _Response(
        id=ids[1],
        outcome_id=outcome["id"],
        text=told,
        request=request,
        code=code,
        source=broker_endpoint,
        source_name=broker_name,
        at=instant(at),
    )
    bundle = _bundle(release, ids[0], header.at)
    bundle["entry"] = [
        {"fullUrl": f"urn:uuid:{ids[1]}", "resource": _SPELLINGS[release](header)},
        {"fullUrl": f"urn:uuid:{outcome['id']}", "resource": outcome},
        *others,
    ]
    return bundle


def _naming(problem: Problem, destination: str | None) -> Problem:
    """The problem with the destination that failed named in it."""
    if not destination:
        return problem
    text = problem.text if destination in problem.text else f"{problem.text} (destination {destination})".strip()
    told = [problem.diagnostics, f"destination: {destination}"]
    return msgspec.structs.replace(problem, text=text, diagnostics="; ".join(part for part in told if part))


def _bundle(release: Release, id: str, at: str) -> Resource:
    bundle: Resource = {"resourceType": "Bundle", "id": id}
    if release.identifies_by_bundle_identifier:  # M-16; in R4 some communities forbid it
        bundle["identifier"] = {"system": "urn:ietf:rfc:3986", "value": f"urn:uuid:{id}"}
    bundle["type"] = "message"
    if release not in (Release.STU3, Release.DSTU2):  # those keep the time in the header
        bundle["timestamp"] = at
    return bundle


# --- the header, as each release spells it; the order of elements is that of the release, for XML ---


def _r4(response: _Response) -> Resource:
    source = {"name": response.source_name, "endpoint": response.source}
    return _without_nothing(
        {
            **_start(response),
            **_event(response.request.event, uri="eventUri"),
            "destination": _destination(response, "endpoint"),
            "source": _without_nothing(source),
            "response": _link(response, _quoted(response.request)),
        }
    )


def _r5(response: _Response) -> Resource:
    source = {"endpointUrl": response.source, "name": response.source_name}
    return _without_nothing(
        {
            **_start(response),
            **_event(response.request.event, uri="eventCanonical"),
            "destination": _destination(response, "endpointUrl"),
            "source": _without_nothing(source),
            "response": _link(response, {"identifier": _quoted_identifier(response.request)}),
        }
    )


def _stu3(response: _Response) -> Resource:
    source = {"name": response.source_name, "endpoint": response.source}
    return _without_nothing(
        {
            **_start(response),
            "event": _coding(response.request.event),
            "destination": _destination(response, "endpoint"),
            "timestamp": response.at,
            "source": _without_nothing(source),
            "response": _link(response, _quoted(response.request)),
        }
    )


def _dstu2(response: _Response) -> Resource:
    later = _stu3(response)
    order = ("resourceType", "id", "text", "timestamp", "event", "response", "source", "destination")
    return {name: later[name] for name in order if name in later}


_SPELLINGS = {
    Release.DSTU2: _dstu2,
    Release.STU3: _stu3,
    Release.R4: _r4,
    Release.R4B: _r4,
    Release.R5: _r5,
    Release.R6: _r5,
}


def _start(response: _Response) -> Resource:
    return {"resourceType": "MessageHeader", "id": response.id, "text": response.text}


def _event(event: Event, *, uri: str) -> Resource:
    """The request's own event (M-35)."""
    return {uri: event.code} if event.code and not event.system else {"eventCoding": _coding(event)}


def _coding(event: Event) -> Resource:
    return _without_nothing({"system": event.system, "code": event.code}) or _ABSENT


def _destination(response: _Response, element: str) -> list[Resource]:
    """The request's source, character by character, be it a good URI or not (A-1, A-3)."""
    return [{element: response.request.source}] if response.request.source else []


def _link(response: _Response, identifier: Resource) -> Resource:
    return {**identifier, "code": response.code, "details": {"reference": f"urn:uuid:{response.outcome_id}"}}


def _quoted(request: Header) -> Resource:
    """R4: the id by which the source will know its message again (M-30)."""
    identifier = request.bundle_identifier
    quoted = request.message_id or request.bundle_id or (identifier.value if identifier else "")
    if not quoted:
        return {"_identifier": _ABSENT}
    bare = quoted.removeprefix("urn:uuid:")  # the element is an `id`, which holds no colon
    return {"identifier": bare if _ID.fullmatch(bare) else quoted}


def _quoted_identifier(request: Header) -> Resource:
    """R5: Bundle.identifier (M-30), else what stands for it (M-23)."""
    identifier = request.bundle_identifier or Identifier()
    written = _without_nothing({"system": identifier.system, "value": identifier.value})
    if "value" in written:
        return written
    standing_in = request.bundle_id or request.message_id
    return {"value": standing_in} if standing_in else written or _ABSENT


def _without_nothing(element: Resource) -> Resource:
    return {name: value for name, value in element.items() if value}
