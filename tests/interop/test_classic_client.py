# SPDX-License-Identifier: MIT
"""
Our client in the classic protocol, against the real server and ours.
"""

from __future__ import annotations

import hashlib
import random
import tempfile
from pathlib import Path
from typing import Any, ClassVar

from cryptography.hazmat.primitives.asymmetric import rsa
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.trial.unittest import TestCase

from nodecomm.client import calling
from nodecomm.client.address import ServerAddress
from nodecomm.client.classic import ClassicSession
from nodecomm.client.classic_dialing import ClassicDialer
from nodecomm.client.errors import (
    ClientError,
    ConnectionBroken,
    Refused,
    Rejected,
    Unreachable,
    UntrustedServer,
)
from nodecomm.identity.keys import KeyPair, PublicKey
from nodecomm.identity.servers import ServerKeyStore, ServerTrust
from nodecomm.testing import key_pair
from nodecomm.wire.cipher import BLOCK
from tests.interop.harness import (
    NodecommServer,
    RealServer,
    WorkFolder,
    config_for,
)

reactor: Any = _reactor

#: Sizes of files: around what one encrypted message holds, and what threads decrypt.
SIZES = (0, 1, 7, 8, 9, BLOCK - 1, BLOCK, BLOCK + 1, 9 * BLOCK, 64 * BLOCK, 2_000_003)

NAMES = 3000


def md5(data: bytes) -> bytes:
    """
    As the requests want it.
    """
    return hashlib.md5(data, usedforsecurity=False).digest()


def tree(share: Path) -> dict[str, bytes]:
    """
    Make a folder, and say what is in its files.
    """
    share.mkdir()
    chance = random.Random(4)
    contents = {f"size{size}": chance.randbytes(size) for size in SIZES}
    contents["BAD: File changed while copying"] = b"BAD: File changed while copying: x"
    for name, content in contents.items():
        (share / name).write_bytes(content)
    for name, target in (
        ("link", "size9"),
        ("o", "f"),
        ("folder-link", "many"),
        ("up", ".."),
        ("itself", "."),
    ):
        (share / name).symlink_to(target)
    (share / "many").mkdir()
    for number in range(NAMES):
        (share / "many" / f"file{number}").touch()
    return contents


def rsa_pair(bits: int, exponent: int = 65537) -> KeyPair:
    """
    A key of an uncommon kind.
    """
    return KeyPair(rsa.generate_private_key(exponent, bits))


class _Case(TestCase):
    """
    Servers that serve a folder, each for one test.
    """

    timeout = 120
    server: Any

    #: The servers that are tried.
    kinds: ClassVar[tuple[str, ...]] = ("cf-serverd", "nodecomm")

    def setUp(self) -> None:
        """
        A new folder for this test.
        """
        kept = tempfile.TemporaryDirectory(prefix="nodecomm-classic-")
        self.addCleanup(kept.cleanup)
        self.folder = Path(kept.name)
        self.store = ServerKeyStore(self.folder / "known")

    def start(
        self,
        kind: str,
        *,
        classic: bool = True,
        trusting: bool = True,
        key: KeyPair | None = None,
    ) -> ServerAddress:
        """
        Start a server.
        """
        shares = {"share": self.folder / "share"}
        work = self.folder / kind
        if kind == "cf-serverd":
            server: Any = RealServer(
                WorkFolder(work, key=key or True),
                shares,
                classic=classic,
                trusting=trusting,
            )
        else:
            settings = config_for(shares, classic=classic, trusting=trusting)
            server = NodecommServer(work, settings)
            if key is not None:
                server.ppkeys.mkdir(mode=0o700)
                for name, text in (
                    ("priv", key.to_pem()),
                    ("pub", key.public.to_pem()),
                ):
                    path = server.ppkeys / f"localhost.{name}"
                    path.write_bytes(text)
                    path.chmod(0o600)
        self.server = server.__enter__()
        self.addCleanup(server.stop)
        return ServerAddress("127.0.0.1", server.port)

    def public(self) -> PublicKey:
        """
        The key of the server.
        """
        return PublicKey.from_pem((self.server.ppkeys / "localhost.pub").read_bytes())

    def dialer(self, *, key: KeyPair | None = None, **more: Any) -> ClassicDialer:
        """
        A client that trusts whatever comes first.
        """
        trust = more.pop("trust", None) or ServerTrust(self.store, first_use=True)
        return ClassicDialer(
            reactor,
            key=key_pair(1) if key is None else key,
            trust=trust,
            user=b"root",
            **more,
        )

    async def refusal(self, asked: Deferred[Any]) -> Any:
        """
        The error that a request fails with.
        """
        try:
            found = await asked
        except ClientError as error:
            return error
        raise AssertionError(f"no error but {found!r}")


