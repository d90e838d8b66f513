"""Asks a FHIR server for one page at a time: every answer is bounded, and leads nowhere but where it began."""

from __future__ import annotations

import asyncio
import os
import ssl
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import NamedTuple

import aiohttp
from yarl import URL

from broker.core.addressing import shown
from broker.directory.bundles import Page, read_page
from broker.directory.source import Limits, ServerSource
from broker.directory.written import Unreadable

_ACCEPT = "application/fhir+json, application/json+fhir;q=0.9, application/json;q=0.8"
_JSON = frozenset({"application/fhir+json", "application/json+fhir", "application/json"})
_LONGEST_WAIT = 3600.0  # seconds of a Retry-After that are honoured
_MOST_REMEMBERED = 2_000  # pages with an ETag, for conditional requests


class NotRead(Exception):
    """The server could not be read; the text says why and, where somebody can, what to do."""

    def __init__(self, text: str, *, status: int | None = None, retry_after: float | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.retry_after = retry_after


class _Remembered(NamedTuple):
    etag: str
    page: Page


class Fetching:
    """The client of one server: one session, made when it is first needed."""

    def __init__(self, source: ServerSource, limits: Limits) -> None:
        self._source = source
        self._limits = limits
        self._base = URL(source.url, encoded=True)
        self._session: aiohttp.ClientSession | None = None
        self._remembered: dict[str, _Remembered] = {}
        self.date: datetime | None = None  # the server's own clock, as it last said
        self.read = 0  # bytes, since `begin`

    def begin(self) -> None:
        self.read = 0

    async def page(self, url: URL) -> Page:
        """One Bundle; what the server says has not changed since is not read again."""
        known = self._remembered.get(str(url))
        answer = await self._get(url, known.etag if known else None)
        if answer is None:
            assert known is not None, "only who sent an ETag is told that nothing changed"
            return known.page
        body, etag = answer
        try:
            page = await asyncio.to_thread(
                read_page, body, file=self._source.shown, base=self._source.url, foreign=self._source.foreign
            )
        except Unreadable as error:
            raise NotRead(f"{shown(str(url))}: {error}") from None
        if etag and len(self._remembered) < _MOST_REMEMBERED:
            self._remembered[str(url)] = _Remembered(etag, page)
        return page

    async def document(self, url: URL) -> bytes:
        """A resource that is no Bundle."""
        answer = await self._get(url, None)
        assert answer is not None, "nothing was said of an ETag"
        return answer[0]

    def keep_only(self, asked: set[str]) -> None:
        """Forgets pages that were not asked for this time: their links do not come again."""
        self._remembered = {url: page for url, page in self._remembered.items() if url in asked}

    def follow(self, page: URL, link: str) -> URL:
        """Where a `next` leads; only to the server that we asked (A-27)."""
        try:
            url = page.join(URL(link, encoded=True))
            inside = url.origin() == self._base.origin() and url.user is None
        except ValueError:
            raise NotRead(f"the next page's link is no URL: {shown(link)!r}") from None
        if not inside:
            raise NotRead(
                f"the next page is said to be at {shown(str(url.with_query(None).with_user(None)))!r}, another server; "
                "such links are not followed: name the server as it names itself, or correct its base URL"
            )
        return url

    async def _get(self, url: URL, etag: str | None) -> tuple[bytes, str] | None:
        # no-cache: what a server or a proxy remembers of an older search would hide what changed since
        headers = {"Accept": _ACCEPT, "Cache-Control": "no-cache", **dict(self._source.headers)}
        if etag:
            headers["If-None-Match"] = etag
        limits = self._limits
        timeout = aiohttp.ClientTimeout(
            total=limits.answer.total_seconds(), sock_connect=limits.connect.total_seconds()
        )
        try:
            async with self._open().get(url, headers=headers, allow_redirects=False, timeout=timeout) as response:
                self._note_date(response)
                if response.status == 304 and etag:
                    return None
                _check(response)
                return await self._body(response), response.headers.get("ETag", "")
        except TimeoutError:
            raise NotRead(f"{shown(str(url))}: no answer in time") from None
        except aiohttp.ClientConnectorCertificateError:
            raise NotRead("its certificate is not valid for its host; `ca` names an authority to believe") from None
        except (aiohttp.ClientError, OSError, ssl.SSLError, ValueError) as error:
            raise NotRead(f"{shown(str(url))}: {_said(error)}") from None

    async def _body(self, response: aiohttp.ClientResponse) -> bytes:
        limit = self._limits.page
        parts: list[bytes] = []
        size = 0
        async for part in response.content.iter_chunked(256 * 1024):
            size += len(part)
            self.read += len(part)
            if size > limit:
                raise NotRead(f"a page is larger than {limit} bytes")
            if self.read > self._limits.whole:
                raise NotRead(f"all pages together are larger than {self._limits.whole} bytes")
            parts.append(part)
        return b"".join(parts)

    def _note_date(self, response: aiohttp.ClientResponse) -> None:
        try:
            date = parsedate_to_datetime(response.headers.get("Date", ""))
        except ValueError:
            return
        self.date = date if date.tzinfo else date.replace(tzinfo=UTC)

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            source = self._source
            context = ssl.create_default_context(cafile=source.ca)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            if source.cert is not None:
                context.load_cert_chain(source.cert, source.key)
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=context, limit=2),
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
            )
        return self._session

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None


def _check(response: aiohttp.ClientResponse) -> None:
    status, where = response.status, shown(str(response.url))
    if 300 <= status < 400:
        there = shown(response.headers.get("Location", "nowhere").partition("?")[0])
        raise NotRead(
            f"{where} answers {status}, a redirect to {there!r}; redirects are not followed: name the place itself",
            status=status,
        )
    if status in (401, 403):
        raise NotRead(f"{where} answers {status}: it does not let us read; give its `headers` a token", status=status)
    if status != 200:
        after = response.headers.get("Retry-After", "")
        wait = min(float(after), _LONGEST_WAIT) if after.isdecimal() and after.isascii() and len(after) < 9 else None
        raise NotRead(f"{where} answers {status}", status=status, retry_after=wait)
    kind = response.content_type.lower()
    if kind not in _JSON:
        raise NotRead(
            f"{where} answers with {shown(kind)} where FHIR in JSON belongs; is this its FHIR base?", status=status
        )


def _said(error: BaseException) -> str:
    """What a foreign exception says, on one line and not too long."""
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "the host's name could not be resolved"
    number = getattr(error, "errno", None)
    if isinstance(number, int) and number > 0:
        return os.strerror(number).lower()
    return shown((str(error) or type(error).__name__).splitlines()[0])
