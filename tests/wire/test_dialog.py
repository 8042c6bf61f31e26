# SPDX-License-Identifier: MIT
"""
The identification dialog, both ends.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis.strategies import binary, integers, lists, one_of, sampled_from
from twisted.trial.unittest import SynchronousTestCase

from nodecomm.wire.dialog import (
    MAX_LINE,
    TABLE,
    ClientDialog,
    Identity,
    Input,
    ServerDialog,
    ServerHello,
    State,
    VersionChosen,
    Welcome,
)
from nodecomm.wire.errors import LocalProtocolError, RemoteProtocolError
from tests.wire.tables import stands_in

PRODUCT = b"cf-serverd 3.21.0"
AGENT = b"cf-agent 3.21.0"

PAGE = Path(__file__).parents[2] / "docs" / "protocol-tls.rst"

#: First lines of a client to a server of version 3, and the version they choose.
VERSIONS = [
    (b"CFE_v2 cf-agent 3.21.0\n", 2),
    (b"CFE_v3 cf-agent 3.21.0\n", 3),
    (b"CFE_v3\n", 3),
    (b"CFE_v3 \n", 3),
    (b"CFE_v3\r\n", 3),
    (b"CFE_v03 x\n", 3),
    (b"CFE_v2 any \xff\0 thing\n", 2),
]

#: First lines that end the connection, and a word of the reason.
BAD_VERSIONS = [
    (b"CFE_v0 cf-agent 3.21.0\n", "2 to 3"),
    (b"CFE_v1 cf-agent 3.21.0\n", "2 to 3"),
    (b"CFE_v4 cf-agent 3.25.0\n", "2 to 3"),
    (b"CFE_v20\n", "2 to 3"),
    (b"CFE_v999999999\n", "2 to 3"),
    (b"CFE_v9999999999\n", "CFE_v<number>"),
    (b"CFE_v-2\n", "CFE_v<number>"),
    (b"CFE_v\n", "CFE_v<number>"),
    (b"CFE_vx\n", "CFE_v<number>"),
    (b"cfe_v3\n", "CFE_v<number>"),
    (b" CFE_v3\n", "CFE_v<number>"),
    (b"CFE\n", "CFE_v<number>"),
    (b"\n", "CFE_v<number>"),
    (b"IDENTITY USERNAME=root\n", "CFE_v<number>"),
    (b"x" * MAX_LINE, "at most 1023 bytes"),
    (b"CFE_v3 " + b"x" * MAX_LINE, "at most 1023 bytes"),
    (b"CFE_v3 " + b"x" * (MAX_LINE - 7) + b"\n", "at most 1023 bytes"),
]

#: Second lines of a client, the user they name and the answer.
IDENTITIES = [
    (b"IDENTITY USERNAME=root\n", b"root", b"OK WELCOME USERNAME=root\n"),
    (b"IDENTITY\n", b"", b"OK WELCOME\n"),
    (b"IDENTITY USERNAME=\n", b"", b"OK WELCOME\n"),
    (b"IDENTITY A=b USERNAME=root\n", b"root", b"OK WELCOME USERNAME=root\n"),
    (b"IDENTITY USERNAME=root A=b C=\n", b"root", b"OK WELCOME USERNAME=root\n"),
    (b"IDENTITY   USERNAME=root\t\r\n", b"root", b"OK WELCOME USERNAME=root\n"),
    (b"IDENTITY USERNAME=a USERNAME=b\n", b"b", b"OK WELCOME USERNAME=b\n"),
    (b"IDENTITY XUSERNAME=a\n", b"", b"OK WELCOME\n"),
    (b"IDENTITY username=a\n", b"", b"OK WELCOME\n"),
    (b"IDENTITY USERNAME=a=b\n", b"a=b", b"OK WELCOME USERNAME=a=b\n"),
    (b"IDENTITY USERNAME=\xff\n", b"\xff", b"OK WELCOME USERNAME=\xff\n"),
    # Lines that are no IDENTITY at all stand for a client without a name.
    (b"\n", b"", b"OK WELCOME\n"),
    (b"HELLO USERNAME=root\n", b"", b"OK WELCOME\n"),
    (b"IDENTITYUSERNAME=root\n", b"", b"OK WELCOME\n"),
    (b" IDENTITY USERNAME=root\n", b"", b"OK WELCOME\n"),
    (
        b"IDENTITY USERNAME=" + b"u" * 130 + b"\n",
        b"u" * 130,
        b"OK WELCOME USERNAME=" + b"u" * 130 + b"\n",
    ),
    # The name would make the answer longer than a dialog line may be.
    (b"IDENTITY USERNAME=" + b"u" * 1004 + b"\n", b"u" * 1004, b"OK WELCOME\n"),
]

BAD_IDENTITIES = [
    (b"IDENTITY USERNAME=a/b\n", "user name"),
    (b"IDENTITY USERNAME=../../etc\n", "user name"),
    (b"IDENTITY USERNAME=a\\b\n", "user name"),
    (b"IDENTITY USERNAME=a\0b\n", "user name"),
    (b"IDENTITY USERNAME=" + b"u" * 1005 + b"\n", "dialog line"),
    (b"IDENTITY USERNAME=" + b"u" * 1024, "dialog line"),
    (b"x" * MAX_LINE, "dialog line"),
]

#: Server lines, what they announce, and what a client that speaks 3 asks for.
HELLOS = [
    (b"CFE_v3 cf-serverd 3.21.0\n", ServerHello(3, b"cf-serverd 3.21.0"), b"CFE_v3"),
    (b"CFE_v2 cf-serverd 3.6.0\n", ServerHello(2, b"cf-serverd 3.6.0"), b"CFE_v2"),
    (b"CFE_v5 cf-serverd 3.28.0\n", ServerHello(5, b"cf-serverd 3.28.0"), b"CFE_v3"),
    (b"CFE_v3\n", ServerHello(3, b""), b"CFE_v3"),
]

BAD_HELLOS = [
    b"CFE_v1 cf-serverd 3.5.0\n",
    b"CFE_v0\n",
    b"CFE_v\n",
    b"HTTP/1.1 400 Bad Request\n",
    b"\n",
    b"x" * MAX_LINE,
]

BAD_WELCOMES = [
    b"\n",
    b"OK\n",
    b"OK WELCOM\n",
    b"ok welcome\n",
    b" OK WELCOME\n",
    b"BAD: no\n",
    b"x" * MAX_LINE,
]


def server() -> ServerDialog:
    return ServerDialog(PRODUCT)


def client() -> ClientDialog:
    return ClientDialog(b"root", AGENT)


def chosen() -> ServerDialog:
    """
    A server that waits for the identity.
    """
    dialog = server()
    dialog.receive_data(b"CFE_v3 cf-agent 3.21.0\n")
    return dialog


def asked() -> ClientDialog:
    """
    A client that waits for the welcome.
    """
    dialog = client()
    dialog.receive_data(b"CFE_v3 cf-serverd 3.21.0\n")
    dialog.lines()
    return dialog


class ServerTests(SynchronousTestCase):
    """
    `ServerDialog`.
    """

    def test_whole_dialog(self) -> None:
        """
        The lines are those of the real programs.
        """
        dialog = server()

        self.assertEqual(b"CFE_v3 cf-serverd 3.21.0\n", dialog.hello())
        self.assertEqual((0, b""), (dialog.version, dialog.user))
        self.assertEqual(
            [VersionChosen(3)], dialog.receive_data(b"CFE_v3 cf-agent 3.21.0\n")
        )
        self.assertEqual(
            [Identity(b"root")], dialog.receive_data(b"IDENTITY USERNAME=root\n")
        )
        self.assertEqual((3, b"root"), (dialog.version, dialog.user))
        self.assertEqual(b"OK WELCOME USERNAME=root\n", dialog.welcome())
        self.assertIs(State.DONE, dialog.state)
        self.assertEqual(b"", dialog.trailing())

    def test_versions(self) -> None:
        """
        Any version from 2 to the announced one is accepted, whatever follows it.
        """
        for line, version in VERSIONS:
            dialog = server()

            self.assertEqual([VersionChosen(version)], dialog.receive_data(line))
            self.assertEqual(version, dialog.version)

    def test_bad_versions(self) -> None:
        """
        Any other first line fails with a reason.
        """
        for line, reason in BAD_VERSIONS:
            dialog = server()
            error = self.assertRaises(RemoteProtocolError, dialog.receive_data, line)

            self.assertIn(reason, str(error))
            self.assertIs(State.FAILED, dialog.state)

    def test_older_server(self) -> None:
        """
        A server announces and accepts no more than it was told to.
        """
        dialog = ServerDialog(PRODUCT, newest=2)

        self.assertEqual(b"CFE_v2 cf-serverd 3.21.0\n", dialog.hello())
        self.assertRaises(RemoteProtocolError, dialog.receive_data, b"CFE_v3\n")

    def test_identities(self) -> None:
        """
        Only the user name counts; without one the client has an empty name.
        """
        for line, user, answer in IDENTITIES:
            dialog = chosen()

            self.assertEqual([Identity(user)], dialog.receive_data(line), line)
            self.assertEqual(user, dialog.user)
            self.assertEqual(answer, dialog.welcome())

    def test_bad_identities(self) -> None:
        """
        A name that could be a path, and a line without end, fail with a reason.
        """
        for line, reason in BAD_IDENTITIES:
            dialog = chosen()
            error = self.assertRaises(RemoteProtocolError, dialog.receive_data, line)

            self.assertIn(reason, str(error))
            self.assertIs(State.FAILED, dialog.state)

    def test_bytes_after_the_identity(self) -> None:
        """
        Requests sent ahead, in the same record or later, are kept for the reader of
        transactions, before and after the welcome.
        """
        dialog = server()
        events = dialog.receive_data(b"CFE_v2\nIDENTITY USERNAME=root\nt 7\0")

        self.assertEqual([VersionChosen(2), Identity(b"root")], events)
        self.assertEqual([], dialog.receive_data(b"\0\0\0\0VER"))
        dialog.welcome()
        self.assertEqual([], dialog.receive_data(b"SION\n"))
        self.assertEqual(b"t 7\0\0\0\0\0VERSION\n", dialog.trailing())
        self.assertEqual(b"", dialog.trailing())

    def test_longest_line(self) -> None:
        """
        A line of 1023 bytes with its newline is read, in one piece or byte by byte.
        """
        line = b"CFE_v3 " + b"x" * (MAX_LINE - 8) + b"\n"
        dialog = server()
        events = []
        for start in range(len(line)):
            events += dialog.receive_data(line[start : start + 1])

        self.assertEqual([VersionChosen(3)], events)
        self.assertEqual([VersionChosen(3)], server().receive_data(line))

    def test_short_line_behind_a_divided_one(self) -> None:
        """
        A line is found at once when it comes with the end of a longer one.
        """
        dialog = server()
        dialog.receive_data(b"CFE_v3 cf-agent 3.21.0")

        self.assertEqual(
            [VersionChosen(3), Identity(b"")], dialog.receive_data(b"\nIDENTITY\n")
        )

    def test_line_without_end(self) -> None:
        """
        A line fails as soon as it is too long, not when it ends.
        """
        dialog = server()
        dialog.receive_data(b"x" * (MAX_LINE - 1))

        self.assertRaises(RemoteProtocolError, dialog.receive_data, b"x")

    def test_own_mistakes(self) -> None:
        """
        A product that makes no line, and a version before TLS, are refused.
        """
        for product in (b"a\nb", b"x" * MAX_LINE):
            self.assertRaises(LocalProtocolError, ServerDialog, product)
        self.assertRaises(LocalProtocolError, ServerDialog, PRODUCT, 1)


class ClientTests(SynchronousTestCase):
    """
    `ClientDialog`.
    """

    def test_hellos(self) -> None:
        """
        The client asks for the smaller of its own and the server's version.
        """
        for line, event, version in HELLOS:
            dialog = client()

            self.assertEqual([event], dialog.receive_data(line))
            self.assertEqual(
                (version + b" cf-agent 3.21.0\n", b"IDENTITY USERNAME=root\n"),
                dialog.lines(),
            )
            self.assertEqual(b"CFE_v%d" % dialog.version, version)

    def test_bad_hellos(self) -> None:
        """
        A server of version 1, or one that says something else, is given up.
        """
        for line in BAD_HELLOS:
            dialog = client()

            self.assertRaises(RemoteProtocolError, dialog.receive_data, line)
            self.assertIs(State.FAILED, dialog.state)

    def test_welcome(self) -> None:
        """
        Ten bytes decide; what follows the line belongs to the replies.
        """
        for line in (
            b"OK WELCOME",
            b"OK WELCOME USERNAME=root",
            b"OK WELCOMETOO",
            b"OK WELCOME\r",
        ):
            dialog = asked()

            self.assertEqual(
                [Welcome(line)], dialog.receive_data(line + b"\nt 1\0\0\0\0\0x")
            )
            self.assertEqual(b"t 1\0\0\0\0\0x", dialog.trailing())

    def test_no_welcome(self) -> None:
        """
        Any other answer means that the identity was not accepted.
        """
        for line in BAD_WELCOMES:
            dialog = asked()

            self.assertRaises(RemoteProtocolError, dialog.receive_data, line)
            self.assertIs(State.FAILED, dialog.state)

    def test_lines_sent_early(self) -> None:
        """
        A client that knows the server sends its lines first; both of the server's
        lines may then come together.
        """
        dialog = client()

        self.assertEqual(
            (b"CFE_v3 cf-agent 3.21.0\n", b"IDENTITY USERNAME=root\n"), dialog.lines()
        )
        self.assertEqual(
            [ServerHello(4, b""), Welcome(b"OK WELCOME")],
            dialog.receive_data(b"CFE_v4\nOK WELCOME\n"),
        )
        self.assertEqual(3, dialog.version)

    def test_asked_for_too_much_early(self) -> None:
        """
        When the server turns out to be older than what was asked for, the connection
        is given up: the server has closed it anyway.
        """
        dialog = client()
        dialog.lines()

        error = self.assertRaises(RemoteProtocolError, dialog.receive_data, b"CFE_v2\n")
        self.assertIn("3 was asked for", str(error))

    def test_welcome_before_our_lines(self) -> None:
        """
        A server that says more than its first line before it was asked is given up.
        """
        dialog = client()

        self.assertRaises(
            RemoteProtocolError, dialog.receive_data, b"CFE_v3\nOK WELCOME\n"
        )

    def test_own_mistakes(self) -> None:
        """
        A user name that no server accepts is not sent.
        """
        for user in (b"", b"a b", b"a/b", b"a\\b", b"a\0", b"a\n", b"u" * 1005):
            self.assertRaises(LocalProtocolError, ClientDialog, user, AGENT)
        self.assertRaises(LocalProtocolError, ClientDialog, b"root", b"a\nb")
        self.assertRaises(LocalProtocolError, ClientDialog, b"root", AGENT, 1)


#: How to bring a dialog into each state, and what each input is.
IN_STATE: dict[State, Callable[[], Any]] = {
    State.AWAIT_VERSION: server,
    State.AWAIT_IDENTITY: chosen,
    State.IDENTIFIED: lambda: fed(chosen(), b"IDENTITY USERNAME=root\n"),
    State.AWAIT_HELLO: client,
    State.SENT_EARLY: lambda: after(client(), "lines"),
    State.GREETED: lambda: fed(client(), b"CFE_v3\n"),
    State.AWAIT_WELCOME: asked,
}
DONE = [
    lambda: after(fed(chosen(), b"IDENTITY USERNAME=root\n"), "welcome"),
    lambda: fed(asked(), b"OK WELCOME\n"),
]
INPUTS: dict[Input, Callable[[Any], object]] = {
    Input.VERSION_LINE: lambda dialog: dialog.receive_data(b"CFE_v3 x\n"),
    Input.IDENTITY_LINE: lambda dialog: dialog.receive_data(b"IDENTITY A=b\n"),
    Input.WELCOME_SENT: lambda dialog: dialog.welcome(),
    Input.HELLO_LINE: lambda dialog: dialog.receive_data(b"CFE_v3 x\n"),
    Input.LINES_SENT: lambda dialog: dialog.lines(),
    Input.WELCOME_LINE: lambda dialog: dialog.receive_data(b"OK WELCOME\n"),
}


def fed(dialog: Any, data: bytes) -> Any:
    dialog.receive_data(data)
    return dialog


def after(dialog: Any, call: str) -> Any:
    getattr(dialog, call)()
    return dialog


class TableTests(SynchronousTestCase):
    """
    The table of states.
    """

    def test_every_step_of_the_table(self) -> None:
        """
        Each step moves a dialog as the table says.
        """
        for (state, happened), following in TABLE.items():
            dialog = IN_STATE[state]()
            self.assertIs(state, dialog.state)
            INPUTS[happened](dialog)

            self.assertIs(following, dialog.state)

    def test_calls_out_of_order(self) -> None:
        """
        A line of our own that is not in the table for this state is refused, and moves
        nothing.
        """
        for state, make in IN_STATE.items():
            dialog = make()
            call = "welcome" if isinstance(dialog, ServerDialog) else "lines"
            happened = Input.WELCOME_SENT if call == "welcome" else Input.LINES_SENT
            if (state, happened) not in TABLE:
                self.assertRaises(LocalProtocolError, getattr(dialog, call))
                self.assertIs(state, dialog.state)

    def test_trailing_too_early(self) -> None:
        """
        Before the peer's last line there is nothing that could follow it.
        """
        for state, make in IN_STATE.items():
            if state is not State.IDENTIFIED:
                self.assertRaises(LocalProtocolError, make().trailing)

    def test_done_keeps_lines(self) -> None:
        """
        What comes after the dialog is never read as a line of it.
        """
        for make in DONE:
            dialog = make()

            self.assertEqual([], dialog.receive_data(b"CFE_v9\n"))
            self.assertIs(State.DONE, dialog.state)
            self.assertEqual(b"CFE_v9\n", dialog.trailing())

    def test_failed_for_good(self) -> None:
        """
        A dialog that failed takes and gives nothing more.
        """
        for make, call in ((server, "welcome"), (client, "lines")):
            dialog: Any = make()
            self.assertRaises(RemoteProtocolError, dialog.receive_data, b"?\n")

            self.assertRaises(RemoteProtocolError, dialog.receive_data, b"CFE_v3\n")
            self.assertRaises(LocalProtocolError, getattr(dialog, call))
            self.assertRaises(LocalProtocolError, dialog.trailing)

    def test_documented(self) -> None:
        """
        The table in the documentation is this table, row by row.
        """
        self.assertTrue(stands_in(PAGE, TABLE))


class AnyBytesTests(SynchronousTestCase):
    """
    Both ends against any bytes.
    """

    @given(lists(integers(0, 80), max_size=8))
    @settings(max_examples=100)
    def test_any_split(self, cuts: list[int]) -> None:
        """
        The events do not depend on how the bytes were cut.
        """
        for make, wire in (
            (server, b"CFE_v2 cf-agent\nIDENTITY A=b USERNAME=root\nt 1\0\0\0\0\0x"),
            (lambda: after(client(), "lines"), b"CFE_v3 x\nOK WELCOME\nt 1\0\0\0\0\0x"),
        ):
            whole: Any = make()
            expected = whole.receive_data(wire)
            self.assertEqual(2, len(expected))

            dialog: Any = make()
            events = []
            at = 0
            for cut in [*sorted(cuts), len(wire)]:
                events += dialog.receive_data(wire[at:cut])
                at = max(at, cut)

            self.assertEqual(expected, events)
            self.assertEqual(whole.trailing(), dialog.trailing())

    @given(
        lists(
            one_of(
                binary(max_size=20),
                sampled_from(
                    [
                        *b"CFE_v 3 2 OK WELCOME IDENTITY USERNAME= /".split(),
                        *(b" ", b"\n", b"\0", b"x" * 600),
                    ]
                ),
            )
        ),
        sampled_from([server, chosen, client, asked]),
    )
    @settings(max_examples=100)
    def test_garbage(self, pieces: list[bytes], make: Callable[[], Any]) -> None:
        """
        Any bytes give events or `RemoteProtocolError`, the same for any cut, and a
        version that was offered.
        """

        def outcome(fed_pieces: list[bytes]) -> tuple[State, str, Any]:
            dialog = make()
            error = ""
            try:
                for piece in fed_pieces:
                    dialog.receive_data(piece)
            except RemoteProtocolError as raised:
                error = str(raised)
            return dialog.state, error, (dialog.version, getattr(dialog, "user", b""))

        state, error, (version, user) = outcome(pieces)

        self.assertEqual((state, error, (version, user)), outcome([b"".join(pieces)]))
        self.assertEqual(state is State.FAILED, bool(error))
        self.assertIn(version, (0, 2, 3))
        self.assertNotIn(b"/", user)
