# SPDX-License-Identifier: MIT
"""
Remote runs: requests, and the frames of answers.
"""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from nodecomm.wire import execute
from nodecomm.wire.errors import LocalProtocolError, RemoteProtocolError
from nodecomm.wire.execute import (
    BUNDLE_DENIED,
    CLASS_DENIED,
    END,
    REFUSED,
    ROLE_DENIED,
    BadArguments,
    BadItem,
    ExecuteRequest,
    InvalidArguments,
    announcement,
    encode_execute,
    exit_code,
    is_terminator,
    nothing_relevant,
    parse_execute,
    split_classes,
)
from nodecomm.wire.framing import MAX_PAYLOAD, MAX_RECORD
from nodecomm.wire.replies import TERMINATOR
from tests.wire.frames import payloads

Names = tuple[bytes, ...]

#: A request, the classes and bundles it names, and the words that a real server then
#: adds to its command. Source: CFEngine 3.21, observed.
REQUESTS: list[tuple[bytes, Names, Names, bytes]] = [
    (b"EXEC", (), (), b""),
    (b"EXEC ", (), (), b""),
    (b"EXEC -D", (), (), b""),
    (b"EXEC -D ", (), (), b""),
    (b"EXEC -b", (), (), b""),
    (b"EXEC\0 -D a", (), (), b""),
    (b"EXEC -D a\0;", (b"a",), (), b"-D a"),
    (b"EXEC -Da", (b"a",), (), b"-D a"),
    (b"EXEC -D a", (b"a",), (), b"-D a"),
    (b"EXEC -D  a", (b"a",), (), b"-D a"),
    (b"EXEC  -Da", (b"a",), (), b"-D a"),
    (b"EXEC -Da ", (b"a",), (), b"-D a"),
    (b"EXEC -b b1", (), (b"b1",), b"--bundlesequence b1"),
    (b"EXEC -bb1", (), (b"b1",), b"--bundlesequence b1"),
    (
        b"EXEC -Dokclass1,c2 -b b1,b2",
        (b"okclass1", b"c2"),
        (b"b1", b"b2"),
        b"-D okclass1,c2 --bundlesequence b1,b2",
    ),
    (
        b"EXEC -bb1,b2 -Da",
        (b"a",),
        (b"b1", b"b2"),
        b"--bundlesequence b1,b2 -D a",
    ),
    (b"EXEC -Da -Db", (b"a", b"b"), (), b"-D a -D b"),
    (
        b"EXEC -bb1 -bb2",
        (),
        (b"b1", b"b2"),
        b"--bundlesequence b1 --bundlesequence b2",
    ),
    (b"EXEC -Da,,b", (b"a", b"", b"b"), (), b"-D a,,b"),
    (b"EXEC -Da,", (b"a",), (), b"-D a,"),
    (b"EXEC -b ,b1", (), (b"", b"b1"), b"--bundlesequence ,b1"),
    (b"EXEC -Dns:a_1Z", (b"ns:a_1Z",), (), b"-D ns:a_1Z"),
    (b"EXEC -D" + b"x" * 4000, (b"x" * 4000,), (), b"-D " + b"x" * 4000),
]

#: A request that is denied, what the real server says then, and what it judged before.
MISTAKES: list[tuple[bytes, bytes, bytes]] = [
    (b"EXEC -K -I", b"EXEC denied: invalid arguments: -K -I", b""),
    (b"EXEC -Da -x", b"EXEC denied: invalid arguments: -x", b"-D a"),
    (
        b"EXEC -b b1 trailing",
        b"EXEC denied: invalid arguments: trailing",
        b"--bundlesequence b1",
    ),
    (
        b"EXEC --define a",
        b"EXEC denied: invalid arguments: --define a",
        b"",
    ),
    (b"EXEC -Da\tb", b"EXEC denied: invalid arguments: b", b"-D a"),
    (b"EXEC -D a;", ROLE_DENIED, b""),
    (b"EXEC -Da.b", ROLE_DENIED, b""),
    (b"EXEC -Da|b", ROLE_DENIED, b""),
    (b"EXEC -Da-b", ROLE_DENIED, b""),
    (b"EXEC -Da\n", ROLE_DENIED, b""),
    (b"EXEC -Da\nb", ROLE_DENIED, b""),
    ("EXEC -Dé".encode(), ROLE_DENIED, b""),
    (b"EXEC -D$(id)", ROLE_DENIED, b""),
    (b"EXEC -D`id`", ROLE_DENIED, b""),
    (b"EXEC -Da -b b1;b2", BUNDLE_DENIED, b"-D a"),
    (b"EXEC -b b1 -D ;", ROLE_DENIED, b"--bundlesequence b1"),
    (b"EXEC -b b.1", BUNDLE_DENIED, b""),
    (b"EXEC -D; -x", ROLE_DENIED, b""),
    (
        b"EXEC " + b"y" * (MAX_PAYLOAD - 5),
        b"EXEC denied: invalid arguments: " + b"y" * (MAX_PAYLOAD - 32),
        b"",
    ),
]


