"""Whether the broker lives, and whether it can take messages: `/health/live` and `/health/ready`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, Protocol

import orjson
from aiohttp import web

from broker.api.admin_parts import HereLike
from broker.core.room import Short
from broker.directory import Directory
from broker.store import Store

LAST_LISTENER = "admin"  # it is opened last: once it is there, everything listens


class IntakeLike(Protocol):
    draining: bool

    def short(self) -> Short | None: ...


class Health:
    """What readiness means: room in the store, everything listening, a directory, and not on the way out.

    Broken sources of the directory do not make it unready: what they said before stays in use. Nor does a channel whose
    server is away: the other channels go on, and no other node would reach that server either.
    """

    def __init__(
        self,
        *,
        here: HereLike,
        store: Store,
        intake: IntakeLike,
        directory: Directory,
        insecure: bool,
        listening: Mapping[str, str],
        troubles: Callable[[], Mapping[str, str]] = dict,
    ) -> None:
        self._here = here
        self._store = store
        self._intake = intake
        self._directory = directory
        self._insecure = insecure
        self._listening = listening
        self._troubles = troubles
        self._started = time.monotonic()

    @property
    def uptime(self) -> timedelta:
        return timedelta(seconds=time.monotonic() - self._started)

    def report(self, *, detailed: bool) -> tuple[bool, dict[str, Any]]:
        """Whether it is ready, and why not; partners see no more than yes and no (X-2)."""
        checks: dict[str, dict[str, Any]] = {
            "store": self._store_check(),
            "listeners": {"ok": LAST_LISTENER in self._listening, "listening": dict(self._listening)},
            "channels": {"ok": True, "troubles": dict(self._troubles())},
            "directory": self._directory_check(),
            "draining": {"ok": not self._intake.draining},
        }
        ready = all(check["ok"] for check in checks.values())
        shown: dict[str, Any] = checks if detailed else {name: check["ok"] for name, check in checks.items()}
        return ready, {"status": "ready" if ready else "not ready", "insecure": self._insecure, "checks": shown}

    def _store_check(self) -> dict[str, Any]:
        try:
            free, short = self._store.free(), self._intake.short()
        except OSError as error:
            return {"ok": False, "error": error.strerror or "the disk cannot be asked"}
        here, wal = self._here, self._store.wal()
        found: dict[str, Any] = {"free": free, "min_free": here.min_free, "wal": wal, "max_wal": here.max_wal}
        failure = self._store.cannot_write()
        if failure is not None:
            found["error"] = f"the store cannot write: {failure}"
        if short is not None:
            found["short"] = short.limit.value
        return {"ok": short is None and failure is None, **found}

    def _directory_check(self) -> dict[str, Any]:
        snapshot, problems = self._directory.current, self._directory.problems
        return {
            "ok": True, "version": snapshot.version, "names": len(snapshot), "problems": [str(one) for one in problems],
            "sources": [
                {"source": one.source, "state": one.freshness.value, "age": one.age} for one in self._directory.states
            ],
        }  # fmt: skip


def add_health(app: web.Application, health: Health, *, aliases: bool = False) -> None:
    """Adds the two paths; with `aliases`, on the admin listener, their short forms and every detail."""
    headers = {"Cache-Control": "no-store"}

    async def live(_request: web.Request) -> web.Response:
        return web.Response(body=b'{"status":"alive"}', content_type="application/json", headers=headers)

    async def ready(_request: web.Request) -> web.Response:
        is_ready, report = health.report(detailed=aliases)
        body = orjson.dumps(report)
        status = 200 if is_ready else 503
        return web.Response(status=status, body=body, content_type="application/json", headers=headers)

    app.router.add_get("/health/live", live)
    app.router.add_get("/health/ready", ready)
    if aliases:
        app.router.add_get("/healthz", live)
        app.router.add_get("/readyz", ready)
