"""Which request a response answers (design section 2, respond)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum

import msgspec


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """A delivery of a message that carries one of the quoted ids."""

    position: int
    number: int
    request_source: str  # comparison key of who sent the request
    destination: str  # comparison key of where we carried it; "" where only an address is known
    address: str
    open: bool  # a response is still looked for
    answered: bool
    carried: bool  # an attempt may have left, or it stands in a mailbox


class Verdict(Enum):
    ANSWERS = "answers"
    LATE = "late"  # it belongs to a request that is closed
    DOUBLE = "double"  # its delivery has an answer
    UNMATCHED = "unmatched"


class Match(msgspec.Struct, frozen=True, kw_only=True):
    verdict: Verdict
    position: int = 0
    number: int = 0


UNMATCHED = Match(verdict=Verdict.UNMATCHED)


def match(
    candidates: Sequence[Candidate],
    *,
    source: str,
    destinations: Sequence[str],
    is_at: Callable[[str], bool],
    lives_at: Callable[[str], bool],
    hop_at: Callable[[str], bool] = lambda address: False,
) -> Match:
    """Finds the request of a response; `candidates` come newest first.

    It must be addressed to who asked (or to nobody), and come from where we carried the request: from the endpoint of
    that name, from one that calls itself by that very address (`is_at`), or, where the request named none, from one
    that the directory knows there (`lives_at`). A broker on the way speaks for itself, in its reports: it is believed
    where the hop that handed its word in is the one to which we carried the request (`hop_at`). An id alone proves
    nothing, since ids are guessed and repeat.
    """

    def comes_from(candidate: Candidate) -> bool:
        if is_at(candidate.address) or hop_at(candidate.address):
            return True
        return candidate.destination == source if candidate.destination else lives_at(candidate.address)

    fitting = [
        candidate
        for candidate in candidates
        if candidate.carried
        and (not destinations or not candidate.request_source or candidate.request_source in destinations)
        and comes_from(candidate)
    ]
    for candidate in fitting:
        if candidate.open:
            return Match(verdict=Verdict.ANSWERS, position=candidate.position, number=candidate.number)
    if not fitting:
        return UNMATCHED
    first = fitting[0]
    verdict = Verdict.DOUBLE if first.answered else Verdict.LATE
    return Match(verdict=verdict, position=first.position, number=first.number)
