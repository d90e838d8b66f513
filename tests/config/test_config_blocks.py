from __future__ import annotations

from dataclasses import FrozenInstanceError
from datetime import timedelta
from pathlib import Path

import pytest
from config_desk import CHANNELS, Bodies, Desk, HttpLike, Prefix

from broker.channel import ChannelSpec
from broker.config import ConfigurationErrors, load
from broker.core.tls import ClientCertificate, Tls


def test_a_block_becomes_the_plugins_own_frozen_value(desk: Desk) -> None:
    for name in ("cert.pem", "key.pem", "ca.pem"):
        (desk.folder / name).write_text("")
    block = desk.load(
        """\
channels:
  http:
    listen: "[::1]:0"
    tls: {cert: cert.pem, key: key.pem, client_ca: ca.pem, client: required}
    behind_proxy: 10.0.0.0/8
    bodies: {memory: 1MiB, wait: 5s}
    backlog: 5
    compress: true
    prefix: underscore
    from: broker@north.example
    root: inbox
    queues: [a, b]
    weights: {a: 0.5, b: 2}
"""
    ).channels["http"]
    assert block == HttpLike(
        listen="[::1]:0",
        tls=Tls(
            cert=desk.folder / "cert.pem",
            key=desk.folder / "key.pem",
            client_ca=desk.folder / "ca.pem",
            client=ClientCertificate.REQUIRED,
        ),
        behind_proxy=("10.0.0.0/8",),
        bodies=Bodies(memory=2**20, wait=timedelta(seconds=5)),
        backlog=5,
        compress=True,
        prefix=Prefix.UNDERSCORE,
        from_="broker@north.example",
        root=desk.folder / "inbox",
        queues=("a", "b"),
        weights={"a": 0.5, "b": 2.0},
    )
    with pytest.raises(FrozenInstanceError):
        block.backlog = 6


def test_a_channel_that_is_only_named_is_on_with_its_defaults(desk: Desk) -> None:
    assert desk.load("channels:\n  http:\n").channels == {"http": HttpLike()}


def test_a_channel_that_is_not_named_is_off(desk: Desk) -> None:
    settings = desk.load("channels: {}\n")
    assert settings.channels == {}
    assert [one.text for one in settings.warnings] == ["no channel is on: nothing can come in"]


def test_a_typo_in_a_block_is_a_mistake_at_any_depth(desk: Desk) -> None:
    assert desk.mistakes("channels: {http: {lisen: 127.0.0.1:1, bodies: {memori: 1MiB}, tls: {crt: x, key: y}}}\n") == [
        "unknown key `lisen` in `http` (did you mean listen?)",
        "unknown key `memori` in `bodies` (did you mean memory?)",
        "`cert` is missing in `tls`",
        "unknown key `crt` in `tls` (did you mean cert?)",
    ]


def test_every_kind_of_setting_says_what_it_must_be(desk: Desk) -> None:
    said = desk.mistakes(
        "channels: {http: {backlog: few, compress: yes, prefix: dot, bodies: [], root: [x], weights: {a: x},"
        " queues: {a: b}, listen: 127.0.0.1, user_agent: [x]}}\n"
    )
    assert said == [
        "`backlog` must be a whole number, not `few`",
        "`compress` must be true or false, not `yes`",
        "`prefix` must be colon or underscore, not `dot`",
        "`bodies` must be a mapping, not a list",
        "`root` must be a path, not a list",
        "`a` must be a number, not `x`",
        "`queues` must be a list, not a mapping",
        "`listen` must be host:port or unix:PATH, not `127.0.0.1` (did you mean 127.0.0.1:8080?)",
        "`user_agent` must be text, not a list",
    ]


def test_what_a_plugin_itself_finds_wrong_is_a_mistake_like_any_other(desk: Desk) -> None:
    assert desk.mistakes("channels: {http: {backlog: 13}}\n") == ["`http` is wrong: backlog: thirteen brings no luck"]


def test_a_unix_socket_starts_at_the_folder_of_the_configuration(desk: Desk) -> None:
    settings = desk.load("admin: {listen: unix:run/admin}\nchannels: {http: {listen: unix:../http}}\n")
    assert settings.admin.listen == f"unix:{desk.folder}/run/admin"
    assert settings.channels["http"].listen == f"unix:{desk.folder.parent}/http"


class Lazy(dict[str, ChannelSpec]):
    """Channels that are imported when they are asked for; one of them cannot be."""

    def __getitem__(self, name: str) -> ChannelSpec:
        if name == "broken":
            raise ImportError("No module named 'missing'")
        return super().__getitem__(name)


def test_a_channel_that_cannot_be_imported_is_a_mistake_and_hides_no_other(desk: Desk) -> None:
    lazy = Lazy(CHANNELS)
    lazy["broken"] = lazy["http"]
    file: Path = desk.write(
        "broker: {endpoint: urn:x:y, base_url: http://h/}\nchannels:\n  http:\n  broken: {a: b}\nloq: {}\n"
    )
    with pytest.raises(ConfigurationErrors) as caught:
        load(file, env={}, channels=lazy)
    assert [(one.line, one.text) for one in caught.value.mistakes] == [
        (4, "the channel broken cannot be loaded: No module named 'missing'"),
        (5, "unknown key `loq`"),
    ]


def test_a_channel_that_cannot_be_imported_and_is_off_concerns_nobody(desk: Desk) -> None:
    lazy = Lazy(CHANNELS)
    lazy["broken"] = lazy["http"]
    file = desk.write(
        "broker: {endpoint: urn:x:y, base_url: http://h/}\nchannels:\n  http:\n"
        "directory: {endpoints: {urn:x:z: 'gopher://x'}}\n"
    )
    with pytest.raises(ConfigurationErrors, match="has a scheme that no channel speaks"):
        load(file, env={}, channels=lazy)


def test_installed_channels_are_known_without_being_imported() -> None:
    from broker.config.installed import Installed

    installed = Installed()
    assert "http" in installed
    assert "gopher" not in installed
    assert "http" in list(installed)
    assert len(installed) >= 1
    with pytest.raises(KeyError):
        installed["gopher"]
    assert installed["http"].name == "http"
