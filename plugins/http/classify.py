"""What a receiver's answer means: delivered, deferred or refused (M-43…M-45, X-62, A-43). Pure.

| answer | end of the attempt |
|---|---|
| 2xx with a Bundle of type message | delivered, with the response |
| 204 | delivered, nothing to say |
| any other 2xx | delivered, custody |
| 3xx | refused: redirects are not followed |
| 401, 408, 425, 5xx | deferred |
| 429, 503 | deferred; the peer's trouble unless the outcome speaks of the destination |
| any other 4xx | refused |
| anything else | deferred |
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import lru_cache
from http import HTTPStatus

import msgspec
import orjson

from broker.channel import Deferred, Delivered, Refused, Taken
from broker.core.fhir.header import Format
from broker.core.fhir.media import media_type
from broker.core.fhir.outcomes import FAILED
from broker.core.outcome import Problem, Refusal, Who
from plugins.http.address import without_query

LATER = frozenset({401, 408, 425, 429})  # X-62; 401 is trouble with our credentials, which somebody mends
OF_PEER = frozenset({429, 503})
LONGEST_NAME = 300  # characters of an endpoint
LONGEST_RETRY_AFTER = timedelta(days=7)  # a peer's typing error is not to outlive every message

_WHO = frozenset(who.value for who in Who)
_CODES = {
    400: "processing",
    403: "forbidden",
    404: "not-found",
    409: "conflict",
    410: "deleted",
    413: "too-long",
    415: "not-supported",
    422: "business-rule",
}
_ROOT = re.compile(rb"\s*(?:<\?.*?\?>\s*|<!--.*?-->\s*)*<(?:[A-Za-z_][\w.-]*:)?([A-Za-z]+)[\s/>]", re.DOTALL)
_BOM = b"\xef\xbb\xbf"
_XML_FAILED = re.compile(
    rb"<system\s+value\s*=\s*[\"']"
    + re.escape(FAILED.encode())
    + rb"[\"']\s*/>\s*<code\s+value\s*=\s*[\"']receiver[\"']"
)
_XML_EXPRESSION = re.compile(rb"<(?:expression|location)\s+value\s*=\s*[\"'][^\"']*destination", re.IGNORECASE)


class HttpAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """An answer that is no 2xx, unpacked; `body` is None where there was more than is worth reading."""

    status: int
    content_type: str = ""
    location: str = ""
    retry_after: str | None = None
    refused_by: str = ""  # as a broker writes it: who failed, and which broker says so
    refused_at: str = ""
    body: bytes | None = b""
    now: datetime


def not_delivered(answer: HttpAnswer, address: str) -> Deferred | Refused:
    """The end of the attempt that had this answer."""
    status = answer.status
    if 300 <= status < 400:
        return _redirected(answer, address)
    if status in LATER or status >= 500 or status < 200:
        return _deferred(answer)
    return _refused(answer)


@lru_cache(maxsize=1000)  # as many as there are
def said(status: int) -> str:
    """ "503 Service Unavailable": our words, since the reason phrase is the peer's."""
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


# --- 2xx -------------------------------------------------------------------------------------------------------------


def delivered(status: int, content_type: str, body: bytes | None) -> Delivered:
    """What a 2xx means: custody at least, and the response where the body is a message."""
    if not body or status == 204 or b"MessageHeader" not in body:  # as in nearly all answers
        return _without_message(status)
    format = format_of(content_type, body)
    if format is None or not may_be_message(body, format):
        return _without_message(status)
    known = _format_named(content_type) is not None
    return Delivered(
        body=body,
        media_type=content_type if known else f"application/fhir+{format.value}",
        status=status,
        note=f"{said(status)}, with a message",
    )


@lru_cache(maxsize=100)
def _without_message(status: int) -> Delivered:
    taken = Taken.NOTHING_TO_SAY if status == 204 else Taken.CUSTODY
    return Delivered(taken=taken, status=status, note=said(status))


def _format_named(content_type: str) -> Format | None:
    try:
        return media_type(content_type).format
    except Refusal:
        return None


def format_of(content_type: str, body: bytes) -> Format | None:
    """The format by its media type, or by its first character where that says nothing (text/plain, none at all)."""
    first = body.removeprefix(_BOM).lstrip()[:1]
    return _format_named(content_type) or {b"{": Format.JSON, b"<": Format.XML}.get(first)


def may_be_message(body: bytes, format: Format) -> bool:
    """A cheap look: the flow reads exactly what this lets through, and loses what it does not."""
    if format is Format.XML:
        return _root(body) == b"Bundle" and b"MessageHeader" in body
    return all(word in body for word in (b'"Bundle"', b'"MessageHeader"', b'"message"'))


