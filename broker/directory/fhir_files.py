"""Reads Endpoints, and who is reached by them, out of FHIR resources (A-20 … A-25); R4 and R5 shapes alike.

Real directories write one thing where a list belongs and a list where one thing does; both are read. Resources of all
files form one pool, since an Organization and its Endpoint are often two files.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta

import msgspec

from broker.core.addressing import name_key, shown
from broker.core.fhir.header import Format, Release
from broker.core.resolution import How, State
from broker.directory.bundles import Json, Resource, list_of, resource_of, text_of
from broker.directory.problem import DirectoryProblem
from broker.directory.snapshot import Entry, Listed

# Resources whose identifiers name a party, with the element that points to the parent (A-25: only partOf is said to
# be asked when a party has no endpoint of its own).
_PARTIES: dict[str, str | None] = {
    "Organization": "partOf",
    "Location": "partOf",
    "HealthcareService": None,
    "PractitionerRole": None,
}
_AFFILIATION = "OrganizationAffiliation"
_AFFILIATED = 1000  # distance: after every ancestor
_GENERATIONS = 20  # partOf steps followed; deeper trees are circles
_STATUS = {
    "active": State.USE,
    "test": State.USE,
    "suspended": State.HOLD,
    "error": State.HOLD,
    "off": State.NONE,
    "entered-in-error": State.NONE,
}
_APPEND = ("hl7-fhir-msg", "hl7-fhir-rest")  # their address is the base
_OPERATION = "/$process-message"
_OTHER_TRADES = re.compile(r"dicom-.*|ihe-.*|hl7-cds-hooks.*")  # connections that carry no messages
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:[\x21-\x7e]+")
_INSIDE = re.compile(r"(?:file|mailbox):", re.IGNORECASE)  # places of ours, of which no resource decides
_FHIR_VERSION = "http://hl7.org/fhir/StructureDefinition/endpoint-fhir-version"
_MIME_VERSION = re.compile(r"fhirversion\s*=\s*\"?([0-9]+\.[0-9]+)", re.IGNORECASE)
_INSTANT = re.compile(r"([0-9]{4})(?:-([0-9]{2})(?:-([0-9]{2})(T.+)?)?)?")


def read_pool(resources: Iterable[Resource]) -> tuple[tuple[Listed, ...], tuple[DirectoryProblem, ...]]:
    """The names that these resources give, each with the entries that reach it."""
    pool = _Pool(tuple(resources))
    return pool.listed(), tuple(pool.problems)


class _Pool:
    def __init__(self, resources: tuple[Resource, ...]) -> None:
        self.problems: list[DirectoryProblem] = []
        self._resources = resources
        self._by_url: dict[str, Resource] = {}
        # Tuples, not lists: there are a hundred thousand of them, and the collector need not look at tuples of these.
        self._by_reference: dict[str, tuple[Resource, ...]] = {}
        self._contained: dict[tuple[int, str], Resource] = {}  # by id() of what contains it
        self._entries: dict[int, Entry | None] = {}  # by id() of an Endpoint
        self._affiliations: dict[int, list[Resource]] = {}  # by id() of the participating organisation
        self._missing: dict[str, list[str]] = {}  # by file
        for resource in resources:
            if resource.url:
                self._by_url.setdefault(resource.url, resource)
            self._by_reference[resource.reference] = (*self._by_reference.get(resource.reference, ()), resource)

    def listed(self) -> tuple[Listed, ...]:
        for resource in self._resources:
            if resource.kind == _AFFILIATION and (body := resource.body).get("active") is not False:
                for other in self._targets(resource, "participatingOrganization", "Organization", body):
                    self._affiliations.setdefault(id(other), []).append(resource)
        names: dict[str, tuple[str, Entry]] = {}  # by key: as it is written first, and its first entry
        several: dict[str, dict[object, Entry]] = {}  # of those that have more
        for resource in self._resources:
            for name, entry in self._named(resource):
                key = name_key(name)
                _, first = names.setdefault(key, (name, entry))
                if first is not entry:
                    entries = several.setdefault(key, {_way(first): first})
                    entries.setdefault(_way(entry), entry)
        self._report_missing()
        return tuple([
            Listed(name=name, how=How.EXACT, entries=tuple(several[key].values()) if key in several else (first,))
            for key, (name, first) in names.items()
        ])  # fmt: skip

    def _named(self, resource: Resource) -> Iterator[tuple[str, Entry]]:
        """Names, and for each the entries by which it is reached."""
        if resource.kind == "Endpoint":
            entry = self._entry(resource)
            if entry is not None:
                yield from ((name, entry) for name in self._own_names(resource, entry))
        elif resource.kind in _PARTIES:
            body = resource.body
            if body.get("active") is False:
                return
            entries = tuple(self._reaching(resource, body))
            owner = text_of(body.get("name"))
            for name in _identifiers(body):
                for entry in entries:
                    yield name, msgspec.structs.replace(entry, owner=owner)

    def _own_names(self, resource: Resource, entry: Entry) -> tuple[str, ...]:
        """The identifiers of an Endpoint, and its http(s) URL, which a reference to it would say (M-4)."""
        url = resource.url
        return (*entry.names, url) if url and url.startswith(("http://", "https://")) else entry.names

    def _reaching(self, party: Resource, body: Json) -> Iterator[Entry]:
        """Its own Endpoints, its ancestors', those of its affiliations: all, each with its distance (A-25)."""
        step, seen = party, {id(party)}
        for distance in range(_GENERATIONS):
            for endpoint in self._targets(step, "endpoint", "Endpoint", body):
                entry = self._entry(endpoint)
                if entry is not None:
                    yield entry if distance == 0 else msgspec.structs.replace(entry, distance=distance)
            parent = _PARTIES.get(step.kind)
            above = next(self._targets(step, parent, step.kind, body), None) if parent else None
            if above is None or id(above) in seen:
                break
            seen.add(id(above))
            step, body = above, above.body
        for affiliation in self._affiliations.get(id(party), ()):
            for endpoint in self._targets(affiliation, "endpoint", "Endpoint", affiliation.body):
                entry = self._entry(endpoint)
                if entry is not None:
                    yield msgspec.structs.replace(entry, distance=_AFFILIATED)

    def _targets(self, resource: Resource, element: str, kind: str, body: Json) -> Iterator[Resource]:
        for reference in list_of(body.get(element)):
            text = text_of(reference.get("reference")) if isinstance(reference, dict) else None
            if text is None:
                continue
            found = self._inside(resource, text, body) if text.startswith("#") else self._target(resource, text)
            if found is not None and found.kind == kind:
                yield found
            else:
                self._missing.setdefault(resource.file, []).append(text)

    def _inside(self, resource: Resource, reference: str, body: Json) -> Resource | None:
        """What a resource contains; the same object each time, since entries are known by theirs."""
        known = self._contained.get((id(resource), reference))
        if known is not None:
            return known
        for one in list_of(body.get("contained")):
            if isinstance(one, dict) and one.get("id") == reference[1:]:
                found = resource_of(one, None, f"{resource.origin}{reference}", foreign=resource.foreign)
                self._contained[id(resource), reference] = found
                return found
        return None

    def _target(self, resource: Resource, reference: str) -> Resource | None:
        if reference in self._by_url:
            return self._by_url[reference]
        if resource.url and "://" not in reference:  # relative to the server it came from
            base = resource.url.removesuffix("/" + resource.reference)
            if f"{base}/{reference}" in self._by_url:
                return self._by_url[f"{base}/{reference}"]
        candidates = self._by_reference.get(reference, ())
        own = [one for one in candidates if one.file == resource.file]
        fitting = own or candidates
        # Two of one id: which was meant is a guess, and a guess sends a message to a stranger.
        return fitting[0] if len(fitting) == 1 else None

    def _report_missing(self) -> None:
        for file, references in self._missing.items():
            distinct = list(dict.fromkeys(references))
            some = ", ".join(shown(one) for one in distinct[:3]) + (", …" if len(distinct) > 3 else "")
            self._problem(file, f"{len(distinct)} reference(s) that no source answers, or more than one: {some}")

    def _problem(self, file: str, text: str) -> None:
        self.problems.append(DirectoryProblem(file=file, text=text))

    def _entry(self, endpoint: Resource) -> Entry | None:
        key = id(endpoint)
        if key not in self._entries:
            self._entries[key] = self._read_entry(endpoint)
        return self._entries[key]

    def _read_entry(self, endpoint: Resource) -> Entry | None:
        body, origin = endpoint.body, endpoint.origin
        address = text_of(body.get("address"))
        if address is None or not _URI.fullmatch(address) or _INSIDE.match(address):
            self._problem(origin, f"the address {shown(address or '')!r} is none that an Endpoint may have")
            return None
        codes = _connection_codes(body)
        if codes and all(_OTHER_TRADES.fullmatch(code) for code in codes):
            state, reason = State.NONE, f"the Endpoint is for {', '.join(codes)}, which carries no messages"
        else:
            state, reason = self._status(body, origin)
        start, end = self._period(body, origin)
        mimes = _mime_types(body)
        return Entry(
            names=_identifiers(body),
            addresses=(message_address(address, codes),),
            state=state,
            reason=reason,
            start=start,
            end=end,
            releases=_releases(body, mimes),
            formats=_formats(mimes),
            payload=_payload(body),
            connection=_connection(codes),
            id=endpoint.id or "",
            origin=origin,
            headers=tuple(one for one in list_of(body.get("header")) if isinstance(one, str)),
            foreign=endpoint.foreign,
        )

    def _status(self, body: Json, origin: str) -> tuple[State, str]:
        status = body.get("status")
        state = _STATUS.get(status) if isinstance(status, str) else None
        if state is None:
            self._problem(origin, f"the status {shown(str(status))!r} is none that an Endpoint has; not used")
            return State.NONE, "the status of its Endpoint is not understood"
        return state, "" if state is State.USE else f"the status of its Endpoint is {status}"

    def _period(self, body: Json, origin: str) -> tuple[datetime | None, datetime | None]:
        period = body.get("period")
        if not isinstance(period, dict):
            return None, None
        moments: list[datetime | None] = []
        for element, after in (("start", False), ("end", True)):
            text = text_of(period.get(element))
            try:
                moments.append(instant(text, after=after) if text else None)
            except (ValueError, OverflowError):
                self._problem(origin, f"period.{element} is no date: it is read as if it were not there")
                moments.append(None)
        return moments[0], moments[1]


