"""The callers that wait for the answer to a message, and what they have been told."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable
from datetime import datetime, timedelta

from broker.core.answer import Answer, AnswerKind, Receipt
from broker.core.answering import answer_now
from broker.core.delivery import Outcome
from broker.store import Copy, Kept

REMEMBERED = 10_000  # waits that ended; a response that comes after so many others have is returned, not dropped


class Caller:
    """One caller: what it waits for, and the future that its answer arrives in."""

    __slots__ = ("answer", "ends", "kept", "listens_on", "position", "receipt", "refuses", "until")
    receipt: Receipt

    def __init__(self, *, listens_on: bool, until: datetime, refuses: bool) -> None:
        self.position = 0  # once it is known, the receipt with it
        self.listens_on = listens_on  # beyond the receiver's plain acknowledgement, for the response message
        self.until = until
        self.refuses = refuses  # when the wait ends, what has not left is withdrawn
        self.ends: dict[int, Outcome | None] = {}
        self.kept: asyncio.Future[Kept | Copy] | None = None  # until then nothing is answered
        self.answer: asyncio.Future[Answer | None] = (
            asyncio.get_running_loop().create_future()
        )  # None: the wait is over

    def expect(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            self.ends.setdefault(number, None)

    def was_told(self, kind: AnswerKind) -> bool:
        answer = self.answer
        if not answer.done() or answer.cancelled() or answer.exception() is not None:
            return False
        said = answer.result()
        return said is not None and said.kind is kind

    def time_is_over(self) -> None:
        if not self.answer.done():
            self.answer.set_result(None)

    def look(self) -> None:
        """Answers if what has ended is enough for it."""
        answer = answer_now(list(self.ends.values()), listens_on=self.listens_on, receipt=self.receipt)
        if answer is not None and not self.answer.done():
            self.answer.set_result(answer)


class Callers:
    def __init__(self) -> None:
        self._waiting: dict[int, list[Caller]] = {}
        self._shared: set[int] = set()  # messages that a copy asked for too, whose sender does not wait
        self._gave_up: dict[int, None] = {}  # messages whose caller's wait ended, the oldest first

    def enter(self, caller: Caller, receipt: Receipt) -> None:
        caller.position, caller.receipt = receipt.position, receipt
        self._waiting.setdefault(caller.position, []).append(caller)

    def leave(self, caller: Caller) -> None:
        here = self._waiting.get(caller.position)
        if here is not None and caller in here:
            here.remove(caller)
            if not here:
                del self._waiting[caller.position]
                self._shared.discard(caller.position)

    def gave_up(self, caller: Caller) -> None:
        """The wait of this caller ended before its answer came."""
        self.leave(caller)
        self._gave_up[caller.position] = None
        if len(self._gave_up) > REMEMBERED:
            del self._gave_up[next(iter(self._gave_up))]

    def is_too_late(self, position: int) -> bool:
        """Whether a caller waited for this message, in vain: its response is late for it."""
        return position in self._gave_up

    def waits(self, position: int) -> bool:
        """Whether somebody listens who has not been answered yet."""
        callers = self._waiting.get(position)
        return callers is not None and any(not caller.answer.done() for caller in callers)

    def share(self, position: int) -> None:
        """A copy was taken that does not wait: the connection of who does may be long dead, and not known to be."""
        if position in self._waiting:
            self._shared.add(position)

    def waits_alone(self, position: int) -> bool:
        """Whether what comes of the message is to be told to who listens, and to nobody else."""
        return self.waits(position) and position not in self._shared

    def would_hear_refused(self, position: int, numbers: Collection[int]) -> bool:
        """Whether a refusal of these is the answer of somebody who waits: there is nothing else to wait for."""
        return self.waits_alone(position) and all(
            outcome is not None and outcome.problem is not None
            for caller in self._waiting[position]
            for number, outcome in caller.ends.items()
            if number not in numbers
        )

    def wait_left(self, position: int, now: datetime) -> timedelta | None:
        """How much longer the most patient of them waits; None where nobody does."""
        callers = self._waiting.get(position)
        if callers is None:
            return None
        untils = [caller.until for caller in callers if not caller.answer.done()]
        return max(untils) - now if untils else None

    def listens_on(self, position: int) -> bool:
        """Whether one of them is not content with a receiver's plain acknowledgement."""
        return any(caller.listens_on for caller in self._waiting.get(position, ()) if not caller.answer.done())

    def count(self) -> int:
        return sum(map(len, self._waiting.values()))

    def ended(self, position: int, numbers: Iterable[int], outcome: Outcome) -> bool:
        """Deliveries have ended; says whether anybody who waited is told now that all of it was refused."""
        told = False
        if position not in self._waiting:
            return told
        numbers = tuple(numbers)
        for caller in tuple(self._waiting[position]):
            if not caller.answer.done():
                caller.ends.update(dict.fromkeys(numbers, outcome))
                caller.look()
                told |= caller.was_told(AnswerKind.REFUSED)
        return told

    def tell_kept(self) -> None:
        """The broker stops: who still waits hears now that the message is kept, and asks its status later."""
        for caller in [caller for callers in self._waiting.values() for caller in callers]:
            if not caller.answer.done():
                caller.answer.set_result(Answer(kind=AnswerKind.KEPT, receipt=caller.receipt))

    def respond(self, position: int, body: bytes, media_type: str) -> bool:
        """The response is here; says whether anybody heard it."""
        told = False
        for caller in tuple(self._waiting.get(position, ())):
            if not caller.answer.done():
                answer = Answer(kind=AnswerKind.RESPONSE, receipt=caller.receipt, body=body, media_type=media_type)
                caller.answer.set_result(answer)
                told = True
        return told
