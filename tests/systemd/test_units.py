"""The units say what operations.md promises: checked before started, watched, confined."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

UNITS = Path(__file__).parents[2] / "systemd"
SECTIONS = {"Unit", "Service", "Socket", "Install"}


def read(name: str) -> dict[str, dict[str, list[str]]]:
    """A unit file as systemd.syntax(7) describes it: keys may come again, a repeated key adds a value."""
    sections: dict[str, dict[str, list[str]]] = {}
    current: dict[str, list[str]] | None = None
    for number, line in enumerate((UNITS / name).read_text().splitlines(), 1):
        line = line.strip()
        if not line or line[0] in "#;":
            continue
        if heading := re.fullmatch(r"\[(\w+)\]", line):
            assert heading[1] in SECTIONS, f"{name}:{number}: no section {heading[1]}"
            assert heading[1] not in sections, f"{name}:{number}: section {heading[1]} comes twice"
            current = sections.setdefault(heading[1], {})
            continue
        key, equals, value = line.partition("=")
        assert equals, f"{name}:{number}: neither a section nor a setting"
        assert re.fullmatch(r"[A-Z][A-Za-z0-9]*", key), f"{name}:{number}: {key!r} is no name of a setting"
        assert current is not None, f"{name}:{number}: a setting before the first section"
        current.setdefault(key, []).append(value.strip())
    return sections


SERVICE = read("fhir-broker.service")["Service"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("Type", "notify"),
        ("NotifyAccess", "main"),
        ("WatchdogSec", "30"),
        ("Restart", "on-failure"),
        ("RestartPreventExitStatus", "2"),
        ("KillMode", "mixed"),
        ("DynamicUser", "yes"),
        ("StateDirectory", "fhir-broker"),
        ("StateDirectoryMode", "0700"),
        ("ConfigurationDirectory", "fhir-broker"),
        ("UMask", "0077"),
        ("LimitNOFILE", "65536"),
        ("LimitCORE", "0"),
        ("NoNewPrivileges", "yes"),
        ("CapabilityBoundingSet", ""),
        ("ProtectSystem", "strict"),
        ("ProtectHome", "yes"),
        ("PrivateTmp", "yes"),
        ("PrivateDevices", "yes"),
        ("PrivateUsers", "yes"),
        ("ProtectClock", "yes"),
        ("ProtectControlGroups", "yes"),
        ("ProtectHostname", "yes"),
        ("ProtectKernelLogs", "yes"),
        ("ProtectKernelModules", "yes"),
        ("ProtectKernelTunables", "yes"),
        ("ProtectProc", "invisible"),
        ("RestrictAddressFamilies", "AF_INET AF_INET6 AF_UNIX"),
        ("RestrictNamespaces", "yes"),
        ("RestrictRealtime", "yes"),
        ("RestrictSUIDSGID", "yes"),
        ("RemoveIPC", "yes"),
        ("LockPersonality", "yes"),
        ("MemoryDenyWriteExecute", "yes"),
        ("SystemCallArchitectures", "native"),
        ("SystemCallErrorNumber", "EPERM"),
    ],
)
def test_the_service_says(key: str, value: str) -> None:
    assert SERVICE.get(key) == [value]


def test_the_configuration_is_checked_before_the_daemon_runs() -> None:
    [check], [run] = SERVICE["ExecStartPre"], SERVICE["ExecStart"]
    assert check.split()[1] == "check"
    assert run.split()[1] == "run"
    assert check.split()[0] == run.split()[0]
    assert check.split()[2:] == run.split()[2:] == ["--config", "${CONFIGURATION_DIRECTORY}/broker.yaml"]


def test_system_calls_are_those_of_a_service_and_no_more() -> None:
    assert SERVICE["SystemCallFilter"] == ["@system-service", "~@privileged @resources"]


def test_stopping_leaves_time_to_drain() -> None:
    assert int(SERVICE["TimeoutStopSec"][0]) >= 60


def test_the_unit_shows_how_secrets_are_handed_over() -> None:
    text = (UNITS / "fhir-broker.service").read_text()
    assert re.search(r"^#LoadCredential=tls\.key:", text, re.MULTILINE)
    assert "${CREDENTIALS_DIRECTORY}/tls.key" in text


def test_the_service_starts_with_the_machine_after_the_network() -> None:
    unit = read("fhir-broker.service")
    assert unit["Unit"]["After"] == unit["Unit"]["Wants"] == ["network-online.target"]
    assert unit["Install"]["WantedBy"] == ["multi-user.target"]


def test_the_socket_bears_the_name_of_its_channel() -> None:
    unit = read("fhir-broker.socket")
    assert unit["Socket"]["FileDescriptorName"] == ["http"]
    assert unit["Socket"]["ListenStream"] == ["127.0.0.1:8080"]
    assert unit["Install"]["WantedBy"] == ["sockets.target"]
