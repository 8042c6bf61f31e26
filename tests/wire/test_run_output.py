# SPDX-License-Identifier: MIT
"""
Output of commands as frames.
"""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from nodecomm.wire.framing import MAX_RECORD
from nodecomm.wire.replies import TERMINATOR
from nodecomm.wire.run_output import MAX_LINE, OutputLines, Printed, output_line
from tests.wire.frames import lines_of, payloads

pieces_of_output = st.lists(
    st.one_of(
        st.binary(max_size=60),
        st.sampled_from(
            [b"\n", b"\n\n", b"\0", b"\r\n", TERMINATOR, b"(exit code: 0)"]
        ),
        st.integers(MAX_LINE - 2, MAX_LINE + 2).map(lambda size: b"x" * size),
    ),
    max_size=12,
)


class LineTests(SynchronousTestCase):
    """
    A line of the server's own.
    """

    def test_one_line(self) -> None:
        """
        A line of our own is one frame, whatever is in it.
        """
        for line, expected in [
            (b"nodecomm: waiting", b"> nodecomm: waiting\n"),
            (b"two\nlines", b"> two\n"),
            (b"", b"> \n"),
            (b"x" * 5000, b"> " + b"x" * MAX_LINE + b"\n"),
        ]:
            self.assertEqual(payloads(output_line(line)), [expected])


class OutputTests(SynchronousTestCase):
    """
    Output becomes lines as the real server makes them.
    """

    def test_lines(self) -> None:
        """
        Each line is a frame; what is in it beyond a NUL or too much is lost.
        """
        table: list[tuple[bytes, list[bytes]]] = [
            (b"", []),
            (b"hello\n", [b"> hello\n"]),
            (b"hello", [b"> hello\n"]),
            (b"a\n\nb\n", [b"> a\n", b"> \n", b"> b\n"]),
            (b"a\rb\r\n", [b"> a\rb\r\n"]),
            (b"a\0b\nc\n", [b"> a\n", b"> c\n"]),
            (b"\0x\n", [b"> \n"]),
            (b"\0", [b"> \n"]),
            (b"\xff\x1b[2J\x01\n", [b"> \xff\x1b[2J\x01\n"]),
            (b"x" * MAX_LINE + b"\n", [b"> " + b"x" * MAX_LINE + b"\n"]),
            (b"x" * (MAX_LINE + 1) + b"\n", [b"> " + b"x" * MAX_LINE + b"\n"]),
            (
                b"x" * 1_000_000 + b"\nnext\n",
                [b"> " + b"x" * MAX_LINE + b"\n", b"> next\n"],
            ),
            (TERMINATOR + b"\n", [b"> " + TERMINATOR + b"\n"]),
            (b"(exit code: 0)\n", [b"> (exit code: 0)\n"]),
            (b"> (exit code: 0)\n", [b"> > (exit code: 0)\n"]),
            (b"BAD: foo\n", [b"> BAD: foo\n"]),
        ]
        for output, expected in table:
            self.assertEqual(lines_of([output]), expected, output[:40])

    def test_a_line_is_sent_when_it_is_whole(self) -> None:
        """
        Not before its newline has come, and not later.
        """
        lines = OutputLines()

        self.assertEqual(lines.feed(b"one\ntw"), b"one\n")
        self.assertEqual(lines.feed(b""), b"")
        self.assertEqual(lines.feed(b"o"), b"")
        self.assertEqual(lines.feed(b"\nth"), b"two\n")
        self.assertEqual(lines.finish(), b"th\n")
        self.assertEqual(lines.finish(), b"")

    @settings(max_examples=80)
    @given(pieces_of_output)
    def test_any_split(self, pieces: list[bytes]) -> None:
        """
        The frames do not depend on how the output was cut, and each line is one.
        """
        output = b"".join(pieces)

        found = lines_of(pieces)

        self.assertEqual(found, lines_of([output]))
        expected = output.split(b"\n")
        if not expected[-1]:
            expected.pop()
        self.assertEqual(
            found,
            [b"> %b\n" % line.partition(b"\0")[0][:MAX_LINE] for line in expected],
        )

    def test_an_endless_line_takes_no_memory(self) -> None:
        """
        Of a line that never ends only its beginning is kept.
        """
        lines = OutputLines()
        for _ in range(100):
            self.assertEqual(lines.feed(b"x" * 65536), b"")

        self.assertEqual(lines.finish(), b"x" * MAX_LINE + b"\n")

    def test_many_lines_are_few_records(self) -> None:
        """
        What comes at once leaves in as few records as real programs can read.
        """
        records = Printed(b"\n" * 6000).records

        self.assertEqual(sum(map(len, records)), 6000 * (8 + 3))
        self.assertEqual(len(records), 5)

    @settings(max_examples=60)
    @given(pieces_of_output)
    def test_frames(self, pieces: list[bytes]) -> None:
        """
        Each line is the frame that it is alone; records are full, and what they cost
        is known before they are made.
        """
        lines = b"".join(pieces) + b"\n"
        printed = Printed(lines)

        frames = [output_line(line) for line in lines.split(b"\n")[:-1]]
        self.assertEqual(b"".join(printed.records), b"".join(frames))
        self.assertGreaterEqual(printed.size, sum(map(len, frames)))
        for one, two in pairwise(printed.records):
            first = output_line(payloads(two)[0][2:])
            self.assertGreater(len(one) + len(first), MAX_RECORD)
        self.assertIs(printed.records, printed.records)

    def test_nothing(self) -> None:
        """
        No line is no record.
        """
        self.assertEqual((Printed(b"").records, Printed(b"").size), ([], 0))
