"""`fhir-broker verify-durability`: the kill -9 proof, on the disk where the messages will lie.

It makes a folder of its own and runs a broker of its own in it, on ports of its own: it comes near no other store. The
broker is killed at random instants under load; after each start what was acknowledged must be there, in the end all of
it must have been delivered, byte for byte.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import socket
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from broker.commands.durability_disk import Disk, measure
from broker.commands.durability_load import HELD, SOUTH, Load
from broker.commands.ends import Ended, Exit
from broker.commands.say import Say

LIVES = (0.3, 2.0)  # seconds of load before a kill
STARTS_WITHIN = 30.0
DELIVERS_WITHIN = 60.0  # what one life took out of the store is due again after ten seconds
NEEDS = 512 << 20  # bytes of free disk; a long run on a fast disk writes that much
SHOWN = 20  # faults


@dataclass(slots=True, kw_only=True)
class Proof:
    """What a run has shown."""

    folder: str
    seed: int
    disk: Disk
    kills: int = 0
    loaded: float = 0.0  # seconds under load
    slowest_start: float = 0.0

    def told(self, load: Load) -> dict[str, Any]:
        ledger = load.ledger
        more = sum(count - 1 for count in ledger.came.values())
        return {
            "verdict": "failed" if ledger.faults else "passed", "folder": self.folder, "seed": self.seed,
            "kills": self.kills, "sent": len(ledger.sent), "acknowledged": len(ledger.acknowledged),
            "delivered": len(ledger.came), "in_mailbox": len(ledger.kept), "copies": more,
            "rate": round(len(ledger.acknowledged) / self.loaded, 1) if self.loaded else 0.0,
            "slowest_start": round(self.slowest_start, 3),
            "disk": {
                "kind": self.disk.kind or None, "cache": self.disk.cache or None, "flushes": round(self.disk.rate, 1),
                "median": round(self.disk.median, 6), "p99": round(self.disk.slowest, 6),
            },
            "warnings": list(self.disk.warnings), "faults": ledger.faults,
        }  # fmt: skip


class Scratch:
    """A broker of its own in a folder of its own."""

    def __init__(self, folder: Path, receiver: str) -> None:
        ports = _free_ports(2)
        self.base = f"http://127.0.0.1:{ports[0]}/fhir"
        self.admin = f"http://127.0.0.1:{ports[1]}"
        self._log = folder / "broker.log"
        self._file = folder / "broker.yaml"
        self._file.write_bytes(orjson.dumps({  # JSON is YAML
            "broker": {"endpoint": "urn:oid:2.999.1", "base_url": self.base},
            "store": {"url": "sqlite:store/broker.db", "min_free": "1MiB"},
            "admin": {"listen": f"127.0.0.1:{ports[1]}"},
            "channels": {"http": {"listen": f"127.0.0.1:{ports[0]}"}},
            "directory": {"endpoints": {SOUTH: receiver, HELD: "mailbox:"}},
            "defaults": {"sync": {"expects": "nothing"}, "retry": {"first": "500ms", "max": "2s"}},
            "log": {"level": "warning", "format": "json"},
        }))  # fmt: skip
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> float:
        """Returns once it is ready, with the seconds that took."""
        began = time.monotonic()
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "broker", "run", "--config", str(self._file), stdout=log, stderr=log,
                start_new_session=True,  # Ctrl-C is for us: we end it ourselves
            )  # fmt: skip
        async with aiohttp.ClientSession() as session:
            while time.monotonic() - began < STARTS_WITHIN:
                if self._process.returncode is not None:
                    raise Ended(Exit.FAILED, f"the broker of the proof did not start:\n{self._said()}")
                with suppress(aiohttp.ClientError, OSError):
                    async with session.get(f"{self.admin}/health/ready") as response:
                        if response.status == 200:
                            return time.monotonic() - began
                await asyncio.sleep(0.02)
        raise Ended(Exit.FAILED, f"the broker of the proof is not ready in {STARTS_WITHIN:.0f} s:\n{self._said()}")

    async def kill(self) -> None:
        """kill -9."""
        process = self._process
        if process is not None and process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    def has_ended(self) -> bool:
        return self._process is None or self._process.returncode is not None

    def _said(self) -> str:
        return self._log.read_text(errors="replace")[-2000:]


def _free_ports(count: int) -> list[int]:
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [int(probe.getsockname()[1]) for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def verify(folder: Path, *, rounds: int, seconds: float | None, senders: int, seed: int | None, say: Say) -> int:
    """Runs the proof in a new folder below `folder`, and removes it; of a failed proof everything stays."""
    if not folder.is_dir():
        raise Ended(Exit.USAGE, f"{folder} is no folder; name one on the disk that is to be proven")
    free = shutil.disk_usage(folder).free
    if free < NEEDS:
        raise Ended(Exit.FAILED, f"{folder} has {free >> 20} MiB left; the proof needs {NEEDS >> 20} MiB")
    try:
        place = Path(tempfile.mkdtemp(prefix="fhir-broker-durability-", dir=folder))
    except OSError as error:
        raise Ended(Exit.FAILED, f"no folder can be made in {folder}: {error.strerror}") from None
    keeps = False
    try:
        told = asyncio.run(_prove(place, rounds, seconds, senders, seed or random.SystemRandom().getrandbits(32), say))
        keeps = bool(told["faults"])
    finally:
        if not keeps:
            shutil.rmtree(place, ignore_errors=True)
    if say.as_json:
        say.json({**told, "kept": str(place) if keeps else None})
    else:
        _show(told, say, place if keeps else None)
    return Exit.FAILED if keeps else Exit.OK


async def _prove(place: Path, rounds: int, seconds: float | None, senders: int, seed: int, say: Say) -> dict[str, Any]:
    proof = Proof(folder=str(place.parent), seed=seed, disk=await asyncio.to_thread(measure, place))
    dice, load = random.Random(seed), Load(senders=senders, seed=seed + 1)
    if not say.as_json:
        say.line(f"in {place} (seed {seed}); the folder goes when this is over")
    receiver = await load.open()
    scratch = Scratch(place, receiver)
    began = time.monotonic()
    try:
        while proof.kills < rounds if seconds is None else time.monotonic() - began < seconds:
            await _round(proof, scratch, load, dice.uniform(*LIVES))
            if not say.as_json:
                acknowledged = len(load.ledger.acknowledged)
                say.line(f"kill {proof.kills:3}: {acknowledged} acknowledged so far, {len(load.ledger.faults)} faults")
        await _start(proof, scratch)
        await load.check(scratch.base, scratch.admin)
        await load.until_delivered(DELIVERS_WITHIN)
    finally:
        await scratch.kill()
        await load.close()
    return proof.told(load)


async def _round(proof: Proof, scratch: Scratch, load: Load, life: float) -> None:
    """One life: it starts, what the last one acknowledged is looked for, it works for a while, and dies."""
    await _start(proof, scratch)
    await load.check(scratch.base, scratch.admin)
    dead = asyncio.Event()
    sending = asyncio.ensure_future(load.send(scratch.base, dead))
    started = time.monotonic()
    await asyncio.sleep(life)
    if scratch.has_ended():
        load.ledger.faults.append("the broker ended by itself")
    await scratch.kill()
    proof.loaded += time.monotonic() - started
    proof.kills += 1
    dead.set()
    await sending


async def _start(proof: Proof, scratch: Scratch) -> None:
    proof.slowest_start = max(proof.slowest_start, await scratch.start())


def _show(told: dict[str, Any], say: Say, kept: Path | None) -> None:
    disk = told["disk"]
    say.line()
    say.line(
        f"disk       {disk['kind'] or 'unknown file system'}, cache {disk['cache'] or 'unknown'}:"
        f" {disk['flushes']:.0f} flushes/s, {disk['median'] * 1000:.2f} ms each, p99 {disk['p99'] * 1000:.2f} ms"
    )
    say.line(f"load       {told['rate']:.0f} messages/s acknowledged, {told['kills']} kills")
    say.line(
        f"messages   {told['acknowledged']} acknowledged: {told['delivered']} delivered ({told['copies']} copies),"
        f" {told['in_mailbox']} in a mailbox; slowest start {told['slowest_start']:.1f} s"
    )
    for warning in told["warnings"]:
        say.line(f"warning    {warning}", "yellow")
    for fault in told["faults"][:SHOWN]:
        say.line(f"fault      {fault}", "red")
    if kept is not None:
        say.line(f"verdict    FAILED: {len(told['faults'])} faults; store and log stay in {kept}", "bold red")
        return
    say.line("verdict    passed: everything that was acknowledged is there and was delivered", "bold green")
    say.line("           (a killed process leaves the system's cache; what a power cut leaves, the disk decides)")


def default_folder(store: Path) -> Path:
    """Beside the configured store: the nearest folder of its path that is there."""
    place = store.resolve().parent
    while not place.is_dir() and place != place.parent:
        place = place.parent
    return place if os.access(place, os.W_OK) else Path(tempfile.gettempdir())
