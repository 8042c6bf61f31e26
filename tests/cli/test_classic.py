# SPDX-License-Identifier: MIT
"""
The commands over the classic protocol: their options, what they warn about, and how
links are shown, which only that protocol reports.
"""

from __future__ import annotations

import io
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

from attrs import evolve
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.python import usage
from twisted.trial.unittest import SynchronousTestCase

from nodecomm.cli import bootstrap, get, ls, server_key, stat, sync
from nodecomm.cli.connecting import AskingOptions
from nodecomm.cli.dialing import make_asking_dialer
from nodecomm.client.address import ServerAddress, Target
from nodecomm.client.classic_dialing import ClassicDialer
from nodecomm.client.dialing import Dialer
from nodecomm.client.errors import Refused
from nodecomm.identity.own import KEYS_FOLDER, create_own_key
from nodecomm.wire.replies import DIRECTORY, LINK, REGULAR, StatReply
from tests.identity.sample import pair
from tests.sync.fakes import SOURCE, FakeSession, Tree, reply

HUB = ServerAddress("hub")


def link(kind: int, target: bytes) -> StatReply:
    """A link as the classic protocol reports it."""
    led_to = reply(kind, 5, 9, target=target, mode=0o644)
    return evolve(led_to, link_mode=0o777)


class OptionsTests(SynchronousTestCase):
    """
    What can be asked for.
    """

    def test_the_protocols(self) -> None:
        """
        Every command that asks takes the classic protocol by two names, and its
        encryption, which means nothing over TLS.
        """
        commands: list[tuple[Any, list[str]]] = [
            (stat.Options, ["hub:x"]),
            (ls.Options, ["hub:x"]),
            (get.Options, ["hub:x"]),
            (sync.Options, ["hub:x", "/dest"]),
        ]
        table: list[tuple[list[str], bool, bool]] = [
            ([], False, False),
            (["--protocol", "3"], False, False),
            (["--protocol", "classic"], True, False),
            (["--protocol", "CLASSIC"], True, False),
            (["--protocol=1", "--encrypt"], True, True),
        ]
        for command, subjects in commands:
            for words, classic, encrypt in table:
                options: AskingOptions = command()
                options.parseOptions([*words, *subjects])
                self.assertEqual((options.classic, options.encrypt), (classic, encrypt))
            for words in (["--encrypt"], ["--encrypt", "--protocol", "2"]):
                error = self.assertRaises(
                    usage.UsageError, command().parseOptions, [*words, *subjects]
                )
                self.assertIn("over TLS everything is encrypted, always", str(error))
            for named in ("0", "undefined", "4", "classical"):
                error = self.assertRaises(
                    usage.UsageError,
                    command().parseOptions,
                    ["--protocol", named, *subjects],
                )
                self.assertIn("takes 2, 3, latest or classic, not", str(error))
            told = " ".join(str(command()).split())
            self.assertIn("2, 3 or latest; or classic, and that alone", told)

    def test_bootstrap_speaks_tls_only(self) -> None:
        """
        It says so, and has no option about encryption.
        """
        for named in ("1", "classic"):
            error = self.assertRaises(
                usage.UsageError,
                bootstrap.Options().parseOptions,
                ["hub", "--protocol", named],
            )
            self.assertIn("this command speaks TLS only", str(error))
            self.assertIn("write 2, 3 or latest", str(error))
            self.assertIn("`nodecomm server-key accept SERVER KEYFILE`", str(error))
        error = self.assertRaises(
            usage.UsageError, bootstrap.Options().parseOptions, ["hub", "--encrypt"]
        )
        self.assertIn("--encrypt", str(error))

    def test_accepting_a_key(self) -> None:
        """
        A server without TLS can be asked for its key.
        """
        for words, classic in (([], False), (["--protocol", "classic"], True)):
            options = server_key.Options()
            options.parseOptions(["accept", "hub", *words])
            self.assertEqual(options.subOptions.classic, classic)
        error = self.assertRaises(
            usage.UsageError,
            server_key.Options().parseOptions,
            ["accept", "hub", "--protocol", "4"],
        )
        self.assertIn("takes 2, 3, latest or classic", str(error))

    def test_what_connects(self) -> None:
        """
        The dialer is the protocol's, with what the options say.
        """
        state = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, state)
        own = pair(7)
        create_own_key(state / KEYS_FOLDER, own)
        for words, encrypt in ((["--protocol=1"], False), (["--encrypt"], True)):
            options = stat.Options()
            options.parseOptions(
                ["--protocol", "classic", *words, "-t", "7", "-u", "me", "hub:x"]
            )
            dialer = make_asking_dialer(Clock(), options, state)
            assert isinstance(dialer, ClassicDialer)
            self.assertEqual(dialer.encrypt, encrypt)
            self.assertEqual((dialer.user, dialer.own_digest), (b"me", own.public.md5))
            self.assertEqual(dialer.timeouts.connect, 7.0)
        options = stat.Options()
        options.parseOptions(["--protocol", "2", "hub:x"])
        tls = make_asking_dialer(Clock(), options, state)
        assert isinstance(tls, Dialer)
        self.assertEqual(tls.newest, 2)

    def test_names_that_nobody_can_have(self) -> None:
        """
        A name that the classic protocol cannot carry is a wrong option, and told
        like other wrong names, also where TLS can carry it.
        """
        long = "x" * 256
        ls.Options().parseOptions(["-u", long, "hub:x"])
        for name, part in (
            (long, "one word of at most 255 bytes"),
            ("a/b", "one word without /"),
            ("a\\b", "one word without /"),
        ):
            error = self.assertRaises(
                usage.UsageError,
                ls.Options().parseOptions,
                ["--protocol", "classic", "-u", name, "hub:x"],
            )
            self.assertTrue(str(error).startswith("--user: user name '"), error)
            self.assertIn(part, str(error))
            self.assertLess(len(str(error)), 200)

    def test_no_warning_where_nothing_is_sent(self) -> None:
        """
        Without the cipher that is asked for there is an error, and no warning of
        what the cipher does not do.
        """
        reason = "no Blowfish here"
        for words, lines in (([], 1), (["--encrypt"], 0)):
            options = stat.Options()
            options.parseOptions(["--protocol", "classic", *words, "hub:x"])
            err = io.StringIO()
            with mock.patch("nodecomm.cli.connecting.missing", lambda: reason):
                options.warn(HUB, err)
            self.assertEqual(len(err.getvalue().splitlines()), lines)

    def test_the_warning(self) -> None:
        """
        One line where nothing protects what is sent, none over TLS, and nothing that
        a terminal would act on.
        """
        for words, part in (
            ([], None),
            (["--protocol", "classic"], "in the clear"),
            (["--protocol", "1", "--encrypt"], "can change what is sent"),
        ):
            options = stat.Options()
            options.parseOptions([*words, "hub:x"])
            err = io.StringIO()
            options.warn(HUB, err)
            lines = err.getvalue().splitlines()
            if part is None:
                self.assertEqual(lines, [])
                continue
            (line,) = lines
            self.assertTrue(line.startswith("warning: the classic protocol is spoken"))
            self.assertIn(part, line)
            self.assertIn("hub", line)