async def content(session: ClassicSession, name: str, size: int) -> bytes:
    """
    What is in a file of the folder.
    """
    pieces: list[bytes] = []
    await session.get(b"share/" + name.encode(), size, pieces.append)
    return b"".join(pieces)


class RequestTests(_Case):
    """
    What the servers answer.
    """

    async def test_every_request(self) -> None:
        """
        Links are told, listings are whole, contents and digests are right, in the
        clear and encrypted, to a stranger and to a friend, many requests at a time.
        """
        contents = tree(self.folder / "share")
        for kind in self.kinds:
            server = self.start(kind)
            for encrypt in (False, True):
                for stranger in (True, False):
                    if stranger:
                        self.store.forget(str(server))
                    dialer = self.dialer(encrypt=encrypt)
                    session = await dialer.connect(server)
                    self.assertEqual(session.server_key, self.public())
                    await self.every_request(session, contents)
                    await session.close()

    async def every_request(
        self, session: ClassicSession, contents: dict[str, bytes]
    ) -> None:
        """
        Ask for everything in the folder.
        """
        names = list(contents)
        found = await gatherResults(
            [session.stat(b"share/" + name.encode()) for name in names]
        )
        self.assertEqual([one.size for one in found], [*map(len, contents.values())])
        fetched = await gatherResults(
            [
                Deferred.fromCoroutine(content(session, name, len(contents[name])))
                for name in names
            ]
        )
        self.assertTrue(fetched == list(contents.values()))
        for name in names:
            path = b"share/" + name.encode()
            self.assertFalse(await session.differs(path, md5(contents[name])))
            self.assertTrue(await session.differs(path, md5(b"another")))
        for link, mark in (
            (b"link", (0, 0o777, b"size9")),
            (b"o", (1, 0o777, b"f")),
            (b"folder-link", (2, 0o777, b"many")),
            (b"itself", (2, 0o777, b".")),
            (b"many", (2, 0, b"")),
        ):
            status = await session.stat(b"share/" + link)
            self.assertEqual((status.kind, status.link_mode, status.target), mark)
        many = await session.opendir(b"share/many")
        self.assertEqual(len(many), NAMES)
        self.assertIn(b"3.21.0", await session.version_text())
        error = await self.refusal(session.stat(b"share/none"))
        self.assertEqual((type(error), error.code), (Refused, "refused"))
        # It leads out of what is served.
        error = await self.refusal(session.stat(b"share/up"))
        self.assertEqual((type(error), error.code), (Refused, "refused"))
        self.assertFalse(session.closed)

    async def test_refusals_that_end_the_connection(self) -> None:
        """
        What was refused is told from what was lost with the connection, also when
        more is asked all the time.
        """
        tree(self.folder / "share")
        for kind in self.kinds:
            server = self.start(kind)
            for encrypt in (False, True):
                dialer = self.dialer(encrypt=encrypt)
                for turn in range(30):
                    session = await dialer.connect(server)
                    asked: Deferred[Any]
                    if encrypt and turn % 2:
                        asked = session.get(b"share/none", 5, lambda data: None)
                    else:
                        asked = session.opendir(b"share/none")
                    behind = [session.stat(b"share/link") for _ in range(50)]
                    error = await self.refusal(asked)
                    self.assertEqual((type(error), error.code), (Refused, "refused"))
                    for one in behind:
                        lost = await self.refusal(one)
                        self.assertEqual(
                            (type(lost), lost.code), (ConnectionBroken, "closed")
                        )
                    await session.close()

    async def test_a_file_as_a_folder(self) -> None:
        """
        That a file is no folder ends nothing.
        """
        tree(self.folder / "share")
        for kind in self.kinds:
            server = self.start(kind)
            for encrypt in (False, True):
                session = await self.dialer(encrypt=encrypt).connect(server)
                asked = session.opendir(b"share/size1")
                behind = session.stat(b"share/link")
                error = await self.refusal(asked)
                self.assertEqual((type(error), error.code), (Refused, "error"))
                self.assertIn("couldn't open dir", str(error))
                self.assertEqual((await behind).target, b"size9")
                await session.close()


