"""Channels in plugin folders: found by the configuration, imported when it names them, told what is wrong with them."""

from __future__ import annotations

import io
import json
import sys
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from config_desk import BROKER, CHANNELS, Desk

from broker.commands.schema import schema
from broker.config import load
from broker.config.installed import Installed
from broker.plugins import Channels, find_in, in_folder, manifest

DROP = """\
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from broker.channel import ChannelSpec
from .lanes import peer_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    inbox: Path
    every: timedelta = field(default=timedelta(seconds=1), metadata={"description": "How often the folder is read."})

    def __post_init__(self):
        self.every / (self.every - timedelta(seconds=13))  # a bug for thirteen seconds


CHANNEL = ChannelSpec(
    name="drop", schemes=("drop",), settings=Settings, sender=lambda settings, host: None, peer_of=peer_of
)
"""
LANES = "def peer_of(address):\n    return address\n"
ACTS = """\
from pathlib import Path

Path(__file__).with_name("imported").touch()
raise RuntimeError("must not be asked")
"""


@pytest.fixture
def plugins(desk: Desk) -> Path:
    folder = desk.folder / "plugins"
    for name, files in {"drop": {"__init__.py": DROP, "lanes.py": LANES}, "acts": {"__init__.py": ACTS}}.items():
        (folder / name).mkdir(parents=True)
        for file, text in files.items():
            (folder / name / file).write_text(text)
    return folder


def test_settings_of_a_channel_in_a_folder_are_read_like_ours(desk: Desk, plugins: Path) -> None:
    settings = desk.load("plugins: plugins\nchannels: {drop: {inbox: in, every: 5s}}\n")
    assert settings.plugins == (plugins,)
    assert settings.channels["drop"].inbox == desk.folder / "in"
    assert settings.channels["drop"].every == timedelta(seconds=5)
    assert desk.mistakes("plugins: plugins\nchannels: {drop: {everyy: 5s}}\n") == [
        "`inbox` is missing in `drop`",
        "unknown key `everyy` in `drop` (did you mean every?)",
    ]


def test_address_of_a_channel_in_a_folder_can_be_used(desk: Desk, plugins: Path) -> None:
    settings = desk.load(
        "plugins: plugins\nchannels: {drop: {inbox: in}}\ndirectory: {endpoints: {urn:x:a: 'drop:out'}}\n"
    )
    assert settings.directory.endpoints["urn:x:a"] == "drop:out"


def test_only_channels_that_the_configuration_names_are_imported(desk: Desk, plugins: Path) -> None:
    """Not even an address that asks for one imports it: a hint is not worth running a stranger's code."""
    text = "plugins: plugins\nchannels: {http: {}}\ndirectory: {endpoints: {urn:x:a: 'acts:out', urn:x:b: 'droop:x'}}\n"
    assert desk.mistakes(text) == [
        "the address `acts:out` needs the channel acts, which is off (add `acts:` under channels)",
        "the address `droop:x` has a scheme that no channel speaks",
    ]
    assert not (plugins / "acts" / "imported").exists()


def test_error_of_a_plugin_on_import_is_a_mistake_with_its_place(desk: Desk, plugins: Path) -> None:
    assert desk.mistakes("plugins: plugins\nchannels: {acts: {}}\n") == [
        "the channel acts cannot be loaded: acts/__init__.py:4: RuntimeError: must not be asked"
    ]
    (plugins / "drop" / "lanes.py").write_text("def peer_of(address)\n")
    assert desk.mistakes("plugins: plugins\nchannels: {drop: {inbox: in}}\n") == [
        "the channel drop cannot be loaded: drop/lanes.py:1: SyntaxError: expected ':'"
    ]
    assert [name for name in sys.modules if name.startswith("channel_acts")] == []


def test_plugin_that_leaves_the_process_on_import_ends_no_check(desk: Desk, plugins: Path) -> None:
    (plugins / "drop" / "lanes.py").write_text("raise SystemExit('bye')\n")
    assert desk.mistakes("plugins: plugins\nchannels: {drop: {inbox: in}}\n") == [
        "the channel drop cannot be loaded: drop/lanes.py:1: SystemExit: bye"
    ]


