"""The admin interface: `/admin/v1`, for operators and the command line, on the admin listener only."""

from __future__ import annotations

import platform
from collections.abc import Awaitable, Callable

from aiohttp import web

from broker import __version__
from broker.api.admin_dead import Dead
from broker.api.admin_directory import Whereabouts
from broker.api.admin_frame import PREFIX, as_json, in_json
from broker.api.admin_lanes import Lanes
from broker.api.admin_messages import Messages
from broker.api.admin_parts import DeliveringLike, HealthLike, HereLike, Parts
from broker.api.admin_report import Parties, Report
from broker.api.admin_streams import Streams
from broker.api.admin_subscriptions import Subscriptions
from broker.api.openapi import document
from broker.api.subscription_service import SubscriptionService
from broker.core.policy import Policy
from broker.core.rules import RuleSet
from broker.directory import Directory, Snapshot
from broker.store import Store
from broker.store.ledger import Ledger


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
    ledger: Ledger,
    parties: Parties,
    changed: Callable[[Snapshot, Snapshot], Awaitable[int]] | None = None,
    subscriptions: SubscriptionService | None = None,
) -> None:
    """Adds every route under `/admin/v1`, and the frame that answers in JSON and keeps web pages out."""
    parts = Parts(
        here=here, store=store, directory=directory, rules=rules, defaults=defaults, delivering=delivering,
        health=health, changed=changed, subscriptions=subscriptions,
    )  # fmt: skip
    app.middlewares.append(in_json)
    admin, messages, dead, where = Admin(parts), Messages(parts), Dead(parts), Whereabouts(parts)
    lanes, streams, report = Lanes(parts), Streams(parts), Report(parts, ledger, parties)
    subscribed = Subscriptions(parts)
    routes = [
        ("GET", "/status", admin.status),
        ("GET", "/lanes", lanes.list),
        ("POST", "/lanes/{name}/hold", lanes.hold),
        ("POST", "/lanes/{name}/resume", lanes.resume),
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
        ("GET", "/report", report.totals),
        ("GET", "/report/messages", report.messages),
        ("GET", "/subscriptions", subscribed.list),
        ("GET", "/subscriptions/{id}", subscribed.show),
        ("POST", "/subscriptions/{id}/off", subscribed.off),
        ("POST", "/subscriptions/{id}/on", subscribed.on),
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
