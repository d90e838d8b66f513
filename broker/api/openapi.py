"""The description of the admin listener in OpenAPI 3.1, kept by hand beside the routes; a test compares the two."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from broker.core.hold import LONGEST_REASON

Schema = dict[str, Any]

_ANY = "application/json"


def document(version: str) -> dict[str, Any]:
    """The whole document."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "fhir-broker: the admin interface",
            "version": version,
            "description": "For operators, on the admin listener only: loopback or a Unix socket, without passwords.",
        },
        "paths": {path: dict(operations) for path, operations in _PATHS.items()},
        "components": {"schemas": _SCHEMAS},
    }


# -- shapes


def _of(kind: str, **more: Any) -> Schema:
    return {"type": kind, **more}


def _or_null(kind: str, **more: Any) -> Schema:
    return {"type": [kind, "null"], **more}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _list(item: Schema) -> Schema:
    return {"type": "array", "items": item}


def _object(properties: Mapping[str, Schema], *required: str, **more: Any) -> Schema:
    return {"type": "object", "properties": dict(properties), "required": list(required or properties), **more}


_TEXT, _NUMBER, _YES = _of("string"), _of("integer"), _of("boolean")
_TEXT0, _NUMBER0 = _or_null("string"), _or_null("integer")
_TIME, _TIME0 = _of("string", format="date-time"), _or_null("string", format="date-time")

_LINE = {
    "id": _of("string", format="uuid", description="ours"),
    "position": _NUMBER,
    "accepted": _TIME,
    "fate": _of("string", enum=["message", "answer", "late", "double", "unmatched", "report", "notice"]),
    "event": _TEXT0,
    "source": _TEXT0,
    "destinations": _list(_TEXT),
    "bytes": _NUMBER,
    "media_type": _TEXT,
    "fhir": _TEXT0,
    "bundle_id": _TEXT0,
    "message_id": _TEXT0,
}
_ENTRY = _object({
    "at": _TIME, "what": _TEXT, "text": _TEXT, "delivery": _or_null("integer", description="number of the delivery"),
})  # fmt: skip

_COUNTS = _of("object", additionalProperties=_NUMBER)
_SUMS = {
    "expected": _NUMBER, "answered": _NUMBER, "negative": _COUNTS, "open": _NUMBER, "missing": _NUMBER,
    "silent": _NUMBER, "withdrawn": _NUMBER, "undelivered": _COUNTS, "refused": _COUNTS, "misaddressed": _NUMBER,
}  # fmt: skip

_SUBSCRIBED = {
    "id": _TEXT, "model": _of("string", enum=["classic", "backport", "native"]), "fhir": _TEXT, "topic": _TEXT0,
    "criteria": _TEXT0, "filters": _list(_TEXT), "channel": _TEXT,
    "endpoint": _or_null("string", description="without its query"), "content": _TEXT0, "owner": _TEXT0,
    "version": _NUMBER, "changed": _TIME, "end": _TIME0,
    "status": _of("string", enum=["requested", "active", "error", "off", "entered-in-error"]), "since": _TIME0,
    "error": _TEXT0, "failures": _NUMBER, "gap": _YES, "counted": _NUMBER, "sent": _NUMBER, "behind": _NUMBER,
    "last_sent": _TIME0, "next": _TIME0,
}  # fmt: skip

