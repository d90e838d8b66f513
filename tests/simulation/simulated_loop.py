"""An event loop without a machine: time is a number, nothing waits, and what happens at once is dealt by a seed.

Callbacks belong to a `Life`, a process of the simulation, by the context that they run in. When a life ends, whatever
it had still to do is dropped on the spot: no `except`, no `finally`, as after kill -9.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Callable
from contextvars import Context, ContextVar, copy_context
from random import Random
from typing import Any

from broker.store import StoreError

NO_PROGRESS = 100_000  # callbacks at one instant: something goes round and round


class Life:
    """A process: it lives until it is killed, perhaps by a fuse that burns with each of its callbacks."""

    __slots__ = ("alive", "fuse", "killed", "name")

    def __init__(self, name: str, killed: Callable[[], None]) -> None:
        self.name = name
        self.alive = True
        self.fuse: int | None = None  # callbacks that are left
        self.killed = killed


LIFE: ContextVar[Life | None] = ContextVar("LIFE", default=None)


class Handle:
    """A callback, as asyncio knows it."""

    __slots__ = ("_arguments", "_callback", "_cancelled", "_context", "_when")

    def __init__(self, callback: Callable[..., Any], arguments: tuple[Any, ...], context: Context | None) -> None:
        self._callback: Callable[..., Any] | None = callback
        self._arguments = arguments
        self._context = copy_context() if context is None else context
        self._cancelled = False
        self._when = 0.0

    def cancel(self) -> None:
        self._cancelled = True
        self._callback = None
        self._arguments = ()

    def cancelled(self) -> bool:
        return self._cancelled

    def when(self) -> float:
        return self._when


class SimulatedLoop(asyncio.AbstractEventLoop):
    def __init__(self, dice: Random) -> None:
        self._dice = dice
        self._time = 0.0
        self._ready: deque[Handle] = deque()
        self._timers: list[tuple[float, float, int, Handle]] = []
        self._entered = 0
        self._is_over = False
        self.failures: list[str] = []  # of tasks that nobody asked for their end

    # -- what asyncio asks of a loop

    def time(self) -> float:
        return self._time

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return self._is_over

    def call_soon(self, callback: Callable[..., Any], *args: Any, context: Context | None = None) -> Handle:  # type: ignore[override]
        handle = Handle(callback, args, context)
        if not self._is_over:
            self._ready.append(handle)
        return handle

    call_soon_threadsafe = call_soon  # type: ignore[assignment]

    def call_later(
        self, delay: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> Handle:  # type: ignore[override]
        return self.call_at(self._time + delay, callback, *args, context=context)

    def call_at(self, when: float, callback: Callable[..., Any], *args: Any, context: Context | None = None) -> Handle:  # type: ignore[override]
        handle = Handle(callback, args, context)
        handle._when = when
        if not self._is_over:
            self._entered += 1
            # of what is due at the same instant, the dice say what comes first
            heapq.heappush(self._timers, (when, self._dice.random(), self._entered, handle))
        return handle

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, *, name: str | None = None, context: Context | None = None) -> asyncio.Task[Any]:  # type: ignore[override]
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=self, name=name or "", context=context)
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        return task

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        """Another thread's work is done at once, and is heard of some time later."""
        future = self.create_future()

        def done() -> None:
            if future.cancelled():
                return
            try:
                future.set_result(func(*args))
            except Exception as error:
                future.set_exception(error)

        self.call_later(self._dice.random() * 0.002, done)
        return future

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        # a write that fails when its broker stops on a full disk is nobody's any more
        if not self._is_over and not isinstance(context.get("exception"), StoreError):
            self.failures.append(f"{context.get('message')}: {context.get('exception')!r}")

    def _timer_handle_cancelled(self, handle: Handle) -> None:
        """asyncio's own handles count these."""

    # -- running

    def run(self, until: float) -> None:
        """Runs what is due up to that time; nothing else moves the clock."""
        asyncio._set_running_loop(self)
        try:
            while self._step(until):
                pass
        finally:
            asyncio._set_running_loop(None)

    def _step(self, until: float) -> bool:
        count = 0
        while self._ready:
            count += 1
            if count > NO_PROGRESS:
                raise RuntimeError(f"the clock stands still at {self._time}: something goes round and round")
            self._do(self._ready.popleft())
        timers = self._timers
        while timers and timers[0][3]._cancelled:
            heapq.heappop(timers)
        if not timers or timers[0][0] > until:
            self._time = max(self._time, until)
            return False
        self._time = max(self._time, timers[0][0])
        while timers and timers[0][0] <= self._time:
            handle = heapq.heappop(timers)[3]
            if not handle._cancelled:
                self._ready.append(handle)
        return True

    def _do(self, handle: Handle) -> None:
        if handle._cancelled:
            return
        context = handle._context
        life = context.get(LIFE)
        if life is not None:
            if not life.alive:
                return
            if life.fuse is not None:
                life.fuse -= 1
                if life.fuse < 0:
                    life.fuse = None
                    life.killed()
                    return
        assert handle._callback is not None
        try:
            context.run(handle._callback, *handle._arguments)
        except Exception as error:
            self.failures.append(f"a callback failed: {error!r}")

    def begin(self, life: Life | None, coro: Any) -> asyncio.Task[Any]:
        """Starts a task of that life."""
        context = Context()
        context.run(LIFE.set, life)
        return context.run(self.create_task, coro, context=context)

    def end(self) -> None:
        """Nothing happens any more, whatever asks for it."""
        self._is_over = True
        self._ready.clear()
        self._timers.clear()
