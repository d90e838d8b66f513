"""Reads what a search for Bundles asks: which mailbox, from which position, which messages (spec: messaging 7)."""

from __future__ import annotations

import re

import msgspec

from broker.api.instants import NAME as LAST_UPDATED
from broker.api.instants import bounds
from broker.api.parameters import HIGHEST_POSITION, Pairs, Parameters, malformed, split, url
from broker.core.addressing import name_key
from broker.core.fhir.capability import SEARCH_PARAMS, SearchParam
from broker.core.identity import URI_SYSTEM, UUID
from broker.core.outcome import Problem, Severity
from broker.store import Filter

PAGE = 50  # matches of a page, unless the reader says
LARGEST_PAGE = 1000  # a larger wish is cut down: a server may always send fewer (M-67)

DESTINATION = "message.destination-uri"
RESPONSE_MISSING = "message.response-id:missing"
_SUMMARIES = ("true", "text", "data", "count", "false")
_RESPONSE_CODES = ("ok", "transient-error", "fatal-error")
_RESPONSE_CODE_SYSTEM = "http://hl7.org/fhir/response-code|"
_ALONE = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")

# What the capability statement lists beside core's own list, so that it names all that is read here.
BUNDLE_PARAMS = (
    *SEARCH_PARAMS["Bundle"],
    SearchParam("message.code", "token", "Responses with this code: ok, transient-error or fatal-error."),
    SearchParam("_id", "token", "The broker's own id of the message."),
    SearchParam("type", "token", "message; the broker keeps no other Bundles."),
)
KNOWN = frozenset(
    {param.name for param in BUNDLE_PARAMS} | {RESPONSE_MISSING, "_sort", "_summary", "_total", "_format", "_pretty"}
)


class MailboxSearch(msgspec.Struct, frozen=True, kw_only=True):
    """A search as it is carried out."""

    mailbox: str | None  # comparison key; None: all of them
    after: int
    count: int
    newest_first: bool
    wanted: Filter
    ids: tuple[str, ...] | None  # only these
    nothing: bool  # no message can fit
    count_only: bool
    total: bool  # the number of all matches is asked for
    kept: tuple[tuple[str, str], ...]  # what is repeated in links
    warnings: tuple[Problem, ...]

    def url(self, base: str, after: int) -> str:
        """The same search from another position."""
        return url(base, "Bundle", (*self.kept, ("_offset", str(after))))


def read_search(pairs: Pairs, *, strict: bool = False) -> MailboxSearch:
    """Raises BadRequest, naming the parameter, for what is malformed."""
    asked = Parameters(pairs, known=KNOWN, strict=strict)
    count = asked.number("_count", highest=10**9)
    summary = asked.one_of("_summary", _SUMMARIES)
    types = asked.any_of("type")
    return MailboxSearch(
        mailbox=_mailbox(asked),
        after=asked.number("_offset", highest=HIGHEST_POSITION) or 0,
        count=PAGE if count is None else min(count, LARGEST_PAGE),
        newest_first=asked.one_of("_sort", (LAST_UPDATED, f"-{LAST_UPDATED}")) == f"-{LAST_UPDATED}",
        wanted=_filter(asked),
        ids=asked.any_of("_id") or None,
        nothing=bool(types) and not any(type.rpartition("|")[2] == "message" for type in types),
        count_only=summary == "count" or count == 0,
        total=asked.one_of("_total", ("none", "estimate", "accurate")) in ("estimate", "accurate"),
        kept=tuple(pair for pair in asked.kept if pair[0] != "_offset"),
        warnings=(*asked.warnings, *_whole(summary)),
    )


def _mailbox(asked: Parameters) -> str | None:
    values = asked.all(DESTINATION)
    if len(values) > 1 or any(len(split(value)) > 1 for value in values):
        raise malformed(DESTINATION, "names one mailbox; ask for each mailbox by itself")
    names = asked.any_of(DESTINATION)
    return name_key(names[0]) if names else None


def _filter(asked: Parameters) -> Filter:
    events = asked.any_of("message.event")
    if any(event.startswith("|") or event.endswith("|") for event in events):
        raise malformed("message.event", "is written as code or as system|code")
    missing = asked.one_of(RESPONSE_MISSING, ("true", "false"))
    since, until = bounds(asked.all(LAST_UPDATED))
    return Filter(
        event=events,
        source=tuple(name_key(name) for name in asked.any_of("message.source-uri")),
        response_id=_forms(asked.any_of("message.response-id")),
        response_missing=None if missing is None else missing == "true",
        response_code=_codes(asked.any_of("message.code")),
        identifier=_forms(asked.any_of("identifier")),
        since=since,
        until=until,
    )


def _codes(values: tuple[str, ...]) -> tuple[str, ...]:
    codes = tuple(value.removeprefix(_RESPONSE_CODE_SYSTEM) for value in values)
    if any(code not in _RESPONSE_CODES for code in codes):
        raise malformed("message.code", f"is one of {', '.join(_RESPONSE_CODES)}")
    return codes


def _forms(values: tuple[str, ...]) -> tuple[str, ...]:
    """Each id as senders write it: bare, as a URN, and as an Identifier whose system says that it is a URI (M-31)."""
    forms: dict[str, None] = {}
    for value in values:
        value = value.removeprefix("|")
        forms[value] = None
        bare = value.removeprefix(f"{URI_SYSTEM}|")
        bare = bare[len(UUID) :] if bare[: len(UUID)].lower() == UUID else bare
        if _ALONE.fullmatch(bare):
            for one in dict.fromkeys((bare, bare.lower())):
                forms |= dict.fromkeys((one, UUID + one, f"{URI_SYSTEM}|{UUID}{one}"))
    return tuple(forms)


def _whole(summary: str | None) -> tuple[Problem, ...]:
    if summary not in ("true", "text", "data"):
        return ()
    text = "_summary is understood as count or false only: messages are given whole, as they came"
    return (
        Problem(
            code="not-supported", id="no-summary", severity=Severity.WARNING, text=text, expression=("http._summary",)
        ),
    )
