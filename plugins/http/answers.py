"""Says a message's answer in HTTP: the statuses of M-43, the bodies of M-44, and who refused."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from aiohttp import hdrs

from broker.channel import Answer, AnswerKind, Receipt
from broker.core.fhir.header import Format, Release
from broker.core.fhir.outcomes import problem_status
from broker.core.fhir.receipt import Kind, receipt_bytes
from broker.core.outcome import Problem, Who
from broker.web import (
    DEFAULT_RELEASE,
    ENDPOINT,
    REFUSED_AT,
    REFUSED_BY,
    Asking,
    Reply,
    content_type_of,
    outcome_reply,
    pinned_release,
    preferences,
    wanted,
    wanted_or_sent,
)
from plugins.http.digest import attribute_of, content_digest

# What a receiver may say to the caller through us. The rest speaks of our own request to it (its 401, 405, 411, a
# redirect) or is nothing that HTTP knows: to the caller the next hop answered rubbish, 502.
PASSED_ON = frozenset({400, 403, 404, 409, 410, 412, 413, 415, 422, 451, 500, 501, 502, 503, 504})


class Answering:
    """One caller, and how it wants to be answered; made before the message is taken, so that a 406 comes in time."""

    def __init__(self, request: Asking, base_url: str, *, lenient: bool = False) -> None:
        """`lenient`: a caller that asks for nothing we write is answered all the same."""
        self._request = request
        self._base_url = base_url
        self._format, asked = wanted_or_sent(request) if lenient else wanted(request)
        self._named: Release | None = asked or pinned_release(request)
        self._release = self._named or request.app[DEFAULT_RELEASE]
        self._content_type = content_type_of(self._format, self._named)

    async def processed(self, answer: Answer) -> Reply:
        """The answer of `$process-message` (design: when does it answer?)."""
        match answer.kind:
            case AnswerKind.ACCEPTED:
                return self._receipt(202, answer, self._accepted(answer.receipt), self._status_url(answer))
            case AnswerKind.TAKEN:
                status = answer.status if answer.status in (200, 202) else 202
                return self._receipt(status, answer, Kind.TAKEN, self._status_url(answer))
            case AnswerKind.DONE:
                return Reply(204)
            case AnswerKind.KEPT:
                return self._receipt(202, answer, Kind.KEPT, self._status_url(answer))
            case AnswerKind.WITHDRAWN:
                kind = Kind.WITHDRAWN_AFTER_LEAVING if answer.left else Kind.WITHDRAWN
                return self._receipt(504, answer, kind, {})
            case AnswerKind.RESPONSE:
                return await _as_it_came(200, answer.body or b"", answer.media_type)
            case AnswerKind.REFUSED:
                return await self._refused(answer)

    async def created(self, answer: Answer, body: bytes, media_type: str) -> Reply:
        """The answer of `POST /Bundle`: custody, whatever becomes of the message (M-52)."""
        if answer.kind is AnswerKind.REFUSED:
            return await self._refused(answer)
        headers: dict[str, str] = {hdrs.LOCATION: f"{self._base_url}/Bundle/{answer.receipt.message_id}"}
        shape = preferences(self._request).get("return")
        if shape in ("minimal", "representation"):
            headers["Preference-Applied"] = f"return={shape}"
        if shape == "minimal":
            return Reply(201, headers=tuple(headers.items()))
        if shape == "representation":
            return await _as_it_came(201, body, media_type, headers)
        return self._receipt(201, answer, self._accepted(answer.receipt), headers)

    def _accepted(self, receipt: Receipt) -> Kind:
        return Kind.DUPLICATE if receipt.duplicate else Kind.ACCEPTED

    def _status_url(self, answer: Answer) -> dict[str, str]:
        return {hdrs.CONTENT_LOCATION: f"{self._base_url}/status/{answer.receipt.message_id}"}

    def _receipt(self, status: int, answer: Answer, kind: Kind, headers: dict[str, str]) -> Reply:
        receipt = answer.receipt
        body = receipt_bytes(kind, receipt.message_id, self._format, release=self._release, notes=receipt.notes)
        return Reply(status, body, (*headers.items(), (hdrs.CONTENT_TYPE, self._content_type)))

    async def _refused(self, answer: Answer) -> Reply:
        problem = answer.problem or UNSAID
        headers = {REFUSED_BY: problem.who.value}
        passed_on = bool(answer.body) and answer.status in PASSED_ON
        # a receiver's own words have no broker behind them
        speaker = problem.at or ("" if passed_on else self._request.app[ENDPOINT])
        if speaker:
            headers[REFUSED_AT] = speaker
        if answer.body and answer.status in PASSED_ON:
            return await _as_it_came(answer.status, answer.body, answer.media_type, headers)
        if answer.status is None:
            status = problem_status(problem)
        else:
            status = answer.status if answer.status in PASSED_ON else 502
        return outcome_reply(self._request, status, [problem, *answer.receipt.notes], headers)


UNSAID = Problem(
    code="processing",
    id="refused-by-receiver",
    who=Who.RECEIVER,
    text="The receiver refused the message and did not say why.",
)


async def _as_it_came(
    status: int, body: bytes, media_type: str | None, more: Mapping[str, str] = MappingProxyType({})
) -> Reply:
    """Bytes that are not ours, in the format they have: byte for byte goes before what `Accept` would rather see."""
    headers = {
        hdrs.CONTENT_TYPE: media_type or f"application/fhir+{Format.JSON.value}",
        "Content-Digest": content_digest(await attribute_of(body)),
        **more,
    }
    return Reply(status, body, tuple(headers.items()))
