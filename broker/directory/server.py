"""Reads a FHIR server as a source: all of it, or what changed since; keeps the last good answer (A-24 … A-27)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from enum import Enum
from random import random
from urllib.parse import quote

import msgspec
import orjson
import structlog
from yarl import URL

from broker.directory.bundles import Page, Resource
from broker.directory.fetching import Fetching, NotRead
from broker.directory.last_good import LastGood
from broker.directory.source import Limits, ServerSource

log = structlog.get_logger("broker.directory")

COUNT = 500  # resources asked for in one page
FULL_AGAIN = timedelta(days=1)  # after this long all is read, whatever the server says has changed
OVERLAP = timedelta(seconds=10)  # what changed just before the last reading may have been committed after it
SOON = timedelta(seconds=1)  # first wait after a failure; it doubles
UNKNOWN_AGAIN = timedelta(seconds=15)  # the longest wait while nothing is known: senders are refused meanwhile
JITTER = 0.1  # of a wait, so that many brokers do not ask at once
NEEDED = ("Endpoint", "Organization")
# Read where the server says that it has them. PractitionerRole only where it is asked for: it is about persons.
OFFERED = ("HealthcareService", "Location", "OrganizationAffiliation")
# What a server says of a type, or of a way to ask, that it does not have.
_NOT_THERE = frozenset({400, 404, 405, 410, 422, 501})


class Freshness(Enum):
    """What a server's content is worth."""

    UNKNOWN = "unknown"  # never read, and no copy: nobody can say whom it knows
    STALE = "stale"  # the last good one, since the last reading failed or none was made yet
    FRESH = "fresh"


class SourceState(msgspec.Struct, frozen=True, kw_only=True):
    """A source for operators."""

    source: str
    freshness: Freshness
    resources: int
    read_at: datetime | None
    age: float | None  # seconds since it was last read well
    problem: str | None