_SCHEMAS: dict[str, Schema] = {
    "Error": _object({"error": _object({"id": _of("string", description="stable"), "text": _TEXT})}),
    "Line": _object(_LINE),
    "Entry": _ENTRY,
    "Step": _object({
        "at": _TIME, "what": _TEXT, "note": _TEXT0, "status": _NUMBER0, "took": _or_null("number"), "address": _TEXT0,
        "left": _of("boolean", description="whether the bytes may have reached the other side"),
    }),
    "Delivery": _object({
        "number": _NUMBER,
        "destination": _TEXT0,
        "state": _of("string", enum=["waiting", "done", "dead", "withdrawn", "logged"]),
        "under_way": _YES,
        "rule": _TEXT0,
        "address": _TEXT0,
        "address_from": _of("string", enum=["rule", "directory"]),
        "lane": _TEXT0,
        "attempts": _NUMBER,
        "left": _YES,
        "due": _TIME0,
        "order": _of("string", enum=["none", "source", "subject", "focus", "correlation"]),
        "stream": {"oneOf": [_ref("Place"), _of("null")]},
        "expiry": _TIME,
        "ended": _TIME0,
        "answer": _object({
            "state": _of("string", enum=["none", "open", "answered", "missing", "closed"]),
            "by": _TIME0,
            "answered_by": _TEXT0,
        }),
        "outcome": {"type": ["object", "null"]},
        "steps": _list(_ref("Step")),
    }),
    "Message": _object(
        {
            **_LINE,
            "format": _TEXT0, "bundle_identifier": _TEXT0, "timestamp": _TEXT0,
            "response": {"type": ["object", "null"]},
            "digest": _TEXT, "body_kept": _YES, "received": _TIME, "channel": _TEXT, "peer": _TEXT, "party": _TEXT0,
            "way_in": _TEXT0, "response_url": _TEXT0, "correlation": _TEXT0, "via": _list(_TEXT), "expirytime": _TIME0,
            "traceparent": _TEXT0,
            "deliveries": _list(_ref("Delivery")),
            "mailboxes": _list(_object({"endpoint": _TEXT, "read": _TIME0, "reader": _TEXT0})),
            "notes": _list(_object({"at": _TIME, "what": _TEXT, "text": _TEXT, "who": _TEXT0})),
            "answers": {"type": ["object", "null"]},
            "answered_by": _list(_object({**_LINE, "delivery": _NUMBER0, "code": _TEXT0})),
            "story": _list(_ref("Entry")),
            "ahead": _list(_ref("Entry")),
        }
    ),
    "Place": _object({
        "behind": _or_null("string", description="our id of the message whose delivery goes before it"),
        "ahead": _of("integer", description="how many go before it"),
        "held_by": _of("array", items=_TEXT, description="our ids of the messages whose dead letters hold the stream"),
        "holds": _of("boolean", description="it is one of those"),
    }),
    "Stream": _object({
        "destination": _TEXT0, "address": _TEXT0, "order": _TEXT, "by": _TEXT0, "value": _TEXT0, "waiting": _NUMBER,
        "next": _TEXT0, "held_by": _list(_object({"id": _TEXT, "delivery": _NUMBER, "since": _TIME})),
    }),
    "DeadLetter": _object({**_LINE, "delivery": _ref("Delivery")}),
    "Lane": _object({
        "lane": _TEXT, "state": _of("string", enum=["open", "closed", "held"]), "open": _YES, "closed_until": _TIME0,
        "reason": _TEXT0, "hold": {"oneOf": [_ref("Hold"), {"type": "null"}]},
        "left_alone": _list(_object({"destination": _TEXT, "until": _TIME, "reason": _TEXT})), "under_way": _NUMBER,
        "in_memory": _NUMBER, "waiting": _NUMBER, "oldest": _TIME0, "next_due": _TIME0,
        "policy": {"type": ["object", "null"]},
    }),
    "Hold": _object({
        "phase": _of("string", enum=["planned", "held", "over"]), "reason": _TEXT0, "from": _TIME, "until": _TIME0,
        "ordered": _TIME,
    }),
    "Receipts": _object(_SUMS),
    "ReceiptLine": _object({
        "id": _TEXT, "delivery": _NUMBER, "accepted": _TIME, "source": _TEXT0, "party": _TEXT0, "destination": _TEXT0,
        "event": _TEXT0, "what": _of("string", enum=["open", "missing", "negative", "undelivered"]), "kind": _TEXT0,
        "issues": _list(_TEXT), "misaddressed": _YES, "expected": _YES, "answer_by": _TIME0, "answered_by": _TEXT0,
        "text": _TEXT0,
    }),
    "DirectoryLine": _object({"name": _TEXT, "how": _TEXT, "entries": _list(_of("object"))}),
    "DirectorySource": _object({
        "source": _TEXT, "state": _of("string", enum=["unknown", "stale", "fresh"]), "resources": _NUMBER,
        "read_at": _TIME0, "age": _or_null("number"), "problem": _TEXT0,
    }),
    "Resolution": _object({
        "name": _TEXT, "known": _YES, "pending": _YES, "how": _TEXT, "matched": _TEXT0,
        "addresses": _list(_TEXT), "first": _YES,
        "state": _of("string", enum=["use", "hold", "none"]), "origin": _TEXT0, "reason": _TEXT0,
        "lookups": _list(_object({"how": _TEXT, "tried": _TEXT, "found": _TEXT0})), "nearest": _list(_TEXT),
        "directory": _TEXT,
    }),
    "Subscription": _object(_SUBSCRIBED),
    "SubscriptionShown": _object({**_SUBSCRIBED, "notice": {"oneOf": [_ref("Notice"), _of("null")]}}),
    "Notice": _object({
        "id": _of("string", description="ours, of the message that it is"), "kind": _TEXT, "first": _NUMBER0,
        "last": _NUMBER0, "attempts": _NUMBER, "due": _TIME0, "note": _TEXT0,
    }),
    "Ready": _object({
        "status": _of("string", enum=["ready", "not ready"]), "insecure": _YES, "checks": _of("object"),
    }),
}  # fmt: skip


