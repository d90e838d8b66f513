"""A page of resources that are all in memory: a searchset, with links, a total, and what was not understood."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar
from uuid import NAMESPACE_URL, uuid5

from broker.api.asking import Asking
from broker.api.parameters import HIGHEST_POSITION, Parameters, url
from broker.api.search import LARGEST_PAGE, PAGE
from broker.core.fhir.capability import SearchParam
from broker.core.fhir.outcomes import operation_outcome
from broker.core.fhir.write import Resource
from broker.core.outcome import Problem

PAGING = (
    SearchParam("_offset", "number", "Leaves out this many matches."),
    SearchParam("_count", "number", "The most matches of one page; 0 asks for their number only."),
)
T = TypeVar("T")
CONTROLS = ("_summary", "_total")  # known as well, and no search parameters


def page_of(
    asking: Asking,
    type: str,
    asked: Parameters,
    found: Sequence[T],
    show: Callable[[T], Resource],
    also: Sequence[Problem] = (),
) -> Resource:
    """The page that is asked for; only what stands on it is `show`n. `also` are warnings beside those of `asked`."""
    after = asked.number("_offset", highest=HIGHEST_POSITION) or 0
    count = asked.number("_count", highest=10**9)
    counted = asked.one_of("_summary", ("count", "false")) == "count" or count == 0
    asked.one_of("_total", ("none", "estimate", "accurate"))  # it costs nothing: always given
    limit = PAGE if count is None else min(count, LARGEST_PAGE)
    page = [] if counted else found[after : after + limit]
    kept = [pair for pair in asked.kept if pair[0] != "_offset"]
    self_url = url(asking.base, type, [*kept, ("_offset", str(after))])
    links = [{"relation": "self", "url": self_url}]
    if not counted and after + limit < len(found):
        links.append({"relation": "next", "url": url(asking.base, type, [*kept, ("_offset", str(after + limit))])})
    bundle: Resource = {"resourceType": "Bundle", "type": "searchset", "total": len(found), "link": links}
    entries = [_entry(asking, type, show(one)) for one in page]
    warnings = (*asked.warnings, *also)
    if warnings and not counted:
        entries.append(_warnings(asking, warnings, self_url))
    if entries:
        bundle["entry"] = entries
    return bundle


def _entry(asking: Asking, type: str, resource: Resource) -> Resource:
    return {
        "fullUrl": f"{asking.base}/{type}/{resource['id']}",
        "resource": resource,
        "search": {"mode": "match"},
    }


def _warnings(asking: Asking, warnings: Sequence[Problem], self_url: str) -> Resource:
    id = str(uuid5(NAMESPACE_URL, self_url))
    outcome = operation_outcome(warnings, release=asking.release)
    return {
        "fullUrl": f"urn:uuid:{id}",
        "resource": {"resourceType": "OperationOutcome", "id": id, "issue": outcome["issue"]},
        "search": {"mode": "outcome"},
    }
