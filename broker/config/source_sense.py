"""Whether the sources of the directory can be used: files that are there, servers that may be asked."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from broker.config.mistake import Mistake, Wrong, did_you_mean
from broker.config.places import Steps
from broker.config.subject import Subject
from broker.directory.bundles import TYPES
from broker.directory.source import ServerSource

_HEADER = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_OURS = frozenset({"accept", "cache-control", "connection", "content-length", "host", "if-none-match"})


def sources(subject: Subject) -> Iterator[Mistake]:
    servers: set[str] = set()
    for index, source in enumerate(subject.settings.directory.sources):
        path: Steps = ("directory", "sources", index)
        shown = subject.root.at((*path, "url")).shown
        if isinstance(source, str):
            yield from _file(subject, path, source, shown)
            continue
        yield from _server(subject, path, source, shown)
        if source.url in servers:
            yield subject.mistake(path, f"the source `{shown}` is here twice")
        servers.add(source.url)


def _file(subject: Subject, path: Steps, source: str, shown: str) -> Iterator[Mistake]:
    if not glob.has_magic(source):
        if not Path(source).is_file():
            yield subject.mistake(path, f"the source `{shown}`: there is no such file")
    elif not glob.has_magic(str(Path(source).parent)) and not Path(source).parent.is_dir():
        yield subject.warning(path, f"the source `{shown}`: there is no such folder")


def _server(subject: Subject, path: Steps, source: ServerSource, shown: str) -> Iterator[Mistake]:
    at: Steps = (*path, "url")
    try:
        _check_url(source.url, subject.settings.broker.base_url)
    except Wrong as wrong:
        yield subject.mistake(at, f"the source `{shown}` {wrong}", wrong.hint)
        return
    if source.url.startswith("http://") and source.foreign:
        text = f"the source `{shown}` is read without TLS: whoever is on the way may say where messages go"
        yield subject.warning(at, text, "https://")
    for key in ("ca", "cert", "key"):
        file: Path | None = getattr(source, key)
        if file is not None and not file.is_file():
            there = subject.root.at((*path, key)).shown
            yield subject.mistake((*path, key), f"`{key}`: there is no file `{there}`")
    if (source.cert is None) != (source.key is None):
        yield subject.mistake(path, "`cert` and `key` belong together: one of them is missing")
    for name, value in source.headers:
        place: Steps = (*path, "headers", name)
        if not _HEADER.fullmatch(name) or name.lower() in _OURS:
            yield subject.mistake_at_key(place, f"`{name}` is no header that may be set here")
        elif not (value.isascii() and value.isprintable()):
            yield subject.mistake(place, f"the value of `{name}` has characters that no header has, or several lines")
    for number, kind in enumerate(source.types):
        if kind not in TYPES:
            text = f"`{kind}` is no resource that says how somebody is reached"
            yield subject.mistake((*path, "types", number), text, did_you_mean(kind, TYPES) or ", ".join(TYPES))


def _check_url(url: str, own: str) -> None:
    """Raises `Wrong`; the text goes on after the URL."""
    try:
        parts = urlsplit(url)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        sound = False
    if not sound or not url.isascii() or not url.isprintable() or " " in url:
        raise Wrong("is no FHIR server", "write https://host/path")
    if parts.username is not None or parts.password is not None:
        raise Wrong("must not hold a user or password", "headers: {Authorization: …}")
    if "?" in url or "#" in url:
        raise Wrong("must be the base of a FHIR server, without a query")
    if url == own or url.startswith(f"{own}/"):
        raise Wrong("is this broker itself, by its base_url")
