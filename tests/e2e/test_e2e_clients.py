"""FHIR clients that other people wrote talk to the broker: they publish, poll and read what it can do."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import fhirpy
import orjson
import pytest
from e2e_daemon import ROOT, Daemon, StartDaemon
from e2e_messages import SOUTH, message, response_to
from e2e_receiver import OpenReceiver, Reply
from fhirpy.base.exceptions import OperationOutcome

HELD = "urn:oid:2.999.2.3"
SPEAK = Path(__file__).parent / "clients" / "speak.js"
MODULES = ROOT / ".build" / "node" / "node_modules"  # `make test` puts it there


async def broker_with(daemon: StartDaemon, receiver: OpenReceiver) -> Daemon:
    south = await receiver()
    south.answer = lambda got: Reply(body=response_to(got.body, id=f"re-{got.bundle_id}"))
    return await daemon({"directory": {"endpoints": {SOUTH: south.url, HELD: "mailbox:"}}})


def loaded(body: bytes) -> dict[str, Any]:
    resource: dict[str, Any] = orjson.loads(body)
    return resource


async def test_fhirpy_publishes_polls_and_reads_what_the_broker_can_do(
    daemon: StartDaemon, receiver: OpenReceiver
) -> None:
    broker = await broker_with(daemon, receiver)
    client = fhirpy.AsyncFHIRClient(broker.base)
    statement = await client.execute("metadata", method="get")
    assert statement["resourceType"] == "CapabilityStatement"
    assert statement["messaging"][0]["endpoint"][0]["address"] == f"{broker.base}/$process-message"
    answer = await client.execute("$process-message", data=loaded(message("asked")))
    assert (answer["type"], answer["id"]) == ("message", "re-asked")
    for number in range(3):
        created = await client.execute("Bundle", data=loaded(message(f"published-{number}", to=HELD)))
        assert created["resourceType"] == "OperationOutcome"
    search = client.resources("Bundle").search(**{"message.destination-uri": HELD}, _offset=0).limit(2)
    seen = [bundle async for bundle in limited(search, 3)]
    assert [bundle["id"] for bundle in seen] == ["published-0", "published-1", "published-2"]
    with pytest.raises(OperationOutcome) as refused:
        await client.execute("$process-message", data={"resourceType": "Patient"})
    assert refused.value.resource["issue"][0]["details"]["coding"][0]["code"] == "not-a-bundle"


async def limited(search: Any, count: int) -> Any:
    """The first so many: our `next` stands on the last page too, so that a reader can go on."""
    async for resource in search:
        yield resource
        count -= 1
        if not count:
            return


async def test_fhirpy_gets_back_what_it_created_and_finds_it_again(daemon: StartDaemon, receiver: OpenReceiver) -> None:
    broker = await broker_with(daemon, receiver)
    client = fhirpy.AsyncFHIRClient(broker.base, extra_headers={"Prefer": "return=representation"})
    data = loaded(message("created", to=HELD, event="created"))
    assert await client.execute("Bundle", data=data) == data
    found = await client.resources("Bundle").search(**{"message.event": "created"}).fetch()
    assert [one["id"] for one in found] == ["created"]


async def test_fhir_kit_client_publishes_polls_and_reads_what_the_broker_can_do(
    daemon: StartDaemon, receiver: OpenReceiver, tmp_path: Path
) -> None:
    node = shutil.which("node")
    assert node, "node is missing; `make test` installs it"
    assert (MODULES / "fhir-kit-client").is_dir(), "fhir-kit-client is missing; `make test` installs it"
    broker = await broker_with(daemon, receiver)
    file = tmp_path / "message.json"
    file.write_bytes(message("kept", to=HELD))
    process = await asyncio.create_subprocess_exec(
        node, str(SPEAK), broker.base, str(file), HELD,
        env={"NODE_PATH": str(MODULES)}, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    heard = orjson.loads(out)
    assert heard["statement"]["messaging"][0]["endpoint"][0]["address"] == f"{broker.base}/$process-message"
    assert heard["answer"]["issue"][0]["details"]["coding"][0]["code"] == "accepted"
    assert [entry["resource"]["id"] for entry in heard["page"]["entry"]] == ["kept"]
    assert heard["next"]["resourceType"] == "Bundle"
    assert not heard["next"].get("entry")
    assert heard["refused"]["status"] == 422
    assert heard["refused"]["outcome"]["resourceType"] == "OperationOutcome"
