"""How fast a disk says that it has kept something, and whether that can be true."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

BLOCK = 4096
FOR = 1.0  # seconds
LOOKS = 2000  # flushes at most
SUSPICIOUS = 0.0001  # seconds: flash takes longer than this, unless it has a battery or does not flush at all
IN_MEMORY = frozenset({"tmpfs", "ramfs", "devtmpfs"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """What was measured on the file system of a folder."""

    kind: str  # of the file system: ext4, xfs, tmpfs; "" where the system does not say
    cache: str  # of the device, as the kernel knows it: write back, write through, or ""
    flushes: int
    seconds: float
    median: float  # seconds of one flush
    slowest: float  # of a hundred, 99 were faster

    @property
    def rate(self) -> float:
        return self.flushes / self.seconds if self.seconds else 0.0

    @property
    def warnings(self) -> tuple[str, ...]:
        if self.kind in IN_MEMORY:
            return (f"the folder lies in memory ({self.kind}): nothing of it outlives the machine",)
        if self.median < SUSPICIOUS:
            text = (
                f"a flush takes {self.median * 1e6:.0f} µs, which is faster than most disks can write: either the"
                " disk's cache is safe from a power cut (ask its maker), or flushes are not done at all (a virtual"
                " disk, `nobarrier`). Only pulling the plug tells"
            )
            return (text,)
        return ()


def measure(folder: Path) -> Disk:
    """Writes a block and waits until it is kept, again and again for a second, as the store does at each commit."""
    file = folder / "flushes"
    times = []
    began = time.perf_counter()
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, BLOCK * LOOKS)
        os.fsync(descriptor)
        began = time.perf_counter()
        for number in range(LOOKS):
            started = time.perf_counter()
            os.pwrite(descriptor, os.urandom(BLOCK), number * BLOCK)
            os.fdatasync(descriptor)
            times.append(time.perf_counter() - started)
            if time.perf_counter() - began > FOR:
                break
    finally:
        os.close(descriptor)
        file.unlink()
    seconds = time.perf_counter() - began
    times.sort()
    return Disk(
        kind=_kind(folder), cache=_cache(folder), flushes=len(times), seconds=seconds,
        median=times[len(times) // 2], slowest=times[len(times) * 99 // 100],
    )  # fmt: skip


def _kind(folder: Path) -> str:
    """The file system that a folder lies on: the mount with the longest path above it."""
    found, longest = "", -1
    try:
        mounts = Path("/proc/self/mounts").read_text(errors="replace").splitlines()
    except OSError:
        return ""
    place = folder.resolve()
    for line in mounts:
        words = line.split(" ")
        if len(words) < 3:
            continue
        point = Path(words[1].replace("\\040", " "))
        if place.is_relative_to(point) and len(point.parts) >= longest:
            found, longest = words[2], len(point.parts)
    return found


def _cache(folder: Path) -> str:
    """Whether the kernel takes the device's cache for one that loses its content with the power (`write back`)."""
    device = folder.stat().st_dev
    here = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}")
    for place in (here / "queue" / "write_cache", here / ".." / "queue" / "write_cache"):  # a disk; a part of one
        try:
            return place.read_text().strip()
        except OSError:
            continue
    return ""
