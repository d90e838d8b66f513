"""Whether what the configuration says of subscriptions can work: somebody can subscribe, and can be told."""

from __future__ import annotations

from collections.abc import Iterator

from broker.config.mistake import Mistake
from broker.config.patterns import scheme_of
from broker.config.places import Steps
from broker.config.settings import Subscriptions
from broker.config.subject import Subject

_BLOCK: Steps = ("subscriptions",)
_BY_REST = "http"  # the channel whose listener serves Subscription resources
_SOCKETS = "websocket"  # the channel that tells without an endpoint


def contradictions(subject: Subject) -> list[Mistake]:
    subscriptions = subject.settings.subscriptions
    if subscriptions is None:
        return list(_caps(subject))
    return [*_allowed(subject, subscriptions), *_nobody(subject, subscriptions)]


def _caps(subject: Subject) -> Iterator[Mistake]:
    for party in subject.settings.parties.values():
        if party.content is not None:
            text = "`content` is what subscriptions are told, and none are served"
            yield subject.warning(("parties", party.name, "content"), text, "add `subscriptions:`")


def _allowed(subject: Subject, subscriptions: Subscriptions) -> Iterator[Mistake]:
    for index, pattern in enumerate(subscriptions.allow):
        path: Steps = ("subscriptions", "allow", index)
        yield from subject.scheme(path, scheme_of(pattern), subject.shown(path, pattern))


def _nobody(subject: Subject, subscriptions: Subscriptions) -> Iterator[Mistake]:
    on = subject.root.keys("channels")
    if _BY_REST not in on:
        text = "nobody can subscribe: Subscriptions are created over FHIR's REST interface"
        yield subject.warning(_BLOCK, text, f"add `{_BY_REST}:` under channels")
    elif not subscriptions.allow and _SOCKETS not in on:
        text = f"no subscriber can be told: `allow` names no endpoint, and {_SOCKETS} is off"
        yield subject.warning(_BLOCK, text, "allow: [https://*.partner.example/*]")
