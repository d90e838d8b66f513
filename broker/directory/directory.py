"""Keeps the current snapshot of the directory, and the last good content of every source."""

from __future__ import annotations

import asyncio
import glob
import inspect
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import NamedTuple

from broker.core.addressing import shown
from broker.directory.fhir_files import Resource, read_pool, read_resources
from broker.directory.problem import DirectoryProblem
from broker.directory.snapshot import Listed, Snapshot
from broker.directory.written import Content, Unreadable, read_endpoints, read_file

_YAML = (".yaml", ".yml")
_JSON = ".json"

OnProblems = Callable[[tuple[DirectoryProblem, ...]], None]
OnChange = Callable[[Snapshot, Snapshot], Awaitable[object] | None]
Seen = dict[Path, tuple[int, int, int] | None]  # what tells that a file is another: time, size, inode


class _Kept(NamedTuple):
    """What a file said when it was last good, and what is wrong with it now."""

    content: Content
    resources: tuple[Resource, ...]
    problems: tuple[DirectoryProblem, ...]


_NOTHING = _Kept(Content(), (), ())


class Directory:
    """Endpoints of the configuration and of files.

    Order decides where two say the same name: first the configuration, then the YAML files in the order of `sources`
    (of one pattern in the order of their names), then all FHIR resources together. A broken file keeps its last good
    content and is reported.
    """

    def __init__(
        self,
        endpoints: Mapping[str, object] | None = None,
        sources: Sequence[str] = (),
        *,
        folder: Path | None = None,
        file: str = "directory.endpoints",
        lines: Mapping[str, int] | None = None,
    ) -> None:
        """`folder`: where relative sources start; `file` and `lines`: where the configuration says `endpoints`."""
        self._sources = tuple(sources)
        self._folder = folder or Path()
        self._own = read_endpoints(endpoints or {}, file=file, lines=lines)
        self._kept: dict[Path, _Kept] = {}
        self._seen: Seen = {}
        self._lock = threading.Lock()
        self.current = Snapshot(self._own.listed)
        self.problems: tuple[DirectoryProblem, ...] = self._own.problems

    def load(self, *, everything: bool = False) -> Snapshot:
        """Read what has changed (or everything), make it current, and collect all problems; blocks on files."""
        with self._lock:
            if everything:
                self._seen = {}
            files, problems = self._files()
            seen = {path: _stamp(path) for path in files}  # before reading: what changes meanwhile is read again
            kept: dict[Path, _Kept] = {}
            for path in files:
                before = self._kept.get(path, _NOTHING)
                unchanged = seen[path] is not None and seen[path] == self._seen.get(path)
                kept[path] = before if unchanged else self._read(path, before)
            self._kept, self._seen = kept, seen
            listed: list[Listed] = list(self._own.listed)
            aliases: dict[str, str] = {}
            for one in kept.values():
                listed += one.content.listed
                for form, name in one.content.aliases:
                    aliases.setdefault(form, name)
                problems += one.problems
            pooled, pool_problems = read_pool(resource for one in kept.values() for resource in one.resources)
            snapshot = Snapshot((*listed, *pooled), aliases)
            _ = snapshot.version  # here, in whatever thread this is, and not later in the event loop
            self.problems = (*self._own.problems, *problems, *pool_problems)
            self.current = snapshot
            return snapshot

    async def reload(self, *, everything: bool = False) -> Snapshot:
        """The same outside the event loop."""
        return await asyncio.to_thread(partial(self.load, everything=everything))

    async def watch(
        self,
        interval: timedelta,
        on_change: OnChange,
        on_problems: OnProblems | None = None,
        *,
        refresh: timedelta = timedelta.max,
    ) -> None:
        """Look at the files every `interval`, for ever; `on_change(old, new)` when the content is another.

        Every `refresh` they are read even if they look the same: not every file system tells. `on_problems` hears all
        that is wrong, each time that is something else, and once more when nothing is. The caller owns the task and
        cancels it.
        """
        since = interval
        while True:
            await asyncio.sleep(interval.total_seconds())
            everything = since >= refresh
            since = interval if everything else since + interval
            if not everything and not await asyncio.to_thread(self._is_stale):
                continue
            old, known = self.current, self.problems
            new = await self.reload(everything=everything)
            if on_problems is not None and self.problems != known:
                on_problems(self.problems)
            if new.version != old.version:
                told = on_change(old, new)
                if inspect.isawaitable(told):
                    await told

    def _is_stale(self) -> bool:
        files, _ = self._files()
        return {path: _stamp(path) for path in files} != self._seen

    def _files(self) -> tuple[list[Path], list[DirectoryProblem]]:
        files: dict[Path, None] = {}
        problems: list[DirectoryProblem] = []
        for source in self._sources:
            if "://" in source:
                text = "a FHIR server as a source is not in this release; name files"
                problems.append(DirectoryProblem(file=shown(source), text=text))
                continue
            pattern = str(self._folder / source)
            if not glob.has_magic(source):
                files[Path(pattern)] = None
                continue
            found = sorted(glob.glob(pattern, recursive=True))
            if not found:
                problems.append(DirectoryProblem(file=source, text="no file has a name like this"))
            files |= dict.fromkeys(Path(one) for one in found)
        return list(files), problems

    def _read(self, path: Path, before: _Kept) -> _Kept:
        file = str(path)
        try:
            return _read(path, file)
        except Unreadable as error:
            problem = DirectoryProblem(file=file, line=error.line, text=f"{error}{_stays(before)}")
        except OSError as error:
            problem = DirectoryProblem(file=file, text=f"cannot be read: {error.strerror}{_stays(before)}")
        except UnicodeDecodeError:
            problem = DirectoryProblem(file=file, text=f"this is not UTF-8{_stays(before)}")
        return _Kept(before.content, before.resources, (problem,))


def _stays(before: _Kept) -> str:
    return "; what it said before stays in use" if before.content.listed or before.resources else ""


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino


def _read(path: Path, file: str) -> _Kept:
    data = path.read_bytes()
    suffix = path.suffix.lower()
    if suffix in _YAML:
        return _written(data, file)
    if suffix != _JSON:
        raise Unreadable("a directory file is .yaml, .yml or .json")
    try:
        return _Kept(Content(), read_resources(data, file=file), ())
    except Unreadable:
        if b'"resourceType"' not in data and b'"endpoints"' in data:
            return _written(data, file)
        raise


def _written(data: bytes, file: str) -> _Kept:
    content = read_file(data.decode("utf-8-sig"), file=file)
    return _Kept(content, (), content.problems)
