"""The frame of the one partner-facing HTTP server: bases, formats, and an OperationOutcome for what goes wrong.

Who brings the ways in (the http channel) and who reads (`api`) add their routes to the application made here; a
handler raises a `Refusal` and the frame says it in HTTP's words and in the caller's format.
"""

from __future__ import annotations

import logging
import os
import socket
import ssl
import traceback
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import unquote, urlsplit

from aiohttp import hdrs, web
from aiohttp.web_protocol import RequestHandler

from broker.core.fhir.header import Format, Release
from broker.core.fhir.media import acceptable, media_type
from broker.core.fhir.outcomes import http_status, outcome_bytes
from broker.core.outcome import BadRequest, Problem, Refusal, Who
from broker.core.tls import ClientCertificate, Tls

log = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

BASE_PATH = web.AppKey("base_path", str)  # "/fhir", without a slash at the end; "" for a base at the root
DEFAULT_RELEASE = web.AppKey("default_release", Release)  # for callers that do not say

PINNED = {"R4": Release.R4, "R4B": Release.R4B, "R5": Release.R5}
MIRRORED = ("X-Request-Id", "X-Correlation-Id", "Correlation-Id")  # M-53
LONGEST_MIRRORED = 256  # an id; a caller that sends more gets nothing back
LONGEST_FIELD = 32 * 1024  # `destination` and `via` are lists of endpoints in one header
LONGEST_LINE = 16 * 1024  # request line: `response-url` and chained searches
IDLE = 75.0  # seconds a connection may stand without a request; also the most that headers may take
BACKLOG = 1024  # connections that wait to be taken: what comes in at once, a restart included
LINGER = 2.0  # seconds in which the rest of a refused body is thrown away, so that the answer is read


class HttpRefusal(Refusal):
    """A refusal that HTTP has a status of its own for (406, 408, 417, …)."""

    def __init__(self, text: str, *, status: int, **rest: Any) -> None:
        super().__init__(text, **rest)
        self.status = status


# --- the application -------------------------------------------------------------------------------------------------


def application(*, base_url: str, default_release: Release) -> web.Application:
    """The partner-facing application, without any route yet."""
    app = web.Application(middlewares=[say_what_went_wrong])
    app[BASE_PATH] = urlsplit(base_url).path.rstrip("/")
    app[DEFAULT_RELEASE] = default_release
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
    for name in MIRRORED:
        value = request.headers.get(name)
        if value and len(value) <= LONGEST_MIRRORED and value.isascii() and value.isprintable():
            response.headers[name] = value


# --- what the caller says --------------------------------------------------------------------------------------------


def pinned_release(request: web.Request) -> Release | None:
    """The release that the URL names: R5 for /fhir/R5/…"""
    base = request.app[BASE_PATH]
    path = request.rel_url.raw_path
    if path.startswith("/R", len(base)) and path.startswith(base):
        return PINNED.get(path[len(base) + 1 :].partition("/")[0])
    return None


# What nearly every client of `$process-message` sends, if anything.
_PLAIN = {"async=true": [("async", "true")], "async=false": [("async", "false")]}


def parameters(request: web.Request) -> list[tuple[str, str]]:
    """The query, decoded once; a raw `+` stays one: `_format=application/fhir+xml` and instants have it (M-63)."""
    raw = request.rel_url.raw_query_string
    if not raw:
        return []
    pairs = (part.partition("=") for part in raw.split("&") if part)
    try:
        return [(unquote(n, errors="strict"), unquote(v, errors="strict")) for n, _, v in pairs]
    except UnicodeDecodeError:
        raise BadRequest("the query is not percent-encoded UTF-8", expression="http.query") from None


def parameter(request: web.Request, name: str) -> str | None:
    """The value of a parameter that may be there once."""
    values = [value for key, value in parameters(request) if key == name]
    if len(values) > 1:
        raise BadRequest(f"the parameter {name} is there {len(values)} times; give it once", expression=f"http.{name}")
    return values[0] if values else None


def preferences(request: web.Request) -> dict[str, str]:
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


