"""What a partner's frames, and its absence, mean: delivered, deferred or refused. Pure.

| what came | end of the attempt |
|---|---|
| `receipt`, kind `done` | delivered, nothing to say |
| any other `receipt` | delivered, custody |
| `response` | delivered, with the response |
| `refusal` with `again` | deferred; the peer's trouble unless it is about the destination |
| any other `refusal` | refused |
| handshake answered 3xx | refused: redirects are not followed |
| handshake answered 401, 408, 425, 429, 5xx | deferred, the peer's trouble |
| handshake answered otherwise | refused |
| no common subprotocol | refused: without an acknowledgement nobody knows what arrived |
| anything else | deferred |
"""

from __future__ import annotations

from datetime import timedelta
from http import HTTPStatus

from broker.channel import Deferred, Delivered, Refused, Taken
from broker.core.outcome import Problem, Who
from plugins.websocket import frames

LATER = frozenset({401, 408, 425, 429})  # 401 is trouble with our credentials, which somebody mends
LONGEST_RETRY_AFTER = timedelta(days=7)  # a peer's typing error is not to outlive every message
CODES = {403: "forbidden", 404: "not-found", 410: "deleted"}


def taken(frame: frames.Receipt | frames.Response | frames.Refusal, body: bytes) -> Delivered | Deferred | Refused:
    match frame:
        case frames.Receipt(kind="done"):
            return Delivered(taken=Taken.NOTHING_TO_SAY, note="receipt: done")
        case frames.Receipt():
            return Delivered(note=f"receipt: {_word(frame.kind)}")
        case frames.Response():
            return Delivered(body=body, media_type=frame.media_type, note="response")
        case frames.Refusal():
            return _refused(frame, body)


def _refused(frame: frames.Refusal, body: bytes) -> Deferred | Refused:
    note = f"refusal: {_word(frame.problem)}"
    if frame.again:
        wait = None if frame.retry_after is None else timedelta(seconds=min(max(frame.retry_after, 0), 1e6))
        return Deferred(
            note=note,
            of_peer=frame.about != "destination",
            retry_after=None if wait is None else min(wait, LONGEST_RETRY_AFTER),
        )
    outcome = body or bytes(frame.outcome)
    text = f"The receiver refused the message ({_word(frame.problem)}) and "
    return Refused(
        note=note,
        problem=Problem(
            code=_word(frame.code),
            id="refused-by-receiver",
            text=text + ("says why in its OperationOutcome." if outcome else "gave no reason."),
            who=Who.RECEIVER,
        ),
        body=outcome or None,
        media_type=(frame.media_type or frames.DEFAULT_MEDIA_TYPE) if outcome else None,
    )


def _word(text: str) -> str:
    """A peer's word for a note: short, and of no strange characters."""
    word = "".join(char for char in text[:60] if char.isascii() and (char.isalnum() or char in "-_."))
    return word or "unsaid"


def not_shaken(status: int, retry_after: str | None, address: str) -> Deferred | Refused:
    """The handshake was answered with something else than 101."""
    shown = said(status)
    if status in LATER or status >= 500 or status < 300:
        wait = int(retry_after[:9]) if retry_after and retry_after.isascii() and retry_after.isdigit() else None
        return Deferred(
            note=f"the handshake was answered {shown}",
            of_peer=True,
            retry_after=None if wait is None else min(timedelta(seconds=wait), LONGEST_RETRY_AFTER),
            status=status,
            left=False,
        )
    if status < 400:
        note, id = f"{shown}; redirects are not followed", "redirected"
        text = (
            f"The receiver's address {address} answers with a redirect ({status}), which is not followed; put the new"
        )
        text += " address into the directory."
    else:
        note, id = f"the handshake was answered {shown}", "refused-by-receiver"
        text = f"The receiver's address {address} does not open a WebSocket: it answers {shown}."
    problem = Problem(code=CODES.get(status, "processing"), id=id, text=text, who=Who.RECEIVER)
    return Refused(note=note, problem=problem, status=status)


def no_subprotocol(address: str) -> Refused:
    text = (
        f"The WebSocket server at {address} does not speak {frames.SUBPROTOCOL}, and without its acknowledgements"
        ' nobody would know what arrived. Give the destination the address "mailbox:", and let it connect here.'
    )
    problem = Problem(code="not-supported", id="no-acknowledgement", text=text, who=Who.RECEIVER)
    return Refused(note=f"no subprotocol {frames.SUBPROTOCOL}", problem=problem)


def said(status: int) -> str:
    """ "503 Service Unavailable": our words, since the reason phrase is the peer's."""
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)
