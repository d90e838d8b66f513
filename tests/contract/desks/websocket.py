"""The websocket channel's desk: both ends of `fhir-broker.v1`, with the library's own client and server."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import orjson
from e2e_daemon import free_port
from websockets.asyncio.client import connect
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.frames import CloseCode

from broker.core.attributes import from_attributes, to_attributes
from broker.core.envelope import EMPTY, Envelope
from desks.desk import JSON, WITHIN, Desk, Ended, Got, How, Peer, Says

V1: Any = "fhir-broker.v1"
# What the protocol's own close codes say of who was about to send (RFC 6455, section 7.4).
CLOSED = {
    CloseCode.MESSAGE_TOO_BIG: Ended(how=How.REFUSED, problem="too-large"),
    CloseCode.TRY_AGAIN_LATER: Ended(how=How.LATER),
    CloseCode.SERVICE_RESTART: Ended(how=How.LATER),
    CloseCode.GOING_AWAY: Ended(how=How.LATER),
}


def frame(head: dict[str, Any], body: bytes) -> bytes:
    return orjson.dumps(head) + b"\n" + body


class WebSocketPeer(Peer):
    def __init__(self) -> None:
        super().__init__()
        self.port = free_port()
        self.address = f"ws://127.0.0.1:{self.port}/in"
        self._server: Server | None = None

    async def start(self) -> None:
        self._server = await serve(
            self._session, "127.0.0.1", self.port, subprotocols=[V1], compression=None, max_size=None, close_timeout=1
        )

    async def stop(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            for connection in server.connections:
                connection.transport.abort()
            server.close()
            await server.wait_closed()

    async def _session(self, connection: ServerConnection) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                async for message in connection:
                    assert isinstance(message, bytes)
                    group.create_task(self._one(connection, message))
        except* ConnectionClosed:
            pass

    async def _one(self, connection: ServerConnection, message: bytes) -> None:
        line, _, body = message.partition(b"\n")
        head = orjson.loads(line)
        got = Got(body=body, media_type=head["media_type"], envelope=from_attributes(head.get("envelope", {})))
        no = {"ref": head["ref"], "code": "business-rule", "problem": "we-do-not", "text": "we do not take these"}
        match await self.heard(got):
            case Says.TAKES:
                said = {"type": "receipt", "ref": head["ref"], "kind": "accepted", "id": "theirs"}
            case Says.REFUSES:
                said = {"type": "refusal", **no, "again": False}
            case Says.LATER:
                said = {"type": "refusal", **no, "again": True, "retry_after": 0.0}
            case _:
                connection.transport.abort()
                return
        await connection.send(orjson.dumps(said).decode())


class WebSocketDesk(Desk):
    name = "websocket"
    takes_events = True
    says = frozenset(Says)
    unusable = ("wss://user:secret@ehr.example/in", "ws://", "ws://ehr.example/in#part")

    def __init__(self, folder: Path, server: Any = None) -> None:
        super().__init__(folder, server)
        self.port = free_port()

    async def open(self) -> None:
        self.peer = WebSocketPeer()
        await self.peer.start()

    async def close(self) -> None:
        await self.peer.stop()

    def configuration(self) -> dict[str, Any]:
        return {"channels": {"websocket": {"listen": f"127.0.0.1:{self.port}"}}}

    async def hand_in(
        self,
        body: bytes,
        envelope: Envelope = EMPTY,
        *,
        media_type: str = JSON,
        reference: str | None = None,
    ) -> Ended:
        """On a connection of its own, as somebody who comes, hands over and goes."""
        head = {"type": "send", "ref": 1, "media_type": media_type, "envelope": to_attributes(envelope)}
        url = f"ws://127.0.0.1:{self.port}/"
        try:
            async with (
                asyncio.timeout(WITHIN),
                connect(url, subprotocols=[V1], compression=None, max_size=None, proxy=None) as connection,
            ):
                await connection.send(frame(head, body))
                said = orjson.loads((await connection.recv(decode=False)).partition(b"\n")[0])
        except ConnectionClosed as closed:
            return CLOSED.get(closed.rcvd.code if closed.rcvd else 0, Ended(how=How.LOST))  # type: ignore[call-overload]
        except InvalidStatus as answered:  # to the handshake
            return Ended(how=How.LATER if answered.response.status_code == 503 else How.REFUSED)
        except (WebSocketException, OSError):
            return Ended(how=How.LOST)
        if said["type"] == "receipt":
            return Ended(how=How.TAKEN, duplicate=said.get("duplicate", False))
        return Ended(how=How.LATER if said["again"] else How.REFUSED, problem=said["problem"])