class KeyTests(_Case):
    """
    Whose key it is, and what they make of ours.
    """

    async def test_another_key(self) -> None:
        """
        A server with another key than the known one is not asked anything.
        """
        (self.folder / "share").mkdir()
        for kind in self.kinds:
            server = self.start(kind)
            self.store.add(str(server), key_pair(3).public)
            trust = ServerTrust(self.store)
            error = await self.refusal(self.dialer(trust=trust).connect(server))

            self.assertEqual(
                (type(error), error.code), (UntrustedServer, "key-changed")
            )
            self.assertEqual(error.key, self.public())
            self.assertIn("server-key accept", str(error))
            # A change of key: both are known, and the right one is found.
            self.store.add(str(server), self.public())
            self.store.add(str(server), key_pair(4).public)
            session = await self.dialer(trust=trust).connect(server)
            self.assertEqual(session.server_key, self.public())
            await session.close()

    async def test_pins(self) -> None:
        """
        A key named beforehand is enough, whole or by its digest; another one is not.
        """
        (self.folder / "share").mkdir()
        for kind in self.kinds:
            server = self.start(kind)
            pins: tuple[PublicKey | str, ...] = (self.public(), self.public().md5)
            for number, pin in enumerate(pins):
                store = ServerKeyStore(self.folder / f"{kind}{number}")
                trust = ServerTrust(store, pinned=[pin])
                session = await self.dialer(trust=trust).connect(server)
                self.assertEqual(store.keys(str(server)), (self.public(),))
                await session.close()
            trust = ServerTrust(self.store, pinned=[key_pair(3).public.md5])
            error = await self.refusal(self.dialer(trust=trust).connect(server))
            self.assertEqual(error.code, "key-changed")

    async def test_we_are_not_trusted(self) -> None:
        """
        A server that does not trust our key is told from one that does not speak this
        protocol with us.
        """
        (self.folder / "share").mkdir()
        for kind in self.kinds:
            server = self.start(kind, trusting=False)
            for _ in range(2):
                error = await self.refusal(self.dialer().connect(server))
                self.assertEqual((type(error), error.code), (Rejected, "not-trusted"))
                self.assertIn(key_pair(1).public.md5, str(error))
                self.store.add(str(server), self.public())

    async def test_we_are_not_allowed(self) -> None:
        """
        The error names the setting.
        """
        (self.folder / "share").mkdir()
        for kind in self.kinds:
            server = self.start(kind, classic=False)
            self.patch(calling, "PAUSES", (0.01,))
            error = await self.refusal(self.dialer().connect(server))

            self.assertEqual(
                (type(error), error.code), (Unreachable, "closed-at-accept")
            )
            self.assertIn("allowlegacyconnects", str(error))

    async def test_kinds_of_keys(self) -> None:
        """
        Keys of every usual size, on either side.
        """
        # The real server does not start with the first.
        pairs = [rsa_pair(1024), rsa_pair(2048, 3), rsa_pair(4096)]
        for kind in self.kinds:
            for number, theirs in enumerate(pairs[1:]):
                self.folder = self.folder / f"{kind}{number}"
                self.folder.mkdir()
                (self.folder / "share").mkdir()
                (self.folder / "share" / "file").write_bytes(b"content")
                server = self.start(kind, key=theirs)
                for ours in pairs:
                    dialer = self.dialer(key=ours, encrypt=True)
                    for _ in range(2):
                        session = await dialer.connect(server)
                        self.assertEqual(session.server_key, theirs.public)
                        self.assertEqual(await content(session, "file", 7), b"content")
                        await session.close()
