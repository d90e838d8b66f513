"""The frame of the one partner-facing HTTP server: bases, formats, and an OperationOutcome for what goes wrong.

Who brings the ways in (the http channel) and who reads (`api`) add their routes to the application made here; a
handler raises a `Refusal` and the frame says it in HTTP's words and in the caller's format.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

import msgspec
from aiohttp import hdrs, web
from multidict import CIMultiDictProxy
from yarl import URL

from broker.core.fhir.header import Format, Release
from broker.core.fhir.media import acceptable, media_type
from broker.core.fhir.outcomes import http_status, outcome_bytes
from broker.core.outcome import BadRequest, Problem, Refusal, Who

log = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

BASE_PATH = web.AppKey("base_path", str)  # "/fhir", without a slash at the end; "" for a base at the root
DEFAULT_RELEASE = web.AppKey("default_release", Release)  # for callers that do not say
ENDPOINT = web.AppKey("endpoint", str)  # this broker's own name

REFUSED_BY = "X-Refused-By"  # sender, broker or receiver, since a receiver's own outcome is passed on unchanged
REFUSED_AT = "X-Refused-At"  # endpoint of the broker that says so

PINNED = {"R4": Release.R4, "R4B": Release.R4B, "R5": Release.R5}
MIRRORED = ("X-Request-Id", "X-Correlation-Id", "Correlation-Id")  # M-53
LONGEST_FIELD = 32 * 1024  # of a request; `destination` and `via` are lists of endpoints in one header
LONGEST_MIRRORED = 256  # an id; a caller that sends more gets nothing back


class HttpRefusal(Refusal):
    """A refusal that HTTP has a status of its own for (406, 408, 417, …)."""

    def __init__(self, text: str, *, status: int, **rest: Any) -> None:
        super().__init__(text, **rest)
        self.status = status


# --- the application -------------------------------------------------------------------------------------------------


def application(*, base_url: str, default_release: Release, endpoint: str = "") -> web.Application:
    """The partner-facing application, without any route yet; `endpoint` is who refuses what it refuses."""
    app = web.Application(middlewares=[say_what_went_wrong])
    app[BASE_PATH] = urlsplit(base_url).path.rstrip("/")
    app[DEFAULT_RELEASE] = default_release
    app[ENDPOINT] = endpoint
    app.on_response_prepare.append(_finish_headers)
    return app


def fhir_paths(base_path: str) -> tuple[str, ...]:
    """The FHIR base and the same pinned to a release: /fhir, /fhir/R4, /fhir/R4B, /fhir/R5."""
    return (base_path, *(f"{base_path}/{name}" for name in PINNED))


def add_fhir_route(app: web.Application, method: str, path: str, handler: Handler) -> None:
    """Registers `path` ("/Bundle") on all four bases; the handler asks `pinned_release` which one it was."""
    for base in fhir_paths(app[BASE_PATH]):
        app.router.add_route(method, base + path, handler, expect_handler=later)


async def later(request: web.Request) -> None:
    """Puts `100 Continue` off until the handler reads the body: it may refuse by the headers alone."""


async def send_continue(request: web.Request) -> None:
    """Tells a client that waits with its body to send it (RFC 9110, section 10.1.1)."""
    expect = request.headers.get(hdrs.EXPECT)
    if expect is None or request.version < (1, 1):
        return
    if expect.strip().lower() != "100-continue":
        raise HttpRefusal(
            "only 100-continue is understood in Expect",
            status=417,
            code="not-supported",
            id="unknown-expectation",
            expression="http.expect",
        )
    await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    request.writer.output_size = 0  # the answer proper has not begun


async def _finish_headers(request: web.Request, response: web.StreamResponse) -> None:
    response.headers.popall(hdrs.SERVER, None)  # nothing that describes the server
    for name, value in mirrored(request):
        response.headers[name] = value


def mirrored(request: Asking) -> list[tuple[str, str]]:
    """The caller's own ids, for the answer (M-53)."""
    found = []
    for name in MIRRORED:
        value = request.headers.get(name)
        if value and len(value) <= LONGEST_MIRRORED and value.isascii() and value.isprintable():
            found.append((name, value))
    return found


