"""`GET {base}/Endpoint` and `/Organization`: the directory as it is used now, as FHIR resources."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from uuid import NAMESPACE_URL, uuid5

from aiohttp import web

from broker.api.asking import Asking, Here, asked_of
from broker.api.parameters import HIGHEST_POSITION, Parameters, url
from broker.api.search import LARGEST_PAGE, PAGE
from broker.core.addressing import name_key, pair_key
from broker.core.fhir.capability import SEARCH_PARAMS, SearchParam
from broker.core.fhir.header import Release
from broker.core.fhir.outcomes import operation_outcome
from broker.core.fhir.write import Resource, shapes, write
from broker.core.outcome import NotFound
from broker.directory import Snapshot, as_fhir

PAGING = (
    SearchParam("_offset", "number", "Leaves out this many matches."),
    SearchParam("_count", "number", "The most matches of one page; 0 asks for their number only."),
)
ENDPOINT_PARAMS = (
    *SEARCH_PARAMS["Endpoint"],
    SearchParam("status", "token", "active, suspended or off."),
    *PAGING,
)
ORGANIZATION_PARAMS = (*SEARCH_PARAMS["Organization"], *PAGING)
_PARAMS = {"Endpoint": ENDPOINT_PARAMS, "Organization": ORGANIZATION_PARAMS}


class Written:
    """One snapshot in the shapes of one release, with what is looked up in it."""

    def __init__(self, snapshot: Snapshot, release: Release) -> None:
        self.snapshot = snapshot
        self.by_id: dict[str, dict[str, Resource]] = {"Endpoint": {}, "Organization": {}}
        for resource in as_fhir(snapshot, release):
            self.by_id[resource["resourceType"]][resource["id"]] = resource


class DirectoryResources:
    def __init__(self, *, here: Here, directory: Callable[[], Snapshot]) -> None:
        self._here = here
        self._directory = directory
        self._written: dict[Release, Written] = {}  # by shape: R4 and R5
        self._lock = asyncio.Lock()

    async def search(self, type: str, request: web.Request) -> web.StreamResponse:
        pairs = await asked_of(request)
        asking = Asking(request, self._here, pairs)
        known = [param.name for param in _PARAMS[type]]
        asked = Parameters(pairs, known=(*known, "_summary", "_total"), strict=asking.is_strict)
        found = matches((await self._resources(asking.release)).by_id[type].values(), asked)
        return asking.answer(write(_searchset(asking, type, asked, found), asking.format))

    async def read(self, type: str, request: web.Request) -> web.StreamResponse:
        asking = Asking(request, self._here)
        resource = (await self._resources(asking.release)).by_id[type].get(request.match_info["id"])
        if resource is None:
            raise NotFound(f"the directory has no {type} with this id now", id=f"unknown-{type.lower()}")
        return asking.answer(write(resource, asking.format))

    async def _resources(self, release: Release) -> Written:
        """Written anew when the directory has changed; beside the loop, since it may be large."""
        shape = shapes(release)
        async with self._lock:
            snapshot = self._directory()
            written = self._written.get(shape)
            if written is None or written.snapshot is not snapshot:
                written = self._written[shape] = await asyncio.to_thread(Written, snapshot, shape)
            return written


def matches(resources: Iterable[Resource], asked: Parameters) -> list[Resource]:
    found = list(resources)
    if ids := asked.any_of("_id"):
        found = [one for one in found if one["id"] in ids]
    if identifiers := asked.any_of("identifier"):
        found = [one for one in found if any(has_identifier(one, wanted) for wanted in identifiers)]
    if statuses := asked.any_of("status"):
        codes = {status.rpartition("|")[2] for status in statuses}
        found = [one for one in found if one.get("status") in codes]
    return found


def has_identifier(resource: Resource, wanted: str) -> bool:
    """By `value`, `system|value`, `system|` or `|value`; names of one endpoint in all their forms (A-3, A-4)."""
    system, mark, value = wanted.rpartition("|")
    for one in resource.get("identifier", ()):
        own_system, own = one.get("system", ""), one["value"]
        if mark and not value:
            fits = own_system == system
        elif mark and not system:
            fits = not own_system and own == value
        else:
            fits = pair_key(own_system, own) == name_key(wanted) or (not mark and own == wanted)
        if fits:
            return True
    return False


def _searchset(asking: Asking, type: str, asked: Parameters, found: Sequence[Resource]) -> Resource:
    after = asked.number("_offset", highest=HIGHEST_POSITION) or 0
    count = asked.number("_count", highest=10**9)
    counted = asked.one_of("_summary", ("count", "false")) == "count" or count == 0
    asked.one_of("_total", ("none", "estimate", "accurate"))  # it costs nothing: always given
    limit = PAGE if count is None else min(count, LARGEST_PAGE)
    page = [] if counted else found[after : after + limit]
    kept = [pair for pair in asked.kept if pair[0] != "_offset"]
    self_url = url(asking.base, type, [*kept, ("_offset", str(after))])
    links = [{"relation": "self", "url": self_url}]
    if not counted and after + limit < len(found):
        links.append({"relation": "next", "url": url(asking.base, type, [*kept, ("_offset", str(after + limit))])})
    bundle: Resource = {"resourceType": "Bundle", "type": "searchset", "total": len(found), "link": links}
    entries = [_entry(asking, type, one) for one in page]
    if asked.warnings and not counted:
        entries.append(_warnings(asking, asked, self_url))
    if entries:
        bundle["entry"] = entries
    return bundle


def _entry(asking: Asking, type: str, resource: Resource) -> Resource:
    return {
        "fullUrl": f"{asking.base}/{type}/{resource['id']}",
        "resource": resource,
        "search": {"mode": "match"},
    }


def _warnings(asking: Asking, asked: Parameters, self_url: str) -> Resource:
    id = str(uuid5(NAMESPACE_URL, self_url))
    outcome = operation_outcome(asked.warnings, release=asking.release)
    return {
        "fullUrl": f"urn:uuid:{id}",
        "resource": {"resourceType": "OperationOutcome", "id": id, "issue": outcome["issue"]},
        "search": {"mode": "outcome"},
    }