def test_bug_in_a_plugins_own_look_at_its_settings_is_a_mistake_and_no_traceback(desk: Desk, plugins: Path) -> None:
    assert desk.mistakes("plugins: plugins\nchannels: {drop: {inbox: in, every: 13s}}\n") == [
        "`drop` is wrong: ZeroDivisionError: division by zero"
    ]


def test_folder_that_is_a_file_and_a_list_of_nothing_are_mistakes(desk: Desk) -> None:
    (desk.folder / "plugins").write_text("")
    assert desk.mistakes("plugins: plugins\n") == ["`plugins`: there is no folder `plugins`"]
    assert desk.mistakes("plugins: {a: b}\n") == ["`plugins` must be a list, not a mapping"]


def test_folder_that_everybody_may_write_to_is_warned_of(desk: Desk, plugins: Path) -> None:
    assert desk.warnings("plugins: plugins\n") == []
    plugins.chmod(0o777)
    assert desk.warnings("plugins: plugins\n") == [
        "everybody on this machine may write to `plugins`, and what stands there is run"
    ]


def test_what_is_no_plugin_in_a_folder_is_passed_over(plugins: Path) -> None:
    (plugins / "__pycache__").mkdir()
    (plugins / "Upper").mkdir()
    (plugins / "Upper" / "__init__.py").touch()
    (plugins / "notes").mkdir()
    (plugins / "single.py").touch()
    assert list(in_folder(plugins)) == ["acts", "drop"]
    assert in_folder(plugins / "nowhere") == {}


def test_plugin_is_imported_once_in_a_process(plugins: Path) -> None:
    assert find_in(plugins / "drop") is find_in(plugins / "drop")


def test_folder_named_twice_is_one(desk: Desk, plugins: Path) -> None:
    offered = Installed([plugins, plugins], entries=CHANNELS)
    assert offered["drop"].name == "drop"
    assert list(offered) == ["http", "acts", "drop"]
    assert len(offered) == 3
    with pytest.raises(KeyError):
        offered["gopher"]


def test_schema_knows_the_channels_of_folders_that_it_is_told_of(desk: Desk, plugins: Path) -> None:
    out = io.StringIO()
    assert schema(plugins=[plugins], channels=CHANNELS, out=out) == 2
    assert out.getvalue().startswith("a channel cannot be loaded: acts/__init__.py:4: RuntimeError")
    (plugins / "acts" / "__init__.py").unlink()
    out = io.StringIO()
    assert schema(plugins=[plugins], channels=CHANNELS, out=out) == 0
    defined = json.loads(out.getvalue())["$defs"]
    assert {"http", "drop"} <= set(defined["Channels"]["properties"])
    assert defined["Settings"]["properties"]["every"]["description"] == "How often the folder is read."


def test_scheme_of_a_channel_is_lower_case_and_not_the_mailboxes(plugins: Path) -> None:
    spec = find_in(plugins / "drop")
    for schemes in (("mailbox",), ("Drop",), ("drop:",), ()):
        with pytest.raises(ValueError, match="scheme"):
            manifest(msgspec.structs.replace(spec, schemes=schemes), "drop", "here")


def test_two_channels_that_run_never_share_a_scheme(plugins: Path) -> None:
    spec = find_in(plugins / "drop")
    channels = Channels()
    channels.add(spec, sender=object(), receiver=None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="drop: addresses belong to the channel drop"):
        channels.add(msgspec.structs.replace(spec, name="other"), sender=object(), receiver=None)  # type: ignore[arg-type]


def test_the_configuration_of_a_plugin_passes_with_the_installed_channels_too(desk: Desk, plugins: Path) -> None:
    file = desk.write(BROKER + "plugins: [plugins]\nchannels: {http: {}, drop: {inbox: in}}\n")
    assert set(load(file, env={}).channels) == {"http", "drop"}
