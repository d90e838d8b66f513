"""The lanes over the admin interface: what waits for each peer, who is left alone, and an operator's holds."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from broker.api.admin_frame import AdminError, as_json, object_of
from broker.api.admin_parts import LaneLike, Parts
from broker.core.explain import plain
from broker.core.hold import LONGEST_REASON, Hold, Phase
from broker.store import BEHIND, Waiting

LONGEST_NAME = 500  # characters


class Lanes:
    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def list(self, _request: web.Request) -> web.Response:
        """Every lane that memory, the store or an operator knows."""
        stored = {waiting.lane: waiting for waiting in await self._parts.store.lanes()}
        delivering, now = self._parts.delivering, self._parts.here.now()
        known, holds = dict(delivering.lanes), dict(delivering.holds)
        names = sorted(known.keys() | stored.keys() | holds.keys())
        return as_json({
            "lanes": [_lane(name, known.get(name), stored.get(name), holds.get(name), now) for name in names]
        })  # fmt: skip

    async def hold(self, request: web.Request) -> web.Response:
        """Lets nothing go to a peer, from now or a time on, until a time or for good."""
        name, now = _name(request), self._parts.here.now()
        body = await object_of(request)
        unknown = set(body) - {"reason", "from", "until"}
        if unknown:
            text = f"the body knows `reason`, `from` and `until`, not {', '.join(sorted(unknown))}"
            raise AdminError(400, "bad-request", text)
        reason = body.get("reason") or ""
        if not isinstance(reason, str) or len(reason) > LONGEST_REASON:
            raise AdminError(400, "bad-request", f"`reason` must be a text of up to {LONGEST_REASON} characters")
        begins, ends = _instant(body, "from"), _instant(body, "until")
        begins = now if begins is None else begins
        if ends is not None and ends <= max(begins, now):
            raise AdminError(400, "hold-over", f"`until` ({ends.isoformat()}) must be later than its beginning and now")
        hold = Hold(lane=name, reason=" ".join(reason.split()), begins=begins, ends=ends, ordered=now)
        known = name in self._parts.delivering.lanes
        await self._parts.delivering.hold(hold)
        return as_json({"lane": name, "known": known, "hold": _hold(hold, now)})

    async def resume(self, request: web.Request) -> web.Response:
        """Ends a hold, whether it has begun or not."""
        name = _name(request)
        if not await self._parts.delivering.resume(name):
            text = f"no hold on {name!r} is known; `GET /admin/v1/lanes` lists the lanes and what holds them"
            raise AdminError(404, "not-held", text)
        return as_json({"lane": name})


def _name(request: web.Request) -> str:
    name = request.match_info["name"]
    if not name.strip() or len(name) > LONGEST_NAME or not name.isprintable():
        raise AdminError(400, "bad-request", "the name of a lane is what `lanes ls` shows, as http:ehr.example:443")
    return name


def _instant(body: dict[str, Any], name: str) -> datetime | None:
    """A time with its offset; without one nobody knows whose it is."""
    text = body.get(name)
    if text is None:
        return None
    try:
        instant = datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        instant = None
    if instant is None or instant.tzinfo is None:
        raise AdminError(400, "bad-request", f"`{name}` must be a time with Z or an offset, as 2026-11-22T02:00:00Z")
    try:
        return instant.astimezone(UTC)
    except OverflowError:
        raise AdminError(400, "bad-request", f"`{name}` is out of range") from None


def _lane(
    name: str, lane: LaneLike | None, stored: Waiting | None, hold: Hold | None, now: datetime
) -> dict[str, object]:
    known = [lane.next_due if lane else None, stored.due if stored else None]
    dues = [due for due in known if due is not None and due < BEHIND]  # beyond, it waits for others of its stream
    return {
        "lane": name,
        "state": _state(lane, hold, now),
        "open": (lane is None or lane.is_open) and _state(None, hold, now) == "open",
        "closed_until": lane.closed_until if lane else None,
        "reason": lane.reason or None if lane else None,
        "hold": _hold(hold, now) if hold else None,
        "left_alone": [
            {"destination": key, "until": until, "reason": why} for key, until, why in (lane.left_alone if lane else ())
        ],
        "under_way": sum(map(len, lane.under_way.values())) if lane else 0,
        "in_memory": lane.waiting if lane else 0,
        "waiting": stored.count if stored else 0,
        "oldest": stored.oldest if stored else None,
        "next_due": min(dues, default=None),
        "policy": plain(lane.policy) if lane else None,
    }


def _state(lane: LaneLike | None, hold: Hold | None, now: datetime) -> str:
    if hold is not None and hold.phase(now) is Phase.HELD:
        return "held"
    return "open" if lane is None or lane.closed_until is None else "closed"


def _hold(hold: Hold, now: datetime) -> dict[str, object]:
    return {
        "phase": hold.phase(now).value, "reason": hold.reason or None, "from": hold.begins, "until": hold.ends,
        "ordered": hold.ordered,
    }  # fmt: skip
