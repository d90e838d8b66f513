"""The current snapshot: files that change, break, vanish and come back."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from broker.directory import Directory, DirectoryProblem, Snapshot, changed_names

NOW = datetime(2026, 11, 21, tzinfo=UTC)
SOON = timedelta(milliseconds=5)


def write(path: Path, address: str) -> None:
    path.write_text(f"endpoints:\n  a: {address}\n")


def address(snapshot: Snapshot, name: str = "a") -> str | None:
    return next(iter(snapshot.resolve(name, now=NOW).addresses), None)


def test_the_configuration_goes_before_files_and_yaml_before_fhir(tmp_path: Path) -> None:
    write(tmp_path / "1.yaml", "https://1.example")
    write(tmp_path / "2.yml", "https://2.example")
    resource = {
        "resourceType": "Endpoint",
        "id": "e",
        "status": "active",
        "identifier": [{"value": "urn:x:1"}],
        "address": "https://fhir.example",
    }
    (tmp_path / "0.json").write_text(json.dumps(resource))
    (tmp_path / "3.yaml").write_text("endpoints: {'urn:x:1': 'https://3.example'}")
    found = Directory({}, ["*.json", "*.y*ml"], folder=tmp_path).load()
    assert address(found) == "https://1.example"
    assert address(found, "urn:x:1") == "https://3.example"
    assert address(Directory({"a": "https://0.example"}, ["*.y*ml"], folder=tmp_path).load()) == "https://0.example"
    assert address(Directory({}, ["2.yml", "1.yaml"], folder=tmp_path).load()) == "https://2.example"


def test_other_forms_hold_for_every_source(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("aliases: {a: [b]}")
    assert (
        address(Directory({"a": "https://0.example"}, ["a.yaml"], folder=tmp_path).load(), "b") == "https://0.example"
    )


def test_a_json_file_may_have_the_shape_of_the_yaml(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"endpoints": {"a": "https://j.example"}}')
    directory = Directory({}, ["a.json"], folder=tmp_path)
    assert address(directory.load()) == "https://j.example"
    assert directory.problems == ()


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.yaml", b"endpoints: {", "no YAML"),
        ("a.yaml", b"\xff\xfe", "not UTF-8"),
        ("a.json", b"{", "no JSON"),
        ("a.json", b"{}", "no resourceType"),
        ("a.txt", b"", ".yaml, .yml or .json"),
    ],
)
def test_a_broken_file_is_told(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(content)
    directory = Directory({}, [name], folder=tmp_path)
    directory.load()
    assert says in directory.problems[0].text
    assert directory.problems[0].file == str(tmp_path / name)


def test_a_broken_file_keeps_its_last_good_content(tmp_path: Path) -> None:
    """A-27."""
    path = tmp_path / "a.yaml"
    directory = Directory({}, ["a.yaml"], folder=tmp_path)
    write(path, "https://1.example")
    assert address(directory.load()) == "https://1.example"
    for broken in (lambda: path.write_text("endpoints: ["), path.unlink, lambda: path.write_bytes(b"\xff")):
        broken()
        assert address(directory.load()) == "https://1.example"
        assert "stays in use" in directory.problems[0].text
    assert address(directory.load()) == "https://1.example", "and goes on keeping it"
    write(path, "https://2.example")
    assert address(directory.load()) == "https://2.example"
    assert directory.problems == ()


def test_mistakes_in_an_unchanged_file_stay_told(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("endpoints: {a: nothing}")
    directory = Directory({}, ["a.yaml"], folder=tmp_path)
    directory.load()
    first = directory.problems
    directory.load()
    assert directory.problems == first
    assert first


def test_a_file_that_a_pattern_no_longer_finds_is_gone(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", "https://1.example")
    directory = Directory({}, ["*.yaml"], folder=tmp_path)
    assert address(directory.load()) == "https://1.example"
    (tmp_path / "a.yaml").unlink()
    assert address(directory.load()) is None
    assert [str(problem) for problem in directory.problems] == ["*.yaml: no file has a name like this"]


def test_before_the_first_load_the_configuration_is_known() -> None:
    assert address(Directory({"a": "mailbox:"}).current) == "mailbox:"


# --- watching


async def test_a_changed_file_is_seen_and_what_changed_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    write(path, "https://1.example")
    directory = Directory({"b": "mailbox:"}, ["*.yaml"], folder=tmp_path)
    await directory.reload()
    seen: asyncio.Queue[tuple[Snapshot, Snapshot]] = asyncio.Queue()
    task = asyncio.create_task(directory.watch(SOON, lambda old, new: seen.put_nowait((old, new))))
    write(path, "https://2.example/longer")
    old, new = await asyncio.wait_for(seen.get(), 10)
    assert (address(old), address(new)) == ("https://1.example", "https://2.example/longer")
    assert directory.current is new
    assert changed_names(old, new).names == {"a"}
    await stop(task)


async def test_a_file_that_looks_the_same_is_read_again_at_the_refresh(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    write(path, "https://1.example")
    stat = path.stat()
    directory = Directory({}, ["*.yaml"], folder=tmp_path)
    await directory.reload()
    write(path, "https://2.example")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert address(await directory.reload()) == "https://1.example"
    seen: asyncio.Queue[Snapshot] = asyncio.Queue()
    watching = directory.watch(SOON, lambda old, new: seen.put_nowait(new), refresh=3 * SOON)
    task = asyncio.create_task(watching)
    assert address(await asyncio.wait_for(seen.get(), 10)) == "https://2.example"
    await stop(task)


async def stop(task: asyncio.Task[None]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_problems_are_told_when_they_come_and_when_they_go(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    write(path, "https://1.example")
    directory = Directory({}, ["a.yaml"], folder=tmp_path)
    await directory.reload()
    told: asyncio.Queue[tuple[DirectoryProblem, ...]] = asyncio.Queue()
    changes: asyncio.Queue[Snapshot] = asyncio.Queue()

    async def on_change(old: Snapshot, new: Snapshot) -> None:
        changes.put_nowait(new)

    task = asyncio.create_task(directory.watch(SOON, on_change, told.put_nowait))
    path.write_text("endpoints: [")
    assert await asyncio.wait_for(told.get(), 10)
    assert changes.empty(), "the last good content stayed"
    path.with_suffix(".new").write_text("endpoints: {a: 'https://3.example'}")
    path.with_suffix(".new").rename(path)
    assert not await asyncio.wait_for(told.get(), 10)
    assert address(await asyncio.wait_for(changes.get(), 10)) == "https://3.example"
    await stop(task)


async def test_nothing_is_told_while_nothing_changes(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", "https://1.example")
    directory = Directory({}, ["a.yaml", "missing.yaml"], folder=tmp_path)
    await directory.reload()
    before = directory.current
    polled = threading.Semaphore(0)
    stale = directory._files.is_stale

    def counted() -> bool:
        polled.release()
        return stale()

    directory._files.is_stale = counted  # type: ignore[method-assign]
    task = asyncio.create_task(directory.watch(timedelta(0), lambda old, new: pytest.fail("nothing changed")))
    for _ in range(3):
        assert await asyncio.to_thread(polled.acquire, timeout=10)
    await stop(task)
    assert directory.current is before
