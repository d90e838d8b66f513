"""The directory at one moment: answers where a name lives, and never changes while it is asked."""

from __future__ import annotations

import difflib
import hashlib
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from enum import Enum
from functools import cached_property

import msgspec

from broker.core.address_pattern import AddressPattern, AddressPatterns
from broker.core.addressing import LONGEST_SHOWN, PrefixTable, is_prefix_pattern, name_key, prefix_of
from broker.core.fhir.header import Format, Release
from broker.core.resolution import How, Lookup, Resolution, State

_NEIGHBOURS = 6  # names looked at for a hint, on each side of the place where the name would stand
_LIKE = 0.9  # how like it must be, 0…1: a digit or two wrong in a HER-id, not another register
_HINTS = 3


class Mode(Enum):
    ALL = "all"
    FIRST = "first"  # the next when one is down


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One way to reach whoever has these names: a line of configuration, or an Endpoint resource."""

    names: tuple[str, ...]  # as written
    addresses: tuple[str, ...]
    mode: Mode = Mode.ALL
    state: State = State.USE  # by its status
    reason: str = ""  # for a state that is not USE
    start: datetime | None = None
    end: datetime | None = None  # the first instant after the period
    releases: tuple[Release, ...] = ()  # those it says it takes; none: it does not say
    formats: tuple[Format, ...] = ()
    payload: int = 0  # 0 any, 1 some kind, 2 none
    connection: int = 0  # 0 made for messages; the larger, the less so
    distance: int = 0  # 0 its own, 1 its parent's, …
    id: str = ""
    origin: str = ""  # file:line, or file and resource
    headers: tuple[str, ...] = ()  # Endpoint.header: kept, not used yet
    owner: str | None = None  # name of the organisation, for people

    def state_at(self, now: datetime) -> State:
        """Outside its period it is as good as off (A-22)."""
        if (self.start is not None and now < self.start) or (self.end is not None and now >= self.end):
            return State.NONE
        return self.state

    def reason_at(self, now: datetime) -> str:
        if self.state is State.USE and self.state_at(now) is State.NONE:
            return f"its period is {_day(self.start)} to {_day(self.end)}"
        return self.reason


def _day(moment: datetime | None) -> str:
    return moment.isoformat() if moment else "…"


class Listed(msgspec.Struct, frozen=True, kw_only=True):
    """A name or pattern, and the entries that may serve it."""

    name: str  # as written
    how: How
    entries: tuple[Entry, ...]


class Snapshot:
    """What is listed first wins, where two lines mean the same names."""

    def __init__(self, listed: Iterable[Listed] = (), aliases: Mapping[str, str] | None = None) -> None:
        self._exact: dict[str, Listed] = {}
        prefixes: dict[str, Listed] = {}
        self._direct: dict[str, Listed] = {}  # by the text of its pattern
        self._default: Listed | None = None
        for line in listed:
            if line.how is How.EXACT:
                self._exact.setdefault(name_key(line.name), line)
            elif line.how is How.PREFIX:
                prefixes.setdefault(prefix_of(line.name), line)
            elif line.how is How.DIRECT:
                self._direct.setdefault(line.name, line)
            elif self._default is None:
                self._default = line
        self._by_prefix = PrefixTable(prefixes)
        self._prefixes = prefixes
        self._patterns = AddressPatterns(AddressPattern.parse(text) for text in self._direct)
        self._aliases = dict(aliases or {})
        plain = {name_key(a): name for a, name in self._aliases.items() if not is_prefix_pattern(a)}
        self._other_names = plain
        self._other_prefixes = PrefixTable(
            {prefix_of(a): name for a, name in self._aliases.items() if is_prefix_pattern(a)}
        )
        self._settled: dict[str, Resolution] = {}  # by key; at most one for each exact line
        self._keys = sorted(self._exact)
        self._backwards = sorted(key[::-1] for key in self._exact)

    @cached_property
    def version(self) -> str:
        """A digest of the content: the same content is the same version, also after a restart."""
        digest = hashlib.sha256()
        for line in self.names():
            digest.update(msgspec.json.encode(line))
        digest.update(msgspec.json.encode(sorted(self._aliases.items())))
        return digest.hexdigest()[:12]

    def __len__(self) -> int:
        return len(self._exact) + len(self._prefixes) + len(self._direct) + (self._default is not None)

    def names(self) -> Iterator[Listed]:
        """All that is listed, in the order in which it is asked: exact, prefixes, direct, default."""
        yield from self._exact.values()
        yield from self._prefixes.values()
        yield from self._direct.values()
        if self._default is not None:
            yield self._default

    @property
    def aliases(self) -> Mapping[str, str]:
        """Other form → the name it stands for (A-18)."""
        return self._aliases

    def resolve(
        self,
        name: str,
        *,
        release: Release | None = None,
        format: Format | None = None,
        now: datetime,
        lookups: list[Lookup] | None = None,
    ) -> Resolution:
        """Where a message of this release and format goes: exact, then the longest prefix, direct, default."""
        if lookups is None:
            settled = self._settled.get(name_key(name))
            if settled is not None:
                return settled
        line = self.find(name, lookups=lookups)
        if line is None:
            return Resolution(reason=self._nothing_found())
        if line.how is How.DIRECT:
            return Resolution(
                addresses=(name,),
                how=line.how,
                matched=line.name,
                state=State.USE,
                origin=line.entries[0].origin,
            )
        entry = choose(line.entries, release=release, format=format, now=now)
        state = entry.state_at(now)
        resolution = Resolution(
            addresses=() if state is State.NONE else entry.addresses,
            first=entry.mode is Mode.FIRST,
            how=line.how,
            matched=line.name,
            state=state,
            origin=entry.origin,
            reason="" if state is State.USE else entry.reason_at(now),
        )
        if len(line.entries) == 1 and entry.start is None and entry.end is None:  # so at any time, for any message
            key = name_key(name)
            if self._exact.get(key) is line:
                self._settled[key] = resolution
        return resolution

    def find(self, name: str, *, lookups: list[Lookup] | None = None) -> Listed | None:
        """The line that knows this name, whatever the state of its entries."""
        key = name_key(name)
        line = self._exact.get(key)
        _note(lookups, How.EXACT, key, line)
        if line is not None:
            return line
        other = self._other_key(key)
        if other is not None:
            line = self._exact.get(other)
            _note(lookups, How.EXACT, other, line)
            if line is not None:
                return line
        for form in (key,) if other is None else (key, other):
            line = next((found for _, found in self._by_prefix.above(form)), None)
            if self._prefixes:
                _note(lookups, How.PREFIX, form, line)
            if line is not None:
                return line
        if self._direct:
            pattern = self._patterns.find(name)
            line = self._direct[pattern.text] if pattern is not None else None
            _note(lookups, How.DIRECT, name, line)
        if line is None and self._default is not None:
            line = self._default
            _note(lookups, How.DEFAULT, "*", line)
        return line

    def _other_key(self, key: str) -> str | None:
        """The key of the name that this one is another form of (A-18); one step, so that no circle matters."""
        if not self._aliases:
            return None
        name = self._other_names.get(key)
        if name is not None:
            return name_key(name)
        for prefix, target in self._other_prefixes.above(key):
            rest = _rest(prefix, key)
            return name_key(target[:-1] + rest)
        return None

    def _nothing_found(self) -> str:
        missing = ["no entry has this name"]
        if self._prefixes:
            missing.append("no prefix fits it")
        if self._direct:
            missing.append("it is no address that may be used directly")
        missing.append("and there is no default gateway")
        return ", ".join(missing)

    def nearest(self, name: str) -> tuple[str, ...]:
        """A few known names that look like this one; the cost does not grow with the directory."""
        key = name_key(name)
        if not self._keys or len(key) > LONGEST_SHOWN:
            return ()
        # Those that begin like it, and those that end like it: a slip of the finger is in one place.
        around = _around(self._keys, key) + [back[::-1] for back in _around(self._backwards, key[::-1])]
        like = difflib.get_close_matches(key, dict.fromkeys(around), n=_HINTS, cutoff=_LIKE)
        return tuple(self._exact[one].name for one in like)


def _around(ordered: list[str], key: str) -> list[str]:
    at = bisect_left(ordered, key)
    return ordered[max(0, at - _NEIGHBOURS) : at + _NEIGHBOURS]


def _rest(prefix: str, key: str) -> str:
    """What follows a prefix; `urn:oid:S|` is also a prefix of `urn:oid:S.7` (A-4), with as many characters."""
    return key[len(prefix) :]


def _note(lookups: list[Lookup] | None, how: How, tried: str, line: Listed | None) -> None:
    if lookups is not None:
        lookups.append(Lookup(how=how, tried=tried, found=line.name if line is not None else None))


def choose(entries: tuple[Entry, ...], *, release: Release | None, format: Format | None, now: datetime) -> Entry:
    """The entry to use among several of one name: nearest owner first (A-25), then by A-22 and A-23."""
    if len(entries) == 1:
        return entries[0]
    usable = [entry for entry in entries if entry.state_at(now) is not State.NONE]
    if not usable:
        return min(entries, key=lambda entry: (entry.distance, entry.id))
    nearest = min(entry.distance for entry in usable)
    return min(
        (entry for entry in usable if entry.distance == nearest),
        key=lambda entry: (
            entry.state is State.HOLD,
            _misfit(_family(release), {_family(one) for one in entry.releases}),
            _misfit(format, set(entry.formats)),
            entry.payload,
            entry.connection,
            -(entry.start or _LONG_AGO).timestamp(),
            entry.id,
            entry.origin,
        ),
    )


_LONG_AGO = datetime(1, 1, 2, tzinfo=UTC)


def _misfit(wanted: object, offered: set[object]) -> int:
    """0 says that it fits, 1 says nothing, 2 says something else."""
    if wanted is None or not offered:
        return 1
    return 0 if wanted in offered else 2


def _family(release: Release | None) -> object:
    """R4 and R4B cannot be told apart in most messages, and their messages are the same."""
    return Release.R4 if release is Release.R4B else release


class Changed:
    """What differs between two snapshots, so that what waits for a changed name can be woken."""

    def __init__(self, old: Snapshot, new: Snapshot) -> None:
        self._old, self._new = old, new
        before, after = old._exact, new._exact
        self.names = frozenset(
            key for key in before.keys() | after.keys() if _differ(before.get(key), after.get(key))
        )  # keys
        self.patterns = _wider(old) != _wider(new)  # prefixes, direct, default or aliases: any name may be meant

    def __bool__(self) -> bool:
        return bool(self.names) or self.patterns

    def concerns(self, name: str) -> bool:
        """Whether this name is now found otherwise than before."""
        if not self.patterns and not self._new.aliases:
            return name_key(name) in self.names
        return _differ(self._old.find(name), self._new.find(name))


def changed_names(old: Snapshot, new: Snapshot) -> Changed:
    """What differs between two snapshots; where a line stands in its file does not count."""
    return Changed(old, new)


def _wider(snapshot: Snapshot) -> tuple[object, ...]:
    lines = [(line.how, line.name, _substance(line)) for line in snapshot.names() if line.how is not How.EXACT]
    return (lines, dict(snapshot.aliases))


def _differ(old: Listed | None, new: Listed | None) -> bool:
    # Lines of a file that did not change are the very same objects.
    return old is not new and old != new and _substance(old) != _substance(new)


def _substance(line: Listed | None) -> tuple[object, ...] | None:
    if line is None:
        return None
    return (line.how, tuple(msgspec.structs.replace(entry, origin="", names=(), owner=None) for entry in line.entries))
