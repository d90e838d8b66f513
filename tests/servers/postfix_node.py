"""A private Postfix for tests: its own queue, configuration and port in one folder, and no service of the machine.

It relays every mail for the domains it is told of to the place it is told of, tries again every second, and gives up
when a test says so. It needs root, as Postfix itself does: its daemons run as the user `postfix`.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import smtplib
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

STARTS_WITHIN = 30.0
STOPS_WITHIN = 20.0
LIBRARIES = Path("/usr/lib/postfix/sbin")  # Debian's
MAIN = """\
compatibility_level = 3.6
queue_directory = {folder}/queue
data_directory = {folder}/data
daemon_directory = {libraries}
command_directory = /usr/sbin
mail_owner = postfix
setgid_group = postdrop
myhostname = relay.example
mydestination =
mynetworks = 127.0.0.0/8
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
alias_maps =
local_recipient_maps =
relay_domains = {domains}
transport_maps = inline:{{ {transports} }}
default_transport = error:5.1.2 no way to this domain
smtp_host_lookup = native
smtp_dns_support_level = disabled
smtputf8_enable = yes
message_size_limit = {size}
mailbox_size_limit = 0
maillog_file = {folder}/mail.log
maillog_file_prefixes = {folder}
queue_run_delay = 1s
minimal_backoff_time = 1s
maximal_backoff_time = 1s
maximal_queue_lifetime = {lifetime}
bounce_queue_lifetime = {lifetime}
delay_warning_time = 0
smtpd_relay_restrictions = permit_mynetworks, reject
smtpd_recipient_restrictions = {recipients}
smtpd_error_sleep_time = 0
smtpd_client_connection_count_limit = 0
smtp_destination_concurrency_failed_cohort_limit = 0
destination_concurrency_feedback_debug = no
notify_classes =
"""
MASTER = """\
127.0.0.1:{port} inet n - n - - smtpd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
local unix - n n - - local
virtual unix - n n - - virtual
lmtp unix - - n - - lmtp
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
"""


def free_port() -> int:
    """Below those that outgoing connections are given: it must still be free when the server is started anew."""
    while True:
        with (
            contextlib.suppress(OSError),
            socket.create_server(("127.0.0.1", random.randint(15000, 32000))) as listener,
        ):
            return int(listener.getsockname()[1])


class PostfixNode:
    """One instance: what it has queued is there again when it is started anew, on the same port."""

    def __init__(
        self,
        folder: Path,
        routes: Mapping[str, str],
        *,
        size: int = 80_000_000,
        lifetime: str = "1h",
        recipients: str = "permit",
        more: str = "",
    ) -> None:
        """`routes`: the place of each domain, such as `smtp:[127.0.0.1]:8025`."""
        self.folder = folder.resolve()
        self.port = free_port()
        self.url = f"smtp://127.0.0.1:{self.port}"
        self.log = self.folder / "mail.log"
        self._process: subprocess.Popen[bytes] | None = None
        self.etc = self.folder / "etc"
        for path in (self.etc, self.folder / "queue", self.folder / "data"):
            path.mkdir(parents=True, exist_ok=True)
        shutil.chown(self.folder / "data", "postfix")
        for parent in (self.folder, *self.folder.parents):  # its daemons are another user
            with contextlib.suppress(PermissionError):
                if str(parent).startswith(("/tmp/", str(self.folder))):
                    parent.chmod(parent.stat().st_mode | 0o711)
        transports = ", ".join(f"{{ {domain} = {place} }}" for domain, place in routes.items())
        (self.etc / "main.cf").write_text(
            MAIN.format(
                folder=self.folder,
                libraries=LIBRARIES,
                domains=" ".join(routes),
                transports=transports,
                size=size,
                lifetime=lifetime,
                recipients=recipients,
            )
            + more
        )
        (self.etc / "master.cf").write_text(MASTER.format(port=self.port))

    def start(self) -> PostfixNode:
        """Returns once it greets."""
        if os.geteuid() != 0 or not LIBRARIES.exists():
            raise RuntimeError("Postfix is not installed, or this is not root: scripts/need postfix=postfix")
        said = subprocess.run(
            ["/usr/sbin/postfix", "-c", str(self.etc), "check"], capture_output=True, timeout=STARTS_WITHIN
        )
        if said.returncode != 0:
            raise RuntimeError(f"Postfix: {said.stderr.decode(errors='replace')}")
        deadline = time.monotonic() + STARTS_WITHIN
        self._run()
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError, smtplib.SMTPException), smtplib.SMTP("127.0.0.1", self.port, timeout=5):
                return self
            time.sleep(0.05)
            if self._process is not None and self._process.poll() is not None:
                time.sleep(0.5)  # on a busy machine a master ends without a word now and then, and not the next time
                self._run()
        ended = self._process.poll() if self._process is not None else None
        self.stop()
        raise RuntimeError(f"Postfix does not greet on port {self.port} ({ended}); it said:\n{self.said}")

    def _run(self) -> None:
        with (self.folder / "master.out").open("ab") as output:
            self._process = subprocess.Popen(
                [str(LIBRARIES / "master"), "-c", str(self.etc), "-d"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, "MAIL_CONFIG": str(self.etc)},
                start_new_session=True,  # it ends its daemons by their group
            )

    def stop(self) -> None:
        """Ends the master and with it all of its daemons; what is queued stays."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOPS_WITHIN)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        deadline = time.monotonic() + STOPS_WITHIN
        with contextlib.suppress(ProcessLookupError):  # a daemon that is left would still listen
            while time.monotonic() < deadline:
                os.killpg(process.pid, signal.SIGKILL)
                time.sleep(0.02)

    @property
    def said(self) -> str:
        files = (self.log, self.folder / "master.out")
        return "".join(file.read_text(errors="replace") for file in files if file.exists())

    def queued(self) -> int:
        """Mails that wait."""
        found = 0
        for name in ("active", "deferred", "incoming"):
            found += sum(path.is_file() for path in (self.folder / "queue" / name).rglob("*"))
        return found


@contextlib.contextmanager
def postfix(folder: Path, routes: Mapping[str, str], **more: object) -> Iterator[PostfixNode]:
    node = PostfixNode(folder, routes, **more)  # type: ignore[arg-type]
    try:
        yield node.start()
    finally:
        node.stop()