def _root(body: bytes) -> bytes:
    match = _ROOT.match(body.removeprefix(_BOM))
    return match[1] if match else b""


# --- later -----------------------------------------------------------------------------------------------------------


def _deferred(answer: HttpAnswer) -> Deferred:
    of_peer = answer.status in OF_PEER and not speaks_of_destination(answer)
    return Deferred(
        note=said(answer.status),
        of_peer=of_peer,
        retry_after=retry_after(answer.retry_after, answer.now),
        status=answer.status,
    )


def retry_after(text: str | None, now: datetime) -> timedelta | None:
    """`Retry-After` in seconds or as an HTTP date; one that cannot be read is none."""
    if text is None:
        return None
    text = text.strip()
    if text.isascii() and text.isdigit():
        return min(timedelta(seconds=int(text[:9])), LONGEST_RETRY_AFTER)
    try:
        at = parsedate_to_datetime(text)
    except ValueError:
        return None
    at = at.replace(tzinfo=UTC) if at.tzinfo is None else at
    return min(max(at - now, timedelta()), LONGEST_RETRY_AFTER)


def speaks_of_destination(answer: HttpAnswer) -> bool:
    """Whether the outcome is about the destination alone: another broker's receiver failed, or it names the element."""
    outcome = _outcome(answer)
    if outcome is None:
        return False
    if outcome is Format.XML:
        body = answer.body or b""
        return bool(_XML_FAILED.search(body) or _XML_EXPRESSION.search(body))
    return any(_issue_names_destination(issue) for issue in _issues(answer.body or b""))


def _issues(body: bytes) -> list[dict[str, object]]:
    found = orjson.loads(body.removeprefix(_BOM)).get("issue")
    return [issue for issue in found if isinstance(issue, dict)] if isinstance(found, list) else []


def _issue_names_destination(issue: dict[str, object]) -> bool:
    details = issue.get("details")
    codings = details.get("coding") if isinstance(details, dict) else None
    for coding in codings if isinstance(codings, list) else []:
        if isinstance(coding, dict) and coding.get("system") == FAILED and coding.get("code") == Who.RECEIVER.value:
            return True
    named = issue.get("expression")
    return isinstance(named, list) and any("destination" in str(path).lower() for path in named)


# --- never -----------------------------------------------------------------------------------------------------------


def _redirected(answer: HttpAnswer, address: str) -> Refused:
    where = without_query(answer.location)
    where = where if where.isascii() and where.isprintable() and len(where) < 300 and "@" not in where else ""
    note = f"{said(answer.status)}; redirects are not followed" + (f" (to {where})" if where else "")
    text = (
        f"The receiver's address {without_query(address)} answers with a redirect ({answer.status}), which is not "
        "followed; put the new address into the directory."
    )
    return Refused(note=note, problem=_problem(answer.status, text, id="redirected"), status=answer.status)


def _refused(answer: HttpAnswer) -> Refused:
    outcome = _outcome(answer)
    how = "says why in its OperationOutcome" if outcome else "gave no reason"
    text = f"The receiver refused the message with {said(answer.status)} and {how}."
    return Refused(
        note=said(answer.status),
        problem=_as_told(_problem(answer.status, text), answer),
        status=answer.status,
        body=answer.body if outcome else None,
        media_type=_outcome_type(answer, outcome) if outcome else None,
    )


def _as_told(problem: Problem, answer: HttpAnswer) -> Problem:
    """Where a broker refused, or one behind it, it has said who failed and who speaks."""
    at = answer.refused_at
    if answer.refused_by not in _WHO or not at or len(at) > LONGEST_NAME or not (at.isascii() and at.isprintable()):
        return problem
    return msgspec.structs.replace(problem, who=Who(answer.refused_by), at=at)


def _problem(status: int, text: str, *, id: str = "refused-by-receiver") -> Problem:
    return Problem(code=_CODES.get(status, "processing"), id=id, text=text, who=Who.RECEIVER)


def _outcome_type(answer: HttpAnswer, format: Format) -> str:
    written = answer.content_type
    return written if _format_named(written) is format else f"application/fhir+{format.value}"


def _outcome(answer: HttpAnswer) -> Format | None:
    """The format of the OperationOutcome that the body is, None if it is none."""
    body = answer.body or b""
    format = format_of(answer.content_type, body)
    if format is Format.XML:
        return format if _root(body) == b"OperationOutcome" else None
    if format is None or b'"OperationOutcome"' not in body:
        return None
    try:
        found = orjson.loads(body.removeprefix(_BOM))
    except orjson.JSONDecodeError:
        return None
    return format if isinstance(found, dict) and found.get("resourceType") == "OperationOutcome" else None
