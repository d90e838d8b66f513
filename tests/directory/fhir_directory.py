"""A FHIR directory over real HTTP, for tests: it pages, remembers histories, and misbehaves as it is told."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
from aiohttp import web

Json = dict[str, Any]
Answer = web.StreamResponse
Misbehaving = Callable[[web.Request], Awaitable[Answer | None]]
EPOCH = datetime(2026, 11, 21, 8, 0, tzinfo=UTC)


def endpoint(id: str, address: str, *, r5: bool = False, status: str = "active", **more: Any) -> Json:
    coding = {"system": "http://terminology.hl7.org/CodeSystem/endpoint-connection-type", "code": "hl7-fhir-msg"}
    connection: Any = [{"coding": [coding]}] if r5 else coding
    payload = {"payload": [{"type": [{"text": "any"}]}]} if r5 else {"payloadType": [{"text": "any"}]}
    return {
        "resourceType": "Endpoint", "id": id, "status": status, "connectionType": connection, "address": address,
        **payload, **more,
    }  # fmt: skip


def organization(id: str, *names: str, endpoint: str | None = None, **more: Any) -> Json:
    body: Json = {
        "resourceType": "Organization",
        "id": id,
        "name": f"organisation {id}",
        "identifier": [{"system": "urn:ietf:rfc:3986", "value": name} for name in names],
        **more,
    }
    if endpoint is not None:
        body["endpoint"] = [{"reference": f"Endpoint/{endpoint}"}]
    return body


class FhirDirectory:
    """Its clock is its own: each change takes a second of it."""

    def __init__(self, *, page: int = 2, history: bool = False, etags: bool = False) -> None:
        self.page, self.history, self.etags = page, history, etags
        self.now = EPOCH
        self.requests: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.answered: list[int] = []
        self.misbehaves: Misbehaving | None = None
        self._held: dict[str, Json] = {}
        self._log: list[tuple[datetime, str, Json | None]] = []
        self._runner: web.AppRunner | None = None
        self.port = 0

    # -- its content

    def put(self, *bodies: Json) -> None:
        for body in bodies:
            self._change(f"{body['resourceType']}/{body['id']}", body)

    def delete(self, key: str) -> None:
        self._change(key, None)

    def _change(self, key: str, body: Json | None) -> None:
        self.now += timedelta(seconds=60)
        if body is None:
            del self._held[key]
        else:
            self._held[key] = body
        self._log.append((self.now, key, body))

    # -- its door

    async def open(self) -> FhirDirectory:
        app = web.Application()
        app.router.add_get("/fhir/{path:.*}", self._handle)
        app.router.add_get("/{path:.*}", self._elsewhere)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True).start()
        self.port = self._runner.addresses[0][1]
        return self

    async def close(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}/fhir"

    async def _elsewhere(self, request: web.Request) -> Answer:
        self.requests.append(f"elsewhere {request.path_qs}")
        return web.Response(status=404)

    async def _handle(self, request: web.Request) -> Answer:
        self.requests.append(request.path_qs.removeprefix("/fhir/"))
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        answer = await self.misbehaves(request) if self.misbehaves else None
        if answer is None:
            answer = self._answer(request)
        self.answered.append(answer.status)
        return answer

    def _answer(self, request: web.Request) -> Answer:
        path, query = request.match_info["path"], request.query
        if path == "metadata":
            return self._capability()
        kind, _, rest = path.partition("/")
        if kind not in ("Endpoint", "Organization", "OrganizationAffiliation") or rest not in ("", "_history"):
            return said(web.Response, {"resourceType": "OperationOutcome"}, status=404)
        entries = self._changes(kind, query["_since"]) if rest else self._found(kind, "_include" in query)
        start = int(query.get("page", 0))
        bundle: Json = {
            "resourceType": "Bundle",
            "type": "history" if rest else "searchset",
            "meta": {"lastUpdated": self.now.isoformat()},
            "entry": entries[start : start + self.page],
        }
        if start + self.page < len(entries):
            following = request.url.update_query(page=start + self.page)
            bundle["link"] = [
                {"relation": "self", "url": str(request.url)},
                {"relation": "next", "url": str(following)},
            ]
        return self._with_etag(request, bundle)

    def _with_etag(self, request: web.Request, bundle: Json) -> Answer:
        if not self.etags:
            return said(web.Response, bundle)
        etag = f'W/"{abs(hash(orjson.dumps(bundle["entry"])))}"'
        if request.headers.get("If-None-Match") == etag:
            return web.Response(status=304, headers={"ETag": etag})
        return said(web.Response, bundle, headers={"ETag": etag})

    def _found(self, kind: str, include: bool) -> list[Json]:
        kinds = (kind, "Endpoint") if include else (kind,)
        return [
            {"fullUrl": f"{self.base}/{key}", "resource": body, "search": {"mode": "match"}}
            for key, body in sorted(self._held.items())
            if key.partition("/")[0] in kinds
        ]

    def _changes(self, kind: str, since: str) -> list[Json]:
        moment = datetime.fromisoformat(since)
        entries: list[Json] = []
        for at, key, body in reversed(self._log):
            if at >= moment and key.startswith(f"{kind}/"):
                entry: Json = {"request": {"method": "PUT" if body else "DELETE", "url": key}}
                if body is not None:
                    entry |= {"fullUrl": f"{self.base}/{key}", "resource": body}
                entries.append(entry)
        return entries

    def _capability(self) -> Answer:
        interactions = [{"code": "search-type"}, *([{"code": "history-type"}] if self.history else [])]
        kinds = ("Endpoint", "Organization", "OrganizationAffiliation", "Patient")
        resources = [{"type": kind, "interaction": interactions} for kind in kinds]
        return said(web.Response, {"resourceType": "CapabilityStatement", "rest": [{"resource": resources}]})


def said(
    make: type[web.Response], body: Json, *, status: int = 200, headers: dict[str, str] | None = None
) -> web.Response:
    return make(body=orjson.dumps(body), status=status, content_type="application/fhir+json", headers=headers)


def always(status: int = 200, body: bytes = b"", kind: str = "application/fhir+json", **headers: str) -> Misbehaving:
    """The same to every question."""

    async def answer(_request: web.Request) -> Answer:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.Response(status=status, body=body, content_type=kind, headers=named)

    return answer


def at_page(number: int, answer: Misbehaving) -> Misbehaving:
    """Only where the client asks for a page that begins at this number."""

    async def only_there(request: web.Request) -> Answer | None:
        return await answer(request) if request.query.get("page") == str(number) else None

    return only_there


async def hangs(_request: web.Request) -> Answer | None:
    await asyncio.sleep(60)
    return None


OpenDirectory = Callable[..., Awaitable[FhirDirectory]]
