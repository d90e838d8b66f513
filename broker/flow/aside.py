"""Large messages are read aside, in a process of their own, so that nobody else waits while one is read.

To read 32 MiB is a handful of calls into C, and each keeps the interpreter for 20 to 100 ms: a thread would not help.
The process is started by the first large message, reads one at a time, and is ended once none has come for a while.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import msgspec
import structlog

from broker.channel import Arrival
from broker.core.fhir.header import Header
from broker.core.outcome import MessageInvalid, Refusal, TooLarge, Unsupported
from broker.core.subscription.content import Place
from broker.flow import aside_reader
from broker.flow.aside_reader import COUNT, SIZES, Question, Said
from broker.flow.letter import opened_here

log = structlog.get_logger("broker.aside")

ASIDE = 1 << 20  # bytes; reading and hashing more than this would hold up the event loop for milliseconds
IDLE = 60.0  # seconds without a large message after which the process is ended: it holds some 30 MiB
DEADLINE = 60.0  # seconds for each step of an exchange with it; to read 32 MiB takes half a second
END = 5.0  # seconds that it has to end by itself

KINDS: dict[str, type[Refusal]] = {kind.__name__: kind for kind in (Refusal, MessageInvalid, TooLarge, Unsupported)}

_QUESTION = msgspec.json.Encoder()
_SAID = msgspec.json.Decoder(Said)


class Aside:
    """Reads what is large elsewhere, and the rest at once."""

    def __init__(self) -> None:
        # one thread: it talks to the process, and what comes meanwhile waits for it (`limits.in_flight` bounds that)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="aside")
        self._reader: _Reader | None = None  # the thread's
        self._closing = False
        self._used = 0.0  # loop time
        self._looks: asyncio.TimerHandle | None = None

    async def opened(self, arrival: Arrival) -> tuple[Header, bytes]:
        """The header of what came, and the SHA-256 of its bytes; raises Refusal for what cannot be read."""
        if len(arrival.body) <= ASIDE:
            return opened_here(arrival)
        said = await self._said(Question(media_type=arrival.media_type, release=arrival.release), arrival.body)
        if said is None:
            return await asyncio.to_thread(opened_here, arrival)
        if said.header is None:
            raise _refusal(said)
        return said.header, said.sha256

    async def entries(self, media_type: str, body: bytes) -> tuple[tuple[Place, ...] | None, bool]:
        """Where the entries of a message stand, if that can be told elsewhere, and whether it may be a notification."""
        said = await self._said(Question(media_type=media_type, opens=True), body)
        return (None, True) if said is None or said.problem is not None else (said.entries, said.is_marked)

    async def _said(self, question: Question, body: bytes) -> Said | None:
        """What the process says; None where there is none to be had."""
        loop = asyncio.get_running_loop()
        try:
            said = await loop.run_in_executor(self._thread, self._ask, _QUESTION.encode(question), body)
        except (OSError, EOFError, msgspec.DecodeError) as error:
            log.warning("a large message is read here, since the process for it failed", error=str(error))
            return None
        finally:
            self._used = loop.time()
            if self._looks is None:
                self._looks = loop.call_later(IDLE, self._look)
        if said.bug is not None:
            raise RuntimeError(f"reading a large message failed: {said.bug}")
        return said

    def _look(self) -> None:
        """Ends the process once it has been idle for long enough."""
        loop = asyncio.get_running_loop()
        left = self._used + IDLE - loop.time()
        if left > 0:
            self._looks = loop.call_later(left, self._look)
        else:
            self._looks = None
            loop.run_in_executor(self._thread, self._end)

    async def close(self) -> None:
        """Ends the process; what is being read there is not waited for."""
        self._closing = True
        if self._looks is not None:
            self._looks.cancel()
        if self._reader is not None:
            self._reader.hang_up()
        self._thread.submit(self._end)
        await asyncio.to_thread(self._thread.shutdown)

    # -- in the thread

    def _ask(self, question: bytes, body: bytes) -> Said:
        """Once more with a new process where the old one is gone: it may have been ended by somebody else."""
        if self._reader is not None:
            try:
                return self._reader.ask(question, body)
            except (ConnectionError, EOFError):
                self._end()
            except (OSError, msgspec.DecodeError):
                self._end()
                raise
        if self._closing:
            raise EOFError("the broker stops")
        self._reader = _Reader()
        try:
            return self._reader.ask(question, body)
        except (OSError, EOFError, msgspec.DecodeError):
            self._end()
            raise

    def _end(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.end()


class _Reader:
    """The process, and the socket that it is asked over; it ends when the socket is closed, be it by our death."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        self._socket.settimeout(DEADLINE)
        command = [sys.executable, "-P", "-m", aside_reader.__name__, str(theirs.fileno())]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        with theirs:
            try:
                self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=(theirs.fileno(),), env=env)
            except OSError:
                self._socket.close()
                raise

    def ask(self, question: bytes, body: bytes) -> Said:
        """The calls that take long, all of them into the kernel, let the interpreter go."""
        self._socket.sendall(SIZES.pack(len(question), len(body)) + question)
        self._socket.sendall(body)
        return _SAID.decode(self._receive(*COUNT.unpack(self._receive(COUNT.size))))

    def _receive(self, count: int) -> bytes:
        pieces = bytearray()
        while len(pieces) < count:
            piece = self._socket.recv(count - len(pieces))
            if not piece:
                raise EOFError("it ended before it had read the message")
            pieces += piece
        return bytes(pieces)

    def hang_up(self) -> None:
        """May be called from another thread than the one that asks, which hears of it as of an end."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:  # it has hung up itself
            log.debug("the process for large messages is gone already")

    def end(self) -> None:
        self._socket.close()
        try:
            self.process.wait(END)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def _refusal(said: Said) -> Refusal:
    problem = said.problem
    assert problem is not None, "there is a header, a problem or a bug"
    return KINDS[said.kind](
        problem.text,
        code=problem.code,
        id=problem.id,
        who=problem.who,
        expression=problem.expression,
        diagnostics=problem.diagnostics,
        retry_after=said.retry_after,
        also=said.also,
    )
