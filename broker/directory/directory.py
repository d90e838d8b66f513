"""Keeps the current snapshot of the directory, and the last good content of every source."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from functools import partial
from pathlib import Path

from broker.directory.bundles import Resource
from broker.directory.fhir_files import read_pool
from broker.directory.files import Files
from broker.directory.last_good import LastGood
from broker.directory.problem import DirectoryProblem
from broker.directory.server import FhirServer, Freshness, SourceState
from broker.directory.snapshot import Listed, Snapshot
from broker.directory.source import ServerSource
from broker.directory.written import read_endpoints

OnProblems = Callable[[tuple[DirectoryProblem, ...]], None]
OnChange = Callable[[Snapshot, Snapshot], Awaitable[object] | object]
FIRST_READ = 3.0  # seconds that a start waits for servers that nothing is known of: most answer in less
ASKED_TO_READ = 20.0  # seconds that an operator who asks for a reading waits for servers


class Directory:
    """Endpoints of the configuration, of files and of FHIR servers.

    Order decides where two say the same name: first the configuration, then the YAML files in the order of `sources`
    (of one pattern in the order of their names), then all FHIR resources together. What cannot be read keeps its last
    good content and is reported.
    """

    def __init__(
        self,
        endpoints: Mapping[str, object] | None = None,
        sources: Sequence[str | ServerSource] = (),
        *,
        folder: Path | None = None,
        file: str = "directory.endpoints",
        lines: Mapping[str, int] | None = None,
        copies: Path | None = None,
    ) -> None:
        """`folder`: where relative sources start; `file` and `lines`: where the configuration says `endpoints`;
        `copies`: where the last good answers of servers are kept."""
        named = [ServerSource(url=one.rstrip("/")) if isinstance(one, str) and "://" in one else one for one in sources]
        self._files = Files([one for one in named if isinstance(one, str)], folder or Path())
        self.servers = tuple(
            FhirServer(one, LastGood(copies, one.url) if copies else None)
            for one in named
            if isinstance(one, ServerSource)
        )
        self._own = read_endpoints(endpoints or {}, file=file, lines=lines)
        self._pooled: tuple[tuple[tuple[Resource, ...], ...], tuple[Listed, ...], tuple[DirectoryProblem, ...]]
        self._pooled = ((), (), ())
        self._lock = threading.Lock()
        self._turn = asyncio.Lock()
        self._woken = 0  # deliveries that changes have made due
        self._load_problems: tuple[DirectoryProblem, ...] = self._own.problems
        self.current = Snapshot(self._own.listed, not_known=self._not_known())

    @property
    def problems(self) -> tuple[DirectoryProblem, ...]:
        """All that is wrong now."""
        unread = tuple(
            DirectoryProblem(file=server.source.shown, text=f"{server.problem}{_instead(server)}")
            for server in self.servers
            if server.problem is not None
        )
        return (*self._load_problems, *unread)

    @property
    def states(self) -> tuple[SourceState, ...]:
        """The servers, and how old is what they said."""
        return tuple(server.state for server in self.servers)

    def _not_known(self) -> tuple[str, ...]:
        return tuple(server.source.shown for server in self.servers if server.freshness is Freshness.UNKNOWN)

    # -- loading

    def load(self, *, everything: bool = False) -> Snapshot:
        """Read the files that have changed (or all), put everything together and make it current; blocks on files."""
        with self._lock:
            kept, problems = self._files.load(everything=everything)
            for server in self.servers:
                server.load_copy()
            not_known = self._not_known()
            listed: list[Listed] = list(self._own.listed)
            aliases: dict[str, str] = {}
            for one in kept:
                listed += one.content.listed
                for form, name in one.content.aliases:
                    aliases.setdefault(form, name)
                problems += one.problems
            pooled, pool_problems = self._pool((*(one.resources for one in kept), *(s.resources for s in self.servers)))
            snapshot = Snapshot((*listed, *pooled), aliases, not_known=not_known)
            _ = snapshot.version, snapshot.hosts  # here, in whatever thread this is, and not later in the event loop
            self._load_problems = (*self._own.problems, *problems, *pool_problems)
            self.current = snapshot
            return snapshot

    def _pool(self, parts: tuple[tuple[Resource, ...], ...]) -> tuple[tuple[Listed, ...], tuple[DirectoryProblem, ...]]:
        """The names of all FHIR resources; lines that say what they said stay the very same objects."""
        known, before, problems = self._pooled
        if len(known) == len(parts) and all(a is b for a, b in zip(known, parts, strict=True)):
            return before, problems
        listed, problems = read_pool(resource for part in parts for resource in part)
        old = {line.name: line for line in before}
        listed = tuple([same if (same := old.get(line.name)) == line and same else line for line in listed])
        self._pooled = (parts, listed, problems)
        return listed, problems

    async def reload(self, *, everything: bool = False) -> Snapshot:
        """The same outside the event loop."""
        return await asyncio.to_thread(partial(self.load, everything=everything))

    async def renew(
        self, on_change: OnChange | None = None, on_problems: OnProblems | None = None, *, everything: bool = False
    ) -> None:
        """Loads, and tells what is another; one after the other, so that each change is told once."""
        async with self._turn:
            old, known = self.current, self.problems
            new = await self.reload(everything=everything)
            if on_problems is not None and self.problems != known:
                on_problems(self.problems)
            if new.version != old.version and on_change is not None:
                told = on_change(old, new)
                if inspect.isawaitable(told):
                    told = await told
                self._woken += told if isinstance(told, int) else 0
            gone = [old]
            del old
            await asyncio.to_thread(gone.clear)  # to put away a hundred thousand names takes a while as well

    # -- watching

    async def start(self) -> None:
        """The first content: files, copies, and servers that answer soon."""
        await self.reload()
        unknown = [server for server in self.servers if server.freshness is Freshness.UNKNOWN]
        if not unknown:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(FIRST_READ):
                await asyncio.gather(*(server.read() for server in unknown))
        await self.reload()

    async def watch(
        self,
        interval: timedelta,
        on_change: OnChange,
        on_problems: OnProblems | None = None,
        *,
        refresh: timedelta = timedelta.max,
    ) -> None:
        """Look at the files every `interval` and at the servers every `refresh`, for ever; tell what changes.

        Every `refresh` files are read even if they look the same: not every file system tells. `on_problems` hears all
        that is wrong, each time that is something else, and once more when nothing is. The caller owns the task and
        cancels it.
        """
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch_files(interval, on_change, on_problems, refresh))
            for server in self.servers:
                tasks.create_task(self._watch_server(server, on_change, on_problems, refresh))

    async def _watch_files(
        self, interval: timedelta, on_change: OnChange, on_problems: OnProblems | None, refresh: timedelta
    ) -> None:
        since = interval
        while True:
            await asyncio.sleep(interval.total_seconds())
            everything = since >= refresh
            since = interval if everything else since + interval
            if everything or await asyncio.to_thread(self._files.is_stale):
                await self.renew(on_change, on_problems, everything=everything)

    async def _watch_server(
        self, server: FhirServer, on_change: OnChange, on_problems: OnProblems | None, refresh: timedelta
    ) -> None:
        told: object = None, ()

        async def read() -> None:
            nonlocal told
            now = server.problem, id(server.resources), server.freshness is Freshness.UNKNOWN
            if now != told:
                told = now
                await self.renew(on_change, on_problems)

        await server.run(refresh, read)

    async def refresh(self, on_change: OnChange | None = None) -> tuple[Snapshot, int]:
        """Reads every source now; the content before, and how many deliveries the change has made due.

        A server that takes long goes on being read, and what it says is told when it is there.
        """
        old, woken = self.current, self._woken
        asked = [asyncio.ensure_future(server.ask()) for server in self.servers]
        if asked:
            _, late = await asyncio.wait(asked, timeout=ASKED_TO_READ)
            for one in late:
                one.cancel()
        await self.renew(on_change, everything=True)
        return old, self._woken - woken

    async def close(self) -> None:
        for server in self.servers:
            await server.close()


def _instead(server: FhirServer) -> str:
    """What is used meanwhile."""
    if server.freshness is Freshness.UNKNOWN:
        return "; nothing is known of it yet, and names that no other source knows are refused for now"
    if server.freshness is Freshness.STALE and server.read_at is not None:
        return f"; what it said at {server.read_at:%Y-%m-%dT%H:%M:%SZ} stays in use"
    return ""
