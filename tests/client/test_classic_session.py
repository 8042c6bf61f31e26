# SPDX-License-Identifier: MIT
"""
Requests without TLS, in the clear and encrypted.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from nodecomm.client.errors import ConnectionBroken, Refused
from nodecomm.testing import MemoryNetwork, memory_server
from nodecomm.wire.cipher import BLOCK
from nodecomm.wire.replies import REFUSAL, encode_listing
from tests.client.classic_scripted import (
    LINK,
    OWN,
    SERVER,
    ClassicPeer,
    ClassicPlace,
    Names,
    SessionCase,
)
from tests.client.scripted import HUB, NOW, Trusting
from tests.client.test_session import GOOD, STATUS


class PlainTests(SessionCase):
    """
    Requests in the clear.
    """

    def test_requests(self) -> None:
        """
        The requests are those of the other versions, and so are the answers, but
        that links are told.
        """
        asked = []

        async def script(peer: ClassicPeer) -> None:
            asked.append(await peer.request())
            peer.answer(*LINK)
            asked.append(await peer.request())
            peer.send(b"".join(encode_listing([b"b", b"a"])))
            asked.append(await peer.request())
            peer.answer(b"CFD_TRUE")
            asked.append(await peer.request())
            peer.send(b"content")
            asked.append(await peer.request())
            peer.answer(b"OK: 3.21.0")

        place, session = self.session(script)
        pieces: list[bytes] = []
        status = session.stat(b"/l")
        names = session.opendir(b"/d")
        differs = session.differs(b"/f", b"d" * 16)
        content = session.get(b"/f", 7, pieces.append)
        version = session.version_text()

        status = place.result(status)
        self.assertEqual((status.link_mode, status.target), (511, b"a.txt"))
        self.assertEqual(place.result(names), [b"b", b"a"])
        self.assertTrue(place.result(differs))
        place.result(content)
        self.assertEqual(b"".join(pieces), b"content")
        self.assertEqual(place.result(version), b"3.21.0")
        self.assertEqual(
            asked,
            [
                b"SYNCH %d STAT /l" % NOW,
                b"OPENDIR /d",
                b"MD5 /f\0\0" + b"d" * 16,
                b"GET 2048 /f",
                b"VERSION",
            ],
        )
        self.assertEqual(place.peer.records[1].count(b"VERSION"), 0)

    def test_a_refused_folder(self) -> None:
        """
        After the refusal of a folder the server ends the connection: what is asked
        behind it fails, whatever it would have been answered.
        """

        async def script(peer: ClassicPeer) -> None:
            await peer.request()
            peer.answer(REFUSAL)
            await peer.more()

        place, session = self.session(script)
        names, status = session.opendir(b"/d"), session.stat(b"/a")
        error = place.failure(names)
        self.assertEqual((type(error), error.code), (Refused, "refused"))
        behind = place.failure(status)
        self.assertEqual((type(behind), behind.code), (ConnectionBroken, "closed"))
        self.assertIn("/d", str(behind))
        self.assertTrue(session.closed)
        later = place.failure(session.stat(b"/a"))
        self.assertEqual((type(later), later.code), (ConnectionBroken, "closed"))

    def test_a_refused_folder_that_nobody_waits_for(self) -> None:
        """
        The connection ends with it all the same.
        """

        async def script(peer: ClassicPeer) -> None:
            await peer.request()
            peer.answer(REFUSAL)
            await peer.more()

        place, session = self.session(script)
        names = session.opendir(b"/d")
        place.clock.advance(0)
        names.addErrback(lambda failure: None)
        names.cancel()
        self.assertEqual(place.failure(session.stat(b"/a")).code, "closed")

    def test_a_content_that_never_comes(self) -> None:
        """
        A server cannot refuse a content in clear, and ends the connection: what that
        may mean is told where encrypting would help.
        """

        async def script(peer: ClassicPeer) -> None:
            await peer.request()
            peer.close()

        for encrypt in (False, True):
            place, session = self.session(script, encrypt=encrypt)
            error = place.failure(session.get(b"/f", 5, lambda data: None))
            self.assertEqual((type(error), error.code), (ConnectionBroken, "closed"))
            self.assertIn("with 1 request unanswered", str(error))
            self.assertEqual("ifencrypted" in str(error), not encrypt)

    def test_other_refusals(self) -> None:
        """
        After any other refusal the connection goes on, and so it does when a folder
        is none.
        """
        refusals = [REFUSAL, b"BAD: cfengine, couldn't open dir /f", REFUSAL]

        async def script(peer: ClassicPeer) -> None:
            for text in refusals:
                await peer.request()
                peer.answer(text)
            await peer.request()
            peer.send(GOOD)

        place, session = self.session(script)
        for asked, code in (
            (session.stat(b"/a"), "refused"),
            (session.opendir(b"/f"), "error"),
            (session.differs(b"/a", b"d" * 16), "refused"),
        ):
            self.assertEqual(place.failure(asked).code, code)
        self.assertEqual(place.result(session.stat(b"/a")), STATUS)


class OurServerTests(SynchronousTestCase):
    """
    Both sides of ours, in memory.
    """

    def place(self, **more: Any) -> tuple[MemoryNetwork, ClassicPlace, Path]:
        """
        A client whose network leads to a server with a folder.
        """
        root = Path(self.mktemp()).absolute()
        (root / "share").mkdir(parents=True)
        legacy = more.pop("legacy", ["127.0.0.1"])
        server = memory_server(
            {"path": f"{root}/share/", "shortcut": "share", "admit_ips": ["127.0.0.1"]},
            server={
                "allowconnects": ["127.0.0.1"],
                "allowlegacyconnects": legacy,
                "trustkeysfrom": ["127.0.0.1"],
            },
            key=SERVER,
        )
        place = ClassicPlace(None, **more)
        network = place.network
        network.clock = place.clock = server.clock
        server.now = NOW
        dialer = type(place.dialer)(
            server.clock,
            key=OWN,
            user=b"root",
            name_of=Names().of,
            trust=place.trust,
            endpoint_for=network.endpoint_for,
            now=lambda: NOW,
            monotonic=server.clock.seconds,
            encrypt=more.get("encrypt", False),
        )
        place.dialer = dialer
        network.listen(HUB, server.port)
        return network, place, root / "share"

    def test_everything(self) -> None:
        """
        Every request is answered rightly, in the clear and encrypted, to a stranger
        and to a friend.
        """
        for encrypt in (False, True):
            for known in ((), (SERVER.public,)):
                network, place, share = self.place(
                    encrypt=encrypt, trust=Trusting(None, *known)
                )
                data = os.urandom(BLOCK * 70 + 5)
                (share / "file").write_bytes(data)
                (share / "empty").touch()
                (share / "link").symlink_to("file")
                (share / "d").symlink_to(".")
                (share / "nowhere").symlink_to("x")
                session = place.connect()
                status = network.result_of(session.stat(b"share/link"))
                self.assertEqual(
                    (status.kind, status.link_mode, status.target, status.size),
                    (0, 0o777, b"file", len(data)),
                )
                status = network.result_of(session.stat(b"share/d"))
                self.assertEqual((status.kind, status.target), (2, b"."))
                status = network.result_of(session.stat(b"share/nowhere"))
                self.assertEqual((status.kind, status.target), (1, b"x"))
                names = network.result_of(session.opendir(b"share"))
                self.assertEqual(
                    sorted(names), [b"d", b"empty", b"file", b"link", b"nowhere"]
                )
                digest = hashlib.md5(data, usedforsecurity=False).digest()
                self.assertFalse(
                    network.result_of(session.differs(b"share/file", digest))
                )
                pieces: list[bytes] = []
                network.result_of(session.get(b"share/file", len(data), pieces.append))
                self.assertEqual(b"".join(pieces), data)
                error: Any = network.failure_of(session.stat(b"share/none"))
                self.assertEqual(error.code, "refused")
                refused, behind = (
                    session.opendir(b"share/none"),
                    session.stat(b"share/file"),
                )
                error = network.failure_of(refused)
                self.assertEqual(error.code, "refused")
                error = network.failure_of(behind)
                self.assertEqual(error.code, "closed")

    def test_not_allowed(self) -> None:
        """
        An address that may not speak this protocol is told so by the client.
        """
        _, place, _ = self.place(legacy=[])
        error = place.refused()
        self.assertEqual(error.code, "closed-at-accept")
        self.assertIn("allowlegacyconnects", str(error))