def wanted(request: web.Request) -> tuple[Format, Release | None]:
    """The format and release that the caller asks for (M-51, X-61); refuses with 406 what cannot be given."""
    accept = ", ".join(request.headers.getall(hdrs.ACCEPT, ()))
    format_parameter = parameter(request, "_format")
    if format_parameter is None and accept.strip() in ("", "*/*"):
        return _format_sent(request)
    return _acceptable(accept or None, format_parameter)


_acceptable = lru_cache(maxsize=256)(acceptable)  # callers say the same with every message


def _format_sent(request: web.Request) -> tuple[Format, Release | None]:
    """X-61: who does not say gets back what he sends, and JSON where that says nothing."""
    try:
        sent = media_type(request.headers.get(hdrs.CONTENT_TYPE, ""))
    except Refusal:
        return Format.JSON, None
    return sent.format, None


def _format_for_refusal(request: web.Request) -> tuple[Format, Release | None]:
    try:
        return wanted(request)
    except Refusal:
        return _format_sent(request)


# --- answers ---------------------------------------------------------------------------------------------------------


def respond(
    request: web.Request,
    status: int,
    body: bytes,
    format: Format,
    release: Release | None = None,
    headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
) -> web.Response:
    """A resource of our own making in the answer; `release` is named where the caller pinned or asked for one."""
    content_type = f"application/fhir+{format.value}"
    if release is not None:
        content_type += f"; fhirVersion={release.value}"
    return web.Response(status=status, body=body, headers={**dict(headers), hdrs.CONTENT_TYPE: content_type})


def respond_with(
    request: web.Request,
    status: int,
    problems: Iterable[Problem],
    headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
) -> web.Response:
    """An OperationOutcome of these problems, in the caller's format."""
    format, asked = _format_for_refusal(request)
    release = asked or pinned_release(request)
    body = outcome_bytes(tuple(problems), format=format, release=release or request.app[DEFAULT_RELEASE])
    return respond(request, status, body, format, release, headers)


def respond_refused(request: web.Request, refusal: Refusal) -> web.Response:
    """A refusal in HTTP's words."""
    status = refusal.status if isinstance(refusal, HttpRefusal) else http_status(refusal)
    headers: dict[str, str] = {}
    if refusal.retry_after is not None:
        headers[hdrs.RETRY_AFTER] = str(max(1, round(refusal.retry_after)))
    return respond_with(request, status, refusal.problems, headers)


