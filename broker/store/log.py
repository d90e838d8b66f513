"""SQLite's write-ahead log: put away beside the writer, and measured, so that it cannot grow without bound.

A checkpoint copies the log into the database file. The bulk is done by a connection of its own while commits go on.
Once the log is long, the writer itself does the small rest between two groups, which lets the log start anew: it takes
a sync of the database, for which everybody waits. While something reads an old state (a backup), the log can only grow:
it is measured, and above `largest` the flow takes nothing more.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from contextlib import suppress
from pathlib import Path

log = logging.getLogger("broker.store")

SOFT = 16 << 20  # bytes; each time so much has been logged, a checkpoint runs beside the writer
LONG = 64 << 20  # bytes; from here the log is to start anew
PASSES, FEW = 8, 32  # looks at what came meanwhile, and pages of it that are left to the writer
MAX_WAL = 256 << 20  # bytes; four times what is normal, and still read in a second or two after a crash
PAUSE = 0.25  # seconds; at most four checkpoints a second: each costs the disk a sync
IDLE = 0.5  # seconds; so long at most the size is behind where nothing is written
CUT_WAITS = 50  # milliseconds that the writer may be held up when the file is cut


class Log:
    """The log of one database file. `grew` and `keep_small` are called by the writer's thread."""

    def __init__(self, path: Path, *, largest: int) -> None:
        self._path = path
        self._file = path.with_name(path.name + "-wal")
        self._soft, self._long, self._large = min(SOFT, largest // 4), min(LONG, largest // 4), largest // 2
        self._logged = 0  # bytes that went in since a checkpoint was asked for, about
        self.size = 0  # bytes of the file, as last seen
        self._wanted = threading.Event()
        self._rest = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="store-checkpoint", daemon=True)

    def start(self) -> None:
        self._measure()
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._wanted.set()
        self._thread.join()

    def grew(self, about: int) -> None:
        """A group was committed."""
        self._logged += about
        self._measure()

    def keep_small(self, db: sqlite3.Connection) -> None:
        """Between two groups: does the rest of a checkpoint, or asks for one."""
        if self._rest.is_set():
            self._rest.clear()
            try:
                db.execute("PRAGMA wal_checkpoint(PASSIVE)")
            except sqlite3.Error as error:  # a full disk: the checkpoint comes again, the writer must not end over it
                log.warning("checkpoint failed, it is tried again: %s", error)
        elif (self._logged > self._soft or self._is_large) and not self._wanted.is_set():
            self._logged = 0
            self._wanted.set()

    @property
    def _is_large(self) -> bool:
        """Larger than a log gets that starts anew as it should. A smaller file is left: to write over it is quicker."""
        return self.size > self._large

    def _measure(self) -> None:
        """By name: to open and close the file would drop the locks that SQLite holds on its own."""
        with suppress(OSError):
            self.size = self._file.stat().st_size

    def _run(self) -> None:
        db = connect(self._path)
        db.execute(f"PRAGMA busy_timeout = {CUT_WAITS}")
        page = db.execute("PRAGMA page_size").fetchone()[0]
        while not self._stopping.is_set():
            if not self._wanted.wait(timeout=IDLE):
                self._measure()
                if not self._is_large:
                    continue
            try:
                copied = _copied(db)
                if self._is_large:  # nothing may come in until it is small again: so it is not left to the writer
                    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # says "busy" while something reads an old state
                elif copied * page >= self._long:
                    _copy_on(db, copied)
                    self._rest.set()
            except sqlite3.Error as error:
                log.warning("checkpoint failed, it is tried again: %s", error)
            self._measure()
            self._stopping.wait(timeout=PAUSE)
            self._wanted.clear()
        db.close()


def _copied(db: sqlite3.Connection) -> int:
    """Copies what is logged into the database; returns the pages of the log since it started anew."""
    _busy, pages, _all = db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    return int(pages)


def _copy_on(db: sqlite3.Connection, before: int) -> None:
    """Copies what was logged while the former pages were copied, until it is little."""
    for _ in range(PASSES):
        now = _copied(db)
        if now - before < FEW:
            return
        before = now


def connect(path: Path) -> sqlite3.Connection:
    """A connection as every part of the store uses it; durable after each commit (synchronous=FULL)."""
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=256, timeout=10)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute("PRAGMA wal_autocheckpoint = 0")
    db.execute("PRAGMA cache_size = -16384")
    db.execute("PRAGMA temp_store = MEMORY")
    db.execute("PRAGMA busy_timeout = 10000")
    return db