class Asking(Protocol):
    """What of a request the frame reads: aiohttp's own has it, and so has the short way's."""

    @property
    def app(self) -> web.Application: ...
    @property
    def rel_url(self) -> URL: ...
    @property
    def headers(self) -> CIMultiDictProxy[str]: ...
    @property
    def match_info(self) -> Mapping[str, str]: ...
    @property
    def transport(self) -> asyncio.Transport | None: ...


class Reply(msgspec.Struct, frozen=True):
    """An answer before any library has dressed it."""

    status: int
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()  # without those that frame the body

    def response(self) -> web.Response:
        return web.Response(status=self.status, body=self.body or None, headers=self.headers)


# --- what the caller says --------------------------------------------------------------------------------------------


def pinned_release(request: Asking) -> Release | None:
    """The release that the URL names: R5 for /fhir/R5/…"""
    base = request.app[BASE_PATH]
    path = request.rel_url.raw_path
    if path.startswith("/R", len(base)) and path.startswith(base):
        return PINNED.get(path[len(base) + 1 :].partition("/")[0])
    return None


# What nearly every client of `$process-message` sends, if anything.
_PLAIN = {"async=true": [("async", "true")], "async=false": [("async", "false")]}


def parameters(request: Asking) -> list[tuple[str, str]]:
    """The query, decoded once; a raw `+` stays one: `_format=application/fhir+xml` and instants have it (M-63)."""
    raw = request.rel_url.raw_query_string
    if not raw:
        return []
    pairs = (part.partition("=") for part in raw.split("&") if part)
    try:
        return [(unquote(n, errors="strict"), unquote(v, errors="strict")) for n, _, v in pairs]
    except UnicodeDecodeError:
        raise BadRequest("the query is not percent-encoded UTF-8", expression="http.query") from None


def parameter(request: Asking, name: str) -> str | None:
    """The value of a parameter that may be there once."""
    values = [value for key, value in parameters(request) if key == name]
    if len(values) > 1:
        raise BadRequest(f"the parameter {name} is there {len(values)} times; give it once", expression=f"http.{name}")
    return values[0] if values else None


def preferences(request: Asking) -> dict[str, str]:
    """`Prefer` by RFC 7240: lower-case names, the first of each counts, parameters behind `;` are left out."""
    found: dict[str, str] = {}
    for field in request.headers.getall("Prefer", ()):
        for member in _split_outside_quotes(field, ","):
            name, _, value = _split_outside_quotes(member, ";")[0].partition("=")
            if name.strip():
                found.setdefault(name.strip().lower(), _unquoted(value.strip()))
    return found


def _split_outside_quotes(text: str, separator: str) -> list[str]:
    parts, start, quoted, skip = [], 0, False, False
    for at, char in enumerate(text):
        if skip:
            skip = False
        elif quoted and char == "\\":
            skip = True
        elif char == '"':
            quoted = not quoted
        elif char == separator and not quoted:
            parts.append(text[start:at])
            start = at + 1
    parts.append(text[start:])
    return parts


def _unquoted(text: str) -> str:
    if len(text) < 2 or not (text[0] == text[-1] == '"'):
        return text
    characters = iter(text[1:-1])
    return "".join(next(characters, "") if char == "\\" else char for char in characters)


def wanted(request: Asking) -> tuple[Format, Release | None]:
    """The format and release that the caller asks for (M-51, X-61); refuses with 406 what cannot be given."""
    accept = ", ".join(request.headers.getall(hdrs.ACCEPT, ()))
    format_parameter = parameter(request, "_format")
    if format_parameter is None and accept.strip() in ("", "*/*"):
        return _format_sent(request)
    return _acceptable(accept or None, format_parameter)


_acceptable = lru_cache(maxsize=256)(acceptable)  # callers say the same with every message


def _format_sent(request: Asking) -> tuple[Format, Release | None]:
    """X-61: who does not say gets back what he sends, and JSON where that says nothing."""
    try:
        sent = media_type(request.headers.get(hdrs.CONTENT_TYPE, ""))
    except Refusal:
        return Format.JSON, None
    return sent.format, None