# -- operations


def _answer(schema: Schema, text: str) -> dict[str, Any]:
    return {"description": text, "content": {_ANY: {"schema": schema}}}


def _operation(
    id: str, summary: str, schema: Schema, *parameters: dict[str, Any], body: Any = None, **answers: Any
) -> dict[str, Any]:
    operation: dict[str, Any] = {"operationId": id, "summary": summary}
    if parameters:
        operation["parameters"] = list(parameters)
    if body is not None:
        operation["requestBody"] = body
    said = {name.removeprefix("s"): answer for name, answer in answers.items()}
    default = _answer(_ref("Error"), "It cannot be done; why.")
    operation["responses"] = {"200": _answer(schema, "Done."), **said, "default": default}
    return operation


def _query(name: str, text: str, schema: Schema, *, required: bool = False) -> dict[str, Any]:
    return {"name": name, "in": "query", "description": text, "schema": schema, "required": required}


def _path(name: str, text: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "description": text, "schema": _TEXT, "required": True}


_ID = _path("id", "Our id, or any that the sender made (Bundle.id, MessageHeader.id, Bundle.identifier).")
_LANE_NAME = _path("name", "The lane, as it is listed; percent-encoded as one segment.")
_SUBSCRIPTION = _path("id", "The id of the Subscription.")
_AFTER = _query("after", "Go on after this; from the answer before.", _of("integer", minimum=0, default=0))
_DELIVERY_NUMBER = _query("number", "One delivery of the message; without it, all that are dead.", _NUMBER)


def _limit(default: int, most: int) -> dict[str, Any]:
    return _query("limit", "At most so many.", _of("integer", minimum=1, maximum=most, default=default))


def _json_body(schema: Schema, *, required: bool = True) -> dict[str, Any]:
    return {"required": required, "content": {_ANY: {"schema": schema}}}


_PERIOD = (
    _query("from", "A day or a time; without it, 30 days before the end.", _TEXT),
    _query("to", "A day, with all its hours, or a time; without it, now.", _TEXT),
    _query("source", "One source endpoint.", _TEXT),
    _query("party", "The endpoints that a party owns.", _TEXT),
)
_FHIR = ("application/fhir+json", "application/fhir+xml")
_MESSAGE_BODY = {"required": True, "content": {name: {"schema": {}} for name in _FHIR}}
_BYTES = {"description": "The bytes as they came, with their media type.", "content": {"*/*": {"schema": {}}}}
_LEFT = _list(_object({"id": _TEXT, "delivery": _NUMBER0, "error": _of("object")}))

_LIVE = _operation("live", "Whether the process lives.", _object({"status": _TEXT}))
_READY = _operation(
    "ready", "Whether it can take messages.", _ref("Ready"), s503=_answer(_ref("Ready"), "It cannot, and why.")
)