item = st.text("abzAZ019_:", min_size=1, max_size=12).map(str.encode)
items = st.lists(item, max_size=5)
#: Classes of a selection, expressions among them.
chosen = st.lists(
    st.binary(min_size=1, max_size=255)
    .map(lambda raw: bytes(byte for byte in raw if byte > 0x20 and byte != 0x7F))
    .filter(lambda raw: raw and not is_terminator(raw)),
    max_size=30,
)


class RequestTests(SynchronousTestCase):
    """
    What a request asks for.
    """

    def test_forms(self) -> None:
        """
        Options, with and without blanks before their lists, in any order and
        repeated, give names to judge and words that are added to the command.
        """
        for payload, defined, bundles, words in REQUESTS:
            request = parse_execute(payload)

            self.assertEqual(
                (request.defined, request.bundles, b" ".join(request.words)),
                (defined, bundles, words),
                payload[:40],
            )

    def test_mistakes(self) -> None:
        """
        Whatever is no option or no name is an error that knows its denial, and what
        stands before it.
        """
        for payload, denial, before in MISTAKES:
            error = self.assertRaises(BadArguments, parse_execute, payload)

            self.assertEqual(
                (error.denial, b" ".join(error.before.words)),
                (denial, before),
                payload[:40],
            )
            self.assertEqual(len(payloads(execute.denied(error.denial))), 2)

    def test_mistakes_have_values(self) -> None:
        """
        What was wrong is in the error, for a log, and its text is safe for one.
        """
        invalid = self.assertRaises(InvalidArguments, parse_execute, b"EXEC \x1b[2J")
        bad = self.assertRaises(BadItem, parse_execute, b"EXEC -b a\nb")

        self.assertEqual((invalid.rest, bad.word), (b"\x1b[2J", b"-b"))
        self.assertEqual(
            [str(invalid), str(bad)],
            [
                "EXEC arguments '\\x1b[2J': -D <classes> -b <bundles>",
                "list of EXEC -b 'a\\x0ab': A-Z, a-z, 0-9, _, : and ,",
            ],
        )

    def test_another_word_is_no_run(self) -> None:
        """
        The word ends at a space, a NUL or the end, and is upper case.
        """
        for payload in (b"EXECUTE", b"EXEC-Da", b"exec", b"EXEC\t-Da", b"", b" EXEC"):
            error = self.assertRaises(RemoteProtocolError, parse_execute, payload)
            self.assertNotIsInstance(error, BadArguments)

    @settings(max_examples=100)
    @given(st.binary(max_size=80))
    @example(b"-D -b b1")
    def test_any_arguments(self, arguments: bytes) -> None:
        """
        Any arguments are names of harmless characters, or an error.
        """
        try:
            request = parse_execute(b"EXEC " + arguments)
        except BadArguments:
            return
        for word in request.words:
            self.assertRegex(word, rb"\A(-D|--bundlesequence|[A-Za-z0-9_:,]+)\Z")
        for name in request.defined + request.bundles:
            self.assertRegex(name, rb"\A[A-Za-z0-9_:]*\Z")

    def test_no_arguments_make_a_word_without_its_list(self) -> None:
        """
        An option without a list adds nothing to the command.
        """
        self.assertEqual(parse_execute(b"EXEC -D"), ExecuteRequest())


