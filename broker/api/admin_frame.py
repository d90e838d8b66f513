"""The frame of the admin interface: whom it answers, errors and answers as JSON, parameters.

It has no passwords in this release: it listens on loopback or a Unix socket. So it takes care that no web page can
reach it through the operator's own browser.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

import orjson
from aiohttp import hdrs, web

from broker.core.fhir.outcomes import http_status
from broker.core.outcome import Refusal
from broker.store import StoreError
from broker.web import log_bug

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
PREFIX = "/admin/v1"
UNSAFE = frozenset({"POST", "PUT", "PATCH", "DELETE"})


class AdminError(Exception):
    """What was asked cannot be done; said as `{"error": {"id", "text"}}`."""

    def __init__(self, status: int, id: str, text: str) -> None:
        super().__init__(text)
        self.status, self.id, self.text = status, id, text


def as_json(value: Any, status: int = 200) -> web.Response:
    """An answer; times in UTC, enums as their values."""
    body = orjson.dumps(value, option=orjson.OPT_UTC_Z | orjson.OPT_NON_STR_KEYS)
    headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
    return web.Response(status=status, body=body, content_type="application/json", headers=headers)


def refused(error: AdminError) -> web.Response:
    return as_json({"error": {"id": error.id, "text": error.text}}, error.status)


@web.middleware
async def in_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Whatever goes wrong is answered in JSON, and says what to do."""
    try:
        _guard(request)
        return await handler(request)
    except AdminError as error:
        return refused(error)
    except Refusal as refusal:
        return refused(AdminError(http_status(refusal), refusal.problem.id, refusal.problem.text))
    except StoreError as error:
        return refused(AdminError(503, "store-unavailable", f"the store does not answer: {error}; try again later"))
    except web.HTTPException as exc:
        if exc.status < 400:
            raise
        return _refused_by_router(exc)
    except ConnectionError:
        raise  # the caller is gone
    except Exception as exc:
        log_bug(exc)
        text = "the broker failed over this request; the fault is ours and is logged"
        return refused(AdminError(500, "internal-error", text))


def _refused_by_router(exc: web.HTTPException) -> web.Response:
    if isinstance(exc, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(exc.allowed_methods))
        response = refused(AdminError(405, "method-not-allowed", f"this path takes {allowed}"))
        response.headers[hdrs.ALLOW] = allowed
        return response
    if exc.status == 404:
        text = f"nothing is served on this path; {PREFIX}/openapi.json lists all that is"
        return refused(AdminError(404, "unknown-path", text))
    return refused(AdminError(exc.status, "bad-request", exc.reason))


def _guard(request: web.Request) -> None:
    """Refuses what comes from a web page: its origin is another, or a name that was rebound to loopback."""
    origin = request.headers.get(hdrs.ORIGIN)
    if origin is not None and urlsplit(origin).netloc != request.host:
        raise AdminError(403, "foreign-origin", "the admin interface does not answer to other web pages")
    if request.method in UNSAFE and request.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
        raise AdminError(403, "foreign-origin", "the admin interface does not answer to other web pages")
    if _is_loopback(_own_address(request)) and not _names_loopback(request.host):
        text = "the admin interface listens on loopback: ask for it as 127.0.0.1, [::1] or localhost"
        raise AdminError(421, "foreign-host", text)


def _own_address(request: web.Request) -> str:
    """The IP that the request came in at; empty for a Unix socket, which no browser reaches."""
    name = request.transport.get_extra_info("sockname") if request.transport is not None else None
    return str(name[0]) if isinstance(name, tuple) else ""


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def _names_loopback(host: str) -> bool:
    name = urlsplit(f"//{host}").hostname or ""
    return name == "localhost" or _is_loopback(name)


def text_of(request: web.Request, name: str) -> str | None:
    """A parameter that may be there once."""
    values = request.query.getall(name, [])
    if len(values) > 1:
        raise AdminError(400, "bad-request", f"the parameter {name} is there {len(values)} times; give it once")
    return values[0] if values else None


def number_of(request: web.Request, name: str, default: int, *, least: int = 0, most: int = (1 << 62)) -> int:
    """A whole number; one that is too large is taken as the most."""
    text = text_of(request, name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit()) or len(text) > 19 or int(text) < least:
        raise AdminError(400, "bad-request", f"the parameter {name} must be a whole number, at least {least}")
    return min(int(text), most)


async def body_of(request: web.Request, largest: int) -> bytes:
    """The body, bounded."""
    if request.headers.get(hdrs.CONTENT_ENCODING, "identity").lower() != "identity":
        raise AdminError(415, "unsupported-coding", "send the body uncompressed")
    parts, size = [], 0
    async for chunk in request.content.iter_any():
        size += len(chunk)
        if size > largest:
            raise AdminError(413, "too-large", f"the body is larger than {largest} bytes")
        parts.append(chunk)
    return b"".join(parts)


async def object_of(request: web.Request) -> dict[str, Any]:
    """A JSON object in the body; an empty body is an empty one."""
    body = await body_of(request, 1 << 20)
    if not body.strip():
        return {}
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise AdminError(400, "bad-request", f"the body is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise AdminError(400, "bad-request", "the body must be a JSON object")
    return value