_PATHS: dict[str, dict[str, Any]] = {
    "/admin/v1/status": {"get": _operation("status", "Version, listeners, counts.", _of("object"))},
    "/admin/v1/openapi.json": {"get": _operation("openapi", "This document.", _of("object"))},
    "/admin/v1/lanes": {
        "get": _operation("lanes", "Every peer: what waits for it, and whether it is left alone for now.",
                          _object({"lanes": _list(_ref("Lane"))})),
    },
    "/admin/v1/lanes/{name}/hold": {
        "post": _operation(
            "holdLane", "Lets nothing go to a peer, from now or a time on, until a time or until it is resumed.",
            _object({"lane": _TEXT, "known": _YES, "hold": _ref("Hold")}), _LANE_NAME,
            body=_json_body(_of("object", properties={
                "reason": _of("string", maxLength=LONGEST_REASON), "from": _TIME, "until": _TIME,
            }, additionalProperties=False), required=False)),
    },
    "/admin/v1/lanes/{name}/resume": {
        "post": _operation("resumeLane", "Ends a hold, planned or begun.", _object({"lane": _TEXT}), _LANE_NAME),
    },
    "/admin/v1/messages/{id}": {
        "get": _operation("story", "The whole story of a message.", _ref("Message"), _ID,
                          s300=_answer(_object({"several": _list(_ref("Line"))}), "Several have this id.")),
    },
    "/admin/v1/messages/{id}/body": {
        "get": {**_operation("body", "The bytes of a message.", {}, _ID, s200=_BYTES)},
    },
    "/admin/v1/mailboxes": {
        "get": _operation("mailboxes", "Every mailbox, and how much of it is unread.", _object({
            "mailboxes": _list(_object({"endpoint": _TEXT, "messages": _NUMBER, "unread": _NUMBER, "last": _NUMBER})),
        })),
    },
    "/admin/v1/mailboxes/{endpoint}/messages": {
        "get": _operation(
            "mailbox", "What a mailbox holds, without the bodies; looking at it is no reading.",
            _object({"endpoint": _TEXT, "messages": _list(_object({**_LINE, "read": _TIME0, "reader": _TEXT0})),
                     "reached": _NUMBER, "more": _YES, "first_left": _NUMBER0}),
            _path("endpoint", "Percent-encoded as one segment."), _AFTER, _limit(50, 500)),
    },
    "/admin/v1/dead": {
        "get": _operation("dead", "Dead letters, oldest first.",
                          _object({"dead": _list(_ref("DeadLetter")), "next": _NUMBER0}), _AFTER, _limit(50, 500)),
    },
    "/admin/v1/dead/redrive": {
        "post": _operation("redriveSeveral", "All dead letters wait again, or those of the messages named.",
                           _object({"redriven": _NUMBER, "left": _LEFT}),
                           body=_json_body(_of("object", properties={"ids": _list(_TEXT)}, additionalProperties=False),
                                           required=False)),
    },
    "/admin/v1/dead/{id}/redrive": {
        "post": _operation("redrive", "The dead deliveries of a message wait again, due at once.",
                           _object({"id": _TEXT, "redriven": _list(_NUMBER)}), _ID, _DELIVERY_NUMBER),
    },
    "/admin/v1/dead/{id}/drop": {
        "post": _operation("drop", "Gives dead deliveries up for good; the story stays.",
                           _object({"id": _TEXT, "dropped": _list(_NUMBER)}), _ID, _DELIVERY_NUMBER,
                           body=_json_body(_object({"reason": _of("string", maxLength=500)}))),
    },
    "/admin/v1/streams": {
        "get": _operation("streams", "Held streams, then those in which some wait for others.",
                          _object({"streams": _list(_ref("Stream"))}), _limit(50, 500)),
    },
    "/admin/v1/streams/{id}/resume": {
        "post": _operation("resumeStream", "The stream that a dead letter of this message holds goes on without it.",
                           _object({"id": _TEXT, "resumed": _list(_NUMBER)}), _ID,
                           _query("number", "One delivery of the message; without it, all that hold one.", _NUMBER)),
    },
    "/admin/v1/report": {
        "get": _operation(
            "report", "Receipts of a period, source by source: what came back, what did not, what was misaddressed.",
            _object({
                "from": _TIME, "to": _TIME,
                "sources": _list(_object({"source": _TEXT0, "party": _TEXT0, **_SUMS})), "total": _ref("Receipts"),
                "misaddressed": _list(_object({
                    "day": _of("string", format="date"), "source": _TEXT0, "party": _TEXT0, "destination": _TEXT0,
                    "error": _TEXT, "count": _NUMBER,
                })),
                "outages": _list(_object({
                    "lane": _TEXT, "planned": _YES, "from": _TIME0, "until": _TIME0, "reason": _TEXT0,
                })),
            }), *_PERIOD),
    },
    "/admin/v1/report/messages": {
        "get": _operation(
            "reportMessages", "The messages of a period that have no good receipt, as they were accepted.",
            _object({"from": _TIME, "to": _TIME, "messages": _list(_ref("ReceiptLine")), "next": _NUMBER0}),
            *_PERIOD, _query("what", "open, missing, negative, undelivered; several with commas between.", _TEXT),
            _AFTER, _limit(200, 1000)),
    },
    "/admin/v1/subscriptions": {
        "get": _operation(
            "subscriptions", "Who is told of what, how far behind, in which trouble; as they were created.",
            _object({"subscriptions": _list(_ref("Subscription")), "total": _NUMBER, "next": _NUMBER0}), _AFTER,
            _limit(50, 500), _query("status", "requested, active, error, off or entered-in-error.", _TEXT)),
    },
    "/admin/v1/subscriptions/{id}": {
        "get": _operation(
            "subscription", "One, and the notification on its way to it.", _ref("SubscriptionShown"), _SUBSCRIPTION),
    },
    "/admin/v1/subscriptions/{id}/off": {
        "post": _operation(
            "switchOff", "Nothing is counted for it or sent any more, until its client or the operator switches it on.",
            _ref("Subscription"), _SUBSCRIPTION,
            body=_json_body(_of("object", properties={"reason": _of("string", maxLength=500)},
                                additionalProperties=False), required=False)),
    },
    "/admin/v1/subscriptions/{id}/on": {
        "post": _operation("switchOn", "It is greeted anew, and goes on where it stopped.", _ref("Subscription"),
                           _SUBSCRIPTION),
    },
    "/admin/v1/route": {
        "post": _operation(
            "route", "What would become of this message, rule by rule; nothing is kept.", _of("object"),
            _query("channel", "The channel it would come in over.", _of("string", default="http")),
            _query("party", "The party that would send it.", _TEXT),
            _query("path", "The {name} of /in/{name}/$process-message.", _TEXT), body=_MESSAGE_BODY),
    },
    "/admin/v1/directory": {
        "get": _operation("directory", "The lines of the directory in the order in which they are asked.",
                          _object({"version": _TEXT, "total": _NUMBER, "entries": _list(_ref("DirectoryLine")),
                                   "next": _NUMBER0, "sources": _list(_ref("DirectorySource"))}),
                          _AFTER, _limit(100, 1000)),
    },
    "/admin/v1/directory/lookup": {
        "get": _operation("lookup", "Where a name leads, and every step of the search.", _ref("Resolution"),
                          _query("name", "The endpoint.", _TEXT, required=True),
                          _query("fhir", "For a message of this release, as 4.0.", _TEXT),
                          _query("format", "json or xml.", _TEXT)),
    },
    "/admin/v1/directory/problems": {
        "get": _operation("directoryProblems", "What is wrong in its sources.", _object({
            "problems": _list(_object({"file": _TEXT, "line": _NUMBER0, "text": _TEXT})),
        })),
    },
    "/admin/v1/directory/refresh": {
        "post": _operation("refreshDirectory", "Reads the sources now.", _object({
            "version": _TEXT, "names": _NUMBER, "changed": _NUMBER, "patterns_changed": _YES, "woken": _NUMBER,
            "problems": _list(_TEXT), "sources": _list(_ref("DirectorySource")),
        })),
    },
    "/health/live": {"get": _LIVE},
    "/health/ready": {"get": _READY},
    "/healthz": {"get": {**_LIVE, "operationId": "healthz"}},
    "/readyz": {"get": {**_READY, "operationId": "readyz"}},
    "/metrics": {
        "get": {
            "operationId": "metrics",
            "summary": "Numbers for Prometheus.",
            "responses": {"200": {"description": "Text format.", "content": {"text/plain": {"schema": _TEXT}}}},
        },
    },
}  # fmt: skip
