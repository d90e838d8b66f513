"""What no single value shows: settings that contradict each other, or name what is not there."""

from __future__ import annotations

import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from broker.config import patterns
from broker.config.blocks import listeners
from broker.config.listening import Listen, listen
from broker.config.mistake import Mistake, Wrong, did_you_mean
from broker.config.places import Steps
from broker.config.settings import Whereto
from broker.config.source_sense import sources
from broker.config.subject import Subject
from broker.core.addressing import name_key
from broker.core.tls import ClientCertificate, Tls
from broker.directory.written import DIRECT, read_endpoints


def contradictions(subject: Subject) -> list[Mistake]:
    """Everything but the rules and policies."""
    looks = (_limits, _store, _plugins, _channels, _listeners, _certificates, _parties, sources, _endpoints)
    return [mistake for look in looks for mistake in look(subject)]


def _limits(subject: Subject) -> Iterator[Mistake]:
    limits = subject.settings.broker.limits
    if limits.message > limits.in_flight:
        path = ("broker", "limits", "message" if subject.root.has("broker", "limits", "message") else "in_flight")
        yield subject.mistake(path, "`message` must not be larger than `in_flight`: one message has to fit")


def _store(subject: Subject) -> Iterator[Mistake]:
    path: Steps = ("store", "url")
    place = subject.root.at(path)
    if not subject.root.has(*path) or not isinstance(place.holds, str):
        return
    scheme, _, name = place.holds.partition(":")
    if scheme in ("postgresql", "postgres"):
        yield subject.mistake(path, "a store in PostgreSQL is not in this release", "use sqlite:PATH")
    elif scheme != "sqlite" or not name:
        hint = did_you_mean(scheme, ["sqlite"]) and f"did you mean sqlite:{name or 'PATH'}?"
        yield subject.mistake(
            path, f"`url` must be sqlite:PATH, not `{place.shown}`", "" if place.is_substituted else hint
        )
    elif name.startswith((":memory:", "//")):
        yield subject.mistake(path, "`url` must name a file: sqlite:PATH", "did you mean sqlite:data/broker.db?")


def _plugins(subject: Subject) -> Iterator[Mistake]:
    for index, folder in enumerate(subject.settings.plugins):
        path: Steps = ("plugins", index)
        if not folder.is_dir():
            yield subject.mistake(path, f"`plugins`: there is no folder `{subject.root.at(path).shown}`")
        elif (folder / "__init__.py").is_file():
            text = f"`{subject.root.at(path).shown}` is a plugin itself; `plugins` names the folder above it"
            yield subject.mistake(path, text)
        elif folder.stat().st_mode & stat.S_IWOTH:
            text = (
                f"everybody on this machine may write to `{subject.root.at(path).shown}`, and what stands there is run"
            )
            yield subject.warning(path, text, "chmod o-w")


def _channels(subject: Subject) -> Iterator[Mistake]:
    if not subject.root.keys("channels"):
        yield subject.warning(("channels",), "no channel is on: nothing can come in", "add `http:` under channels")


def _listeners(subject: Subject) -> Iterator[Mistake]:
    taken: dict[str, str] = {}
    for name, path, where in _listening(subject):
        if str(where) in taken and where.port != 0:
            yield subject.mistake(path, f"{taken[str(where)]} listens on {subject.shown(path, where)} already")
        taken.setdefault(str(where), name)
        if not where.is_loopback and not subject.settings.insecure:
            yield from _guarded(subject, name, path, where)


def _listening(subject: Subject) -> Iterator[tuple[str, Steps, Listen]]:
    yield "admin", ("admin", "listen"), listen(subject.settings.admin.listen)
    for name, block in subject.settings.channels.items():
        for key, text in listeners(block):
            yield name, ("channels", name, key), listen(text)


