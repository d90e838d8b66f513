"""Dials for HTTP (broker.dialing), and says in HTTP's words why there is no connection."""

from __future__ import annotations

import ssl
from collections.abc import Callable

from broker.dialing import NotDialed, Origin, anywhere
from broker.dialing import dial as dial_any
from plugins.http.exchange import Connection, NoAnswer, Trouble


async def dial(
    origin: Origin,
    build: Callable[[], Connection],
    context: ssl.SSLContext | None,
    seconds: float,
    *,
    may_be_here: Callable[[str], bool] = anywhere,
) -> Connection:
    """A connection that is ready to be written to; raises `NoAnswer`, and ValueError for a host that is no name."""
    try:
        return await dial_any(origin, build, context, seconds, may_be_here=may_be_here)
    except NotDialed as not_dialed:
        raise NoAnswer(Trouble[not_dialed.why.name], not_dialed.reason) from None
