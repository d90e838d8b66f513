"""The file of the embedded store: one process holds it, one thread writes it, some read it."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import secrets
import shutil
import sqlite3
import stat
import threading
import time
from asyncio import Future
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from broker.store import Kept, Settled, StoreError
from broker.store.bodies import Bodies
from broker.store.log import MAX_WAL, Log, connect
from broker.store.reader import Reader
from broker.store.rows import micros
from broker.store.schema import prepare
from broker.store.tally import Tally
from broker.store.writer import Writer, Written

log = logging.getLogger("broker.store")

T = TypeVar("T")
FREE_FOR = 0.2  # seconds that a look at the disk is good for: asking costs more than a message may
READERS = 2  # threads: more would only wait for the same disk and the same interpreter


def _ignore(_seconds: float, _operations: int) -> None:
    """Nobody counts commits."""


def _claim(path: Path) -> int:
    """Holds the store for this process until the descriptor is closed: two writers would give positions twice."""
    # a file of its own: closing any descriptor of the database would drop SQLite's own locks
    lock = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise OSError(
            f"the store {path} is in use by another broker: stop that one, or give this one a store of its own"
        ) from None
    return lock


def _keep_private(path: Path, bodies: Path) -> None:
    """Nobody else reads what is about patients, or the secrets that subscribers gave us; their group may, once allowed.

    SQLite gives its other files the mode that this one has when it makes them.
    """
    # only a new one is opened: closing any descriptor of the database would drop SQLite's own locks
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    for each in (path, path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm"), bodies):
        with suppress(FileNotFoundError):
            mode = stat.S_IMODE(each.stat().st_mode)
            if mode & stat.S_IRWXO:
                try:
                    each.chmod(mode & ~stat.S_IRWXO)
                except PermissionError:
                    log.warning("others may read %s, which is not ours to change: chmod o= %s", each, each)


class SqliteFile:
    """Opens `path`, creating it when missing; raises ValueError for a file of a newer release, OSError for the rest."""

    def __init__(
        self,
        path: Path,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        max_wal: int = MAX_WAL,
        committed: Callable[[float, int], None] = _ignore,
    ) -> None:
        self._path = path
        self._free, self._look_again = 0, 0.0
        path.parent.mkdir(parents=True, exist_ok=True)
        self.bodies = Bodies(path.with_name(path.name + ".bodies"))
        self._lock = _claim(path)
        try:
            _keep_private(path, self.bodies.folder)
            self._key = self._prepare()
        except BaseException:
            os.close(self._lock)
            raise
        self._loop = asyncio.get_running_loop()
        self._writer = Writer(
            path, self._loop, clock=lambda: micros(now()), log=Log(path, largest=max_wal), committed=committed
        )
        self._local = threading.local()
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="store-reader")
        self._files = ThreadPoolExecutor(READERS, thread_name_prefix="store-files")
        self._counter = ThreadPoolExecutor(1, thread_name_prefix="store-counter")
        self._tally = Tally(partial(self._read, on=self._counter))

    def _prepare(self) -> bytes:
        """Tables of today and no files too many; returns the store's own key."""
        with closing(connect(self._path)) as db:
            prepare(db, secrets.token_bytes(32))
            self._remove_orphans(db)
            key: bytes = db.execute("SELECT value FROM meta WHERE name = 'key'").fetchone()[0]
            return key

    def _remove_orphans(self, db: sqlite3.Connection) -> None:
        """A crash between a body and the row that would name it leaves a file that nobody will ever read."""
        names = self.bodies.names()
        if names:
            names -= {row[0] for row in db.execute("SELECT file FROM message WHERE file IS NOT NULL")}
        for name in names:
            self.bodies.remove(name)

    @property
    def key(self) -> bytes:
        return self._key

    def free(self) -> int:
        """Bytes left on the store's file system, as of a moment ago."""
        now = time.monotonic()
        if now >= self._look_again:
            self._free = shutil.disk_usage(self._path.parent).free
            self._look_again = now + FREE_FOR
        return self._free

    def wal(self) -> int:
        """Bytes of SQLite's log, as of the last commit or checkpoint."""
        return self._writer.log.size

    def cannot_write(self) -> str | None:
        return self._writer.cannot_write()

    def backlog(self) -> int:
        """Operations that wait for the writer."""
        return self._writer.backlog()

    # -- for the operations

    def _with_file(self, body: bytes, operation: Callable[..., Any], what: Any, *, must: bool) -> Future[Any]:
        """A large body goes to its own file first, outside the loop and the writer."""
        job = Written(loop=self._loop)
        written = self._loop.run_in_executor(self._files, self.bodies.write, body)

        def then(written: Future[str]) -> None:
            error = written.exception()
            if error is not None:
                if not job.done():
                    job.set_exception(StoreError(f"the body cannot be written: {error}"))
                return
            file = written.result()
            job.add_done_callback(partial(self._tidy, file))
            self._writer.put(job, operation, (what, file), must=must)

        written.add_done_callback(then)
        return job

    def _tidy(self, file: str, done: Future[Any]) -> None:
        """A file that no row came to name goes; where that is not known, it goes at the next start."""
        if done.cancelled():
            return
        result = done.result() if done.exception() is None else None
        if not isinstance(result.came if isinstance(result, Settled) else result, Kept):
            with suppress(RuntimeError):  # closing: it goes at the next start
                self._files.submit(self.bodies.remove, file)

    async def _read(self, function: Callable[..., T], *arguments: Any, on: ThreadPoolExecutor | None = None) -> T:
        await self._writer.settled()
        try:
            return await self._loop.run_in_executor(on or self._readers, self._on_reader, function, arguments)
        except sqlite3.Error as error:
            raise StoreError(f"the store cannot be read: {error}") from error

    def _on_reader(self, function: Callable[..., T], arguments: tuple[Any, ...]) -> T:
        if not hasattr(self._local, "reader"):
            self._local.reader = Reader(connect(self._path), self.bodies, self._writer.claims)
        with suppress(FileNotFoundError):  # retention took a large body away between its row and its file: look again
            return function(self._local.reader, *arguments)
        return function(self._local.reader, *arguments)

    async def close(self) -> None:
        """Writes what is queued, then closes; readers finish what they read."""
        await asyncio.to_thread(self._files.shutdown)
        await asyncio.sleep(0)  # large bodies that have just been written are put in their own turn
        self._writer.end()
        await asyncio.to_thread(self._writer.close)
        await asyncio.to_thread(self._readers.shutdown)
        await asyncio.to_thread(self._counter.shutdown)
        os.close(self._lock)
