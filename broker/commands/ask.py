"""Asks the running broker over its admin interface."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote, urlencode

import aiohttp
import orjson
from yarl import URL

from broker.commands.ends import Ended, Exit

PREFIX = "/admin/v1"
LIMIT = 60.0  # seconds for one answer


class Daemon:
    """The admin interface of one broker."""

    def __init__(self, where: str, session: aiohttp.ClientSession) -> None:
        self.where = where
        self._base = "http://localhost" if where.startswith("unix:") else where
        self._session = session

    async def get(self, *path: str, **query: object) -> Any:
        return _read(*await self._ask("GET", path, query))

    async def post(self, *path: str, json: object = None, **query: object) -> Any:
        body = None if json is None else orjson.dumps(json)
        headers = {"Content-Type": "application/json"}
        return _read(*await self._ask("POST", path, query, body, headers))

    async def send(self, *path: str, body: bytes, content_type: str, **query: object) -> Any:
        return _read(*await self._ask("POST", path, query, body, {"Content-Type": content_type}))

    async def fetch(self, *path: str) -> bytes:
        status, body = await self._ask("GET", path, {})
        if status != 200:
            _read(status, body)
        return body

    async def _ask(
        self,
        method: str,
        path: tuple[str, ...],
        query: Mapping[str, object],
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, bytes]:
        url = self._base + PREFIX + "".join(f"/{quote(part, safe='')}" for part in path)
        said = {name: value for name, value in query.items() if value is not None}
        if said:
            url += "?" + urlencode(said)
        try:
            asked = self._session.request(
                method, URL(url, encoded=True), data=body, headers=headers, allow_redirects=False
            )
            async with asked as answer:
                return answer.status, await answer.read()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise unreachable(self.where, error) from None


def unreachable(where: str, error: BaseException) -> Ended:
    why = "it does not answer in time" if isinstance(error, TimeoutError) else str(error) or type(error).__name__
    text = f"cannot reach the broker at {where}: {why}; is it running (`fhir-broker run`), and is this its address?"
    return Ended(Exit.UNREACHABLE, text)


def _read(status: int, body: bytes) -> Any:
    """The answer, or the end of the command where it is an error."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        value = None
    if 200 <= status <= 300 and isinstance(value, dict):
        return value
    error = value.get("error") if isinstance(value, dict) else None
    if not isinstance(error, dict):
        raise Ended(Exit.FAILED, f"what answers there is no fhir-broker of this release (HTTP {status})")
    code = Exit.FAILED if status in (404, 410) else Exit.REFUSED
    raise Ended(code, f"{error.get('text')} ({error.get('id')})")


@asynccontextmanager
async def daemon(where: str) -> AsyncIterator[Daemon]:
    async with session(where) as opened:
        yield Daemon(where, opened)


@asynccontextmanager
async def session(where: str = "", limit: float | None = LIMIT) -> AsyncIterator[aiohttp.ClientSession]:
    """A client that follows nothing and remembers nothing."""
    connector = aiohttp.UnixConnector(where.removeprefix("unix:")) if where.startswith("unix:") else None
    timeout = aiohttp.ClientTimeout(total=limit, sock_connect=10)
    async with aiohttp.ClientSession(
        connector=connector, timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()
    ) as opened:
        yield opened


def asking(where: str, work: Callable[[Daemon], Awaitable[Any]]) -> Any:
    """Runs one conversation with the broker."""

    async def all_of_it() -> Any:
        async with daemon(where) as opened:
            return await work(opened)

    return asyncio.run(all_of_it())
