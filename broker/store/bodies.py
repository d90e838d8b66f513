"""Large bodies: each in a file of its own, synced before the row that names it."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

LARGE = 256 * 1024  # bytes; below, a row is cheaper than a file
SLICE = 4 << 20  # bytes; each is synced alone: behind the whole of a large body, a commit would wait for the disk


class Bodies:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, body: bytes) -> str:
        """Writes and syncs a new file; returns its name. Raises OSError, leaving nothing behind."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        name = secrets.token_hex(16)
        path = self.folder / name
        try:
            with path.open("xb", buffering=0) as file:
                rest = memoryview(body)
                while rest:
                    rest = rest[file.write(rest[:SLICE]) :]
                    os.fdatasync(file.fileno())
                os.fsync(file.fileno())
            folder = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError:
            path.unlink(missing_ok=True)
            raise
        return name

    def read(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()

    def remove(self, name: str) -> None:
        (self.folder / name).unlink(missing_ok=True)

    def names(self) -> set[str]:
        return {entry.name for entry in os.scandir(self.folder)} if self.folder.is_dir() else set()
