# SPDX-License-Identifier: MIT
"""
Contexts: versions, suites, and what is refused.
"""

from __future__ import annotations

import contextlib
import ssl
import warnings
from typing import Any

from OpenSSL import SSL
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from nodecomm.transport.context import client_context, server_context
from tests.transport.links import CLIENT_KEY, SERVER_KEY


def shake(server: SSL.Context, client: SSL.Context) -> tuple[str, str]:
    """
    The version and suite the two agree on.
    """
    ends = [SSL.Connection(server, None), SSL.Connection(client, None)]
    ends[0].set_accept_state()
    ends[1].set_connect_state()
    for _ in range(6):
        for here, there in (ends, ends[::-1]):
            with contextlib.suppress(SSL.WantReadError):
                here.do_handshake()
            with contextlib.suppress(SSL.WantReadError):
                there.bio_write(here.bio_read(1 << 16))
    return ends[0].get_protocol_version_name(), ends[0].get_cipher_name() or ""


class ContextTests(SynchronousTestCase):
    """
    What two ends agree on.
    """

    def test_agreements(self) -> None:
        """TLS 1.3 first, then forward secrecy, then what old servers have."""
        cases: list[tuple[dict[str, Any], tuple[str, str]]] = [
            ({}, ("TLSv1.3", "TLS_AES_256_GCM_SHA384")),
            (
                {"max_version": "1.2"},
                ("TLSv1.2", "ECDHE-RSA-AES256-GCM-SHA384"),
            ),
            ({"ciphers": "AES256-GCM-SHA384"}, ("TLSv1.2", "AES256-GCM-SHA384")),
            ({"ciphers": "AES256-SHA"}, ("TLSv1.2", "AES256-SHA")),
            (
                {"ciphers": "AES256-GCM-SHA384:AES256-SHA:TLS_AES_256_GCM_SHA384"},
                ("TLSv1.3", "TLS_AES_256_GCM_SHA384"),
            ),
            (
                {"ciphers": "TLS_AES_128_GCM_SHA256"},
                ("TLSv1.3", "TLS_AES_128_GCM_SHA256"),
            ),
            ({"min_version": "1.1"}, ("TLSv1.3", "TLS_AES_256_GCM_SHA384")),
            ({"min_version": "1.3"}, ("TLSv1.3", "TLS_AES_256_GCM_SHA384")),
        ]
        for options, expected in cases:
            with self.subTest(options=options):
                client = client_context(CLIENT_KEY, **options)
                server = server_context(SERVER_KEY, **options)

                self.assertEqual(shake(server_context(SERVER_KEY), client), expected)
                self.assertEqual(shake(server, client_context(CLIENT_KEY)), expected)

    def test_nothing_in_common(self) -> None:
        """Versions that do not meet fail the handshake."""
        server = server_context(SERVER_KEY, min_version="1.3")
        client = client_context(CLIENT_KEY, max_version="1.2")

        self.assertRaises(SSL.Error, shake, server, client)

    def test_mistakes(self) -> None:
        """A mistake is told with the word that is wrong."""
        cases: list[tuple[dict[str, Any], str]] = [
            ({"ciphers": "AES256-SHA:NO-SUCH"}, "'NO-SUCH'"),
            ({"ciphers": "TLS_NO_SUCH:AES256-SHA"}, "'TLS_NO_SUCH'"),
            ({"ciphers": "\N{SNOWMAN}"}, "\N{SNOWMAN}"),
            ({"ciphers": " :, "}, "empty"),
            ({"min_version": "1.4"}, "'1.4'"),
            ({"min_version": "1.3", "max_version": "1.2"}, "no TLS version is left"),
            ({"min_version": "1.3", "ciphers": "AES256-SHA"}, "no TLS version is left"),
            (
                {"max_version": "1.2", "ciphers": "TLS_AES_256_GCM_SHA384"},
                "no TLS version is left",
            ),
        ]
        for make in (server_context, client_context):
            for options, word in cases:
                with self.subTest(options=options):
                    error = self.assertRaises(ValueError, make, SERVER_KEY, **options)

                    self.assertIn(word, str(error))

    def test_certificate_required(self) -> None:
        """A client without a certificate is refused."""
        server = SSL.Connection(server_context(SERVER_KEY), None)
        server.set_accept_state()
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        client = context.wrap_bio(incoming, outgoing)

        def exchange() -> None:
            for _ in range(6):
                with contextlib.suppress(ssl.SSLWantReadError):
                    client.do_handshake()
                server.bio_write(outgoing.read() or b"")
                with contextlib.suppress(SSL.WantReadError):
                    server.do_handshake()
                incoming.write(server.bio_read(1 << 16))

        self.assertRaises(SSL.Error, exchange)

    def test_no_tickets(self) -> None:
        """
        The server ends the handshake with what it must say and no session ticket:
        nothing in TLS 1.3, in 1.2 the change of ciphers and its Finished.
        """
        if not hasattr(SSL.Connection, "set_options"):
            raise SkipTest("this release of pyOpenSSL cannot do without tickets")
        for version, size in (("1.3", 0), ("1.2", 51)):
            with self.subTest(version=version):
                context = server_context(SERVER_KEY, max_version=version)
                server = SSL.Connection(context, None)
                client = SSL.Connection(client_context(CLIENT_KEY), None)
                server.set_accept_state()
                client.set_connect_state()
                for here, there in ((client, server), (server, client)):
                    self.assertRaises(SSL.WantReadError, here.do_handshake)
                    there.bio_write(here.bio_read(1 << 16))
                with contextlib.suppress(SSL.WantReadError):
                    client.do_handshake()
                server.bio_write(client.bio_read(1 << 16))

                server.do_handshake()

                last = b""
                with contextlib.suppress(SSL.WantReadError):
                    last = server.bio_read(1 << 16)
                self.assertEqual(len(last), size)

    def test_no_warnings(self) -> None:
        """Making contexts and using them warns of nothing."""
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            agreed = shake(server_context(SERVER_KEY), client_context(CLIENT_KEY))

        self.assertEqual(agreed[0], "TLSv1.3")
