"""Three brokers under load while cables are cut, disks fill and processes die; at the end nothing is missing.

`python tests/e2e/netns/soak.py --seconds 60` or `--minutes 30`; `--seed` brings the same troubles in the same order.
It needs to be root, or a machine that lets others make namespaces; everything it makes vanishes with it.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from accounts import Accounts, accounts  # noqa: E402
from chain import MIB, Chain  # noqa: E402
from e2e_messages import eventually  # noqa: E402
from troubles import Troubles  # noqa: E402

SENDERS = 4  # at each office
SETTLES = 150.0  # seconds that the end may take: a claim of a crash, an answer that is resent, the longest pause
SHOWN = 12  # faults; more would only repeat themselves
STILL = 40.0  # seconds without any change, after which no change is to be expected
INSIDE = "FHIR_BROKER_SOAK_INSIDE"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=0.0)
    parser.add_argument("--seconds", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1, 1 << 32))
    parser.add_argument("--keep", action="store_true", help="keep stores and logs")
    return parser.parse_args()


def enter() -> None:
    """Starts itself again in namespaces of its own, which end with it; says what is missing where that fails."""
    missing = [name for name in ("unshare", "ip", "nsenter", "mount") if shutil.which(name) is None]
    if missing:
        sys.exit(f"missing: {', '.join(missing)}; scripts/need ip=iproute2 unshare=util-linux")
    unshare = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if os.geteuid() != 0:
        unshare.append("--map-root-user")
    prepare = 'mount -t tmpfs none /run && : <>/dev/net/tun && exec "$@"'
    probe = subprocess.run([*unshare, "sh", "-c", prepare, "sh", "true"], capture_output=True, text=True, check=False)
    if probe.returncode:
        sys.exit(f"this needs namespaces and /dev/net/tun, so run it as root; what failed: {probe.stderr.strip()}")
    command = [*unshare, "sh", "-c", prepare, "sh", sys.executable, *sys.argv]
    os.execvpe(command[0], command, {**os.environ, INSIDE: "1"})


async def soak(folder: Path, seconds: float, seed: int) -> list[str]:
    dice = random.Random(seed)
    chain = Chain(folder, dice, room=int(seconds / 60 * 40 * MIB))
    troubles = Troubles(chain, random.Random(seed + 1))
    work: list[asyncio.Future[None]] = []
    try:
        await chain.open()
        senders = [asyncio.ensure_future(one.send_until_told()) for one in chain.offices for _ in range(SENDERS)]
        work += [*senders, asyncio.ensure_future(tell(chain, troubles))]
        await troubles.bring(seconds)
        print(f"-- the troubles are over: {dict(troubles.counts)}", flush=True)
        for office in chain.offices:
            office.stop_sending.set()
        began = time.monotonic()
        await asyncio.wait_for(asyncio.gather(*senders), SETTLES)
        made = await settled(chain, SETTLES)
        print(f"-- settled after {time.monotonic() - began:.1f} s", flush=True)
        for end, count in sorted(made.ends.items()):
            print(f"{count:8} {end}")
        if made.faults:
            for name, broker in chain.brokers.items():
                print(f"broker {name} says at last:\n{broker.output[-2000:]}")
        for cable in chain.cables:
            print(f"cable {cable.name}: {cable.carried} packets carried, {cable.lost} lost")
        copies = sum(came.times - 1 for office in chain.offices for came in office.came.values())
        again = sum(one.copies for office in chain.offices for one in office.sent.values())
        later = sum(office.later for office in chain.offices)
        print(f"{copies} copies of messages, {again} of answers, {later} times told to come later")
        return made.faults
    finally:
        for task in work:
            task.cancel()
        await asyncio.gather(*work, return_exceptions=True)
        await chain.close()


async def settled(chain: Chain, within: float) -> Accounts:
    """The accounts once nothing is missing, or once nothing has changed for long."""
    until, changed, before = time.monotonic() + within, time.monotonic(), -1
    with suppress(AssertionError):  # the accounts say what has not come to rest
        await eventually(lambda: at_rest(chain), within=within, every=1.0)
    while True:
        made = await accounts(chain)
        now = time.monotonic()
        if not made.faults and not any(office.is_busy for office in chain.offices):
            return made
        if len(made.faults) != before:
            changed, before = now, len(made.faults)
        if now > until or now > changed + STILL:
            return made
        await asyncio.sleep(1.0)


async def at_rest(chain: Chain) -> bool:
    """Whether nothing waits anywhere, which is asked quicker than all ledgers are compared."""
    counts = [(await broker.asked("status"))["counts"] for broker in chain.brokers.values()]
    return not any(one["waiting"] or one["open_answers"] for one in counts)


async def tell(chain: Chain, troubles: Troubles) -> None:
    """A line now and then, so that a long run shows that it goes on."""
    began = time.monotonic()
    while True:
        await asyncio.sleep(15)
        sent = sum(len(office.sent) for office in chain.offices)
        print(f"{time.monotonic() - began:6.0f} s: {sent} sent, {dict(troubles.counts)}", flush=True)


def main() -> None:
    given = arguments()
    seconds = given.minutes * 60 + given.seconds or 60.0
    if INSIDE not in os.environ:
        enter()
    print(f"seed {given.seed}, {seconds:.0f} s", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="fhir-broker-soak-"))
    try:
        faults = asyncio.run(soak(folder, seconds, given.seed))
    finally:
        if not given.keep:
            subprocess.run(["umount", str(folder / "b" / "disk")], check=False, capture_output=True)
            shutil.rmtree(folder, ignore_errors=True)
        else:
            shutil.copytree(folder, f"{folder}-kept")  # the middle broker's disk ends with the namespace
            print(f"kept: {folder}-kept")
    for fault in faults[:SHOWN]:
        print(f"FAULT {fault}")
    if faults:
        sys.exit(f"{len(faults)} faults; seed {given.seed}")
    print("everything that was acknowledged is accounted for")


if __name__ == "__main__":
    main()
