from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.config.mistake import Wrong
from broker.config.quantities import duration, size, span, written_duration, written_size


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("250ms", timedelta(milliseconds=250)),
        ("10s", timedelta(seconds=10)),
        ("1.5s", timedelta(seconds=1.5)),
        ("15m", timedelta(minutes=15)),
        ("24h", timedelta(hours=24)),
        ("90d", timedelta(days=90)),
        ("0", timedelta()),
        ("0s", timedelta()),
    ],
)
def test_durations_are_read(written: str, meant: timedelta) -> None:
    assert duration(written) == meant


@pytest.mark.parametrize(
    ("written", "hint"),
    [
        ("10", "did you mean 10s?"),
        ("10 s", "did you mean 10s?"),
        ("10S", "did you mean 10s?"),
        ("5 secs", "did you mean 5s?"),
        ("5min", "did you mean 5m?"),
        ("2hours", "did you mean 2h?"),
        ("3 weeks", ""),
        ("soon", ""),
        ("", ""),
        ("1h30m", ""),
        (["10s"], ""),
    ],
)
def test_what_is_no_duration_is_wrong_with_the_nearest_one(written: object, hint: str) -> None:
    with pytest.raises(Wrong, match="must be a duration") as caught:
        duration(written)
    assert caught.value.hint == hint


def test_a_duration_is_not_negative_and_not_endless() -> None:
    with pytest.raises(Wrong, match="must not be negative"):
        duration("-5s")
    with pytest.raises(Wrong, match="longer than a hundred years"):
        duration("36501d")
    with pytest.raises(Wrong, match="longer than zero"):
        span("0ms")


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("0", 0),
        ("12B", 12),
        ("500kB", 500_000),
        ("64KiB", 65536),
        ("32MiB", 2**25),
        ("1GiB", 2**30),
        ("2TB", 2 * 10**12),
    ],
)
def test_sizes_are_read(written: str, meant: int) -> None:
    assert size(written) == meant


@pytest.mark.parametrize(
    ("written", "hint"),
    [
        ("32", "did you mean 32B?"),
        ("32M", "did you mean 32MiB?"),
        ("32mib", "did you mean 32MiB?"),
        ("32 MiB", "did you mean 32MiB?"),
        ("32KB", "did you mean 32kB?"),
        ("32 pages", ""),
        ({}, ""),
    ],
)
def test_what_is_no_size_is_wrong_with_the_nearest_one(written: object, hint: str) -> None:
    with pytest.raises(Wrong, match="must be a size") as caught:
        size(written)
    assert caught.value.hint == hint


def test_a_size_fits_the_store() -> None:
    with pytest.raises(Wrong, match="must not be larger"):
        size("8388608TiB")
    with pytest.raises(Wrong, match="must not be negative"):
        size("-1B")


@pytest.mark.parametrize(
    ("length", "written"),
    [
        (timedelta(hours=24), "24h"),
        (timedelta(days=90), "90d"),
        (timedelta(seconds=60), "60s"),
        (timedelta(minutes=10), "10m"),
        (timedelta(milliseconds=250), "250ms"),
        (timedelta(0), "0s"),
    ],
)
def test_defaults_are_written_as_people_write_them(length: timedelta, written: str) -> None:
    assert written_duration(length) == written


@given(st.integers(min_value=0, max_value=10**12))
def test_what_is_written_is_read_again(number: int) -> None:
    length = timedelta(milliseconds=number % 10**12)
    assert duration(written_duration(length)) == length
    assert size(written_size(number)) == number
