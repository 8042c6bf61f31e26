# SPDX-License-Identifier: MIT
"""
Answers to EXEC as they are read.
"""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from nodecomm.wire.errors import RemoteProtocolError
from nodecomm.wire.execute import (
    BUNDLE_DENIED,
    CLASS_DENIED,
    END,
    ROLE_DENIED,
    announcement,
    exit_code,
    is_terminator,
)
from nodecomm.wire.replies import REFUSAL, TERMINATOR
from nodecomm.wire.run_reader import (
    Announced,
    Denied,
    Ended,
    Event,
    ExitCode,
    Line,
    Remark,
    RunReader,
)
from tests.wire.frames import lines_of, payloads


def read(*answer: bytes) -> list[Event]:
    """
    What payloads say to whom asked.
    """
    reader = RunReader()
    return [event for payload in answer for event in reader.feed(payload)]


class ReaderTests(SynchronousTestCase):
    """
    What an answer says to whom asked.
    """

    def test_a_run(self) -> None:
        """
        An announcement, lines, the exit code, the end.
        """
        self.assertEqual(
            read(
                b"cf-serverd executing cfruncommand: /bin/run -D a\n",
                b"> one\n",
                b"> \n",
                b"> no newline",
                b"(exit code: 3)\n",
                TERMINATOR + b"\0",
            ),
            [
                Announced(b"/bin/run -D a"),
                Line(b"one"),
                Line(b""),
                Line(b"no newline"),
                ExitCode(3),
                Ended(),
            ],
        )

    def test_ends_without_an_exit_code(self) -> None:
        """
        A command that a signal ended has none.
        """
        table: list[tuple[list[bytes], list[Event]]] = [
            ([], [Ended()]),
            (
                [b"cf-serverd executing cfruncommand: x\n"],
                [Announced(b"x"), Ended()],
            ),
            ([b"> x\n"], [Line(b"x"), Ended()]),
        ]
        for said, expected in table:
            self.assertEqual(read(*said, TERMINATOR), expected)

    def test_denials(self) -> None:
        """
        Each text is told by a word.
        """
        for text, code in [
            (REFUSAL, "refused"),
            (CLASS_DENIED, "class-match"),
            (ROLE_DENIED, "role"),
            (BUNDLE_DENIED, "bundle"),
            (b"EXEC denied: invalid arguments: -K", "arguments"),
            (b"EXEC denied: invalid arguments: ", "arguments"),
            (b"EXEC denied for another reason", "error"),
            (b"BAD: Request denied", "error"),
        ]:
            self.assertEqual(
                read(text, TERMINATOR + b"\0"), [Denied(code, text.rstrip()), Ended()]
            )

    def test_nothing_relevant(self) -> None:
        """
        What the server says before a denial is a remark.
        """
        self.assertEqual(
            read(
                b"Hello  (127.0.0.1), nothing relevant to do here...\n\n",
                CLASS_DENIED,
                TERMINATOR + b"\0",
            ),
            [
                Remark(b"Hello  (127.0.0.1), nothing relevant to do here..."),
                Denied("class-match", CLASS_DENIED),
                Ended(),
            ],
        )

    def test_output_that_looks_like_more(self) -> None:
        """
        A command cannot end the answer, choose the exit code or refuse for the server.
        """
        texts = [
            TERMINATOR,
            b"(exit code: 0)",
            b"> (exit code: 0)",
            REFUSAL,
            ROLE_DENIED,
            b"cf-serverd executing cfruncommand: rm",
        ]
        lines = lines_of([b"\n".join(texts)])

        found = read(*payloads(announcement(b"x")), *lines, *payloads(END))

        self.assertEqual(
            found, [Announced(b"x"), *[Line(text) for text in texts], Ended()]
        )

    def test_exit_codes(self) -> None:
        """
        It is believed in its own form and after an announcement; the last one counts.
        Anything else is a remark.
        """
        begun = b"cf-serverd executing cfruncommand: x\n"
        table: list[tuple[list[bytes], int | None, int]] = [
            ([begun, b"(exit code: 0)\n"], 0, 0),
            ([begun, b"(exit code: 255)"], 255, 0),
            ([begun, b"(exit code: 0)\n", b"(exit code: 2)\n"], 2, 0),
            ([begun, b"(exit code: 1)\n", b"> late\n"], 1, 0),
            ([begun, b" (exit code: 0)\n"], None, 1),
            ([begun, b"(exit code: x)\n"], None, 1),
            ([begun, b"(exit code: 1_0)\n"], None, 1),
            ([begun, b"(exit code: -1)\n"], None, 1),
            ([begun, "(exit code: \N{ARABIC-INDIC DIGIT ONE})\n".encode()], None, 1),
            ([begun, b"(exit code: 0) \n"], None, 1),
            ([begun, b"(exit code: 0)\n(exit code: 0)\n"], None, 1),
            ([begun, b"(exit code: 99999999999)\n"], None, 1),
            ([b"(exit code: 0)\n"], None, 1),
            ([ROLE_DENIED, b"(exit code: 0)\n"], None, 1),
        ]
        for said, number, remarks in table:
            events = read(*said, TERMINATOR + b"\0")
            codes = [e.number for e in events if isinstance(e, ExitCode)]
            self.assertEqual(codes, [] if number is None else [number], said)
            self.assertEqual(
                len([e for e in events if isinstance(e, Remark)]), remarks, said
            )
            self.assertEqual(events[-1], Ended())

    def test_the_second_word_of_a_server_is_a_remark(self) -> None:
        """
        There is one announcement, and one denial in its place.
        """
        begun = b"cf-serverd executing cfruncommand: x\n"

        self.assertEqual(
            read(begun, begun, ROLE_DENIED, REFUSAL),
            [
                Announced(b"x"),
                Remark(begun.rstrip()),
                Remark(ROLE_DENIED),
                Remark(REFUSAL),
            ],
        )
        self.assertEqual(
            read(ROLE_DENIED, begun, REFUSAL),
            [Denied("role", ROLE_DENIED), Remark(begun.rstrip()), Remark(REFUSAL)],
        )

    def test_nothing_after_the_end(self) -> None:
        """
        What comes after the terminator belongs to no run.
        """
        reader = RunReader()
        reader.feed(TERMINATOR)

        self.assertTrue(reader.ended)
        self.assertRaises(RemoteProtocolError, reader.feed, b"> x\n")

    @settings(max_examples=100)
    @given(st.lists(st.binary(min_size=1, max_size=60), max_size=8))
    def test_garbage(self, said: list[bytes]) -> None:
        """
        Anything is events, until the terminator; there is at most one announcement or
        denial, and an exit code only right before the end.
        """
        said = [payload for payload in said if not is_terminator(payload)]
        events = read(*said, TERMINATOR)

        kinds = [type(event) for event in events]
        self.assertEqual(kinds[-1], Ended)
        self.assertLessEqual(kinds.count(Announced) + kinds.count(Denied), 1)
        self.assertNotIn(ExitCode, kinds[:-2])

    @settings(max_examples=60)
    @given(st.binary(max_size=300), st.integers(0, 255))
    def test_there_and_back(self, output: bytes, number: int) -> None:
        """
        Whatever a command writes arrives as its lines, without what a NUL hides.
        """
        lines = lines_of([output])

        events = read(
            *payloads(announcement(b"x")),
            *lines,
            *payloads(exit_code(number)),
            *payloads(END),
        )

        expected = output.removesuffix(b"\n").split(b"\n") if output else []
        self.assertEqual(
            events,
            [
                Announced(b"x"),
                *[Line(line.partition(b"\0")[0]) for line in expected],
                ExitCode(number),
                Ended(),
            ],
        )