def _way(entry: Entry) -> object:
    """What two entries share that are the same way to somebody."""
    return entry.origin, entry.addresses, entry.distance


def _identifiers(body: Json) -> tuple[str, ...]:
    names = []
    for identifier in list_of(body.get("identifier")):
        if not isinstance(identifier, dict):
            continue
        system, value = text_of(identifier.get("system")), text_of(identifier.get("value"))
        if value and system:
            names.append(value if system == "urn:ietf:rfc:3986" else f"{system}|{value}")
        elif value and _URI.fullmatch(value):  # "7" without a system would be everybody's name
            names.append(value)
    return tuple(names)


def _codes(concepts: object) -> Iterator[str]:
    """The codes of a Coding, a CodeableConcept, or lists of them: R4 and R5 differ just there."""
    for concept in list_of(concepts):
        if isinstance(concept, dict):
            for coding in (concept, *list_of(concept.get("coding"))):
                if isinstance(coding, dict) and isinstance(coding.get("code"), str):
                    yield coding["code"]


def _connection_codes(body: Json) -> tuple[str, ...]:
    return tuple(_codes(body.get("connectionType")))


def _connection(codes: tuple[str, ...]) -> int:
    """How well a connection suits a message: made for it, able to, unknown."""
    return 0 if "hl7-fhir-msg" in codes else 1 if "hl7-fhir-rest" in codes else 2


