"""From what the file says to what the broker works with: policies laid over each other, paths made absolute."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import msgspec

from broker.channel import ChannelSpec
from broker.config import forms, settings
from broker.config.blocks import absolute, settings_of
from broker.config.kinds import Form
from broker.config.listening import listen
from broker.config.places import Place, Steps
from broker.config.rules import MatchForm, PolicyForm, RuleForm
from broker.core.fhir.header import Event
from broker.core.policy import DEFAULT, Match, Order, Policy, Rule
from broker.core.subscription import life
from broker.directory.source import ServerSource

Values = TypeVar("Values", bound=msgspec.Struct)


def frozen(
    form: forms.Configuration,
    *,
    root: Place,
    file: Path,
    channels: Mapping[str, ChannelSpec],
    insecure: bool,
) -> settings.Settings:
    """The settings; not yet looked at for what contradicts itself."""
    folder = file.parent.absolute()
    defaults = _policy(DEFAULT, form.defaults)
    return settings.Settings(
        file=file,
        broker=settings.Broker(
            endpoint=form.broker.endpoint,
            base_url=form.broker.base_url,
            fhir=form.broker.fhir,
            event_prefix=form.broker.event_prefix,
            status_event=_event(form.broker.status_event),
            limits=_same(settings.Limits, form.broker.limits),
        ),
        store=_store(form.store, folder),
        admin=settings.Admin(listen=_listen(form.admin.listen, folder)),
        plugins=tuple(absolute(path, folder) for path in form.plugins),
        channels=MappingProxyType(
            {name: settings_of(channels[name].settings, block, folder) for name, block in _blocks(form.channels)}
        ),
        parties=MappingProxyType({name: _party(name, party) for name, party in form.parties.items()}),
        allow=settings.Allow(response_url=form.allow.response_url),
        directory=_directory(form.directory, root, folder),
        routes=tuple(_rule(number, rule, defaults, root, file) for number, rule in enumerate(form.routes)),
        defaults=defaults,
        subscriptions=None if form.subscriptions is None else _subscriptions(form.subscriptions, defaults),
        log=settings.Log(level=settings.LogLevel(form.log.level), format=settings.LogFormat(form.log.format)),
        insecure=insecure,
    )


def _same(kind: type[Values], form: Form) -> Values:
    """The value whose fields have the same names."""
    return kind(**{name: getattr(form, name) for name in kind.__struct_fields__})


def _blocks(channels: Any) -> list[tuple[str, Form]]:
    """The channels that are on."""
    return sorted((name.removesuffix("_"), getattr(channels, name)) for name in channels.model_fields_set)


def _store(form: forms.Store, folder: Path) -> settings.Store:
    path = absolute(form.url.partition(":")[2], folder)
    return settings.Store(
        url=f"sqlite:{path}",
        path=path,
        min_free=form.min_free,
        max_wal=form.max_wal,
        retention=_same(settings.Retention, form.retention),
    )


def _listen(text: str, folder: Path) -> str:
    where = listen(text)
    return f"unix:{absolute(where.path, folder)}" if where.path else str(where)


def _party(name: str, form: forms.Party) -> settings.Party:
    return settings.Party(
        name=name, endpoints=form.endpoints, relays_for=form.relays_for, broker=form.broker, content=form.content
    )


def _directory(form: forms.Directory, root: Place, folder: Path) -> settings.Directory:
    places: Steps = ("directory", "endpoints")
    return settings.Directory(
        refresh=form.refresh,
        sources=tuple(_source(source, folder) for source in form.sources),
        endpoints=MappingProxyType({name: _whereto(way) for name, way in form.endpoints.items()}),
        lines=MappingProxyType({name: root.at((*places, name)).named[0] for name in form.endpoints}),
    )


def _source(form: forms.Source, folder: Path) -> str | ServerSource:
    if "://" not in form.url and form.model_fields_set == {"url"}:
        return str(absolute(form.url, folder))
    ca, cert, key = (absolute(path, folder) if path else None for path in (form.ca, form.cert, form.key))
    return ServerSource(
        url=form.url.rstrip("/"),
        headers=tuple(form.headers.items()),
        ca=ca,
        cert=cert,
        key=key,
        types=form.types,
    )


def _whereto(form: forms.Addresses) -> settings.Whereto:
    if form.first:
        return MappingProxyType({"first": form.first})
    return form.all[0] if len(form.all) == 1 else form.all


def _subscriptions(form: forms.Subscriptions, defaults: Policy) -> settings.Subscriptions:
    """All but the topics, which stand in files of their own (`topics`)."""
    # Order is that of the numbers, and nobody is told that a notification failed but whoever asks for its status.
    base = msgspec.structs.replace(defaults, order=Order.NONE, on_refused="skip", bounce="never")
    return settings.Subscriptions(
        allow=form.allow,
        content=form.content,
        most=form.most,
        policy=life.Policy(error_after=form.error_after, off_after=form.off_after),
        delivery=_policy(base, form),
        token=form.token,
        event=_event(form.event),
        heartbeat=form.heartbeat,
    )


def _rule(index: int, form: RuleForm, defaults: Policy, root: Place, file: Path) -> Rule:
    line, _ = root.at(("routes", index)).start
    return Rule(
        name=form.name or f"rule {index + 1}",
        match=_match(form.match),
        to=form.to,
        address=form.address,
        refuse=form.refuse,
        log=form.log,
        cancels=form.cancels,
        policy=_policy(defaults, form),
        where=f"{file}:{line}",
    )


def _match(form: MatchForm) -> Match:
    return Match(
        event=form.event,
        source=form.source,
        destination=form.destination,
        receiver=form.receiver,
        sender=form.sender,
        party=form.party,
        channel=form.channel,
        path=form.path,
        header=tuple((name.lower(), values) for name, values in form.header.items()),
        profile=form.profile,
        fhir=tuple(release.value for release in form.fhir),
        type=form.type,
        response=form.response,
        negated=None if form.not_ is None else _match(form.not_),
    )


def _event(text: str) -> Event:
    """`system|code`, or a code alone."""
    system, _, code = text.rpartition("|")
    return Event(system=system, code=code)


def _policy(base: Policy, form: PolicyForm | forms.Subscriptions) -> Policy:
    said = _said(form)
    said["unread"] = said.pop("mailbox", {}).get("unread", base.unread)
    return _laid_over(base, {name: value for name, value in said.items() if name in Policy.__struct_fields__})


def _said(form: Form) -> dict[str, Any]:
    """Only what stands in the file, by the names of the values: `validate_` is `validate`."""
    values = ((name.removesuffix("_"), getattr(form, name)) for name in form.model_fields_set)
    return {name: _said(value) if isinstance(value, Form) else value for name, value in values}


def _laid_over(base: Values, said: Mapping[str, Any]) -> Values:
    """`base`, with what is said instead, leaf by leaf."""
    changed = {
        name: _laid_over(getattr(base, name), value) if isinstance(value, dict) else value
        for name, value in said.items()
    }
    return msgspec.structs.replace(base, **changed)
