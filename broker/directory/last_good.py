"""Keeps what a server last said in a file beside the store, so that a restart does not depend on the server (A-27).

A file and not a table: a register may be a hundred megabytes, and the store's one writer has messages to write.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import zlib
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import orjson

from broker.directory.bundles import Resource, resource_of

_FORM = 1  # of the file; another one is not read


class LastGood:
    """The copy of one server. Its modification time says when the server last said so; all calls block."""

    def __init__(self, folder: Path, url: str) -> None:
        self._url = url
        self._path = folder / f"{hashlib.sha256(url.encode()).hexdigest()[:24]}.jsonl.gz"

    def load(self, *, file: str, foreign: bool) -> tuple[dict[str, Resource], datetime] | None:
        """What was kept, by key, and when it was read; None where there is none, ValueError for one that is damaged."""
        found: dict[str, Resource] = {}
        try:
            read_at = datetime.fromtimestamp(self._path.stat().st_mtime, UTC)
            with gzip.open(self._path, "rb") as lines:
                head = orjson.loads(lines.readline())
                if head.get("form") != _FORM or head.get("url") != self._url:
                    return None
                for line in lines:  # one by one: the interpreter is wanted elsewhere, too
                    key, url, body = orjson.loads(line)
                    found[key] = resource_of(body, url, file, foreign=foreign)
        except FileNotFoundError:
            return None
        except (OSError, EOFError, zlib.error, ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"its last good copy {self._path} cannot be used: {error}") from None
        if len(found) != head.get("resources"):
            raise ValueError(f"its last good copy {self._path} is cut short")
        return found, read_at

    def save(self, resources: Iterable[tuple[str, Resource]], count: int, read_at: datetime) -> None:
        """Durable once it returns; before, the older copy is the one that is there. Raises OSError."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        new = self._path.with_suffix(".new")
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as raw:
            with gzip.GzipFile(filename="", mode="wb", compresslevel=1, fileobj=raw, mtime=0) as lines:
                lines.write(orjson.dumps({"form": _FORM, "url": self._url, "resources": count}) + b"\n")
                for key, one in resources:
                    lines.write(orjson.dumps((key, one.url, orjson.Fragment(one.raw))) + b"\n")
            raw.flush()
            os.utime(raw.fileno(), (read_at.timestamp(), read_at.timestamp()))
            os.fsync(raw.fileno())
        new.replace(self._path)
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def confirm(self, read_at: datetime) -> None:
        """The server says the same as then."""
        os.utime(self._path, (read_at.timestamp(), read_at.timestamp()))
