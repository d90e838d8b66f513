"""Takes a `send` in, and says in frames what became of it: the same whichever side opened the connection."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import msgspec
import structlog

from broker.channel import Answer, AnswerKind, Arrival, Asked, Hold, Host, Peer
from broker.core.envelope import Envelope
from broker.core.fhir.header import Release
from broker.core.message import digest_text
from broker.core.outcome import Problem, Refusal, StoreUnavailable, TooLarge, Who, passes
from plugins.websocket import frames
from plugins.websocket.frames import Payload, Ref

log = structlog.get_logger("websocket")

BESIDE_THE_LOOP = 1024 * 1024  # hashing this much takes longer than anybody else should wait
LONGEST_WAIT = 24 * 3600  # seconds; a wish, which the rule's `longest` cuts down anyway
RETRY_WHEN_CLOSED = 5.0  # seconds: a restart takes about that long
UNSAID = Problem(
    code="processing",
    id="refused-by-receiver",
    who=Who.RECEIVER,
    text="The receiver refused the message and did not say why.",
)
OUR_BUG = Problem(
    code="exception",
    id="internal-error",
    who=Who.BROKER,
    text="Something failed in this broker; its log says what. Send the message again later.",
)


class Speaker(msgspec.Struct, frozen=True, kw_only=True):
    """Who is at the other end of a connection: the same for every message that comes over it."""

    peer: Peer
    headers: tuple[tuple[str, str], ...] = ()
    way_in: str | None = None


def closed() -> StoreUnavailable:
    return StoreUnavailable(
        "this broker is starting or stopping; send the message again",
        code="transient",
        id="draining",
        retry_after=RETRY_WHEN_CLOSED,
    )


def arrival(
    host: Host,
    speaker: Speaker,
    *,
    body: bytes,
    media_type: str,
    envelope: Envelope,
    asked: Asked,
    reference: str | None = None,
    hold: Hold | None = None,
    event: bool = False,
) -> Arrival:
    return Arrival(
        channel="websocket",
        peer=speaker.peer,
        body=body,
        media_type=media_type,
        at=host.now(),
        envelope=envelope,
        asked=asked,
        way_in=speaker.way_in,
        headers=speaker.headers,
        reference=reference,
        hold=hold,
        event=event,
    )


async def check(host: Host, body: bytes, envelope: Envelope) -> None:
    """What is refused whatever the content: too large, or not the bytes that the sender speaks of."""
    if len(body) > host.max_message:
        raise TooLarge(f"the body is larger than the {host.max_message} bytes that this broker takes")
    if envelope.digest is None:
        return
    if digest_text(await digest_of(body)) != envelope.digest:
        raise Refusal(
            "the body is not the one that the envelope's digest speaks of: it was changed on the way; send it again",
            code="transient",
            id="digest-mismatch",
            expression="envelope.digest",
        )


async def digest_of(body: bytes) -> bytes:
    if len(body) < BESIDE_THE_LOOP:
        return hashlib.sha256(body).digest()
    return await asyncio.to_thread(lambda: hashlib.sha256(body).digest())


async def take(host: Host, speaker: Speaker, send: frames.Send, body: bytes, hold: Hold | None) -> Payload:
    """The receipt, response or refusal of one message; never raises but for a cancellation."""
    release = host.default_release
    try:
        envelope = frames.envelope_of(send)
        await check(host, body, envelope)
        reference = send.ref if isinstance(send.ref, str) else str(send.ref)
        answer = await host.accept(
            arrival(
                host,
                speaker,
                body=body,
                media_type=send.media_type,
                envelope=envelope,
                asked=_asked(send),
                reference=reference,
                hold=hold,
                event=envelope.is_event,
            )
        )
    except Refusal as refusal:
        return refused(send.ref, refusal, release)
    except Exception:
        log.exception("a message could not be taken in", peer=speaker.peer.address)
        return refusal_frame(send.ref, [OUR_BUG], release)
    finally:
        if hold is not None:
            hold.let_go()
    return answered(send.ref, answer, release)


def _asked(send: frames.Send) -> Asked:
    if send.wait is False:
        return Asked(asynchronous=True, response_url=send.response_url)
    wait = None if send.wait is True else timedelta(seconds=min(max(float(send.wait), 0.0), LONGEST_WAIT))
    return Asked(wait=wait, response_url=send.response_url)


# --- answers ---------------------------------------------------------------------------------------------------------


def answered(ref: Ref, answer: Answer, release: Release) -> Payload:
    receipt = answer.receipt
    kept: dict[str, Any] = {"ref": ref, "id": receipt.message_id, "position": receipt.position}
    if receipt.duplicate:
        kept["duplicate"] = True
    if answer.kind is AnswerKind.RESPONSE:
        media_type = answer.media_type or frames.DEFAULT_MEDIA_TYPE
        return frames.with_body({"type": "response", **kept, "media_type": media_type}, answer.body or b"")
    if answer.kind is AnswerKind.REFUSED:
        problems = [answer.problem or UNSAID, *receipt.notes]
        if answer.body:
            more = {**kept, "kept": True, "media_type": answer.media_type or frames.DEFAULT_MEDIA_TYPE}
            return frames.with_body(_refusal(problems, more), answer.body)
        return refusal_frame(ref, problems, release, kept={**kept, "kept": True})
    if answer.kind is AnswerKind.WITHDRAWN:
        problem = Problem(
            code="timeout",
            id="withdrawn",
            who=Who.RECEIVER,
            text="No response came in time, and what had not left was withdrawn.",
        )
        return refusal_frame(ref, [problem], release, kept={**kept, "kept": False, "left": answer.left})
    frame: dict[str, Any] = {"type": "receipt", "kind": answer.kind.value, **kept}
    if receipt.notes:
        frame["outcome"] = frames.outcome(list(receipt.notes), release)
    return frames.text(frame)


def refused(ref: Ref | None, refusal: Refusal, release: Release) -> Payload:
    return refusal_frame(ref, refusal.problems, release, retry_after=refusal.retry_after)


def refusal_frame(
    ref: Ref | None,
    problems: Sequence[Problem],
    release: Release,
    *,
    retry_after: float | None = None,
    kept: dict[str, Any] | None = None,
) -> Payload:
    frame = _refusal(problems, {"ref": ref, "kept": False, **(kept or {})})
    if retry_after is not None:
        frame["retry_after"] = retry_after
    frame["outcome"] = frames.outcome(list(problems), release)
    return frames.text(frame)


def _refusal(problems: Sequence[Problem], more: dict[str, Any]) -> dict[str, Any]:
    first = problems[0]
    frame: dict[str, Any] = {
        "type": "refusal",
        **more,
        "code": first.code,
        "problem": first.id,
        "who": first.who.value,
        "text": first.text,
        "again": passes(first),
    }
    if first.who is Who.RECEIVER or any("destination" in path.lower() for path in first.expression):
        frame["about"] = "destination"
    return frame