class _Offer(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked of this server."""

    types: tuple[str, ...]
    history: bool = False  # of every one of them (ITI-91)


class FhirServer:
    """One server. `resources` is what it last said; a new tuple each time that is something else."""

    def __init__(
        self,
        source: ServerSource,
        copy: LastGood | None = None,
        *,
        limits: Limits | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        dice: Callable[[], float] = random,
    ) -> None:
        self.source = source
        self.resources: tuple[Resource, ...] = ()
        self.freshness = Freshness.UNKNOWN
        self.read_at: datetime | None = None
        self.problem: str | None = None
        self._limits = limits or Limits()
        self._copy, self._now, self._dice = copy, now, dice
        self._fetching = Fetching(source, self._limits)
        self._held: dict[str, Resource] = {}
        self._offer: _Offer | None = None
        self._since: datetime | None = None  # the server's time of the last reading; None: all has to be read
        self._full_at: datetime | None = None
        self._failures = 0
        self._retry_after: float | None = None
        self._asked = asyncio.Event()
        self._waiters: list[asyncio.Future[None]] = []

    @property
    def state(self) -> SourceState:
        age = (self._now() - self.read_at).total_seconds() if self.read_at else None
        return SourceState(
            source=self.source.shown, freshness=self.freshness, resources=len(self.resources), read_at=self.read_at,
            age=None if age is None else max(age, 0.0), problem=self.problem,
        )  # fmt: skip

    def load_copy(self) -> None:
        """What it said before we were started; blocks on the file."""
        if self._copy is None or self.freshness is not Freshness.UNKNOWN:
            return
        try:
            found = self._copy.load(file=self.source.shown, foreign=self.source.foreign)
        except ValueError as error:
            self.problem = str(error)
            log.warning("directory", source=self.source.shown, problem=str(error))
            return
        if found is not None:
            self._held, self.read_at = found
            self.resources = tuple(self._held.values())
            self.freshness = Freshness.STALE

    # -- when

    async def run(self, refresh: timedelta, read: Callable[[], Awaitable[None]]) -> None:
        """Reads every `refresh`, for ever, sooner after a failure; `read` hears of each reading. The caller owns it."""
        while True:
            self._asked.clear()
            waiters, self._waiters = self._waiters, []
            await self.read()
            await read()
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)
            with suppress(TimeoutError):
                async with asyncio.timeout(self.pause(refresh)):
                    await self._asked.wait()

    async def ask(self) -> None:
        """Has it read now, by `run`; returns once that has been done."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        self._asked.set()
        await waiter

    def pause(self, refresh: timedelta) -> float:
        """Seconds until the next reading."""
        wait = refresh
        if self._failures:
            longest = min(refresh, UNKNOWN_AGAIN) if self.freshness is Freshness.UNKNOWN else refresh
            wait = min(SOON * 2 ** min(self._failures - 1, 30), longest)
        seconds = wait.total_seconds() * (1 + JITTER * (2 * self._dice() - 1))
        return max(seconds, self._retry_after or 0.0)

    # -- reading

    async def read(self) -> bool:
        """Reads it once; whether it says something else than before. What goes wrong is in `problem`."""
        self._fetching.begin()
        try:
            async with asyncio.timeout(self._limits.time.total_seconds()):
                return await self._read()
        except NotRead as error:
            self._failed(str(error), error.retry_after)
        except TimeoutError:
            self._failed(f"it could not be read within {self._limits.time}", None)
        except Exception:  # a bug that a server's answer brings to light costs this reading, and not the broker
            log.exception("a source could not be read", source=self.source.shown)
            self._failed("it could not be read, for a reason that is ours; the log says which", None)
        return False

    def _failed(self, why: str, retry_after: float | None) -> None:
        self._failures += 1
        self._retry_after = retry_after
        self.problem = why
        if self.freshness is Freshness.FRESH:
            self.freshness = Freshness.STALE

    async def _read(self) -> bool:
        started = self._now()
        full = not self._increments(started)
        if not full:
            try:
                found, since = await self._changes()
            except NotRead as error:
                if error.status is None:
                    raise
                full, self._offer = True, None  # it does not keep what it offered: as if for the first time
        if full:
            found, since = await self._all()
            self._full_at = started
        held, changed = await asyncio.to_thread(self._compared, found)
        first = self.freshness is Freshness.UNKNOWN
        if changed:
            self._held, self.resources = held, tuple(held.values())
        self._since, self.read_at = since, started
        self.freshness, self.problem = Freshness.FRESH, None
        self._failures, self._retry_after = 0, None
        await asyncio.to_thread(self._keep, started, changed or first)
        return changed or first

    def _increments(self, now: datetime) -> bool:
        return (
            self._offer is not None
            and self._offer.history
            and self._since is not None
            and self._full_at is not None
            and timedelta(0) <= now - self._full_at < FULL_AGAIN
        )

    def _compared(self, found: dict[str, Resource]) -> tuple[dict[str, Resource], bool]:
        """What is as before stays the very same object, which whoever compares next knows at a glance."""
        before = self._held
        held: dict[str, Resource] = {}
        same = 0
        for key, one in found.items():
            old = before.get(key)
            if old is not None and (old is one or (old.raw == one.raw and old.url == one.url)):
                held[key] = old
                same += 1
            else:
                held[key] = one
        return held, not same == len(held) == len(before)

    def _keep(self, read_at: datetime, changed: bool) -> None:
        if self._copy is None:
            return
        try:
            if changed:
                self._copy.save(self._held.items(), len(self._held), read_at)
            else:
                self._copy.confirm(read_at)
        except OSError as error:  # it is known, only a restart would not know it
            text = f"its last good copy cannot be written: {error.strerror}"
            self.problem = text

    # -- all of it

    async def _all(self) -> tuple[dict[str, Resource], datetime]:
        self._offer = offer = await self._ask_offer()
        asked: set[str] = set()
        found: dict[str, Resource] = {}
        since: datetime | None = None
        included = False
        for kind in offer.types:
            query = f"_count={COUNT}"
            if included and kind == "Organization":
                query += "&_include=Organization:endpoint"
            try:
                async for page in self._pages(f"{kind}?{query}", asked):
                    since = since or self._time_of(page)
                    found.update((key, one) for key, one in page.changes if one is not None)
                    self._count(len(found))
            except NotRead as error:
                if error.status not in _NOT_THERE or kind == "Organization":
                    raise
                included = included or kind == "Endpoint"  # they come with who they belong to, or not at all
        self._fetching.keep_only(asked)
        return found, since or self._now() - OVERLAP

    async def _ask_offer(self) -> _Offer:
        """From the CapabilityStatement; a server that has none is asked for what every directory has."""
        types = self.source.types
        try:
            statement = orjson.loads(await self._fetching.document(self._url("metadata")))
            rest = statement.get("rest", [{}])[0].get("resource", [])
            has = {str(one.get("type")): one for one in rest if isinstance(one, dict)}
        except NotRead as error:
            if error.status is None or error.status in (429, 503):
                raise
            return _Offer(types=types or NEEDED)
        except (orjson.JSONDecodeError, AttributeError, IndexError, KeyError, TypeError):
            return _Offer(types=types or NEEDED)
        types = types or (*NEEDED, *(kind for kind in OFFERED if kind in has))
        return _Offer(types=types, history=all(_keeps_history(has.get(kind)) for kind in types))

    # -- what changed

    async def _changes(self) -> tuple[dict[str, Resource], datetime]:
        """ITI-91: the histories of all types since the last reading, deletions among them (A-26)."""
        assert self._offer is not None
        assert self._since is not None
        found = dict(self._held)
        since: datetime | None = None
        moment = quote(self._since.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), safe="")
        for kind in self._offer.types:
            changed: dict[str, Resource | None] = {}
            async for page in self._pages(f"{kind}/_history?_since={moment}&_count={COUNT}", set()):
                since = since or self._time_of(page)
                for key, one in page.changes:  # newest first: what follows of the same resource is older
                    changed.setdefault(key, one)
                    self._count(len(changed))
            for key, now in changed.items():
                if now is None:
                    found.pop(key, None)
                else:
                    found[key] = now
        return found, since or self._since

    def _count(self, number: int) -> None:
        if number > self._limits.resources:
            raise NotRead(f"it has more than {self._limits.resources} resources")

    async def _pages(self, path: str, asked: set[str]) -> AsyncIterator[Page]:
        url, seen = self._url(path), set[str]()
        while True:
            if str(url) in seen:
                raise NotRead(f"its pages go round in a circle, after {len(seen)}")
            if len(seen) >= self._limits.pages:
                raise NotRead(f"it has more than {self._limits.pages} pages")
            seen.add(str(url))
            asked.add(str(url))
            page = await self._fetching.page(url)
            yield page
            if page.next is None:
                return
            url = self._fetching.follow(url, page.next)

    def _url(self, path: str) -> URL:
        return URL(f"{self.source.url}/{path}", encoded=True)

    def _time_of(self, page: Page) -> datetime:
        """By the server's own clock, since it is asked by that."""
        moment = None
        if page.updated is not None:
            with suppress(ValueError):
                moment = datetime.fromisoformat(page.updated)
        if moment is None or moment.tzinfo is None:
            moment = self._fetching.date or self._now()
        return moment - OVERLAP

    async def close(self) -> None:
        await self._fetching.close()


def _keeps_history(resource: object) -> bool:
    interactions: Iterable[object] = resource.get("interaction", ()) if isinstance(resource, dict) else ()
    return any(isinstance(one, dict) and one.get("code") == "history-type" for one in interactions)
