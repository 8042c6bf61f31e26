# SPDX-License-Identifier: MIT
"""
Servers that do not take a node's own certificate.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from OpenSSL import SSL
from twisted.logger import capturedLogs

from nodecomm.inventory.https import OverTLS, own_key_certificate
from nodecomm.inventory.own import node_certificate
from nodecomm.inventory.pairs import Box
from nodecomm.inventory.upstream import ClientCertificate, Transient
from nodecomm.inventory.upstream_errors import CertificateRefused
from tests.inventory.hub import HUB, NOW, Hub, hub_pair
from tests.inventory.web import Server

NAME = "0f1e_2026-11-22T12:00:00+01:00.ocs"

VERSIONS = [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION]


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    """A network; in the end nothing is left of it."""
    hub = Hub(tmp_path)
    yield hub
    hub.end()


def refusing(hub: Hub, version: int, mode: int = SSL.VERIFY_PEER) -> Server:
    """Our server, behind TLS that believes no certificate of a client."""
    server = Server(hub.folder / "hub", clock=hub.network.clock)
    hub.servers.append(server)
    context = own_key_certificate(hub_pair(), "root", NOW)
    context.set_verify(mode, lambda *_: False)
    context.set_max_proto_version(version)
    over = OverTLS(context, server.site, reactor=hub.network.clock)
    hub.network.listen(HUB, over)
    return server


def mine() -> ClientCertificate:
    """Who we are."""
    own = hub_pair()
    return ClientCertificate(node_certificate(own, "n1", NOW), own.private)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_password_instead(hub: Hub, version: int) -> None:
    """It is sent to without the certificate, and the next file at once so."""
    server = refusing(hub, version)
    upstream = hub.upstream(certificate=mine())
    with capturedLogs() as told:
        assert hub.result(upstream.server_id()) == "root"
        before = len(hub.network.connections)
        hub.result(upstream.close())
        for name in (NAME, f"{NAME}.sign"):
            assert hub.result(upstream.put(Box.FIRST, name, b"<doc/>")) == 201
    assert len(hub.network.connections) == before + 1
    events = [each["event"] for each in told]
    assert events.count("upstream.without-certificate") == 1
    assert len(server.deliveries) == 1


@pytest.mark.parametrize("version", VERSIONS)
def test_a_file_first(hub: Hub, version: int) -> None:
    """A file that was begun is sent again from its beginning."""
    server = refusing(hub, version)
    upstream = hub.upstream(certificate=mine())
    assert hub.result(upstream.put(Box.FIRST, NAME, b"<doc/>")) == 201
    assert hub.result(upstream.put(Box.FIRST, f"{NAME}.sign", b"sig")) == 201
    assert [each.document for each in server.deliveries] == [b"<doc/>"]


@pytest.mark.parametrize("version", VERSIONS)
def test_no_password(hub: Hub, version: int) -> None:
    """Without a password there is nothing else to try; it says why."""
    refusing(hub, version)
    upstream = hub.upstream(certificate=mine(), accounts={})
    error = hub.failure(upstream.put(Box.FIRST, NAME, b"<doc/>"))
    assert isinstance(error, CertificateRefused)
    assert "own certificate (" in str(error)
    assert len(hub.network.connections) == 1


@pytest.mark.parametrize("version", VERSIONS)
def test_no_password_for_a_box(hub: Hub, version: int) -> None:
    """
    That the id of the server was had without the certificate does not make a missing
    password the reason.
    """
    refusing(hub, version)
    upstream = hub.upstream(certificate=mine(), accounts={Box.FIRST: ("a", "b")})
    assert hub.result(upstream.server_id()) == "root"
    for _ in range(2):
        error = hub.failure(upstream.put(Box.UPDATE, NAME, b"<doc/>"))
        assert isinstance(error, CertificateRefused)


@pytest.mark.parametrize("version", VERSIONS)
def test_another_one_is_wanted(hub: Hub, version: int) -> None:
    """A server that takes nobody without a certificate is told as that, each time."""
    refusing(hub, version, SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT)
    upstream = hub.upstream(certificate=mine())
    for _ in range(2):
        error = hub.failure(upstream.put(Box.FIRST, NAME, b"<doc/>"))
        assert isinstance(error, Transient)
        assert "own certificate (" in str(error)
        assert "); and without it: " in str(error)
