"""The status URL of a message: how far it is, what became of it, and the way to withdraw it (M-50)."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from http import HTTPStatus

from aiohttp import hdrs, web

from broker.api.asking import Asking, Here, position_of
from broker.api.progress import failures, has_ended, is_failure, progress, told, withdrawal
from broker.core.delivery import State
from broker.core.fhir.completion import batch_response, manifest
from broker.core.fhir.header import Release
from broker.core.fhir.outcomes import outcome_bytes, problem_status
from broker.core.fhir.searchset import PageEntry
from broker.core.fhir.write import shapes
from broker.core.message import Fate
from broker.core.outcome import Busy, NotFound, Problem, Severity, Who
from broker.store import Delivery, Note, Store, Stored

DELETED = "status-deleted"  # the note that makes the URL unknown
POLLS = 5  # of one message within a second
WINDOW = 1.0  # seconds
REMEMBERED = 10_000  # messages whose last polls are known; who polls more of them at once is slow on each
LONGEST_PAUSE = 60  # seconds between polls
RESPONSES = (Fate.ANSWER, Fate.LATE, Fate.DOUBLE)
BESIDE_THE_LOOP = 256 * 1024  # bytes

Withdraw = Callable[[int, str], Awaitable[bool]]


class Pace:
    """Who asks for one message again and again within a second; the refused polls do not count."""

    def __init__(self) -> None:
        self._polls: OrderedDict[int, list[float]] = OrderedDict()

    def is_too_fast(self, position: int, at: float) -> bool:
        polls = [poll for poll in self._polls.pop(position, ()) if at - WINDOW < poll <= at]
        too_fast = len(polls) >= POLLS
        self._polls[position] = polls if too_fast else [*polls, at]
        if len(self._polls) > REMEMBERED:
            self._polls.popitem(last=False)
        return too_fast


class Statuses:
    def __init__(self, *, here: Here, store: Store, withdraw: Withdraw, reader: Callable[[web.Request], str]) -> None:
        self._here = here
        self._store = store
        self._withdraw = withdraw
        self._reader = reader
        self._pace = Pace()

    # -- asked

    async def status(self, request: web.Request) -> web.StreamResponse:
        asking = Asking(request, self._here)
        position = position_of(self._here, request)
        if self._pace.is_too_fast(position, self._here.now().timestamp()):
            raise Busy(
                f"this status is polled more than {POLLS} times within a second; Retry-After says when to ask again",
                id="too-many-requests",
                who=Who.SENDER,
                retry_after=1,
            )
        stored, deliveries = await self._known(position)
        responses = await self._responses(position)
        if not has_ended(deliveries, answered=bool(responses)):
            return self._under_way(asking, stored, deliveries)
        return await self._done(asking, stored, deliveries, responses)

    async def outcome(self, request: web.Request) -> web.StreamResponse:
        """What became of each delivery, or is known of it so far."""
        asking = Asking(request, self._here)
        _, deliveries = await self._known(position_of(self._here, request))
        problems = [told(delivery) for delivery in deliveries]
        return asking.answer(outcome_bytes(problems, format=asking.format, release=asking.release))

    async def _known(self, position: int) -> tuple[Stored, tuple[Delivery, ...]]:
        stored = await self._store.stored(position)
        notes = await self._store.notes(position) if stored is not None else ()
        if stored is None or any(note.what == DELETED for note in notes):
            raise NotFound(
                "there is no status at this URL: the message is not known here, or its status was deleted",
                id="unknown-status",
                expression="http.id",
            )
        return stored, await self._store.deliveries(position)

    async def _responses(self, position: int) -> list[Stored]:
        """Those that answer it; the one that closed the request first."""
        found = [one for one in await self._store.answers_to(position) if one.message.fate in RESPONSES]
        return sorted(found, key=lambda one: one.message.fate is not Fate.ANSWER)

    # -- under way

    def _under_way(self, asking: Asking, stored: Stored, deliveries: Sequence[Delivery]) -> web.Response:
        text = progress(deliveries)
        problem = Problem(
            code="informational", id="under-way", text=text, severity=Severity.INFORMATION, who=Who.BROKER
        )
        headers = {
            hdrs.RETRY_AFTER: str(_pause(self._here.now(), stored.accepted)),
            "X-Progress": text,
        }
        body = outcome_bytes([problem], format=asking.format, release=asking.release)
        return asking.answer(body, status=202, headers=headers)

    # -- done

    async def _done(
        self, asking: Asking, stored: Stored, deliveries: Sequence[Delivery], responses: Sequence[Stored]
    ) -> web.Response:
        """Failures are told inside: a poll that succeeds is a 200 (M-50)."""
        release = asking.named or stored.message.header.release
        if shapes(release) is not Release.R5:
            return self._manifest(asking, stored, deliveries, responses)
        return await self._batch(asking, release, stored, deliveries, responses)

    def _manifest(
        self, asking: Asking, stored: Stored, deliveries: Sequence[Delivery], responses: Sequence[Stored]
    ) -> web.Response:
        body = manifest(
            at=stored.accepted,
            request=f"{asking.base}/$process-message",
            requires_access_token=False,  # parties prove themselves in a later release
            output=[("Bundle", self._url(asking, "Bundle", one)) for one in responses if one.body_kept],
            error=[("OperationOutcome", self._url(asking, "status", stored) + "/outcome")]
            if any(is_failure(delivery) for delivery in deliveries)
            else (),
        )
        return web.Response(body=body, headers={hdrs.CONTENT_TYPE: "application/json"})

    async def _batch(
        self,
        asking: Asking,
        release: Release,
        stored: Stored,
        deliveries: Sequence[Delivery],
        responses: Sequence[Stored],
    ) -> web.Response:
        kept = next((one for one in responses if one.body_kept), None)
        entry = await self._page_entry(kept) if kept is not None else None
        failed = failures(deliveries)
        status = problem_status(failed[0]) if failed and not responses else 200

        def write() -> bytes:
            return batch_response(
                format=asking.format,
                release=release,
                status=_said(status),
                location=self._url(asking, "Bundle", kept) if kept is not None else None,
                response=entry,
                problems=[told(delivery) for delivery in deliveries],
                at=kept.accepted if kept is not None else stored.accepted,
            )

        large = entry is not None and len(entry.body) > BESIDE_THE_LOOP
        return asking.answer(await asyncio.to_thread(write) if large else write())

    async def _page_entry(self, stored: Stored) -> PageEntry | None:
        body = await self._store.body(stored.position)
        if body is None:
            return None
        header = stored.message.header
        return PageEntry(
            message_id=self._here.ids.of(stored.position),
            position=stored.position,
            body=body,
            format=header.format,
            release=header.release,
            media_type=stored.message.media_type,
            last_updated=stored.accepted,
        )

    def _url(self, asking: Asking, path: str, stored: Stored) -> str:
        return f"{asking.base}/{path}/{self._here.ids.of(stored.position)}"

    # -- withdrawn

    async def delete(self, request: web.Request) -> web.StreamResponse:
        """Withdraws what has not left; from then on the URL is unknown."""
        asking = Asking(request, self._here)
        position = position_of(self._here, request)
        _, before = await self._known(position)
        after = before
        if any(delivery.state is State.WAITING for delivery in before):
            await self._withdraw(position, "withdrawn by its sender, who deleted the status")
            after = await self._store.deliveries(position)
        reader = self._reader(request)
        await self._store.note(position, Note(at=self._here.now(), what=DELETED, who=reader))
        problems = withdrawal(self._here.ids.of(position), before, after)
        body = outcome_bytes(problems, format=asking.format, release=asking.release)
        return asking.answer(body, status=202)


def _pause(now: datetime, accepted: datetime) -> int:
    """Seconds until the next poll: soon for a fresh message, rarely for one that has waited long."""
    return min(max(int((now - accepted).total_seconds() / 4), 1), LONGEST_PAUSE)


def _said(status: int) -> str:
    return f"{status} {HTTPStatus(status).phrase}"
