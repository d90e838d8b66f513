"""Directories over real HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from fhir_directory import FhirDirectory, OpenDirectory


@pytest.fixture
async def register() -> AsyncIterator[OpenDirectory]:
    opened: list[FhirDirectory] = []

    async def open_one(**options: Any) -> FhirDirectory:
        opened.append(await FhirDirectory(**options).open())
        return opened[-1]

    yield open_one
    for one in opened:
        await one.close()
