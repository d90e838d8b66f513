"""Our own reports to a source: that its message was given up, not answered, not read (A-43); none causes another."""

from __future__ import annotations

import hashlib
from asyncio import Future
from collections.abc import Callable
from datetime import datetime
from typing import Any

import structlog

from broker.core.delivery import Outcome
from broker.core.envelope import Envelope
from broker.core.fhir.bounce import report
from broker.core.fhir.header import Destination, Format, Header, Identifier, Release, ResponseLink
from broker.core.fhir.issues import issues_of
from broker.core.fhir.media import media_type
from broker.core.fhir.write import Resource
from broker.core.message import Fate, Message, digest_text
from broker.core.outcome import Problem, Refusal
from broker.flow.here import Here
from broker.flow.letter import event_type
from broker.store import NewDelivery, NewMessage

log = structlog.get_logger("broker.report")

WayBack = Callable[[Message, datetime], tuple[NewDelivery, ...]]


class Reports:
    """Makes reports and hands them to the store; `post` is how one that comes alone gets on its way."""

    def __init__(self, *, here: Here, way_back: WayBack, post: Callable[[NewMessage], Future[Any]]) -> None:
        self._here = here
        self._way_back = way_back
        self._post = post

    def send(self, position: int, about: Message, problem: Problem, *, final: bool, destination: str | None) -> None:
        """A report that comes with no change of a delivery."""
        new = self.about(position, about, problem, final=final, destination=destination)
        if new is not None:
            self._post(new)

    def about(
        self,
        position: int,
        about: Message,
        problem: Problem,
        *,
        final: bool,
        destination: str | None,
        outcome: Outcome | None = None,
    ) -> NewMessage | None:
        """The report; None for what is never reported on (A-41): responses and reports.

        `outcome` is that of a delivery which was refused: the receiver's own words go into the report.
        """
        if about.fate is not Fate.MESSAGE or about.header.is_response:
            return None
        here, now = self._here, self._here.now()
        ids = (here.new_id(), here.new_id(), here.new_id())
        format = about.header.format
        release = about.header.release
        body = report(
            request=about.header,
            release=release,
            format=format,
            problem=problem,
            final=final,
            broker_endpoint=here.endpoint,
            broker_name="fhir-broker",
            ids=ids,
            at=now,
            response_to_destination=destination,
            said=_said(outcome, release),
        )
        message = self._message(about, body, ids, final=final, now=now)
        return NewMessage(
            message=message,
            body=body,
            digest=hashlib.sha256(body).digest(),
            source_key=here.endpoint,
            identity=None,
            quotes=(ids[0], ids[1]),
            deliveries=self._way_back(about, now),
            reports_on=position,
        )

    def _message(
        self, about: Message, body: bytes, ids: tuple[str, str, str], *, final: bool, now: datetime
    ) -> Message:
        here = self._here
        header = Header(
            release=about.header.release,
            format=about.header.format,
            event=about.header.event,
            bundle_id=ids[0],
            message_id=ids[1],
            source=here.endpoint,
            destinations=(Destination(endpoint=about.source),) if about.source else (),
            response=ResponseLink(identifier=_quoted(about.header), code="fatal-error" if final else "transient-error"),
        )
        return Message(
            header=header,
            envelope=Envelope(
                id=ids[0],
                source=here.endpoint,
                type=event_type(here.event_prefix, header),
                time=now,
                correlationid=about.envelope.correlationid or about.envelope.id,
            ),
            media_type=_media_type(about.header.format, about.header.release),
            source=here.endpoint,
            digest=digest_text(hashlib.sha256(body).digest()),
            size=len(body),
            channel="broker",
            peer="",
            at=now,
            fate=Fate.REPORT,
            in_reply_to=about.reference,
        )


def _said(outcome: Outcome | None, release: Release) -> list[Resource]:
    if outcome is None or outcome.body is None:
        return []
    try:
        format = media_type(outcome.media_type or "").format
    except Refusal:
        return []
    return issues_of(outcome.body, format, release=release)


def _quoted(header: Header) -> Identifier:
    if header.release.identifies_by_bundle_identifier and header.bundle_identifier is not None:
        return header.bundle_identifier
    return Identifier(value=header.message_id or header.bundle_id or str(header.bundle_identifier or ""))


def _media_type(format: Format, release: Release) -> str:
    return f"application/fhir+{format.value}; fhirVersion={release.value}"