def _guarded(subject: Subject, name: str, path: Steps, where: Listen) -> Iterator[Mistake]:
    """A listener that is not loopback needs TLS (its own or a proxy's) and parties (design: the contract)."""
    if name == "admin":
        yield subject.mistake(
            path,
            f"admin may listen on loopback only, not on {subject.shown(path, where)}",
            "127.0.0.1:8079, unix:PATH, or run with --insecure",
        )
        return
    root = subject.root
    lacks = []
    if not (root.has(*path[:-1], "tls") or root.has(*path[:-1], "behind_proxy")):
        lacks.append("without tls or behind_proxy")
    if not root.keys("parties"):
        lacks.append("without parties")
    if lacks:
        text = f"{name} listens beyond loopback, on {subject.shown(path, where)}, {' and '.join(lacks)}"
        yield subject.mistake(path, text, "listen on 127.0.0.1, or run with --insecure")
        return
    tls = getattr(subject.settings.channels[name], "tls", None)
    if not (isinstance(tls, Tls) and tls.client is ClientCertificate.REQUIRED):
        yield subject.warning(
            path,
            f"{name} listens beyond loopback, and parties cannot prove who they are in this release: whoever reaches it"
            " may send and read",
            "tls: {client: required, client_ca: …} lets in only those with a certificate of that authority",
        )


def _certificates(subject: Subject) -> Iterator[Mistake]:
    for name, block in subject.settings.channels.items():
        tls = getattr(block, "tls", None)
        path: Steps = ("channels", name, "tls")
        for key in ("cert", "key", "client_ca", "ca"):
            file: Path | None = getattr(tls, key, None)
            if file is not None and not file.is_file():
                shown = subject.root.at((*path, key)).shown
                yield subject.mistake((*path, key), f"`{key}`: there is no file `{shown}`")
        if not isinstance(tls, Tls):  # a client's has no callers
            continue
        if tls.client is not ClientCertificate.OFF and tls.client_ca is None:
            yield subject.mistake(
                (*path, "client"), f"`client: {tls.client}` needs `client_ca`: whose certificates are believed"
            )


def _parties(subject: Subject) -> Iterator[Mistake]:
    owner: dict[str, str] = {}
    for party in subject.settings.parties.values():
        path: Steps = ("parties", party.name)
        if not any(subject.root.has(*path, key) for key in ("endpoints", "relays_for")):
            yield subject.warning(path, f"the party {party.name} may send as nobody", "give it endpoints or relays_for")
        for index, endpoint in enumerate(party.endpoints):
            if endpoint in owner:
                shown = subject.root.at((*path, "endpoints", index)).shown
                text = f"`{shown}` is owned by {owner[endpoint]} already"
                yield subject.mistake((*path, "endpoints", index), text, "one owner; others may relay for it")
            owner.setdefault(endpoint, party.name)


def _endpoints(subject: Subject) -> Iterator[Mistake]:
    directory = subject.settings.directory
    first: dict[str, str] = {}
    sound = True
    for name, whereto in directory.endpoints.items():
        path: Steps = ("directory", "endpoints", name)
        found = [*_key(subject, path, name, whereto), *_addresses(subject, path, whereto)]
        same = first.setdefault(name_key(name), name)
        if same != name:
            hint = f"the first is in line {directory.lines[same]}"
            found.append(subject.mistake_at_key(path, f"`{name}` is the same name as `{same}`", hint))
        sound = sound and not found
        yield from found
    if sound:  # the directory itself has the last word: what passes here must not fail there
        for problem in read_endpoints(directory.endpoints, file="", lines=directory.lines).problems:
            name = next((name for name, line in directory.lines.items() if line == problem.line), "")
            yield subject.mistake_at_key(("directory", "endpoints", name), problem.text)


def _addresses(subject: Subject, path: Steps, whereto: Whereto) -> Iterator[Mistake]:
    if whereto == DIRECT:
        return
    if isinstance(whereto, Mapping):
        path, whereto = (*path, "first"), whereto["first"]
    for index, address in enumerate((whereto,) if isinstance(whereto, str) else whereto):
        yield from subject.address((*path, index), address)


def _key(subject: Subject, path: Steps, name: str, whereto: Whereto) -> Iterator[Mistake]:
    try:
        if whereto != DIRECT:
            patterns.name_pattern(name)
        elif name == "*":
            raise Wrong("must not be direct: the broker would connect anywhere", "https://*.partner.example/*")
        elif "*" in name:
            patterns.address_pattern(name)
            yield from subject.scheme(path, patterns.scheme_of(name), name)
        else:
            yield from subject.direct(path, name)
    except Wrong as wrong:
        yield subject.mistake_at_key(path, f"the endpoint `{name}` {wrong}", wrong.hint)
