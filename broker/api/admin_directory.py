"""Where names lead, and what would become of a message: the directory and the rules explained."""

from __future__ import annotations

import asyncio
from datetime import datetime
from itertools import islice
from typing import Any

from aiohttp import hdrs, web

from broker.api.admin_frame import AdminError, as_json, body_of, number_of, text_of
from broker.api.admin_parts import Parts
from broker.core.explain import explain
from broker.core.fhir.header import Format, Header, Release
from broker.core.fhir.media import media_type
from broker.core.reading import read_header
from broker.core.resolution import Lookup
from broker.core.routing import Question
from broker.directory import Entry, Listed, Snapshot, SourceState, changed_names

PAGE, MOST = 100, 1000


def question_of(
    header: Header,
    *,
    event_prefix: str,
    now: datetime,
    channel: str | None = None,
    party: str | None = None,
    way_in: str | None = None,
) -> Question:
    """The question that the message itself would be, came it in over this channel."""
    return Question(
        header=header,
        destinations=tuple(one.endpoint for one in header.destinations if one.endpoint),
        source=header.source,
        party=party,
        channel=channel,
        way_in=way_in,
        event_type=f"{event_prefix}.{header.event.code}" if header.event.code else event_prefix,
        now=now,
    )


def looked_up(
    snapshot: Snapshot, name: str, *, now: datetime, release: Release | None = None, format: Format | None = None
) -> dict[str, Any]:
    """Where a name leads, and every step of the search."""
    lookups: list[Lookup] = []
    found = snapshot.resolve(name, release=release, format=format, now=now, lookups=lookups)
    return {
        "name": name,
        "known": found.known,
        "pending": found.pending,
        "how": found.how.value,
        "matched": found.matched,
        "addresses": list(found.addresses),
        "first": found.first,
        "state": found.state.value,
        "origin": found.origin or None,
        "reason": found.reason or None,
        "lookups": [{"how": one.how.value, "tried": one.tried, "found": one.found} for one in lookups],
        "nearest": list(snapshot.nearest(name)) if not found.known else [],
        "directory": snapshot.version,
    }


def listed(line: Listed, now: datetime) -> dict[str, Any]:
    """A line of the directory."""
    return {"name": line.name, "how": line.how.value, "entries": [_entry(entry, now) for entry in line.entries]}


def _entry(entry: Entry, now: datetime) -> dict[str, Any]:
    return {
        "addresses": list(entry.addresses),
        "mode": entry.mode.value,
        "state": entry.state_at(now).value,
        "reason": entry.reason_at(now) or None,
        "start": entry.start,
        "end": entry.end,
        "fhir": [release.value for release in entry.releases],
        "formats": [format.value for format in entry.formats],
        "owner": entry.owner,
        "origin": entry.origin or None,
    }


def state_of(state: SourceState) -> dict[str, Any]:
    """A server that the directory is read from, and how old is what it said."""
    return {
        "source": state.source,
        "state": state.freshness.value,
        "resources": state.resources,
        "read_at": state.read_at,
        "age": None if state.age is None else round(state.age, 1),
        "problem": state.problem,
    }


class Whereabouts:
    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def route(self, request: web.Request) -> web.Response:
        """What would become of the message in the body, rule by rule; nothing is kept."""
        parts = self._parts
        media = media_type(request.headers.get(hdrs.CONTENT_TYPE, ""))
        header = read_header(await body_of(request, parts.here.max_message), media)
        question = question_of(
            header,
            event_prefix=parts.here.event_prefix,
            now=parts.here.now(),
            channel=text_of(request, "channel") or "http",
            party=text_of(request, "party"),
            way_in=text_of(request, "path"),
        )
        return as_json(explain(question, parts.rules, parts.directory.current, parts.defaults))

    async def list(self, request: web.Request) -> web.Response:
        """The lines in the order in which they are asked."""
        snapshot, now = self._parts.directory.current, self._parts.here.now()
        after = number_of(request, "after", 0)
        limit = number_of(request, "limit", PAGE, least=1, most=MOST)
        lines = [listed(one, now) for one in islice(snapshot.names(), after, after + limit)]
        reached = after + len(lines)
        return as_json({
            "version": snapshot.version, "total": len(snapshot), "entries": lines,
            "next": reached if reached < len(snapshot) else None,
            "sources": [state_of(one) for one in self._parts.directory.states],
        })  # fmt: skip

    async def lookup(self, request: web.Request) -> web.Response:
        name = text_of(request, "name")
        if not name:
            raise AdminError(400, "bad-request", "say which endpoint: ?name=urn:oid:…")
        release, format = text_of(request, "fhir"), text_of(request, "format")
        try:
            kind = Release(release) if release else None
            shape = Format(format) if format else None
        except ValueError:
            known = ", ".join(one.value for one in Release)
            raise AdminError(400, "bad-request", f"`fhir` is one of {known}; `format` is json or xml") from None
        snapshot, now = self._parts.directory.current, self._parts.here.now()
        return as_json(looked_up(snapshot, name, now=now, release=kind, format=shape))

    async def problems(self, _request: web.Request) -> web.Response:
        found = self._parts.directory.problems
        return as_json({"problems": [{"file": one.file, "line": one.line, "text": one.text} for one in found]})

    async def refresh(self, _request: web.Request) -> web.Response:
        """Reads the sources now; what waits for a name that changed is due at once."""
        directory = self._parts.directory
        old, woken = await directory.refresh(self._parts.changed)
        new = directory.current
        changed = await asyncio.to_thread(changed_names, old, new)
        return as_json({
            "version": new.version, "names": len(new), "changed": len(changed.names),
            "patterns_changed": changed.patterns, "woken": woken, "problems": [str(one) for one in directory.problems],
            "sources": [state_of(one) for one in directory.states],
        })  # fmt: skip
