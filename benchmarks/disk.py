"""How often a second this disk takes 4 KiB and says that it is there: without it a durable figure means nothing."""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path


def syncs_per_second(folder: Path, *, seconds: float = 0.5, most: int = 15_000) -> float:
    path = folder / "sync.tmp"
    page = os.urandom(4096)
    descriptor = os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
    try:
        count, started = 0, time.perf_counter()
        while count < most and time.perf_counter() - started < seconds:
            os.write(descriptor, page)
            os.fdatasync(descriptor)
            count += 1
        return count / (time.perf_counter() - started)
    finally:
        os.close(descriptor)
        path.unlink()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dir", type=Path, default=Path())
    print(f"{syncs_per_second(parser.parse_args().dir, seconds=3.0):,.0f} appends + fdatasync of 4 KiB a second")