def wanted_or_sent(request: Asking) -> tuple[Format, Release | None]:
    """For answers that come whatever the caller can read: refusals, receipts of events."""
    try:
        return wanted(request)
    except Refusal:
        return _format_sent(request)


# --- answers ---------------------------------------------------------------------------------------------------------


def content_type_of(format: Format, release: Release | None = None) -> str:
    """The media type of a resource of ours; `release` is named where the caller pinned or asked for one."""
    content_type = f"application/fhir+{format.value}"
    return content_type if release is None else f"{content_type}; fhirVersion={release.value}"


def outcome_reply(
    request: Asking,
    status: int,
    problems: Iterable[Problem],
    headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
) -> Reply:
    """An OperationOutcome of these problems, in the caller's format."""
    format, asked = wanted_or_sent(request)
    release = asked or pinned_release(request)
    here = request.app[ENDPOINT]
    told = [problem if problem.at else msgspec.structs.replace(problem, at=here) for problem in problems]
    body = outcome_bytes(told, format=format, release=release or request.app[DEFAULT_RELEASE])
    return Reply(status, body, (*dict(headers).items(), (hdrs.CONTENT_TYPE, content_type_of(format, release))))


def refusal_reply(request: Asking, refusal: Refusal) -> Reply:
    """A refusal in HTTP's words."""
    status = refusal.status if isinstance(refusal, HttpRefusal) else http_status(refusal)
    headers = {REFUSED_BY: refusal.problem.who.value}
    if request.app[ENDPOINT]:
        headers[REFUSED_AT] = request.app[ENDPOINT]
    if refusal.retry_after is not None:
        headers[hdrs.RETRY_AFTER] = str(max(1, round(refusal.retry_after)))
    return outcome_reply(request, status, refusal.problems, headers)


def failure_reply(request: Asking, exc: Exception) -> Reply:
    """The answer to a request over which something was raised: a refusal, or a bug of ours."""
    if isinstance(exc, Refusal):
        return refusal_reply(request, exc)
    log_bug(exc)
    return outcome_reply(request, 500, [BUG])


@web.middleware
async def say_what_went_wrong(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every refusal, unknown path, wrong method and bug becomes an OperationOutcome (promise 8)."""
    try:
        response = await handler(request)
    except web.HTTPException as exc:
        if exc.status < 400:
            raise
        response = _respond_http_exception(request, exc)
    except ConnectionError:
        raise  # the caller is gone; nobody reads an answer
    except Exception as exc:
        response = failure_reply(request, exc).response()
    if response.status >= 400 and request.can_read_body and not request.content.is_eof():
        response.force_close()  # what is left of a refused body is not worth reading
    return response


BUG = Problem(
    code="exception",
    id="internal-error",
    who=Who.BROKER,
    text="the broker failed over this request; the fault is ours and is logged; the same request may be sent again",
)


def log_bug(exc: BaseException) -> None:
    """Where it happened, without the exception's own text: that may quote a payload (promise 10)."""
    where = "".join(traceback.format_tb(exc.__traceback__))
    log.error("bug: %s\n%s", type(exc).__name__, where)


def _respond_http_exception(request: web.Request, exc: web.HTTPException) -> web.Response:
    headers: dict[str, str] = {}
    if isinstance(exc, web.HTTPMethodNotAllowed):
        headers[hdrs.ALLOW] = ", ".join(sorted(exc.allowed_methods))
        text = f"{exc.method} is not served on this path; it takes {headers[hdrs.ALLOW]}"
        problem = Problem(code="not-supported", id="method-not-allowed", text=text)
    elif exc.status == 404:
        base = request.app[BASE_PATH]
        text = (
            f"nothing is served on this path; the FHIR base of this broker is {base or '/'}:"
            f" messages go to {base}/$process-message or {base}/Bundle"
        )
        problem = Problem(code="not-found", id="unknown-path", text=text)
    elif exc.status == 413:
        problem = Problem(code="too-long", id="too-large", text="the body is larger than this broker takes")
    elif exc.status >= 500:
        problem = BUG
    else:
        problem = Problem(code="processing", id="bad-request", text=f"the request is refused: {exc.reason}")
    return outcome_reply(request, exc.status, [problem], headers).response()
