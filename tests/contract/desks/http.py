"""The http channel's desk: a client of `$process-message`, and a receiver that answers, breaks off or keeps silent."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from e2e_daemon import free_port
from e2e_messages import outcome, problem_ids

from broker.core.envelope import EMPTY, Envelope
from desks.desk import JSON, WITHIN, Desk, Ended, Got, How, Peer, Says
from plugins.http.binding import read_envelope, write_envelope

PATH = "/fhir/$process-message"


class HttpPeer(Peer):
    def __init__(self) -> None:
        super().__init__()
        self.port = free_port()
        self.address = f"http://127.0.0.1:{self.port}{PATH}"
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        app = web.Application(client_max_size=1 << 30)
        app.router.add_post(PATH, self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True).start()

    async def stop(self) -> None:
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        got = Got(
            body=await request.read(),
            media_type=request.headers["Content-Type"],
            envelope=read_envelope(request.headers),
        )
        match await self.heard(got):
            case Says.REFUSES:
                return web.Response(status=422, body=outcome("we do not take these"), content_type=JSON)
            case Says.LATER:
                return web.Response(status=503, headers={"Retry-After": "0"})
            case Says.DIES:
                assert request.transport is not None
                request.transport.abort()
        return web.Response(status=202)


class HttpDesk(Desk):
    name = "http"
    says = frozenset(Says)
    unusable = ("https://user:secret@ehr.example/fhir", "http://")

    def __init__(self, folder: Path, server: Any = None) -> None:
        super().__init__(folder, server)
        self.port = free_port()

    async def open(self) -> None:
        self.peer = HttpPeer()
        await self.peer.start()
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        self._client = aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=WITHIN))

    async def close(self) -> None:
        await self._client.close()
        await self.peer.stop()

    def configuration(self) -> dict[str, Any]:
        return {"channels": {"http": {"listen": f"127.0.0.1:{self.port}"}}}

    async def hand_in(
        self,
        body: bytes,
        envelope: Envelope = EMPTY,
        *,
        media_type: str = JSON,
        reference: str | None = None,
    ) -> Ended:
        lines = (line.split(": ", 1) for line in write_envelope(envelope).split("\r\n") if line)
        headers = {
            "Content-Type": media_type,
            "Accept": JSON,
            **{name: value for name, value in lines if name != "Content-Digest"},
        }
        url = f"http://127.0.0.1:{self.port}{PATH}?async=true"
        try:
            async with self._client.post(url, data=io.BytesIO(body), headers=headers) as response:
                said = await response.read()
        except aiohttp.ClientConnectionError:
            return Ended(how=How.LOST)
        ids = problem_ids(said)
        if response.status < 300:
            return Ended(how=How.TAKEN, duplicate="duplicate" in ids)
        return Ended(how=How.LATER if response.status in (429, 503) else How.REFUSED, problem=ids[0])