@web.middleware
async def say_what_went_wrong(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every refusal, unknown path, wrong method and bug becomes an OperationOutcome (promise 8)."""
    try:
        response = await handler(request)
    except Refusal as refusal:
        response = respond_refused(request, refusal)
    except web.HTTPException as exc:
        if exc.status < 400:
            raise
        response = _respond_http_exception(request, exc)
    except ConnectionError:
        raise  # the caller is gone; nobody reads an answer
    except Exception as exc:
        log_bug(exc)
        response = respond_with(request, 500, [BUG])
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
    return respond_with(request, exc.status, [problem], headers)


# --- listening -------------------------------------------------------------------------------------------------------


def server_context(tls: Tls) -> ssl.SSLContext:
    """TLS for a listener: 1.2 at least (X-1), client certificates as the block says."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(tls.cert, tls.key)
    if tls.client is not ClientCertificate.OFF:
        if tls.client_ca is None:
            raise ValueError(f"tls: client: {tls.client} needs client_ca, the authorities to check against")
        context.load_verify_locations(cafile=tls.client_ca)
        required = tls.client is ClientCertificate.REQUIRED
        context.verify_mode = ssl.CERT_REQUIRED if required else ssl.CERT_OPTIONAL
    return context


class _Connection(RequestHandler):
    """A connection that answers what is not HTTP in FHIR's words too, and says nothing of what serves it."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if request.writer.output_size > 0:
            raise ConnectionError("part of an answer was sent already")
        if status >= 500:
            if exc is not None:
                log_bug(exc)
            problem = BUG
        else:
            log.info("not HTTP from %s: %s", request.remote, type(exc).__name__)
            problem = Problem(code="structure", id="not-http", text="the request is not HTTP/1.1 that can be read")
        body = outcome_bytes((problem,), format=Format.JSON, release=Release.R4)
        headers = {hdrs.CONTENT_TYPE: "application/fhir+json", hdrs.SERVER: "fhir-broker"}
        response = web.Response(status=status, body=body, headers=headers)
        response.force_close()
        return response


class _Server(web.Server):
    def __call__(self) -> RequestHandler:
        return _Connection(self, loop=self._loop, **self._kwargs)


class Runner(web.AppRunner):
    """Runs an application on any number of listeners; a caller that goes away cancels its handler."""

    __slots__ = ("listening",)

    def __init__(self, app: web.Application, *, drain: float = 10.0) -> None:
        super().__init__(
            app,
            handler_cancellation=True,
            access_log=None,  # a request line is as sensitive as a payload
            auto_decompress=False,  # compressed bodies are unpacked by who knows the limit
            max_field_size=LONGEST_FIELD,
            max_line_size=LONGEST_LINE,
            keepalive_timeout=IDLE,
            lingering_time=LINGER,
            shutdown_timeout=drain,
        )
        self.listening: list[str] = []

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        return _Server(
            made.request_handler,
            request_factory=made.request_factory,
            handler_cancellation=made.handler_cancellation,
            **made._kwargs,
        )

    async def listen(self, listen: str, tls: Tls | None = None) -> str:
        """Listens on host:port or unix:PATH; returns it with the real port."""
        if self.server is None:
            await self.setup()
        context = server_context(tls) if tls else None
        if listen.startswith("unix:"):
            path = listen.removeprefix("unix:")
            await web.UnixSite(self, path, ssl_context=context).start()
            os.chmod(path, 0o660)
            self.listening.append(listen)
            return listen
        host, port = host_and_port(listen)
        before = len(self.addresses)
        await web.TCPSite(self, host or None, port, ssl_context=context, backlog=BACKLOG).start()
        self.listening.append(_shown(self.addresses[before]))
        return self.listening[-1]

    async def listen_on(self, inherited: socket.socket, listen: str, tls: Tls | None = None) -> str:
        """Listens on a socket that the service manager has opened; it must be what the configuration says."""
        bound = _shown(inherited.getsockname())
        if not _is_same(listen, bound):
            raise ValueError(
                f"the socket that was handed down listens on {bound}, the configuration says {listen}:"
                " what it says of TLS and of who may come in is meant for that"
            )
        if self.server is None:
            await self.setup()
        context = server_context(tls) if tls else None
        await web.SockSite(self, inherited, ssl_context=context, backlog=BACKLOG).start()
        self.listening.append(bound)
        return bound


async def listen(app: web.Application, listen: str, tls: Tls | None = None) -> Runner:
    """Serves the application; `runner.listening[0]` says where, `runner.cleanup()` ends it."""
    runner = Runner(app)
    try:
        await runner.listen(listen, tls)
    except BaseException:
        await runner.cleanup()
        raise
    return runner


def _shown(bound: Any) -> str:
    """What `getsockname` says, as it is written in the configuration."""
    if not isinstance(bound, tuple):
        return f"unix:{os.fsdecode(bound)}"
    host = f"[{bound[0]}]" if ":" in str(bound[0]) else bound[0]
    return f"{host}:{bound[1]}"


def _is_same(listen: str, bound: str) -> bool:
    if listen.startswith("unix:") or bound.startswith("unix:"):
        return listen == bound
    (host, port), (bound_host, bound_port) = host_and_port(listen), host_and_port(bound)
    names = ("127.0.0.1", "::1") if host.lower() == "localhost" else (host,)
    return port in (0, bound_port) and bound_host in names


def host_and_port(text: str) -> tuple[str, int]:
    """ "127.0.0.1:8080", "[::1]:0", ":8080" as host and port."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{text!r} is not host:port or unix:PATH")
    return host.removeprefix("[").removesuffix("]"), int(port)
