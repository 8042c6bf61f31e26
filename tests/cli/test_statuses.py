# SPDX-License-Identifier: MIT
"""
Which exit status each error has.
"""

from __future__ import annotations

import io
import json
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from nodecomm.cli.connecting import report
from nodecomm.cli.options import repeat_state_dir
from nodecomm.cli.statuses import Status, code_of, status_of, text_of
from nodecomm.client.address import ServerAddress
from nodecomm.client.errors import (
    BadAnswer,
    ClientError,
    ConnectionBroken,
    Refused,
    Rejected,
    Unreachable,
    UntrustedServer,
)
from nodecomm.identity.own import OwnKeyError
from nodecomm.sync.errand import ConnectionWrong
from nodecomm.sync.errors import (
    LimitExceeded,
    LocalError,
    SourceRefused,
    SyncError,
    VerificationFailed,
)
from nodecomm.wire.cipher import CipherMissing
from nodecomm.wire.errors import LocalProtocolError

SERVER = ServerAddress("hub")

TABLE: list[tuple[Exception, int, str]] = [
    (Unreachable("connect-timeout", "x"), 3, "connect-timeout"),
    (ConnectionBroken("reset", "x"), 3, "reset"),
    (Rejected("dialog-timeout", "x"), 3, "dialog-timeout"),
    (UntrustedServer("key-changed", "x", SERVER, None), 4, "key-changed"),
    (UntrustedServer("key-unknown", "x", SERVER, None), 4, "key-unknown"),
    (UntrustedServer("key-unusable", "x", SERVER, None), 4, "key-unusable"),
    (UntrustedServer("store-unusable", "x", SERVER, None), 1, "store-unusable"),
    (Rejected("not-trusted", "x"), 5, "not-trusted"),
    (Rejected("dialog-failed", "x"), 5, "dialog-failed"),
    (Refused("refused", b"x", b"BAD: no"), 5, "refused"),
    (SourceRefused("clock", "x"), 5, "clock"),
    (BadAnswer("out-of-step", "x"), 6, "out-of-step"),
    (ConnectionWrong("digest", "x"), 6, "digest"),
    (VerificationFailed("digest", "x"), 6, "digest"),
    (LimitExceeded("entries", "x"), 6, "entries"),
    (LimitExceeded("duration", "x"), 3, "duration"),
    (LocalError("no-space", "x"), 1, "no-space"),
    (OwnKeyError("/k/localhost.priv", "x"), 1, "own-key"),
    (PermissionError(13, "Permission denied", b"/a\xff"), 1, "io"),
    (CipherMissing("x"), 1, "cipher-missing"),
    (UntrustedServer("no-proof", "x", SERVER, None), 4, "no-proof"),
    (LocalProtocolError("path", b"a\nb", "no newline"), 2, "bad-name"),
]


def subclasses(kind: type[Exception]) -> set[type[Exception]]:
    """
    All of them.
    """
    return {kind}.union(*map(subclasses, kind.__subclasses__()))


class StatusTests(SynchronousTestCase):
    """
    Errors and statuses.
    """

    def test_each_error(self) -> None:
        """
        Each error has its documented status and a stable word.
        """
        for error, status, code in TABLE:
            self.assertEqual((status, code), (status_of(error), code_of(error)), error)

    def test_none_is_forgotten(self) -> None:
        """
        Every error of the client and of an update has a status; a bug has none.
        """
        told = {type(error) for error, _, _ in TABLE}
        abstract = {ClientError, SyncError}
        known = subclasses(ClientError) | subclasses(SyncError)
        self.assertEqual(
            set(),
            # What another module derives never leaves it.
            {kind for kind in known if kind.__module__.endswith(".errors")}
            - told
            - abstract,
        )
        self.assertIsNone(status_of(ZeroDivisionError()))

    def test_the_numbers(self) -> None:
        """
        The numbers are a public interface.
        """
        self.assertEqual(
            {
                "DONE": 0,
                "LOCAL": 1,
                "USAGE": 2,
                "UNREACHABLE": 3,
                "UNTRUSTED": 4,
                "REFUSED": 5,
                "UNVERIFIED": 6,
                "INTERRUPTED": 130,
                "TERMINATED": 143,
            },
            {status.name: status.value for status in Status},
        )

    def test_the_texts(self) -> None:
        """
        An error of the system names the file; a missing own key how to make one.
        """
        error: Exception = PermissionError(13, "Permission denied", "/a")
        self.assertEqual("/a: Permission denied", text_of(error))
        self.assertEqual("TimeoutError", text_of(TimeoutError()))
        error = Refused("refused", b"a", b"BAD: no")
        self.assertIn("missing or not allowed", text_of(error))
        self.assertIn("on the server, its log or `nodecomm access", text_of(error))
        self.assertEqual(
            "install it, or leave out --encrypt", text_of(CipherMissing("install it"))
        )
        self.assertNotIn("missing", text_of(Refused("clock", b"a", b"BAD: no")))
        error = OwnKeyError("/k", "there is no key; x")
        self.assertIn("nodecomm key generate", text_of(error))
        self.assertEqual("/k: damaged", text_of(OwnKeyError("/k", "damaged")))
        told = text_of(LocalError("mount-point", 'write replace = "files" here'))
        self.assertEqual("write --replace files here", told)

    def test_the_state_folder_is_said_again(self) -> None:
        """
        What is to be typed on this machine names the folder that the command line
        named; what is to be typed elsewhere does not.
        """
        error = OwnKeyError("/k", "there is no key")
        for state_dir, key in (
            (None, "`nodecomm key generate`"),
            (Path("/x y"), "`nodecomm key generate --state-dir '/x y'`"),
        ):
            out, err = io.StringIO(), io.StringIO()
            report(error, out, err, as_json=True, state_dir=state_dir)
            self.assertIn(key, err.getvalue())
            self.assertIn(key, json.loads(out.getvalue())["error"]["text"])
        text = "`nodecomm key show` on the server, then `nodecomm server-key accept h`"
        self.assertEqual(
            "`nodecomm key show` on the server, then `nodecomm server-key accept h"
            " --state-dir /x`",
            repeat_state_dir(text, Path("/x")),
        )

    def test_reports(self) -> None:
        """
        One line without anything that a terminal acts on, and the same for a program
        if it asked for that; a bug is not reported.
        """
        error = Refused("error", b"a\x1b", b"BAD: \x1b]0;x\x07\n")
        for as_json in (False, True):
            out, err = io.StringIO(), io.StringIO()
            self.assertEqual(5, report(error, out, err, as_json=as_json))
            self.assertEqual(1, err.getvalue().count("\n"))
            self.assertNotIn("\x1b", err.getvalue() + out.getvalue())
            if as_json:
                facts = json.loads(out.getvalue())["error"]
                self.assertEqual(("error", 5), (facts["code"], facts["status"]))
            else:
                self.assertEqual("", out.getvalue())
        self.assertIsNone(report(ZeroDivisionError(), io.StringIO(), io.StringIO()))
