"""Another server's rest-hook points at the broker, which fans out: real notifications, byte for byte (S-24)."""

from __future__ import annotations

from pathlib import Path

import aiohttp
import pytest
from e2e_daemon import StartDaemon
from e2e_messages import ask, eventually
from e2e_receiver import OpenReceiver
from e2e_subscriber import R4, R5, is_active, subscribe, subscription

CANDLE = Path(__file__).parent.parent / "corpus" / "subscriptions" / "FHIR__fhir-candle"
TOPIC = "http://example.org/FHIR/SubscriptionTopic/encounter-complete"
HANDSHAKE, EVENT = [(CANDLE / f"Bundle-notification-{kind}.json").read_bytes() for kind in ("handshake", "id")]
FHIR_JSON = {"Content-Type": "application/fhir+json"}


@pytest.mark.parametrize("path", ["/in/argo", "/fhir/$process-message", "/fhir/R4/$process-message"])
async def test_notification_of_another_server_reaches_all_our_subscribers_as_it_came(
    path: str, daemon: StartDaemon, receiver: OpenReceiver, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    file = tmp_path / "topic.yaml"
    file.write_text(f"url: {TOPIC}\nrelayed: argo\n")
    hooks = [await receiver() for _ in range(2)]
    allow = [f"http://127.0.0.1:{one.port}/*" for one in hooks]
    broker = await daemon({"subscriptions": {"topics": [str(file)], "allow": allow}})
    for hook, version in zip(hooks, (R4, R5), strict=True):
        asked = subscription(version, TOPIC, "rest-hook", endpoint=f"http://127.0.0.1:{hook.port}/hook")
        url = await subscribe(http, broker.base, version, asked)
        await eventually(lambda url=url: is_active(http, url), within=30)
        hook.got.clear()  # the handshake
    where = broker.base.removesuffix("/fhir") + path
    for body in (HANDSHAKE, EVENT, EVENT):  # what comes twice is a copy
        said = await ask(http, "POST", where, data=body, headers=FHIR_JSON)
        assert said.status == 202, said

    async def all_told() -> bool:
        return all(hook.got for hook in hooks)

    await eventually(all_told, within=30)
    for hook in hooks:
        (got,) = hook.got
        assert got.body == EVENT

    unknown = EVENT.replace(b"encounter-complete", b"encounter-unknown").replace(b"dd9601ba", b"ffffffff")
    said = await ask(http, "POST", where, data=unknown, headers=FHIR_JSON)
    assert said.status == 404, said
