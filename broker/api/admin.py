"""The admin interface: `/admin/v1`, for operators and the command line, on the admin listener only."""

from __future__ import annotations

import platform
from collections.abc import Awaitable, Callable

from aiohttp import web

from broker import __version__
from broker.api.admin_dead import Dead
from broker.api.admin_directory import Whereabouts
from broker.api.admin_frame import PREFIX, as_json, in_json
from broker.api.admin_messages import Messages
from broker.api.admin_parts import DeliveringLike, HealthLike, HereLike, LaneLike, Parts
from broker.api.admin_streams import Streams
from broker.api.openapi import document
from broker.core.explain import plain
from broker.core.policy import Policy
from broker.core.rules import RuleSet
from broker.directory import Directory, Snapshot
from broker.store import BEHIND, Store, Waiting


def add_admin(
    app: web.Application,
    *,
    here: HereLike,
    store: Store,
    directory: Directory,
    rules: RuleSet,
    defaults: Policy,
    delivering: DeliveringLike,
    health: HealthLike,
    changed: Callable[[Snapshot, Snapshot], Awaitable[int]] | None = None,
) -> None:
    """Adds every route under `/admin/v1`, and the frame that answers in JSON and keeps web pages out."""
    parts = Parts(
        here=here, store=store, directory=directory, rules=rules, defaults=defaults, delivering=delivering,
        health=health, changed=changed,
    )  # fmt: skip
    app.middlewares.append(in_json)
    admin, messages, dead, where = Admin(parts), Messages(parts), Dead(parts), Whereabouts(parts)
    streams = Streams(parts)
    routes = [
        ("GET", "/status", admin.status),
        ("GET", "/lanes", admin.lanes),
        ("GET", "/openapi.json", admin.openapi),
        ("GET", "/messages/{id}", messages.story),
        ("GET", "/messages/{id}/body", messages.body),
        ("GET", "/mailboxes", messages.mailboxes),
        ("GET", "/mailboxes/{endpoint}/messages", messages.mailbox),
        ("GET", "/dead", dead.list),
        ("POST", "/dead/redrive", dead.redrive_several),
        ("POST", "/dead/{id}/redrive", dead.redrive),
        ("POST", "/dead/{id}/drop", dead.drop),
        ("GET", "/streams", streams.list),
        ("POST", "/streams/{id}/resume", streams.resume),
        ("POST", "/route", where.route),
        ("GET", "/directory", where.list),
        ("GET", "/directory/lookup", where.lookup),
        ("GET", "/directory/problems", where.problems),
        ("POST", "/directory/refresh", where.refresh),
    ]
    for method, path, handler in routes:
        app.router.add_route(method, PREFIX + path, handler)


class Admin:
    """What concerns the broker as a whole."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._document = document(__version__)

    async def openapi(self, _request: web.Request) -> web.Response:
        return as_json(self._document)

    async def status(self, _request: web.Request) -> web.Response:
        parts = self._parts
        counts = await parts.store.counts()
        ready, report = parts.health.report(detailed=True)
        snapshot = parts.directory.current
        return as_json({
            "version": __version__,
            "python": platform.python_version(),
            "endpoint": parts.here.endpoint,
            "base_url": parts.here.base_url,
            "uptime": round(parts.health.uptime.total_seconds(), 3),
            "ready": ready,
            "insecure": report["insecure"],
            "listeners": report["checks"]["listeners"]["listening"],
            "counts": {
                "positions": counts.messages,
                "waiting": counts.waiting,
                "dead": counts.dead,
                "held_streams": counts.held_streams,
                "open_answers": counts.open_answers,
                "oldest_due": counts.oldest_due,
            },
            "store": {"free": parts.store.free(), "min_free": parts.here.min_free, "backlog": parts.store.backlog()},
            "directory": {
                "version": snapshot.version, "names": len(snapshot), "problems": len(parts.directory.problems),
            },
        })  # fmt: skip

    async def lanes(self, _request: web.Request) -> web.Response:
        """Every lane that memory or the store knows."""
        stored = {waiting.lane: waiting for waiting in await self._parts.store.lanes()}
        known = dict(self._parts.delivering.lanes)
        names = sorted(known.keys() | stored.keys())
        return as_json({"lanes": [_lane(name, known.get(name), stored.get(name)) for name in names]})


def _lane(name: str, lane: LaneLike | None, stored: Waiting | None) -> dict[str, object]:
    known = [lane.next_due if lane else None, stored.due if stored else None]
    dues = [due for due in known if due is not None and due < BEHIND]  # beyond, it waits for others of its stream
    return {
        "lane": name,
        "open": lane is None or lane.is_open,
        "closed_until": lane.closed_until if lane else None,
        "reason": lane.reason or None if lane else None,
        "under_way": sum(map(len, lane.under_way.values())) if lane else 0,
        "in_memory": lane.waiting if lane else 0,
        "waiting": stored.count if stored else 0,
        "oldest": stored.oldest if stored else None,
        "next_due": min(dues, default=None),
        "policy": plain(lane.policy) if lane else None,
    }
