"""A FHIR receiver over real HTTP: keeps every request as it came on the wire, and answers as it is told."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import orjson
from aiohttp import web


@dataclass(frozen=True, slots=True, kw_only=True)
class Got:
    """One request."""

    path: str
    query: str
    headers: dict[str, str]  # names in lower case
    body: bytes

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.body).hexdigest()

    @property
    def resource(self) -> dict[str, Any]:
        loaded: dict[str, Any] = orjson.loads(self.body)
        return loaded

    @property
    def bundle_id(self) -> str:
        return str(self.resource.get("id"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    after: float = 0.0


CUSTODY = Reply()
Answering = Callable[[Got], Reply | Awaitable[Reply]]


class HttpReceiver:
    """Listens on a port of its own; `answer` is what it says."""

    def __init__(self) -> None:
        self.got: list[Got] = []
        self.answer: Answering = lambda got: CUSTODY
        self._came = asyncio.Event()
        self._runner: web.AppRunner | None = None
        self.port = 0

    async def open(self, port: int = 0) -> HttpReceiver:
        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, auto_decompress=False, shutdown_timeout=0.2)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", port or self.port, reuse_address=True).start()
        self.port = self._runner.addresses[0][1]
        return self

    async def close(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/fhir/$process-message"

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        got = Got(
            path=request.path,
            query=request.query_string,
            headers={name.lower(): value for name, value in request.headers.items()},
            body=await request.read(),
        )
        self.got.append(got)
        self._came.set()
        reply = self.answer(got)
        if not isinstance(reply, Reply):
            reply = await reply
        if reply.after:
            await asyncio.sleep(reply.after)
        headers = {"Content-Type": "application/fhir+json", **reply.headers} if reply.body else reply.headers
        return web.Response(status=reply.status, body=reply.body, headers=headers)

    async def until(self, enough: Callable[[], bool], within: float = 20.0) -> None:
        """Returns when `enough`, looked at with each request that comes, says so."""
        async with asyncio.timeout(within):
            while not enough():
                self._came.clear()
                await self._came.wait()

    async def until_count(self, count: int, within: float = 20.0) -> list[Got]:
        await self.until(lambda: len(self.got) >= count, within)
        return self.got


OpenReceiver = Callable[[], Awaitable[HttpReceiver]]  # what the fixture `receiver` does
