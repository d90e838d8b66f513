"""`fhir-broker verify-durability`: the proof on a disk, what it finds, and that it leaves nothing behind."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace

import aiohttp
import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from command_desk import fhir_broker

from broker.commands import durability
from broker.commands.durability_disk import Disk, measure
from broker.commands.durability_load import HELD, SOUTH, Load
from broker.commands.ends import Ended, Exit
from broker.commands.say import Say


@pytest.mark.slow
async def test_killed_broker_passes_and_leaves_nothing_behind(tmp_path: Path) -> None:
    mine = tmp_path / "broker.db"
    mine.write_text("precious")
    ran = await fhir_broker(
        "verify-durability", str(tmp_path), "--rounds", "2", "--seed", "5", "--json", folder=tmp_path
    )  # fmt: skip
    assert ran.code == Exit.OK, ran
    told = ran.json
    assert (told["verdict"], told["kills"], told["faults"], told["kept"]) == ("passed", 2, [], None)
    assert told["acknowledged"] > 50
    assert told["delivered"] + told["in_mailbox"] >= told["acknowledged"]
    assert told["rate"] > 0
    assert told["disk"]["flushes"] > 0
    assert os.listdir(tmp_path) == ["broker.db"]
    assert mine.read_text() == "precious"


async def test_folder_that_is_not_there_is_wrong_usage(tmp_path: Path) -> None:
    ran = await fhir_broker("verify-durability", str(tmp_path / "nowhere"), folder=tmp_path)
    assert (ran.code, "is no folder" in ran.err) == (Exit.USAGE, True)


def test_disk_without_room_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=1 << 20))
    with pytest.raises(Ended, match="has 1 MiB left"):
        durability.verify(tmp_path, rounds=1, seconds=None, senders=1, seed=None, say=Say())
    assert list(tmp_path.iterdir()) == []


def test_failed_proof_keeps_its_evidence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def failed(place: Path, *_: object) -> dict[str, object]:
        (place / "store").mkdir()
        disk = {"kind": "ext4", "cache": None, "flushes": 9.0, "median": 0.1, "p99": 0.2}
        return {
            "faults": ["m1 was acknowledged, and the store does not know it"], "disk": disk, "warnings": [], "rate": 1,
            "kills": 1, "acknowledged": 2, "delivered": 1, "copies": 0, "in_mailbox": 0, "slowest_start": 1.0,
        }  # fmt: skip

    monkeypatch.setattr(durability, "_prove", failed)
    code = durability.verify(tmp_path, rounds=1, seconds=None, senders=1, seed=None, say=Say())
    assert code == Exit.FAILED
    (place,) = tmp_path.iterdir()
    assert (place / "store").is_dir()
    said = capsys.readouterr().out
    assert "the store does not know it" in said
    assert f"FAILED: 1 faults; store and log stay in {place}" in said


# -- what the load finds


class Forgetful:
    """It acknowledges everything; `known` and `mail` are what it kept."""

    def __init__(self) -> None:
        self.known: set[str] = set()
        self.mail: list[bytes] = []
        self.takes = 5

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if request.method == "POST":
            self.takes -= 1
            if self.takes < 0:
                assert request.transport is not None
                request.transport.close()
            return web.Response(status=202)
        if "/messages/" in request.path:
            return web.Response(status=200 if request.path.rpartition("/")[2] in self.known else 404)
        if "_offset" in request.query:
            after = int(request.query["_offset"])
            entries = [{"fullUrl": f"urn:uuid:{n}"} for n in range(after, len(self.mail))]
            link = {"relation": "next", "url": f"http://h/Bundle?_offset={len(self.mail)}&_count=9"}
            return web.json_response({"entry": entries, "link": [link]})
        return web.Response(body=self.mail[int(request.path.rpartition("/")[2])])


@pytest.fixture
async def forgetful() -> AsyncIterator[tuple[Forgetful, str]]:
    broker = Forgetful()
    app = web.Application(client_max_size=1 << 24)
    app.router.add_route("*", "/{path:.*}", broker.handle)
    async with TestServer(app) as server:
        yield broker, str(server.make_url("/")).rstrip("/")


@pytest.fixture
async def load(forgetful: tuple[Forgetful, str]) -> Load:
    """What five acknowledged messages leave, and one that was cut off."""

    made = Load(senders=1, seed=3)
    await made.send(forgetful[1], asyncio.Event())
    assert (len(made.ledger.acknowledged), len(made.ledger.unanswered)) == (5, 1)
    return made


async def test_acknowledged_message_that_the_store_does_not_know_is_a_fault(
    forgetful: tuple[Forgetful, str], load: Load
) -> None:
    broker, url = forgetful
    lost = sorted(load.ledger.acknowledged)[0]
    broker.known = load.ledger.acknowledged - {lost}
    held = [id for id in load.ledger.acknowledged if load.ledger.sent[id][0] == HELD]
    broker.mail = [load.ledger.sent[id][1] for id in held]
    await load.check(url, url)
    assert load.ledger.faults == [f"{lost} was acknowledged, and the store does not know it"]


async def test_mailbox_that_misses_doubles_or_changes_a_message_is_a_fault(
    forgetful: tuple[Forgetful, str], load: Load
) -> None:
    broker, url = forgetful
    broker.known = load.ledger.acknowledged
    held = [id for id in load.ledger.acknowledged if load.ledger.sent[id][0] == HELD]
    assert len(held) >= 2
    body = load.ledger.sent[held[0]][1]
    broker.mail = [body, body, orjson.dumps({**orjson.loads(body), "id": "other"})]
    await load.check(url, url)
    faults = "\n".join(load.ledger.faults)
    assert f"{held[0]} is in its mailbox 2 times" in faults
    assert f"{held[1]} was acknowledged, and is not in its mailbox" in faults
    assert "other lies in the mailbox with other bytes" in faults


async def test_message_that_never_comes_or_comes_changed_is_a_fault(load: Load) -> None:
    address = await load.open()
    carried = [id for id in load.ledger.acknowledged if load.ledger.sent[id][0] == SOUTH]
    assert len(carried) >= 2
    changed = orjson.dumps({**orjson.loads(load.ledger.sent[carried[0]][1]), "type": "batch"})
    async with aiohttp.ClientSession() as session, session.post(address, data=changed) as said:
        assert said.status == 200
    await load.until_delivered(0.05)
    await load.close()
    assert load.ledger.faults[0] == f"{carried[0]} was delivered with other bytes than it was sent with"
    assert [fault.split()[0] for fault in load.ledger.faults[1:]] == sorted(carried[1:])


# -- the disk


def test_flushes_are_measured_and_their_file_goes(tmp_path: Path) -> None:
    disk = measure(tmp_path)
    assert disk.flushes > 0
    assert 0 < disk.median <= disk.slowest
    assert disk.kind
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("kind", "median", "warns"),
    [("ext4", 0.004, ""), ("ext4", 0.00002, "faster than most disks can write"), ("tmpfs", 0.000001, "in memory")],
)
def test_flushes_that_are_too_fast_to_be_true_are_warned_of(kind: str, median: float, warns: str) -> None:
    disk = Disk(kind=kind, cache="", flushes=10, seconds=1.0, median=median, slowest=median)
    assert bool(disk.warnings) is bool(warns)
    assert all(warns in warning for warning in disk.warnings)


def test_default_folder_is_beside_the_store(tmp_path: Path) -> None:
    assert durability.default_folder(tmp_path / "broker.db") == tmp_path
    assert durability.default_folder(tmp_path / "not" / "yet" / "broker.db") == tmp_path
