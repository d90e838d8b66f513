"""The server itself: handshakes, close codes that say why, bounds, signs of life, and how it goes."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from websocket_desk import EAST, EVENTS, SOUTH, V1, Desk, Partner, eventually, message, opened, partner_open, reply
from websockets.asyncio.client import connect, unix_connect
from websockets.exceptions import InvalidStatus

from plugins.websocket.connection import reason_of
from plugins.websocket.settings import WebSocketSettings


async def test_ours_is_picked_where_both_are_offered(desk: Desk) -> None:
    protocols: Any = [EVENTS, V1]
    async with connect(desk.url, subprotocols=protocols, proxy=None) as socket:
        assert socket.subprotocol == V1


@pytest.mark.parametrize("protocol", [None, "cloudevents.avro"])
async def test_without_a_common_subprotocol_the_handshake_succeeds_without_one_and_the_close_says_what_to_offer(
    desk: Desk, protocol: str | None
) -> None:
    """C-46."""
    async with desk.client(protocol=protocol) as client:
        assert client.socket.subprotocol is None
        assert await client.closed() == (1008, "offer a subprotocol: fhir-broker.v1 or cloudevents.json")


async def test_path_that_is_not_here_is_404(desk: Desk) -> None:
    with pytest.raises(InvalidStatus) as raised:
        async with desk.client("/fhir/Bundle"):
            pass
    assert raised.value.response.status_code == 404


async def test_web_page_of_a_strange_origin_is_kept_out(tmp_path: Path) -> None:
    async with opened(tmp_path / "b", {"origins": ["https://app.example"]}) as desk:
        async with desk.client(origin="https://app.example") as client:
            assert (await client.ask(message())).type == "receipt"
        async with desk.client() as client:  # a program sends none
            assert (await client.ask(message())).type == "receipt"
        with pytest.raises(InvalidStatus) as raised:
            async with desk.client(origin="https://evil.example"):
                pass
        assert raised.value.response.status_code == 403


async def test_too_many_connections_hear_503_with_retry_after(tmp_path: Path) -> None:
    async with opened(tmp_path / "b", {"connections": 1}) as desk, desk.client() as client:
        await client.ask(message())
        with pytest.raises(InvalidStatus) as raised:
            async with desk.client():
                pass
        assert raised.value.response.status_code == 503
        assert raised.value.response.headers["Retry-After"] == "10"


async def test_way_in_of_the_url_is_there_for_the_rules(tmp_path: Path) -> None:
    routes = [{"match": {"path": "ward"}, "refuse": "not from the ward"}]
    async with opened(tmp_path / "b", routes=routes) as desk:
        async with desk.client("/in/ward") as client:
            assert (await client.ask(message()))["problem"] == "refused-by-rule"
        async with desk.client() as client:
            assert (await client.ask(message())).type == "receipt"


async def test_messages_that_are_half_here_count_in_the_room_and_no_room_closes_with_try_again(tmp_path: Path) -> None:
    limits = {"limits": {"message": "4MiB", "in_flight": "4MiB"}}
    async with opened(tmp_path / "b", broker=limits) as desk:
        async with desk.client() as one, desk.client() as two:
            half = b'{"type":"send","ref":1}\n' + b"x" * 3_000_000

            async def pieces(release: asyncio.Event) -> Any:
                yield half
                await release.wait()
                yield b"y"

            release = asyncio.Event()
            sending = asyncio.create_task(one.socket.send(pieces(release)))

            async def counted() -> bool:
                return desk.broker.intake.in_flight >= 3_000_000

            await eventually(counted)
            await two.socket.send(half)
            code, reason = await two.closed()
            assert code == 1013
            assert reason
            release.set()
            await sending
            assert (await one.hear()).type == "refusal"  # it is no FHIR
        assert desk.broker.intake.in_flight == 0


async def test_silent_peer_is_closed_after_a_ping(tmp_path: Path) -> None:
    async with (
        opened(tmp_path / "b", {"ping": "1s"}) as desk,
        desk.client(ping_interval=None, close_timeout=1) as client,
    ):
        client.socket.transport.pause_reading()  # no pong leaves
        receiver: Any = desk.broker.channels.receivers[-1]

        async def gone() -> bool:
            return not receiver._sessions

        await eventually(gone)


async def test_stop_says_service_restart_to_who_is_idle_and_answers_who_waits(tmp_path: Path) -> None:
    partner = Partner()

    async def slowly(_: Partner, socket: Any, frame: Any) -> None:
        await asyncio.sleep(0.5)
        await reply(socket, "receipt", ref=frame["ref"], kind="done")

    partner.answer = slowly
    async with partner_open(partner), opened(tmp_path / "b", endpoints={EAST: partner.url}) as desk:  # noqa: SIM117
        async with desk.client() as idle, desk.client() as waiting:
            await waiting.send(message(to=EAST), wait=30)
            await partner.until(lambda: bool(partner.got))
            stopping = asyncio.create_task(desk.stop())
            assert await idle.closed() == (1012, "service restart")
            said = await waiting.hear()
            assert (said.type, said["kind"]) == ("receipt", "done")
            assert await waiting.closed() == (1012, "service restart")
            await stopping


async def test_what_is_sent_while_the_broker_stops_is_refused_for_now(tmp_path: Path) -> None:
    partner = Partner()

    async def slowly(_: Partner, socket: Any, frame: Any) -> None:
        await asyncio.sleep(0.5)
        await reply(socket, "receipt", ref=frame["ref"], kind="done")

    partner.answer = slowly
    async with partner_open(partner), opened(tmp_path / "b", endpoints={EAST: partner.url}) as desk:  # noqa: SIM117
        async with desk.client() as client:
            await client.send(message(to=EAST), wait=30)
            await partner.until(lambda: bool(partner.got))
            stopping = asyncio.create_task(desk.stop())
            await asyncio.sleep(0.1)
            said = await client.ask(message())
            assert (said["problem"], said["again"]) == ("draining", True)
            await stopping


async def test_unix_socket_is_listened_on(tmp_path: Path) -> None:
    path = tmp_path / "ws.sock"
    async with opened(tmp_path / "b", {"listen": f"unix:{path}"}):
        protocols: Any = [V1]
        async with unix_connect(str(path), subprotocols=protocols) as socket:
            assert socket.subprotocol == V1
        assert path.stat().st_mode & 0o777 == 0o660


async def test_trace_names_the_channel_and_the_peer(desk: Desk) -> None:
    async with desk.client() as client:
        said = await client.ask(message())
    stored = await desk.broker.store.stored(said["position"])
    assert stored is not None
    assert (stored.message.channel, stored.message.peer.rpartition(":")[0]) == ("websocket", "127.0.0.1")
    assert stored.message.header.destinations[0].endpoint == SOUTH


def test_reason_of_a_close_fits_its_frame() -> None:
    assert reason_of("short") == "short"
    assert len(reason_of("é" * 100).encode()) <= 123


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"origins": ("app.example",)}, "origins"),
        ({"origins": ("https://app.example/path",)}, "origins"),
        ({"url": "https://a.example"}, "url"),
        ({"window": 0}, "window"),
        ({"behind_proxy": ("ten",)}, "ten"),
    ],
)
def test_setting_that_makes_no_sense_is_named(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        WebSocketSettings(**changes)
