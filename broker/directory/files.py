"""The files of a directory: what each said when it was last good, read again when it is another."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from broker.directory.bundles import Resource, read_resources
from broker.directory.problem import DirectoryProblem
from broker.directory.written import Content, Unreadable, read_file

_YAML = (".yaml", ".yml")
_JSON = ".json"
Seen = dict[Path, tuple[int, int, int] | None]  # what tells that a file is another: time, size, inode


class Kept(NamedTuple):
    """What a file said when it was last good, and what is wrong with it now."""

    content: Content
    resources: tuple[Resource, ...]
    problems: tuple[DirectoryProblem, ...]


_NOTHING = Kept(Content(), (), ())


class Files:
    """Those that the sources name; every call blocks on them."""

    def __init__(self, sources: Sequence[str], folder: Path) -> None:
        self._sources = tuple(sources)
        self._folder = folder
        self._kept: dict[Path, Kept] = {}
        self._seen: Seen = {}

    def load(self, *, everything: bool) -> tuple[tuple[Kept, ...], list[DirectoryProblem]]:
        """Reads what has changed (or everything): what they say, and what is wrong with the sources themselves."""
        if everything:
            self._seen = {}
        files, problems = self._files()
        seen = {path: _stamp(path) for path in files}  # before reading: what changes meanwhile is read again
        kept: dict[Path, Kept] = {}
        for path in files:
            before = self._kept.get(path, _NOTHING)
            unchanged = seen[path] is not None and seen[path] == self._seen.get(path)
            kept[path] = before if unchanged else self._read(path, before)
        self._kept, self._seen = kept, seen
        return tuple(kept.values()), problems

    def is_stale(self) -> bool:
        files, _ = self._files()
        return {path: _stamp(path) for path in files} != self._seen

    def _files(self) -> tuple[list[Path], list[DirectoryProblem]]:
        files: dict[Path, None] = {}
        problems: list[DirectoryProblem] = []
        for source in self._sources:
            pattern = str(self._folder / source)
            if not glob.has_magic(source):
                files[Path(pattern)] = None
                continue
            found = sorted(glob.glob(pattern, recursive=True))
            if not found:
                problems.append(DirectoryProblem(file=source, text="no file has a name like this"))
            files |= dict.fromkeys(Path(one) for one in found)
        return list(files), problems

    def _read(self, path: Path, before: Kept) -> Kept:
        file = str(path)
        try:
            return _read(path, file)
        except Unreadable as error:
            problem = DirectoryProblem(file=file, line=error.line, text=f"{error}{_stays(before)}")
        except OSError as error:
            problem = DirectoryProblem(file=file, text=f"cannot be read: {error.strerror}{_stays(before)}")
        except UnicodeDecodeError:
            problem = DirectoryProblem(file=file, text=f"this is not UTF-8{_stays(before)}")
        return Kept(before.content, before.resources, (problem,))


def _stays(before: Kept) -> str:
    return "; what it said before stays in use" if before.content.listed or before.resources else ""


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino


def _read(path: Path, file: str) -> Kept:
    data = path.read_bytes()
    suffix = path.suffix.lower()
    if suffix in _YAML:
        return _written(data, file)
    if suffix != _JSON:
        raise Unreadable("a directory file is .yaml, .yml or .json")
    try:
        return Kept(Content(), read_resources(data, file=file), ())
    except Unreadable:
        if b'"resourceType"' not in data and b'"endpoints"' in data:
            return _written(data, file)
        raise


def _written(data: bytes, file: str) -> Kept:
    content = read_file(data.decode("utf-8-sig"), file=file)
    return Kept(content, (), content.problems)