class EncodeTests(SynchronousTestCase):
    """
    What is sent.
    """

    def test_as_the_real_client(self) -> None:
        """
        The frames are those that cf-runagent sends.
        """
        table: list[tuple[list[Sequence[bytes]], list[bytes]]] = [
            ([(), (), ()], [b"EXEC"]),
            ([(b"a", b"b"), (), ()], [b"EXEC -Da,b"]),
            ([(), (b"b1", b"b2"), ()], [b"EXEC -b b1,b2"]),
            ([(b"a",), (b"b1",), ()], [b"EXEC -Da -b b1"]),
            ([(), (), (b"linux", b"foo")], [b"EXEC", b"linux", b"foo"]),
            ([(), (), (b"!foo|(a.b)",)], [b"EXEC", b"!foo|(a.b)"]),
        ]
        for arguments, expected in table:
            frames = encode_execute(*arguments)

            self.assertEqual(payloads(frames), [*expected, TERMINATOR])

    @settings(max_examples=60)
    @given(items, items, chosen)
    def test_there_and_back(
        self, defined: list[bytes], bundles: list[bytes], selected: list[bytes]
    ) -> None:
        """
        A server reads what was asked for. All of it is one record, and a real server
        reads all classes before it says that it has none of them.
        """
        frames = encode_execute(defined, bundles, selected)

        first, *classes, last = payloads(frames)
        request = parse_execute(first)
        self.assertEqual(
            (request.defined, request.bundles), (tuple(defined), tuple(bundles))
        )
        self.assertEqual(
            [c for frame in classes for c in split_classes(frame)], selected
        )
        self.assertEqual(last, TERMINATOR)
        self.assertFalse(any(map(is_terminator, classes)))
        self.assertLessEqual(len(frames), MAX_RECORD)
        self.assertLessEqual(len(classes), 9)

    def test_what_cannot_be_sent(self) -> None:
        """
        What would be read as something else, or does not fit, is an error that names
        it, and nothing is sent.
        """
        table: list[tuple[list[Sequence[bytes]], str]] = [
            (
                [(b"ok", b"a;b")],
                "class to define 'a;b': letters, digits, '_' and ':' only",
            ),
            ([(b"",)], "class to define '': letters, digits, '_' and ':' only"),
            (
                [(b"a\n",)],
                "class to define 'a\\x0a': letters, digits, '_' and ':' only",
            ),
            ([(b"a,b",)], "class to define 'a,b': letters, digits, '_' and ':' only"),
            ([(), (b"b-1",)], "bundle 'b-1': letters, digits, '_' and ':' only"),
            (
                [(b"x" * 5000,)],
                f"request to run 'EXEC -D{'x' * 73}'...: at most 4088 bytes;"
                " name fewer classes and bundles",
            ),
            ([(), (), (b"",)], "class to select ''"),
            ([(), (), (b"a b",)], "class to select 'a b'"),
            ([(), (), (b"a\tb",)], "class to select 'a\\x09b'"),
            ([(), (), (b"a\0",)], "class to select 'a\\x00'"),
            ([(), (), (b"x" * 256,)], "class to select 'xxx"),
            ([(), (), (TERMINATOR + b"x",)], "class to select '---cfXen"),
            (
                [(), (), (b"x" * 200,) * 60],
                "bytes of classes to select 12000: some 9216 together; select fewer",
            ),
        ]
        for arguments, text in table:
            error = self.assertRaises(LocalProtocolError, encode_execute, *arguments)
            self.assertTrue(str(error).startswith(text), str(error))


class ClassFrameTests(SynchronousTestCase):
    """
    The frames between a request and its terminator.
    """

    def test_classes_of_a_frame(self) -> None:
        """
        Spaces divide, a NUL ends, and nothing else does.
        """
        table = [
            (b"linux", [b"linux"]),
            (b"foo linux", [b"foo", b"linux"]),
            (b"  foo  linux ", [b"foo", b"linux"]),
            (b"foo,linux", [b"foo,linux"]),
            (b"foo\tlinux", [b"foo\tlinux"]),
            (b"linux\0", [b"linux"]),
            (b"\0linux", []),
            (b" ", []),
        ]
        for payload, expected in table:
            self.assertEqual(split_classes(payload), expected)

    def test_the_end(self) -> None:
        """
        A frame that begins with the terminator ends the classes, whatever follows it.
        """
        for payload, expected in [
            (TERMINATOR, True),
            (TERMINATOR + b"\0", True),
            (TERMINATOR + b" and more", True),
            (b" " + TERMINATOR, False),
            (TERMINATOR[:-1], False),
        ]:
            self.assertEqual(is_terminator(payload), expected)


class FrameTests(SynchronousTestCase):
    """
    What a server says, byte for byte.
    """

    def test_texts(self) -> None:
        """
        They are the real server's.
        """
        table = [
            (
                announcement(b"/bin/run -D a"),
                [b"cf-serverd executing cfruncommand: /bin/run -D a\n"],
            ),
            (exit_code(0), [b"(exit code: 0)\n"]),
            (exit_code(255), [b"(exit code: 255)\n"]),
            (END, [b"---cfXen/gine/cfXen/gine---\0"]),
            (
                REFUSED,
                [
                    b"BAD: Unspecified server refusal (see verbose server output)",
                    b"---cfXen/gine/cfXen/gine---\0",
                ],
            ),
            (
                nothing_relevant(b"", b"127.0.0.1"),
                [b"Hello  (127.0.0.1), nothing relevant to do here...\n\n"],
            ),
            (
                nothing_relevant(b"localhost", b"127.0.0.1"),
                [b"Hello localhost (127.0.0.1), nothing relevant to do here...\n\n"],
            ),
            (
                execute.denied(CLASS_DENIED),
                [
                    b"EXEC denied due to failed class match"
                    b" (check cf-serverd verbose output)",
                    b"---cfXen/gine/cfXen/gine---\0",
                ],
            ),
        ]
        for frames, expected in table:
            self.assertEqual(payloads(frames), expected)
        self.assertEqual((len(ROLE_DENIED), len(BUNDLE_DENIED)), (61, 63))

    def test_long_texts_are_cut(self) -> None:
        """
        A command or a name that does not fit in a frame is cut.
        """
        (announced,) = payloads(announcement(b"x" * 9000))
        (hello,) = payloads(nothing_relevant(b"x" * 9000, b"::1"))

        self.assertEqual((len(announced), announced[-2:]), (MAX_PAYLOAD, b"x\n"))
        self.assertEqual(hello, b"Hello " + b"x" * 255 + hello[261:])
