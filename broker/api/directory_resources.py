"""`GET {base}/Endpoint` and `/Organization`: the directory as it is used now, as FHIR resources."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from aiohttp import web

from broker.api.asking import Asking, Here, asked_of
from broker.api.pages import CONTROLS, PAGING, page_of
from broker.api.parameters import Parameters
from broker.core.addressing import name_key, pair_key
from broker.core.fhir.capability import SEARCH_PARAMS, SearchParam
from broker.core.fhir.header import Release
from broker.core.fhir.write import Resource, shapes, write
from broker.core.outcome import NotFound
from broker.directory import Snapshot, as_fhir

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
        asked = Parameters(pairs, known=(*known, *CONTROLS), strict=asking.is_strict)
        found = matches((await self._resources(asking.release)).by_id[type].values(), asked)
        return asking.answer(write(page_of(asking, type, asked, found, lambda resource: resource), asking.format))

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
