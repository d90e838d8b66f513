"""amqps, against RabbitMQ's own TLS listener: whom we believe, and how we prove ourselves (X-32)."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest
from amqp_desk import ScriptedHost, send, until_there
from rabbitmq_node import RabbitNode, free_port, rabbitmq

from broker.channel import Deferred, Delivered
from plugins.amqp.receiver import AmqpReceiver
from plugins.amqp.sender import AmqpSender
from plugins.amqp.settings import AmqpSettings, ClientTls, Consume

pytestmark = pytest.mark.slow
LISTENER = """\
listeners.ssl.1 = 127.0.0.1:{port}
ssl_options.cacertfile = {folder}/ca.pem
ssl_options.certfile = {folder}/server.pem
ssl_options.keyfile = {folder}/server.key
ssl_options.verify = verify_peer
ssl_options.fail_if_no_peer_cert = true
ssl_cert_login_from = common_name
auth_mechanisms.1 = PLAIN
auth_mechanisms.2 = EXTERNAL
"""


def openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


def authority(folder: Path, name: str) -> None:
    openssl(
        folder, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
        "-keyout", f"{name}.key", "-out", f"{name}.pem", "-subj", f"/CN={name}",
    )  # fmt: skip


def certificate(folder: Path, name: str, extension: str) -> None:
    openssl(
        folder, "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", f"/CN={name}",
        "-keyout", f"{name}.key", "-out", f"{name}.csr",
    )  # fmt: skip
    (folder / f"{name}.ext").write_text(extension)
    openssl(
        folder, "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days",
        "2", "-out", f"{name}.pem", "-extfile", f"{name}.ext",
    )  # fmt: skip


@dataclass
class Guarded:
    node: RabbitNode
    folder: Path
    port: int

    def settings(
        self, login: str = "guest:guest@", *, ca: str = "ca", cert: bool = True, host: str = "localhost"
    ) -> AmqpSettings:
        return AmqpSettings(
            url=f"amqps://{login}{host}:{self.port}/",
            consume=(Consume(queue="guarded"),),
            tls=ClientTls(
                ca=self.folder / f"{ca}.pem",
                cert=self.folder / "broker.pem" if cert else None,
                key=self.folder / "broker.key" if cert else None,
            ),
        )


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder, port = tmp_path_factory.mktemp("tls"), free_port()
    for name in ("ca", "stranger"):
        authority(folder, name)
    certificate(folder, "server", "subjectAltName=DNS:localhost\n")
    certificate(folder, "broker", "extendedKeyUsage=clientAuth\n")
    with rabbitmq(
        tmp_path_factory.mktemp("rabbitmq"),
        more=LISTENER.format(port=port, folder=folder),
        plugins="rabbitmq_auth_mechanism_ssl",
    ) as node:
        yield Guarded(node, folder, port)


async def attempt(settings: AmqpSettings) -> Delivered | Deferred:
    sender = AmqpSender(settings, ScriptedHost())  # type: ignore[arg-type]
    end = await send(sender, "amqp:?routing_key=guarded")
    await sender.stop()
    assert isinstance(end, Delivered | Deferred)
    return end


async def test_messages_pass_both_ways_over_tls_with_a_client_certificate(guarded: Guarded) -> None:
    host = ScriptedHost()
    receiver = AmqpReceiver(guarded.settings(), host)  # type: ignore[arg-type]
    await receiver.start()
    await until_there(guarded.node, "guarded")
    assert isinstance(await attempt(guarded.settings()), Delivered)
    await host.until(1)
    assert "true" in guarded.node.control("list_connections", "ssl")
    await receiver.stop()


async def test_certificate_says_who_we_are_where_the_url_names_no_user(guarded: Guarded) -> None:
    """SASL EXTERNAL: RabbitMQ takes the common name for the user's."""
    denied = await attempt(guarded.settings(""))
    assert isinstance(denied, Deferred)
    assert "403 ACCESS_REFUSED" in denied.note
    guarded.node.control("add_user", "broker", str(uuid4()))
    guarded.node.control("set_permissions", "broker", ".*", ".*", ".*")
    host = ScriptedHost()
    receiver = AmqpReceiver(guarded.settings(""), host)  # type: ignore[arg-type]
    await receiver.start()
    await until_there(guarded.node, "guarded")
    assert isinstance(await attempt(guarded.settings("")), Delivered)
    await host.until(1)
    await receiver.stop()


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"ca": "stranger"}, "its certificate is not believed (self-signed certificate in certificate chain)"),
        ({"host": "127.0.0.1"}, "its certificate is not believed (IP address mismatch"),
        ({"cert": False}, "not connected: "),
    ],
    ids=["strange authority", "another name", "no certificate of ours"],
)
async def test_who_cannot_be_believed_is_not_spoken_to(guarded: Guarded, how: dict[str, object], said: str) -> None:
    end = await attempt(guarded.settings(**how))  # type: ignore[arg-type]
    assert isinstance(end, Deferred)
    assert (end.of_peer, end.left) == (True, False)
    assert said in end.note


def test_certificate_that_cannot_be_used_is_said_at_the_start(guarded: Guarded, tmp_path: Path) -> None:
    (tmp_path / "rubbish.pem").write_text("no certificate")
    settings = AmqpSettings(tls=ClientTls(ca=tmp_path / "rubbish.pem"))
    with pytest.raises(ValueError, match=r"channels\.amqp\.tls: the certificates cannot be used"):
        AmqpSender(settings, ScriptedHost())  # type: ignore[arg-type]