def _payload_parts(body: Json) -> Iterator[tuple[object, object]]:
    """Types and MIME types, of R4's two lists or of R5's one."""
    yield body.get("payloadType"), body.get("payloadMimeType")
    for part in list_of(body.get("payload")):
        if isinstance(part, dict):
            yield part.get("type"), part.get("mimeType")


def _payload(body: Json) -> int:
    codes = {code for types, _ in _payload_parts(body) for code in _codes(types)}
    if "any" in codes or not codes:
        return 0
    return 2 if codes == {"none"} else 1


def _mime_types(body: Json) -> tuple[str, ...]:
    return tuple(mime.lower() for _, mimes in _payload_parts(body) for mime in list_of(mimes) if isinstance(mime, str))


def _releases(body: Json, mimes: tuple[str, ...]) -> tuple[Release, ...]:
    """From `fhirVersion` in a MIME type, or from the extension that names whole versions (`4.0.1`)."""
    versions = [match[1] for mime in mimes for match in _MIME_VERSION.finditer(mime)]
    versions += [
        ".".join(str(extension.get("valueCode", "")).split(".")[:2])
        for extension in list_of(body.get("extension"))
        if isinstance(extension, dict) and extension.get("url") == _FHIR_VERSION
    ]
    known = {release.value: release for release in Release}
    return tuple(dict.fromkeys(known[version] for version in versions if version in known))


def _formats(mimes: tuple[str, ...]) -> tuple[Format, ...]:
    kinds = [mime.split(";", 1)[0] for mime in mimes]
    return tuple(form for form in Format if any(kind.endswith(form.value) for kind in kinds))


def message_address(address: str, codes: tuple[str, ...]) -> str:
    """Where a message is posted: for FHIR's own connections the address is a base (A-21); never appended twice."""
    if not any(code in _APPEND for code in codes) or not address.lower().startswith(("http://", "https://")):
        return address
    path, mark, query = address.partition("?")
    path = path.rstrip("/")
    if not path.replace("%24", "$").endswith(_OPERATION):
        path += _OPERATION
    return path + mark + query


def instant(text: str, *, after: bool) -> datetime:
    """A FHIR dateTime as an instant; with `after`, the first one that no longer belongs to it."""
    match = _INSTANT.fullmatch(text)
    if not match:
        raise ValueError("not a FHIR dateTime")
    year, month, day, time = match.groups()
    if time:
        moment = datetime.fromisoformat(text.replace(":60", ":59"))
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return moment + timedelta(seconds=1) if after and "." not in text else moment
    first = datetime(int(year), int(month or 1), int(day or 1), tzinfo=UTC)
    if not after:
        return first
    if day:
        return first + timedelta(days=1)
    if month:
        return (first + timedelta(days=31)).replace(day=1)
    return first.replace(year=first.year + 1)
