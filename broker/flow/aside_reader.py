"""The process that reads large messages: asked over the socket that it was started with, until that is closed.

A question is two sizes, the question proper and the body; what is said is its size and itself.
"""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import struct
import sys
import traceback
from contextlib import suppress

import msgspec

from broker.core.fhir.header import Header, Release
from broker.core.fhir.media import media_type
from broker.core.outcome import Problem, Refusal
from broker.core.reading import read_header
from broker.core.subscription.content import Place, places_in
from broker.core.subscription.notification import MARK

SIZES = struct.Struct("!IQ")
COUNT = struct.Struct("!I")
NICE = 5  # small messages go first where processors are short


class Question(msgspec.Struct, frozen=True, kw_only=True):
    media_type: str
    release: Release | None = None
    opens: bool = False  # whether its entries are wanted, not its header


class Said(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A header, a refusal, or the place of a bug."""

    header: Header | None = None
    sha256: bytes = b""
    kind: str = ""  # of refusal
    problem: Problem | None = None
    also: tuple[Problem, ...] = ()
    retry_after: float | None = None
    bug: str | None = None
    entries: tuple[Place, ...] | None = None
    is_marked: bool = False  # it may be a notification of an event


def said_of(question: Question, body: bytes) -> Said:
    try:
        if question.opens:
            format = media_type(question.media_type).format
            return Said(entries=places_in(body, format), is_marked=MARK in body)
        header = read_header(body, media_type(question.media_type), url_release=question.release)
        return Said(header=header, sha256=hashlib.sha256(body).digest())
    except Refusal as refusal:
        return Said(
            kind=type(refusal).__name__,
            problem=refusal.problem,
            also=refusal.also,
            retry_after=refusal.retry_after,
        )
    except Exception as error:  # where it was, and never its words: they may quote the message
        place = traceback.extract_tb(error.__traceback__)[-1]
        return Said(bug=f"{type(error).__name__} in {place.name}, {os.path.basename(place.filename)}:{place.lineno}")


def serve(asked: socket.socket) -> None:
    question_of, encode = msgspec.json.Decoder(Question).decode, msgspec.json.Encoder().encode
    with asked, asked.makefile("rb") as questions:
        while len(sizes := questions.read(SIZES.size)) == SIZES.size:
            short, long = SIZES.unpack(sizes)
            question, body = questions.read(short), questions.read(long)
            if len(body) < long:
                return
            said = encode(said_of(question_of(question), body))
            del body  # it would be held until the next has come
            asked.sendall(COUNT.pack(len(said)) + said)


def main() -> None:
    for ours in (signal.SIGINT, signal.SIGTERM):  # they are the broker's business; we end when it closes the socket
        signal.signal(ours, signal.SIG_IGN)
    with suppress(OSError):  # a service manager may have forbidden it
        os.nice(NICE)
    with suppress(ConnectionError):
        serve(socket.socket(fileno=int(sys.argv[1])))


if __name__ == "__main__":
    main()
