"""The real daemon as a process of its own: started on free ports, killed, stopped, started again on the same store."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import psutil

ROOT = Path(__file__).resolve().parents[2]
STARTS_WITHIN = 20.0  # seconds; two cores may be busy with other tests
STOPS_WITHIN = 20.0


def free_port() -> int:
    """Below those that outgoing connections are given: it must still be free when a daemon is started anew."""
    while True:
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", random.randint(15000, 32000)))
            port: int = probe.getsockname()[1]
            return port


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` over `below`, block by block."""
    result = dict(below)
    for key, value in above.items():
        known = result.get(key)
        result[key] = merged(known, value) if isinstance(known, Mapping) and isinstance(value, Mapping) else value
    return result


class Daemon:
    """One configuration and store, and the process that runs on it now."""

    def __init__(self, folder: Path, config: Mapping[str, Any], *, arguments: tuple[str, ...] = ()) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.port, self.admin_port = free_port(), free_port()
        self.origin = f"http://127.0.0.1:{self.port}"
        self.base = f"{self.origin}/fhir"
        self.admin = f"http://127.0.0.1:{self.admin_port}"
        self.config = merged(
            {
                "broker": {"endpoint": "urn:oid:2.999.1", "base_url": self.base},
                "store": {"url": "sqlite:broker.db", "min_free": "1MiB"},
                "admin": {"listen": f"127.0.0.1:{self.admin_port}"},
                "channels": {"http": {"listen": f"127.0.0.1:{self.port}"}},
                "log": {"format": "json"},
            },
            config,
        )
        self.file = folder / "broker.yaml"
        self.write()
        self.command = [sys.executable, "-m", "broker", "run", "--config", str(self.file), *arguments]
        self._log = folder / "broker.log"
        self._process: asyncio.subprocess.Process | None = None

    def write(self) -> None:
        self.file.write_bytes(orjson.dumps(self.config, option=orjson.OPT_INDENT_2))  # JSON is YAML 1.2

    def session(self) -> aiohttp.ClientSession:
        """A client that reaches it."""
        return aiohttp.ClientSession()

    # -- the process

    async def launch(self, *, command: list[str] | None = None, env: Mapping[str, str] | None = None) -> None:
        """Starts the process and returns at once."""
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(command or self.command), cwd=ROOT, stdout=log, stderr=log, env={**os.environ, **(env or {})}
            )

    async def start(self, *, command: list[str] | None = None, env: Mapping[str, str] | None = None) -> Daemon:
        await self.launch(command=command, env=env)
        await self.until_ready()
        return self

    async def until_ready(self) -> None:
        until = time.monotonic() + STARTS_WITHIN
        async with self.session() as session:
            while time.monotonic() < until:
                if not self.runs:
                    raise AssertionError(f"the daemon ended with {self.process.returncode}:\n{self.output}")
                with contextlib.suppress(aiohttp.ClientError):
                    async with session.get(f"{self.admin}/health/ready") as response:
                        if response.status == 200:
                            return
                await asyncio.sleep(0.02)
        raise AssertionError(f"the daemon is not ready:\n{self.output}")

    @property
    def process(self) -> asyncio.subprocess.Process:
        assert self._process is not None, "it was never started"
        return self._process

    @property
    def runs(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def kill(self) -> None:
        """kill -9."""
        if self.runs:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
        await self.process.wait()

    async def stop(self) -> int:
        """SIGTERM, and the exit code."""
        if self.runs:
            self.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(STOPS_WITHIN):
            return await self.process.wait()

    async def ended(self, within: float = STARTS_WITHIN) -> int:
        async with asyncio.timeout(within):
            return await self.process.wait()

    async def end(self) -> None:
        """However it is: it runs no more."""
        if self._process is None:
            return
        try:
            await self.stop()
        except TimeoutError:
            await self.kill()

    # -- what it shows

    @property
    def output(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    @property
    def log_lines(self) -> list[dict[str, Any]]:
        return [orjson.loads(line) for line in self.output.splitlines() if line.startswith("{")]

    def memory(self) -> int:
        """Resident bytes."""
        return int(psutil.Process(self.process.pid).memory_info().rss)


StartDaemon = Callable[..., Awaitable[Daemon]]  # what the fixture `daemon` does
