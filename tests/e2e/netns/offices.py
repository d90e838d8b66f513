"""The two systems at the ends of the chain. Each sends, receives, and keeps a ledger of both."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import orjson
from aiohttp import web
from cable import Namespace
from e2e_messages import FHIR_JSON, message, response_to

PORT = 8090
LARGE = 300_000  # bytes: beyond what a store keeps in its rows
KINDS = {"letter": 5, "question": 4, "call": 3, "urgent": 2, "mail": 2, "astray": 1}  # and how often
PAUSE = (0.05, 0.3)  # seconds between two messages of one sender
AGAIN = 0.5  # seconds before what was not acknowledged is sent again
LISTENS = 40.0  # seconds for one exchange with the own broker; longer than any wait of its own
WARDS = {"mail": "2", "astray": "99"}  # the last arc of where these go; everything else goes to the office


@dataclass(slots=True, kw_only=True)
class Sent:
    """One message of an office's, and all that it heard of it."""

    id: str
    kind: str
    body: bytes
    status: int = 0  # of the answer that acknowledged it, or refused it for good
    answer: bytes = b""  # what the exchange itself answered with
    tries: int = 0
    answers: dict[str, dict[str, Any]] = field(default_factory=dict)  # responses and reports that came, by their ids
    copies: int = 0  # further arrivals of the same answers


@dataclass(slots=True, kw_only=True)
class Came:
    """One message that arrived, however often."""

    body: bytes
    times: int = 1
    changed: bool = False  # another time it had other bytes
    response: bytes = b""


def header_of(body: bytes) -> dict[str, Any]:
    header: dict[str, Any] = orjson.loads(body)["entry"][0]["resource"]
    return header


class Office:
    """One system: its way in, its senders, its ledger."""

    def __init__(self, name: str, namespace: Namespace, arc: str, other: str, dice: random.Random) -> None:
        self.name, self.endpoint = name, f"urn:oid:2.999.2.{arc}.1"
        self._other, self._dice = f"urn:oid:2.999.2.{other}", dice
        self._namespace = namespace
        self.sent: dict[str, Sent] = {}
        self._by_header: dict[str, Sent] = {}
        self.came: dict[str, Came] = {}
        self.strange: list[str] = []  # what nobody here can explain
        self.later = 0  # times it was told to come again later
        self.stop_sending = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        app = web.Application(client_max_size=1 << 24)
        app.router.add_post("/{path:.*}", self._arrival)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
        await self._runner.setup()
        await web.SockSite(self._runner, self._namespace.listener(PORT)).start()
        self._session = self._namespace.session(timeout=aiohttp.ClientTimeout(total=LISTENS))

    async def close(self) -> None:
        for task in [*self._tasks]:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._session.close()
        await self._runner.cleanup()

    # -- sending

    async def send_until_told(self) -> None:
        """One sender: message after message; each is sent until it is acknowledged, under the same ids."""
        while not self.stop_sending.is_set():
            await self._until_acknowledged(self._next())
            await asyncio.sleep(self._dice.uniform(*PAUSE))

    def _next(self) -> Sent:
        kind = self._dice.choices([*KINDS], [*KINDS.values()])[0]
        id = f"{self.name}-{kind}-{len(self.sent)}"
        text = "x" * (LARGE if self._dice.random() < 0.01 else self._dice.randrange(2_000))
        to = f"{self._other}.{WARDS.get(kind, '1')}"
        body = message(id, to=to, source=self.endpoint, event=kind, text=text)
        made = self.sent[id] = Sent(id=id, kind=kind, body=body)
        self._by_header[header_of(body)["id"]] = made
        return made

    async def _until_acknowledged(self, one: Sent) -> None:
        query = "" if one.kind == "call" else "?async=true"
        while not one.status:
            one.tries += 1
            status, body = await self._post(query, one.body)
            if status in (429, 503):
                self.later += 1
            if status in (0, 429, 503):  # cut off, or not now
                await asyncio.sleep(AGAIN)
                continue
            one.status, one.answer = status, body

    async def _post(self, query: str, body: bytes) -> tuple[int, bytes]:
        url = f"http://127.0.0.1:8080/fhir/$process-message{query}"
        try:
            async with self._session.post(url, data=body, headers={"Content-Type": FHIR_JSON}) as response:
                return response.status, await response.read()
        except (aiohttp.ClientError, OSError, TimeoutError):
            return 0, b""

    # -- receiving

    async def _arrival(self, request: web.Request) -> web.Response:
        body = await request.read()
        header = header_of(body)
        if "response" in header:
            return self._answer_came(header, body)
        return self._message_came(header, body)

    def _answer_came(self, header: dict[str, Any], body: bytes) -> web.Response:
        id = orjson.loads(body)["id"]
        one = self._by_header.get(header["response"]["identifier"])
        if one is None:
            self.strange.append(f"{self.name}: an answer to nothing that was sent: {header['response']}")
        elif id in one.answers:
            one.copies += 1
        else:
            by = header["source"]["endpoint"]
            one.answers[id] = {"code": header["response"]["code"], "by": by, "problems": _problems(body)}
        return web.Response()

    def _message_came(self, header: dict[str, Any], body: bytes) -> web.Response:
        id, kind = orjson.loads(body)["id"], header["eventCoding"]["code"]
        known = self.came.get(id)
        if known is not None:
            known.times += 1
            known.changed |= known.body != body
        else:
            known = self.came[id] = Came(body=body)
            if kind in ("question", "call"):
                known.response = response_to(body, id=f"re-{id}")
        if kind not in ("question", "call"):
            return web.Response()
        if kind == "question" and len(id) % 2:  # answers later, by its own way; a copy makes no second answer
            if known.times == 1:
                self._spawn(self._answer_later(known.response))
            return web.Response(status=202)
        return web.Response(body=known.response, content_type=FHIR_JSON)

    async def _answer_later(self, response: bytes) -> None:
        await asyncio.sleep(self._dice.uniform(0, 1.0))
        status = 0
        while status in (0, 429, 503):
            status, said = await self._post("?async=true", response)
            if status not in (200, 202):
                await asyncio.sleep(AGAIN)
        if status not in (200, 202):
            self.strange.append(f"{self.name}: its answer was refused with {status}: {said[:300]!r}")

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.strange.append(f"{self.name}: {task.exception()!r}")

    @property
    def is_busy(self) -> bool:
        return bool(self._tasks)


def _problems(body: bytes) -> list[str]:
    """Our stable ids in the OperationOutcome of a report."""
    return [
        coding["code"]
        for entry in orjson.loads(body)["entry"]
        for issue in entry["resource"].get("issue", ())
        for coding in issue.get("details", {}).get("coding", ())
        if coding["system"] == "urn:x-fhir-broker:error"
    ]
