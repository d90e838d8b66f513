"""Runs the broker, which kills itself (SIGKILL) the first time it comes to one exact point: `kill_at.py POINT CONFIG`.

The production code has no hooks for this: the methods around the point are wrapped here, from outside.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import uvloop

from broker import app, config, logs
from broker.channel import AnswerKind, Delivered
from broker.store import acceptance, changes, writer
from broker.store.writer import Writer
from plugins.http.answers import Answering
from plugins.http.sender import HttpSender


def die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Group:
    """Which operations the writer's group holds now."""

    def __init__(self) -> None:
        self.operations: set[str] = set()
        for room, name in ((acceptance, "accept"), (changes, "settle")):
            setattr(room, name, self._noted(name, getattr(room, name)))

    def _noted(self, name: str, operation: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*arguments: Any, **named: Any) -> Any:
            self.operations.add(name)
            return operation(*arguments, **named)

        return noted


def around_commit(operation: str, *, before: bool) -> None:
    """Dies before the COMMIT of a group with such an operation, or after it and before anybody is told."""
    group = Group()
    write = Writer._write

    def killing(self: Writer, jobs: list[Any], **named: Any) -> None:
        group.operations.clear()
        if before:
            self._db.set_trace_callback(
                lambda statement: die() if statement == "COMMIT" and operation in group.operations else None
            )
        write(self, jobs, **named)
        if operation in group.operations:
            die()

    Writer._write = killing  # type: ignore[assignment,method-assign]


def after_attempt() -> None:
    """The receiver has answered, and nothing of it is written."""
    attempt = HttpSender.attempt

    async def killing(self: HttpSender, transmission: Any) -> Any:
        result = await attempt(self, transmission)
        if isinstance(result, Delivered):
            die()
        return result

    HttpSender.attempt = killing  # type: ignore[method-assign]


def before_answer() -> None:
    """The response is stored, and the caller has heard nothing."""
    processed = Answering.processed

    async def killing(self: Answering, answer: Any) -> Any:
        if answer.kind is AnswerKind.RESPONSE:
            die()
        return await processed(self, answer)

    Answering.processed = killing  # type: ignore[method-assign]


POINTS: dict[str, Callable[[], None]] = {
    "read-not-committed": lambda: around_commit("accept", before=True),
    "committed-not-answered": lambda: around_commit("accept", before=False),
    "answered-not-settled": after_attempt,
    "settling": lambda: around_commit("settle", before=True),
    "settled-nobody-told": lambda: around_commit("settle", before=False),
    "response-not-written": before_answer,
}


def main() -> None:
    point, file = sys.argv[1:]
    POINTS[point]()
    writer.FOLLOWS = 10.0  # whatever follows from a message with a caller comes in time to share its transaction
    settings = config.load(file)
    logs.set_up(settings.log.level.value, settings.log.format.value)
    uvloop.run(app.run(settings))


if __name__ == "__main__":
    main()