class Answering:
    """
    A dialer and its connection, whose answers come at once.
    """

    def __init__(self, tree: Tree, refused: set[tuple[str, bytes]]) -> None:
        self.session = FakeSession(tree, refused, version=1)

    def connect(self, _server: ServerAddress) -> Deferred[Any]:
        """As a dialer."""
        return succeed(self.session)


class LinkTests(SynchronousTestCase):
    """
    How `stat`, `ls` and `get` show a server that reports links.
    """

    TREE: Tree = {
        b"": None,
        b"dir": link(DIRECTORY, b"/etc"),
        b"file": link(REGULAR, b"f\x1b"),
        b"gone": reply(LINK, 4, 9, target=b"nowhere", mode=0o777),
        b"plain": b"12345",
    }

    def done(self, coroutine: Any, dialer: Answering) -> Any:
        """What becomes of a command."""
        running = Deferred.fromCoroutine(coroutine)
        dialer.session.answer_all()
        return self.successResultOf(running)

    def stat(self, name: bytes, *, as_json: bool) -> str:
        """`nodecomm stat`."""
        dialer = Answering(self.TREE, set())
        out = io.StringIO()
        target = Target(HUB, SOURCE + b"/" + name)
        self.done(stat.show_status(dialer, target, out, as_json=as_json), dialer)
        return out.getvalue()

    def test_stat(self) -> None:
        """
        A link is one, with its text, and with what it leads to if that is anything.
        """
        table: list[tuple[bytes, str, str | None, str | None]] = [
            (b"dir", "link", "folder", "/etc"),
            (b"file", "link", "file", "f\\x1b"),
            (b"gone", "link", None, "nowhere"),
            (b"plain", "file", None, None),
        ]
        for name, kind, leads_to, target in table:
            facts = json.loads(self.stat(name, as_json=True))
            self.assertEqual(facts["mode"], "0777" if kind == "link" else "0644")
            self.assertEqual(
                (facts["type"], facts["target_type"], facts["target"]),
                (kind, leads_to, target),
            )
            lines = self.stat(name, as_json=False).splitlines()
            said = dict(line.split(":", 1) for line in lines)
            self.assertEqual(said["type"].strip(), kind)
            self.assertEqual(said.get("which is a", "").strip(), leads_to or "")
            self.assertEqual(said.get("link to", "").strip(), target or "")
        self.assertIn("0777 (lrwxrwxrwx)", self.stat(b"dir", as_json=False))

    def test_ls(self) -> None:
        """
        As `ls -l` shows them.
        """
        dialer = Answering(self.TREE, set())
        out, err = io.StringIO(), io.StringIO()
        listing = ls.list_folder(
            dialer, Target(HUB, SOURCE), out, err, long=True, as_json=False
        )

        status = self.done(listing, dialer)

        self.assertEqual((status, err.getvalue()), (0, ""))
        rows = [line.split(None, 5) for line in out.getvalue().splitlines()]
        self.assertEqual(
            [(row[0], row[5]) for row in rows],
            [
                ("lrwxrwxrwx", "dir -> /etc"),
                ("lrwxrwxrwx", "file -> f\\x1b"),
                ("lrwxrwxrwx", "gone -> nowhere"),
                ("-rw-r--r--", "plain"),
            ],
        )

    def test_ls_of_what_is_no_folder(self) -> None:
        """
        It is listed as itself, though the refused listing ends the connection.
        """
        dialer = Answering({b"": b"content"}, set())
        out = io.StringIO()
        listing = ls.list_folder(
            dialer, Target(HUB, SOURCE), out, io.StringIO(), long=False, as_json=False
        )

        self.done(listing, dialer)

        self.assertEqual(out.getvalue(), "/src\n")
        self.assertTrue(dialer.session.closed)

    def test_ls_of_a_refused_folder(self) -> None:
        """
        The refusal is told, and not that the connection ended.
        """
        dialer = Answering(self.TREE, {("OPENDIR", b"")})
        listing = ls.list_folder(
            dialer,
            Target(HUB, SOURCE),
            io.StringIO(),
            io.StringIO(),
            long=True,
            as_json=False,
        )
        running = Deferred.fromCoroutine(listing)
        dialer.session.answer_all()
        self.failureResultOf(running, Refused)

    def test_get_follows_a_link(self) -> None:
        """
        To a file its content is got; to a folder it is no file.
        """
        folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, folder)

        class Following(FakeSession):
            """What the link leads to answers for its content."""

            def stat(self, path: bytes) -> Deferred[StatReply]:
                """STAT."""
                described: Deferred[StatReply] = super().stat(path)
                return described.addCallback(
                    evolve, kind=REGULAR, link_mode=0o777, target=b"x", size=5
                )

        dialer = Answering({b"": b"hello"}, set())
        dialer.session = Following({b"": b"hello"}, version=1)
        local = folder / "local"
        got = self.done(get.get_to_file(dialer, Target(HUB, SOURCE), local), dialer)
        self.assertEqual((got.size, local.read_bytes()), (5, b"hello"))
        dialer = Answering(self.TREE, set())
        target = Target(HUB, SOURCE + b"/dir")
        running = Deferred.fromCoroutine(get.get_to_file(dialer, target, local))
        dialer.session.answer_all()
        error = self.failureResultOf(running).value
        self.assertIn("but a folder; `nodecomm sync` fetches folders", str(error))
