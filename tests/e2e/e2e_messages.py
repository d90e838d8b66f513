"""Messages as the end-to-end tests need them, and what is asked of a daemon again and again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
import orjson

CORPUS = Path(__file__).resolve().parents[1] / "corpus"
FHIR_JSON = "application/fhir+json"
FHIR_XML = "application/fhir+xml"
NORTH = "urn:oid:2.999.2.1"  # who sends
SOUTH = "urn:oid:2.999.2.2"  # who receives


def message(
    id: str | None = None,
    *,
    to: str | tuple[str, ...] | None = SOUTH,
    source: str = NORTH,
    event: str = "discharge-letter",
    text: str = "",
    **more: Any,
) -> bytes:
    """An R4 message; `more` are further elements of its MessageHeader."""
    id = id or str(uuid4())
    named = () if to is None else (to,) if isinstance(to, str) else to
    header: dict[str, Any] = {
        "resourceType": "MessageHeader",
        "id": f"{id}-h"[-64:],
        "eventCoding": {"system": "urn:oid:2.999.9", "code": event},
        "source": {"endpoint": source},
        **more,
    }
    if named:
        header["destination"] = [{"endpoint": endpoint} for endpoint in named]
    entries: list[dict[str, Any]] = [{"fullUrl": f"urn:uuid:{uuid4()}", "resource": header}]
    if text:
        entries.append({"resource": {"resourceType": "Basic", "id": "b", "code": {"text": text}}})
    return orjson.dumps(
        {
            "resourceType": "Bundle",
            "id": id,
            "type": "message",
            "timestamp": "2026-03-01T12:00:00+01:00",
            "entry": entries,
        }
    )


def response_to(request: bytes, *, code: str = "ok", id: str | None = None) -> bytes:
    """The response message that a receiver makes of a request."""
    header = orjson.loads(request)["entry"][0]["resource"]
    answered = header.get("destination", [{"endpoint": SOUTH}])[0]["endpoint"]
    return message(
        id,
        source=answered,
        to=header["source"]["endpoint"],
        event="receipt",
        response={"identifier": header["id"], "code": code},
    )


def outcome(text: str, code: str = "business-rule") -> bytes:
    issue = {"severity": "error", "code": code, "details": {"text": text}}
    return orjson.dumps({"resourceType": "OperationOutcome", "issue": [issue]})


def problem_ids(body: bytes) -> list[str]:
    """Our stable ids of an OperationOutcome's issues."""
    found = orjson.loads(body)
    assert found["resourceType"] == "OperationOutcome", found
    return [
        coding["code"]
        for issue in found["issue"]
        for coding in issue.get("details", {}).get("coding", ())
        if coding["system"] == "urn:x-fhir-broker:error"
    ]


class Said:
    """An HTTP answer, read to its end."""

    def __init__(self, response: aiohttp.ClientResponse, body: bytes) -> None:
        self.status, self.headers, self.body = response.status, response.headers, body

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)

    def __repr__(self) -> str:
        return f"{self.status} {dict(self.headers)} {self.body[:600]!r}"


async def ask(session: aiohttp.ClientSession, method: str, url: str, **rest: Any) -> Said:
    async with session.request(method, url, **rest) as response:
        return Said(response, await response.read())


async def send(
    session: aiohttp.ClientSession,
    base: str,
    body: bytes,
    *,
    query: str = "",
    media: str = FHIR_JSON,
    headers: dict[str, str] | None = None,
) -> Said:
    url = f"{base}/$process-message{query}"
    return await ask(session, "POST", url, data=body, headers={"Content-Type": media, **(headers or {})})


async def eventually(look: Callable[[], Awaitable[bool]], within: float = 15.0, every: float = 0.05) -> None:
    """Asks until it is so: what a process of its own does takes real time."""
    until = time.monotonic() + within
    while not await look():
        assert time.monotonic() < until, "it did not come about"
        await asyncio.sleep(every)
