"""The in-process broker of the flow's tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
from flow_post import Opened, Post
from flow_subscribers import SubscribedPost, Subscribing

from broker.flow import deliver
from broker.flow.subscribing import notices

P = TypeVar("P", bound=Post)


@pytest.fixture(autouse=True)
def _schedule_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deliver, "TICK", 0.002)
    monkeypatch.setattr(notices, "TICK", 0.002)


@asynccontextmanager
async def building(kind: type[P], tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[P]]]:
    """Builds brokers on one file, as often as asked; what runs at the end is stopped."""
    posts: list[P] = []

    async def opened(path: Path = tmp_path / "broker.db", **more: Any) -> P:
        post = kind(path, **more)
        await post.start()
        posts.append(post)
        return post

    yield opened
    for post in posts:
        if not post._running.done():
            post.script.accepts_all()
            await post.stop()


@pytest.fixture
async def opened(tmp_path: Path) -> AsyncIterator[Opened]:
    async with building(Post, tmp_path) as opened:
        yield opened


@pytest.fixture
async def subscribing(tmp_path: Path) -> AsyncIterator[Subscribing]:
    """The same, where somebody may subscribe."""
    async with building(SubscribedPost, tmp_path) as opened:
        yield opened


@pytest.fixture
async def post(opened: Opened) -> Post:
    return await opened()
